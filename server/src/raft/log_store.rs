//! The part of the shared log that belongs to one group, as openraft wants to see it.
//!
//! openraft's contract: `append` returns once the entries can be read, and the callback fires
//! once they are flushed. The log behind it is one for all groups of the node and flushes them
//! together, see [`crate::storage::log`].
//!
//! Three kinds of reads, and what each does when the log lacks a part of what was asked for:
//!
//! - `entries_stream` is for applying. Everything that it is asked for is committed and not purged, so
//!   a part that is missing is an error, and the group stops: applying what lies behind a hole would be
//!   a silent divergence.
//! - `limited_get_log_entries` is for sending. A stream that its leader has ended may ask once more for
//!   what is purged by then; it gets nothing, never what lies behind.
//! - `try_get_log_entries` is for looking at what is there: entries may be missing at both ends.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds, RangeInclusive},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    codec::{
        entry_from_log, entry_to_log, log_id, log_id_from_bytes, log_id_to_bytes, vote_from_bytes,
        vote_to_bytes,
    },
    type_config::{Entry, LogId, TypeConfig, Vote},
};
use crate::{
    limits,
    planted::planted,
    storage::log::{Done, GroupLog, LogPos},
};

/// An entry that is needed and not there: an error of the machine, which stops the group.
#[derive(Debug, thiserror::Error)]
#[error(
    "entry {expected} was to come, and {} did: the log of this node has a hole. Stop the node, keep a \
     copy of its data directory, and let a new one take its place",
    found.map_or("none".to_owned(), |found| format!("entry {found}"))
)]
pub(super) struct Hole {
    expected: u64,
    found: Option<u64>,
}

/// Checks that the entry at `found` is the one that is due.
pub(super) fn check_next(expected: u64, found: Option<u64>) -> Result<(), Hole> {
    planted!(EntrySkipped => return Ok(()));
    if found == Some(expected) {
        return Ok(());
    }
    Err(Hole { expected, found })
}

/// Most bytes of entries that are read at once to be applied.
fn apply_bytes_max() -> usize {
    planted!(EntrySkipped => return 4 << 10);
    limits::APPEND_BYTES_MAX as usize
}

/// Where reading goes on after an entry.
fn after(index: u64) -> u64 {
    planted!(EntrySkipped => return index + 2);
    index + 1
}

/// Log storage and log reader of one group; clones share the log.
#[derive(Clone)]
pub struct LogStore {
    log: GroupLog,
    flushed: Arc<Flushed>,
    left: Arc<AtomicBool>,
}

/// Last index of a log that is on disk. Told by the log's writer in the order of the changes, so it
/// is right whenever no change is under way, and never too high in a log that only grows.
#[derive(Debug, Default)]
pub(super) struct Flushed(AtomicU64);

impl Flushed {
    fn appended(&self, last: u64) {
        self.0.fetch_max(last, Ordering::Relaxed);
    }

    fn cut(&self, last: u64) {
        self.0.fetch_min(last, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl LogStore {
    /// The store of the group that `log` belongs to. What the log holds now is on disk.
    pub fn new(log: GroupLog) -> Self {
        let last = log.state().last.map_or(0, |last| last.index);
        let flushed = Arc::new(Flushed(AtomicU64::new(last)));
        Self {
            log,
            flushed,
            left: Arc::default(),
        }
    }

    pub(super) fn flushed(&self) -> Arc<Flushed> {
        self.flushed.clone()
    }

    /// Set once the group has stopped: what reads on behalf of its consensus finds nothing from then on. The
    /// log may be that of another start of the group, which cuts and appends.
    pub(super) fn left(&self) -> Arc<AtomicBool> {
        self.left.clone()
    }

    fn check_in_use(&self) -> io::Result<()> {
        match self.left.load(Ordering::Acquire) {
            true => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the group has stopped on this node",
            )),
            false => Ok(()),
        }
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self.read_any(range, bytes_max)?;
        // Afterwards: what was read is of the time before.
        self.check_in_use()?;
        Ok(entries)
    }

    fn read_any(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(range, bytes_max)?;
        entries
            .into_iter()
            .map(|entry| Ok(entry_from_log(entry)?))
            .collect()
    }

    /// The first entries of `range`, every one of which must be there. A range without an end is over
    /// where the log is.
    fn read_due(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let open_ended = range.end == u64::MAX;
        let start = range.start;
        let entries = self.read(range, apply_bytes_max())?;
        if let Some(first) = entries.first() {
            check_next(start, Some(first.log_id.index)).map_err(io::Error::other)?;
        } else if !open_ended {
            check_next(start, None).map_err(io::Error::other)?;
        }
        Ok(entries)
    }
}

/// A completion that can be waited for.
fn completion() -> (Done, impl Future<Output = io::Result<()>>) {
    let (tx, rx) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        // A receiver that is gone belongs to a group that is being stopped.
        let _ = tx.send(result);
    });
    (done, async move {
        rx.await
            .unwrap_or_else(|_| Err(io::Error::other("the log stopped before it flushed")))
    })
}

