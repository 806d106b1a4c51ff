//! Several groups in one database: what they share, and what they must not.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::generation::{self, Prefix};
use super::tests::{Gated, Seeded, contents, open_database, options, put, records_of, wait_until};
use super::*;
use crate::storage::engine::{Batch, Engine, OpenEngine, Scan};
use crate::storage::fault_engine::{Fault, FaultDisk};
use crate::storage::lsm_engine::Lsm;
use crate::storage::memory_engine::MemoryDisk;
use crate::storage::sled_engine::Sled;

/// Writes one record and marks it.
fn write(store: &StateStore, index: u64, value: &str) {
    store.write(vec![put("key", value)]).unwrap();
    store
        .mark_applied(index, format!("mark {index}").into())
        .unwrap();
}

fn value(store: &StateStore) -> Option<Bytes> {
    contents(&store.view()).get(&b"key"[..]).cloned()
}

#[tokio::test]
async fn groups_keep_to_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let database = open_database(dir.path(), &options(disk.clone()));
    let stores: Vec<_> = (1..=3)
        .map(|group| database.group(group).unwrap())
        .collect();
    for (n, store) in stores.iter().enumerate() {
        write(store, 10 + n as u64, &format!("of {n}"));
    }
    join_all(stores[..2].iter().map(StateStore::flush)).await;
    drop((database, stores));
    let database = open_database(dir.path(), &options(disk));
    assert_eq!(database.groups(), [1, 2], "the third was never flushed");
    for n in 0..3u64 {
        let store = database.group(n + 1).unwrap();
        let flushed = n < 2;
        assert_eq!(store.applied_index(), if flushed { 10 + n } else { 0 });
        assert_eq!(value(&store), flushed.then(|| format!("of {n}").into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_together_goes_down_together() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    gated.set_open(true);
    let database = open_database(dir.path(), &options(gated.clone()));
    let stores: Vec<_> = (1..=30)
        .map(|group| database.group(group).unwrap())
        .collect();
    gated.set_open(false);
    let before = gated.batches();
    let first = {
        let store = stores[0].clone();
        write(&store, 1, "x");
        tokio::spawn(async move { store.flush().await })
    };
    wait_until("the first batch is at the gate", || gated.waiting() == 1);
    let others: Vec<_> = stores[1..]
        .iter()
        .map(|store| {
            write(store, 1, "x");
            let store = store.clone();
            tokio::spawn(async move { store.flush().await })
        })
        .collect();
    wait_until("all tables are cut", || {
        stores.iter().all(|store| store.view().0.frozen.is_some())
    });
    gated.set_open(true);
    for flushed in [first].into_iter().chain(others) {
        assert_eq!(flushed.await.unwrap().unwrap(), 1);
    }
    assert_eq!(gated.batches() - before, 2, "batches for 30 groups");
}

#[tokio::test]
async fn tables_share_one_budget() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_database(
        dir.path(),
        &StateOptions {
            table_bytes_max: 10_000,
            ..options(MemoryDisk::default())
        },
    );
    let silent = database.group(1).unwrap();
    let busy = database.group(2).unwrap();
    write(&silent, 1, &"x".repeat(9_000));
    assert_eq!(*silent.durable_applied().borrow(), 0);
    write(&busy, 1, &"x".repeat(2_000));
    // The busy one is over the budget of both, and the silent one holds the most of it.
    for store in [&silent, &busy] {
        let mut durable = store.durable_applied();
        let wait = durable.wait_for(|&index| index == 1);
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap()
            .unwrap();
    }
    wait_until("the tables are empty", || database.table_bytes() == 0);
}

#[tokio::test]
async fn what_a_table_holds_is_counted_once_whatever_becomes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_database(dir.path(), &options(MemoryDisk::default()));
    let store = database.group(1).unwrap();
    write(&store, 1, "some value");
    write(&store, 2, "less");
    assert_eq!(database.table_bytes(), store.table_bytes());
    store
        .replace::<StateError>(|loader| {
            loader.mark_applied(5, Bytes::new());
            Ok(())
        })
        .unwrap();
    assert_eq!(database.table_bytes(), 0);
    write(&store, 6, "more");
    drop(store);
    // The flusher may hold the group for a moment.
    wait_until("nothing is counted", || database.table_bytes() == 0);
}

