//! The search against one that tries everything, and against histories known to be good or bad.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::search::{ABSENT, Action, Answer, Call, State, search};
use crate::{
    checker::{
        Verdict, linearizability,
        simulator::{Simulation, Workload},
    },
    history::{ClientEvent, Data, Event, History, Kind, Op, Outcome, Reply, Value, Version, What},
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn accepts_every_simulated_history() {
    for seed in 0..200 {
        let simulation = Simulation {
            operations: 300,
            clients: 5,
            keys: 3,
            unknown: [0.0, 0.1, 0.4][seed as usize % 3],
            failed: 0.05,
            ..Simulation::new(Workload::Register, seed)
        };
        let finding = linearizability::check(&simulation.run(), LIMIT);
        assert_eq!(
            finding.verdict,
            Verdict::Valid,
            "{simulation:?}: {finding:#?}"
        );
    }
}

/// Whether an order exists, by trying all.
fn exists(calls: &[Call], taken: &mut Vec<bool>, state: State) -> bool {
    let open = |at: usize| !taken[at];
    if (0..calls.len()).all(|at| calls[at].optional || taken[at]) {
        return true;
    }
    let next: Vec<usize> = (0..calls.len())
        .filter(|&at| open(at))
        .filter(|&at| {
            (0..calls.len()).all(|other| {
                taken[other] || calls[other].optional || calls[other].completed > calls[at].invoked
            })
        })
        .collect();
    next.into_iter().any(|at| {
        let after = match calls[at].action {
            Action::See(seen) if seen == state => state,
            Action::Put(new) => new,
            Action::Swap { old, new } if old == state => new,
            Action::Delete if state != ABSENT => ABSENT,
            _ => return false,
        };
        taken[at] = true;
        let found = exists(calls, taken, after);
        taken[at] = false;
        found
    })
}

/// A handful of calls that mean nothing, so that about as many sets of them have an order as not.
fn random_calls(random: &mut StdRng) -> Vec<Call> {
    let count = random.random_range(1..=7);
    let values = random.random_range(1..=3);
    let mut moments: Vec<u64> = (0..2 * count).collect();
    (0..count as usize)
        .map(|operation| {
            let mut pick = || {
                let at = random.random_range(0..moments.len().min(4));
                moments.remove(at)
            };
            let (a, b) = (pick(), pick());
            let mut value = |from| random.random_range(from..=values);
            let action = match value(0) + 4 * value(0) {
                0 | 5 | 10 => Action::Put(value(1)),
                1 | 6 => Action::Swap {
                    old: value(1),
                    new: value(1),
                },
                2 | 15 => Action::Delete,
                _ => Action::See(value(0)),
            };
            let optional = action.makes().is_some() && random.random_bool(0.4);
            Call {
                action,
                invoked: a.min(b),
                completed: if optional { u64::MAX } else { a.max(b) },
                optional,
                operation,
            }
        })
        .collect()
}

#[test]
fn agrees_with_the_search_that_tries_everything() {
    let mut answers = [0, 0];
    for seed in 0..20_000 {
        let calls = random_calls(&mut StdRng::seed_from_u64(seed));
        let expected = exists(&calls, &mut vec![false; calls.len()], ABSENT);
        let found = search(&calls, Instant::now() + LIMIT, false) == Answer::Linearizable;
        assert_eq!(found, expected, "seed {seed}: {calls:#?}");
        answers[usize::from(expected)] += 1;
    }
    assert!(
        answers.iter().all(|&count| count > 2_000),
        "too few of one kind: {answers:?}"
    );
}

/// A history of one key. Each entry: process, event, what was asked, what was answered.
fn history(events: &[(u64, Kind, Op, Option<Data>)]) -> History {
    let events = events.iter().zip(0..).map(|(event, index)| Event {
        index,
        time: index,
        what: What::Client(ClientEvent {
            process: event.0,
            node: 1,
            kind: event.1,
            op: event.2.clone(),
            reply: event.3.clone().map(|data| Reply { revision: 1, data }),
            error: None,
            last: false,
        }),
    });
    History {
        events: events.collect(),
    }
}

fn write(value: i64) -> Op {
    Op::Write { key: 7, value }
}

const READ: Op = Op::Read {
    key: 7,
    serializable: false,
};

fn found(value: i64) -> Option<Data> {
    Some(Data::Version(Some(Version {
        value: Value::Number(value),
        create: 1,
        modified: 1,
        version: 1,
    })))
}

/// Many writes at once, and one process that reads 1, then 2, then 1 again meanwhile.
fn hard() -> History {
    let mut events = Vec::new();
    for value in 1..=13 {
        events.push((value as u64, Kind::Invoke, write(value), None));
    }
    for value in [1, 2, 1] {
        events.push((0, Kind::Invoke, READ, None));
        events.push((0, Kind::Ok, READ, found(value)));
    }
    for value in 1..=13 {
        events.push((value as u64, Kind::Ok, write(value), Some(Data::None)));
    }
    history(&events)
}

#[test]
fn says_what_it_could_not_decide_in_time() {
    let finding = linearizability::check(&hard(), Duration::ZERO);
    assert_eq!(finding.verdict, Verdict::Unknown, "{finding:#?}");
    assert!(finding.summary.contains("keys [7]"), "{finding:#?}");
}

#[test]
fn reduces_the_proof_to_what_matters() {
    let finding = linearizability::check(&hard(), LIMIT);
    assert_eq!(finding.verdict, Verdict::Invalid, "{finding:#?}");
    let [anomaly] = finding.anomalies.as_slice() else {
        panic!("not one anomaly: {finding:#?}");
    };
    assert_eq!(anomaly.name, "not-linearizable");
    // The three reads, and the beginnings of the two writes that they saw.
    assert_eq!(anomaly.events, [0, 1, 13, 14, 15, 16, 17, 18]);
    assert!(
        anomaly
            .edges
            .iter()
            .any(|edge| (edge.from, edge.to, edge.label.as_str()) == (15, 17, "realtime")),
        "{anomaly:#?}"
    );
}

#[test]
fn a_write_of_unknown_outcome_may_come_late_once_or_never() {
    let unknown = [
        (0, Kind::Invoke, write(1), None),
        (0, Kind::Info, write(1), None),
        (1, Kind::Invoke, write(2), None),
        (1, Kind::Ok, write(2), Some(Data::None)),
    ];
    let judge = |seen: &[i64]| {
        let mut events = unknown.to_vec();
        for value in seen {
            events.push((1, Kind::Invoke, READ, None));
            events.push((1, Kind::Ok, READ, found(*value)));
        }
        linearizability::check(&history(&events), LIMIT).verdict
    };
    assert_eq!(judge(&[2, 2]), Verdict::Valid, "never");
    assert_eq!(judge(&[2, 1, 1]), Verdict::Valid, "late");
    assert_eq!(judge(&[1, 1]), Verdict::Valid, "late");
    assert_eq!(
        judge(&[1, 2]),
        Verdict::Invalid,
        "not before what it overwrote"
    );
    assert_eq!(judge(&[2, 1, 2]), Verdict::Invalid, "not taken back");
}

#[test]
fn a_refused_compare_and_set_is_a_reading() {
    let cas = Op::Cas {
        key: 7,
        old: 1,
        new: 2,
    };
    let judge = |kind, data: Option<Data>| {
        let events = [
            (0, Kind::Invoke, write(1), None),
            (0, Kind::Ok, write(1), Some(Data::None)),
            (0, Kind::Invoke, cas.clone(), None),
            (0, kind, cas.clone(), data),
        ];
        linearizability::check(&history(&events), LIMIT).verdict
    };
    assert_eq!(judge(Kind::Ok, Some(Data::None)), Verdict::Valid);
    assert_eq!(judge(Kind::Fail, None), Verdict::Valid);
    assert_eq!(judge(Kind::Fail, found(1)), Verdict::Invalid, "it held it");
    assert_eq!(judge(Kind::Fail, found(3)), Verdict::Invalid, "nobody's");
    assert_eq!(
        judge(Kind::Fail, Some(Data::Version(None))),
        Verdict::Invalid
    );
}

/// The completions of reads that found something, and of acknowledged writes: of each the key, the
/// invocation, the completion, and whether it is a write.
fn steps_of(history: &History) -> Vec<(u64, u64, u64, bool)> {
    let operations = history.operations().unwrap();
    let steps = operations.iter().filter_map(|operation| {
        let Outcome::Ok(reply) = operation.outcome else {
            return None;
        };
        let (key, writes) = match (operation.op, &reply.data) {
            (
                Op::Read {
                    key,
                    serializable: false,
                },
                Data::Version(Some(_)),
            ) => (key, false),
            (Op::Write { key, .. } | Op::Cas { key, .. }, _) => (key, true),
            _ => return None,
        };
        Some((*key, operation.invoked, operation.completed, writes))
    });
    steps.collect()
}

#[test]
fn catches_what_was_overwritten_and_is_read_again() {
    let mut damaged = 0;
    for seed in 0..40 {
        let simulation = Simulation {
            operations: 400,
            clients: 5,
            keys: 4,
            unknown: 0.05,
            failed: 0.05,
            ..Simulation::new(Workload::Register, seed)
        };
        let mut history = simulation.run();
        let steps = steps_of(&history);
        let reads = || steps.iter().filter(|step| !step.3);
        let writes = || steps.iter().filter(|step| step.3);
        let between = |from: u64, to: u64, key: u64| {
            writes().any(|write| write.0 == key && from < write.1 && write.2 < to)
        };
        let pair = reads().skip(10).find_map(|old| {
            reads()
                .find(|new| new.0 == old.0 && between(old.2, new.1, old.0))
                .map(|new| (old.2 as usize, new.2 as usize))
        });
        let Some((old, new)) = pair else { continue };
        damaged += 1;
        let What::Client(from) = history.events[old].what.clone() else {
            panic!("event {old} is a fault");
        };
        let What::Client(into) = &mut history.events[new].what else {
            panic!("event {new} is a fault");
        };
        into.reply = from.reply;
        let finding = linearizability::check(&history, LIMIT);
        assert_eq!(finding.verdict, Verdict::Invalid, "seed {seed}");
        let [anomaly] = finding.anomalies.as_slice() else {
            panic!("seed {seed}: not one anomaly: {finding:#?}");
        };
        assert!(
            anomaly.events.contains(&(new as u64)),
            "seed {seed}: {anomaly:#?}"
        );
        // The reads before and after, what they saw and what came between: a handful.
        assert!(anomaly.events.len() <= 16, "seed {seed}: {anomaly:#?}");
    }
    assert!(damaged > 20, "only {damaged} histories were damaged");
}
