use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use holdfast_mvcc::Reader as _;
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::storage::engine::{Batch, Engine, Scan};
use crate::storage::fault_engine::{EngineErrorKind, Fault, FaultDisk};
use crate::storage::memory_engine::MemoryDisk;
use crate::storage::sled_engine::Sled;

/// splitmix64: a test prints its seed and can be run again.
pub(super) struct Seeded(pub(super) u64);

impl Seeded {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub(super) type Model = BTreeMap<Bytes, Bytes>;

pub(super) fn put(key: &str, value: &str) -> Write {
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn delete(key: &str) -> Write {
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: None,
    }
}

pub(super) fn contents(view: &View) -> Model {
    view.scan(&[0x01], &[0xff; 4]).map(Result::unwrap).collect()
}

pub(super) fn options(engine: impl OpenEngine + 'static) -> StateOptions {
    StateOptions {
        flush_interval: Duration::from_secs(3600),
        engine: Arc::new(engine),
        ..StateOptions::default()
    }
}

pub(super) fn open_database(dir: &Path, options: &StateOptions) -> Database {
    let (database, moved_aside) = Database::open(dir, options.clone()).unwrap();
    assert_eq!(moved_aside, None);
    database
}

fn open(dir: &Path, options: &StateOptions) -> StateStore {
    let opened = StateStore::open(dir, options.clone()).unwrap();
    assert_eq!(opened.moved_aside, None);
    opened.store
}

/// Records that the database holds of a generation of a group, its mark among them.
pub(super) fn records_of(store: &StateStore, group: u64, number: u32) -> usize {
    let (start, end) = generation::Prefix::new(group, number).range();
    let engine = &store.database.shared.engine;
    engine.scan(&start, &end).map(Result::unwrap).count()
}

pub(super) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn text(bytes: Option<Bytes>) -> String {
    bytes.map_or("-".into(), |bytes| {
        String::from_utf8(bytes.to_vec()).unwrap()
    })
}

/// A memory engine whose batches wait until the gate is open.
#[derive(Clone, Default)]
pub(super) struct Gated {
    disk: MemoryDisk,
    gate: Arc<(Mutex<bool>, Condvar)>,
    /// Batches that came, and those of them that went through.
    came: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
}

impl Gated {
    pub(super) fn batches(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    pub(super) fn waiting(&self) -> u64 {
        self.came.load(Ordering::SeqCst) - self.batches()
    }

    pub(super) fn set_open(&self, open: bool) {
        *self.gate.0.lock() = open;
        self.gate.1.notify_all();
    }
}

struct GatedEngine(Box<dyn Engine>, Gated);

impl OpenEngine for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(GatedEngine(self.disk.open(dir)?, self.clone())))
    }
}

impl Engine for GatedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(key)
    }
    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        self.0.scan(start, end)
    }
    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        self.1.came.fetch_add(1, Ordering::SeqCst);
        let mut open = self.1.gate.0.lock();
        while !*open {
            self.1.gate.1.wait(&mut open);
        }
        drop(open);
        self.1.passed.fetch_add(1, Ordering::SeqCst);
        self.0.apply_batch(batch)
    }
    fn load(&self, batch: Batch) -> Result<(), EngineError> {
        self.0.load(batch)
    }
    fn sync(&self) -> Result<(), EngineError> {
        self.0.sync()
    }
    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.0.disk_bytes()
    }
}

