//! The Raft log of a node: one for all its groups, and the only write-ahead log there is.
//!
//! A node may carry many Raft groups, and each of them must sync its entries and votes before it
//! answers. Sharing one log lets one `fdatasync` serve all of them.
//!
//! ```text
//!   group 1 ─ append, vote ─┐                         ┌─ segment 7 ─┬─ segment 8 ─┬─ segment 9 ─┐
//!   group 2 ─ append ───────┼─▶ queue ─▶ writer ────▶ │   (full)    │   (full)    │  (active) ▶ │  10 is
//!   group 3 ─ purge ────────┘   bounded  one write,   └─────────────┴─────────────┴─────────────┘  prepared
//!      ▲  │                              one fdatasync            │ nothing live: reused
//!      │  └─ entries readable at once    then callbacks           ▼
//!      └────────────────── Done, in order ───┘                 free files
//! ```
//!
//! # Promises
//!
//! - What a `Done` answered with `Ok` survives a crash of the process and a power cut.
//! - After a crash the log is a prefix of what was accepted, in the order in which each group gave it;
//!   nothing is invented, and nothing from an earlier use of a file comes back.
//! - Damage to what was synced is an error that names file and offset; it is never skipped. A torn
//!   tail, which a crash leaves and nobody was told of, is cut off and reported.
//! - The first write or sync that fails is the last: the log answers everything with that error from
//!   then on, retries nothing, and [`Log::failed`] resolves. After a failed `fdatasync` the kernel may
//!   drop the bytes and report the next one as a success, so only a restart, which writes them again
//!   from what it can verify, makes them safe.
//! - Memory is bounded: the queue and the entries kept for readers by [`LogOptions`]; besides, each
//!   live entry takes 16 bytes. Callers bound the live entries by purging.
//!
//! # The medium
//!
//! Assumed: writes that `fdatasync` covered stay as written; until then each 512-byte sector of a write
//! may be old or new, in any order, but never a mixture, and sectors outside the write keep their
//! content; a file name is durable once its directory is synced. Not assumed: that writes reach the disk
//! in order, or that file sizes and names do so before a sync.
//!
//! # Torn or corrupt?
//!
//! Records travel in numbered batches, one write each. A batch may be torn only while no sync covered
//! it, so every batch says which batch was the last synced one when it was written. On opening, let
//! batch *b* be the first that is missing or invalid:
//!
//! - if any later batch header in the log is valid and says that *b* or a later one was synced, then
//!   *b* was whole once: **corruption**;
//! - otherwise no acknowledged write was given a number above *b*, for acknowledging takes a sync, and
//!   the next write after a sync attests it. The log ends before *b*: a **torn tail**, or the end.
//!   Valid batches behind a torn one are cut off too, as the same sync was to cover them all.
//!
//! One case cannot be told from a torn write: damage to the last synced batch before any later one is
//! written. So when the log is idle after a sync for [`LogOptions::lazy_delay`], and when it is closed,
//! an empty batch follows that attests it.
//!
//! All segments but the last are wholly synced before the next one begins, and the head of the next one
//! says where they end. Damage there is always corruption, and so is a missing segment: its live
//! entries are missed at the end of recovery.
//!
//! After a torn tail, the rest of the segment is overwritten with zeros and synced before anything is
//! appended, so that what was cut off cannot become valid behind a new batch. A body checksum in the
//! batch header keeps old and new sectors from mixing. Opening also writes the used part of the last
//! segment again and syncs it: the previous process may have died before, or because of, its last sync.
//!
//! The layout in bytes is in `format.rs`.

mod error;
pub mod files;
mod format;
mod group;
mod queue;
mod read;
mod recovery;
mod segment;
mod tracked;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use error::{Corruption, Failure, OpenError};
pub use recovery::{Recovery, TornTail};

use format::{ENTRY_OVERHEAD_BYTES, RECORD_BYTES_MAX};
use group::{Group, GroupView};
use queue::{Command, Completion, Op, Queue};
use segment::{Segment, Spares};
use writer::{Counters, Writer};

