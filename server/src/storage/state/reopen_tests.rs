//! A state that is closed and opened again in one process, whatever is on its way down at that moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use holdfast_mvcc::Reader as _;
use tokio::task::JoinHandle;

use super::generation;
use super::tests::{
    Gated, Model, Seeded, contents, open_database, options, put, records_of, wait_until,
};
use super::*;
use crate::storage::engine::{Batch, Engine, OpenEngine, Scan};
use crate::storage::fault_engine::{Fault, FaultDisk};
use crate::storage::lsm_engine::Lsm;
use crate::storage::memory_engine::MemoryDisk;

/// Writes one record and marks it.
fn write(store: &StateStore, index: u64, key: &str) {
    store.write(vec![put(key, &index.to_string())]).unwrap();
    store
        .mark_applied(index, format!("mark {index}").into())
        .unwrap();
}

fn keys(store: &StateStore) -> Vec<String> {
    let keys = contents(&store.view()).into_keys();
    keys.map(|key| String::from_utf8(key.to_vec()).unwrap())
        .collect()
}

fn closing(store: &StateStore) -> JoinHandle<Result<(), StateError>> {
    let store = store.clone();
    tokio::spawn(async move { store.close().await })
}

fn until_closing(store: &StateStore) {
    wait_until("it takes no writes", || {
        store.group.check_not_closing().is_err()
    });
}

