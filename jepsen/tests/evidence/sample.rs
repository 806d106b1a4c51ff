//! A made-up run, seeded: clients on registers, faults with outages of known length, and anomalies
//! that name its events.

use holdfast_jepsen::{
    checker::{Anomaly, Edge, Finding, Verdict},
    cluster::{Description, Node},
    evidence::{Run, expected::Expected, leadership::Leadership},
    history::{
        ClientEvent, Data, Event, FaultEvent, History, Kind, Op, Phase, Reply, Step, Value,
        Version, What,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A fault: begin, until when no write succeeds, and healing, in seconds.
pub const OUTAGES: [(&str, u64, f64, u64); 5] = [
    ("kill-leader", 8, 1.6, 14),
    ("partition-majority-ring", 20, 0.7, 26),
    ("kill-leader", 32, 2.4, 38),
    ("pause-one", 44, 0.0, 50),
    ("kill-leader", 51, 1.1, 55),
];

/// A history of about so many operations in a minute.
pub fn history(seed: u64, operations: usize) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut events: Vec<(u64, What)> = Vec::new();
    let workers = 10;
    let per_worker = operations / workers;
    let pace = 58 * SECOND / per_worker as u64;
    for worker in 0..workers as u64 {
        let mut process = worker;
        let mut time = rng.random_range(0..pace);
        let mut value = worker as i64;
        while time < 58 * SECOND {
            value += workers as i64;
            let (op, reply) = operation(&mut rng, value);
            let outage = OUTAGES.iter().find_map(|&(_, begin, seconds, _)| {
                let begin = begin * SECOND + SECOND / 10;
                let end = begin + (seconds * 1e9) as u64;
                (begin..end).contains(&time).then_some(end)
            });
            let spread: f64 = rng.random_range(0.0..1.0);
            let mut latency = 700_000 + (spread.powi(12) * 4e7 + spread * 6e5) as u64;
            let mut kind = match rng.random_range(0..100) {
                0..3 if matches!(op, Op::Cas { .. }) => Kind::Fail,
                0..30 if matches!(op, Op::Cas { .. }) => Kind::Fail,
                _ => Kind::Ok,
            };
            if let Some(end) = outage {
                (latency, kind) = match rng.random_range(0..10) {
                    0..5 => (end - time + latency, Kind::Ok),
                    5..8 => (SECOND, Kind::Info),
                    _ => (latency / 2, Kind::Fail),
                };
            }
            let client = |kind, reply, error: Option<&str>| {
                What::Client(ClientEvent {
                    process,
                    node: worker % 3 + 1,
                    kind,
                    op: op.clone(),
                    reply,
                    error: error.map(str::to_owned),
                    last: false,
                })
            };
            events.push((time, client(Kind::Invoke, None, None)));
            let completion = match kind {
                Kind::Ok => client(kind, Some(reply), None),
                Kind::Fail => client(kind, None, Some("Unavailable: no leader")),
                _ => client(kind, None, Some("deadline of 1 s")),
            };
            events.push((time + latency, completion));
            if kind == Kind::Info {
                process += workers as u64;
            }
            time += latency.max(pace / 2) + rng.random_range(0..pace);
        }
    }
    for (number, (nemesis, begin, _, healed)) in OUTAGES.into_iter().enumerate() {
        let fault = number as u64 + 1;
        let node = fault % 3 + 1;
        let mut push = |time, phase, detail: &str| {
            events.push((time, self::fault(nemesis, fault, phase, vec![node], detail)));
        };
        let begin = begin * SECOND;
        let healed = healed * SECOND;
        push(begin, Phase::Begin, &format!("node {node} is chosen"));
        push(
            begin + SECOND / 10,
            Phase::Broken,
            &format!("node {node} is broken"),
        );
        push(healed - SECOND / 5, Phase::Heal, "");
        push(healed, Phase::Healed, &format!("node {node} serves again"));
    }
    let skipped = "this kind of cluster cannot fill a disk";
    for (fault, time) in [(6, 16 * SECOND), (7, 41 * SECOND)] {
        events.push((
            time,
            self::fault("full-disk", fault, Phase::Begin, vec![], ""),
        ));
        events.push((
            time,
            self::fault("full-disk", fault, Phase::Skipped, vec![], skipped),
        ));
    }
    transactions(&mut events);
    in_order(events)
}

/// A write a second, and so many faults, one every ten seconds, of six nemeses in turn.
pub fn long_history(faults: u64) -> History {
    let nemeses = [
        "kill-leader",
        "kill-minority",
        "partition-majority-ring",
        "pause-one",
        "slow-link",
        "clock-jump",
    ];
    let mut events = Vec::new();
    for second in 0..faults * 10 {
        for (later, kind) in [(0, Kind::Invoke), (2_000_000, Kind::Ok)] {
            let event = ClientEvent {
                process: 1,
                node: 1,
                kind,
                op: Op::Write {
                    key: 1,
                    value: second as i64,
                },
                reply: (kind == Kind::Ok).then(Reply::default),
                error: None,
                last: false,
            };
            events.push((second * SECOND + later, What::Client(event)));
        }
    }
    for (number, nemesis) in (0..faults).zip(nemeses.into_iter().cycle()) {
        let phases = [
            (1, Phase::Begin),
            (2, Phase::Broken),
            (7, Phase::Heal),
            (8, Phase::Healed),
        ];
        for (second, phase) in phases {
            let at = (number * 10 + second) * SECOND + 500_000_000;
            events.push((
                at,
                fault(nemesis, number + 1, phase, vec![number % 3 + 1], ""),
            ));
        }
    }
    in_order(events)
}

/// Gives events their order and their indices.
fn in_order(mut events: Vec<(u64, What)>) -> History {
    events.sort_by_key(|event| event.0);
    let events = events.into_iter().zip(0..);
    History {
        events: events
            .map(|((time, what), index)| Event { index, time, what })
            .collect(),
    }
}

fn operation(rng: &mut StdRng, value: i64) -> (Op, Reply) {
    let key = rng.random_range(0..20);
    let version = Version {
        value: Value::Number(value / 3),
        create: 2,
        modified: value,
        version: 4,
    };
    // Without revisions nothing can be counted: what was lost is what the findings say.
    let reply = |data| Reply { revision: 0, data };
    match rng.random_range(0..10) {
        0..4 => (
            Op::Read {
                key,
                serializable: false,
            },
            reply(Data::Version(Some(version))),
        ),
        4..8 => (Op::Write { key, value }, reply(Data::None)),
        _ => (
            Op::Cas {
                key,
                old: value - 10,
                new: value,
            },
            reply(Data::None),
        ),
    }
}

fn fault(nemesis: &str, fault: u64, phase: Phase, nodes: Vec<u64>, detail: &str) -> What {
    What::Fault(FaultEvent {
        nemesis: nemesis.to_owned(),
        fault,
        phase,
        nodes,
        detail: detail.to_owned(),
    })
}

/// Transactions of processes 1000 to 1003 whose reads contradict each other.
fn transactions(events: &mut Vec<(u64, What)>) {
    let append = |key, value| Step::Append { key, value };
    let read = |key| Step::Read { key };
    let list = |list: &[i64]| Some(list.to_vec());
    let runs = [
        (
            1000,
            29_000,
            29_004,
            vec![append(1, 7), read(2)],
            vec![None, list(&[3])],
        ),
        (
            1001,
            29_002,
            29_009,
            vec![append(2, 4), read(1)],
            vec![None, list(&[5])],
        ),
        (
            1002,
            29_006,
            29_012,
            vec![read(2), read(1)],
            vec![list(&[3, 4]), list(&[5, 7])],
        ),
        (
            1003,
            29_015,
            29_018,
            vec![read(1), read(2)],
            vec![list(&[5]), list(&[3])],
        ),
        (
            1000,
            29_020,
            30_020,
            vec![append(1, 8), read(2), read(3)],
            vec![],
        ),
    ];
    for (process, from, to, steps, seen) in runs {
        let event = |kind, reply, error: Option<&str>| {
            What::Client(ClientEvent {
                process,
                node: process % 3 + 1,
                kind,
                op: Op::Txn {
                    steps: steps.clone(),
                },
                reply,
                error: error.map(str::to_owned),
                last: false,
            })
        };
        events.push((from * 1_000_000, event(Kind::Invoke, None, None)));
        let completion = if seen.is_empty() {
            event(Kind::Info, None, Some("<b>connection</b> \"reset\" & lost"))
        } else {
            let reply = Reply {
                revision: 900 + process as i64,
                data: Data::Steps(seen),
            };
            event(Kind::Ok, Some(reply), None)
        };
        events.push((to * 1_000_000, completion));
    }
}

/// Findings that name events of the history.
pub fn findings(history: &History) -> Vec<Finding> {
    let txns: Vec<_> = history
        .operations()
        .expect("the sample is well formed")
        .into_iter()
        .filter(|operation| operation.process >= 1000)
        .collect();
    let edge = |from: usize, to: usize, label: &str| Edge {
        from: txns[from].invoked,
        to: txns[to].invoked,
        label: label.to_owned(),
    };
    let mut named = vec![];
    for txn in &txns[..4] {
        named.extend([txn.invoked, txn.completed]);
    }
    let killed = history
        .faults()
        .find(|(_, fault)| fault.fault == 3 && fault.phase == Phase::Broken)
        .expect("the sample has a third fault")
        .0
        .index;
    let cycle = Anomaly {
        name: "G2-item".to_owned(),
        explanation: "Each of T1 and T2 appended to a list and did not see the append of the other, \
                      although T3 saw both; T4 began after T3 had ended and saw <neither> & \"less\"."
            .to_owned(),
        events: named.clone(),
        edges: vec![
            edge(0, 1, "rw"),
            edge(1, 0, "rw"),
            edge(0, 2, "wr"),
            edge(1, 2, "wr"),
            edge(2, 3, "realtime"),
            edge(3, 0, "rw"),
        ],
    };
    let writes: Vec<_> = history
        .operations()
        .expect("the sample is well formed")
        .into_iter()
        .filter(|operation| {
            matches!(
                operation.op,
                Op::Write { key: 3, .. } | Op::Read { key: 3, .. }
            ) && (31 * SECOND..37 * SECOND).contains(&operation.invoked_at)
        })
        .take(9)
        .collect();
    let mut events = vec![killed, txns[4].invoked];
    for write in &writes {
        events.push(write.invoked);
        events.extend((write.completed != u64::MAX).then_some(write.completed));
    }
    events.sort_unstable();
    let lost = Anomaly {
        name: "lost-write".to_owned(),
        explanation: "The write was acknowledged, and every later read found an older version."
            .to_owned(),
        events,
        edges: writes
            .windows(2)
            .map(|pair| Edge {
                from: pair[0].invoked,
                to: pair[1].invoked,
                label: "realtime".to_owned(),
            })
            .collect(),
    };
    vec![
        Finding::new(
            "revision",
            5_000,
            "every key in the order of its revisions",
            vec![lost],
        ),
        Finding::new("append", 5, "graph of 5 transactions, 6 edges", vec![cycle]),
        Finding {
            verdict: Verdict::Unknown,
            ..Finding::unknown(
                "linearizability",
                4_000,
                "12 of 20 keys were not decided within 30 s",
            )
        },
        Finding::new(
            "convergence",
            3,
            "3 nodes have the same hash at revision 812",
            vec![],
        ),
    ]
}

/// What was run, as a runner would tell it.
pub fn run(seed: u64) -> Run {
    Run {
        workload: "register".to_owned(),
        nemeses: [
            "kill-leader",
            "partition-majority-ring",
            "pause-one",
            "full-disk",
        ]
        .map(str::to_owned)
        .into(),
        options: [
            ("rate", "100"),
            ("concurrency", "10"),
            ("keys", "20"),
            ("time", "58s"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        seed,
        command: format!(
            "holdfast-jepsen run --workload register --nemesis 'kill-leader,partition-majority-ring,pause-one,full-disk' --time 58s --rate 100 --seed {seed}"
        ),
        cluster: Description {
            kind: "local".to_owned(),
            target: "holdfast".to_owned(),
            version: "holdfast 0.1.0 <planted-bugs>".to_owned(),
        },
        nodes: (1..=3)
            .map(|id| Node {
                id,
                zone: format!("zone-{id}"),
                endpoint: format!("127.0.0.1:{}", 21_000 + id),
                direct: format!("127.0.0.1:{}", 22_000 + id),
            })
            .collect(),
        started_at: "2026-03-01T12:00:00Z".to_owned(),
        duration_seconds: 61.25,
        began_unix_ms: 1_764_000_000_000,
        leaders: [(0, Some(1), 2), (9_000, None, 2), (11_000, Some(3), 3)]
            .map(|(ms, leader, term)| Leadership {
                at_ns: ms * 1_000_000,
                leader,
                term,
            })
            .to_vec(),
        groups: Vec::new(),
        expected: Expected::default(),
    }
}

/// A checker that has found nothing.
pub fn valid_findings() -> Vec<Finding> {
    vec![Finding::new("revision", 6_000, "nothing found", Vec::new())]
}
