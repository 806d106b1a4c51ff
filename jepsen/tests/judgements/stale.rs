//! Serializable reads, with nodes that fall behind and restart; and convergence.

use holdfast_jepsen::{
    checker::{
        Verdict,
        convergence::{self, NodeState},
        simulator::{Bug, Workload},
        stale::check,
    },
    history::{ClientEvent, Data, History, Kind, Op, Phase, Reply, Value},
};

use crate::{
    accepts_perfect_stores, catches_changes, change_one, convicts, deny, has,
    recorder::{Recorder, version},
};

const READ: Op = Op::Read {
    key: 1,
    serializable: true,
};

fn shown(event: &mut ClientEvent) -> Option<&mut Reply> {
    let is_judged = matches!(
        event.op,
        Op::Read {
            serializable: true,
            ..
        }
    );
    let reply = event.reply.as_mut().filter(|_| is_judged)?;
    matches!(reply.data, Data::Version(Some(_))).then_some(reply)
}

#[test]
fn perfect_stores_are_valid() {
    accepts_perfect_stores(Workload::Stale, check);
}

#[test]
fn nodes_that_go_back_are_told() {
    let names = convicts(
        Workload::Stale,
        Bug::NodesGoBack,
        check,
        &["went-back"],
        0.8,
    );
    assert!(names["went-back"] > 60, "{names:?}");
    let names = convicts(
        Workload::Stale,
        Bug::FailedWrites,
        check,
        &["failed-write-seen"],
        0.2,
    );
    assert!(names["failed-write-seen"] > 10, "{names:?}");
}

#[test]
fn values_that_cannot_be_there_are_named() {
    catches_changes(Workload::Stale, check, "future-value", |history, seed| {
        change_one(history, seed, |event| {
            let Some(reply) = shown(event) else {
                return false;
            };
            if let Data::Version(Some(version)) = &mut reply.data {
                version.value = Value::Number(1_000_000);
            }
            true
        })
    });
    catches_changes(Workload::Stale, check, "future-value", |history, seed| {
        change_one(history, seed, |event| {
            shown(event).map(|reply| reply.revision = 0).is_some()
        })
    });
    catches_changes(
        Workload::Stale,
        check,
        "failed-write-seen",
        |history, seed| {
            let mut value = None;
            change_one(history, seed, |event| {
                let seen = shown(event).map(|reply| reply.data.clone());
                if let Some(Data::Version(Some(version))) = seen {
                    value = Some(version.value);
                }
                value.is_some()
            });
            change_one(history, seed, |event| {
                let Op::Write { value: written, .. } = event.op else {
                    return false;
                };
                let is_it = event.kind == Kind::Ok && value == Some(Value::Number(written));
                if is_it {
                    deny(event);
                }
                is_it
            })
        },
    );
}

/// A write at revision 2 and one at 3, then node 1 shows 3, then `between`, then it shows 2.
fn back(between: impl Fn(&mut Recorder)) -> holdfast_jepsen::checker::Finding {
    let mut recorder = Recorder::default();
    for (value, revision) in [(7, 2), (8, 3)] {
        recorder.done(9, &Op::Write { key: 1, value }, revision, Data::None);
    }
    let read = |recorder: &mut Recorder, value, revision, number| {
        let shown = Data::Version(Some(version(value, 2, revision, number)));
        recorder.client(1, 1, Kind::Invoke, &READ, None);
        let reply = Reply {
            revision,
            data: shown,
        };
        recorder.client(1, 1, Kind::Ok, &READ, Some(reply));
    };
    read(&mut recorder, 8, 3, 2);
    between(&mut recorder);
    read(&mut recorder, 7, 2, 1);
    check(&recorder.history())
}

#[test]
fn only_a_restart_of_the_same_node_excuses_it() {
    let fault = |recorder: &mut Recorder, nemesis: &str, nodes: &[u64]| {
        for phase in [Phase::Begin, Phase::Broken, Phase::Heal, Phase::Healed] {
            recorder.fault(nemesis, 1, phase, nodes);
        }
    };
    assert!(has(&back(|_| {}), "went-back"));
    for nemesis in [
        "partition-one",
        "isolate-one",
        "pause-one",
        "slow-link",
        "reset",
        "clock-skew",
    ] {
        let finding = back(|recorder| fault(recorder, nemesis, &[1]));
        assert!(has(&finding, "went-back"), "{nemesis}: {finding:#?}");
    }
    for nemesis in [
        "kill-leader",
        "restart",
        "power",
        "stop-all",
        "zone-loss",
        "wipe",
        "truncate-log",
        "tear-log",
        "bitflip",
        "flip-bit",
        "full-disk",
        "fsync-fail",
    ] {
        let finding = back(|recorder| fault(recorder, nemesis, &[1]));
        assert_eq!(finding.verdict, Verdict::Valid, "{nemesis}: {finding:#?}");
        let finding = back(|recorder| fault(recorder, nemesis, &[2]));
        assert!(has(&finding, "went-back"), "{nemesis}: {finding:#?}");
    }
}

