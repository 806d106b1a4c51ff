//! A segment file as it was found: its head, and the valid batches behind it.
//!
//! What follows from them, for the end of the log and for the groups, is for others to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;

use super::error::{Corruption, OpenError};
use super::files::{File, Files};
use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, Invalid, Place, SEGMENT_HEADER_BYTES, SegmentEnd,
    TERMINATOR_BYTES, batch_body, decode_batch_header, decode_segment_header, find_batch_header,
};
use super::segment::Segment;

/// A segment file as found.
pub(super) struct Found {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub place: Place,
    pub bytes: u64,
}

impl Found {
    pub fn open(files: &dyn Files, path: PathBuf, sequence: u64) -> Result<Self, OpenError> {
        let file = files.open(&path).map_err(OpenError::io(&path, "open"))?;
        let bytes = file
            .len()
            .map_err(OpenError::io(&path, "read the length of"))?;
        let mut header = vec![0; SEGMENT_HEADER_BYTES.min(bytes as usize)];
        file.read_exact_at(&mut header, 0)
            .map_err(OpenError::io(&path, "read"))?;
        let (place, prepared) =
            decode_segment_header(&header).map_err(|invalid| corrupt(&path, 0, invalid))?;
        let wrong =
            |offset, expected, found| Err(corrupt(&path, offset, Invalid { expected, found }));
        if place.segment != sequence {
            return wrong(
                24,
                format!("segment {sequence}, as the file is called"),
                format!("segment {}", place.segment),
            );
        }
        if bytes < prepared {
            return wrong(
                bytes as usize,
                format!("a file of {prepared} bytes"),
                format!("its end at {bytes}"),
            );
        }
        Ok(Found {
            path,
            file,
            place,
            bytes,
        })
    }

    pub fn corrupt(&self, offset: usize, invalid: Invalid) -> OpenError {
        corrupt(&self.path, offset, invalid)
    }

    pub fn read(&self) -> Result<Bytes, OpenError> {
        let mut bytes = vec![0; self.bytes as usize];
        self.file
            .read_exact_at(&mut bytes, 0)
            .map_err(OpenError::io(&self.path, "read"))?;
        Ok(bytes.into())
    }

    pub fn into_segment(self) -> Arc<Segment> {
        let Found {
            path,
            file,
            place,
            bytes,
        } = self;
        Arc::new(Segment {
            place,
            path,
            file,
            bytes: AtomicU64::new(bytes),
        })
    }

    /// Reads it as an older segment, which must be valid up to where the last one says that it ends.
    pub fn walk_whole(&self, bytes: &Bytes, end: &SegmentEnd) -> Result<Walk, OpenError> {
        let walk = walk(bytes, self.place);
        let last = walk.batches.last().map(|(_, header)| header.number);
        if walk.stop < end.end as usize {
            return Err(self.corrupt(walk.stop, walk.why));
        }
        if walk.stop != end.end as usize || last != Some(end.last_batch) {
            let expected = format!(
                "the segment to end at {} with batch {}",
                end.end, end.last_batch
            );
            let ends = format!("an end at {} with batch {}", walk.stop, last.unwrap_or(0));
            return Err(self.corrupt(
                walk.stop,
                Invalid {
                    expected,
                    found: ends,
                },
            ));
        }
        Ok(walk)
    }

    /// A torn first batch in a file that was prepared to be the next segment.
    pub fn torn_head(&self) -> Option<(PathBuf, usize, String)> {
        let mut head = [0; TERMINATOR_BYTES];
        self.file
            .read_exact_at(&mut head, SEGMENT_HEADER_BYTES as u64)
            .ok()?;
        let torn = !is_blank(&head, 0);
        torn.then(|| {
            (
                self.path.clone(),
                SEGMENT_HEADER_BYTES,
                "a torn first batch".to_owned(),
            )
        })
    }
}

/// The valid batches at the start of a segment.
pub(super) struct Walk {
    pub batches: Vec<(usize, BatchHeader)>,
    /// Where the first invalid batch is, or would be.
    pub stop: usize,
    pub why: Invalid,
}

impl Walk {
    /// What of a torn batch is behind the last valid one.
    pub fn torn(&self, bytes: &[u8]) -> Option<String> {
        let place = decode_segment_header(bytes).ok()?.0;
        if !is_blank(bytes, self.stop) {
            return Some(self.why.found.clone());
        }
        let (offset, header) = find_batch_header(bytes, place, self.stop)?;
        Some(format!(
            "zeros, and batch {} at byte {offset}",
            header.number
        ))
    }
}

pub(super) fn walk(bytes: &[u8], place: Place) -> Walk {
    let mut batches: Vec<(usize, BatchHeader)> = Vec::new();
    let mut stop = SEGMENT_HEADER_BYTES;
    loop {
        let valid = decode_batch_header(bytes, place, stop).and_then(|header| {
            batch_body(bytes, place, stop, &header)?;
            match batches.last() {
                Some((_, before)) if header.number != before.number + 1 => Err(Invalid {
                    expected: format!("batch {}", before.number + 1),
                    found: format!("batch {}", header.number),
                }),
                _ => Ok(header),
            }
        });
        match valid {
            Ok(header) => {
                batches.push((stop, header));
                stop += BATCH_HEADER_BYTES + header.body_len;
            }
            Err(why) => return Walk { batches, stop, why },
        }
    }
}

pub(super) fn corrupt(
    path: &Path,
    offset: usize,
    Invalid { expected, found }: Invalid,
) -> OpenError {
    OpenError::Corrupt(Corruption {
        file: path.to_owned(),
        offset: offset as u64,
        expected,
        found,
    })
}

/// Whether nothing was ever written where a batch would begin.
fn is_blank(bytes: &[u8], at: usize) -> bool {
    bytes
        .iter()
        .skip(at)
        .take(TERMINATOR_BYTES)
        .all(|&byte| byte == 0)
}
