//! Readers beside an installation of a snapshot.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use futures_util::stream;
use holdfast_mvcc::range;
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{CompactionRequest, PutRequest, RangeRequest},
};
use openraft::{RaftSnapshotBuilder, entry::RaftEntry};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::*;
use crate::{
    raft::{
        rate::SnapshotRate,
        snapshot,
        type_config::{Entry, Proposal},
    },
    storage::{
        engine::{Batch, Engine, EngineError, OpenEngine, Scan},
        memory_engine::MemoryDisk,
        snapshot_file::SnapshotFile,
        state::StateOptions,
    },
};

/// A memory engine whose reads stop while the gate is shut.
#[derive(Clone, Default)]
struct Gated {
    disk: MemoryDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Default)]
struct GateState {
    /// The next read of this generation of the group's state stops.
    armed: Option<u32>,
    /// A read stands at the gate.
    held: bool,
}

impl Gate {
    fn arm(&self, generation: u32) {
        self.state.lock().armed = Some(generation);
    }

    /// `key` begins with the group and the generation.
    fn pass(&self, key: &[u8]) {
        let generation = u32::from_be_bytes(key[8..12].try_into().unwrap());
        let mut state = self.state.lock();
        if state.armed == Some(generation) {
            state.armed = None;
            state.held = true;
            self.moved.notify_all();
            while state.held {
                self.moved.wait(&mut state);
            }
        }
    }
}

/// A read that stands at the gate goes on when this is dropped, also by a failing test.
struct Held(Arc<Gate>);

impl Held {
    async fn wait_for(gate: Arc<Gate>) -> Self {
        let wait = move || {
            let mut state = gate.state.lock();
            while !state.held {
                gate.moved.wait(&mut state);
            }
            drop(state);
            Held(gate)
        };
        tokio::task::spawn_blocking(wait).await.unwrap()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.lock().held = false;
        self.0.moved.notify_all();
    }
}

struct GatedEngine {
    engine: Box<dyn Engine>,
    gate: Arc<Gate>,
}

impl OpenEngine for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(GatedEngine {
            engine: self.disk.open(dir)?,
            gate: self.gate.clone(),
        }))
    }
}

impl Engine for GatedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.gate.pass(key);
        self.engine.get(key)
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        self.gate.pass(start);
        self.engine.scan(start, end)
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        self.engine.apply_batch(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.engine.sync()
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.engine.disk_bytes()
    }
}

/// A machine on a store of its own.
fn machine(engine: impl OpenEngine + 'static) -> (TempDir, GroupStateMachine) {
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions {
        engine: Arc::new(engine),
        ..StateOptions::default()
    };
    let store = StateStore::open(dir.path(), options).unwrap().store;
    (
        dir,
        GroupStateMachine::open(1, Arc::new(store), Arc::default()).unwrap(),
    )
}

fn put(value: &str) -> Op {
    Op::Put(PutRequest {
        key: "k".into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    })
}

fn compact(revision: i64) -> Op {
    Op::Compact(CompactionRequest {
        revision,
        physical: false,
    })
}

/// Applies operations at the indexes that follow.
async fn apply(machine: &mut GroupStateMachine, ops: impl IntoIterator<Item = Op>) {
    let first = machine.applied.map_or(0, |id| id.index + 1);
    let entries = ops.into_iter().zip(first..);
    let entries = entries.map(|(op, index)| Ok((entry(index, op), None)));
    let entries: Vec<_> = entries.collect();
    machine.apply(stream::iter(entries)).await.unwrap();
}

fn entry(index: u64, op: Op) -> Entry {
    let command = Command {
        op: Some(op),
        ..Default::default()
    };
    let proposal = Proposal(command.encode_to_vec().into());
    Entry::new_normal(super::log_id(1, index), proposal)
}