#[tokio::test]
async fn the_newest_layer_decides_and_deletions_hide() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    let store = open(
        dir.path(),
        &StateOptions {
            table_bytes_max: 1,
            ..options(gated.clone())
        },
    );
    gated.set_open(true);
    store
        .write(vec![
            put("a", "e"),
            put("b", "e"),
            put("c", "e"),
            put("d", "e"),
        ])
        .unwrap();
    store.mark_applied(1, Bytes::new()).unwrap();
    store.flush().await.unwrap();
    gated.set_open(false);
    store
        .write(vec![delete("a"), put("b", "f"), put("e", "f"), delete("f")])
        .unwrap();
    store.mark_applied(2, Bytes::new()).unwrap();
    store
        .write(vec![put("a", "t"), delete("b"), delete("e"), put("f", "t")])
        .unwrap();

    let view = store.view();
    assert!(view.0.frozen.is_some(), "the three layers are there");
    let get = |key: &str| text(view.get(key.as_bytes()).unwrap());
    assert_eq!(
        ["a", "b", "c", "e", "f", "x"].map(get),
        ["t", "-", "e", "-", "t", "-"]
    );
    let keys: Vec<_> = view
        .scan(b"a", b"f")
        .map(|record| record.unwrap().0)
        .collect();
    assert_eq!(keys, ["a", "c", "d"]);
    assert_eq!(view.scan(b"b", b"a").count(), 0);
    let first = |start: &str, end: &str| {
        text(
            view.first(start.as_bytes(), end.as_bytes())
                .unwrap()
                .map(|(key, _)| key),
        )
    };
    // Of a range, the first record of the newest layer that has one...
    assert_eq!(first("a", "z"), "a");
    assert_eq!(first("b", "z"), "f");
    // ... and below it the first that is not hidden.
    assert_eq!(first("b", "f"), "c");
    assert_eq!(first("b", "c"), "-");
    assert_eq!(first("e", "f"), "-");
    assert_eq!(first("x", "z"), "-");
    gated.set_open(true);
}

#[tokio::test]
async fn reads_agree_with_a_map_whatever_is_flushed() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Seeded(seed);
        let store = open(dir.path(), &options(MemoryDisk::default()));
        let mut model = Model::new();
        for index in 1..60 {
            let mut writes = Vec::new();
            for _ in 0..random.below(6) {
                let key = format!("k{:02}", random.below(30));
                let write = match random.below(3) {
                    0 => delete(&key),
                    _ => put(&key, &format!("{index}")),
                };
                match &write.value {
                    Some(value) => model.insert(write.key.clone(), value.clone()),
                    None => model.remove(&write.key),
                };
                writes.push(write);
            }
            store.write(writes).unwrap();
            store.mark_applied(index, Bytes::new()).unwrap();
            if random.below(4) == 0 {
                store.flush().await.unwrap();
            }
            let view = store.view();
            assert_eq!(contents(&view), model, "seed {seed} index {index}");
            let (start, end) = (random.below(30), random.below(31));
            let (start, end) = (format!("k{start:02}"), format!("k{end:02}"));
            let found: Vec<_> = view
                .scan(start.as_bytes(), end.as_bytes())
                .map(Result::unwrap)
                .collect();
            let expected: Vec<_> = model
                .iter()
                .filter(|(key, _)| ***key >= *start.as_bytes() && ***key < *end.as_bytes())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(found, expected, "seed {seed} index {index} {start}..{end}");
            assert_eq!(
                view.get(start.as_bytes()).unwrap(),
                model.get(start.as_bytes()).cloned()
            );
            // Any layer may answer; what it answers is there, and nothing only if there is nothing.
            let first = view.first(start.as_bytes(), end.as_bytes()).unwrap();
            assert_eq!(
                first.is_some(),
                !expected.is_empty(),
                "seed {seed} index {index}"
            );
            assert!(
                first.is_none_or(|record| expected.contains(&record)),
                "seed {seed}"
            );
        }
    }
}

#[tokio::test]
async fn a_view_keeps_showing_what_it_showed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &options(MemoryDisk::default()));
    store
        .write(vec![put("a1", "old"), put("a2", "old")])
        .unwrap();
    store.mark_applied(1, Bytes::new()).unwrap();
    let view = store.view();
    let before = contents(&view);
    store.flush().await.unwrap();
    assert!(
        !Arc::ptr_eq(&view.0.active, &store.view().0.active),
        "another table by now"
    );
    assert_eq!(contents(&view), before);
    store.write(vec![put("b", "new")]).unwrap();
    assert_eq!(contents(&view), before, "later tables do not show");
    assert_eq!(text(store.view().get(b"b").unwrap()), "new");
}

