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
//! The cluster must know an id before it can tell a repeated request from a new one: the first
//! write of a lane travels alone, and until it has been answered the lane is closed. Should it end
//! without an answer, the lane starts over with another id.
//!
//! ```text
//!  lane 0   base ─▶ [x . x x . . x x ......... 128 wide .........] ◀─ next      x done  . in flight
//!  lane 1   opening: write 1 is under way
//!  lane 2   not used yet
//! ```
//!
//! Every keyspace has its own lanes, because it has its own memory of answers.

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Notify;
use tonic::metadata::{Ascii, MetadataValue};

/// Slots that the cluster keeps for one client id.
pub(crate) const WINDOW: u64 = 128;
/// Client ids of one [`Client`](crate::Client) in one keyspace; times [`WINDOW`], its most writes in
/// flight.
pub(crate) const LANES: usize = 16;
/// Lanes that may be opening at a time: more than one, lest a stuck first write hold up the rest; few,
/// because every id takes a place in the cluster's memory.
const OPENING_MAX: usize = 4;

/// All lanes of one client in one keyspace.
pub(crate) struct Sessions {
    lanes: Vec<Mutex<Lane>>,
    /// Signalled when a full lane may have room again.
    room: Notify,
}

/// - `base <= next <= base + WINDOW`
/// - until `open`, at most one number is in flight, and it is 1
/// - bit `i` of `done` belongs to the number `base + i`; bit 0 is never set
/// - bits at or above `next - base` are never set
struct Lane {
    /// 16 random bytes in lower-case hexadecimal.
    id: MetadataValue<Ascii>,
    /// The cluster knows the id.
    open: bool,
    base: u64,
    next: u64,
    done: u128,
}

impl Lane {
    fn new() -> Self {
        let mut id = [0u8; 16];
        rand::rng().fill_bytes(&mut id);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = hex.parse().expect("hexadecimal digits are ASCII");
        Self {
            id,
            open: false,
            base: 1,
            next: 1,
            done: 0,
        }
    }

    fn is_opening(&self) -> bool {
        !self.open && self.next > self.base
    }

    fn take(&mut self) -> Option<u64> {
        let room = if self.open { WINDOW } else { 1 };
        (self.next - self.base < room).then(|| {
            let seq = self.next;
            self.next += 1;
            seq
        })
    }

    fn complete(&mut self, seq: u64, known: bool) {
        assert!(
            self.base <= seq && seq < self.next,
            "request {seq} is not in flight: window {}..{}",
            self.base,
            self.next
        );
        self.open |= known;
        if !self.open {
            *self = Self::new();
            return;
        }
        self.done |= 1 << (seq - self.base);
        let finished = self.done.trailing_ones();
        self.base += u64::from(finished);
        self.done = self.done.checked_shr(finished).unwrap_or(0);
    }
}

/// The retry id of one write. Dropping it lets the window move on.
pub(crate) struct Ticket<'a> {
    sessions: &'a Sessions,
    lane: usize,
    id: MetadataValue<Ascii>,
    seq: u64,
    known: bool,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        let lanes = (0..LANES).map(|_| Mutex::new(Lane::new())).collect();
        Self {
            lanes,
            room: Notify::new(),
        }
    }

    fn try_ticket(&self) -> Option<Ticket<'_>> {
        let mut opening = 0;
        for (at, lane) in self.lanes.iter().enumerate() {
            let mut lane = lane.lock();
            if let Some(seq) = lane.take() {
                let id = lane.id.clone();
                return Some(Ticket {
                    sessions: self,
                    lane: at,
                    id,
                    seq,
                    known: false,
                });
            }
            opening += usize::from(lane.is_opening());
            if opening == OPENING_MAX {
                return None;
            }
        }
        None
    }

    /// A fresh number; waits while all lanes are full.
    pub(crate) async fn ticket(&self) -> Ticket<'_> {
        if let Some(ticket) = self.try_ticket() {
            return ticket;
        }
        loop {
            // Only one waiter is woken for a completion that may make room for several, so each
            // that gets in wakes the next.
            self.room.notified().await;
            if let Some(ticket) = self.try_ticket() {
                self.room.notify_one();
                return ticket;
            }
        }
    }
}

impl Ticket<'_> {
    pub(crate) fn client_id(&self) -> MetadataValue<Ascii> {
        self.id.clone()
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The write was carried out, so the cluster has its id on record.
    pub(crate) fn succeeded(&mut self) {
        self.known = true;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.sessions.lanes[self.lane]
            .lock()
            .complete(self.seq, self.known);
        self.sessions.room.notify_one();
    }
}

#[cfg(test)]
mod tests;
