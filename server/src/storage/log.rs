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
//! - Space comes back by whole segments. A few live entries in one that is otherwise dead can be moved
//!   ([`Log::vacate`]), which changes nothing but their place.
//! - A group that was dropped is gone at once, for good, and as a whole: none of its records is ever
//!   read again, and its id is refused for the life of the log.
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

mod dropped;
mod entry;
mod error;
pub mod files;
mod format;
mod found;
mod group;
mod group_log;
mod options;
mod queue;
mod read;
mod recovery;
mod replay;
mod segment;
mod shared;
mod tracked;
mod vacate;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

pub use dropped::DroppedGroups;
#[cfg(test)]
pub use entry::GroupState;
pub use entry::{Done, Entry, LogPos};
pub use error::{Failure, GroupDropped, OpenError};
pub use group_log::GroupLog;
pub use options::LogOptions;
#[cfg(test)]
pub use options::{GroupStats, LogStats};
pub use recovery::Recovery;
#[cfg(test)]
pub use vacate::Held;
pub use vacate::SegmentUse;

use group::{Group, GroupView};
use queue::Queue;
use shared::{Counters, Groups, Shared};
use writer::Writer;

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
            groups: RwLock::new(Groups {
                known: recovered.groups,
                dropped: recovered.tail.dropped.clone(),
            }),
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

    /// Id of the log in `dir`, if there is one: random, drawn when it was created. Changes nothing.
    pub fn stored_id(dir: &Path, files: &dyn files::Files) -> Result<Option<u64>, OpenError> {
        recovery::stored_id(dir, files)
    }

    /// The log of one group; a group comes into being when it is first named, once. Id 0 is not a
    /// group.
    pub fn group(&self, id: u64) -> Result<GroupLog, GroupDropped> {
        assert_ne!(id, 0, "group 0 stands for the log itself");
        let known = self.shared.groups.read().known.get(&id).cloned();
        let group = match known {
            Some(group) => group,
            None => {
                let mut groups = self.shared.groups.write();
                if groups.dropped.contains(id) {
                    return Err(GroupDropped { group: id });
                }
                let fresh = || {
                    Arc::new(Group {
                        id,
                        view: Mutex::new(GroupView::default()),
                    })
                };
                groups.known.entry(id).or_insert_with(fresh).clone()
            }
        };
        Ok(GroupLog {
            group,
            log: self.clone(),
        })
    }

    /// Ids of the groups that the log knows, ascending; not those that were dropped.
    pub fn groups(&self) -> Vec<u64> {
        let groups = self.shared.groups.read();
        let mut ids: Vec<u64> = groups.known.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The groups that were dropped, ever.
    pub fn dropped(&self) -> DroppedGroups {
        self.shared.groups.read().dropped.clone()
    }

    /// Drops a group: all that the log holds of it is dead from now on, and gone for good when this
    /// returns. Its id is refused for ever, by this log and by one that is opened again; a group that
    /// nobody named yet can be dropped too, and one that was dropped before is an error. Handles of
    /// the group that are still about refuse everything.
    pub async fn drop_group(&self, id: u64) -> io::Result<()> {
        let group = self.group(id)?;
        let (tx, dropped) = oneshot::channel();
        // Whoever waits may be gone; the group is dropped all the same.
        let done = Box::new(move |result| drop(tx.send(result)));
        group.drop_group(done).await?;
        dropped.await.unwrap_or_else(|_| Err(queue::closed()))
    }

    /// Bytes of all files of the log, prepared and free ones included. Does not look at the groups.
    pub fn disk_bytes(&self) -> u64 {
        let segments = self.shared.segments.read();
        let used = segments.values().map(|s| s.bytes.load(Ordering::Relaxed));
        used.sum::<u64>() + self.shared.spares.bytes()
    }

    /// Keeps at most so many files of purged segments to be used again; more are deleted, which gives
    /// their room back.
    pub fn keep_free_segments(&self, free_max: usize) {
        self.shared.spares.keep_free(free_max);
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

    /// Sizes and counts.
    #[cfg(test)]
    pub fn stats(&self) -> LogStats {
        let shared = &self.shared;
        let mut stats = LogStats {
            cached_bytes: shared.cached_bytes.load(Ordering::Relaxed),
            batches: shared.counters.batches.load(Ordering::Relaxed),
            syncs: shared.counters.syncs.load(Ordering::Relaxed),
            written_bytes: shared.counters.written_bytes.load(Ordering::Relaxed),
            ..LogStats::default()
        };
        for group in self.known_groups() {
            let view = group.view.lock();
            let range = view.range();
            stats.groups.push(GroupStats {
                group: group.id,
                range: (!range.is_empty()).then(|| (range.start, range.end - 1)),
                live_bytes: view.live_bytes(),
            });
        }
        stats.segments = shared.segments.read().len();
        stats.disk_bytes = self.disk_bytes();
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