/// What applying puts at these indexes answers.
async fn apply_at(
    machine: &mut GroupStateMachine,
    indexes: impl IntoIterator<Item = u64>,
) -> io::Result<()> {
    let entries = indexes.into_iter();
    let entries: Vec<_> = entries
        .map(|index| Ok((entry(index, put(&index.to_string())), None)))
        .collect();
    machine.apply(stream::iter(entries)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_between_applied_entries_stops_the_group() {
    let disk = MemoryDisk::default();
    let (_dir, mut fresh) = machine(disk);
    let refused = apply_at(&mut fresh, [1]).await.unwrap_err().to_string();
    assert!(refused.contains("entry 0 was to come"), "{refused}");

    // Within a chunk, at the seam of two chunks, between two calls; again, and back.
    let chunk = limits::APPLY_CHUNK_ENTRIES_MAX as u64;
    for (before, then, due) in [
        (0..3, vec![3, 4, 6], 5),
        (0..3, (3..chunk + 3).chain([chunk + 4]).collect(), chunk + 3),
        (0..3, vec![4], 3),
        (0..3, vec![2], 3),
        (0..3, vec![3, 3], 4),
    ] {
        let (_dir, mut machine) = machine(MemoryDisk::default());
        apply_at(&mut machine, before).await.unwrap();
        let refused = apply_at(&mut machine, then.clone()).await;
        let refused = refused.unwrap_err().to_string();
        let expected = format!("entry {due} was to come");
        assert!(refused.contains(&expected), "{then:?}: {refused}");
        assert_eq!(
            machine.applied.map(|id| id.index),
            Some(due - 1),
            "{then:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_after_a_restart_and_after_a_snapshot_stops_the_group() {
    let disk = MemoryDisk::default();
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let options = StateOptions {
            engine: Arc::new(disk.clone()),
            ..StateOptions::default()
        };
        let store = StateStore::open(dir.path(), options).unwrap().store;
        GroupStateMachine::open(1, Arc::new(store), Arc::default()).unwrap()
    };
    let mut before = open();
    apply_at(&mut before, 0..10).await.unwrap();
    before.shared().store().flush().await.unwrap();
    drop(before);
    let refused = apply_at(&mut open(), [11]).await.unwrap_err().to_string();
    assert!(refused.contains("entry 10 was to come"), "{refused}");
    apply_at(&mut open(), [10]).await.unwrap();

    let (_ahead_dir, mut ahead) = machine(MemoryDisk::default());
    apply_at(&mut ahead, 0..100).await.unwrap();
    let install = async || {
        let (dir, mut behind) = machine(MemoryDisk::default());
        apply_at(&mut behind, 0..10).await.unwrap();
        let snapshot = ahead.snapshot().unwrap();
        let installed = behind.install_snapshot(&snapshot.meta, snapshot.snapshot);
        installed.await.unwrap();
        (dir, behind)
    };
    for index in [10, 99, 101] {
        let (_dir, mut behind) = install().await;
        let refused = apply_at(&mut behind, [index]).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("entry 100 was to come"), "{refused}");
    }
    let (_dir, mut behind) = install().await;
    apply_at(&mut behind, [100, 101]).await.unwrap();
}

/// A snapshot of the present state as another node has it once all chunks have arrived.
async fn received(machine: &GroupStateMachine, path: &Path) -> SnapshotData {
    let live = machine.live_snapshot().unwrap();
    let applied_record = live.applied_record().clone();
    let mut chunks = snapshot::read_chunks(live.into(), Arc::new(SnapshotRate::new(u64::MAX)));
    let mut spool = SnapshotFile::open_or_resume(path, "one").unwrap();
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.unwrap();
        spool.append(chunk.seq, &chunk.data).unwrap();
    }
    spool.sync().unwrap();
    SnapshotData::Spooled {
        spool,
        applied_record,
        progress: Arc::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_after_an_install_follows_the_version_that_was_installed() {
    let (_behind_dir, mut behind) = machine(MemoryDisk::default());
    apply(&mut behind, (0..3).map(|_| put("old"))).await;
    let (_ahead_dir, mut ahead) = machine(MemoryDisk::default());
    apply(&mut ahead, (0..6).map(|_| put("new"))).await;
    let snapshot = ahead.snapshot().unwrap();
    let installed = behind.install_snapshot(&snapshot.meta, snapshot.snapshot);
    installed.await.unwrap();
    for machine in [&mut ahead, &mut behind] {
        apply(machine, [put("next")]).await;
        let (published, view) = machine.shared.read();
        let request = RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        let kv = &range(&view, published.revisions, &request).unwrap().kvs[0];
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 8, 7));
    }
}

/// Revision of the state and value of the key, of one read.
fn read(shared: &SharedState) -> (i64, String) {
    let (published, view) = shared.read();
    let request = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let answer = range(&view, published.revisions, &request).unwrap();
    assert_eq!(
        answer.kvs.len(),
        1,
        "the key exists in every state; read at {:?}",
        published.revisions
    );
    let value = String::from_utf8(answer.kvs[0].value.to_vec()).unwrap();
    (published.revisions.current, value)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_install_is_held_readers_see_the_state_before_it_whole() {
    let engine = Gated::default();
    let gate = engine.gate.clone();
    let (_behind_dir, mut behind) = machine(engine);
    apply(&mut behind, [put("old")]).await;

    // Compacted past the revision at which the other machine stands: its version of the key is gone.
    let (_ahead_dir, mut ahead) = machine(MemoryDisk::default());
    apply(&mut ahead, [put("old"), put("new"), compact(3)]).await;
    let snapshot = ahead.snapshot().unwrap();

    let shared = behind.shared();
    assert_eq!(read(&shared), (2, "old".into()));
    gate.arm(2);
    let install = tokio::spawn(async move {
        let done = behind.install_snapshot(&snapshot.meta, snapshot.snapshot);
        done.await.unwrap();
        behind
    });
    // The data is loaded; the counters are being read from it.
    let held = Held::wait_for(gate).await;
    assert_eq!(read(&shared), (2, "old".into()));
    drop(held);

    let behind = install.await.unwrap();
    assert_eq!(read(&shared), (3, "new".into()));
    assert_eq!(shared.read().0, ahead.shared().read().0);
    assert_eq!(behind.machine, ahead.machine);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_beside_many_installs_is_of_one_state() {
    let (_behind_dir, mut behind) = machine(MemoryDisk::default());
    apply(&mut behind, [put("2")]).await;
    let (_ahead_dir, mut ahead) = machine(MemoryDisk::default());
    apply(&mut ahead, [put("2")]).await;

    let shared = behind.shared();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (shared, done) = (shared.clone(), done.clone());
            thread::spawn(move || {
                let mut revision_last = 0;
                while !done.load(Ordering::Relaxed) {
                    // Each value names the revision at which it was written.
                    let (revision, value) = read(&shared);
                    assert_eq!(value, revision.to_string());
                    assert!(revision >= revision_last);
                    let installed = shared.snapshots_installed();
                    assert!(
                        installed + 2 >= revision as u64,
                        "{installed} at {revision}"
                    );
                    revision_last = revision;
                }
            })
        })
        .collect();
    let spools = tempfile::tempdir().unwrap();
    for revision in 3..53 {
        apply(&mut ahead, [put(&revision.to_string()), compact(revision)]).await;
        let meta = ahead.snapshot().unwrap().meta;
        let received = received(&ahead, &spools.path().join("spool")).await;
        behind.install_snapshot(&meta, received).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(read(&shared), (52, "52".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_position_than_it_says_is_refused_whole() {
    let (_behind_dir, mut behind) = machine(MemoryDisk::default());
    apply(&mut behind, [put("old")]).await;
    let (_ahead_dir, mut ahead) = machine(MemoryDisk::default());
    apply(&mut ahead, [put("old"), put("new")]).await;
    let snapshot = ahead.snapshot().unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(super::log_id(1, 9)),
        ..snapshot.meta
    };
    let refused = behind.install_snapshot(&meta, snapshot.snapshot).await;
    assert!(refused.is_err());
    assert_eq!(read(&behind.shared()), (2, "old".into()));
    apply(&mut behind, [put("newer")]).await;
    assert_eq!(read(&behind.shared()), (3, "newer".into()));
}

/// The table that takes writes may be cut off between two entries that are applied together: the
/// second must see the first all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_sees_the_one_before_it_although_the_table_was_cut_meanwhile() {
    let engine = Gated::default();
    let gate = engine.gate.clone();
    let (_dir, mut machine) = machine(engine);
    let shared = machine.shared();
    let other = Op::Put(PutRequest {
        key: "other".into(),
        ..Default::default()
    });
    apply(&mut machine, [other]).await;

    // The first entry looks for its key in the engine, and stands there.
    gate.arm(1);
    let applying = tokio::spawn(async move {
        apply(&mut machine, [put("first"), put("second")]).await;
    });
    let held = Held::wait_for(gate).await;
    shared.store().flush().await.unwrap();
    drop(held);
    applying.await.unwrap();

    let (published, view) = shared.read();
    let request = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let answer = range(&view, published.revisions, &request).unwrap();
    let found = &answer.kvs[0];
    assert_eq!((found.create_revision, found.version), (3, 2));
}

/// A compaction is the last entry: what its scrub wrote goes down to the disk all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_writes_goes_down_though_no_entry_follows() {
    let (_dir, mut machine) = machine(MemoryDisk::default());
    let puts = (0..100).map(|n| put(&n.to_string()));
    apply(&mut machine, puts.chain([compact(101)])).await;
    let shared = machine.shared();
    let store = shared.store();
    let applied = store.applied_index();
    assert_eq!(store.flush().await.unwrap(), applied);
    while machine.scrub_step(10).unwrap() {}
    let flushed = tokio::time::timeout(std::time::Duration::from_secs(60), store.flush());
    let durable = flushed.await.expect("a flush ends by itself").unwrap();
    assert_eq!(durable, applied, "a scrub moves nobody's position");
    assert_eq!(store.table_bytes(), 0, "nothing is left in memory");
    assert_eq!(read(&shared), (101, "99".into()));
}

/// A scrub that awaits room between its steps keeps to the bound of the tables, though no entry
/// is applied meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_scrub_keeps_to_the_bound_of_the_tables() {
    const TABLE_BYTES: u64 = 64 * 1024;
    // A deleted version and a deleted index entry, with their overhead.
    const STEP_BYTES: u64 = 2 * 512 * 300;
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions {
        engine: Arc::new(MemoryDisk::default()),
        table_bytes_max: TABLE_BYTES,
        ..StateOptions::default()
    };
    let store = Arc::new(StateStore::open(dir.path(), options).unwrap().store);
    let mut machine = GroupStateMachine::open(1, store.clone(), Arc::default()).unwrap();
    for _ in 0..50 {
        apply(&mut machine, (0..200).map(|n| put(&n.to_string()))).await;
    }
    apply(&mut machine, [compact(10_001)]).await;
    store.flush().await.unwrap();
    let mut most = 0;
    loop {
        let room = store.wait_for_room();
        let room = tokio::time::timeout(std::time::Duration::from_secs(60), room);
        room.await.expect("the table is cut by itself").unwrap();
        let more = machine.scrub_step(512).unwrap();
        most = most.max(store.table_bytes());
        if !more {
            break;
        }
    }
    let bound = 2 * (TABLE_BYTES + STEP_BYTES);
    assert!(most <= bound, "{most} bytes in tables bounded by {bound}");
    assert!(most > TABLE_BYTES, "the test is about more than one table");
}

/// A node of an earlier version that skipped it would differ from the others from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_this_node_does_not_know_stops_the_group_and_is_never_skipped() {
    let later = Command {
        min_version: holdfast_mvcc::VERSION + 1,
        op: Some(put("later")),
        ..Default::default()
    };
    // Field 100 is an operation that does not exist yet; the other bytes are no message.
    let (future, torn) = (&[0xa2, 0x06, 0x00][..], &[0x52, 0x7f, 0x00][..]);
    for (command, what) in [
        (later.encode_to_vec(), "version 4"),
        (future.to_vec(), "no operation"),
        (torn.to_vec(), "does not decode"),
    ] {
        let (_dir, mut machine) = machine(MemoryDisk::default());
        apply(&mut machine, [put("before")]).await;
        let raw = |index, command: Vec<u8>| {
            let id = super::log_id(1, index);
            Ok((Entry::new_normal(id, Proposal(command.into())), None))
        };
        let after = Command {
            op: Some(put("after")),
            ..Default::default()
        };
        let entries = [raw(1, command), raw(2, after.encode_to_vec())];
        let stopped = machine.apply(stream::iter(entries)).await.unwrap_err();
        assert!(stopped.to_string().contains(what), "{stopped}");
        assert!(stopped.to_string().contains("entry 1"), "{stopped}");
        assert_eq!(machine.applied, Some(super::log_id(1, 0)), "{what}");
        assert_eq!(read(&machine.shared()), (2, "before".into()), "{what}");
    }
}

