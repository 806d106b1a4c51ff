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

#[tokio::test]
async fn after_a_crash_the_state_is_that_of_a_mark_not_older_than_the_published_one() {
    let (mut flushed_seeds, mut lost_seeds) = (0, 0);
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::default();
        let mut run = Run {
            random: Seeded(seed),
            model: Model::new(),
            marked: HashMap::from([(0, Model::new())]),
            index: 0,
        };
        for crash in 0..CRASHES {
            let context = format!("seed {seed} crash {crash}");
            let options = StateOptions {
                table_bytes_max: 500 + run.random.below(4_000),
                load_bytes_max: 200,
                flush_interval: Duration::from_secs(3600),
                engine: Arc::new(disk.clone()),
            };
            let opened = StateStore::open(dir.path(), options.clone()).unwrap();
            assert_eq!(opened.moved_aside, None, "{context}");
            let store = opened.store;
            let durable = store.durable_applied();
            let opened_at = *durable.borrow();
            let keep = run.random.below(3) as usize;
            if run.random.below(4) > 0 {
                disk.plan(Fault::CrashAt {
                    operations: run.random.below(25),
                    keep,
                });
            }
            for _ in 0..run.random.below(120) {
                if run.step(&store).await.is_err() {
                    break;
                }
            }
            if !disk.is_crashed() {
                disk.crash(keep);
            }
            let published = *durable.borrow();
            drop(store);
            disk.restart();

            let opened = StateStore::open(dir.path(), options).unwrap();
            assert_eq!(opened.moved_aside, None, "{context}");
            let index = opened.store.applied_index();
            assert!(
                index >= published,
                "{context}: {index} after {published} was published"
            );
            let expected = run.marked.get(&index);
            let expected = expected.unwrap_or_else(|| panic!("{context}: {index} was no mark"));
            assert_eq!(
                &contents(&opened.store.view()),
                expected,
                "{context} at mark {index}"
            );
            if index > 0 {
                let record = opened.store.applied_record().unwrap();
                assert_eq!(record, format!("record {index}"), "{context}");
            }
            flushed_seeds += u64::from(published > opened_at);
            lost_seeds += u64::from(index < run.index);
            run.model = expected.clone();
            run.index = index;
        }
    }
    // The runs are of use only if they flush, and lose something, often enough.
    assert!(
        flushed_seeds > SEEDS,
        "{flushed_seeds} of {} runs flushed",
        SEEDS * CRASHES
    );
    assert!(
        lost_seeds > SEEDS,
        "{lost_seeds} of {} runs lost a tail",
        SEEDS * CRASHES
    );
}