#[tokio::test]
async fn a_dropped_group_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let database = open_database(dir.path(), &options(disk.clone()));
    let (kept, dropped) = (database.group(1).unwrap(), database.group(2).unwrap());
    for store in [&kept, &dropped] {
        write(store, 1, "flushed");
        store.flush().await.unwrap();
        write(store, 2, "not flushed");
    }
    assert_eq!(records_of(&kept, 2, generation::FIRST), 2);
    let view = dropped.view();
    database.drop_group(dropped).unwrap();
    assert_eq!(database.groups(), [1]);
    assert_eq!(
        view.0.base.get(b"key").unwrap().unwrap(),
        "flushed",
        "still being read"
    );
    drop(view);
    wait_until("the records are removed", || {
        records_of(&kept, 2, generation::FIRST) == 0
    });
    assert_eq!(kept.flush().await.unwrap(), 2);
    let again = database.group(2).unwrap();
    assert_eq!((again.applied_record(), value(&again)), (None, None));
    drop((kept, again, database));
    assert_eq!(open_database(dir.path(), &options(disk)).groups(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_on_its_way_down_does_not_bring_a_dropped_group_back() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    gated.set_open(true);
    let database = open_database(dir.path(), &options(gated.clone()));
    let (other, dropped) = (database.group(1).unwrap(), database.group(2).unwrap());
    write(&dropped, 1, "x");
    dropped.flush().await.unwrap();
    gated.set_open(false);
    write(&other, 1, "x");
    let first = tokio::spawn({
        let other = other.clone();
        async move { other.flush().await }
    });
    wait_until("the first batch is at the gate", || gated.waiting() == 1);
    write(&dropped, 2, "y");
    let second = tokio::spawn({
        let dropped = dropped.clone();
        async move { dropped.flush().await }
    });
    wait_until("the table is cut", || dropped.view().0.frozen.is_some());
    second.abort();
    let dropping = tokio::task::spawn_blocking({
        let (database, dropped) = (database.clone(), dropped.clone());
        move || database.drop_group(dropped)
    });
    gated.set_open(true);
    first.await.unwrap().unwrap();
    dropping.await.unwrap().unwrap();
    drop(dropped);
    write(&other, 2, "x");
    other.flush().await.unwrap();
    wait_until("nothing is left of it", || {
        records_of(&other, 2, generation::FIRST) == 0
    });
    assert_eq!(database.groups(), [1]);
}

#[tokio::test]
async fn what_a_crash_left_half_loaded_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::default();
    let options = StateOptions {
        load_bytes_max: 1,
        ..options(disk.clone())
    };
    let database = open_database(dir.path(), &options);
    let store = database.group(1).unwrap();
    write(&store, 1, "old");
    store.flush().await.unwrap();
    // That it is garbage is durable; two of its records are, the third is lost.
    disk.plan(Fault::CrashAt {
        operations: 4,
        keep: 2,
    });
    let result = store.replace::<StateError>(|loader| {
        loader.mark_applied(2, Bytes::new());
        loader.write(["a", "b", "c"].map(|key| put(key, "new")))
    });
    assert!(result.is_err() && disk.is_crashed());
    drop((store, database));
    disk.restart();
    let database = open_database(dir.path(), &options);
    let store = database.group(1).unwrap();
    assert_eq!(value(&store).unwrap(), "old");
    wait_until("the half is removed", || {
        records_of(&store, 1, generation::FIRST + 1) == 0
    });
    store
        .replace::<StateError>(|loader| {
            loader.mark_applied(2, Bytes::new());
            loader.write([put("key", "new")])
        })
        .unwrap();
    assert_eq!(value(&store).unwrap(), "new");
}