#[test]
fn readers_never_miss_a_record_that_is_overwritten_or_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(
        dir.path(),
        &StateOptions {
            table_bytes_max: 2_000,
            ..options(MemoryDisk::default())
        },
    );
    store
        .write(vec![put("counter", &format!("{:09}", 0)), put("gone", "x")])
        .unwrap();
    let done = AtomicBool::new(false);
    let reads: [AtomicU64; 3] = Default::default();
    std::thread::scope(|scope| {
        for reads in &reads {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut last = String::new();
                while !done.load(Ordering::Relaxed) {
                    let now = text(store.view().get(b"counter").unwrap());
                    assert!(now != "-" && now >= last, "{now} after {last}");
                    last = now;
                    let view = store.view();
                    assert!(view.scan(b"counter", b"d").next().is_some());
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // As long as it takes until every reader has read, which a busy machine may put off; a reader
        // that fails reads no more.
        let all_read = || reads.iter().all(|reads| reads.load(Ordering::Relaxed) > 0);
        for index in 1..2_000_000 {
            store
                .write(vec![put("counter", &format!("{index:09}"))])
                .unwrap();
            store
                .write(vec![put(&format!("x{}", index % 50), "filler")])
                .unwrap();
            store.mark_applied(index, Bytes::new()).unwrap();
            if index >= 20_000 && all_read() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(all_read(), "reads of each reader: {reads:?}");
    });
    assert!(
        *store.durable_applied().borrow() > 0,
        "tables were flushed meanwhile"
    );
}

#[tokio::test]
async fn the_table_counts_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &options(MemoryDisk::default()));
    store.write(vec![put("key", "12345")]).unwrap();
    let one = store.table_bytes();
    store.write(vec![put("key", "123456789")]).unwrap();
    assert_eq!(store.table_bytes(), one + 4);
    store.write(vec![delete("key")]).unwrap();
    assert_eq!(store.table_bytes(), one - 5);
    store.mark_applied(1, Bytes::new()).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.table_bytes(), 0);
}

#[tokio::test]
async fn full_tables_hold_the_writer_back_until_the_engine_has_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    let store = open(
        dir.path(),
        &StateOptions {
            table_bytes_max: 1_000,
            ..options(gated.clone())
        },
    );
    let fill = |index: u64| {
        store
            .write(vec![put(&format!("{index}"), &"x".repeat(1_000))])
            .unwrap();
        store.mark_applied(index, Bytes::new()).unwrap();
    };
    fill(1);
    store.wait_for_room().await.unwrap();
    fill(2);
    let waiting = store.clone();
    let mut waiting = tokio::spawn(async move { waiting.wait_for_room().await });
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "both tables are full");
    assert_eq!(*store.durable_applied().borrow(), 0);
    gated.set_open(true);
    waiting.await.unwrap().unwrap();
    assert_eq!(store.flush().await.unwrap(), 2);
}

#[tokio::test]
async fn a_table_is_cut_only_at_a_mark() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let store = open(
        dir.path(),
        &StateOptions {
            table_bytes_max: 1,
            ..options(disk.clone())
        },
    );
    store.write(vec![put("a", "1")]).unwrap();
    store.mark_applied(1, "one".into()).unwrap();
    assert_eq!(store.flush().await.unwrap(), 1);
    store.write(vec![put("a", "2")]).unwrap();
    // Wanted durable is mark 1, which is; the write after it stays where it is.
    assert_eq!(store.flush().await.unwrap(), 1);
    drop(store);
    let store = open(dir.path(), &options(disk));
    assert_eq!(text(store.view().get(b"a").unwrap()), "1");
    assert_eq!(
        (store.applied_index(), text(store.applied_record())),
        (1, "one".into())
    );
}

