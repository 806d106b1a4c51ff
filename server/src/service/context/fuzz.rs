//! Metadata of requests: retry ids and deadlines, as anybody may send them.

use tonic::metadata::{MetadataKey, MetadataValue};

use super::*;
use crate::fuzz;

#[test]
fn fuzz_metadata() {
    let seeds = [
        b"holdfast-client-id\n0123456789abcdef\nholdfast-request-seq\n17\nholdfast-retry\n1"
            .to_vec(),
        b"grpc-timeout\n99999999H".to_vec(),
        b"hasleader\ntrue".to_vec(),
    ];
    fuzz::check("metadata", seeds, |bytes| {
        let mut metadata = MetadataMap::new();
        let mut lines = bytes.split(|byte| *byte == b'\n');
        while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
            let name = MetadataKey::from_bytes(name);
            if let (Ok(name), Ok(value)) = (name, MetadataValue::try_from(value)) {
                metadata.append(name, value);
            }
        }
        let _ = retry_id(&metadata);
        let _ = wants_leader(&metadata);
        assert!(deadline(&metadata) <= Instant::now() + REQUEST_TIMEOUT_DEFAULT);
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = deadline::parse_timeout(text);
        }
    });
}
