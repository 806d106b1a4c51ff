//! What a client of etcd meets on the wire, without etcd: real nodes, raw requests, and for every
//! refusal the exact code and message that stock clients match on.
//!
//! Whole sessions of etcd's own client are compared by `.ci/etcdctl-compare`, whose cases and
//! recorded outputs lie beside this file. Here is what that client cannot say or does not show:
//! nested transactions, codes, metadata, authorities, the standard services of gRPC.

// The helpers are tests as well.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod authority;
mod cluster;
mod kv;
mod node;
mod standard;
mod txn;

use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use tonic::{Code, Response, Status};

/// A refusal has this code and exactly this message.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: Code, message: &str) {
    let status = answer.expect_err("it is refused");
    assert_eq!((status.code(), status.message()), (code, message));
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}
