//! How fast a node sends snapshots: one rate for all transfers of all groups together.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes in a second that all transfers share, in the order in which they ask.
#[derive(Debug)]
pub struct SnapshotRate {
    bytes_per_second_max: u64,
    /// When the next bytes may go.
    next: Mutex<Instant>,
}

impl SnapshotRate {
    /// A rate of so many bytes in a second.
    pub fn new(bytes_per_second_max: u64) -> Self {
        Self {
            bytes_per_second_max: bytes_per_second_max.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may go. Blocks the thread: each transfer has one of its own. Time in which
    /// nobody sends is lost, so nothing goes faster than the rate afterwards.
    pub(super) fn wait_for(&self, bytes: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_max as f64);
        let now = Instant::now();
        let starts = {
            let mut next = self.next.lock();
            let starts = (*next).max(now);
            *next = starts + takes;
            starts
        };
        // Outside the lock: others take their turns meanwhile.
        std::thread::sleep(starts - now);
    }
}
