//! What is expected is judged, and what is not as it should be is found.

use super::*;
use crate::{
    checker::Verdict,
    cluster::{Description, Node},
    evidence::{Results, leadership::Leadership},
    history::{ClientEvent, Event, FaultEvent, Op, Phase, Reply, What},
};

const SECOND: u64 = 1_000_000_000;
const STEADY: Expected = Expected {
    steady: true,
    answered: false,
    replaced_within_ms: None,
};

fn led(group: &str, seconds: f64, leader: impl Into<Option<NodeId>>, term: u64) -> GroupLeadership {
    GroupLeadership {
        group: group.to_owned(),
        led: Leadership {
            at_ns: (seconds * SECOND as f64) as u64,
            leader: leader.into(),
            term,
        },
    }
}

fn write(history: &mut History, seconds: (f64, f64), kind: Kind, error: Option<&str>) {
    let process = history.events.len() as u64;
    for (at, kind) in [(seconds.0, Kind::Invoke), (seconds.1, kind)] {
        event(
            history,
            at,
            What::Client(ClientEvent {
                process,
                node: 1,
                kind,
                op: Op::Write { key: 1, value: 1 },
                reply: (kind == Kind::Ok).then(Reply::default),
                error: error.filter(|_| kind != Kind::Invoke).map(str::to_owned),
                last: false,
            }),
        );
    }
}

fn fault(history: &mut History, nemesis: &str, nodes: &[NodeId], (from, to): (f64, f64)) {
    for (at, phase) in [
        (from, Phase::Begin),
        (from, Phase::Broken),
        (to, Phase::Heal),
        (to, Phase::Healed),
    ] {
        event(
            history,
            at,
            What::Fault(FaultEvent {
                nemesis: nemesis.to_owned(),
                fault: 1,
                phase,
                nodes: nodes.to_vec(),
                detail: String::new(),
            }),
        );
    }
}

fn event(history: &mut History, seconds: f64, what: What) {
    history.events.push(Event {
        index: 0,
        time: (seconds * SECOND as f64) as u64,
        what,
    });
}

/// The events in the order of their times, with a write in the beginning and in the end.
fn complete(mut history: History) -> History {
    write(&mut history, (0.0, 0.01), Kind::Ok, None);
    write(&mut history, (19.9, 20.0), Kind::Ok, None);
    history.events.sort_by_key(|event| event.time);
    for (index, event) in history.events.iter_mut().enumerate() {
        event.index = index as u64;
    }
    history
}

fn run(expected: Expected, groups: Vec<GroupLeadership>) -> Run {
    let nodes = (1..=3).map(|id| Node {
        id,
        zone: String::new(),
        endpoint: String::new(),
        direct: String::new(),
    });
    Run {
        workload: "register".to_owned(),
        nemeses: Vec::new(),
        options: Default::default(),
        seed: 1,
        command: String::new(),
        cluster: Description {
            kind: "local".to_owned(),
            target: "holdfast".to_owned(),
            version: String::new(),
        },
        nodes: nodes.collect(),
        started_at: String::new(),
        duration_seconds: 20.0,
        began_unix_ms: 0,
        leaders: Vec::new(),
        groups,
        expected,
    }
}

/// Verdict and names of the anomalies of a whole run.
fn judged(
    expected: Expected,
    groups: Vec<GroupLeadership>,
    history: History,
) -> (Verdict, Vec<String>) {
    let results = Results::new(run(expected, groups), &complete(history), Vec::new());
    let finding = results.findings.first();
    let names = finding.map(|finding| finding.anomalies.iter().map(|a| a.name.clone()).collect());
    (results.verdict(), names.unwrap_or_default())
}

fn valid() -> (Verdict, Vec<String>) {
    (Verdict::Valid, Vec::new())
}

fn invalid(anomaly: &str) -> (Verdict, Vec<String>) {
    (Verdict::Invalid, vec![anomaly.to_owned()])
}

#[test]
fn a_leader_that_nothing_was_wrong_with_must_not_be_deposed() {
    let before = led("default", 0.0, 1, 3);
    let quiet = || vec![before.clone(), led("system", 0.0, 2, 1)];
    assert_eq!(judged(STEADY, quiet(), History::default()), valid());
    for after in [
        led("default", 9.0, 2, 4),
        // An election that the same node wins, and one that nobody wins.
        led("default", 9.0, 1, 4),
        led("default", 9.0, None, 4),
        led("system", 9.0, 3, 2),
    ] {
        let mut groups = quiet();
        groups.push(after);
        let judged = judged(STEADY, groups, History::default());
        assert_eq!(judged, invalid("deposed"));
    }
}

#[test]
fn that_the_leader_is_not_known_for_a_while_is_no_election() {
    let groups = vec![
        led("default", 0.0, 1, 3),
        led("default", 5.0, None, 3),
        led("default", 6.0, 1, 3),
    ];
    assert_eq!(judged(STEADY, groups, History::default()), valid());
}