/// Few large entries fill a table as well as many small ones: room is awaited for bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_large_entries_keeps_to_the_bound_of_the_tables() {
    const TABLE_BYTES: u64 = 2 * limits::APPLY_CHUNK_BYTES_MAX;
    const VALUE_BYTES: u64 = 256 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions {
        engine: Arc::new(MemoryDisk::default()),
        table_bytes_max: TABLE_BYTES,
        ..StateOptions::default()
    };
    let store = Arc::new(StateStore::open(dir.path(), options).unwrap().store);
    let mut machine = GroupStateMachine::open(1, store.clone(), Arc::default()).unwrap();
    let most = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let watching = {
        let (store, most, done) = (store.clone(), most.clone(), done.clone());
        thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(store.table_bytes(), Ordering::Relaxed);
                thread::yield_now();
            }
        })
    };
    let value = "v".repeat(VALUE_BYTES as usize);
    apply(&mut machine, (0..200).map(|_| put(&value))).await;
    done.store(true, Ordering::Relaxed);
    watching.join().unwrap();
    // A table may pass its bound by what one part of a chunk writes.
    let bound = 2 * (TABLE_BYTES + limits::APPLY_CHUNK_BYTES_MAX + 2 * VALUE_BYTES);
    let most = most.load(Ordering::Relaxed);
    assert!(most <= bound, "{most} bytes in tables bounded by {bound}");
    assert_eq!(read(&machine.shared()), (201, value));
}

/// Purging the log needs a durable mark, not the data: nothing is copied while applying waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_durable_and_holds_no_data() {
    let engine = Gated::default();
    let (_dir, mut machine) = machine(engine);
    apply(&mut machine, [put("old"), put("kept")]).await;
    let mut checkpoint = machine.get_snapshot_builder().await;
    assert!(checkpoint.mark.is_some());
    let built = checkpoint.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, machine.applied);
    assert!(matches!(built.snapshot, SnapshotData::Checkpoint));
    let shared = machine.shared();
    let store = shared.store();
    assert_ne!(store.applied_index(), 0);
    assert_eq!(*store.durable_applied().borrow(), store.applied_index());
    let never = machine.install_snapshot(&built.meta, built.snapshot).await;
    assert!(never.is_err(), "a checkpoint is no state to install");
    assert_eq!(read(&shared), (3, "kept".into()));
}