#[tokio::test]
async fn a_silent_group_becomes_durable_after_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Duration::from_millis(20);
    let options = StateOptions {
        flush_interval: interval,
        ..options(MemoryDisk::default())
    };
    let store = open(dir.path(), &options);
    let mut durable = store.durable_applied();
    store.write(vec![put("a", "1")]).unwrap();
    store.mark_applied(7, Bytes::new()).unwrap();
    let wait = durable.wait_for(|&index| index == 7);
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_index_without_writes_becomes_durable_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let store = open(dir.path(), &options(disk.clone()));
    assert_eq!(store.flush().await.unwrap(), 0);
    assert_eq!(store.applied_record(), None);
    store.mark_applied(3, "blank".into()).unwrap();
    assert_eq!(store.flush().await.unwrap(), 3);
    drop(store);
    assert_eq!(
        *open(dir.path(), &options(disk)).durable_applied().borrow(),
        3
    );
}

#[tokio::test]
async fn the_first_failure_ends_the_store() {
    for operation in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::default();
        let store = open(dir.path(), &options(disk.clone()));
        store.write(vec![put("a", "1")]).unwrap();
        store.mark_applied(1, Bytes::new()).unwrap();
        store.flush().await.unwrap();
        disk.plan(Fault::FailAt(operation));
        store.write(vec![put("a", "2")]).unwrap();
        store.mark_applied(2, Bytes::new()).unwrap();
        let error = store.flush().await.unwrap_err();
        assert!(error.to_string().contains("injected fault"), "{error}");
        let operations = disk.operations();

        let poisoned = |result: Result<(), StateError>| {
            assert!(matches!(result.unwrap_err(), StateError::Poisoned { .. }));
        };
        poisoned(store.write(vec![put("a", "3")]));
        poisoned(store.mark_applied(3, Bytes::new()));
        poisoned(store.wait_for_room().await);
        poisoned(store.flush().await.map(drop));
        poisoned(store.replace(|_| Ok(())));
        assert_eq!(*store.durable_applied().borrow(), 1);
        assert_eq!(
            disk.operations(),
            operations,
            "nothing more reaches the disk"
        );
        // What was there can still be looked at.
        assert_eq!(text(store.view().get(b"a").unwrap()), "2");
    }
}

#[tokio::test]
async fn a_replacement_takes_over_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let options = StateOptions {
        load_bytes_max: 10,
        ..options(disk)
    };
    let store = open(dir.path(), &options);
    store.write(vec![put("a", "old"), put("b", "old")]).unwrap();
    store.mark_applied(1, "one".into()).unwrap();
    store.flush().await.unwrap();
    store.write(vec![put("c", "unflushed")]).unwrap();
    store.mark_applied(2, Bytes::new()).unwrap();
    let old = store.view();
    let before = contents(&old);

    store
        .replace::<StateError>(|loader| {
            loader.mark_applied(9, "nine".into());
            loader.write([put("z", "new"), put("b", "first"), put("b", "second")])?;
            loader.write((0..20).map(|n| put(&format!("n{n:02}"), "new")))
        })
        .unwrap();
    let expected: Model = (0..20)
        .map(|n| put(&format!("n{n:02}"), "new"))
        .chain([put("b", "second"), put("z", "new")])
        .map(|write| (write.key, write.value.unwrap()))
        .collect();
    assert_eq!(contents(&store.view()), expected);
    assert_eq!(contents(&old), before, "views of before are as they were");
    assert_eq!(
        (store.applied_index(), text(store.applied_record())),
        (9, "nine".into())
    );
    assert_eq!(*store.durable_applied().borrow(), 9);
    let first = |store: &StateStore| records_of(store, 1, generation::FIRST);
    assert_eq!(
        first(&store),
        3,
        "still being read: two records and the mark"
    );
    drop(old);
    wait_until("the old generation is removed", || first(&store) == 0);
    store.write(vec![put("later", "1")]).unwrap();
    store.mark_applied(10, Bytes::new()).unwrap();
    assert_eq!(store.flush().await.unwrap(), 10);
    let now = contents(&store.view());
    drop(store);
    assert_eq!(contents(&open(dir.path(), &options).view()), now);
}

