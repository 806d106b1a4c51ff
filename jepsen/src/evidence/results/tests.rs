//! What makes a run a pass, and what does not.

use super::*;
use crate::{
    checker::Anomaly,
    history::{ClientEvent, Event, FaultEvent, Kind, Op, Phase, Reply, What},
};

fn run(nemeses: &[&str]) -> Run {
    Run {
        workload: "register".to_owned(),
        nemeses: nemeses.iter().map(|name| (*name).to_owned()).collect(),
        options: [("rate".to_owned(), "100".to_owned())].into(),
        seed: u64::MAX,
        command: "holdfast-jepsen run --workload register".to_owned(),
        cluster: Description {
            kind: "local".to_owned(),
            target: "holdfast".to_owned(),
            version: String::new(),
        },
        nodes: vec![],
        started_at: "2026-03-01T12:00:00Z".to_owned(),
        duration_seconds: 60.5,
        began_unix_ms: 1_764_000_000_000,
        leaders: Vec::new(),
        groups: Vec::new(),
        expected: Expected::default(),
    }
}

/// One successful write, and faults that go through these phases.
fn history(faults: &[(&str, &[Phase])]) -> History {
    let mut whats: Vec<What> = [Kind::Invoke, Kind::Ok]
        .map(|kind| {
            What::Client(ClientEvent {
                process: 1,
                node: 1,
                kind,
                op: Op::Write { key: 1, value: 1 },
                reply: (kind == Kind::Ok).then(Reply::default),
                error: None,
                last: false,
            })
        })
        .into();
    for (number, (nemesis, phases)) in faults.iter().enumerate() {
        for phase in *phases {
            whats.push(What::Fault(FaultEvent {
                nemesis: (*nemesis).to_owned(),
                fault: number as u64 + 1,
                phase: *phase,
                nodes: vec![],
                detail: format!("because {phase:?}"),
            }));
        }
    }
    let events = whats.into_iter().zip(0..);
    History {
        events: events
            .map(|(what, index)| Event {
                index,
                time: index,
                what,
            })
            .collect(),
    }
}

const MADE: &[Phase] = &[Phase::Begin, Phase::Broken, Phase::Heal, Phase::Healed];
const SKIPPED: &[Phase] = &[Phase::Begin, Phase::Skipped];

fn valid() -> Finding {
    Finding::new("revision", 10, "10 operations", vec![])
}

fn unknown() -> Finding {
    Finding::unknown("linearizability", 4, "out of time")
}

fn invalid() -> Finding {
    let anomaly = Anomaly {
        name: "stale-read".to_owned(),
        explanation: String::new(),
        events: vec![],
        edges: vec![],
    };
    Finding::new("register", 12, "", vec![anomaly])
}

/// Verdict and reasons of a run.
fn judged(
    nemeses: &[&str],
    faults: &[(&str, &[Phase])],
    findings: Vec<Finding>,
) -> (Verdict, Vec<String>) {
    let results = Results::new(run(nemeses), &history(faults), findings);
    assert_eq!(results.exit_code, exit_code(results.verdict()));
    (results.verdict(), results.reasons)
}