/// A store with a table at the gate, which holds `b`, and one above it, which holds `c`.
async fn with_three_layers(gated: &Gated, database: &Database) -> StateStore {
    gated.set_open(true);
    let store = database.group(1).unwrap();
    write(&store, 1, "a");
    store.flush().await.unwrap();
    gated.set_open(false);
    write(&store, 2, "b");
    let flushed = store.clone();
    tokio::spawn(async move { flushed.flush().await });
    wait_until("a table at the gate", || gated.waiting() == 1);
    write(&store, 3, "c");
    assert!(store.view().0.frozen.is_some());
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_closed_while_its_table_goes_down_is_opened_with_all_that_was_marked() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    let database = open_database(dir.path(), &options(gated.clone()));
    let store = with_three_layers(&gated, &database).await;
    let view = store.view();
    let closing = closing(&store);
    until_closing(&store);
    assert!(matches!(
        store.write(vec![put("d", "4")]),
        Err(StateError::Closed)
    ));
    assert!(matches!(
        store.mark_applied(4, Bytes::new()),
        Err(StateError::Closed)
    ));
    // Its readers go on for as long as it is on its way down.
    assert_eq!(keys(&store), ["a", "b", "c"]);
    assert!(!closing.is_finished() && !store.is_closed());
    gated.set_open(true);
    closing.await.unwrap().unwrap();
    assert_eq!(*store.durable_applied().borrow(), 3);
    assert_eq!(store.applied_index(), 3, "what it was stays known");
    assert!(matches!(view.get(b"a"), Err(StateError::Closed)));
    assert!(matches!(view.first(b"a", b"z"), Err(StateError::Closed)));
    let scanned: Vec<_> = view.scan(b"a", b"z").collect();
    assert!(matches!(scanned[..], [Err(StateError::Closed)]));
    assert!(matches!(store.wait_for_room().await, Ok(())));

    let again = database.group(1).unwrap();
    assert_eq!(keys(&again), ["a", "b", "c"]);
    assert_eq!(
        (again.applied_index(), again.applied_record()),
        (3, Some("mark 3".into()))
    );
    write(&again, 4, "d");
    assert_eq!(again.flush().await.unwrap(), 4);
    assert_eq!(keys(&again), ["a", "b", "c", "d"]);
    assert_eq!(database.table_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_the_last_mark_is_given_up_and_who_waits_for_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    let database = open_database(dir.path(), &options(gated.clone()));
    let store = with_three_layers(&gated, &database).await;
    store.write(vec![put("unmarked", "x")]).unwrap();
    let waiting = store.clone();
    let waiting = tokio::spawn(async move { waiting.flush().await });
    let closing = closing(&store);
    gated.set_open(true);
    closing.await.unwrap().unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(matches!(told.unwrap().unwrap(), Err(StateError::Closed)));
    // The log has the rest: the entry of `c` lies in one table with that which was not finished.
    let again = database.group(1).unwrap();
    assert_eq!((again.applied_index(), keys(&again).len()), (2, 2));
    assert_eq!(database.table_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_can_be_broken_off_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    let database = open_database(dir.path(), &options(gated.clone()));
    let store = with_three_layers(&gated, &database).await;
    let late = tokio::time::timeout(Duration::from_millis(20), store.close()).await;
    assert!(late.is_err() && !store.is_closed());
    assert!(store.write(vec![put("d", "4")]).is_err());
    gated.set_open(true);
    for _ in 0..2 {
        store.close().await.unwrap();
    }
    assert_eq!(database.group(1).unwrap().applied_index(), 3);
}

#[tokio::test]
async fn a_failure_ends_the_closing_and_nothing_is_opened_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::default();
    let database = open_database(dir.path(), &options(disk.clone()));
    let store = database.group(1).unwrap();
    write(&store, 1, "a");
    disk.plan(Fault::FailAt(0));
    let closed = tokio::time::timeout(Duration::from_secs(10), store.close());
    assert!(matches!(
        closed.await.unwrap(),
        Err(StateError::Poisoned { .. })
    ));
    assert!(store.is_closed());
    assert!(matches!(
        database.group(1),
        Err(StateError::Poisoned { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_under_way_ends_before_the_state_is_closed_and_is_not_seen_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let database = open_database(dir.path(), &options(disk.clone()));
    let store = database.group(1).unwrap();
    write(&store, 1, "old");
    store.close().await.unwrap();
    // One that is being loaded, and one that is loaded.
    for loaded in [false, true] {
        let store = database.group(1).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (began, is_loading) = std::sync::mpsc::channel();
        let loading = thread::spawn({
            let (store, stopped) = (store.clone(), stopped.clone());
            move || {
                let wait = || {
                    began.send(()).unwrap();
                    while !stopped.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(1));
                    }
                };
                let replacement = store.load::<StateError>(|loader| {
                    loader.write([put("new", "x")])?;
                    loader.mark_applied(9, Bytes::new());
                    if !loaded {
                        wait();
                    }
                    Ok(())
                })?;
                if loaded {
                    wait();
                }
                replacement.commit().map(drop)
            }
        });
        is_loading.recv().unwrap();
        let closing = closing(&store);
        until_closing(&store);
        assert!(!closing.is_finished(), "somebody is still loading");
        stopped.store(true, Ordering::SeqCst);
        closing.await.unwrap().unwrap();
        assert!(matches!(loading.join().unwrap(), Err(StateError::Closed)));
        let refused = store.load::<StateError>(|_| Ok(()));
        assert!(matches!(refused, Err(StateError::Closed)));
        let again = database.group(1).unwrap();
        assert_eq!(
            (again.applied_index(), keys(&again)),
            (1, vec!["old".into()])
        );
        wait_until("the half is removed", || {
            records_of(&again, 1, generation::FIRST + 1) == 0
        });
        again.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_group_is_not_brought_back_by_a_replacement_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_database(dir.path(), &options(MemoryDisk::default()));
    let (store, other) = (database.group(1).unwrap(), database.group(2).unwrap());
    write(&store, 1, "old");
    store.flush().await.unwrap();
    let (began, is_loaded) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel();
    let loading = thread::spawn({
        let store = store.clone();
        move || {
            let replacement = store.load::<StateError>(|loader| {
                loader.mark_applied(9, Bytes::new());
                loader.write([put("new", "x")])
            })?;
            began.send(()).unwrap();
            stopped.recv().unwrap();
            replacement.commit().map(drop)
        }
    });
    is_loaded.recv().unwrap();
    let dropping = thread::spawn({
        let (database, store) = (database.clone(), store.clone());
        move || database.drop_group(store)
    });
    until_closing(&store);
    stop.send(()).unwrap();
    assert!(matches!(loading.join().unwrap(), Err(StateError::Closed)));
    dropping.join().unwrap().unwrap();
    drop(store);
    assert_eq!(database.groups(), [2]);
    for number in [generation::FIRST, generation::FIRST + 1] {
        wait_until("nothing is left of it", || {
            records_of(&other, 1, number) == 0
        });
    }
}

/// An engine whose batches take a little while, each its own.
#[derive(Clone)]
struct Sluggish(Arc<dyn OpenEngine>);

struct SluggishEngine(Box<dyn Engine>);

impl OpenEngine for Sluggish {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(SluggishEngine(self.0.open(dir)?)))
    }
}

impl Engine for SluggishEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(key)
    }
    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        self.0.scan(start, end)
    }
    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        thread::sleep(Duration::from_micros(300 * (batch.len() as u64 % 7)));
        self.0.apply_batch(batch)
    }
    fn load(&self, batch: Batch) -> Result<(), EngineError> {
        self.0.load(batch)
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

/// One group that is written to, closed and opened again, and what it is to hold.
struct Played {
    id: u64,
    store: StateStore,
    model: Model,
    index: u64,
    /// What was written since the last mark.
    unmarked: Model,
}

impl Played {
    fn write(&mut self, random: &mut Seeded) {
        for _ in 0..=random.below(20) {
            let key = format!("key {:02}", random.below(60));
            let write = put(&key, &format!("{} {}", self.id, random.next()));
            let value = write.value.clone().unwrap();
            self.unmarked.insert(write.key.clone(), value);
            self.store.write(vec![write]).unwrap();
        }
        if random.below(8) == 0 {
            return;
        }
        self.index += 1;
        self.store
            .mark_applied(self.index, self.index.to_string().into())
            .unwrap();
        self.model.append(&mut self.unmarked);
    }

    /// Back to what is durable, as the log would bring it forward again.
    fn check(&self, seed: u64) {
        assert_eq!(self.store.applied_index(), self.index, "seed {seed}");
        assert_eq!(contents(&self.store.view()), self.model, "seed {seed}");
    }
}

async fn play(seed: u64, engine: Arc<dyn OpenEngine>) {
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions {
        // Some tables are cut because they are full, some because they are wanted.
        table_bytes_max: 8_000,
        ..options(Sluggish(engine))
    };
    let database = open_database(dir.path(), &options);
    let mut random = Seeded(seed);
    let mut groups: Vec<_> = (1..=3)
        .map(|id| Played {
            id,
            store: database.group(id).unwrap(),
            model: Model::new(),
            index: 0,
            unmarked: Model::new(),
        })
        .collect();
    for _ in 0..120 {
        let played = random.below(3) as usize;
        let group = &mut groups[played];
        match random.below(10) {
            0 | 1 => {
                // What was written since the last mark goes with its table: finished, so that the model is
                // what is marked.
                if !group.unmarked.is_empty() {
                    group.index += 1;
                    let mark = group.index.to_string().into();
                    group.store.mark_applied(group.index, mark).unwrap();
                    let unmarked = std::mem::take(&mut group.unmarked);
                    group.model.extend(unmarked);
                }
                // Others go on beside it.
                let closing = closing(&group.store);
                for other in (0..3).filter(|other| *other != played) {
                    groups[other].store.wait_for_room().await.unwrap();
                    groups[other].write(&mut random);
                }
                closing.await.unwrap().unwrap();
                let group = &mut groups[played];
                group.store = database.group(group.id).unwrap();
                group.check(seed);
            }
            2 if group.unmarked.is_empty() => {
                let flushed = group.store.clone();
                tokio::spawn(async move { flushed.flush().await });
            }
            3 if group.unmarked.is_empty() && random.below(4) == 0 => {
                group.index += 1;
                let (index, model) = (group.index, group.model.clone());
                let replaced = group.store.replace::<StateError>(|loader| {
                    let records = model.into_iter();
                    loader.write(records.map(|(key, value)| Write {
                        key,
                        value: Some(value),
                    }))?;
                    loader.mark_applied(index, index.to_string().into());
                    Ok(())
                });
                replaced.unwrap();
            }
            _ => {
                group.store.wait_for_room().await.unwrap();
                group.write(&mut random);
            }
        }
        for group in groups.iter().filter(|group| group.unmarked.is_empty()) {
            group.check(seed);
        }
    }
    for group in &mut groups {
        group.store.close().await.unwrap();
    }
    assert_eq!(database.table_bytes(), 0, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_that_are_closed_and_opened_many_times_hold_what_was_marked() {
    for seed in 0..25 {
        play(seed, Arc::new(MemoryDisk::default())).await;
    }
    for seed in 100..103 {
        play(seed, Arc::new(Lsm::new(8 << 20, 32))).await;
    }
}
