//! Bad requests and limits, through a leader and through a follower: etcd's codes and messages,
//! and nothing half done.

use std::collections::BTreeSet;

use holdfast_client::KEYSPACE;
use holdfast_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, request_op::Request as Operation,
};
use holdfast_server::limits;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Cluster, Node, PATIENCE, run, within};

fn put(key: &str, value: &[u8]) -> PutRequest {
    PutRequest {
        key: key.to_string().into(),
        value: value.to_vec().into(),
        ..Default::default()
    }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_string().into(),
        ..Default::default()
    }
}

fn txn(operations: impl IntoIterator<Item = Operation>) -> TxnRequest {
    let success = operations.into_iter().map(|operation| RequestOp {
        request: Some(operation),
    });
    TxnRequest {
        success: success.collect(),
        ..Default::default()
    }
}

/// The refusal of a request that must be refused.
async fn refusal<T: std::fmt::Debug>(
    request: impl Future<Output = Result<Response<T>, Status>>,
) -> (Code, String) {
    let status = within(PATIENCE, request).await.unwrap_err();
    (status.code(), status.message().to_string())
}

/// Revision of a node's keyspace, read linearizably.
async fn revision(node: &Node) -> i64 {
    let answer = within(PATIENCE, node.kv().range(get("any"))).await.unwrap();
    answer.header.unwrap().revision
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let client = cluster.client(1).await;
        for n in 0..10 {
            client.put(format!("key-{n}"), "x").await.unwrap();
        }
        client.compact(5).await.unwrap();
        let before = revision(cluster.node(1)).await;
        let leader = cluster.leader().await;
        for node in [leader, cluster.others(leader)[0]] {
            let node = cluster.node(node);
            keys_and_sizes(node).await;
            transactions(node).await;
            revisions(node).await;
            metadata(node).await;
        }
        assert_eq!(revision(cluster.node(1)).await, before, "nothing was done");
        cluster.same_hash(&[1, 2, 3]).await;
    });
}

async fn keys_and_sizes(node: &Node) {
    let invalid = |message: &str| (Code::InvalidArgument, message.to_string());
    let no_key = invalid("etcdserver: key is not provided");
    assert_eq!(refusal(node.kv().put(put("", b"x"))).await, no_key);
    assert_eq!(refusal(node.kv().range(get(""))).await, no_key);
    let delete = DeleteRangeRequest::default();
    assert_eq!(refusal(node.kv().delete_range(delete)).await, no_key);
    let compare = TxnRequest {
        compare: vec![Compare::default()],
        ..Default::default()
    };
    assert_eq!(refusal(node.kv().txn(compare)).await, no_key);

    let ignore_value = PutRequest {
        ignore_value: true,
        ..put("key-1", b"x")
    };
    let value_provided = invalid("etcdserver: value is provided");
    assert_eq!(refusal(node.kv().put(ignore_value)).await, value_provided);
    let ignore_value = PutRequest {
        ignore_value: true,
        ..put("nowhere", b"")
    };
    let key_not_found = invalid("etcdserver: key not found");
    assert_eq!(refusal(node.kv().put(ignore_value)).await, key_not_found);

    let max = usize::try_from(limits::REQUEST_BYTES_DEFAULT).unwrap();
    let too_large = invalid("etcdserver: request is too large");
    assert_eq!(
        refusal(node.kv().put(put("large", &vec![0; max]))).await,
        too_large
    );
    // Far beyond the limit the transport itself refuses; the node goes on serving.
    let (code, message) = refusal(node.kv().put(put("huge", &vec![0; 4 * max]))).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
}

async fn transactions(node: &Node) {
    let invalid = |message: &str| (Code::InvalidArgument, message.to_string());
    let too_many = invalid("etcdserver: too many operations in txn request");
    let puts = |n: usize| (0..n).map(|n| Operation::RequestPut(put(&format!("t-{n}"), b"x")));
    let many = txn(puts(limits::TXN_OPS_DEFAULT + 1));
    assert_eq!(refusal(node.kv().txn(many)).await, too_many);

    let duplicate = invalid("etcdserver: duplicate key given in txn request");
    let twice = txn(puts(2).chain(puts(1)));
    assert_eq!(refusal(node.kv().txn(twice)).await, duplicate);
    let nested = txn(puts(1).chain([Operation::RequestTxn(txn(puts(1)))]));
    assert_eq!(refusal(node.kv().txn(nested)).await, duplicate);

    let empty = TxnRequest {
        success: vec![RequestOp { request: None }],
        ..Default::default()
    };
    let key_not_found = invalid("etcdserver: key not found");
    assert_eq!(refusal(node.kv().txn(empty)).await, key_not_found);

    // One part cannot be done, so none is.
    let future = RangeRequest {
        revision: 1_000_000,
        ..get("key-1")
    };
    let half = txn(puts(1).chain([Operation::RequestRange(future)]));
    assert_eq!(refusal(node.kv().txn(half)).await.0, Code::OutOfRange);
}

