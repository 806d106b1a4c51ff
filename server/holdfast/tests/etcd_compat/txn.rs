//! Transactions that etcd's command line cannot write down.

use holdfast_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use tonic::Code;

use crate::{get, node::Nodes, put, refused};

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn puts(key: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn gets(request: RangeRequest) -> RequestOp {
    op(Request::RequestRange(request))
}

fn deletes(key: &str, range_end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }))
}

fn nested(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(txn(compare, success, failure)))
}

fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare,
        success,
        failure,
    }
}

fn holds(key: &str, result: CompareResult, target: CompareTarget, union: TargetUnion) -> Compare {
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.to_owned().into(),
        target_union: Some(union),
        ..Default::default()
    }
}

#[tokio::test]
async fn refused_transactions_have_etcds_messages_and_leave_nothing() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    kv.put(put("there", "1")).await.unwrap();
    let many = |count: usize| {
        (0..count)
            .map(|n| puts(&format!("{n}"), ""))
            .collect::<Vec<_>>()
    };
    let at = |revision| {
        gets(RangeRequest {
            revision,
            ..get("there")
        })
    };
    let with_lease = op(Request::RequestPut(PutRequest {
        lease: 7,
        ..put("a", "")
    }));
    let without_value = op(Request::RequestPut(PutRequest {
        ignore_value: true,
        ..put("missing", "")
    }));
    let no_key = holds(
        "",
        CompareResult::Equal,
        CompareTarget::Version,
        TargetUnion::Version(0),
    );

    let invalid = Code::InvalidArgument;
    let empty = "etcdserver: key is not provided";
    let many_ops = "etcdserver: too many operations in txn request";
    let duplicate = "etcdserver: duplicate key given in txn request";
    let not_found = "etcdserver: key not found";
    let future = "etcdserver: mvcc: required revision is a future revision";
    for (success, code, message) in [
        (vec![puts("", "")], invalid, empty),
        (vec![gets(get(""))], invalid, empty),
        (vec![deletes("", "")], invalid, empty),
        (
            vec![nested(vec![no_key.clone()], vec![], vec![])],
            invalid,
            empty,
        ),
        (vec![RequestOp::default()], invalid, not_found),
        (many(129), invalid, many_ops),
        (vec![nested(vec![], many(128), vec![])], invalid, many_ops),
        (vec![puts("a", "1"), puts("a", "2")], invalid, duplicate),
        (vec![puts("a", "1"), deletes("a", "")], invalid, duplicate),
        (vec![deletes("a", "c"), puts("b", "1")], invalid, duplicate),
        (
            vec![puts("a", "1"), nested(vec![], vec![], vec![puts("a", "2")])],
            invalid,
            duplicate,
        ),
        (vec![puts("b", "1"), without_value], invalid, not_found),
        (
            vec![puts("b", "1"), with_lease],
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
        // etcd 3.5 undoes these writes on one of its nodes only (etcd issue 18667).
        (vec![puts("b", "1"), at(100)], Code::OutOfRange, future),
        (
            vec![puts("b", "1"), nested(vec![], vec![at(100)], vec![])],
            Code::OutOfRange,
            future,
        ),
        (vec![at(100)], Code::OutOfRange, future),
    ] {
        refused(kv.txn(txn(vec![], success, vec![])).await, code, message);
    }
    refused(
        kv.txn(txn(vec![no_key], vec![], vec![])).await,
        invalid,
        empty,
    );
    refused(
        kv.txn(txn(vec![], vec![], many(129))).await,
        invalid,
        many_ops,
    );
    let all = RangeRequest {
        range_end: vec![0].into(),
        ..get("\0")
    };
    let answer = kv.range(all).await.unwrap().into_inner();
    assert_eq!((answer.count, answer.header.unwrap().revision), (1, 2));
    kv.txn(txn(vec![], many(128), vec![])).await.unwrap();
}

