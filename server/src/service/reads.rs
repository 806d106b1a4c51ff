//! Large reads: bounded together, and given up with their callers.
//!
//! ```text
//!   request ─▶ place ─▶ thread that may block: walk, keep ─▶ answer ─▶ body in slices
//!      │         │                   ▲                          │           │
//!      │         └ so many at a time │ looked at every so many  └── Held: its memory, until
//!      └ dropped: nobody waits ──────┘ records                      the connection has it all
//! ```
//!
//! What holds here:
//!
//! - A read that nobody waits for ends within [`limits::WALK_RECORDS_MAX`] records.
//! - All answers together keep at most [`limits::READ_MEMORY_BYTES_MAX`], and one of them more: so
//!   the largest read still gets its answer, and never waits for another that waits for it.
//! - A small answer never waits for memory.
//! - What large answers took up goes back to the system once there are none.

use std::{
    cell::Cell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_mvcc::{self as mvcc, ReadError, Reader};
use http::Response;
use http_body::Frame;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};

use super::status;
use crate::{
    group::GroupError,
    limits,
    storage::state::{StateError, View},
};

/// Time between two looks of a read that waits for memory at whether it is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Why a walk over the state ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody waits for the answer.
    #[error("the request was given up")]
    GivenUp,
    /// Other answers did not give enough memory back in time.
    #[error("the answers under way take up all memory for them")]
    NoMemory,
}

/// A read that has no answer.
pub(super) fn refused(error: &ReadError<WalkError>) -> Status {
    match error {
        ReadError::State(mvcc::StateError::Read(WalkError::GivenUp)) => {
            Status::cancelled("etcdserver: request canceled")
        }
        ReadError::State(mvcc::StateError::Read(WalkError::NoMemory)) => {
            status::group(&GroupError::Overloaded)
        }
        ReadError::State(mvcc::StateError::Read(WalkError::State(StateError::Closed))) => {
            status::group(&GroupError::Stopped("its state is closed".into()))
        }
        error => status::unreadable(error),
    }
}

/// The reads of a node that may be large.
pub(super) struct LargeReads {
    /// Those that are worked on.
    working: Arc<Semaphore>,
    /// Those that wait to be.
    waiting: Semaphore,
    memory: Arc<Memory>,
}

impl LargeReads {
    pub(super) fn new() -> Self {
        Self::bounded(limits::READS_WORKING_MAX, limits::READ_MEMORY_BYTES_MAX)
    }

    fn bounded(working_max: usize, bytes_max: usize) -> Self {
        Self {
            working: Arc::new(Semaphore::new(working_max)),
            waiting: Semaphore::new(limits::READS_FOR_A_PLACE_MAX),
            memory: Arc::new(Memory {
                bytes_max,
                used: Mutex::default(),
                freed: Condvar::new(),
            }),
        }
    }

    /// Runs a read on a thread that may block. When the future is dropped, the read ends soon.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reading) -> T + Send + 'static,
    ) -> Result<(T, Held), Status> {
        let place = {
            let _queued = self
                .waiting
                .try_acquire()
                .map_err(|_| status::group(&GroupError::Overloaded))?;
            // It comes in turn, and whoever waits no longer is dropped.
            let place = self.working.clone().acquire_owned().await;
            place.map_err(|_| status::group(&GroupError::Stopped("reads have ended".into())))?
        };
        let caller = Caller(Arc::default());
        let reading = Reading {
            given_up: Some(caller.0.clone()),
            walked: Cell::new(0),
            kept: Cell::new(0),
            held: Held {
                memory: Some(self.memory.clone()),
                bytes: Cell::new(0),
                beyond: Cell::new(false),
            },
        };
        let work = tokio::task::spawn_blocking(move || {
            // Held for as long as the thread works, wanted or not.
            let _place = place;
            let answer = work(&reading);
            (answer, reading.done())
        });
        let done = work.await;
        drop(caller);
        done.map_err(|e| Status::internal(format!("holdfast: the read failed: {e}")))
    }
}

/// Whoever waits for a read; gone when it is dropped.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One read under way.
///
/// - `held.bytes` is what is reserved for the answer beyond [`limits::READ_FREE_BYTES_MAX`].
pub(super) struct Reading {
    given_up: Option<Arc<AtomicBool>>,
    /// Records walked since the last look at `given_up`.
    walked: Cell<usize>,
    /// Bytes that the answer takes up.
    kept: Cell<usize>,
    held: Held,
}

impl Reading {
    /// A read that is over before anybody could give it up, with an answer that is bounded by the
    /// size of a request.
    pub(super) fn small() -> Self {
        Reading {
            given_up: None,
            walked: Cell::new(0),
            kept: Cell::new(0),
            held: Held {
                memory: None,
                bytes: Cell::new(0),
                beyond: Cell::new(false),
            },
        }
    }

    /// The view as this read may walk it.
    pub(super) fn of<'a>(&'a self, view: &'a View) -> Walked<'a> {
        Walked {
            view,
            reading: self,
        }
    }

    fn is_given_up(&self) -> bool {
        let flag = self.given_up.as_ref();
        flag.is_some_and(|given_up| given_up.load(Ordering::Relaxed))
    }

    /// Counts a record.
    fn walk(&self) -> Result<(), WalkError> {
        let walked = self.walked.get() + 1;
        if walked < limits::WALK_RECORDS_MAX {
            self.walked.set(walked);
            return Ok(());
        }
        self.walked.set(0);
        if self.is_given_up() {
            return Err(WalkError::GivenUp);
        }
        Ok(())
    }

