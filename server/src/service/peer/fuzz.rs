//! Introductions of peers, and of whoever finds their port.

use holdfast_proto::peer;
use prost::Message as _;

use super::hello;
use crate::fuzz;

#[test]
fn fuzz_introductions() {
    let hello = peer::HelloRequest {
        reaches: vec![peer::Reach {
            group_id: 2,
            term: 3,
            index: 9,
        }],
        dropped: vec![peer::GroupRange { first: 3, last: 4 }],
        ..Default::default()
    };
    fuzz::check("hello", [hello.encode_to_vec()], |bytes| {
        let Ok(hello) = peer::HelloRequest::decode(bytes) else {
            return;
        };
        let dropped = hello::dropped_from_wire(&hello.dropped);
        for range in hello
            .dropped
            .iter()
            .filter(|range| range.first <= range.last)
        {
            assert!(dropped.contains(range.first) && dropped.contains(range.last));
        }
        let _ = hello::reaches_from_wire(&hello.reaches);
    });
}
