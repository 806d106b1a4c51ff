//! The handle through which a group uses the log.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::entry::{Done, Entry, GroupState, LogPos};
use super::error::GroupDropped;
use super::format::{ENTRY_OVERHEAD_BYTES, RECORD_BYTES_MAX};
use super::group::{Group, GroupView};
use super::queue::{self, Command, Completion, Op};
use super::shared::Shared;
use super::{Log, read};

/// The log of one group. Clones share it.
///
/// Changes take effect for readers when the call returns, and for good when `Done` says so. The calls
/// wait, without blocking the thread, while the queue is full; a call whose future is dropped while it
/// waits has no effect. Every `Done` is called exactly once: an error that a call returns is given to its
/// `Done` as well, and a dropped call gives it `NotConnected`.
#[derive(Clone)]
pub struct GroupLog {
    pub(super) group: Arc<Group>,
    pub(super) log: Log,
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
    /// [`LogOptions::lazy_delay`](super::LogOptions::lazy_delay), and never synced for its own sake. Does not wait.
    pub fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        if committed.len() + ENTRY_OVERHEAD_BYTES > RECORD_BYTES_MAX {
            return Err(invalid_input(format!(
                "a committed mark of {} bytes",
                committed.len()
            )));
        }
        let mut view = self.group.view.lock();
        self.log.shared.queue.check_open()?;
        self.check_there(&view)?;
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

    /// Waits until all that was accepted is on disk: whoever opens the group anew takes what it finds here
    /// for promised.
    pub async fn settle(&self) -> io::Result<()> {
        let (tx, settled) = oneshot::channel();
        // Whoever waits may be gone.
        let done = Box::new(move |result| drop(tx.send(result)));
        // A command that does nothing goes down behind all that came before.
        let nothing = |_: &Shared, _: &mut GroupView| Ok(Op::Move(Vec::new()));
        self.submit(0, done, nothing).await?;
        settled.await.unwrap_or_else(|_| Err(queue::closed()))
    }

    /// Ends the group; see [`Log::drop_group`].
    pub(super) async fn drop_group(&self, done: Done) -> io::Result<()> {
        let accepted = self
            .submit(0, done, |shared, view| {
                let cached = &shared.cached_bytes;
                cached.fetch_sub(view.drop_all(), Ordering::Relaxed);
                Ok(Op::Drop)
            })
            .await;
        if accepted.is_ok() {
            let mut groups = self.log.shared.groups.write();
            groups.known.remove(&self.group.id);
            groups.dropped.insert(self.group.id);
        }
        accepted
    }

    /// Bytes on disk of the live entries.
    pub fn live_bytes(&self) -> u64 {
        self.group.view.lock().live_bytes()
    }

    /// Syncs of the whole log since it was opened.
    pub fn log_syncs(&self) -> u64 {
        self.log.shared.counters.syncs.load(Ordering::Relaxed)
    }

    fn check_there(&self, view: &GroupView) -> io::Result<()> {
        match view.is_dropped() {
            true => Err(GroupDropped {
                group: self.group.id,
            }
            .into()),
            false => Ok(()),
        }
    }

    /// The live entries of `range`, from its first live index on, without a gap: as many as have at most
    /// `max_bytes` of payload together, but at least one if there is one. Entries that have left memory
    /// are read from disk, which blocks. `InvalidData` means that the disk lost what was synced.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        read::read(&self.log.shared, &self.group, range, max_bytes)
    }

    /// Waits for room, changes the view and enqueues, as one step under the lock of the group.
    pub(super) async fn submit(
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
                .and_then(|()| self.check_there(&view))
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