/// Called once, from the writer's thread, when the change is durable or will never be. Must be quick.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A place in a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPos {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {} of term {}", self.index, self.term)
    }
}

/// One log entry. What `kind` and `payload` mean is the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Position in the log of its group.
    pub index: u64,
    /// Kind, opaque to the log.
    pub kind: u8,
    /// Content, opaque to the log, below 256 MiB.
    pub payload: Bytes,
}

impl Entry {
    /// Term and index.
    pub fn pos(&self) -> LogPos {
        LogPos {
            term: self.term,
            index: self.index,
        }
    }
}

/// What a group remembers besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The last entry dropped from the front.
    pub purged: Option<LogPos>,
    /// The last entry; the purge mark when there is none.
    pub last: Option<LogPos>,
    /// The last vote given to `save_vote`.
    pub vote: Option<Bytes>,
    /// The last mark given to `save_committed`; after a crash perhaps an earlier one.
    pub committed: Option<Bytes>,
}

/// Sizes and bounds of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Length of a segment file in bytes: 4 KiB to 1 GiB. A larger record makes a longer segment.
    pub segment_bytes: u32,
    /// Bytes of commands that may wait for the writer; at the bound callers wait.
    pub queue_bytes: u32,
    /// Commands that may wait for the writer; at the bound callers wait.
    pub queue_items: usize,
    /// Bytes of one batch, that is of one write and its sync; more takes several.
    pub batch_bytes: u32,
    /// Bytes of recent entries kept in memory for readers, all groups together; at the bound the
    /// oldest leave and are read from disk. Entries that are not written yet come on top.
    pub cache_bytes: u64,
    /// Files of purged segments kept to be used again; more are deleted.
    pub free_segments: usize,
    /// How long a committed mark may wait for another write to ride with, and how long after a sync an
    /// idle log attests it.
    pub lazy_delay: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 16 << 20,
            queue_bytes: 32 << 20,
            queue_items: 16 << 10,
            batch_bytes: 4 << 20,
            cache_bytes: 64 << 20,
            free_segments: 4,
            lazy_delay: Duration::from_millis(100),
        }
    }
}

impl LogOptions {
    fn check(&self) -> Result<(), OpenError> {
        let refuse = |field, reason: &str| {
            Err(OpenError::Options {
                field,
                reason: reason.to_owned(),
            })
        };
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return refuse("segment_bytes", "must be from 4 KiB to 1 GiB");
        }
        if self.queue_bytes == 0 || self.queue_items == 0 {
            return refuse("queue_bytes, queue_items", "must not be 0");
        }
        if self.batch_bytes == 0 {
            return refuse("batch_bytes", "must not be 0");
        }
        Ok(())
    }
}

/// Sizes and counts of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments in use, the active one included.
    pub segments: usize,
    /// Bytes of all files of the log, prepared and free ones included.
    pub disk_bytes: u64,
    /// Bytes of entries in memory.
    pub cached_bytes: u64,
    /// Batches written since the log was opened.
    pub batches: u64,
    /// `fdatasync` calls that covered batches since the log was opened.
    pub syncs: u64,
    /// Bytes of the batches written since the log was opened.
    pub written_bytes: u64,
    /// One item per group, ascending by id.
    pub groups: Vec<GroupStats>,
}

/// Sizes of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Group id.
    pub group: u64,
    /// First and last live index.
    pub range: Option<(u64, u64)>,
    /// Bytes on disk of the live entries.
    pub live_bytes: u64,
}

/// State shared by the handles, the writer and the thread that prepares segments.
pub(crate) struct Shared {
    options: LogOptions,
    queue: Queue,
    spares: Spares,
    /// Segments with live entries. Taken after the lock of a group.
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// Every group ever named. Taken before the lock of a group.
    groups: RwLock<HashMap<u64, Arc<Group>>>,
    cached_bytes: AtomicU64,
    tickets: AtomicU64,
    failure: watch::Sender<Option<Failure>>,
    counters: Counters,
}

