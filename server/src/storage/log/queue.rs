//! The bounded queue from the groups to the writer.
//!
//! Two semaphores bound it, in commands and in bytes. A caller waits for both without blocking its
//! thread; whoever has them enqueues at once, under the lock of its group, so that the order of a
//! group's commands is the order in which its view changed.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Semaphore;

use super::entry::{Done, Entry, LogPos};
use super::error::Failure;
use super::group::{Group, Slot};

/// What a command does to its group.
pub(super) enum Op {
    Append {
        ticket: u64,
        entries: Vec<Entry>,
    },
    Vote(Bytes),
    /// `last` is the last entry that the truncation leaves.
    Truncate {
        keep: Option<u64>,
        last: Option<LogPos>,
    },
    Purge(LogPos),
    /// Entries that are live, each with the place that it is to leave.
    Move(Vec<(Entry, Slot)>),
    /// The last command of the group.
    Drop,
}

/// One change on its way to the disk.
pub(super) struct Command {
    pub group: Arc<Group>,
    pub op: Op,
    pub done: Completion,
    /// Bytes taken from the bound of the queue.
    pub permits: u32,
}

/// A [`Done`] that is called exactly once: dropped unanswered, it reports that the log is gone.
pub(super) struct Completion(Option<Done>);

impl Completion {
    pub fn new(done: Done) -> Self {
        Completion(Some(done))
    }

    pub fn finish(mut self, result: io::Result<()>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(closed()));
        }
    }
}

/// What the writer takes in one go.
#[derive(Default)]
pub(super) struct Work {
    pub commands: VecDeque<Command>,
    /// Groups whose committed mark waits to be written.
    pub lazy: Vec<Arc<Group>>,
    pub closing: bool,
}

#[derive(Default)]
struct State {
    work: Work,
    failure: Option<Failure>,
}

pub(super) struct Queue {
    /// Taken after the lock of a group. Held for moments.
    state: Mutex<State>,
    ready: Condvar,
    items: Semaphore,
    bytes: Semaphore,
    bytes_max: u32,
}

impl Queue {
    pub fn new(items_max: usize, bytes_max: u32) -> Self {
        Queue {
            state: Mutex::default(),
            ready: Condvar::new(),
            items: Semaphore::new(items_max),
            bytes: Semaphore::new(bytes_max as usize),
            bytes_max,
        }
    }

    /// Waits for room for one command of `bytes`. A command larger than the whole bound waits for an
    /// empty queue. Nothing is taken when the future is dropped.
    pub async fn reserve(&self, bytes: usize) -> io::Result<u32> {
        let permits = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .clamp(1, self.bytes_max);
        let item = self.items.acquire().await.map_err(|_| self.refusal())?;
        let bytes = self
            .bytes
            .acquire_many(permits)
            .await
            .map_err(|_| self.refusal())?;
        item.forget();
        bytes.forget();
        Ok(permits)
    }

    /// Gives back what [`Queue::reserve`] took.
    pub fn release(&self, permits: u32) {
        self.items.add_permits(1);
        self.bytes.add_permits(permits as usize);
    }

    /// Why nothing is accepted any more.
    fn refusal(&self) -> io::Error {
        self.state
            .lock()
            .failure
            .as_ref()
            .map_or_else(closed, Failure::to_io)
    }

    /// Whether commands are accepted.
    pub fn check_open(&self) -> io::Result<()> {
        let state = self.state.lock();
        match &state.failure {
            Some(failure) => Err(failure.to_io()),
            None if state.work.closing => Err(closed()),
            None => Ok(()),
        }
    }

    /// Enqueues a command whose room is reserved. The caller holds the lock of the group. Gives the
    /// command back when the log has failed since it was checked.
    pub fn push(&self, command: Command) -> Result<(), (Command, io::Error)> {
        let mut state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err((command, failure.to_io()));
        }
        state.work.commands.push_back(command);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Notes that a group's committed mark waits. The caller holds the lock of the group.
    pub fn push_lazy(&self, group: Arc<Group>) {
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return;
        }
        state.work.lazy.push(group);
        let first = state.work.lazy.len() == 1;
        drop(state);
        if first {
            self.ready.notify_one();
        }
    }

    /// Asks the writer to finish what is queued and stop.
    pub fn close(&self) {
        self.state.lock().work.closing = true;
        self.ready.notify_one();
        self.items.close();
        self.bytes.close();
    }

    /// The writer's call: waits for commands, for the deadline, or for closing. Without a deadline,
    /// committed marks alone also end the wait, so that the writer can set one.
    pub fn take(&self, deadline: Option<Instant>) -> Work {
        let mut state = self.state.lock();
        loop {
            let work = &state.work;
            if !work.commands.is_empty()
                || work.closing
                || (deadline.is_none() && !work.lazy.is_empty())
            {
                break;
            }
            match deadline {
                Some(deadline) => {
                    if self.ready.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
                None => self.ready.wait(&mut state),
            }
        }
        let closing = state.work.closing;
        mem::replace(
            &mut state.work,
            Work {
                closing,
                ..Work::default()
            },
        )
    }

    /// From now on nothing is accepted, and callers get the failure.
    pub fn refuse(&self, failure: &Failure) {
        self.state
            .lock()
            .failure
            .get_or_insert_with(|| failure.clone());
        self.items.close();
        self.bytes.close();
    }

    /// What is queued after all, for the failure to be told. Nothing follows after [`Queue::refuse`].
    pub fn drain(&self) -> VecDeque<Command> {
        mem::take(&mut self.state.lock().work).commands
    }
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the log is closed")
}
