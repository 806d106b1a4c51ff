//! Room on the disk: how much is left, how much is already spoken for, and when to refuse what grows
//! the data.
//!
//! ```text
//!   free space of a file system
//!   ├── slack ──┤── promised ──┤─────── reserve ───────┤
//!               ▲              what memory tables hold and the disk does not yet
//!               └ below 0: short; at a quarter of the reserve again: not short any more
//! ```
//!
//! A node that is short refuses what grows the data while deletions, compactions, votes and the
//! flush of what it has acknowledged still find room. It goes on by itself when there is room again.
//! A follower cannot refuse what its leader has accepted, so every node tells its leaders whether it is
//! short, and a leader accepts growth as long as the voters with room are a quorum.

use std::{
    collections::BTreeSet,
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Bytes that the disk takes for one byte of a memory table: the engine writes a batch beside its
/// records, and pages anew, before it frees what they replace.
const BYTES_ON_DISK_PER_TABLE_BYTE: u64 = 4;
/// Bytes of room that a proposed byte takes until it is seen in the free space: in the log, and then in
/// the engine.
const BYTES_ON_DISK_PER_PROPOSED_BYTE: u64 = 1 + BYTES_ON_DISK_PER_TABLE_BYTE;
/// The reserve is at most this fraction of a file system, so that a small one is of use too.
const RESERVE_FRACTION: u64 = 4;
/// Part of the reserve by which the slack must have come back before growth is accepted again.
const HYSTERESIS_FRACTION: u64 = 4;

/// A file system as it is now, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process may still write.
    pub free: u64,
    /// Size of the whole.
    pub total: u64,
}

impl Space {
    /// Of the file system that holds `path`. It asks the system's memory, not the disk.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
        // SAFETY: all zeros are a valid `statvfs`, which is a struct of numbers.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with a zero byte, and `stat` is writable; both outlive the call.
        if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

/// A look after which growth is refused, or accepted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The node has become short of room.
    Short,
    /// It has room again.
    Ample,
}

/// The room of a node, and what its peers said of theirs. Shared by all its groups.
#[derive(Debug)]
pub struct Room {
    reserve_bytes: u64,
    /// Bytes that may be taken until the next look.
    slack: AtomicI64,
    short: watch::Sender<bool>,
    /// Nodes that said they are short, in their last answer to a leader here.
    short_peers: Mutex<BTreeSet<u64>>,
    any_short_peer: AtomicBool,
}

impl Room {
    /// Room with nothing known yet: ample until the first look.
    pub fn new(reserve_bytes: u64) -> Self {
        Self {
            reserve_bytes,
            slack: AtomicI64::new(i64::MAX),
            short: watch::Sender::new(false),
            short_peers: Mutex::default(),
            any_short_peer: AtomicBool::new(false),
        }
    }

    /// What stays free on a file system of this size, in bytes.
    pub fn reserve(&self, total: u64) -> u64 {
        self.reserve_bytes.min(total / RESERVE_FRACTION)
    }

    /// Takes note of the file systems that the node writes to, and of the bytes in memory tables.
    pub fn look(&self, spaces: &[Space], table_bytes: u64) -> Option<Turn> {
        let promised = table_bytes.saturating_mul(BYTES_ON_DISK_PER_TABLE_BYTE);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut short = false;
        let mut enough = true;
        let mut slack = i64::MAX;
        for space in spaces {
            let reserve = self.reserve(space.total);
            let left = signed(space.free) - signed(reserve.saturating_add(promised));
            slack = slack.min(left);
            short |= left < 0;
            enough &= left >= signed(reserve / HYSTERESIS_FRACTION);
        }
        self.slack.store(slack, Ordering::Relaxed);
        let was = *self.short.borrow();
        let now = if was { !enough } else { short };
        if now != was {
            self.short.send_replace(now);
        }
        match (was, now) {
            (false, true) => Some(Turn::Short),
            (true, false) => Some(Turn::Ample),
            _ => None,
        }
    }

