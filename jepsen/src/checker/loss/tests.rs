//! Losses of a known size in histories of every workload, and none where nothing is lost.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    checker::simulator::{self, Simulation, Workload},
    history::{ClientEvent, Data, Event, Kind, Op, Reply, Value, Version, What},
};

fn simulation(workload: Workload, seed: u64, operations: usize, unknown: f64) -> Simulation {
    Simulation {
        operations,
        clients: 10,
        // A run gives sets and lists up before they grow long.
        keys: match workload {
            Workload::Set | Workload::Append => 20 + operations as u64 / 100,
            _ => 10,
        },
        unknown,
        failed: 0.02,
        ..Simulation::new(workload, seed)
    }
}

/// Takes writes away from a history and compares: exact, or at least nine tenths and called a lower
/// bound.
#[track_caller]
fn assert_counted(simulation: Simulation, losses: &[(usize, usize)]) -> Loss {
    let plan = losses
        .iter()
        .map(|&(after, writes)| simulator::Loss { after, writes });
    let (history, truth) = simulation.lose(plan.collect());
    let wanted: usize = losses.iter().map(|(_, writes)| writes).sum();
    assert!(truth >= wanted as u64, "{truth} for {wanted}");
    let loss = measure(&history, &[]);
    println!("{simulation:?} {losses:?}: {truth} gone, {loss:?}");
    assert!(
        loss.count <= truth,
        "{truth} are gone: {loss:?}, {simulation:?}"
    );
    match loss.certainty {
        Certainty::Exact => assert_eq!(loss.count, truth, "{loss:?}, {simulation:?}"),
        _ => {
            assert_eq!(
                loss.certainty,
                Certainty::AtLeast,
                "{loss:?}, {simulation:?}"
            );
            assert!(!loss.open.is_empty());
            let share = loss.count as f64 / truth as f64;
            assert!(share >= 0.9, "{truth} are gone: {loss:?}, {simulation:?}");
        }
    }
    assert!(!loss.events.is_empty(), "{loss:?}");
    loss
}

/// Ten losses from one write to five thousand. The load goes on for a while afterwards.
fn ten_losses(workload: Workload, acknowledged_share: f64) {
    for (number, writes) in [1, 2, 5, 17, 60, 200, 726, 998, 2_000, 5_000]
        .into_iter()
        .enumerate()
    {
        let seed = 100 + number as u64;
        let after = 300 + (writes as f64 / acknowledged_share) as usize;
        let operations = after + 400 + writes / 3;
        let loss = [(after, writes)];
        assert_counted(simulation(workload, seed, operations, 0.02), &loss);
    }
}

#[test]
fn ten_losses_of_registers() {
    ten_losses(Workload::Register, 0.35);
}

#[test]
fn ten_losses_of_sets() {
    ten_losses(Workload::Set, 0.7);
}

#[test]
fn ten_losses_of_lists() {
    ten_losses(Workload::Append, 0.6);
}

#[test]
fn ten_losses_of_accounts() {
    ten_losses(Workload::Bank, 0.6);
}

#[test]
fn ten_losses_of_counters() {
    ten_losses(Workload::Counter, 0.6);
}

#[test]
fn ten_losses_beside_stale_reads() {
    ten_losses(Workload::Stale, 0.35);
}

/// A store that is only late or of which not all is known has lost nothing.
#[test]
fn nothing_is_lost_in_a_good_history() {
    for workload in Workload::ALL {
        for seed in 0..40 {
            let unknown = [0.0, 0.1, 0.4, 0.9][seed as usize % 4];
            let simulation = simulation(workload, seed, 300, unknown);
            let loss = measure(&simulation.run(), &[]);
            assert_eq!(loss.count, 0, "{simulation:?}: {loss:?}");
            assert_eq!((loss.revisions, &loss.events[..]), (None, &[][..]));
            let (history, truth) = simulation.lose(Vec::new());
            let loss = measure(&history, &[]);
            assert_eq!((loss.count, truth), (0, 0), "{simulation:?}: {loss:?}");
            let told = matches!(
                workload,
                Workload::Set | Workload::Append | Workload::Counter
            );
            if told {
                assert_eq!(loss.certainty, Certainty::Exact, "{simulation:?}: {loss:?}");
            }
        }
    }
}

fn is_final(event: &Event) -> bool {
    matches!(&event.what, What::Client(client) if client.last)
}

