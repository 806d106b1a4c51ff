//! Transactions on lists: perfect stores, broken stores, and answers that were tampered with.

use holdfast_jepsen::{
    checker::{
        Verdict,
        append::check,
        simulator::{Bug, Simulation, Workload},
    },
    history::{ClientEvent, Data, Key, Kind, Op, Step},
};

use crate::{
    accepts_perfect_stores, catches_changes, change_all, change_one, convicts, deny, has,
    recorder::Recorder, simulation,
};

/// Every name that the checker has for a cycle.
fn cycles() -> Vec<String> {
    ["G0", "G1c", "G-single", "G2"]
        .iter()
        .flat_map(|class| ["", "-process", "-realtime"].map(|time| format!("{class}{time}")))
        .collect()
}

fn with_cycles<'a>(others: &[&'a str], cycles: &'a [String]) -> Vec<&'a str> {
    let mut names = others.to_vec();
    names.extend(cycles.iter().map(String::as_str));
    names
}

/// The reads of an acknowledged transaction.
fn reads(event: &mut ClientEvent) -> Vec<(Key, &mut Vec<i64>)> {
    let Op::Txn { steps } = &event.op else {
        return Vec::new();
    };
    let Some(reply) = &mut event.reply else {
        return Vec::new();
    };
    let Data::Steps(answers) = &mut reply.data else {
        return Vec::new();
    };
    steps
        .iter()
        .zip(answers)
        .filter_map(|(step, answer)| match (step, answer) {
            (Step::Read { key }, Some(list)) => Some((*key, list)),
            _ => None,
        })
        .collect()
}

fn appends(event: &ClientEvent) -> Vec<(Key, i64)> {
    let Op::Txn { steps } = &event.op else {
        return Vec::new();
    };
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Append { key, value } => Some((*key, *value)),
            Step::Read { .. } => None,
        })
        .collect()
}

#[test]
fn perfect_stores_are_valid() {
    accepts_perfect_stores(Workload::Append, check);
}

#[test]
fn stale_reads_are_cycles_with_time() {
    let names = convicts(
        Workload::Append,
        Bug::StaleReads,
        check,
        &[
            "G-single-process",
            "G-single-realtime",
            "G-single",
            "G2",
            "G2-process",
            "G2-realtime",
        ],
        0.9,
    );
    assert!(names["G-single-realtime"] > 20, "{names:?}");
    assert!(names["G-single-process"] > 20, "{names:?}");
}

#[test]
fn lost_writes_are_lost_appends() {
    let cycles = cycles();
    let allowed = with_cycles(
        &["lost-append", "lost-update", "incompatible-order"],
        &cycles,
    );
    let names = convicts(Workload::Append, Bug::LostWrites, check, &allowed, 0.9);
    assert!(names["lost-append"] > 80, "{names:?}");
}

#[test]
fn writes_of_failed_transactions_are_aborted_reads() {
    let names = convicts(Workload::Append, Bug::FailedWrites, check, &["G1a"], 0.7);
    assert!(names["G1a"] > 60, "{names:?}");
}

#[test]
fn blind_updates_are_lost_updates() {
    let cycles = cycles();
    let allowed = with_cycles(
        &[
            "lost-append",
            "lost-update",
            "incompatible-order",
            "phantom-element",
        ],
        &cycles,
    );
    let names = convicts(Workload::Append, Bug::BlindUpdates, check, &allowed, 0.9);
    assert!(names["lost-update"] > 40, "{names:?}");
    assert!(names["incompatible-order"] > 50, "{names:?}");
}

#[test]
fn snapshot_isolation_is_write_skew() {
    let cycles = cycles();
    let allowed = with_cycles(&[], &cycles);
    let names = convicts(Workload::Append, Bug::Snapshots, check, &allowed, 0.5);
    assert!(names["G2"] > 20, "{names:?}");
    // It never lets two transactions write over each other, nor shows what is not committed.
    for name in ["G0", "G1c", "lost-update"] {
        assert!(!names.contains_key(name), "{names:?}");
    }
}

#[test]
fn half_transactions_are_not_isolated() {
    let cycles = cycles();
    let allowed = with_cycles(&["G1b", "internal", "lost-update"], &cycles);
    let names = convicts(
        Workload::Append,
        Bug::HalfTransactions,
        check,
        &allowed,
        0.9,
    );
    for name in ["G1b", "internal", "G0", "G1c", "G-single"] {
        assert!(names.contains_key(name), "{name}: {names:?}");
    }
}

#[test]
fn an_append_gone_from_every_read_is_lost() {
    catches_changes(Workload::Append, check, "lost-append", |history, seed| {
        let mut gone = None;
        let chosen = change_one(history, seed, |event| {
            gone = (event.kind == Kind::Ok)
                .then(|| appends(event).first().copied())
                .flatten();
            gone.is_some()
        });
        change_all(history, |event| {
            for (key, list) in reads(event) {
                list.retain(|element| Some((key, *element)) != gone);
            }
        });
        chosen
    });
}

