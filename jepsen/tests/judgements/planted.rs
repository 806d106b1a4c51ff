//! Cycles put into the history of a perfect store: each is found, is the only anomaly, has exactly
//! the transactions that were put in, and the right name.

use holdfast_jepsen::{
    checker::{Verdict, append::check, simulator::Workload},
    history::{ClientEvent, Data, Kind, Op, Reply, Step},
};

use crate::{perfect, weave};

const X: u64 = 1_000;
const Y: u64 = 1_001;

/// A step, and for a read what it saw.
enum Did<'a> {
    Append(u64, i64),
    Read(u64, &'a [i64]),
}
use Did::{Append, Read};

/// A transaction to be put in, by a process of its own unless two have the same.
struct Planted<'a> {
    process: u64,
    did: &'a [Did<'a>],
    /// Its outcome is not known.
    unknown: bool,
}

fn by<'a>(process: u64, did: &'a [Did<'a>]) -> Planted<'a> {
    Planted {
        process,
        did,
        unknown: false,
    }
}

/// Puts transactions into histories. The script has for each event, in order, the transaction: the
/// first time it is invoked, the second time it completes. `cycle` has the transactions that make
/// the cycle, `labels` its edges from the first of them on.
fn finds(name: &str, txns: &[Planted<'_>], script: &[usize], cycle: &[usize], labels: &[&str]) {
    for seed in 0..40 {
        let mut invoked = vec![None; txns.len()];
        let mut events = Vec::new();
        for (position, at) in script.iter().enumerate() {
            let txn = &txns[*at];
            let steps = txn.did.iter().map(|did| match did {
                Append(key, value) => Step::Append {
                    key: *key,
                    value: *value,
                },
                Read(key, _) => Step::Read { key: *key },
            });
            let answers = txn.did.iter().map(|did| match did {
                Append(..) => None,
                Read(_, list) => Some(list.to_vec()),
            });
            let is_first = invoked[*at].is_none();
            invoked[*at].get_or_insert(position);
            let kind = match (is_first, txn.unknown) {
                (true, _) => Kind::Invoke,
                (false, true) => Kind::Info,
                (false, false) => Kind::Ok,
            };
            events.push(ClientEvent {
                process: 1_000_000 + txn.process,
                node: 0,
                kind,
                op: Op::Txn {
                    steps: steps.collect(),
                },
                reply: (kind == Kind::Ok).then(|| Reply {
                    revision: 1,
                    data: Data::Steps(answers.collect()),
                }),
                error: None,
                last: false,
            });
        }
        let perfect = perfect(Workload::Append, seed);
        let (history, indices) = weave(perfect, seed, events);
        let finding = check(&history);
        assert_eq!(
            finding.verdict,
            Verdict::Invalid,
            "seed {seed}: {finding:#?}"
        );
        assert_eq!(finding.anomalies_found, 1, "seed {seed}: {finding:#?}");
        let anomaly = &finding.anomalies[0];
        assert_eq!(anomaly.name, name, "seed {seed}: {finding:#?}");

        let event = |txn: usize| indices[invoked[txn].expect("in the script")];
        let mut expected: Vec<u64> = cycle.iter().map(|txn| event(*txn)).collect();
        let edges: Vec<(u64, u64, &str)> = (0..cycle.len())
            .map(|at| (expected[at], expected[(at + 1) % cycle.len()], labels[at]))
            .collect();
        expected.sort_unstable();
        assert_eq!(anomaly.events, expected, "seed {seed}: {finding:#?}");
        assert_eq!(
            anomaly.edges.len(),
            edges.len(),
            "seed {seed}: {finding:#?}"
        );
        for edge in &anomaly.edges {
            let edge = (edge.from, edge.to, edge.label.as_str());
            assert!(
                edges.contains(&edge),
                "seed {seed}: {edge:?} not in {edges:?}"
            );
        }
    }
}

#[test]
fn writes_in_opposite_orders_are_g0() {
    let txns = [
        by(1, &[Append(X, 1), Append(Y, 3)]),
        by(2, &[Append(X, 2), Append(Y, 4)]),
        by(3, &[Read(X, &[1, 2]), Read(Y, &[4, 3])]),
    ];
    finds("G0", &txns, &[0, 1, 0, 1, 2, 2], &[0, 1], &["ww", "ww"]);
}

#[test]
fn a_write_before_one_that_was_over_needs_time() {
    let txns = [
        by(1, &[Append(X, 2)]),
        by(2, &[Append(X, 1)]),
        by(3, &[Read(X, &[1, 2])]),
    ];
    let script = [0, 0, 1, 1, 2, 2];
    finds("G0-realtime", &txns, &script, &[0, 1], &["realtime", "ww"]);
    let txns = [
        by(1, &[Append(X, 2)]),
        by(1, &[Append(X, 1)]),
        by(3, &[Read(X, &[1, 2])]),
    ];
    finds("G0-process", &txns, &script, &[0, 1], &["process", "ww"]);
}

#[test]
fn two_that_read_each_other_are_g1c() {
    let txns = [
        by(1, &[Append(X, 1), Read(Y, &[1])]),
        by(2, &[Append(Y, 1), Read(X, &[1])]),
    ];
    finds("G1c", &txns, &[0, 1, 0, 1], &[0, 1], &["wr", "wr"]);
}

#[test]
fn a_read_of_what_was_not_yet_asked_needs_time() {
    let txns = [by(1, &[Read(X, &[1])]), by(2, &[Append(X, 1)])];
    let script = [0, 0, 1, 1];
    finds("G1c-realtime", &txns, &script, &[0, 1], &["realtime", "wr"]);
    let txns = [by(1, &[Read(X, &[1])]), by(1, &[Append(X, 1)])];
    finds("G1c-process", &txns, &script, &[0, 1], &["process", "wr"]);
}

#[test]
fn a_read_of_half_a_transaction_is_g_single() {
    let mut txns = [
        by(1, &[Append(X, 1), Append(Y, 1)]),
        by(2, &[Read(X, &[1]), Read(Y, &[])]),
    ];
    finds("G-single", &txns, &[0, 1, 0, 1], &[0, 1], &["wr", "rw"]);
    // An unknown outcome that was seen is a commit.
    txns[0].unknown = true;
    finds("G-single", &txns, &[0, 1, 0, 1], &[0, 1], &["wr", "rw"]);
}

#[test]
fn a_read_without_what_was_acknowledged_needs_time() {
    let script = [0, 0, 1, 1];
    let txns = [by(1, &[Append(X, 1)]), by(2, &[Read(X, &[])])];
    finds(
        "G-single-realtime",
        &txns,
        &script,
        &[0, 1],
        &["realtime", "rw"],
    );
    let txns = [by(1, &[Append(X, 1)]), by(1, &[Read(X, &[])])];
    finds(
        "G-single-process",
        &txns,
        &script,
        &[0, 1],
        &["process", "rw"],
    );
}

#[test]
fn write_skew_is_g2() {
    let txns = [
        by(1, &[Read(X, &[]), Append(Y, 1)]),
        by(2, &[Read(Y, &[]), Append(X, 1)]),
    ];
    finds("G2", &txns, &[0, 1, 0, 1], &[0, 1], &["rw", "rw"]);
}

#[test]
fn a_long_fork_is_g2_of_four() {
    let txns = [
        by(1, &[Append(X, 1)]),
        by(2, &[Read(X, &[1]), Read(Y, &[])]),
        by(3, &[Append(Y, 1)]),
        by(4, &[Read(Y, &[1]), Read(X, &[])]),
    ];
    finds(
        "G2",
        &txns,
        &[0, 1, 2, 3, 0, 1, 2, 3],
        &[0, 1, 2, 3],
        &["wr", "rw", "wr", "rw"],
    );
}

#[test]
fn two_antidependencies_against_time_are_g2() {
    let txns = [
        by(1, &[Read(X, &[])]),
        by(2, &[Append(X, 1), Read(Y, &[])]),
        by(3, &[Append(Y, 1)]),
    ];
    finds(
        "G2-realtime",
        &txns,
        &[1, 2, 2, 0, 0, 1],
        &[0, 1, 2],
        &["rw", "rw", "realtime"],
    );
    let txns = [
        by(1, &[Read(X, &[])]),
        by(2, &[Append(X, 1), Read(Y, &[])]),
        by(1, &[Append(Y, 1)]),
    ];
    finds(
        "G2-process",
        &txns,
        &[1, 2, 2, 0, 0, 1],
        &[0, 1, 2],
        &["rw", "rw", "process"],
    );
}

#[test]
fn unknown_transactions_that_nobody_saw_are_left_out() {
    for seed in 0..40 {
        let event = |kind, op: &Op, reply| ClientEvent {
            process: 1_000_001 + u64::from(matches!(op, Op::Txn { steps } if steps.len() == 1)),
            node: 0,
            kind,
            op: op.clone(),
            reply,
            error: None,
            last: false,
        };
        let write = Op::Txn {
            steps: vec![
                Step::Append { key: X, value: 1 },
                Step::Append { key: Y, value: 1 },
            ],
        };
        let read = Op::Txn {
            steps: vec![Step::Read { key: X }],
        };
        let reply = Reply {
            revision: 1,
            data: Data::Steps(vec![Some(Vec::new())]),
        };
        let planted = vec![
            event(Kind::Invoke, &write, None),
            event(Kind::Info, &write, None),
            event(Kind::Invoke, &read, None),
            event(Kind::Ok, &read, Some(reply)),
        ];
        let perfect = perfect(Workload::Append, seed);
        let (history, _) = weave(perfect, seed, planted);
        let finding = check(&history);
        assert_eq!(finding.verdict, Verdict::Valid, "seed {seed}: {finding:#?}");
    }
}
