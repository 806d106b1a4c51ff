//! Where the log ends: the last segment that was synced into, and proof that none is missing after it.

use bytes::Bytes;

use crate::storage::log::{
    error::OpenError,
    format::{
        BATCH_HEADER_BYTES, Invalid, Record, SEGMENT_HEADER_BYTES, SegmentEnd, decode_record,
        find_batch_header,
    },
    found::{Found, Walk, corrupt, walk},
    replay::unexpected,
};

/// The last segment with what was read of it, and the files that come after it.
pub(super) struct End {
    pub(super) last: Option<(Found, Bytes, Walk, Vec<SegmentEnd>)>,
    pub(super) newer: Vec<Found>,
}

/// Takes the last segment and all newer files off `found`, having made sure that the log really ends
/// there.
pub(super) fn find_end(found: &mut Vec<Found>) -> Result<End, OpenError> {
    let mut newer: Vec<(Found, Bytes)> = Vec::new();
    let mut last = None;
    while let Some(candidate) = found.pop() {
        let bytes = candidate.read()?;
        let walk = walk(&bytes, candidate.place);
        if walk.batches.is_empty() {
            newer.push((candidate, bytes));
            continue;
        }
        let at = SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES;
        let first = decode_record(&bytes.slice(at..walk.stop), candidate.place, at as u64);
        let ends = match first.map_err(|invalid| candidate.corrupt(at, invalid))? {
            (_, Record::Segments(ends), _) => ends,
            (_, record, _) => {
                return Err(
                    candidate.corrupt(at, unexpected("the list of older segments", &record))
                );
            }
        };
        last = Some((candidate, bytes, walk, ends));
        break;
    }
    // The first batch that is missing, and whether a later one knows it to have been synced.
    let missing = match &last {
        Some((_, _, walk, _)) => walk
            .batches
            .last()
            .map_or(1, |(_, header)| header.number + 1),
        None => 1,
    };
    let attested = |bytes: &[u8], place, from| {
        let mut at = from;
        while let Some((offset, header)) = find_batch_header(bytes, place, at) {
            if header.synced_through >= missing {
                return Some((offset, header));
            }
            at = offset + 1;
        }
        None
    };
    let here = last
        .as_ref()
        .map(|(found, bytes, walk, _)| (found, bytes, walk.stop));
    let beyond = newer
        .iter()
        .rev()
        .map(|(found, bytes)| (found, bytes, SEGMENT_HEADER_BYTES));
    for (witness, bytes, from) in here.into_iter().chain(beyond) {
        if let Some((offset, header)) = attested(bytes, witness.place, from) {
            let said = format!(
                "batch {} at byte {offset} of {}",
                header.number,
                witness.path.display()
            );
            // A batch behind the head of a newer segment: that segment was begun, so its head is damaged.
            let (path, stop, why) = match &last {
                Some((found, _, walk, _)) if from > SEGMENT_HEADER_BYTES || offset == from => {
                    (&found.path, walk.stop, walk.why.found.clone())
                }
                _ => (
                    &witness.path,
                    SEGMENT_HEADER_BYTES,
                    "no valid batch".to_owned(),
                ),
            };
            let expected = format!("batch {missing}, which was synced according to {said}");
            return Err(corrupt(
                path,
                stop,
                Invalid {
                    expected,
                    found: why,
                },
            ));
        }
    }
    Ok(End {
        last,
        newer: newer.into_iter().map(|(found, _)| found).collect(),
    })
}