/// Several losses, at any time, with many unknown outcomes, with and without final reads: what is
/// called gone is gone.
#[test]
fn never_more_is_counted_than_is_gone() {
    let mut random = StdRng::seed_from_u64(7);
    for workload in Workload::ALL {
        let (mut counted, mut all) = (0, 0);
        for seed in 0..60 {
            let operations = random.random_range(200..700);
            let simulation = Simulation {
                clients: random.random_range(2..12),
                keys: random.random_range(2..12),
                ..simulation(workload, seed, operations, random.random_range(0.0..0.3))
            };
            let mut after = 0;
            let mut losses = Vec::new();
            for _ in 0..random.random_range(1..4) {
                after += random.random_range(60..200);
                let writes = random.random_range(1..8);
                losses.push(simulator::Loss { after, writes });
            }
            let (mut history, truth) = simulation.lose(losses.clone());
            let loss = measure(&history, &[]);
            assert!(
                loss.count <= truth,
                "{truth} for {simulation:?}, {losses:?}: {loss:?}"
            );
            if loss.certainty == Certainty::Exact {
                assert_eq!(loss.count, truth, "{simulation:?}, {losses:?}: {loss:?}");
            }
            (counted, all) = (counted + loss.count, all + truth);
            history.events.retain(|event| !is_final(event));
            let loss = measure(&history, &[]);
            assert!(
                loss.count <= truth,
                "{truth} for {simulation:?}, {losses:?}: {loss:?}"
            );
            assert_ne!(loss.certainty, Certainty::Exact);
        }
        println!("{workload:?}: {counted} of {all}");
        assert!(
            counted as f64 >= 0.8 * all as f64,
            "{workload:?}: {counted} of {all}"
        );
    }
}

/// A history of writes and reads of one key; each operation is over before the next one begins.
#[derive(Default)]
struct Script(History);

impl Script {
    fn ask(mut self, process: u64, op: Op, revision: i64, data: Data, last: bool) -> Self {
        for kind in [Kind::Invoke, Kind::Ok] {
            let index = self.0.events.len() as u64;
            let reply = (kind == Kind::Ok).then(|| Reply {
                revision,
                data: data.clone(),
            });
            self.0.events.push(Event {
                index,
                time: index,
                what: What::Client(ClientEvent {
                    process,
                    node: process,
                    kind,
                    op: op.clone(),
                    reply,
                    error: None,
                    last,
                }),
            });
        }
        self
    }

    fn write(self, value: i64, revision: i64) -> Self {
        self.ask(1, Op::Write { key: 1, value }, revision, Data::None, false)
    }

    /// A read that finds what the writes at 2 and later made, the value being the revision.
    fn read(self, process: u64, revision: i64, last: bool) -> Self {
        let found = Version {
            value: Value::Number(revision),
            create: 2,
            modified: revision,
            version: revision - 1,
        };
        let op = Op::Read {
            key: 1,
            serializable: false,
        };
        self.ask(process, op, revision, Data::Version(Some(found)), last)
    }

    fn loss(&self) -> Loss {
        measure(&self.0, &[])
    }
}

#[test]
fn a_loss_that_only_late_reads_show_is_counted() {
    let script = Script::default().write(2, 2).write(3, 3).write(4, 4);
    // What is read last is as of revision 2, by the only node that answers.
    let loss = script.read(1, 2, false).loss();
    assert_eq!((loss.count, loss.certainty), (2, Certainty::AtLeast));
    assert_eq!(loss.revisions, Some((3, 4)));
    assert_eq!(loss.events, [5, 7]);
}

#[test]
fn a_stale_read_that_a_later_one_corrects_is_no_loss() {
    let script = Script::default().write(2, 2).write(3, 3).write(4, 4);
    let script = script.read(2, 2, false).read(1, 4, false);
    assert_eq!(script.loss().count, 0);
    let loss = script.read(2, 4, true).loss();
    assert_eq!(loss.count, 0);
}

#[test]
fn of_two_writes_at_one_revision_one_is_gone() {
    let script = Script::default().write(2, 2).write(3, 3).write(30, 3);
    let loss = script.loss();
    assert_eq!((loss.count, loss.certainty), (1, Certainty::AtLeast));
    assert_eq!(loss.events, [3, 5]);
    // The final read tells which; it is the second one's revision, and the first one's value.
    let loss = script.read(1, 3, true).loss();
    assert_eq!((loss.count, loss.revisions), (1, Some((3, 3))));
}

#[test]
fn what_the_nodes_no_longer_have_is_gone_whatever_was_read_before() {
    let script = Script::default().write(2, 2).write(3, 3).write(4, 4);
    let script = script.read(1, 4, true);
    let state = |revision| NodeState {
        node: 1,
        revision,
        hash: 7,
        compact_revision: 0,
        error: None,
    };
    assert_eq!(measure(&script.0, &[state(4)]).count, 0);
    let loss = measure(&script.0, &[state(2)]);
    assert_eq!((loss.count, loss.revisions), (2, Some((3, 4))));
}

#[test]
fn what_cannot_be_judged_is_not_called_a_number() {
    let loss = measure(&History::default(), &[]);
    assert_eq!((loss.count, loss.certainty), (0, Certainty::Unknown));
    assert_eq!(loss.open, "no operation was answered");
}
