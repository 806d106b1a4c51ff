//! Decoding of segment bytes: nothing counts that does not match its checksum, and what does not is
//! described, not interpreted. The layout is that of the module above.

#[cfg(test)]
mod fuzz;

use bytes::Bytes;

use super::layout::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, Checkpoint, KIND_CHECKPOINT, KIND_COMMITTED, KIND_DROP,
    KIND_DROPPED, KIND_ENTRY, KIND_MOVED, KIND_PURGE, KIND_SEGMENTS, KIND_TRUNCATE, KIND_VOTE,
    Place, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SEGMENT_VERSION,
    SEGMENT_VERSION_MIN, SegmentEnd,
};
use crate::storage::log::entry::{Entry, LogPos};

/// Why bytes are not what they should be; the caller knows the file and the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage::log) struct Invalid {
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
pub(in crate::storage::log) struct BatchHeader {
    pub body_len: usize,
    pub records: u32,
    pub number: u64,
    pub synced_through: u64,
    body_crc: u32,
}

/// Reads the header of a segment file: whose it is, and how long it was made.
pub(in crate::storage::log) fn decode_segment_header(
    bytes: &[u8],
) -> Result<(Place, u64), Invalid> {
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
    if !(SEGMENT_VERSION_MIN..=SEGMENT_VERSION).contains(&u32_at(header, 8)) {
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
pub(in crate::storage::log) fn decode_batch_header(
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
pub(in crate::storage::log) fn batch_body<'a>(
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
pub(in crate::storage::log) fn find_batch_header(
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
pub(in crate::storage::log) fn decode_record(
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

    fn entry(&mut self) -> Option<Entry> {
        Some(Entry {
            term: self.u64()?,
            index: self.u64()?,
            kind: self.u8()?,
            payload: self.rest(),
        })
    }

    fn record(&mut self, kind: u8) -> Option<Record> {
        let record = match kind {
            KIND_ENTRY => Record::Entry(self.entry()?),
            KIND_MOVED => Record::Moved(self.entry()?),
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
            KIND_DROP => Record::Drop,
            KIND_DROPPED => {
                let mut ranges: Vec<(u64, u64)> = Vec::new();
                for _ in 0..self.u32()? {
                    let (first, last) = (self.u64()?, self.u64()?);
                    let after = ranges.last().map_or(1, |(_, last)| last.saturating_add(2));
                    if first < after || last < first {
                        return None;
                    }
                    ranges.push((first, last));
                }
                Record::Dropped(ranges.into_iter().collect())
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
