//! Transactions: comparisons, and one of two lists of operations, atomically.
//!
//! ```no_run
//! # async fn example(client: holdfast_client::Client) -> holdfast_client::Result<()> {
//! use holdfast_client::{Compare, Get, Put};
//!
//! let outcome = client
//!     .txn()
//!     .when([Compare::version("lock").equal(0)])
//!     .and_then([Put::new("lock", "me")])
//!     .or_else([Get::new("lock")])
//!     .await?;
//! println!("{}", if outcome.succeeded { "mine" } else { "taken" });
//! # Ok(()) }
//! ```

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use holdfast_proto::etcdserverpb::{
    self as pb, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};

use crate::{
    Result,
    client::{BoxFuture, Client},
    kv::{Binding, Delete, Get, Put, Unbound, awaitable, bindable, prefix_end},
};

/// An operation of a transaction. Made from [`Get`], [`Put`], [`Delete`] or another [`Txn`].
#[derive(Clone, Debug, PartialEq)]
pub struct Op(RequestOp);

impl Op {
    /// The message that is sent.
    pub fn into_request(self) -> RequestOp {
        self.0
    }
}

macro_rules! op_from {
    ($builder:ident => $variant:ident) => {
        impl From<$builder> for Op {
            fn from(builder: $builder) -> Self {
                Op(RequestOp {
                    request: Some(Request::$variant(builder.request)),
                })
            }
        }
    };
}
op_from!(Get => RequestRange);
op_from!(Put => RequestPut);
op_from!(Delete => RequestDeleteRange);
op_from!(Txn => RequestTxn);

impl From<RequestOp> for Op {
    fn from(op: RequestOp) -> Self {
        Op(op)
    }
}

/// A comparison: what of which key, related how to what.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pb::Compare);

/// The left side of a comparison; the relation completes it.
#[derive(Clone, Debug)]
#[must_use = "a comparison needs a relation"]
pub struct CompareTo<T> {
    compare: pb::Compare,
    union: fn(T) -> TargetUnion,
}

impl Compare {
    fn of<T>(
        target: CompareTarget,
        key: impl Into<Bytes>,
        union: fn(T) -> TargetUnion,
    ) -> CompareTo<T> {
        let compare = pb::Compare {
            target: target.into(),
            key: key.into(),
            ..Default::default()
        };
        CompareTo { compare, union }
    }

    /// Number of writes since the key was created; 0 if it does not exist.
    pub fn version(key: impl Into<Bytes>) -> CompareTo<i64> {
        Self::of(CompareTarget::Version, key, TargetUnion::Version)
    }

    /// Revision at which the key was created; 0 if it does not exist.
    pub fn create_revision(key: impl Into<Bytes>) -> CompareTo<i64> {
        Self::of(CompareTarget::Create, key, TargetUnion::CreateRevision)
    }

    /// Revision of the last write to the key; 0 if it does not exist.
    pub fn mod_revision(key: impl Into<Bytes>) -> CompareTo<i64> {
        Self::of(CompareTarget::Mod, key, TargetUnion::ModRevision)
    }

    /// The value. False for a key that does not exist, whatever the relation.
    pub fn value(key: impl Into<Bytes>) -> CompareTo<Bytes> {
        Self::of(CompareTarget::Value, key, TargetUnion::Value)
    }

    /// The lease the key hangs on; 0 for none.
    pub fn lease(key: impl Into<Bytes>) -> CompareTo<i64> {
        Self::of(CompareTarget::Lease, key, TargetUnion::Lease)
    }

    /// Must hold for every key that starts with the key.
    pub fn prefix(mut self) -> Self {
        self.0.range_end = prefix_end(&self.0.key);
        if self.0.key.is_empty() {
            self.0.key = Bytes::from_static(b"\0");
        }
        self
    }

    /// Must hold for every key from the key up to, not including, `end`.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.0.range_end = end.into();
        self
    }

    /// The message that is sent.
    pub fn into_request(self) -> pb::Compare {
        self.0
    }
}

impl From<pb::Compare> for Compare {
    fn from(compare: pb::Compare) -> Self {
        Compare(compare)
    }
}

impl<T> CompareTo<T> {
    /// Completes the comparison with any relation.
    pub fn is(mut self, relation: CompareResult, right: impl Into<T>) -> Compare {
        self.compare.set_result(relation);
        self.compare.target_union = Some((self.union)(right.into()));
        Compare(self.compare)
    }

    /// Left equals right.
    pub fn equal(self, right: impl Into<T>) -> Compare {
        self.is(CompareResult::Equal, right)
    }

    /// Left differs from right.
    pub fn not_equal(self, right: impl Into<T>) -> Compare {
        self.is(CompareResult::NotEqual, right)
    }

    /// Left is above right.
    pub fn greater(self, right: impl Into<T>) -> Compare {
        self.is(CompareResult::Greater, right)
    }

    /// Left is below right.
    pub fn less(self, right: impl Into<T>) -> Compare {
        self.is(CompareResult::Less, right)
    }
}

/// A transaction.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless awaited"]
pub struct Txn<C: Binding = Unbound> {
    pub(crate) client: C,
    pub(crate) request: TxnRequest,
}

impl Txn {
    /// An empty transaction, for use inside another.
    pub fn new() -> Self {
        Txn::bound(Unbound, TxnRequest::default())
    }
}

impl Default for Txn {
    fn default() -> Self {
        Self::new()
    }
}

impl From<TxnRequest> for Txn {
    fn from(request: TxnRequest) -> Self {
        Txn::bound(Unbound, request)
    }
}

impl<C: Binding> Txn<C> {
    pub(crate) fn bound(client: C, request: TxnRequest) -> Self {
        Self { client, request }
    }

    /// Adds comparisons; all must hold.
    pub fn when(mut self, compares: impl IntoIterator<Item = Compare>) -> Self {
        self.request
            .compare
            .extend(compares.into_iter().map(Compare::into_request));
        self
    }

    /// Adds operations for the case that all comparisons hold.
    pub fn and_then<O: Into<Op>>(mut self, ops: impl IntoIterator<Item = O>) -> Self {
        self.request
            .success
            .extend(ops.into_iter().map(|op| op.into().0));
        self
    }

    /// Adds operations for the case that a comparison fails.
    pub fn or_else<O: Into<Op>>(mut self, ops: impl IntoIterator<Item = O>) -> Self {
        self.request
            .failure
            .extend(ops.into_iter().map(|op| op.into().0));
        self
    }

    /// The message that is sent.
    pub fn into_request(self) -> TxnRequest {
        self.request
    }
}

bindable!(Txn);
awaitable!(Txn<Client> => TxnResponse);