fn from_pos(pos: LogPos) -> LogId {
    log_id(pos.term, pos.index)
}

pub(super) fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(bounds(&range), usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start..end, limits::APPEND_BYTES_MAX as usize)?;
        let from_start = entries
            .first()
            .is_some_and(|first| first.log_id.index == start);
        Ok(if from_start { entries } else { Vec::new() })
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // A node that catches up may apply far more than fits into memory at once.
        let store = self.clone();
        let range = bounds(&range);
        let batches = stream::unfold(Some(range), move |rest| {
            let store = store.clone();
            async move {
                let range = rest.filter(|range| range.start < range.end)?;
                match store.read_due(range.clone()) {
                    Ok(entries) => {
                        let next = after(entries.last()?.log_id.index);
                        Some((Ok(entries), Some(next..range.end)))
                    }
                    Err(e) => Some((Err(e), None)),
                }
            }
        });
        batches
            .flat_map(|batch| match batch {
                Ok(entries) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(e) => stream::iter(vec![Err(e)]),
            })
            .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        planted!(VoteNotPersisted => return Ok(crate::planted::log::vote_of_the_last_entry(&self.log)));
        let vote = self.log.state().vote;
        Ok(vote.map(|bytes| vote_from_bytes(&bytes)).transpose()?)
    }

    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogId>,
    ) -> Result<Vec<LogId>, io::Error> {
        // The last log id of every term within the range.
        let (first, last) = range.into_inner();
        let mut ids = Vec::new();
        let mut term = first.leader_id.term;
        for start in self.log.term_starts() {
            if start.index > first.index && start.index <= last.index && start.term != term {
                ids.push(log_id(term, start.index - 1));
                term = start.term;
            }
        }
        ids.push(last);
        Ok(ids)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(from_pos),
            last_log_id: state.last.map(from_pos),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        planted!(VoteNotPersisted => return Ok(()));
        let (done, flushed) = completion();
        self.log.save_vote(vote_to_bytes(vote), done).await?;
        flushed.await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // It only spares work after a restart; nothing is lost when it is old or missing.
        match committed {
            Some(committed) => self.log.save_committed(log_id_to_bytes(&committed)),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let state = self.log.state();
        let Some(bytes) = state.committed else {
            return Ok(None);
        };
        let committed = log_id_from_bytes(&bytes)?;
        // The mark may be newer on disk than the entries that it speaks of.
        Ok(match state.last {
            Some(last) if last.index < committed.index => Some(from_pos(last)),
            _ => Some(committed),
        })
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(entry_to_log).collect();
        #[cfg(feature = "planted-bugs")]
        let entries = crate::planted::log::without_those_it_has(&self.log, entries);
        let last = entries.last().map_or(0, |entry| entry.index);
        let flushed = self.flushed.clone();
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                flushed.appended(last);
            }
            callback.io_completed(result);
        };
        self.log.append(entries, Box::new(done)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        planted!(TruncateIgnored => return Ok(()));
        let (done, flushed) = completion();
        let last = last.map(|id| id.index);
        let mark = self.flushed.clone();
        let done: Done = Box::new(move |result| {
            // Before anything that is appended behind it is flushed.
            mark.cut(last.unwrap_or(0));
            done(result);
        });
        self.log.truncate_after(last, done).await?;
        flushed.await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let (done, flushed) = completion();
        let pos = LogPos {
            term: upto.leader_id.term,
            index: upto.index,
        };
        self.log.purge(pos, done).await?;
        flushed.await
    }
}
