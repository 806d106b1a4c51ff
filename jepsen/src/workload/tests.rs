//! What holds for every stream of operations.

use std::{collections::HashSet, time::Duration};

use super::*;
use crate::history::Step;

fn settings(workload: Workload, seed: u64) -> Settings {
    Settings {
        workload,
        seed,
        concurrency: 5,
        keys: workload.default_keys(),
        operations_per_key: 100,
        value_bytes: 16,
        timeout: Duration::from_secs(1),
    }
}

fn draw(settings: &Settings, worker: u64, count: usize) -> Vec<Op> {
    let mut generator = Generator::new(settings, worker);
    (0..count).map(|_| generator.draw()).collect()
}

#[test]
fn a_seed_repeats_its_operations_and_another_does_not() {
    for workload in Workload::ALL {
        let once = draw(&settings(workload, 7), 3, 500);
        assert_eq!(once, draw(&settings(workload, 7), 3, 500), "{workload}");
        assert_ne!(once, draw(&settings(workload, 8), 3, 500), "{workload}");
        assert_ne!(once, draw(&settings(workload, 7), 4, 500), "{workload}");
    }
}

#[test]
fn no_value_is_written_twice() {
    for workload in Workload::ALL {
        let mut seen = HashSet::new();
        for worker in 0..5 {
            for op in draw(&settings(workload, 1), worker, 2_000) {
                let values = match op {
                    Op::Write { value, .. } => vec![value],
                    Op::Cas { new, .. } => vec![new],
                    Op::Add { element, .. } => vec![element],
                    Op::Increment { id, .. } => vec![id],
                    Op::Txn { steps } => steps
                        .iter()
                        .filter_map(|step| match step {
                            Step::Append { value, .. } => Some(*value),
                            Step::Read { .. } => None,
                        })
                        .collect(),
                    _ => vec![],
                };
                for value in values {
                    assert!(seen.insert(value), "{workload}: {value} is drawn twice");
                }
            }
        }
    }
}

#[test]
fn keys_are_given_up_after_their_operations() {
    let settings = settings(Workload::Register, 1);
    let mut by_key = std::collections::HashMap::new();
    for worker in 0..settings.concurrency {
        for op in draw(&settings, worker, 4_000) {
            if let Op::Read { key, .. } | Op::Write { key, .. } | Op::Delete { key } = op {
                *by_key.entry(key).or_insert(0) += 1;
            }
        }
    }
    assert!(by_key.len() > 100, "{} keys", by_key.len());
    let most = by_key.values().max().copied().unwrap_or(0);
    assert!(most < 200, "{most} operations on one key");
}

#[test]
fn final_reads_cover_all_that_was_used() {
    for workload in Workload::ALL {
        let settings = settings(workload, 1);
        let used = draw(&settings, 0, 300);
        let reads = final_reads(&settings, &[1, 2, 3], used.iter());
        assert!(!reads.is_empty(), "{workload}");
        let through: HashSet<_> = reads.iter().map(|(node, _)| *node).collect();
        assert_eq!(through.len(), 3, "{workload} reads through every node");
    }
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = "regster".parse::<Workload>().unwrap_err();
    assert!(
        error.contains("register") && error.contains("counter-retry"),
        "{error}"
    );
}
