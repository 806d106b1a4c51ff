//! Sets, accounts and counters: perfect stores, broken stores, and answers that were tampered with.

use holdfast_jepsen::{
    checker::{
        Verdict, bank, counter, set,
        simulator::{Bug, Workload},
    },
    history::{ClientEvent, Data, Kind, Op, Value, Version},
};

use crate::{
    accepts_perfect_stores, catches_changes, change_all, change_one, convicts, deny,
    recorder::{Recorder, version},
};

/// The keys that a range read shows.
fn shown(event: &mut ClientEvent) -> Option<&mut Vec<(u64, Version)>> {
    match &mut event.reply.as_mut()?.data {
        Data::Versions(versions) => Some(versions),
        _ => None,
    }
}

fn chain(event: &mut ClientEvent) -> Option<&mut Vec<Version>> {
    match &mut event.reply.as_mut()?.data {
        Data::Chain(chain) => Some(chain),
        _ => None,
    }
}

/// The version that an answer to one of these operations shows.
fn shown_version(event: &mut ClientEvent, is: fn(&Op) -> bool) -> Option<&mut Version> {
    if !is(&event.op) {
        return None;
    }
    match &mut event.reply.as_mut()?.data {
        Data::Version(version) => version.as_mut(),
        _ => None,
    }
}

fn is_increment(op: &Op) -> bool {
    matches!(op, Op::Increment { .. })
}

fn is_counter_read(op: &Op) -> bool {
    matches!(op, Op::ReadCounter { .. })
}

#[test]
fn perfect_stores_are_valid() {
    accepts_perfect_stores(Workload::Set, set::check);
    accepts_perfect_stores(Workload::Bank, bank::check);
    accepts_perfect_stores(Workload::Counter, counter::check);
}

#[test]
fn broken_stores_lose_elements() {
    let names = convicts(Workload::Set, Bug::LostWrites, set::check, &["lost"], 0.95);
    assert!(names["lost"] > 80, "{names:?}");
    let names = convicts(Workload::Set, Bug::StaleReads, set::check, &["stale"], 0.95);
    assert!(names["stale"] > 80, "{names:?}");
    let names = convicts(
        Workload::Set,
        Bug::MissingKeys,
        set::check,
        &["stale"],
        0.95,
    );
    assert!(names["stale"] > 80, "{names:?}");
    let names = convicts(
        Workload::Set,
        Bug::FailedWrites,
        set::check,
        &["failed-add-seen"],
        0.5,
    );
    assert!(names["failed-add-seen"] > 40, "{names:?}");
}

#[test]
fn broken_banks_lose_money() {
    let allowed = ["wrong-total", "negative-balance"];
    let names = convicts(Workload::Bank, Bug::LooseMoney, bank::check, &allowed, 0.95);
    assert!(names["wrong-total"] > 80, "{names:?}");
    assert!(names["negative-balance"] > 20, "{names:?}");
    let allowed = ["missing-account"];
    let names = convicts(
        Workload::Bank,
        Bug::MissingKeys,
        bank::check,
        &allowed,
        0.95,
    );
    assert!(names["missing-account"] > 80, "{names:?}");
}

#[test]
fn broken_counters_miscount() {
    let allowed = ["applied-twice", "excess", "wrong-version"];
    let names = convicts(
        Workload::Counter,
        Bug::RepeatedWrites,
        counter::check,
        &allowed,
        0.95,
    );
    assert!(names["applied-twice"] > 80, "{names:?}");
    let allowed = [
        "lost-increment",
        "duplicate-version",
        "stale-counter",
        "wrong-version",
    ];
    let names = convicts(
        Workload::Counter,
        Bug::LostWrites,
        counter::check,
        &allowed,
        0.9,
    );
    assert!(names["lost-increment"] > 80, "{names:?}");
    let allowed = ["stale-counter"];
    let names = convicts(
        Workload::Counter,
        Bug::StaleReads,
        counter::check,
        &allowed,
        0.9,
    );
    assert!(names["stale-counter"] > 80, "{names:?}");
    let allowed = ["failed-increment-seen", "excess"];
    let names = convicts(
        Workload::Counter,
        Bug::FailedWrites,
        counter::check,
        &allowed,
        0.5,
    );
    assert!(names["failed-increment-seen"] > 40, "{names:?}");
}

