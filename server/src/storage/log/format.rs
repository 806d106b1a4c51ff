//! The bytes of a segment file: encoding, decoding, checksums. No I/O.
//!
//! All integers are little-endian. Layout of a segment:
//!
//! ```text
//!   0                 64
//!   ├─ segment header ─┼─ batch ─┬─ batch ─┬─ … ─┬─ 36 zero bytes ─┬─ zeros, or bytes of an earlier use ─┤
//!
//!   segment header     0  8  magic "HOLDFLOG"
//!                      8  4  format version, 1
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
//! ```
//!
//! *Seeded* means that the checksum starts from the crc32c of (log id, segment sequence, offset in
//! the file). So bytes are valid only where they were written: a record left over from an earlier use
//! of a recycled file, a record copied elsewhere, and a log segment stored as somebody's value are all
//! invalid without any further field.

use bytes::Bytes;

use super::{Entry, LogPos};

pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
pub(super) const BATCH_HEADER_BYTES: usize = 36;
pub(super) const RECORD_HEADER_BYTES: usize = 17;
/// Term, index and kind in front of an entry's payload.
const ENTRY_HEAD_BYTES: usize = 17;
/// What an entry costs on disk beyond its payload.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + ENTRY_HEAD_BYTES;
/// The zeros after the last batch. They are not part of it: the next batch overwrites them.
pub(super) const TERMINATOR_BYTES: usize = BATCH_HEADER_BYTES;
/// No record is longer: offsets and lengths are 32 bits wide.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"HOLDFLOG";
const SEGMENT_VERSION: u32 = 1;
const BATCH_MAGIC: [u8; 4] = [0xb7, 0x48, 0x46, 0xba];

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_COMMITTED: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;
const KIND_CHECKPOINT: u8 = 6;
const KIND_SEGMENTS: u8 = 7;

/// Where checksums of a segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub log_id: u64,
    pub segment: u64,
}

impl Place {
    fn seed(self, offset: u64) -> u32 {
        let mut place = [0; 24];
        place[..8].copy_from_slice(&self.log_id.to_le_bytes());
        place[8..16].copy_from_slice(&self.segment.to_le_bytes());
        place[16..].copy_from_slice(&offset.to_le_bytes());
        crc32c::crc32c(&place)
    }
}

/// The state of a group at the head of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
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
pub(super) struct SegmentEnd {
    pub sequence: u64,
    pub end: u32,
    pub last_batch: u64,
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Entry),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<u64>),
    Purge(LogPos),
    Checkpoint(Checkpoint),
    Segments(Vec<SegmentEnd>),
}

// ---- writing --------------------------------------------------------------------------------------

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
        self.record(group, KIND_ENTRY, |out| {
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

// ---- reading --------------------------------------------------------------------------------------

/// Why bytes are not what they should be; the caller knows the file and the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub expected: String,
    pub found: String,
}

fn invalid<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid {
        expected: expected.into(),
        found: found.into(),
    })
}

/// A decoded batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub body_len: usize,
    pub records: u32,
    pub number: u64,
    pub synced_through: u64,
    body_crc: u32,
}

/// Reads the header of a segment file: whose it is, and how long it was made.
pub(super) fn decode_segment_header(bytes: &[u8]) -> Result<(Place, u64), Invalid> {
    let Some(header) = bytes.get(..SEGMENT_HEADER_BYTES) else {
        return invalid(
            "a segment header of 64 bytes",
            format!("a file of {} bytes", bytes.len()),
        );
    };
    if &header[..8] != SEGMENT_MAGIC {
        return invalid("the magic HOLDFLOG", format!("{:02x?}", &header[..8]));
    }
    if u32_at(header, 60) != crc32c::crc32c(&header[..60]) {
        return invalid("a segment header that matches its checksum", "a mismatch");
    }
    if u32_at(header, 8) != SEGMENT_VERSION {
        let found = format!("version {}, perhaps of a newer release", u32_at(header, 8));
        return invalid(format!("format version {SEGMENT_VERSION}"), found);
    }
    Ok((
        Place {
            log_id: u64_at(header, 16),
            segment: u64_at(header, 24),
        },
        u64_at(header, 32),
    ))
}

/// Reads the batch header at `offset` of a whole segment.
pub(super) fn decode_batch_header(
    segment: &[u8],
    place: Place,
    offset: usize,
) -> Result<BatchHeader, Invalid> {
    let header = match segment.get(offset..offset + BATCH_HEADER_BYTES) {
        Some(header) if header[..4] == BATCH_MAGIC => header,
        _ => return invalid("a batch header", "none"),
    };
    if u32_at(header, 4) != crc32c::crc32c_append(place.seed(offset as u64), &header[8..]) {
        return invalid("a batch header that matches its checksum", "a mismatch");
    }
    Ok(BatchHeader {
        body_len: u32_at(header, 8) as usize,
        records: u32_at(header, 12),
        number: u64_at(header, 16),
        synced_through: u64_at(header, 24),
        body_crc: u32_at(header, 32),
    })
}

