//! Good histories are accepted, damaged ones are not, and by the right name.

use std::collections::HashSet;

use crate::{
    checker::{
        Finding, Verdict, revision,
        simulator::{Simulation, Workload},
    },
    history::{ClientEvent, Data, History, Kind, Op, Outcome, Reply, Step, Value, Version, What},
};

/// Seeds of each damage.
const SEEDS: u64 = 30;

fn simulation(workload: Workload, seed: u64) -> Simulation {
    Simulation {
        operations: 200,
        clients: 5,
        keys: 4,
        unknown: 0.1,
        failed: 0.05,
        ..Simulation::new(workload, seed)
    }
}

#[test]
fn accepts_every_simulated_history() {
    for workload in Workload::ALL {
        for seed in 0..120 {
            let simulation = Simulation {
                unknown: [0.0, 0.1, 0.4, 0.9][seed as usize % 4],
                ..simulation(workload, seed)
            };
            let finding = revision::check(&simulation.run());
            let verdict = finding.verdict;
            assert_eq!(verdict, Verdict::Valid, "{simulation:?}: {finding:#?}");
        }
    }
}

/// An acknowledged operation, copied out of a history that is to be changed.
#[derive(Clone, Debug)]
struct Done {
    op: Op,
    invoked: u64,
    completed: u64,
    reply: Reply,
    last: bool,
}

impl Done {
    fn writes(&self) -> bool {
        match &self.op {
            Op::Write { .. }
            | Op::Cas { .. }
            | Op::Add { .. }
            | Op::Transfer { .. }
            | Op::Increment { .. } => true,
            Op::Delete { .. } => self.reply.data != Data::Count(0),
            Op::Txn { steps } => steps.iter().any(|step| matches!(step, Step::Append { .. })),
            _ => false,
        }
    }

    /// The key that a linearizable read of one key reads, and what it found.
    fn read(&self) -> Option<(u64, Option<&Version>)> {
        match (&self.op, &self.reply.data) {
            (
                Op::Read {
                    key,
                    serializable: false,
                }
                | Op::ReadCounter { key },
                Data::Version(found),
            ) => Some((*key, found.as_ref())),
            _ => None,
        }
    }
}

fn done(history: &History) -> Vec<Done> {
    let operations = history.operations().unwrap();
    let done = operations.iter().filter_map(|operation| {
        let Outcome::Ok(reply) = operation.outcome else {
            return None;
        };
        Some(Done {
            op: operation.op.clone(),
            invoked: operation.invoked,
            completed: operation.completed,
            reply: reply.clone(),
            last: operation.last,
        })
    });
    done.collect()
}

fn client(history: &mut History, event: u64) -> &mut ClientEvent {
    match &mut history.events[event as usize].what {
        What::Client(client) => client,
        What::Fault(_) => panic!("event {event} is a fault"),
    }
}

fn reply(history: &mut History, event: u64) -> &mut Reply {
    client(history, event).reply.as_mut().unwrap()
}

fn version(history: &mut History, event: u64) -> &mut Version {
    match &mut reply(history, event).data {
        Data::Version(Some(version)) => version,
        other => panic!("{other:?} is no version"),
    }
}

/// Damages simulated histories; each must be found invalid, with an anomaly of this name that
/// points at events of the history. `damage` answers whether it found something to damage.
#[track_caller]
fn caught(name: &str, workload: Workload, damage: impl Fn(&mut History, &[Done]) -> bool) {
    let mut damaged = 0;
    for seed in 0..SEEDS {
        let mut history = simulation(workload, seed).run();
        let operations = done(&history);
        if !damage(&mut history, &operations) {
            continue;
        }
        damaged += 1;
        let finding = revision::check(&history);
        assert_eq!(
            finding.verdict,
            Verdict::Invalid,
            "seed {seed}: {finding:#?}"
        );
        assert!(named(&finding).contains(name), "seed {seed}: {finding:#?}");
        for anomaly in &finding.anomalies {
            assert!(!anomaly.events.is_empty(), "{anomaly:#?}");
            assert!(anomaly.events.is_sorted(), "{anomaly:#?}");
            let last = history.events.len() as u64;
            assert!(anomaly.events.iter().all(|&at| at < last), "{anomaly:#?}");
        }
    }
    assert!(damaged > SEEDS / 2, "only {damaged} histories were damaged");
}

fn named(finding: &Finding) -> HashSet<&str> {
    let anomalies = finding.anomalies.iter();
    anomalies.map(|anomaly| anomaly.name.as_str()).collect()
}