#[test]
fn an_element_gone_from_the_last_read_is_lost() {
    catches_changes(Workload::Set, set::check, "lost", |history, seed| {
        let mut acknowledged = Vec::new();
        change_all(history, |event| {
            if let (Op::Add { element, .. }, Kind::Ok) = (&event.op, event.kind) {
                acknowledged.push(*element as u64);
            }
        });
        change_one(history, seed, |event| {
            event.last
                && shown(event).is_some_and(|elements| {
                    let at = elements
                        .iter()
                        .position(|(element, _)| acknowledged.contains(element));
                    at.map(|at| elements.remove(at)).is_some()
                })
        })
    });
}

#[test]
fn elements_that_cannot_be_there_are_named() {
    catches_changes(Workload::Set, set::check, "unexpected", |history, seed| {
        change_one(history, seed, |event| {
            shown(event).is_some_and(|elements| {
                elements.push((1_000_000, version(1_000_000, 2, 2, 1)));
                true
            })
        })
    });
    catches_changes(Workload::Set, set::check, "unexpected", |history, _| {
        // The first read shows what is added after it.
        let mut read = None;
        let mut later = Vec::new();
        change_all(history, |event| match (&event.op, event.kind) {
            (Op::ReadSet { set }, Kind::Ok) if read.is_none() => read = Some(*set),
            (Op::Add { set, element }, Kind::Invoke) if read == Some(*set) => later.push(*element),
            (Op::Add { element, .. }, Kind::Fail) => later.retain(|later| later != element),
            _ => {}
        });
        let Some(later) = later.first().copied() else {
            return false;
        };
        let mut is_first = true;
        change_all(history, |event| {
            if is_first && let Some(elements) = shown(event) {
                elements.push((later as u64, version(later, 2, 2, 1)));
                is_first = false;
            }
        });
        !is_first
    });
    catches_changes(
        Workload::Set,
        set::check,
        "failed-add-seen",
        |history, seed| {
            change_one(history, seed, |event| {
                let is_add = matches!(event.op, Op::Add { .. }) && event.kind == Kind::Ok;
                if is_add {
                    deny(event);
                }
                is_add
            })
        },
    );
}

#[test]
fn readings_that_do_not_add_up_are_named() {
    let is_reading = |event: &ClientEvent| event.op == Op::ReadAccounts && event.kind == Kind::Ok;
    catches_changes(
        Workload::Bank,
        bank::check,
        "wrong-total",
        |history, seed| {
            change_one(history, seed, |event| {
                if !is_reading(event) {
                    return false;
                }
                let accounts = shown(event).expect("a reading shows accounts");
                accounts[0].1.value = match accounts[0].1.value {
                    Value::Number(held) => Value::Number(held + 1),
                    Value::List(_) => unreachable!("balances are numbers"),
                };
                true
            })
        },
    );
    catches_changes(
        Workload::Bank,
        bank::check,
        "missing-account",
        |history, seed| {
            change_one(history, seed, |event| {
                is_reading(event) && shown(event).and_then(Vec::pop).is_some()
            })
        },
    );
    catches_changes(
        Workload::Bank,
        bank::check,
        "negative-balance",
        |history, seed| {
            change_one(history, seed, |event| {
                if !is_reading(event) {
                    return false;
                }
                let accounts = shown(event).expect("a reading shows accounts");
                let Value::Number(held) = accounts[0].1.value else {
                    unreachable!("balances are numbers")
                };
                let Value::Number(other) = accounts[1].1.value else {
                    unreachable!("balances are numbers")
                };
                accounts[0].1.value = Value::Number(-1);
                accounts[1].1.value = Value::Number(other + held + 1);
                true
            })
        },
    );
    catches_changes(
        Workload::Bank,
        bank::check,
        "wrong-total",
        |history, seed| {
            change_one(history, seed, |event| {
                let is_transfer = matches!(event.op, Op::Transfer { .. }) && event.kind == Kind::Ok;
                if is_transfer && let Some(accounts) = shown(event) {
                    accounts[0].1.value = Value::Number(1_000_000);
                    accounts[1].1.value = Value::Number(1_000_000);
                }
                is_transfer
            })
        },
    );
}

