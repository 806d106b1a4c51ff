//! What arrives at the port of clients before anybody knows what it is.

use super::*;
use crate::{fuzz, service::http2::frame};

#[test]
fn fuzz_connections() {
    let mut block = b"\x83\x86\x41".to_vec();
    hpack::write_string(b"http://a.example:2379", &mut block);
    let headers = frame(HEADERS, END_HEADERS, &block);
    let connection = [PREFACE, &headers, &headers].concat();
    fuzz::check("connection", [connection, block], |bytes| {
        let _ = hpack::authority(bytes);
        let (mut whole, mut rewriter) = (BytesMut::new(), AuthorityRewriter::new());
        rewriter.push(bytes, &mut whole);
        let (mut parts, mut rewriter) = (BytesMut::new(), AuthorityRewriter::new());
        for part in bytes.chunks(3) {
            rewriter.push(part, &mut parts);
        }
        assert_eq!(whole, parts, "however the bytes arrive");
        // A replaced value is as long as the one it stands for.
        assert!(whole.len() <= bytes.len());
        assert!(bytes.len() - whole.len() <= FRAME_HEADER + FRAME_BYTES_MAX);
    });
}