/// The threads of a log. The last handle that goes closes the log and waits for them.
struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Finishes what is queued and waits for the threads. Shutdown order: the writer first, because it
    /// may wait for a segment; then the thread that prepares them.
    fn close(&self) {
        self.shared.queue.close();
        for handle in self.handles.lock().drain(..) {
            // A callback may own the last handle; a thread cannot wait for itself.
            if handle.thread().id() != thread::current().id() && handle.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

/// The log of a node. Clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

impl Log {
    /// Opens the log in `dir`, or creates it, and says what was found. Blocks for as long as reading
    /// all segments takes. The caller sees to it that nobody else opens the same directory.
    pub fn open(
        dir: &Path,
        options: LogOptions,
        files: Arc<dyn files::Files>,
    ) -> Result<(Log, Recovery), OpenError> {
        options.check()?;
        let recovered = recovery::recover(dir, &options, files)?;
        let shared = Arc::new(Shared {
            queue: Queue::new(options.queue_items, options.queue_bytes),
            spares: recovered.spares,
            segments: RwLock::new(recovered.segments),
            groups: RwLock::new(recovered.groups),
            cached_bytes: AtomicU64::new(0),
            tickets: AtomicU64::new(1),
            failure: watch::Sender::new(None),
            counters: Counters::default(),
            options,
        });
        shared.spares.want(recovered.tail.next_segment);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
            thread.map_err(OpenError::io(dir, "start a thread for"))
        };
        let threads = Arc::new(Threads {
            shared: shared.clone(),
            handles: Mutex::default(),
        });
        let (write, prepare) = (shared.clone(), shared.clone());
        let tail = recovered.tail;
        threads.handles.lock().push(spawn(
            "log-writer",
            Box::new(move || run_writer(&write, tail)),
        )?);
        threads.handles.lock().push(spawn(
            "log-segments",
            Box::new(move || prepare.spares.run()),
        )?);
        Ok((Log { shared, threads }, recovered.report))
    }

    /// The log of one group; a group comes into being when it is first named. Id 0 is not a group.
    pub fn group(&self, id: u64) -> GroupLog {
        assert_ne!(id, 0, "group 0 stands for the log itself");
        let known = self.shared.groups.read().get(&id).cloned();
        let group = known.unwrap_or_else(|| {
            let mut groups = self.shared.groups.write();
            let fresh = || {
                Arc::new(Group {
                    id,
                    view: Mutex::new(GroupView::default()),
                })
            };
            groups.entry(id).or_insert_with(fresh).clone()
        });
        GroupLog {
            group,
            log: self.clone(),
        }
    }

    /// Ids of the groups that the log knows, ascending.
    pub fn groups(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.shared.groups.read().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Resolves when a write or sync has failed; the node must stop then. Pending for ever otherwise,
    /// also after a close.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.shared.failure.subscribe();
        let failed = match failure.wait_for(Option::is_some).await {
            Ok(failed) => failed.clone(),
            Err(_) => None,
        };
        match failed {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// The failure that stopped the log, if one has.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failure.borrow().clone()
    }

    /// Finishes what is queued, leaves the log in a state that shows any later damage, and stops its
    /// threads. Blocks. Later calls of any handle fail. Dropping the last handle does the same.
    pub fn close(&self) {
        self.threads.close();
    }

    /// Sizes and counts, for metrics and purge policies.
    pub fn stats(&self) -> LogStats {
        let shared = &self.shared;
        let groups: Vec<Arc<Group>> = shared.groups.read().values().cloned().collect();
        let mut stats = LogStats {
            cached_bytes: shared.cached_bytes.load(Ordering::Relaxed),
            batches: shared.counters.batches.load(Ordering::Relaxed),
            syncs: shared.counters.syncs.load(Ordering::Relaxed),
            written_bytes: shared.counters.written_bytes.load(Ordering::Relaxed),
            ..LogStats::default()
        };
        for group in groups {
            let view = group.view.lock();
            let range = view.range();
            stats.groups.push(GroupStats {
                group: group.id,
                range: (!range.is_empty()).then(|| (range.start, range.end - 1)),
                live_bytes: view.live_bytes(),
            });
        }
        stats.groups.sort_unstable_by_key(|group| group.group);
        let segments = shared.segments.read();
        stats.segments = segments.len();
        let used: u64 = segments
            .values()
            .map(|segment| segment.bytes.load(Ordering::Relaxed))
            .sum();
        stats.disk_bytes = used + shared.spares.bytes();
        stats
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("groups", &self.groups())
            .finish_non_exhaustive()
    }
}

/// The body of the writer's thread: whatever ends it, every callback is answered.
fn run_writer(shared: &Arc<Shared>, tail: writer::Tail) {
    let mut writer = Writer::new(shared.clone(), tail);
    let outcome = catch_unwind(AssertUnwindSafe(|| writer.run())).unwrap_or_else(|_| {
        Err(Failure::new(
            "the writer panicked",
            &io::Error::other("see the panic message"),
        ))
    });
    let failure = match outcome {
        Ok(()) => Failure::closed(),
        Err(failure) => {
            tracing::error!(%failure, "the raft log failed");
            shared.failure.send_replace(Some(failure.clone()));
            failure
        }
    };
    // Whoever learns of the failure finds it everywhere: refuse first, then answer. In order: what is in
    // the batch, what was taken from the queue, what is still queued.
    shared.queue.refuse(&failure);
    for done in writer.unanswered() {
        done.finish(Err(failure.to_io()));
    }
    for command in shared.queue.drain() {
        command.done.finish(Err(failure.to_io()));
    }
    shared.spares.close();
}

/// The log of one group. Clones share it.
///
/// Changes take effect for readers when the call returns, and for good when `Done` says so. The calls
/// wait, without blocking the thread, while the queue is full; a call whose future is dropped while it
/// waits has no effect. Every `Done` is called exactly once: an error that a call returns is given to its
/// `Done` as well, and a dropped call gives it `NotConnected`.
#[derive(Clone)]
pub struct GroupLog {
    group: Arc<Group>,
    log: Log,
}

impl GroupLog {
    /// The group's id.
    pub fn id(&self) -> u64 {
        self.group.id
    }

    /// Purge mark, last entry, vote and committed mark, as of the last accepted change.
    pub fn state(&self) -> GroupState {
        self.group.view.lock().state()
    }

    /// Term of the entry at `index`, or of the purge mark there. Costs O(log of the number of terms).
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.group.view.lock().term_of(index)
    }

    /// The purge mark, then the first live entry of each term, ascending.
    pub fn term_starts(&self) -> Vec<LogPos> {
        self.group.view.lock().term_starts()
    }

    /// Appends entries, which must follow the last one without a gap and with terms that do not fall;
    /// an empty log without a purge mark may begin anywhere. `InvalidInput` otherwise.
    /// They are readable when this returns.
    pub async fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        let bytes = entries
            .iter()
            .map(|entry| ENTRY_OVERHEAD_BYTES + entry.payload.len())
            .sum();
        let largest = entries
            .iter()
            .map(|entry| entry.payload.len())
            .max()
            .unwrap_or(0);
        if largest + ENTRY_OVERHEAD_BYTES > RECORD_BYTES_MAX {
            return refuse(
                Completion::new(done),
                invalid_input(format!(
                    "an entry of {largest} bytes is longer than the log allows"
                )),
            );
        }
        self.submit(bytes, done, move |shared, view| {
            view.check_append(&entries)?;
            let ticket = shared.tickets.fetch_add(1, Ordering::Relaxed);
            shared
                .cached_bytes
                .fetch_add(view.append(ticket, &entries), Ordering::Relaxed);
            Ok(Op::Append { ticket, entries })
        })
        .await
    }

    /// Replaces the vote.
    pub async fn save_vote(&self, vote: Bytes, done: Done) -> io::Result<()> {
        if vote.len() + ENTRY_OVERHEAD_BYTES > RECORD_BYTES_MAX {
            return refuse(
                Completion::new(done),
                invalid_input(format!("a vote of {} bytes", vote.len())),
            );
        }
        self.submit(vote.len(), done, move |_, view| {
            view.set_vote(vote.clone());
            Ok(Op::Vote(vote))
        })
        .await
    }

    /// Replaces the committed mark. It is written with the next batch, or alone after
    /// [`LogOptions::lazy_delay`], and never synced for its own sake. Does not wait.
    pub fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        if committed.len() + ENTRY_OVERHEAD_BYTES > RECORD_BYTES_MAX {
            return Err(invalid_input(format!(
                "a committed mark of {} bytes",
                committed.len()
            )));
        }
        let mut view = self.group.view.lock();
        self.log.shared.queue.check_open()?;
        view.set_committed(committed);
        if !view.committed_dirty {
            view.committed_dirty = true;
            self.log.shared.queue.push_lazy(self.group.clone());
        }
        Ok(())
    }

    /// Drops every entry after `keep`; `None` drops all. `InvalidInput` below the purge mark.
    pub async fn truncate_after(&self, keep: Option<u64>, done: Done) -> io::Result<()> {
        self.submit(0, done, move |shared, view| {
            view.check_truncate(keep)?;
            shared
                .cached_bytes
                .fetch_sub(view.truncate_after(keep), Ordering::Relaxed);
            Ok(Op::Truncate {
                keep,
                last: view.last_entry(),
            })
        })
        .await
    }

    /// Drops every entry up to `pos`, and all of them when `pos` is past the last: the log then goes on
    /// after `pos`. A mark behind the present one changes nothing. Disk space comes back by segments.
    pub async fn purge(&self, pos: LogPos, done: Done) -> io::Result<()> {
        self.submit(0, done, move |shared, view| {
            shared
                .cached_bytes
                .fetch_sub(view.purge(pos), Ordering::Relaxed);
            Ok(Op::Purge(pos))
        })
        .await
    }

    /// The live entries of `range`, from its first live index on, without a gap: as many as have at most
    /// `max_bytes` of payload together, but at least one if there is one. Entries that have left memory
    /// are read from disk, which blocks. `InvalidData` means that the disk lost what was synced.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        read::read(&self.log.shared, &self.group, range, max_bytes)
    }

    /// Waits for room, changes the view and enqueues, as one step under the lock of the group.
    async fn submit(
        &self,
        bytes: usize,
        done: Done,
        change: impl FnOnce(&Shared, &mut GroupView) -> io::Result<Op>,
    ) -> io::Result<()> {
        let shared = &*self.log.shared;
        let done = Completion::new(done);
        let permits = match shared.queue.reserve(bytes).await {
            Ok(permits) => permits,
            Err(error) => return refuse(done, error),
        };
        let (done, error) = {
            let mut view = self.group.view.lock();
            match shared
                .queue
                .check_open()
                .and_then(|()| change(shared, &mut view))
            {
                Ok(op) => match shared.queue.push(Command {
                    group: self.group.clone(),
                    op,
                    done,
                    permits,
                }) {
                    Ok(()) => return Ok(()),
                    Err((command, error)) => (command.done, error),
                },
                Err(error) => (done, error),
            }
        };
        // Outside the lock: the callback may use the group.
        shared.queue.release(permits);
        refuse(done, error)
    }
}

impl fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupLog")
            .field("id", &self.group.id)
            .finish_non_exhaustive()
    }
}

/// Gives an error to both who asked and who waits.
fn refuse(done: Completion, error: io::Error) -> io::Result<()> {
    done.finish(Err(io::Error::new(error.kind(), error.to_string())));
    Err(error)
}

fn invalid_input(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