#[test]
fn chains_that_were_tampered_with_are_named() {
    let check = counter::check;
    catches_changes(
        Workload::Counter,
        check,
        "applied-twice",
        |history, seed| {
            change_one(history, seed, |event| {
                chain(event).is_some_and(|chain| {
                    let long = chain.len() > 1;
                    if long {
                        chain[0].value = chain[1].value.clone();
                    }
                    long
                })
            })
        },
    );
    catches_changes(
        Workload::Counter,
        check,
        "lost-increment",
        |history, seed| {
            let mut acknowledged = Vec::new();
            change_all(history, |event| {
                if let (Op::Increment { id, .. }, Kind::Ok) = (&event.op, event.kind) {
                    acknowledged.push(*id);
                }
            });
            change_one(history, seed, |event| {
                chain(event).is_some_and(|chain| {
                    let at = chain.iter().position(|version| {
                    matches!(version.value, Value::Number(id) if acknowledged.contains(&id))
                });
                    let Some(at) = at else {
                        return false;
                    };
                    chain.remove(at);
                    for newer in &mut chain[..at] {
                        newer.version -= 1;
                    }
                    true
                })
            })
        },
    );
    catches_changes(
        Workload::Counter,
        check,
        "failed-increment-seen",
        |history, seed| {
            change_one(history, seed, |event| {
                let is_ok = is_increment(&event.op) && event.kind == Kind::Ok;
                if is_ok {
                    deny(event);
                }
                is_ok
            })
        },
    );
    catches_changes(Workload::Counter, check, "broken-chain", |history, seed| {
        change_one(history, seed, |event| {
            chain(event).is_some_and(|chain| chain.len() > 2 && chain.remove(1).version > 0)
        })
    });
    catches_changes(
        Workload::Counter,
        check,
        "unexpected-increment",
        |history, seed| {
            change_one(history, seed, |event| {
                chain(event).is_some_and(|chain| {
                    chain
                        .first_mut()
                        .map(|version| version.value = Value::Number(1_000_000))
                        .is_some()
                })
            })
        },
    );
}

#[test]
fn versions_that_cannot_be_are_named() {
    let check = counter::check;
    catches_changes(Workload::Counter, check, "excess", |history, seed| {
        change_one(history, seed, |event| {
            let read = shown_version(event, is_counter_read);
            read.map(|version| version.version += 100).is_some()
        })
    });
    catches_changes(
        Workload::Counter,
        check,
        "stale-counter",
        |history, seed| {
            change_one(history, seed, |event| {
                let is_last = event.last;
                is_last
                    && shown_version(event, is_counter_read)
                        .is_some_and(|version| version.version > 1)
                    && shown_version(event, is_counter_read)
                        .map(|version| version.version = 1)
                        .is_some()
            })
        },
    );
    catches_changes(
        Workload::Counter,
        check,
        "duplicate-version",
        |history, seed| {
            let mut first = None;
            change_one(history, seed, |event| {
                let Op::Increment { key, .. } = event.op else {
                    return false;
                };
                let Some(version) = shown_version(event, is_increment) else {
                    return false;
                };
                match &first {
                    None => {
                        first = Some((key, version.version));
                        false
                    }
                    Some((of, number)) => {
                        let same = *of == key;
                        if same {
                            version.version = *number;
                        }
                        same
                    }
                }
            })
        },
    );
}

#[test]
fn a_chain_that_was_compacted_says_nothing_of_what_it_lacks() {
    let put = |id| Op::Increment { key: 1, id };
    let mut recorder = Recorder::default();
    for id in 1..=3 {
        let before = (id > 1).then(|| version(id - 1, 2, id, id - 1));
        recorder.done(1, &put(id), id + 1, Data::Version(before));
    }
    let chain = vec![version(3, 2, 4, 3), version(2, 2, 3, 2)];
    recorder.done(2, &Op::ReadChain { key: 1 }, 4, Data::Chain(chain));
    let finding = counter::check(&recorder.history());
    assert_eq!(finding.verdict, Verdict::Valid, "{finding:#?}");
}

#[test]
fn histories_without_anything_to_judge_are_unknown() {
    let empty = Recorder::default().history();
    for finding in [
        set::check(&empty),
        bank::check(&empty),
        counter::check(&empty),
    ] {
        assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
        assert!(finding.summary.contains("nothing to judge"), "{finding:?}");
    }
    let mut recorder = Recorder::default();
    let add = Op::Add { set: 0, element: 1 };
    recorder.done(1, &add, 2, Data::None);
    let increment = Op::Increment { key: 0, id: 1 };
    recorder.invoke(1, &increment);
    recorder.info(1, &increment);
    let transfer = Op::Transfer {
        from: 0,
        to: 1,
        amount: 5,
    };
    recorder.invoke(2, &transfer);
    recorder.fail(2, &transfer);
    let history = recorder.history();
    for finding in [
        set::check(&history),
        bank::check(&history),
        counter::check(&history),
    ] {
        assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
        assert!(finding.checked == 1, "{finding:?}");
    }
}
