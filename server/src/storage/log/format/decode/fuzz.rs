//! Segments of the log, whole and damaged. Checksums hide what lies behind them, so bodies of records are
//! decoded without them too.

use super::*;
use crate::{fuzz, storage::log::format::BatchBuffer};

const PLACE: Place = Place {
    log_id: 7,
    segment: 1,
};
const HEADER_BYTES: usize = SEGMENT_HEADER_BYTES;

fn batch() -> BatchBuffer {
    let mut batch = BatchBuffer::new(PLACE, HEADER_BYTES as u64);
    let entry = Entry {
        term: 3,
        index: 9,
        kind: 1,
        payload: Bytes::from_static(b"a command"),
    };
    let pos = LogPos { term: 3, index: 8 };
    batch.entry(2, &entry);
    batch.moved(2, &entry);
    batch.vote(2, b"a vote");
    batch.committed(2, b"a mark");
    batch.truncate(2, Some(8));
    batch.purge(2, pos);
    batch.checkpoint(
        2,
        &Checkpoint {
            purged: Some(pos),
            last: Some(LogPos { term: 3, index: 9 }),
            runs: vec![(3, 9)],
            vote: Some(Bytes::from_static(b"a vote")),
            committed: Some(Bytes::from_static(b"a mark")),
        },
    );
    batch.drop_group(3);
    batch.dropped(&[(3, 4), (7, 9)].into_iter().collect());
    let end = SegmentEnd {
        sequence: 0,
        end: 4096,
        last_batch: 5,
    };
    batch.segments([end].into_iter());
    batch
}

fn segment() -> Vec<u8> {
    let mut segment = super::super::segment_header(PLACE, 1 << 20).to_vec();
    segment.extend_from_slice(batch().seal(6, 5));
    segment
}

#[test]
fn fuzz_segments() {
    fuzz::check("log-segment", [segment()], |bytes| {
        let _ = decode_segment_header(bytes);
        let Some((at, header)) = find_batch_header(bytes, PLACE, 0) else {
            return;
        };
        let Ok(body) = batch_body(bytes, PLACE, at, &header) else {
            return;
        };
        let mut offset = (at + BATCH_HEADER_BYTES) as u64;
        let mut body = Bytes::copy_from_slice(body);
        for _ in 0..header.records {
            let (_, _, len) =
                decode_record(&body, PLACE, offset).expect("a body with its checksum");
            offset += len as u64;
            body = body.slice(len..);
        }
        assert!(body.is_empty());
    });
}

#[test]
fn fuzz_records() {
    let segment = segment();
    let body = segment[HEADER_BYTES + BATCH_HEADER_BYTES..].to_vec();
    let at = (HEADER_BYTES + BATCH_HEADER_BYTES) as u64;
    fuzz::check("log-record", [body], |bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        let _ = decode_record(&bytes, PLACE, at);
        // The first byte says which kind the others are to be read as.
        if let Some(kind) = bytes.first() {
            let _ = Fields(bytes.slice(1..)).record(kind % 16);
        }
    });
}
