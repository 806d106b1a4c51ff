//! Random requests over few keys, so that they meet.

use bytes::Bytes;
use holdfast_proto::{
    command::command::Op,
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
        TxnRequest, compare::TargetUnion, request_op::Request,
    },
};
use proptest::{prelude::*, sample::select};

fn key() -> impl Strategy<Value = Bytes> {
    select(vec!["a", "a\0", "a\0\u{1}", "ab", "b", "c", "\u{7f}"])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        2 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        3 => key(),
        1 => Just(Bytes::from_static(b"\xff")),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    select(vec!["", "1", "2", "22"]).prop_map(|value| Bytes::from_static(value.as_bytes()))
}

/// A revision in reach, rarely beyond.
fn revision() -> impl Strategy<Value = i64> {
    -1i64..35
}

fn filter() -> impl Strategy<Value = i64> {
    prop_oneof![9 => Just(0), 1 => revision()]
}

pub fn range() -> impl Strategy<Value = RangeRequest> {
    let shape = (key(), range_end(), prop_oneof![Just(0), 1i64..5]);
    let at = prop_oneof![2 => Just(0), 1 => revision()];
    let sort = (
        prop_oneof![2 => Just(0), 1 => 1i32..3],
        prop_oneof![1 => Just(0), 1 => 1i32..5],
    );
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let filters = (filter(), filter(), filter(), filter());
    (shape, at, sort, flags, filters).prop_map(
        |((key, range_end, limit), revision, sort, (keys_only, count_only), filters)| {
            RangeRequest {
                key,
                range_end,
                limit,
                revision,
                sort_order: sort.0,
                sort_target: sort.1,
                serializable: false,
                keys_only,
                count_only,
                min_mod_revision: filters.0,
                max_mod_revision: filters.1,
                min_create_revision: filters.2,
                max_create_revision: filters.3,
            }
        },
    )
}

fn put() -> impl Strategy<Value = PutRequest> {
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.15),
    );
    (key(), value(), flags, prop::bool::weighted(0.03)).prop_map(
        |(key, value, (prev_kv, ignore_value, ignore_lease), lease)| PutRequest {
            key,
            value,
            lease: if lease { 7 } else { 0 },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let ends = prop_oneof![2 => Just(Bytes::new()), 1 => range_end()];
    (key(), ends, 0i32..4, 0i32..5, 0i64..12, value()).prop_map(
        |(key, range_end, result, target, number, value)| {
            let union = match target {
                0 => TargetUnion::Version(number % 4),
                1 => TargetUnion::CreateRevision(number),
                2 => TargetUnion::ModRevision(number),
                3 => TargetUnion::Value(value),
                _ => TargetUnion::Lease(number % 2),
            };
            Compare {
                result,
                target,
                key,
                target_union: Some(union),
                range_end,
            }
        },
    )
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => range().prop_map(|range| Some(Request::RequestRange(range))),
        3 => put().prop_map(|put| Some(Request::RequestPut(put))),
        2 => delete().prop_map(|delete| Some(Request::RequestDeleteRange(delete))),
    ]
    .prop_map(|request| RequestOp { request });
    let op = leaf.prop_recursive(2, 8, 3, |op| {
        body(op).prop_map(|txn| RequestOp {
            request: Some(Request::RequestTxn(txn)),
        })
    });
    body(op)
}

fn body(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    let ops = || prop::collection::vec(op.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(
        |(compare, success, failure)| TxnRequest {
            compare,
            success,
            failure,
        },
    )
}

pub fn op() -> impl Strategy<Value = Option<Op>> {
    prop_oneof![
        8 => put().prop_map(|put| Some(Op::Put(put))),
        3 => delete().prop_map(|delete| Some(Op::DeleteRange(delete))),
        6 => txn().prop_map(|txn| Some(Op::Txn(txn))),
        2 => revision().prop_map(|revision| {
            Some(Op::Compact(CompactionRequest { revision, physical: false }))
        }),
    ]
}