async fn revisions(node: &Node) {
    let out_of_range = |message: &str| (Code::OutOfRange, message.to_string());
    let compacted = out_of_range("etcdserver: mvcc: required revision has been compacted");
    let future = out_of_range("etcdserver: mvcc: required revision is a future revision");
    for (revision, refused) in [(3, &compacted), (1_000_000, &future)] {
        for serializable in [false, true] {
            let read = RangeRequest {
                revision,
                serializable,
                ..get("key-1")
            };
            assert_eq!(&refusal(node.kv().range(read)).await, refused);
        }
        let compact = CompactionRequest {
            revision,
            physical: false,
        };
        assert_eq!(&refusal(node.kv().compact(compact)).await, refused);
    }
}

async fn metadata(node: &Node) {
    let mut elsewhere = Request::new(put("key", b"x"));
    elsewhere
        .metadata_mut()
        .insert(KEYSPACE, "nowhere".parse().unwrap());
    let (code, message) = refusal(node.kv().put(elsewhere)).await;
    assert_eq!(code, Code::NotFound, "{message}");
    assert!(message.contains("\"nowhere\" does not exist"), "{message}");
    let mut system = Request::new(get("key"));
    system
        .metadata_mut()
        .insert(KEYSPACE, "system".parse().unwrap());
    assert_eq!(
        refusal(node.kv().range(system)).await.0,
        Code::PermissionDenied
    );

    let long = "x".repeat(65);
    for (name, pairs) in [
        ("holdfast-client-id", vec![("holdfast-request-seq", "1")]),
        ("holdfast-request-seq", vec![("holdfast-client-id", "c")]),
        (
            "holdfast-request-seq",
            vec![("holdfast-client-id", "c"), ("holdfast-request-seq", "-1")],
        ),
        (
            "request seq",
            vec![("holdfast-client-id", "c"), ("holdfast-request-seq", "0")],
        ),
        (
            "client id",
            vec![("holdfast-client-id", &long), ("holdfast-request-seq", "1")],
        ),
    ] {
        let mut request = Request::new(put("key", b"x"));
        for (field, value) in &pairs {
            request
                .metadata_mut()
                .insert(*field, value.parse().unwrap());
        }
        let (code, message) = refusal(node.kv().put(request)).await;
        assert_eq!(code, Code::InvalidArgument, "{pairs:?}: {message}");
        assert!(message.contains(name), "{pairs:?}: {message}");
    }
}

#[test]
fn requests_up_to_the_limits_are_served() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let leader = cluster.leader().await;
        let follower = cluster.node(cluster.others(leader)[0]);
        let max = usize::try_from(limits::REQUEST_BYTES_DEFAULT).unwrap();
        // Key, tags and lengths take a few bytes of the request.
        let value = vec![7; max - 64];
        within(PATIENCE, follower.kv().put(put("large", &value)))
            .await
            .unwrap();
        let read = within(PATIENCE, follower.kv().range(get("large")))
            .await
            .unwrap();
        assert_eq!(read.kvs[0].value, value);
        let puts = (0..limits::TXN_OPS_DEFAULT)
            .map(|n| Operation::RequestPut(put(&format!("t-{n}"), b"x")));
        let answer = within(PATIENCE, follower.kv().txn(txn(puts)))
            .await
            .unwrap();
        assert_eq!(answer.responses.len(), limits::TXN_OPS_DEFAULT);
        cluster.until_caught_up(&[1, 2, 3]).await;
        cluster.same_hash(&[1, 2, 3]).await;
    });
}

#[test]
fn a_burst_beyond_the_proposals_in_flight_is_refused_with_nothing_done() {
    const PLACES: usize = 4;
    const BURST: usize = 400;
    run(async |rng| {
        let cluster = Cluster::start_with(rng, |c| c.limits.proposals_in_flight_max = PLACES).await;
        let leader = cluster.leader().await;
        let mut expected = BTreeSet::new();
        let mut refused = 0;
        for through in [leader, cluster.others(leader)[0]] {
            let mut burst = JoinSet::new();
            for n in 0..BURST {
                let key = format!("burst-{through}-{n:04}");
                let mut kv = cluster.node(through).kv();
                burst.spawn(async move {
                    let answer = within(PATIENCE, kv.put(put(&key, b"x"))).await;
                    (key, answer)
                });
            }
            let mut served = 0;
            while let Some(done) = burst.join_next().await {
                match done.unwrap() {
                    (key, Ok(_)) => {
                        served += 1;
                        expected.insert(key);
                    }
                    (_, Err(status)) => {
                        let seen = (status.code(), status.message());
                        let too_many = (Code::ResourceExhausted, "etcdserver: too many requests");
                        assert_eq!(seen, too_many);
                        refused += 1;
                    }
                }
            }
            println!(
                "through node {through}: {served} served, {} refused",
                BURST - served
            );
            assert!(served > 0, "those that found a place are served");
        }
        assert!(
            refused > 0,
            "{BURST} at once find no room in {PLACES} places"
        );
        let all = RangeRequest {
            range_end: "burst/".into(),
            keys_only: true,
            ..get("burst-")
        };
        let there = within(PATIENCE, cluster.node(1).kv().range(all))
            .await
            .unwrap();
        let there: BTreeSet<String> = there
            .kvs
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
            .collect();
        assert_eq!(there.len(), expected.len(), "served, and there");
        assert_eq!(there, expected);
        // The places are free again.
        within(PATIENCE, cluster.node(leader).kv().put(put("after", b"x")))
            .await
            .unwrap();
    });
}
