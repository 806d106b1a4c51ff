//! The numbers of the layout, and what stands in records.

use bytes::Bytes;

use crate::storage::log::{
    dropped::DroppedGroups,
    entry::{Entry, LogPos},
};

pub(in crate::storage::log) const SEGMENT_HEADER_BYTES: usize = 64;
pub(in crate::storage::log) const BATCH_HEADER_BYTES: usize = 36;
pub(in crate::storage::log) const RECORD_HEADER_BYTES: usize = 17;
/// Term, index and kind in front of an entry's payload.
pub(super) const ENTRY_HEAD_BYTES: usize = 17;
/// What an entry costs on disk beyond its payload.
pub(in crate::storage::log) const ENTRY_OVERHEAD_BYTES: usize =
    RECORD_HEADER_BYTES + ENTRY_HEAD_BYTES;
/// The zeros after the last batch. They are not part of it: the next batch overwrites them.
pub(in crate::storage::log) const TERMINATOR_BYTES: usize = BATCH_HEADER_BYTES;
/// No record is longer: offsets and lengths are 32 bits wide.
pub(in crate::storage::log) const RECORD_BYTES_MAX: usize = 256 << 20;

pub(super) const SEGMENT_MAGIC: &[u8; 8] = b"HOLDFLOG";
pub(super) const SEGMENT_VERSION: u32 = 3;
/// Oldest version that is read.
pub(super) const SEGMENT_VERSION_MIN: u32 = 1;
pub(super) const BATCH_MAGIC: [u8; 4] = [0xb7, 0x48, 0x46, 0xba];

pub(super) const KIND_ENTRY: u8 = 1;
pub(super) const KIND_VOTE: u8 = 2;
pub(super) const KIND_COMMITTED: u8 = 3;
pub(super) const KIND_TRUNCATE: u8 = 4;
pub(super) const KIND_PURGE: u8 = 5;
pub(super) const KIND_CHECKPOINT: u8 = 6;
pub(super) const KIND_SEGMENTS: u8 = 7;
pub(super) const KIND_MOVED: u8 = 8;
pub(super) const KIND_DROP: u8 = 9;
pub(super) const KIND_DROPPED: u8 = 10;

/// Where checksums of a segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage::log) struct Place {
    pub log_id: u64,
    pub segment: u64,
}

impl Place {
    pub(super) fn seed(self, offset: u64) -> u32 {
        let mut place = [0; 24];
        place[..8].copy_from_slice(&self.log_id.to_le_bytes());
        place[8..16].copy_from_slice(&self.segment.to_le_bytes());
        place[16..].copy_from_slice(&offset.to_le_bytes());
        crc32c::crc32c(&place)
    }
}

/// The state of a group at the head of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage::log) struct Checkpoint {
    pub purged: Option<LogPos>,
    /// The last live entry.
    pub last: Option<LogPos>,
    /// Segment and first index of each run of live entries; as empty as `last`.
    pub runs: Vec<(u64, u64)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
}

/// Where an older segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage::log) struct SegmentEnd {
    pub sequence: u64,
    pub end: u32,
    pub last_batch: u64,
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage::log) enum Record {
    Entry(Entry),
    /// An entry that was live when it was written again; it changes nothing but its place.
    Moved(Entry),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<u64>),
    Purge(LogPos),
    Checkpoint(Checkpoint),
    Segments(Vec<SegmentEnd>),
    /// The group is dropped.
    Drop,
    /// All groups that were dropped before.
    Dropped(DroppedGroups),
}