#[tokio::test]
async fn a_failed_write_ends_all_groups_and_a_failed_read_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::default();
    let database = open_database(dir.path(), &options(disk.clone()));
    let stores: Vec<_> = (1..=3)
        .map(|group| database.group(group).unwrap())
        .collect();
    stores[0].give_up(&StateError::Unmarked);
    assert!(stores[0].write(vec![put("a", "1")]).is_err());
    write(&stores[1], 1, "goes on");
    assert_eq!(stores[1].flush().await.unwrap(), 1);
    disk.plan(Fault::FailAt(0));
    write(&stores[1], 2, "does not");
    assert!(stores[1].flush().await.is_err());
    for store in &stores {
        let failed = tokio::time::timeout(Duration::from_secs(10), store.failed());
        failed.await.unwrap();
        assert!(store.write(vec![put("a", "1")]).is_err());
    }
}

#[tokio::test]
async fn a_damaged_database_is_moved_aside_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let database = open_database(dir.path(), &options(disk.clone()));
    let store = database.group(1).unwrap();
    write(&store, 1, "x");
    store.flush().await.unwrap();
    database
        .start_over_next_time("a block of group 1 has a bad checksum")
        .unwrap();
    drop((store, database));
    let (database, moved) = Database::open(dir.path(), options(disk.clone())).unwrap();
    let moved = moved.unwrap();
    assert_eq!(moved.reason, "a block of group 1 has a bad checksum");
    assert!(moved.path.join("db-1").exists());
    assert!(database.groups().is_empty());
    drop(database);
    open_database(dir.path(), &options(disk));
}

/// An engine whose writes panic, as one in which a lock is broken.
struct Panics;

impl OpenEngine for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn open(&self, _: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Panics))
    }
}

impl Engine for Panics {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }
    fn scan<'a>(&'a self, _: &[u8], _: &[u8]) -> Scan<'a> {
        Box::new(std::iter::empty())
    }
    fn apply_batch(&self, _: Batch) -> Result<(), EngineError> {
        panic!("a lock is broken")
    }
    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }
    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_panic_of_the_flusher_ends_the_database_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_database(dir.path(), &options(Panics));
    let store = database.group(1).unwrap();
    write(&store, 1, "x");
    let flushed = tokio::time::timeout(Duration::from_secs(10), store.flush());
    let error = flushed.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("state-flush: a lock is broken"), "{error}");
    let failure = store.failed().await;
    assert!(!failure.damaged, "{failure:?}");
}

/// What an engine holds after it has failed is not known, whatever it was doing.
#[tokio::test]
async fn a_failed_load_ends_the_database() {
    // That the new state is garbage is written by the first two.
    for operation in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::default();
        let database = open_database(dir.path(), &options(disk.clone()));
        let (loading, other) = (database.group(1).unwrap(), database.group(2).unwrap());
        disk.plan(Fault::FailAt(operation));
        let result = loading.replace::<StateError>(|loader| {
            loader.mark_applied(2, Bytes::new());
            loader.write([put("key", "new")])
        });
        assert!(result.is_err(), "operation {operation}");
        let operations = disk.operations();
        assert!(
            other.write(vec![put("a", "1")]).is_err(),
            "operation {operation}"
        );
        drop((loading, other, database));
        assert_eq!(
            disk.operations(),
            operations,
            "nothing more reaches the disk"
        );
    }
}

/// Counts what is put into it.
#[derive(Default)]
struct Model(std::collections::BTreeMap<Bytes, Bytes>);

impl Model {
    fn fill(&mut self, store: &StateStore) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..200 {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let write = put(&format!("key {}", n % 150), &format!("value {n}"));
            self.0
                .insert(write.key.clone(), write.value.clone().unwrap());
            store.write(vec![write]).unwrap();
        }
        store
            .mark_applied(store.applied_index() + 1, "mark".into())
            .unwrap();
    }
}

