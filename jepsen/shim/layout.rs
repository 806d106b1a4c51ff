//! The file that the harness and the shim share, one for each node: what is wrong, and what a power
//! cut would take back.
//!
//! Compiled into both. Both map the head; the rings are read and written at offsets, because what is
//! in the page cache survives the death of a process as a mapping does.
//!
//! ```text
//!   0         4096          128 KiB                   + RING_BYTES              …
//!   ├ Control ┼ Slot × SLOTS ┼ ring of slot 0 ─────────┼ ring of slot 1 ─────── …
//!
//!   ring      a record at position p is at p modulo RING_BYTES, and may go over the end
//!   record    0  4  magic            8  8  where the old bytes were        32  8  where the change began
//!             4  4  kind            16  8  how many old bytes there are    40  8  its length
//!                                   24  8  length of the file before       48  …  the old bytes
//! ```
//!
//! A ring is a queue: a change adds a record at `end` before it is made; a sync moves `start` to where
//! `end` was when it began.

use std::sync::atomic::{AtomicI64, AtomicU64};

/// Names the variable with the path of the shared file.
pub const CONTROL_VARIABLE: &str = "JEPSEN_SHIM_CONTROL";
/// Names the variable with the directory, without symbolic links, whose files are journalled.
pub const DATA_DIR_VARIABLE: &str = "JEPSEN_SHIM_DATA_DIR";

/// "jepshim" and the version of the layout.
pub const MAGIC: u64 = u64::from_le_bytes(*b"jepshim\x01");
/// Files that can have unsynced changes at the same time.
pub const SLOTS: usize = 1024;
/// Offset of the slots in the file.
pub const SLOTS_AT: usize = 4096;
/// Bytes that are mapped.
pub const HEAD_BYTES: usize = 128 * 1024;
/// Records that one file can have, in bytes. The file is sparse: space is taken by records only.
pub const RING_BYTES: u64 = 256 << 20;
/// Records that all files of a node can have, in bytes.
pub const RECORDS_BYTES_MAX: u64 = 1 << 30;

/// What the harness sets and the shim tells.
#[repr(C)]
pub struct Control {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// By how much a sync is delayed.
    pub sync_delay_us: AtomicU64,
    /// 1: every sync fails with `EIO`.
    pub sync_fails: AtomicU64,
    /// 0: changes are not journalled. Else the journal that is kept; slots of another are empty.
    pub journal: AtomicU64,
    /// Why the journal is not whole, one of the `BROKEN_` values; 0 if it is.
    pub broken: AtomicU64,
    /// Even when the four values of the clock are consistent.
    pub clock_version: AtomicU64,
    /// 1: the clock is off.
    pub clock_faulty: AtomicU64,
    /// By how much it is off at `clock_since_ns`.
    pub clock_offset_ns: AtomicI64,
    /// Nanoseconds that it gains in a second.
    pub clock_drift_ppb: AtomicI64,
    /// `CLOCK_MONOTONIC` when it was set.
    pub clock_since_ns: AtomicU64,
    /// Processes that have loaded the shim.
    pub loads: AtomicU64,
    /// Calls of `fsync` and `fdatasync`.
    pub syncs: AtomicU64,
    /// Changes that were journalled.
    pub changes: AtomicU64,
    /// 1: the wall clock was read.
    pub clock_read: AtomicU64,
}

/// More was unsynced than the journal holds.
pub const BROKEN_FULL: u64 = 1;
/// The bytes that a change was about to replace could not be read.
pub const BROKEN_READ: u64 = 2;
/// A record could not be written.
pub const BROKEN_WRITE: u64 = 3;
/// More files had unsynced changes than there are slots.
pub const BROKEN_SLOTS: u64 = 4;
/// A second process wrote to the files of the node.
pub const BROKEN_PROCESSES: u64 = 5;

/// A file with unsynced changes, and its ring.
///
/// - `start == end`, or past it while the two are being set to 0: nothing is unsynced.
/// - `epoch` is set last, so a slot that has one names a file.
#[repr(C)]
pub struct Slot {
    /// The journal that the slot belongs to.
    pub epoch: AtomicU64,
    /// Device of the file.
    pub dev: AtomicU64,
    /// Number of its inode.
    pub ino: AtomicU64,
    /// When it was created, in nanoseconds: inode numbers are used again.
    pub born_ns: AtomicU64,
    /// Position of the first record.
    pub start: AtomicU64,
    /// Position behind the last record.
    pub end: AtomicU64,
    /// How many times `start` and `end` went back to 0.
    pub resets: AtomicU64,
    /// Position up to which the space of the ring was given back.
    pub freed: AtomicU64,
}

const _: () = assert!(size_of::<Control>() <= SLOTS_AT);
const _: () = assert!(SLOTS_AT + SLOTS * size_of::<Slot>() <= HEAD_BYTES);

/// Offset in the file of the ring of a slot.
pub const fn ring_at(slot: usize) -> u64 {
    HEAD_BYTES as u64 + slot as u64 * RING_BYTES
}

/// Begins every record.
pub const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"undo");
/// Length of a record without the old bytes.
pub const RECORD_HEADER_BYTES: usize = 48;
/// Bytes were overwritten or added: the medium may have any of its sectors.
pub const KIND_WRITE: u32 = 1;
/// The file got another length, or its contents moved: the medium has that or has it not.
pub const KIND_RESIZE: u32 = 2;

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// [`KIND_WRITE`] or [`KIND_RESIZE`].
    pub kind: u32,
    /// Where in the file the old bytes were.
    pub old_at: u64,
    /// How many there are.
    pub old_bytes: u64,
    /// Length of the file before.
    pub old_len: u64,
    /// Where the change began.
    pub change_at: u64,
    /// How many bytes it was to change.
    pub change_bytes: u64,
}

impl RecordHeader {
    /// As it is written.
    pub fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.kind.to_le_bytes());
        let words = [
            self.old_at,
            self.old_bytes,
            self.old_len,
            self.change_at,
            self.change_bytes,
        ];
        for (at, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// As it is read; `None` if it is not one.
    #[allow(dead_code, reason = "the shim only writes records")]
    pub fn decode(bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<Self> {
        let (head, words) = bytes.split_first_chunk::<8>()?;
        let (magic, kind) = head.split_first_chunk::<4>()?;
        let kind = u32::from_le_bytes(kind.try_into().ok()?);
        if u32::from_le_bytes(*magic) != RECORD_MAGIC || !matches!(kind, KIND_WRITE | KIND_RESIZE) {
            return None;
        }
        let mut words = words
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)));
        Some(Self {
            kind,
            old_at: words.next()?,
            old_bytes: words.next()?,
            old_len: words.next()?,
            change_at: words.next()?,
            change_bytes: words.next()?,
        })
    }
}