#[test]
fn reads_while_a_node_restarts_are_not_compared() {
    // The node restarts at some moment between two events, and the reads are between them too.
    let finding = back(|recorder| {
        recorder.fault("restart", 1, Phase::Begin, &[]);
        recorder.client(2, 1, Kind::Invoke, &READ, None);
        let reply = Reply {
            revision: 3,
            data: Data::Version(Some(version(8, 2, 3, 2))),
        };
        recorder.client(2, 1, Kind::Ok, &READ, Some(reply));
    });
    // The fault names no node, so it excuses nobody.
    assert!(has(&finding, "went-back"), "{finding:#?}");

    let mut recorder = Recorder::default();
    for (value, revision) in [(7, 2), (8, 3)] {
        recorder.done(9, &Op::Write { key: 1, value }, revision, Data::None);
    }
    recorder.fault("restart", 1, Phase::Begin, &[]);
    for (value, revision, number) in [(8, 3, 2), (7, 2, 1)] {
        recorder.client(1, 1, Kind::Invoke, &READ, None);
        let reply = Reply {
            revision,
            data: Data::Version(Some(version(value, 2, revision, number))),
        };
        recorder.client(1, 1, Kind::Ok, &READ, Some(reply));
    }
    // The node is known only from a later event of the same fault.
    recorder.fault("restart", 1, Phase::Broken, &[1]);
    let finding = check(&recorder.history());
    assert_eq!(finding.verdict, Verdict::Valid, "{finding:#?}");
}

#[test]
fn histories_without_serializable_reads_are_unknown() {
    let mut recorder = Recorder::default();
    recorder.done(1, &Op::Write { key: 1, value: 1 }, 2, Data::None);
    let linearizable = Op::Read {
        key: 1,
        serializable: false,
    };
    recorder.done(1, &linearizable, 2, Data::Version(None));
    let finding = check(&recorder.history());
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert!(finding.summary.contains("nothing to judge"), "{finding:?}");
}

#[test]
fn nodes_converge_or_not() {
    let check = |states: &[NodeState]| convergence::check(&History::default(), &[1, 2, 3], states);
    let state = |node, revision, hash| NodeState {
        node,
        revision,
        hash,
        compact_revision: 0,
        error: None,
    };
    assert_eq!(check(&[]).verdict, Verdict::Unknown);
    let mut states = vec![state(1, 9, 0xabc), state(2, 9, 0xabc), state(3, 9, 0xabc)];
    let finding = check(&states);
    assert_eq!(finding.verdict, Verdict::Valid);
    assert_eq!(finding.checked, 3);
    // Both of these say that nothing was compacted.
    states[0].compact_revision = -1;
    assert_eq!(check(&states).verdict, Verdict::Valid);

    for change in [
        |state: &mut NodeState| state.hash = 0xabd,
        |state: &mut NodeState| state.revision = 8,
        |state: &mut NodeState| state.compact_revision = 5,
    ] {
        let mut states = states.clone();
        change(&mut states[1]);
        let finding = check(&states);
        assert!(has(&finding, "diverged"), "{finding:#?}");
        let table = &finding.anomalies[0].explanation;
        for node in 1..=3 {
            assert!(table.contains(&format!("node {node}: revision")), "{table}");
        }
    }
    states[2].error = Some("connection refused".to_owned());
    let finding = check(&states);
    assert!(has(&finding, "no-recovery"), "{finding:#?}");
    assert!(!has(&finding, "diverged"), "{finding:#?}");
}

/// The history acknowledges revisions 2 to 30, and three writes have an unknown outcome.
fn of_thirty_revisions() -> History {
    let mut recorder = Recorder::default();
    for revision in 2..=30 {
        let op = Op::Write {
            key: 1,
            value: revision,
        };
        recorder.done(1, &op, revision, Data::None);
    }
    for process in 2..5 {
        let op = Op::Write {
            key: 1,
            value: 100 + process as i64,
        };
        recorder.invoke(process, &op);
        recorder.info(process, &op);
    }
    recorder.history()
}

#[test]
fn nodes_hold_what_the_history_says() {
    let history = of_thirty_revisions();
    let judge = |revision| {
        let states = [1, 2, 3].map(|node| NodeState {
            node,
            revision,
            hash: 7,
            compact_revision: 0,
            error: None,
        });
        convergence::check(&history, &[1, 2, 3], &states)
    };
    // Up to three of unknown outcome may have been made.
    for revision in 30..=33 {
        assert_eq!(judge(revision).verdict, Verdict::Valid, "{revision}");
    }
    for revision in [1, 10, 29] {
        let finding = judge(revision);
        assert!(has(&finding, "behind-history"), "{finding:#?}");
        // The acknowledgement of revision 30.
        assert_eq!(finding.anomalies[0].events, [57]);
    }
    for revision in [34, 9_000] {
        let finding = judge(revision);
        assert!(has(&finding, "ahead-of-history"), "{finding:#?}");
    }
}

#[test]
fn nodes_that_were_not_asked_are_no_pass() {
    let history = of_thirty_revisions();
    let state = |node, revision| NodeState {
        node,
        revision,
        hash: 7,
        compact_revision: 0,
        error: None,
    };
    let finding = convergence::check(&history, &[1, 2, 3], &[]);
    assert_eq!(finding.verdict, Verdict::Unknown);
    let two = [state(1, 30), state(3, 30)];
    let finding = convergence::check(&history, &[1, 2, 3], &two);
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert!(
        finding.summary.contains("not node 2"),
        "{}",
        finding.summary
    );
    // One that is out need not answer.
    let finding = convergence::check(&history, &[1, 3], &two);
    assert_eq!(finding.verdict, Verdict::Valid);
    // What the others say may be wrong already.
    let finding = convergence::check(&history, &[1, 2, 3], &[state(1, 30), state(3, 29)]);
    assert!(has(&finding, "diverged"), "{finding:#?}");
}