    /// Counts a proposal that is about to be written: many may come between two looks.
    pub fn take(&self, bytes: usize) {
        let bytes = (bytes as u64).saturating_mul(BYTES_ON_DISK_PER_PROPOSED_BYTE);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self
            .slack
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |slack| {
                Some(slack.saturating_sub(bytes))
            });
        debug_assert!(before.is_ok(), "the update always gives a value");
    }

    /// Whether this node must not grow, for all it knows.
    pub fn is_short(&self) -> bool {
        *self.short.borrow() || self.slack.load(Ordering::Relaxed) < 0
    }

    /// Follows whether the node is short, from one look to the next.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.short.subscribe()
    }

    /// Whether the slack is less than what memory tables may promise: they should go down early, while
    /// that takes little.
    pub fn is_tight(&self, table_bytes: u64) -> bool {
        let promised = table_bytes.saturating_mul(BYTES_ON_DISK_PER_TABLE_BYTE);
        self.slack.load(Ordering::Relaxed) < i64::try_from(promised).unwrap_or(i64::MAX)
    }

    /// Takes note of what a peer said of its room.
    pub fn peer_is_short(&self, peer: u64, short: bool) {
        if !short && !self.any_short_peer.load(Ordering::Relaxed) {
            return;
        }
        let mut peers = self.short_peers.lock();
        if short {
            peers.insert(peer);
        } else {
            peers.remove(&peer);
        }
        self.any_short_peer
            .store(!peers.is_empty(), Ordering::Relaxed);
    }

    /// The peers that said they are short, ascending.
    pub fn short_peers(&self) -> BTreeSet<u64> {
        if !self.any_short_peer.load(Ordering::Relaxed) {
            return BTreeSet::new();
        }
        self.short_peers.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn space(free: u64, total: u64) -> Space {
        Space {
            free: free * MIB,
            total: total * MIB,
        }
    }

    #[test]
    fn growth_is_refused_below_the_reserve_and_accepted_well_above_it() {
        let room = Room::new(256 * MIB);
        assert_eq!(room.look(&[space(10_000, 20_000)], 0), None);
        assert!(!room.is_short());
        assert_eq!(room.look(&[space(255, 20_000)], 0), Some(Turn::Short));
        assert!(room.is_short());
        assert_eq!(room.look(&[space(300, 20_000)], 0), None, "not for a crumb");
        assert!(room.is_short());
        assert_eq!(room.look(&[space(320, 20_000)], 0), Some(Turn::Ample));
        assert!(!room.is_short());
    }

    #[test]
    fn a_small_file_system_has_a_small_reserve() {
        let room = Room::new(256 * MIB);
        assert_eq!(room.reserve(160 * MIB), 40 * MIB);
        assert_eq!(room.look(&[space(60, 160)], 0), None);
        assert_eq!(room.look(&[space(39, 160)], 0), Some(Turn::Short));
    }

    #[test]
    fn what_is_in_memory_is_promised_room_and_the_worst_file_system_counts() {
        let room = Room::new(100 * MIB);
        assert_eq!(room.look(&[space(200, 1000)], 20 * MIB), None);
        assert_eq!(room.look(&[space(200, 1000)], 30 * MIB), Some(Turn::Short));
        let room = Room::new(100 * MIB);
        let spaces = [space(10_000, 20_000), space(50, 1000)];
        assert_eq!(room.look(&spaces, 0), Some(Turn::Short));
    }

    #[test]
    fn a_burst_between_two_looks_is_counted() {
        let room = Room::new(100 * MIB);
        room.look(&[space(110, 1000)], 0);
        room.take(2 * MIB as usize);
        assert!(!room.is_short());
        room.take(MIB as usize);
        assert!(room.is_short(), "15 MiB of 10 are taken");
        assert_eq!(room.look(&[space(109, 1000)], 0), None);
        assert!(!room.is_short(), "the disk took less than was feared");
    }

    #[test]
    fn peers_are_short_for_as_long_as_they_say_so() {
        let room = Room::new(0);
        assert!(room.short_peers().is_empty());
        room.peer_is_short(2, true);
        room.peer_is_short(3, true);
        room.peer_is_short(2, false);
        assert_eq!(room.short_peers(), [3].into());
        assert!(!room.is_short(), "a reserve of nothing is never touched");
    }

    #[test]
    fn the_space_of_a_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::of(dir.path()).unwrap();
        assert!(0 < space.total && space.free <= space.total, "{space:?}");
        assert!(Space::of(&dir.path().join("missing")).is_err());
    }
}