#[tokio::test]
async fn a_replacement_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let store = open(dir.path(), &options(disk.clone()));
    store.write(vec![put("a", "old")]).unwrap();
    store.mark_applied(1, "one".into()).unwrap();

    let result = store.replace::<StateError>(|loader| loader.write([put("a", "new")]));
    assert!(matches!(result.unwrap_err(), StateError::Unmarked));
    let result = store.replace::<anyhow::Error>(|loader| {
        loader.write([put("a", "new")])?;
        loader.mark_applied(2, Bytes::new());
        anyhow::bail!("the sender went away")
    });
    assert_eq!(result.unwrap_err().to_string(), "the sender went away");
    assert_eq!(
        (store.applied_index(), text(store.applied_record())),
        (1, "one".into())
    );
    assert_eq!(text(store.view().get(b"a").unwrap()), "old");
    store.flush().await.unwrap();
    drop(store);
    let store = open(dir.path(), &options(disk));
    assert_eq!(text(store.view().get(b"a").unwrap()), "old");
}

#[tokio::test]
async fn a_replacement_overtakes_a_flush_of_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let gated = Gated::default();
    gated.set_open(true);
    let store = open(
        dir.path(),
        &StateOptions {
            table_bytes_max: 1,
            ..options(gated.clone())
        },
    );
    gated.set_open(false);
    store.write(vec![put("a", "old")]).unwrap();
    store.mark_applied(1, Bytes::new()).unwrap();
    let replacing = store.clone();
    let replaced = tokio::task::spawn_blocking(move || {
        replacing.replace::<StateError>(|loader| {
            loader.mark_applied(5, Bytes::new());
            loader.write([put("a", "new")])
        })
    });
    gated.set_open(true);
    replaced.await.unwrap().unwrap();
    store.mark_applied(6, Bytes::new()).unwrap();
    assert_eq!(store.flush().await.unwrap(), 6);
    assert_eq!(text(store.view().get(b"a").unwrap()), "new");
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let store = open(dir.path(), &options(disk.clone()));
    store.write(vec![put("a", "1")]).unwrap();
    store.mark_applied(1, Bytes::new()).unwrap();
    store.flush().await.unwrap();
    drop(store);
    // A replacement under way, one not even begun, one that was superseded and not yet removed.
    for name in ["db-2.building", "db-3.building", "CURRENT.new"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    for name in ["db-2", "db-0"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("db"), "x").unwrap();
    }
    let store = open(dir.path(), &options(disk.clone()));
    assert_eq!(text(store.view().get(b"a").unwrap()), "1");
    for name in ["gen-0", "gen-2", "db-2.building", "db-3.building"] {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
    drop(store);
    // A crash in the very first opening, before CURRENT.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db-1")).unwrap();
    std::fs::write(dir.path().join("db-1.building"), "").unwrap();
    assert_eq!(open(dir.path(), &options(disk)).applied_record(), None);
}

#[tokio::test]
async fn an_unusable_database_is_moved_aside_and_reported() {
    for kind in ["corrupt", "panic", "current", "no current", "no database"] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::default();
        let options = options(disk.clone());
        let store = open(dir.path(), &options);
        store.write(vec![put("a", "1")]).unwrap();
        store.mark_applied(1, Bytes::new()).unwrap();
        store.flush().await.unwrap();
        drop(store);
        std::fs::write(dir.path().join("db-1/evidence"), "keep me").unwrap();
        let current = dir.path().join("CURRENT");
        match kind {
            "corrupt" => disk.refuse_next_open(EngineErrorKind::Corrupt),
            "panic" => disk.refuse_next_open(EngineErrorKind::Panicked),
            "current" => std::fs::write(&current, "db-one sled\n").unwrap(),
            "no current" => std::fs::remove_file(&current).unwrap(),
            _ => std::fs::write(&current, "db-7 fault\n").unwrap(),
        }
        let opened = StateStore::open(dir.path(), options.clone()).unwrap();
        let moved = opened.moved_aside.clone().expect(kind);
        assert_eq!(moved.path, dir.path().join("broken-1"), "{kind}");
        assert!(!moved.reason.is_empty());
        let evidence = std::fs::read(moved.path.join("db-1/evidence")).unwrap();
        assert_eq!(evidence, b"keep me", "{kind}");
        assert_eq!(opened.store.applied_record(), None);
        assert!(contents(&opened.store.view()).is_empty());
        opened.store.write(vec![put("b", "2")]).unwrap();
        opened.store.mark_applied(2, Bytes::new()).unwrap();
        opened.store.flush().await.unwrap();
        drop(opened);
        let store = open(dir.path(), &options);
        assert_eq!(text(store.view().get(b"b").unwrap()), "2", "{kind}");
    }
}

