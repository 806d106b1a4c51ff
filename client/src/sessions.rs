//! Retry ids: what makes it safe to send a write again.
//!
//! A write carries a client id and a sequence number. The cluster keeps its answers in 128 slots a
//! client id (slot = number mod 128), so a number is remembered until the number 128 later is used.
//! The promise kept here: **while a write is in flight, no number 128 or more above its own is
//! given out under the same id.** Otherwise the answer of a write that may still be sent again
//! could be forgotten.
//!
//! One id would cap the client at 128 writes in flight, fewer behind one slow write. So there are
//! several ids, called lanes; a further lane is used only when those before it are full. When all
//! are full, new writes wait.
//!
//! The cluster gives an id to a client that registers, and knows no other: the first write that
//! finds a lane closed registers for it, and the lane is closed again when the cluster says that it
//! has forgotten the id. Such an id never comes back, so what is still on its way under it comes to
//! nothing.
//!
//! ```text
//!  lane 0   base ─▶ [x . x x . . x x ......... 128 wide .........] ◀─ next      x done  . in flight
//!  lane 1   opening: somebody registers for it
//!  lane 2   closed: not used yet, or forgotten
//! ```
//!
//! Every keyspace has its own lanes, because it has its own memory of answers.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::metadata::{Ascii, MetadataValue};

/// Most numbers in flight under one id: the width of a lane's map. The cluster says how many of them
/// it remembers.
pub(crate) const WINDOW: u64 = 128;
/// Client ids of one [`Client`](crate::Client) in one keyspace; times [`WINDOW`], its most writes in
/// flight.
pub(crate) const LANES: usize = 16;

/// All lanes of one client in one keyspace.
pub(crate) struct Sessions {
    lanes: Vec<Mutex<Lane>>,
    /// Signalled when a full lane may have room again, or a lane was opened or closed.
    room: Notify,
}

/// An id as the cluster gave it, and the lane that it was given for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Session {
    lane: usize,
    id: MetadataValue<Ascii>,
}

enum Lane {
    Closed,
    /// Somebody registers for it.
    Opening,
    Open(Window),
}

/// - `base <= next <= base + width`, `width <= WINDOW`
/// - bit `i` of `done` belongs to the number `base + i`; bit 0 is never set
/// - bits at or above `next - base` are never set
struct Window {
    id: MetadataValue<Ascii>,
    width: u64,
    base: u64,
    next: u64,
    done: u128,
}

impl Window {
    fn new(id: MetadataValue<Ascii>, width: u64) -> Self {
        Self {
            id,
            width: width.clamp(1, WINDOW),
            base: 1,
            next: 1,
            done: 0,
        }
    }

    fn take(&mut self) -> Option<u64> {
        (self.next - self.base < self.width).then(|| {
            let seq = self.next;
            self.next += 1;
            seq
        })
    }

    fn complete(&mut self, seq: u64) {
        assert!(
            self.base <= seq && seq < self.next,
            "request {seq} is not in flight: window {}..{}",
            self.base,
            self.next
        );
        self.done |= 1 << (seq - self.base);
        let finished = self.done.trailing_ones();
        self.base += u64::from(finished);
        self.done = self.done.checked_shr(finished).unwrap_or(0);
    }
}

/// What a write gets that asks for a retry id.
pub(crate) enum Claim<'a> {
    /// Its id.
    Ticket(Ticket<'a>),
    /// The task to register for a lane. Then it asks again.
    Open(Opening<'a>),
}

/// The retry id of one write. Dropping it lets the window move on.
pub(crate) struct Ticket<'a> {
    sessions: &'a Sessions,
    session: Session,
    seq: u64,
}

/// A lane that is registered for. Dropping it closes the lane again.
pub(crate) struct Opening<'a> {
    sessions: &'a Sessions,
    lane: usize,
    opened: bool,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        let lanes = (0..LANES).map(|_| Mutex::new(Lane::Closed)).collect();
        Self {
            lanes,
            room: Notify::new(),
        }
    }

    fn try_claim(&self) -> Option<Claim<'_>> {
        for (at, lane) in self.lanes.iter().enumerate() {
            let mut lane = lane.lock();
            match &mut *lane {
                Lane::Open(window) => {
                    if let Some(seq) = window.take() {
                        let id = window.id.clone();
                        return Some(Claim::Ticket(Ticket {
                            sessions: self,
                            session: Session { lane: at, id },
                            seq,
                        }));
                    }
                }
                // One at a time: every id takes a place in the cluster's memory.
                Lane::Opening => return None,
                Lane::Closed => {
                    *lane = Lane::Opening;
                    return Some(Claim::Open(Opening {
                        sessions: self,
                        lane: at,
                        opened: false,
                    }));
                }
            }
        }
        None
    }

    /// A fresh number, or the task to register; waits while all lanes are full or one is opening.
    pub(crate) async fn claim(&self) -> Claim<'_> {
        if let Some(claim) = self.try_claim() {
            return claim;
        }
        loop {
            // Only one waiter is woken for a completion that may make room for several, so each
            // that gets in wakes the next.
            self.room.notified().await;
            if let Some(claim) = self.try_claim() {
                self.room.notify_one();
                return claim;
            }
        }
    }

    /// The cluster has forgotten this id.
    pub(crate) fn forget(&self, session: &Session) {
        let mut lane = self.lanes[session.lane].lock();
        if matches!(&*lane, Lane::Open(window) if window.id == session.id) {
            *lane = Lane::Closed;
            self.room.notify_one();
        }
    }
}

impl Ticket<'_> {
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn client_id(&self) -> MetadataValue<Ascii> {
        self.session.id.clone()
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // A lane that has another id by now knows nothing of this number.
        if let Lane::Open(window) = &mut *self.sessions.lanes[self.session.lane].lock()
            && window.id == self.session.id
        {
            window.complete(self.seq);
        }
        self.sessions.room.notify_one();
    }
}

impl Opening<'_> {
    /// The cluster gave this id, and remembers so many requests of it.
    pub(crate) fn open(mut self, id: MetadataValue<Ascii>, width: u64) {
        *self.sessions.lanes[self.lane].lock() = Lane::Open(Window::new(id, width));
        self.opened = true;
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.opened {
            *self.sessions.lanes[self.lane].lock() = Lane::Closed;
        }
        self.sessions.room.notify_one();
    }
}

#[cfg(test)]
mod tests;