#[test]
fn catches_a_read_of_the_past() {
    caught("stale-read", Workload::Register, |history, done| {
        // The answer of a read is given to a later one, after a write was acknowledged.
        for b in done.iter().rev().filter(|b| !b.last) {
            let Some((key, _)) = b.read() else { continue };
            let overtaken = |a: &&Done| {
                a.read().is_some_and(|(of, _)| of == key)
                    && done.iter().any(|write| {
                        write.writes()
                            && write.reply.revision > a.reply.revision
                            && write.completed < b.invoked
                    })
            };
            if let Some(a) = done.iter().rev().find(overtaken) {
                *reply(history, b.completed) = a.reply.clone();
                return true;
            }
        }
        false
    });
}

#[test]
fn catches_a_register_that_lost_a_write() {
    caught("lost-write", Workload::Register, |history, done| {
        for read in done {
            let Some((_, Some(found))) = read.read() else {
                continue;
            };
            let acknowledged = done
                .iter()
                .any(|write| write.writes() && write.reply.revision == found.modified);
            if acknowledged && found.version == 1 && found.create > 20 {
                // As if the write had never been, and there had been no other.
                reply(history, read.completed).data = Data::Version(None);
                return true;
            }
        }
        false
    });
}

#[test]
fn catches_an_element_dropped_from_later_reads() {
    caught("lost-write", Workload::Set, |history, done| {
        let Some((add, element)) = done.iter().find_map(|add| match add.op {
            Op::Add { element, .. } if add.reply.revision > 30 => Some((add, element)),
            _ => None,
        }) else {
            return false;
        };
        for read in done {
            if let Data::Versions(versions) = &mut reply(history, read.completed).data
                && read.reply.revision > add.reply.revision
            {
                versions.retain(|(key, _)| *key != element as u64);
            }
        }
        true
    });
}

#[test]
fn catches_an_append_dropped_from_later_reads() {
    caught("lost-write", Workload::Append, |history, done| {
        let dropped = done.iter().filter(|txn| !txn.last).find_map(|txn| {
            let Op::Txn { steps } = &txn.op else {
                return None;
            };
            steps.iter().find_map(|step| match step {
                Step::Append { value, .. } => Some(*value),
                Step::Read { .. } => None,
            })
        });
        let Some(dropped) = dropped else { return false };
        for event in &mut history.events {
            let What::Client(client) = &mut event.what else {
                continue;
            };
            match client.reply.as_mut().map(|reply| &mut reply.data) {
                Some(Data::Steps(found)) if client.last => {
                    for list in found.iter_mut().flatten() {
                        list.retain(|&value| value != dropped);
                    }
                }
                _ => {}
            }
        }
        true
    });
}

#[test]
fn catches_two_writes_in_the_wrong_order() {
    for workload in Workload::ALL {
        caught("revision-order", workload, |history, done| {
            let writes: Vec<&Done> = done.iter().filter(|done| done.writes()).collect();
            for (at, a) in writes.iter().enumerate().skip(10) {
                let later = writes[at..].iter().find(|b| a.completed < b.invoked);
                if let Some(b) = later {
                    reply(history, a.completed).revision = b.reply.revision;
                    reply(history, b.completed).revision = a.reply.revision;
                    return true;
                }
            }
            false
        });
    }
}

#[test]
fn catches_a_revision_used_twice() {
    for workload in Workload::ALL {
        caught("duplicate-revision", workload, |history, done| {
            let mut writes = done.iter().filter(|done| done.writes()).skip(7);
            let (Some(a), Some(b)) = (writes.next(), writes.next()) else {
                return false;
            };
            reply(history, b.completed).revision = a.reply.revision;
            true
        });
    }
}

#[test]
fn catches_a_write_applied_twice() {
    for workload in [Workload::Register, Workload::Counter] {
        caught("applied-twice", workload, |history, done| {
            for read in done {
                let Some((_, Some(found))) = read.read() else {
                    continue;
                };
                let acknowledged = done
                    .iter()
                    .any(|write| write.writes() && write.reply.revision == found.modified);
                if acknowledged && found.modified < read.reply.revision {
                    let again = version(history, read.completed);
                    again.modified = read.reply.revision;
                    again.version += 1;
                    return true;
                }
            }
            false
        });
    }
    caught("applied-twice", Workload::Append, |history, done| {
        for txn in done {
            if let Data::Steps(found) = &mut reply(history, txn.completed).data
                && txn.last
                && let Some(Some(list)) = found.first_mut()
                && let Some(&element) = list.first()
            {
                list.push(element);
                return true;
            }
        }
        false
    });
}