/// What becomes of an election at 5.3 s that deposes node 1, beside a fault from 5 to 9 s.
fn beside(nemesis: &str, nodes: &[NodeId]) -> (Verdict, Vec<String>) {
    let mut history = History::default();
    fault(&mut history, nemesis, nodes, (5.0, 9.0));
    let groups = vec![
        led("default", 0.0, 1, 3),
        led("default", 5.1, None, 3),
        led("default", 5.3, 2, 4),
    ];
    judged(STEADY, groups, history)
}

#[test]
fn a_leader_that_a_fault_has_taken_may_be_replaced() {
    assert_eq!(beside("kill-leader-silently", &[1]), valid());
    assert_eq!(beside("partition-leader", &[1]), valid());
    assert_eq!(beside("move-leader", &[2]), valid());
    assert_eq!(beside("stall-leader-disk", &[1]), valid());
    for another in ["kill-one", "stall-one-disk", "restart-one"] {
        assert_eq!(beside(another, &[2]), invalid("deposed"), "{another}");
    }
}

#[test]
fn a_link_that_is_cut_in_one_direction_is_no_excuse() {
    for nemesis in [
        "direction-followers",
        "direction-from-leader",
        "direction-to-leader",
        "partition-direction",
        "busy-machine",
    ] {
        let nodes: &[NodeId] = if nemesis == "busy-machine" {
            &[]
        } else {
            &[1, 2]
        };
        assert_eq!(beside(nemesis, nodes), invalid("deposed"), "{nemesis}");
    }
}

#[test]
fn a_fault_excuses_nothing_after_its_end_or_before_its_begin() {
    let mut history = History::default();
    fault(&mut history, "kill-leader", &[1], (5.0, 9.0));
    for at in [4.9, 11.5] {
        let groups = vec![led("default", 0.0, 1, 3), led("default", at, 2, 4)];
        let judged = judged(STEADY, groups, history.clone());
        assert_eq!(judged, invalid("deposed"), "{at}");
    }
}

#[test]
fn who_replaced_a_dead_leader_is_as_safe_as_that_one_was() {
    let mut history = History::default();
    fault(&mut history, "kill-leader-silently", &[1], (5.0, 9.0));
    let groups = vec![
        led("default", 0.0, 1, 3),
        led("default", 5.4, 2, 4),
        led("default", 7.0, 3, 5),
    ];
    assert_eq!(judged(STEADY, groups, history), invalid("deposed"));
}

#[test]
fn nobody_who_tells_leaders_is_no_pass() {
    let (verdict, anomalies) = judged(STEADY, Vec::new(), History::default());
    assert_eq!((verdict, anomalies.len()), (Verdict::Unknown, 0));
}

#[test]
fn a_request_that_fails_is_found_and_one_that_is_refused_has_not_failed() {
    let answered = Expected {
        answered: true,
        ..Expected::default()
    };
    let ended = |kind, error: Option<&str>| {
        let mut history = History::default();
        write(&mut history, (3.0, 4.0), kind, error);
        judged(answered, Vec::new(), history)
    };
    let refusal = crate::workload::store::REFUSALS[0];
    assert_eq!(ended(Kind::Ok, None), valid());
    assert_eq!(ended(Kind::Fail, Some(refusal)), valid());
    assert_eq!(ended(Kind::Fail, Some("no leader")), invalid("unanswered"));
    assert_eq!(ended(Kind::Info, Some("timeout")), invalid("unanswered"));
}

#[test]
fn a_leader_must_be_replaced_in_time() {
    let within = Expected {
        replaced_within_ms: Some(2_000),
        ..Expected::default()
    };
    let first_write = |nemesis: &str, nodes: &[NodeId], at: f64| {
        let mut history = History::default();
        fault(&mut history, nemesis, nodes, (5.0, 15.0));
        // One that was under way says nothing.
        write(&mut history, (4.9, 5.2), Kind::Ok, None);
        write(&mut history, (5.1, at), Kind::Ok, None);
        judged(within, Vec::new(), history)
    };
    let silently = "kill-leader-silently";
    assert_eq!(first_write(silently, &[1], 6.9), valid());
    assert_eq!(first_write(silently, &[1], 7.1), invalid("replaced-late"));
    // Without a majority nothing is replaced.
    assert_eq!(first_write("kill-majority", &[1, 2], 7.1), valid());
}

#[test]
fn what_is_expected_is_spelled_as_it_is_read() {
    for text in [
        "nothing",
        "steady",
        "steady,answered",
        "answered,replaced-within=2000ms",
    ] {
        assert_eq!(text.parse::<Expected>().unwrap().to_string(), text);
    }
    let bound: Expected = "replaced-within=1s500ms".parse().unwrap();
    assert_eq!(bound.replaced_within_ms, Some(1_500));
    for wrong in ["", "stead", "replaced-within", "replaced-within=0s"] {
        assert!(wrong.parse::<Expected>().is_err(), "{wrong}");
    }
}