#[tokio::test]
async fn a_state_goes_over_to_another_engine_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let engines: [Arc<dyn OpenEngine>; 2] = [
        Arc::new(Sled {
            cache_bytes: 8 << 20,
        }),
        Arc::new(Lsm::new(8 << 20, 32)),
    ];
    let mut models = [Model::default(), Model::default()];
    for round in 0..4 {
        let options = StateOptions {
            engine: engines[round % 2].clone(),
            ..StateOptions::default()
        };
        let database = open_database(dir.path(), &options);
        for (n, model) in models.iter_mut().enumerate() {
            let store = database.group(n as u64 + 1).unwrap();
            assert_eq!(contents(&store.view()), model.0, "round {round}");
            assert_eq!(store.applied_index(), round as u64);
            model.fill(&store);
            store.flush().await.unwrap();
        }
    }
    let databases = std::fs::read_dir(dir.path()).unwrap();
    let names = databases.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["CURRENT", "db-4"], "what was copied is gone");
}

#[tokio::test]
async fn a_state_of_an_unknown_engine_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_database(dir.path(), &options(MemoryDisk::default())));
    let current = dir.path().join("CURRENT");
    std::fs::write(&current, "db-1 tomorrow\n").unwrap();
    let error = Database::open(dir.path(), options(MemoryDisk::default()))
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("made by the engine \"tomorrow\""),
        "{error}"
    );
    assert!(dir.path().join("db-1").exists());
    assert_eq!(std::fs::read_to_string(current).unwrap(), "db-1 tomorrow\n");
}

/// One directory with a database for each group, as it was before.
#[tokio::test]
async fn a_state_of_the_older_layout_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let sled = Sled {
        cache_bytes: 8 << 20,
    };
    for group in [1u64, 2] {
        let home = dir.path().join(format!("group-{group}"));
        std::fs::create_dir_all(home.join("gen-3")).unwrap();
        std::fs::write(home.join("CURRENT"), "gen-3\n").unwrap();
        let engine = sled.open(&home.join("gen-3")).unwrap();
        let mark = Mark {
            index: 40 + group,
            record: "mark".into(),
            sequence: 0,
        };
        let records = vec![
            (Bytes::from_static(MARK_KEY), Some(mark.encode())),
            (
                Bytes::from_static(b"key"),
                Some(format!("of {group}").into()),
            ),
        ];
        // So many that the last alone does not bring all back.
        for _ in 0..3 {
            engine.apply_batch(records.clone()).unwrap();
            engine.sync().unwrap();
        }
    }
    // The first cannot be read: it stays where it is.
    let damaged = dir.path().join("group-1/gen-3/db");
    let mut random = Seeded(1);
    let len = std::fs::metadata(&damaged).unwrap().len();
    let noise: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
    std::fs::write(&damaged, noise).unwrap();
    let options = StateOptions {
        engine: Arc::new(Lsm::new(8 << 20, 32)),
        ..StateOptions::default()
    };
    for crashed in [false, true] {
        if crashed {
            // The copy counts, and what was copied is still there.
            let home = dir.path().join("group-2");
            std::fs::create_dir_all(home.join("gen-3")).unwrap();
            std::fs::write(home.join("CURRENT"), "gen-3\n").unwrap();
        }
        let database = open_database(dir.path(), &options);
        assert_eq!(database.groups(), [2]);
        let store = database.group(2).unwrap();
        assert_eq!(
            (store.applied_index(), value(&store).unwrap()),
            (42, "of 2".into())
        );
        assert_eq!(database.group(1).unwrap().applied_record(), None);
    }
    let aside = dir.path().join("broken-group-1/gen-3/db");
    assert!(aside.exists() && !damaged.exists());
    assert!(!dir.path().join("group-2").exists());
}

#[test]
fn a_prefix_ends_before_the_next() {
    for (group, number) in [(1, 1), (1, 255), (255, u32::MAX), (u64::MAX - 1, u32::MAX)] {
        let (start, end) = Prefix::new(group, number).range();
        let key = Prefix::new(group, number).key(&[0xff; 9]);
        assert!(start < key && key < end);
        let next = match number {
            u32::MAX => Prefix::new(group + 1, 0),
            number => Prefix::new(group, number + 1),
        };
        assert_eq!(next.as_bytes(), end);
        assert!(end.as_slice() < generation::END_OF_ALL);
    }
}
