//! openraft's own suite on the log and the state machine, and the retry table across a snapshot.

use std::{
    fmt::Debug,
    io,
    ops::{Range, RangeBounds, RangeInclusive},
    sync::Arc,
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::alias::SnapshotOf,
};
use tempfile::TempDir;

use super::{
    LogStore,
    codec::log_id,
    log_store::bounds,
    snapshot::SnapshotData,
    state_machine::{Checkpoint, GroupStateMachine},
    type_config::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote},
};
use crate::storage::{
    log::{Log, LogOptions, files::DiskFiles},
    memory_engine::MemoryDisk,
    sled_engine::Sled,
    state::{StateOptions, StateStore},
};

/// What keeps a store alive during one test.
struct Kept {
    _log: Log,
    _dir: TempDir,
}

fn build(options: StateOptions) -> (Kept, LogStore, GroupStateMachine) {
    let dir = tempfile::tempdir().unwrap();
    let log_options = LogOptions {
        segment_bytes: 64 * 1024,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(&dir.path().join("log"), log_options, Arc::new(DiskFiles)).unwrap();
    let store = StateStore::open(&dir.path().join("state"), options)
        .unwrap()
        .store;
    let machine = GroupStateMachine::open(1, Arc::new(store), Arc::default()).unwrap();
    let log_store = LogStore::new(log.group(1).unwrap());
    let kept = Kept {
        _log: log,
        _dir: dir,
    };
    (kept, log_store, machine)
}

/// The state machine for openraft's suite, which applies entries at indexes of its choice: it takes
/// what is before each for applied.
struct Anywhere(GroupStateMachine);

impl RaftStateMachine<TypeConfig> for Anywhere {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Checkpoint;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state().await
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let item = item?;
            self.0.stand_before(item.0.log_id.index);
            self.0.apply(stream::iter([Ok(item)])).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpoint {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> io::Result<()> {
        self.0.install_snapshot(meta, data).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        self.0.get_current_snapshot().await
    }
}

/// The log for openraft's suite, which streams past the end of a log. Applying never does, and
/// [`LogStore`] takes it for a hole.
#[derive(Clone)]
struct UpToItsEnd(LogStore);

impl RaftLogReader<TypeConfig> for UpToItsEnd {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        self.0.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0.limited_get_log_entries(start, end).await
    }

    async fn entries_stream<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend {
        let last = self.0.get_log_state().await.unwrap().last_log_id.unwrap();
        let range = bounds(&range);
        let range = range.start..range.end.min(last.index + 1);
        self.0.entries_stream(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.0.read_vote().await
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        self.0.get_key_log_ids(range).await
    }
}

impl RaftLogStorage<TypeConfig> for UpToItsEnd {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.0.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.0.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.0.purge(upto).await
    }
}

type Built = Result<(Kept, UpToItsEnd, Anywhere), openraft::StorageError<TypeConfig>>;

fn build_for_suite(options: StateOptions) -> Built {
    let (kept, log, machine) = build(options);
    Ok((kept, UpToItsEnd(log), Anywhere(machine)))
}

struct OnMemory;

impl StoreBuilder<TypeConfig, UpToItsEnd, Anywhere, Kept> for OnMemory {
    async fn build(&self) -> Built {
        build_for_suite(StateOptions {
            engine: Arc::new(MemoryDisk::default()),
            ..StateOptions::default()
        })
    }
}

struct OnSled;

impl StoreBuilder<TypeConfig, UpToItsEnd, Anywhere, Kept> for OnSled {
    async fn build(&self) -> Built {
        build_for_suite(StateOptions {
            engine: Arc::new(Sled {
                cache_bytes: 4 << 20,
            }),
            ..StateOptions::default()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_on_the_memory_engine() {
    Suite::test_all(OnMemory).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_on_sled() {
    Suite::test_all(OnSled).await.unwrap();
}

/// A log that holds the entries from `first` to `last`, purged before.
async fn log_with(first: u64, last: u64) -> (Kept, LogStore) {
    let (kept, mut store, _) = build(StateOptions {
        engine: Arc::new(MemoryDisk::default()),
        ..StateOptions::default()
    });
    let entries = (0..=last).map(|index| Entry::new_blank(log_id(1, index)));
    store.append(entries, IOFlushed::noop()).await.unwrap();
    if let Some(purged) = first.checked_sub(1) {
        store.purge(log_id(1, purged)).await.unwrap();
    }
    (kept, store)
}

async fn to_apply(store: &mut LogStore, range: Range<u64>) -> Vec<Result<u64, String>> {
    let entries = store.entries_stream(range).await;
    let entries = entries.map(|entry| entry.map(|e| e.log_id.index).map_err(|e| e.to_string()));
    entries.collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_entries_to_apply_is_whole_or_ends_in_an_error() {
    let (_kept, mut store) = log_with(5, 20).await;
    let whole: Vec<_> = (5..21).map(Ok).collect();
    assert_eq!(to_apply(&mut store, 5..21).await, whole);
    assert_eq!(to_apply(&mut store, 9..9).await, vec![]);

    // Purged in part, purged whole, and past the end.
    for (range, due) in [(3..8, 3), (0..4, 0), (4..5, 4), (18..23, 21), (21..22, 21)] {
        let entries = to_apply(&mut store, range.clone()).await;
        let (refused, before) = entries.split_last().unwrap();
        let refused = refused.as_ref().unwrap_err();
        assert!(
            refused.contains(&format!("entry {due} was to come")),
            "{refused}"
        );
        assert_eq!(
            before,
            (range.start..due).map(Ok).collect::<Vec<_>>(),
            "{range:?}"
        );
    }
    // What has no end is over where the log is.
    let open = store.entries_stream(5..).await;
    assert_eq!(open.filter_map(async |entry| entry.ok()).count().await, 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_to_send_begins_where_it_was_asked_to_or_gives_nothing() {
    let (_kept, mut store) = log_with(5, 20).await;
    let mut read = async |start, end| -> Vec<u64> {
        let entries = store.limited_get_log_entries(start, end).await.unwrap();
        entries.iter().map(|entry| entry.log_id.index).collect()
    };
    assert_eq!(read(5, 8).await, [5, 6, 7]);
    assert_eq!(read(19, 30).await, [19, 20]);
    assert_eq!(read(3, 8).await, [0; 0], "never from behind a hole");
    assert_eq!(read(0, 4).await, [0; 0]);
}
