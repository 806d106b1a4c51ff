//! How a state that is loaded reaches the engine.

use std::sync::atomic::{AtomicU32, Ordering};

use super::generation;
use super::tests::{Model, Seeded, contents, open_database, options, put, records_of, wait_until};
use super::*;
use crate::storage::engine::{Batch, Engine, Load, OpenEngine, Scan};
use crate::storage::lsm_engine::Lsm;

/// Counts what a tree is given.
#[derive(Clone)]
struct Counted {
    engine: Lsm,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    begun: AtomicU32,
    finished: AtomicU32,
    batches: AtomicU32,
}

struct CountedEngine(Box<dyn Engine>, Arc<Counts>);

struct CountedLoad<'a>(Box<dyn Load + 'a>, &'a Counts);

fn count(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Counted {
    fn new() -> Self {
        Counted {
            engine: Lsm::new(8 << 20, 32),
            counts: Arc::default(),
        }
    }

    /// Runs that were begun, and batches of a load, since this was asked last. All runs were finished.
    fn runs_and_batches(&self) -> (u32, u32) {
        let taken = |counter: &AtomicU32| counter.swap(0, Ordering::SeqCst);
        let counts = &self.counts;
        let begun = taken(&counts.begun);
        assert_eq!(begun, taken(&counts.finished));
        (begun, taken(&counts.batches))
    }
}

impl OpenEngine for Counted {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        let engine = self.engine.open(dir)?;
        Ok(Box::new(CountedEngine(engine, self.counts.clone())))
    }
}

impl Engine for CountedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(key)
    }
    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        self.0.scan(start, end)
    }
    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        self.0.apply_batch(batch)
    }
    fn load(&self, batch: Batch) -> Result<(), EngineError> {
        // Those of the sweeper are deletions.
        if batch.iter().any(|(_, value)| value.is_some()) {
            count(&self.1.batches);
        }
        self.0.load(batch)
    }
    fn begin_load(&self) -> Result<Option<Box<dyn Load + '_>>, EngineError> {
        count(&self.1.begun);
        let load = self
            .0
            .begin_load()?
            .expect("a tree takes records one by one");
        Ok(Some(Box::new(CountedLoad(load, &self.1))))
    }
    fn release(&self, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
        self.0.release(start, end)
    }
    fn sync(&self) -> Result<(), EngineError> {
        self.0.sync()
    }
    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.0.disk_bytes()
    }
}

impl Load for CountedLoad<'_> {
    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<(), EngineError> {
        self.0.write(key, value)
    }
    fn finish(self: Box<Self>) -> Result<(), EngineError> {
        count(&self.1.finished);
        self.0.finish()
    }
}

/// Replaces a state by these records, in this order.
fn replace(store: &StateStore, records: &[Write]) {
    let replaced = store.replace::<StateError>(|loader| {
        loader.mark_applied(store.applied_index() + 1, Bytes::new());
        for records in records.chunks(7) {
            loader.write(records.iter().cloned())?;
        }
        Ok(())
    });
    replaced.unwrap();
}

fn model(records: &[Write]) -> Model {
    let pairs = records.iter().cloned();
    pairs
        .map(|Write { key, value }| (key, value.unwrap()))
        .collect()
}

#[tokio::test]
async fn a_state_in_the_order_of_its_keys_is_one_run_and_any_other_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Counted::new();
    let options = StateOptions {
        load_bytes_max: 1_000,
        ..options(engine.clone())
    };
    let database = open_database(dir.path(), &options);
    let store = database.group(1).unwrap();
    let sorted: Vec<_> = (0..2_000)
        .map(|n| put(&format!("key {n:05}"), &format!("value {n}")))
        .collect();
    replace(&store, &sorted);
    assert_eq!(engine.runs_and_batches(), (1, 0));
    assert_eq!(contents(&store.view()), model(&sorted));

    // As older programs send it: what stands at the end comes before the rest.
    let mut moved = sorted.clone();
    moved.rotate_right(300);
    replace(&store, &moved);
    assert_eq!(engine.runs_and_batches(), (2, 0));
    assert_eq!(contents(&store.view()), model(&sorted));

    // In no order, and with keys that come again: the later one counts.
    let mut random = Seeded(3);
    let any: Vec<_> = (0..3_000)
        .map(|n| put(&format!("key {:05}", random.below(900)), &n.to_string()))
        .collect();
    replace(&store, &any);
    let (runs, batches) = engine.runs_and_batches();
    assert_eq!(runs, limits::LOAD_RUNS_MAX);
    assert!(batches > 10, "{batches}");
    assert_eq!(contents(&store.view()), model(&any));

    // Nothing but the mark.
    replace(&store, &[]);
    assert_eq!(engine.runs_and_batches(), (0, 0));
    assert!(contents(&store.view()).is_empty());
    drop((store, database));
    let store = open_database(dir.path(), &options).group(1).unwrap();
    assert_eq!(
        (store.applied_index(), contents(&store.view()).len()),
        (4, 0)
    );
}

#[tokio::test]
async fn a_load_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Counted::new();
    let database = open_database(dir.path(), &options(engine.clone()));
    let store = database.group(1).unwrap();
    replace(&store, &[put("key", "old")]);
    engine.runs_and_batches();
    let given_up = store.replace::<StateError>(|loader| {
        loader.write((0..2_000).map(|n| put(&format!("key {n:05}"), "new")))?;
        Err(StateError::Unmarked)
    });
    assert!(given_up.is_err());
    assert_eq!(
        engine.runs_and_batches(),
        (1, 0),
        "so that it can be removed"
    );
    assert_eq!(contents(&store.view()).len(), 1);
    for number in [generation::FIRST, generation::FIRST + 2] {
        wait_until("the rest is removed", || records_of(&store, 1, number) == 0);
    }
}

#[tokio::test]
async fn each_group_is_told_its_own_size() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_database(dir.path(), &options(Lsm::new(8 << 20, 32)));
    let [small, large, empty] = [1, 2, 3].map(|group| database.group(group).unwrap());
    let write = |store: &StateStore, records: u32| {
        let writes = (0..records).map(|n| put(&format!("key {n:05}"), &format!("{n:0200}")));
        store.write(writes.collect()).unwrap();
        store.mark_applied(1, Bytes::new()).unwrap();
    };
    write(&small, 10);
    write(&large, 3_000);
    let in_memory = [&small, &large].map(|store| store.size_bytes().unwrap());
    assert_eq!(in_memory, [10 * 209, 3_000 * 209]);
    small.flush().await.unwrap();
    large.flush().await.unwrap();
    let sizes = [&small, &large, &empty].map(|store| store.size_bytes().unwrap());
    assert!(sizes[0] >= 10 * 209 && sizes[0] < 5_000, "{sizes:?}");
    assert!(sizes[1] > 20 * sizes[0], "{sizes:?}");
    assert_eq!(sizes[2], 0);
}