#[tokio::test]
async fn nested_transactions_run_in_order_at_one_revision() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    kv.put(put("a", "1")).await.unwrap();
    let is = |value: &'static str| {
        let value = TargetUnion::Value(value.into());
        holds("a", CompareResult::Equal, CompareTarget::Value, value)
    };
    let request = txn(
        vec![is("1")],
        vec![
            puts("a", "2"),
            // Compares see the state before the transaction, reads what was written before them.
            nested(
                vec![is("2")],
                vec![puts("b", "then")],
                vec![puts("b", "else"), gets(get("a"))],
            ),
            nested(
                vec![is("1")],
                vec![nested(vec![], vec![puts("c", "deep")], vec![])],
                vec![],
            ),
            gets(get("b")),
        ],
        vec![puts("never", "")],
    );
    let answer = kv.txn(request).await.unwrap().into_inner();
    assert!(answer.succeeded);
    let header = answer.header.unwrap();
    assert_eq!((header.revision, header.member_id), (3, 1));
    let [first, second, third, fourth] = &answer.responses[..] else {
        panic!("{:?}", answer.responses);
    };
    let of_revision = |revision| ResponseHeader {
        revision,
        ..Default::default()
    };
    assert!(
        matches!(&first.response, Some(Response::ResponsePut(put)) if put.header == Some(of_revision(3)))
    );
    let Some(Response::ResponseTxn(second)) = &second.response else {
        panic!("{second:?}");
    };
    assert!(!second.succeeded);
    let Some(Response::ResponseRange(read)) = &second.responses[1].response else {
        panic!("{second:?}");
    };
    assert_eq!(
        (&read.kvs[0].value[..], read.kvs[0].mod_revision),
        (&b"2"[..], 3)
    );
    assert!(matches!(&third.response, Some(Response::ResponseTxn(txn)) if txn.succeeded));
    assert!(
        matches!(&fourth.response, Some(Response::ResponseRange(range)) if range.kvs[0].value == "else")
    );
    let read = kv.range(get("c")).await.unwrap().into_inner();
    assert_eq!(
        (&read.kvs[0].value[..], read.kvs[0].create_revision),
        (&b"deep"[..], 3)
    );
}

#[tokio::test]
async fn leases_and_ranges_can_be_compared() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    for key in ["k1", "k2", "k3"] {
        kv.put(put(key, "v")).await.unwrap();
    }
    kv.put(put("k3", "w")).await.unwrap();
    use CompareResult::{Equal, Greater, Less, NotEqual};
    for (result, expected) in [
        (Equal, [false, true, false]),
        (NotEqual, [true, false, true]),
    ]
    .into_iter()
    .chain([
        (Greater, [true, false, false]),
        (Less, [false, false, true]),
    ]) {
        for (wanted, expected) in [-1, 0, 1].into_iter().zip(expected) {
            for key in ["k1", "none"] {
                let compare = holds(
                    key,
                    result,
                    CompareTarget::Lease,
                    TargetUnion::Lease(wanted),
                );
                let answer = kv.txn(txn(vec![compare], vec![], vec![])).await.unwrap();
                let succeeded = answer.into_inner().succeeded;
                assert_eq!(succeeded, expected, "lease of {key} {result:?} {wanted}");
            }
        }
    }
    let over = |key: &'static str, range_end: &'static [u8], target, union| Compare {
        range_end: range_end.into(),
        ..holds(key, Equal, target, union)
    };
    let value = || TargetUnion::Value("v".into());
    for (compare, expected) in [
        (over("k1", b"k3", CompareTarget::Value, value()), true),
        (over("k1", b"k4", CompareTarget::Value, value()), false),
        (
            over("k1", b"\0", CompareTarget::Version, TargetUnion::Version(1)),
            false,
        ),
        (
            over("k1", b"k3", CompareTarget::Version, TargetUnion::Version(1)),
            true,
        ),
        // No key in the range counts as one that is missing.
        (
            over("x", b"y", CompareTarget::Version, TargetUnion::Version(0)),
            true,
        ),
        (over("x", b"y", CompareTarget::Value, value()), false),
    ] {
        let answer = kv
            .txn(txn(vec![compare.clone()], vec![], vec![]))
            .await
            .unwrap();
        assert_eq!(answer.into_inner().succeeded, expected, "{compare:?}");
    }
}
