//! Single requests: what is refused, with what, and what is left behind by it (nothing).

use holdfast_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest,
};
use tonic::Code;

use crate::{get, node::Nodes, put, refused};

const REQUEST_BYTES_MAX: usize = 3 << 19; // 1.5 MiB

#[tokio::test]
async fn malformed_requests_are_refused_as_etcd_refuses_them() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    let invalid = Code::InvalidArgument;
    let empty = "etcdserver: key is not provided";
    refused(kv.range(get("")).await, invalid, empty);
    refused(kv.put(put("", "v")).await, invalid, empty);
    refused(
        kv.delete_range(DeleteRangeRequest::default()).await,
        invalid,
        empty,
    );

    for (sort_order, sort_target) in [(3, 0), (0, 5), (-1, 0), (0, -1)] {
        let request = RangeRequest {
            sort_order,
            sort_target,
            ..get("a")
        };
        refused(
            kv.range(request).await,
            invalid,
            "etcdserver: invalid sort option",
        );
    }
    let request = PutRequest {
        ignore_value: true,
        ..put("a", "v")
    };
    refused(
        kv.put(request).await,
        invalid,
        "etcdserver: value is provided",
    );
    let request = PutRequest {
        ignore_lease: true,
        lease: 1,
        ..put("a", "v")
    };
    refused(
        kv.put(request).await,
        invalid,
        "etcdserver: lease is provided",
    );
    for (ignore_value, ignore_lease) in [(true, false), (false, true), (true, true)] {
        let request = PutRequest {
            ignore_value,
            ignore_lease,
            ..put("missing", "")
        };
        refused(kv.put(request).await, invalid, "etcdserver: key not found");
    }
    let request = PutRequest {
        lease: 7,
        ..put("a", "v")
    };
    refused(
        kv.put(request).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let header = kv
        .range(get("a"))
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap();
    assert_eq!(header.revision, 1, "nothing was written");
}

#[tokio::test]
async fn revisions_out_of_reach_are_told_apart() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let at = |revision, serializable| RangeRequest {
        revision,
        serializable,
        ..get("a")
    };
    let compaction = |revision, physical| CompactionRequest { revision, physical };
    let future = "etcdserver: mvcc: required revision is a future revision";
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    for serializable in [false, true] {
        refused(
            kv.range(at(5, serializable)).await,
            Code::OutOfRange,
            future,
        );
        refused(
            kv.range(at(i64::MAX, serializable)).await,
            Code::OutOfRange,
            future,
        );
    }
    refused(
        kv.compact(compaction(5, false)).await,
        Code::OutOfRange,
        future,
    );
    let done = kv.compact(compaction(3, true)).await.unwrap().into_inner();
    assert_eq!(
        done.header.unwrap().revision,
        4,
        "a compaction makes no revision"
    );
    for revision in [1, 2] {
        refused(
            kv.range(at(revision, false)).await,
            Code::OutOfRange,
            compacted,
        );
        refused(
            kv.range(at(revision, true)).await,
            Code::OutOfRange,
            compacted,
        );
    }
    for revision in [3, 2, 0, -1] {
        for physical in [false, true] {
            let answer = kv.compact(compaction(revision, physical)).await;
            refused(answer, Code::OutOfRange, compacted);
        }
    }
    for (revision, value) in [(3, "2"), (4, "3"), (0, "3"), (-1, "3")] {
        let answer = kv.range(at(revision, false)).await.unwrap().into_inner();
        assert_eq!(answer.kvs[0].value, value, "at {revision}");
        assert_eq!(answer.header.unwrap().revision, 4);
    }
}

#[tokio::test]
async fn a_keyspace_that_was_never_written_to_can_be_compacted() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    let mut compact = async |revision| {
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        kv.compact(request).await
    };
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(compact(-1).await, Code::OutOfRange, compacted);
    refused(compact(2).await, Code::OutOfRange, future);
    for revision in [0, 1] {
        let header = compact(revision).await.unwrap().into_inner().header;
        assert_eq!(header.unwrap().revision, 1);
        refused(compact(revision).await, Code::OutOfRange, compacted);
    }
    let request = RangeRequest {
        revision: 1,
        ..get("a")
    };
    let read = kv.range(request).await.unwrap().into_inner();
    assert_eq!((read.count, read.header.unwrap().revision), (0, 1));
}

#[tokio::test]
async fn a_request_may_have_one_and_a_half_mebibytes() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    let sized = |bytes: usize| put("large", &"x".repeat(bytes));
    // The key, and what tells the lengths: see the encoding of protobuf.
    let overhead = 2 + "large".len() + 4;
    let too_large = "etcdserver: request is too large";
    for over in [1, 1000, 400_000] {
        let answer = kv.put(sized(REQUEST_BYTES_MAX - overhead + over)).await;
        refused(answer, Code::InvalidArgument, too_large);
    }
    let written = kv.put(sized(REQUEST_BYTES_MAX - overhead)).await.unwrap();
    assert_eq!(written.into_inner().header.unwrap().revision, 2);
    let read = kv.range(get("large")).await.unwrap().into_inner();
    assert_eq!(read.kvs[0].value.len(), REQUEST_BYTES_MAX - overhead);
    // Beyond what the connection takes at all, the refusal is gRPC's.
    let status = kv
        .put(sized(REQUEST_BYTES_MAX + (1 << 20)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}
