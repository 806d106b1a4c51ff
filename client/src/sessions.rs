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
//! ```text
//!  lane 0   base ─▶ [x . x x . . x x ......... 128 wide .........] ◀─ next      x done  . in flight
//!  lane 1   base ─▶ [. . x] ◀─ next
//!  lane 2   not used yet
//! ```

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Notify;
use tonic::metadata::{Ascii, MetadataValue};

/// Slots that the cluster keeps for one client id.
pub(crate) const WINDOW: u64 = 128;
/// Client ids of one [`Client`](crate::Client); times [`WINDOW`], its most writes in flight.
pub(crate) const LANES: usize = 16;

/// All lanes of one client.
pub(crate) struct Sessions {
    lanes: Vec<Lane>,
    /// Signalled when a full lane may have room again.
    room: Notify,
}

struct Lane {
    /// 16 random bytes in lower-case hexadecimal.
    id: MetadataValue<Ascii>,
    window: Mutex<Window>,
}

/// - `base <= next <= base + WINDOW`
/// - bit `i` of `done` belongs to the number `base + i`; bit 0 is never set
/// - bits at or above `next - base` are never set
struct Window {
    base: u64,
    next: u64,
    done: u128,
}

impl Window {
    fn take(&mut self) -> Option<u64> {
        (self.next - self.base < WINDOW).then(|| {
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

/// The retry id of one write. Dropping it lets the window move on.
pub(crate) struct Ticket<'a> {
    sessions: &'a Sessions,
    lane: usize,
    seq: u64,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        let lane = || {
            let mut id = [0u8; 16];
            rand::rng().fill_bytes(&mut id);
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            let id = hex.parse().expect("hexadecimal digits are ASCII");
            Lane {
                id,
                window: Mutex::new(Window {
                    base: 1,
                    next: 1,
                    done: 0,
                }),
            }
        };
        Self {
            lanes: (0..LANES).map(|_| lane()).collect(),
            room: Notify::new(),
        }
    }

    fn try_ticket(&self) -> Option<Ticket<'_>> {
        self.lanes.iter().enumerate().find_map(|(lane, l)| {
            let seq = l.window.lock().take()?;
            Some(Ticket {
                sessions: self,
                lane,
                seq,
            })
        })
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
        self.sessions.lanes[self.lane].id.clone()
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.sessions.lanes[self.lane]
            .window
            .lock()
            .complete(self.seq);
        self.sessions.room.notify_one();
    }
}

#[cfg(test)]
mod tests;