#[test]
fn an_element_of_a_failed_transaction_is_an_aborted_read() {
    catches_changes(Workload::Append, check, "G1a", |history, seed| {
        // It must not be able to read its own element: then nobody else may have.
        change_one(history, seed, |event| {
            let is_blind = reads(event).is_empty() && !appends(event).is_empty();
            let denied = event.kind == Kind::Ok && is_blind;
            if denied {
                deny(event);
            }
            denied
        })
    });
}

#[test]
fn a_read_that_ends_within_a_transaction_is_intermediate() {
    catches_changes(Workload::Append, check, "G1b", |history, seed| {
        let mut pair = None;
        let found = change_one(history, seed, |event| {
            let appends = appends(event);
            pair = appends.iter().enumerate().find_map(|(at, first)| {
                let second = appends[at + 1..]
                    .iter()
                    .find(|second| second.0 == first.0)?;
                Some((first.0, first.1, second.1))
            });
            event.kind == Kind::Ok && pair.is_some()
        });
        let Some((of, first, _)) = pair.filter(|_| found) else {
            return false;
        };
        change_one(history, seed, |event| {
            if !event.last {
                return false;
            }
            reads(event).into_iter().any(|(key, list)| {
                let at = list.iter().position(|element| *element == first);
                if let Some(at) = at.filter(|_| key == of) {
                    list.truncate(at + 1);
                    return true;
                }
                false
            })
        })
    });
}

#[test]
fn an_element_from_nowhere_is_a_phantom() {
    catches_changes(
        Workload::Append,
        check,
        "phantom-element",
        |history, seed| {
            change_one(history, seed, |event| {
                event.last
                    && reads(event).into_iter().any(|(_, list)| {
                        list.push(1_000_000);
                        true
                    })
            })
        },
    );
}

#[test]
fn an_element_that_is_there_twice_is_a_duplicate() {
    catches_changes(
        Workload::Append,
        check,
        "duplicate-elements",
        |history, seed| {
            change_one(history, seed, |event| {
                event.last
                    && reads(event).into_iter().any(|(_, list)| {
                        let first = list.first().copied();
                        list.extend(first);
                        first.is_some()
                    })
            })
        },
    );
}

#[test]
fn reads_in_different_orders_are_incompatible() {
    catches_changes(
        Workload::Append,
        check,
        "incompatible-order",
        |history, seed| {
            change_one(history, seed, |event| {
                event.last
                    && reads(event).into_iter().any(|(_, list)| {
                        let long = list.len() > 3;
                        if long {
                            list.swap(0, 1);
                        }
                        long
                    })
            })
        },
    );
}

#[test]
fn a_transaction_that_reads_less_than_it_appended_is_internally_wrong() {
    catches_changes(Workload::Append, check, "internal", |history, seed| {
        change_one(history, seed, |event| {
            let own = appends(event);
            reads(event).into_iter().any(|(key, list)| {
                let last = list.last().copied();
                let is_own = last.is_some_and(|last| own.contains(&(key, last)));
                if is_own {
                    list.pop();
                }
                is_own
            })
        })
    });
}

#[test]
fn histories_without_anything_to_judge_are_unknown() {
    let finding = check(&Recorder::default().history());
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert!(finding.summary.contains("nothing to judge"), "{finding:?}");

    let txn = |steps| Op::Txn { steps };
    let append = |value| txn(vec![Step::Append { key: 1, value }]);
    let mut recorder = Recorder::default();
    for (process, value) in [(1, 1), (2, 2)] {
        recorder.invoke(process, &append(value));
        recorder.info(process, &append(value));
    }
    assert_eq!(check(&recorder.history()).verdict, Verdict::Unknown);

    let mut recorder = Recorder::default();
    recorder.done(1, &append(1), 2, Data::Steps(vec![None]));
    recorder.done(1, &append(1), 3, Data::Steps(vec![None]));
    let finding = check(&recorder.history());
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert!(finding.summary.contains("unique"), "{finding:?}");

    let mut recorder = Recorder::default();
    recorder.done(1, &append(1), 2, Data::Count(1));
    let finding = check(&recorder.history());
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert!(finding.summary.contains("does not fit"), "{finding:?}");
}

#[test]
fn a_store_broken_all_over_is_judged_all_the_same() {
    for bug in [
        Bug::StaleReads,
        Bug::Snapshots,
        Bug::BlindUpdates,
        Bug::HalfTransactions,
    ] {
        let simulation = Simulation {
            clients: 20,
            operations: 3_000,
            keys: 3,
            unknown: 0.05,
            ..simulation(Workload::Append, 1, bug)
        };
        let (history, _) = simulation.strike();
        let finding = check(&history);
        assert_eq!(finding.verdict, Verdict::Invalid, "{bug:?}: {finding:#?}");
        assert!(!finding.anomalies.is_empty());
        // The smallest proof comes first, and is small.
        assert!(
            finding.anomalies[0].events.len() <= 2,
            "{bug:?}: {finding:#?}"
        );
        assert!(!has(&finding, "phantom-element"), "{bug:?}: {finding:#?}");
    }
}
