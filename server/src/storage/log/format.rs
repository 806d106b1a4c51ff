//! The bytes of a segment file: layout, checksums, encoding. Decoding is in `decode`. No I/O.
//!
//! All integers are little-endian. Layout of a segment:
//!
//! ```text
//!   0                 64
//!   ├─ segment header ─┼─ batch ─┬─ batch ─┬─ … ─┬─ 36 zero bytes ─┬─ zeros, or bytes of an earlier use ─┤
//!
//!   segment header     0  8  magic "HOLDFLOG"
//!                      8  4  format version: 3. Version 2 added kind 8 to those of version 1, and
//!                            version 3 the kinds 9 and 10
//!                     12  4  zero
//!                     16  8  log id: random, the same in every segment of a log
//!                     24  8  sequence number of the segment
//!                     32  8  length that the file was given
//!                     40 20  zero
//!                     60  4  crc32c of bytes 0..60
//!
//!   batch header       0  4  magic
//!                      4  4  crc32c of bytes 8..36, seeded
//!                      8  4  length of the body
//!                     12  4  number of records in the body
//!                     16  8  batch number, counting from 1 over the life of the log
//!                     24  8  the last batch known to be synced when this one was written
//!                     32  4  crc32c of the body, seeded
//!
//!   record             0  4  crc32c of bytes 4.., seeded
//!                      4  4  length of the body
//!                      8  8  group id; 0 is the log itself
//!                     16  1  kind
//!                     17 ..  body
//!
//!   kind 1 entry       term 8, index 8, kind 1, payload
//!   kind 2 vote        opaque bytes
//!   kind 3 committed   opaque bytes
//!   kind 4 truncate    flag 1, index 8: the last index to keep; flag 0 keeps none
//!   kind 5 purge       term 8, index 8: the last entry dropped from the front
//!   kind 6 checkpoint  flags 1 (1 purged, 2 entries, 4 vote, 8 committed), then those that are flagged:
//!                      purged: term 8, index 8
//!                      entries: last term 8, last index 8, count 4, then of every run of entries in one
//!                      segment: segment 8, first index 8
//!                      vote: length 4, bytes · committed: length 4, bytes
//!   kind 7 segments    count 4, then of every older segment that is still live:
//!                      sequence 8, end of its last batch 4, number of its last batch 8
//!   kind 8 moved       as kind 1: a live entry once more, so that the segment it lay in may go
//!   kind 9 drop        empty: the group is no more. All of it is dead, and its id is never used again
//!   kind 10 dropped    of the log itself, behind the segments at the head of a segment, if any group was
//!                      dropped before: count 4, then of every range of such groups, ascending and
//!                      apart: first id 8, last id 8
//! ```
//!
//! *Seeded* means that the checksum starts from the crc32c of (log id, segment sequence, offset in
//! the file). So bytes are valid only where they were written: a record left over from an earlier use
//! of a recycled file, a record copied elsewhere, and a log segment stored as somebody's value are all
//! invalid without any further field.

mod decode;
mod layout;

use self::layout::{
    BATCH_MAGIC, KIND_CHECKPOINT, KIND_COMMITTED, KIND_DROP, KIND_DROPPED, KIND_ENTRY, KIND_MOVED,
    KIND_PURGE, KIND_SEGMENTS, KIND_TRUNCATE, KIND_VOTE, SEGMENT_MAGIC, SEGMENT_VERSION,
};
pub(super) use self::{
    decode::{
        BatchHeader, Invalid, batch_body, decode_batch_header, decode_record,
        decode_segment_header, find_batch_header,
    },
    layout::{
        BATCH_HEADER_BYTES, Checkpoint, ENTRY_OVERHEAD_BYTES, Place, RECORD_BYTES_MAX,
        RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentEnd, TERMINATOR_BYTES,
    },
};
use super::{
    dropped::DroppedGroups,
    entry::{Entry, LogPos},
};

