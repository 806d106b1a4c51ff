//! Crashes at chosen points of an engine that loses what was not synced, over many seeds: after each,
//! the state is exactly that of one mark, and none older than was published as durable.

use std::collections::HashMap;

use super::tests::{Model, Seeded, contents};
use super::*;
use crate::storage::fault_engine::{Fault, FaultDisk};

const SEEDS: u64 = 250;
const CRASHES: u64 = 3;

struct Run {
    random: Seeded,
    /// What is in the store, and every state that was marked.
    model: Model,
    marked: HashMap<u64, Model>,
    index: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        Run {
            random: Seeded(seed),
            model: Model::new(),
            marked: HashMap::from([(0, Model::new())]),
            index: 0,
        }
    }

    fn some_writes(&mut self) -> Vec<Write> {
        let count = self.random.below(8);
        (0..count)
            .map(|_| {
                let key = Bytes::from(format!("k{:02}", self.random.below(40)));
                let value = (self.random.below(4) > 0).then(|| {
                    let filler = "x".repeat(self.random.below(60) as usize);
                    Bytes::from(format!("{}{filler}", self.random.next()))
                });
                match &value {
                    Some(value) => self.model.insert(key.clone(), value.clone()),
                    None => self.model.remove(&key),
                };
                Write { key, value }
            })
            .collect()
    }

    fn next_mark(&mut self, step: u64) -> (u64, Bytes) {
        self.index += step;
        self.marked.insert(self.index, self.model.clone());
        (self.index, Bytes::from(format!("record {}", self.index)))
    }

    /// One thing a state machine does; an error means that the crash has come.
    async fn step(&mut self, store: &StateStore) -> Result<(), StateError> {
        match self.random.below(40) {
            0 => {
                // A snapshot of a later state.
                self.model.retain(|_, value| value[0] % 2 == 0);
                let writes = self.some_writes();
                let mut records: Vec<Write> = Vec::new();
                for (key, value) in &self.model {
                    records.push(Write {
                        key: key.clone(),
                        value: Some(value.clone()),
                    });
                }
                drop(writes);
                let (index, record) = self.next_mark(100);
                store.replace::<StateError>(|loader| {
                    loader.mark_applied(index, record);
                    loader.write(records)
                })
            }
            1 | 2 => store.flush().await.map(drop),
            _ => {
                for _ in 0..1 + self.random.below(3) {
                    let writes = self.some_writes();
                    store.write(writes)?;
                }
                let (index, record) = self.next_mark(1);
                store.mark_applied(index, record)?;
                store.wait_for_room().await
            }
        }
    }
}

/// Groups in one database: each must come back by itself.
const GROUPS: u64 = 3;

#[tokio::test]
async fn after_a_crash_each_state_is_that_of_a_mark_not_older_than_the_published_one() {
    let (mut flushed_groups, mut lost_groups, mut dropped_groups) = (0, 0, 0);
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::default();
        let mut random = Seeded(seed);
        let mut runs: Vec<Run> = (0..GROUPS).map(|n| Run::new(seed * GROUPS + n)).collect();
        for crash in 0..CRASHES {
            let context = format!("seed {seed} crash {crash}");
            let options = StateOptions {
                table_bytes_max: 500 + random.below(8_000),
                load_bytes_max: 200,
                flush_interval: Duration::from_secs(3600),
                engine: Arc::new(disk.clone()),
            };
            let (database, moved_aside) = Database::open(dir.path(), options.clone()).unwrap();
            assert_eq!(moved_aside, None, "{context}");
            let mut stores: Vec<StateStore> = (1..=GROUPS)
                .map(|group| database.group(group).unwrap())
                .collect();
            let durable: Vec<_> = stores.iter().map(StateStore::durable_applied).collect();
            let opened_at: Vec<u64> = durable.iter().map(|durable| *durable.borrow()).collect();
            let keep = random.below(3) as usize;
            if random.below(4) > 0 {
                disk.plan(Fault::CrashAt {
                    operations: random.below(40),
                    keep,
                });
            }
            let mut dropped = None;
            for _ in 0..random.below(240) {
                let n = random.below(GROUPS) as usize;
                if dropped == Some(n) {
                    continue;
                }
                if dropped.is_none() && crash == CRASHES - 1 && random.below(200) == 0 {
                    dropped = Some(n);
                    let store = stores[n].clone();
                    if database.drop_group(store).is_err() {
                        break;
                    }
                    dropped_groups += 1;
                    continue;
                }
                if runs[n].step(&stores[n]).await.is_err() {
                    break;
                }
            }
            if !disk.is_crashed() {
                disk.crash(keep);
            }
            let published: Vec<u64> = durable.iter().map(|durable| *durable.borrow()).collect();
            stores.clear();
            drop(database);
            disk.restart();

            let (database, moved_aside) = Database::open(dir.path(), options).unwrap();
            assert_eq!(moved_aside, None, "{context}");
            for (n, run) in runs.iter_mut().enumerate() {
                let context = format!("{context} group {}", n + 1);
                let store = database.group(n as u64 + 1).unwrap();
                let index = store.applied_index();
                // One whose dropping failed with the crash may be there or not.
                if dropped == Some(n) && index == 0 {
                    assert!(contents(&store.view()).is_empty(), "{context}");
                    continue;
                }
                assert!(
                    index >= published[n],
                    "{context}: {index} after {} was published",
                    published[n]
                );
                let expected = run.marked.get(&index);
                let expected = expected.unwrap_or_else(|| panic!("{context}: {index} was no mark"));
                assert_eq!(
                    &contents(&store.view()),
                    expected,
                    "{context} at mark {index}"
                );
                if index > 0 {
                    let record = store.applied_record().unwrap();
                    assert_eq!(record, format!("record {index}"), "{context}");
                }
                flushed_groups += u64::from(published[n] > opened_at[n]);
                lost_groups += u64::from(index < run.index);
                run.model = expected.clone();
                run.index = index;
            }
        }
    }
    // The runs are of use only if they flush, and lose something, often enough.
    let all = SEEDS * CRASHES * GROUPS;
    assert!(
        flushed_groups > all / 3,
        "{flushed_groups} of {all} flushed"
    );
    assert!(lost_groups > all / 3, "{lost_groups} of {all} lost a tail");
    assert!(dropped_groups > SEEDS / 10, "{dropped_groups} were dropped");
}