#[tokio::test]
async fn a_passing_failure_to_open_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::default();
    let options = options(disk.clone());
    let store = open(dir.path(), &options);
    store.write(vec![put("a", "1")]).unwrap();
    store.mark_applied(1, Bytes::new()).unwrap();
    store.flush().await.unwrap();
    drop(store);
    disk.refuse_next_open(EngineErrorKind::Io);
    assert!(StateStore::open(dir.path(), options.clone()).is_err());
    assert!(!dir.path().join("broken-1").exists());
    assert_eq!(
        text(open(dir.path(), &options).view().get(b"a").unwrap()),
        "1"
    );
}

#[tokio::test]
async fn a_damaged_sled_database_is_moved_aside_or_read_right() {
    let options = options(Sled {
        cache_bytes: 8 << 20,
    });
    let good = tempfile::tempdir().unwrap();
    let store = open(good.path(), &options);
    for index in 1..=20 {
        store
            .write(vec![put(&format!("k{index:02}"), &"v".repeat(2_000))])
            .unwrap();
        store.mark_applied(index, Bytes::new()).unwrap();
        store.flush().await.unwrap();
    }
    let whole = contents(&store.view());
    drop(store);
    let bytes = std::fs::read(good.path().join("db-1/db")).unwrap();
    let mut moved = 0;
    for seed in 0..12 {
        let mut random = Seeded(seed);
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), &options));
        let mut bad = bytes.clone();
        match seed % 3 {
            0 => bad.truncate(random.below(bad.len() as u64) as usize),
            1 => {
                let at = random.below(40_000) as usize;
                bad[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
            }
            _ => bad
                .iter_mut()
                .take(60_000)
                .for_each(|byte| *byte = random.next() as u8),
        }
        std::fs::remove_dir_all(dir.path().join("db-1")).unwrap();
        std::fs::create_dir(dir.path().join("db-1")).unwrap();
        for name in ["conf", "redo"] {
            let name = Path::new("db-1").join(name);
            std::fs::copy(good.path().join(&name), dir.path().join(&name)).unwrap();
        }
        std::fs::write(dir.path().join("db-1/db"), &bad).unwrap();
        let opened = StateStore::open(dir.path(), options.clone()).unwrap();
        if let Some(aside) = opened.moved_aside {
            assert!(aside.path.join("db-1/db").exists());
            assert_eq!(opened.store.applied_record(), None, "seed {seed}");
            moved += 1;
            continue;
        }
        // Nothing that counts was hit; or it shows only when it is read.
        let found: Result<Model, _> = opened.store.view().scan(&[1], &[0xff]).collect();
        let Ok(found) = found else { continue };
        assert_eq!(found, whole, "seed {seed}");
        assert_eq!(opened.store.applied_index(), 20, "seed {seed}");
    }
    assert!(
        moved >= 4,
        "at least the third that was overwritten: {moved} of 12 moved aside"
    );
}

#[tokio::test]
async fn a_store_at_rest_does_not_wait_for_a_mark_that_never_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &options(MemoryDisk::default()));
    store.write(vec![put("a", "1")]).unwrap();
    store.mark_applied(1, Bytes::new()).unwrap();
    assert_eq!(store.flush_at_rest().await.unwrap(), 1);
    store.write(vec![put("a", "2")]).unwrap();
    assert!(matches!(
        store.flush_at_rest().await,
        Err(StateError::Unfinished)
    ));
    store.mark_applied(2, Bytes::new()).unwrap();
    assert_eq!(store.flush_at_rest().await.unwrap(), 2);
}