/// The header of a segment file.
pub(super) fn segment_header(place: Place, file_bytes: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(SEGMENT_MAGIC);
    header[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&place.log_id.to_le_bytes());
    header[24..32].copy_from_slice(&place.segment.to_le_bytes());
    header[32..40].copy_from_slice(&file_bytes.to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Builds one batch in a buffer that is used again and again.
///
/// - The first `BATCH_HEADER_BYTES` of the buffer are the header, filled in by [`BatchBuffer::seal`].
/// - `place` and `offset` do not change while the batch holds records: checksums depend on them.
#[derive(Debug)]
pub(super) struct BatchBuffer {
    bytes: Vec<u8>,
    records: u32,
    place: Place,
    offset: u64,
}

impl BatchBuffer {
    /// An empty batch that will be written at `offset` of the segment.
    pub fn new(place: Place, offset: u64) -> Self {
        BatchBuffer {
            bytes: vec![0; BATCH_HEADER_BYTES],
            records: 0,
            place,
            offset,
        }
    }

    /// Empties the batch and gives it another place.
    pub fn restart(&mut self, place: Place, offset: u64) {
        self.bytes.clear();
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        (self.records, self.place, self.offset) = (0, place, offset);
    }

    /// Frees the memory of an unusually large batch.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    /// Length on disk, without the terminator.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Completes the header and appends the terminator; returns what to write at the batch's offset.
    pub fn seal(&mut self, number: u64, synced_through: u64) -> &[u8] {
        let seed = self.place.seed(self.offset);
        let (header, body) = self.bytes.split_at_mut(BATCH_HEADER_BYTES);
        header[..4].copy_from_slice(&BATCH_MAGIC);
        header[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&self.records.to_le_bytes());
        header[16..24].copy_from_slice(&number.to_le_bytes());
        header[24..32].copy_from_slice(&synced_through.to_le_bytes());
        header[32..36].copy_from_slice(&crc32c::crc32c_append(seed, body).to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(self.bytes.len() + TERMINATOR_BYTES, 0);
        &self.bytes
    }

    /// Adds a record; returns its offset in the segment and its length.
    fn record(&mut self, group: u64, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> (u32, u32) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.bytes.push(kind);
        body(&mut self.bytes);
        let len = self.bytes.len() - start;
        let body_len = (len - RECORD_HEADER_BYTES) as u32;
        self.bytes[start + 4..start + 8].copy_from_slice(&body_len.to_le_bytes());
        let offset = self.offset + start as u64;
        let crc = crc32c::crc32c_append(self.place.seed(offset), &self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.records += 1;
        (offset as u32, len as u32)
    }

    pub fn entry(&mut self, group: u64, entry: &Entry) -> (u32, u32) {
        self.entry_of(KIND_ENTRY, group, entry)
    }

    /// A live entry once more; as long as the record that it takes the place of.
    pub fn moved(&mut self, group: u64, entry: &Entry) -> (u32, u32) {
        self.entry_of(KIND_MOVED, group, entry)
    }

    fn entry_of(&mut self, kind: u8, group: u64, entry: &Entry) -> (u32, u32) {
        self.record(group, kind, |out| {
            out.extend_from_slice(&entry.term.to_le_bytes());
            out.extend_from_slice(&entry.index.to_le_bytes());
            out.push(entry.kind);
            out.extend_from_slice(&entry.payload);
        })
    }

    pub fn vote(&mut self, group: u64, vote: &[u8]) {
        self.record(group, KIND_VOTE, |out| out.extend_from_slice(vote));
    }

    pub fn committed(&mut self, group: u64, committed: &[u8]) {
        self.record(group, KIND_COMMITTED, |out| {
            out.extend_from_slice(committed)
        });
    }

    pub fn truncate(&mut self, group: u64, last: Option<u64>) {
        self.record(group, KIND_TRUNCATE, |out| {
            out.push(u8::from(last.is_some()));
            out.extend_from_slice(&last.unwrap_or(0).to_le_bytes());
        });
    }

    pub fn purge(&mut self, group: u64, pos: LogPos) {
        self.record(group, KIND_PURGE, |out| put_pos(out, pos));
    }

    pub fn checkpoint(&mut self, group: u64, state: &Checkpoint) {
        self.record(group, KIND_CHECKPOINT, |out| {
            let flags = u8::from(state.purged.is_some())
                | u8::from(state.last.is_some()) << 1
                | u8::from(state.vote.is_some()) << 2
                | u8::from(state.committed.is_some()) << 3;
            out.push(flags);
            if let Some(purged) = state.purged {
                put_pos(out, purged);
            }
            if let Some(last) = state.last {
                put_pos(out, last);
                out.extend_from_slice(&(state.runs.len() as u32).to_le_bytes());
                for (segment, first) in &state.runs {
                    out.extend_from_slice(&segment.to_le_bytes());
                    out.extend_from_slice(&first.to_le_bytes());
                }
            }
            for bytes in [&state.vote, &state.committed].into_iter().flatten() {
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
        });
    }

    pub fn drop_group(&mut self, group: u64) {
        self.record(group, KIND_DROP, |_| {});
    }

    pub fn dropped(&mut self, groups: &DroppedGroups) {
        self.record(0, KIND_DROPPED, |out| {
            out.extend_from_slice(&(groups.ranges().len() as u32).to_le_bytes());
            for (first, last) in groups.ranges() {
                out.extend_from_slice(&first.to_le_bytes());
                out.extend_from_slice(&last.to_le_bytes());
            }
        });
    }

    pub fn segments(&mut self, ends: impl ExactSizeIterator<Item = SegmentEnd>) {
        self.record(0, KIND_SEGMENTS, |out| {
            out.extend_from_slice(&(ends.len() as u32).to_le_bytes());
            for end in ends {
                out.extend_from_slice(&end.sequence.to_le_bytes());
                out.extend_from_slice(&end.end.to_le_bytes());
                out.extend_from_slice(&end.last_batch.to_le_bytes());
            }
        });
    }
}

fn put_pos(out: &mut Vec<u8>, pos: LogPos) {
    out.extend_from_slice(&pos.term.to_le_bytes());
    out.extend_from_slice(&pos.index.to_le_bytes());
}