/// The body of the batch whose header was read at `offset`, verified.
pub(super) fn batch_body<'a>(
    segment: &'a [u8],
    place: Place,
    offset: usize,
    header: &BatchHeader,
) -> Result<&'a [u8], Invalid> {
    let start = offset + BATCH_HEADER_BYTES;
    let Some(body) = segment.get(start..start + header.body_len) else {
        let found = format!(
            "a file that ends after {}",
            segment.len().saturating_sub(start)
        );
        return invalid(format!("a batch body of {} bytes", header.body_len), found);
    };
    if header.body_crc != crc32c::crc32c_append(place.seed(offset as u64), body) {
        return invalid("a batch body that matches its checksum", "a mismatch");
    }
    Ok(body)
}

/// Finds the next valid batch header at or after `from`, at any alignment.
pub(super) fn find_batch_header(
    segment: &[u8],
    place: Place,
    from: usize,
) -> Option<(usize, BatchHeader)> {
    let mut at = from;
    loop {
        at += segment
            .get(at..)?
            .iter()
            .position(|&byte| byte == BATCH_MAGIC[0])?;
        if let Ok(header) = decode_batch_header(segment, place, at) {
            return Some((at, header));
        }
        at += 1;
    }
}

/// Reads the record at the start of `bytes`, which lie at `offset` of the segment: group, record,
/// length. Payloads are slices of `bytes`, not copies.
pub(super) fn decode_record(
    bytes: &Bytes,
    place: Place,
    offset: u64,
) -> Result<(u64, Record, usize), Invalid> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return invalid(
            "a record header of 17 bytes",
            format!("{} bytes", bytes.len()),
        );
    }
    let len = RECORD_HEADER_BYTES + u32_at(bytes, 4) as usize;
    if bytes.len() < len {
        return invalid(
            format!("a record of {len} bytes"),
            format!("{} bytes", bytes.len()),
        );
    }
    if u32_at(bytes, 0) != crc32c::crc32c_append(place.seed(offset), &bytes[4..len]) {
        return invalid("a record that matches its checksum", "a mismatch");
    }
    let (group, kind) = (u64_at(bytes, 8), bytes[16]);
    let mut body = Fields(bytes.slice(RECORD_HEADER_BYTES..len));
    let Some(record) = body.record(kind) else {
        return invalid(
            "a record of a known kind and shape",
            format!("kind {kind}, {len} bytes"),
        );
    };
    Ok((group, record, len))
}

/// The fields of a record's body, front to back.
struct Fields(Bytes);

impl Fields {
    fn take(&mut self, len: usize) -> Option<Bytes> {
        (self.0.len() >= len).then(|| self.0.split_to(len))
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32_at(&self.take(4)?, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64_at(&self.take(8)?, 0))
    }

    fn pos(&mut self) -> Option<LogPos> {
        Some(LogPos {
            term: self.u64()?,
            index: self.u64()?,
        })
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    fn counted(&mut self) -> Option<Bytes> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    fn record(&mut self, kind: u8) -> Option<Record> {
        let record = match kind {
            KIND_ENTRY => Record::Entry(Entry {
                term: self.u64()?,
                index: self.u64()?,
                kind: self.u8()?,
                payload: self.rest(),
            }),
            KIND_VOTE => Record::Vote(self.rest()),
            KIND_COMMITTED => Record::Committed(self.rest()),
            KIND_TRUNCATE => {
                let (flag, index) = (self.u8()?, self.u64()?);
                Record::Truncate((flag != 0).then_some(index))
            }
            KIND_PURGE => Record::Purge(self.pos()?),
            KIND_CHECKPOINT => {
                let flags = self.u8()?;
                let mut state = Checkpoint::default();
                if flags & 1 != 0 {
                    state.purged = Some(self.pos()?);
                }
                if flags & 2 != 0 {
                    state.last = Some(self.pos()?);
                    for _ in 0..self.u32()? {
                        state.runs.push((self.u64()?, self.u64()?));
                    }
                    state.runs.first()?;
                }
                if flags & 4 != 0 {
                    state.vote = Some(self.counted()?);
                }
                if flags & 8 != 0 {
                    state.committed = Some(self.counted()?);
                }
                Record::Checkpoint(state)
            }
            KIND_SEGMENTS => {
                let count = self.u32()?;
                let mut ends = Vec::new();
                for _ in 0..count {
                    ends.push(SegmentEnd {
                        sequence: self.u64()?,
                        end: self.u32()?,
                        last_batch: self.u64()?,
                    });
                }
                Record::Segments(ends)
            }
            _ => return None,
        };
        self.0.is_empty().then_some(record)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