    /// Makes sure of the memory for `bytes` more.
    fn keep(&self, bytes: usize) -> Result<(), WalkError> {
        let Some(memory) = &self.held.memory else {
            return Ok(());
        };
        let kept = self.kept.get() + cost(bytes);
        self.kept.set(kept);
        let reserved = self.held.bytes.get() + limits::READ_FREE_BYTES_MAX;
        if kept > reserved {
            // In steps, so that the lock is rarely taken.
            let more = (kept - reserved).max(limits::READ_STEP_BYTES);
            memory.reserve(more, &self.held.beyond, || self.is_given_up())?;
            self.held.bytes.set(self.held.bytes.get() + more);
        }
        Ok(())
    }

    fn let_go(&self, bytes: usize) {
        self.kept.set(self.kept.get().saturating_sub(cost(bytes)));
    }

    /// What the answer needs until it is sent.
    fn done(self) -> Held {
        let needed = self.kept.get().saturating_sub(limits::READ_FREE_BYTES_MAX);
        self.held.shrink(needed);
        self.held
    }
}

/// Bytes of memory for what takes up `bytes` in an answer: it stands there, and once more in the
/// message that is sent; its key and its value are allocated apart.
fn cost(bytes: usize) -> usize {
    const ALLOCATIONS_BYTES: usize = 96;
    2 * bytes + ALLOCATIONS_BYTES
}

/// A view that a read walks, as long as it is wanted and has memory.
pub(super) struct Walked<'a> {
    view: &'a View,
    reading: &'a Reading,
}

impl Reader for Walked<'_> {
    type Error = WalkError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, WalkError> {
        self.reading.walk()?;
        Ok(self.view.get(key)?)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), WalkError>> + '_ {
        self.view.scan(start, end).map(|record| {
            self.reading.walk()?;
            Ok(record?)
        })
    }

    fn first(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, WalkError> {
        self.reading.walk()?;
        Ok(self.view.first(start, end)?)
    }

    fn keep(&self, bytes: usize) -> Result<(), WalkError> {
        self.reading.keep(bytes)
    }

    fn let_go(&self, bytes: usize) {
        self.reading.let_go(bytes);
    }
}

/// Memory for the answers of all reads.
struct Memory {
    bytes_max: usize,
    used: Mutex<Used>,
    freed: Condvar,
}

/// - `bytes` is the sum over all [`Held`]; it is beyond the bound only while one of them is `beyond`.
#[derive(Default)]
struct Used {
    bytes: usize,
    /// When any was given back.
    freed: Option<Instant>,
    beyond: bool,
}

impl Used {
    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.freed = Some(Instant::now());
    }
}

impl Memory {
    /// Takes `bytes`, within the bound or as the one that may go beyond it. Blocks until there is
    /// room, nobody waits any more, or nothing has been given back for longer than patience lasts: the
    /// answers that hold it go to clients that do not read them.
    fn reserve(
        &self,
        bytes: usize,
        beyond: &Cell<bool>,
        is_given_up: impl Fn() -> bool,
    ) -> Result<(), WalkError> {
        let begun = Instant::now();
        let mut used = self.used.lock();
        loop {
            let fits = used.bytes + bytes <= self.bytes_max;
            if fits || beyond.get() || !used.beyond {
                if !fits {
                    used.beyond = true;
                    beyond.set(true);
                }
                used.bytes += bytes;
                return Ok(());
            }
            self.freed.wait_for(&mut used, POLL_INTERVAL);
            if is_given_up() {
                return Err(WalkError::GivenUp);
            }
            let since = used.freed.map_or(begun, |freed| freed.max(begun));
            if since.elapsed() > limits::REQUEST_TIMEOUT_DEFAULT {
                return Err(WalkError::NoMemory);
            }
        }
    }
}

/// Memory that an answer takes up, given back when this is dropped.
pub(super) struct Held {
    memory: Option<Arc<Memory>>,
    bytes: Cell<usize>,
    beyond: Cell<bool>,
}

impl Held {
    /// Gives back all but `bytes`.
    fn shrink(&self, bytes: usize) {
        let surplus = self.bytes.get().saturating_sub(bytes);
        let Some(memory) = self.memory.as_ref().filter(|_| surplus > 0) else {
            return;
        };
        self.bytes.set(self.bytes.get() - surplus);
        memory.used.lock().give_back(surplus);
        memory.freed.notify_all();
    }

    /// Has the answer keep its memory until it is sent.
    pub(super) fn until_sent<T>(self, answer: &mut tonic::Response<T>) {
        if self.bytes.get() > 0 {
            let held = Arc::new(Mutex::new(self));
            answer.extensions_mut().insert(UntilSent { _held: held });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            let mut used = memory.used.lock();
            used.give_back(self.bytes.get());
            used.beyond &= !self.beyond.get();
            memory.freed.notify_all();
        }
    }
}

/// Rides with an answer to where its body begins.
#[derive(Clone)]
struct UntilSent {
    _held: Arc<Mutex<Held>>,
}

/// Gives the body of a large answer to its connection in slices, so that a client that reads slowly
/// leaves the rest where it is counted.
pub(super) fn paced(mut answer: Response<Body>) -> Response<Body> {
    match answer.extensions_mut().remove::<UntilSent>() {
        None => answer,
        Some(held) => answer.map(|body| {
            Body::new(Paced {
                body,
                rest: Bytes::new(),
                _held: held,
            })
        }),
    }
}

struct Paced {
    body: Body,
    /// What came of the body and is not yet with the connection.
    rest: Bytes,
    _held: UntilSent,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(limits::RESPONSE_SLICE_BYTES);
        let slice = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }
}

#[cfg(test)]
mod tests;