#[test]
fn catches_a_value_of_nobody() {
    for workload in [Workload::Register, Workload::Counter] {
        caught("phantom-value", workload, |history, done| {
            let read = done
                .iter()
                .find(|read| matches!(read.read(), Some((_, Some(_)))));
            let Some(read) = read else { return false };
            version(history, read.completed).value = Value::Number(1_000_000);
            true
        });
    }
    caught("phantom-value", Workload::Set, |history, done| {
        for read in done {
            if let Data::Versions(versions) = &mut reply(history, read.completed).data
                && let Some((_, known)) = versions.last()
            {
                let phantom = Version {
                    value: Value::Number(1_000_000),
                    ..known.clone()
                };
                versions.push((1_000_000, phantom));
                return true;
            }
        }
        false
    });
    caught("phantom-value", Workload::Append, |history, done| {
        for txn in done {
            if let Data::Steps(found) = &mut reply(history, txn.completed).data
                && let Some(list) = found.iter_mut().flatten().next()
            {
                list.insert(0, 1_000_000);
                return true;
            }
        }
        false
    });
}

#[test]
fn catches_a_failed_write_that_is_seen() {
    caught("failed-write-seen", Workload::Register, |history, done| {
        for read in done {
            let Some((_, Some(found))) = read.read() else {
                continue;
            };
            let write = done
                .iter()
                .find(|write| write.writes() && write.reply.revision == found.modified);
            if let Some(write) = write {
                let write = client(history, write.completed);
                write.kind = Kind::Fail;
                write.reply = None;
                return true;
            }
        }
        false
    });
}

#[test]
fn catches_a_counter_of_versions_that_is_wrong() {
    for workload in [Workload::Register, Workload::Counter] {
        caught("wrong-version-counter", workload, |history, done| {
            let read = done.iter().find(
                |read| matches!(read.read(), Some((_, Some(found))) if found.modified > found.create + 3),
            );
            let Some(read) = read else { return false };
            version(history, read.completed).version += 1;
            true
        });
    }
}

#[test]
fn catches_a_read_of_the_future() {
    for workload in [Workload::Register, Workload::Counter] {
        caught("future-read", workload, |history, done| {
            for a in done {
                let Some((key, _)) = a.read() else { continue };
                let from_the_future = |b: &&Done| {
                    b.read().is_some_and(|(of, found)| {
                        let write = found.and_then(|found| {
                            done.iter().find(|write| {
                                write.writes() && write.reply.revision == found.modified
                            })
                        });
                        of == key && write.is_some_and(|write| write.invoked > a.completed)
                    })
                };
                if let Some(b) = done.iter().find(from_the_future) {
                    *reply(history, a.completed) = b.reply.clone();
                    return true;
                }
            }
            false
        });
    }
}

#[test]
fn catches_a_balance_that_no_transfer_leaves() {
    caught("wrong-read", Workload::Bank, |history, done| {
        for read in done.iter().rev() {
            if let Op::ReadAccounts = read.op
                && let Data::Versions(versions) = &mut reply(history, read.completed).data
            {
                let acknowledged = |version: &Version| {
                    done.iter()
                        .any(|write| write.writes() && write.reply.revision == version.modified)
                };
                let version = versions
                    .iter_mut()
                    .find(|(_, version)| acknowledged(version));
                if let Some((_, version)) = version {
                    let Value::Number(held) = &mut version.value else {
                        panic!("{version:?} is no balance");
                    };
                    *held += 1;
                    return true;
                }
            }
        }
        false
    });
}

#[test]
fn catches_a_revision_that_no_write_made() {
    caught("unexplained-revision", Workload::Set, |history, done| {
        // From one moment on, every revision is one too many more than there are unknown writes.
        let unknown = history.operations().unwrap();
        let unknown = unknown
            .iter()
            .filter(|operation| operation.outcome == Outcome::Unknown)
            .count() as i64;
        for operation in done {
            let shift = unknown + 1;
            if operation.reply.revision > 50 {
                let reply = reply(history, operation.completed);
                reply.revision += shift;
                if let Data::Versions(versions) = &mut reply.data {
                    for (_, version) in versions {
                        if version.modified > 50 {
                            version.modified += shift;
                            version.create += shift;
                        }
                    }
                }
            }
        }
        true
    });
}