#[test]
fn the_worst_finding_decides() {
    let valid_run = judged(&["kill"], &[("kill", MADE)], vec![valid(), valid()]);
    assert_eq!(valid_run, (Verdict::Valid, vec![]));
    let (verdict, reasons) = judged(&[], &[], vec![valid(), unknown()]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(reasons, ["linearizability: out of time"]);
    let (verdict, reasons) = judged(&[], &[], vec![unknown(), invalid(), valid()]);
    assert_eq!(verdict, Verdict::Invalid);
    assert_eq!(reasons[1], "register: 1 anomaly found");
    assert_eq!(
        [Verdict::Valid, Verdict::Invalid, Verdict::Unknown].map(exit_code),
        [0, 1, 2]
    );
}

#[test]
fn a_run_whose_faults_were_not_made_is_no_pass() {
    let (verdict, reasons) = judged(&["kill", "fill"], &[("fill", SKIPPED)], vec![valid()]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(
        reasons,
        ["faults were asked for (kill, fill) and none was made (because Skipped)"]
    );
    let both: &[(&str, &[Phase])] = &[("kill", MADE), ("fill", SKIPPED)];
    let (verdict, reasons) = judged(&["kill", "fill"], both, vec![valid()]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(
        reasons,
        ["fill was asked for and never made (because Skipped)"]
    );
    // Made, and seen to have no effect.
    let nothing: &[Phase] = &[
        Phase::Begin,
        Phase::Broken,
        Phase::Disproved,
        Phase::Heal,
        Phase::Healed,
    ];
    let (verdict, reasons) = judged(&["kill"], &[("kill", nothing)], vec![valid()]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(
        reasons,
        ["faults were asked for (kill) and none was made (because Disproved)"]
    );
    // Skipped once, made once.
    let twice: &[(&str, &[Phase])] = &[("kill", SKIPPED), ("kill", MADE)];
    assert_eq!(judged(&["kill"], twice, vec![valid()]).0, Verdict::Valid);
    // It does not excuse what is invalid.
    let (verdict, _) = judged(&["kill"], &[], vec![invalid()]);
    assert_eq!(verdict, Verdict::Invalid);
}

#[test]
fn a_run_that_went_wrong_is_no_pass() {
    let stuck: &[Phase] = &[Phase::Begin, Phase::Broken];
    let (verdict, reasons) = judged(&["kill"], &[("kill", stuck)], vec![valid()]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(reasons, ["fault 1 (kill) was never healed"]);
    let failed: &[Phase] = &[Phase::Begin, Phase::Broken, Phase::Heal, Phase::Error];
    let (verdict, reasons) = judged(&["kill"], &[("kill", failed)], vec![valid()]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(reasons, ["fault 1 (kill) went wrong: because Error"]);

    let (verdict, reasons) = judged(&[], &[], vec![]);
    assert_eq!(verdict, Verdict::Unknown);
    assert_eq!(reasons, ["no checker looked at the history"]);

    let results = Results::new(run(&[]), &History::default(), vec![valid()]);
    assert_eq!(results.verdict(), Verdict::Unknown);
    assert_eq!(results.reasons, ["no operation of the load succeeded"]);

    let mut malformed = history(&[]);
    malformed.events.remove(0);
    let results = Results::new(run(&[]), &malformed, vec![valid()]);
    assert_eq!(results.verdict(), Verdict::Unknown);
    assert!(
        results
            .reasons
            .last()
            .unwrap()
            .starts_with("the history is malformed")
    );

    let mut results = Results::new(run(&[]), &history(&[]), vec![valid()]);
    assert_eq!(results.verdict(), Verdict::Valid);
    results.doubt("the nodes did not come back");
    assert_eq!(
        (results.verdict(), results.exit_code),
        (Verdict::Unknown, 2)
    );
    let mut results = Results::new(run(&[]), &history(&[]), vec![invalid()]);
    results.doubt("the nodes did not come back");
    assert_eq!(
        (results.verdict(), results.exit_code),
        (Verdict::Invalid, 1)
    );
}

#[test]
fn results_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.json");
    let faults: &[(&str, &[Phase])] = &[("kill", MADE), ("fill", SKIPPED)];
    let results = Results::new(run(&["kill"]), &history(faults), vec![valid(), invalid()]);
    results.write(&path).unwrap();
    let read = Results::read(&path).unwrap();
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        serde_json::to_value(&results).unwrap()
    );
    assert_eq!(read.run.seed, u64::MAX);
    assert_eq!(read.checked(), 12);
    assert_eq!(read.faults.by_nemesis["fill"].skipped, 1);
    assert_eq!(read.faults.total.applied, 1);

    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 99")).unwrap();
    let error = Results::read(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("99"), "{error}");
    fs::write(&path, &text[..100]).unwrap();
    assert_eq!(
        Results::read(&path).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
}

#[test]
fn a_loss_is_a_number_a_bound_or_not_known() {
    let lost = |history: &History, finding: Finding| {
        let results = Results::new(run(&[]), history, vec![finding]);
        assert_eq!(results.lost, results.loss.count);
        results.lost_words()
    };
    // The load alone: a write at revision 7 after one at revision 9.
    let mut history = history(&[]);
    assert_eq!(lost(&history, invalid()), "not known");
    let What::Client(client) = &mut history.events[1].what else {
        panic!("the events are a client's")
    };
    client.reply = Some(Reply {
        revision: 9,
        data: Default::default(),
    });
    assert_eq!(lost(&history, valid()), "none seen");
    assert_eq!(lost(&history, invalid()), "not known");
    let mut named = invalid();
    named.anomalies[0].name = "lost-write".to_owned();
    assert_eq!(lost(&history, named), "at least 1");
    let again = history.events.clone();
    for mut event in again {
        event.index += 2;
        if let What::Client(client) = &mut event.what {
            client.op = Op::Write { key: 1, value: 2 };
            if let Some(reply) = &mut client.reply {
                reply.revision = 7;
            }
        }
        event.time += 2;
        history.events.push(event);
    }
    assert_eq!(lost(&history, invalid()), "at least 1");
    // Read when all is over: the second write is there, so the first one is not.
    for (index, kind) in [(4, Kind::Invoke), (5, Kind::Ok)] {
        let version = crate::history::Version {
            value: crate::history::Value::Number(2),
            create: 7,
            modified: 7,
            version: 1,
        };
        history.events.push(Event {
            index,
            time: index,
            what: What::Client(ClientEvent {
                process: 1,
                node: 1,
                kind,
                op: Op::Read {
                    key: 1,
                    serializable: false,
                },
                reply: (kind == Kind::Ok).then_some(Reply {
                    revision: 7,
                    data: crate::history::Data::Version(Some(version)),
                }),
                error: None,
                last: true,
            }),
        });
    }
    assert_eq!(lost(&history, invalid()), "1");
}
