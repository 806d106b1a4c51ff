//! Checks of a request that need no state, made before anything is proposed.
//!
//! They are those of etcd's API layer. The state machine does not depend on them: it gives a
//! deterministic answer to whatever the log holds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

use crate::{CLIENT_ID_BYTES_MAX, TXN_LEVELS_MAX};

/// What is wrong with a request. The sender must change it: sending it again cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A request or comparison names no key.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` with a value.
    #[error("value is provided together with ignore_value")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("lease is provided together with ignore_lease")]
    LeaseProvided,
    /// More comparisons or operations than a transaction may have.
    #[error("too many operations in the transaction; at most {max}")]
    TooManyOps {
        /// The limit, counted along the nesting.
        max: usize,
    },
    /// Transactions are nested more than [`TXN_LEVELS_MAX`] levels deep. etcd has no such bound,
    /// but its bound on operations allows at most 128 levels.
    #[error("transactions are nested too deeply; at most {TXN_LEVELS_MAX} levels")]
    TooDeep,
    /// A key is written twice on one path through a transaction.
    #[error("duplicate key in the transaction")]
    DuplicateKey,
    /// Sort order or target out of range.
    #[error("invalid sort option")]
    InvalidSortOption,
    /// An operation of a transaction is empty. etcd answers `key not found`.
    #[error("an operation of the transaction is missing")]
    MissingOp,
    /// The encoded request is too large.
    #[error("request of {bytes} bytes is too large; at most {max}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The client id of a retry-safe request is longer than [`CLIENT_ID_BYTES_MAX`].
    #[error("client id of {bytes} bytes is too long; at most {CLIENT_ID_BYTES_MAX}")]
    ClientIdTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A retry-safe request numbered 0: clients count from 1.
    #[error("request seq must be at least 1")]
    ZeroSeq,
}

/// Checks a range request.
pub fn range(request: &RangeRequest) -> Result<(), Invalid> {
    non_empty(&request.key)?;
    let order = SortOrder::try_from(request.sort_order);
    let target = SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() {
        return Err(Invalid::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put request.
pub fn put(request: &PutRequest) -> Result<(), Invalid> {
    non_empty(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Invalid::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Invalid::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete request.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Invalid> {
    non_empty(&request.key)
}

/// Checks a transaction with all that it nests.
///
/// A level counts as its longest list (comparisons, success or failure); what it uses is taken
/// from the allowance of the levels below it.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Invalid> {
    level(request, ops_max, ops_max, TXN_LEVELS_MAX)?;
    // After the counts, which bound the work here.
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

/// Checks the encoded size of a request.
pub fn size(bytes: usize, max: usize) -> Result<(), Invalid> {
    if bytes > max {
        Err(Invalid::TooLarge { bytes, max })
    } else {
        Ok(())
    }
}

/// Checks the id of a retry-safe request.
pub fn retry_id(client_id: &[u8], seq: u64) -> Result<(), Invalid> {
    if client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(Invalid::ClientIdTooLong {
            bytes: client_id.len(),
        });
    }
    if seq == 0 && !client_id.is_empty() {
        Err(Invalid::ZeroSeq)
    } else {
        Ok(())
    }
}

fn non_empty(key: &[u8]) -> Result<(), Invalid> {
    if key.is_empty() {
        Err(Invalid::EmptyKey)
    } else {
        Ok(())
    }
}

fn level(
    request: &TxnRequest,
    allowance: usize,
    ops_max: usize,
    levels: usize,
) -> Result<(), Invalid> {
    if levels == 0 {
        return Err(Invalid::TooDeep);
    }
    let TxnRequest {
        compare,
        success,
        failure,
    } = request;
    let used = compare.len().max(success.len()).max(failure.len());
    let allowance = allowance
        .checked_sub(used)
        .ok_or(Invalid::TooManyOps { max: ops_max })?;
    compare
        .iter()
        .try_for_each(|compare| non_empty(&compare.key))?;
    success
        .iter()
        .chain(failure)
        .try_for_each(|op| match &op.request {
            Some(Request::RequestRange(request)) => range(request),
            Some(Request::RequestPut(request)) => put(request),
            Some(Request::RequestDeleteRange(request)) => delete_range(request),
            Some(Request::RequestTxn(request)) => level(request, allowance, ops_max, levels - 1),
            None => Err(Invalid::MissingOp),
        })
}

/// What a list of operations may write.
#[derive(Default)]
struct Written {
    puts: BTreeSet<Bytes>,
    deletes: Intervals,
}

impl Written {
    fn put(&mut self, key: Bytes) -> Result<(), Invalid> {
        if self.deletes.contains(&key) || !self.puts.insert(key) {
            return Err(Invalid::DuplicateKey);
        }
        Ok(())
    }
}

/// Refuses a put that meets another put or a delete. In etcd's order: the deletes of this level
/// first, then the nested transactions one by one, then the puts of this level. So a put in a
/// nested transaction does not collide with a delete in a later one.
fn written(ops: &[RequestOp]) -> Result<Written, Invalid> {
    let mut all = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            all.deletes.insert(&request.key, &request.range_end);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(request)) = &op.request {
            let (then, otherwise) = (written(&request.success)?, written(&request.failure)?);
            // Only one of the branches runs: they may write the same keys.
            let either: BTreeSet<_> = then.puts.into_iter().chain(otherwise.puts).collect();
            either.into_iter().try_for_each(|key| all.put(key))?;
            all.deletes.absorb(then.deletes);
            all.deletes.absorb(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request {
            all.put(request.key.clone())?;
        }
    }
    Ok(all)
}

/// A set of keys made of half-open intervals.
///
/// - Intervals do not overlap: start → end.
#[derive(Default)]
struct Intervals(BTreeMap<Bytes, Bytes>);

impl Intervals {
    /// Adds the keys of a delete request.
    fn insert(&mut self, key: &Bytes, range_end: &Bytes) {
        let end = if range_end.is_empty() {
            // The key alone: up to its immediate successor.
            let mut end = key.to_vec();
            end.push(0);
            end.into()
        } else {
            range_end.clone()
        };
        // etcd takes the range end as it stands here, so one zero byte ("and all later keys")
        // makes an inverted interval that collides with nothing.
        if *key < end {
            self.merge(key.clone(), end);
        }
    }

    fn absorb(&mut self, other: Intervals) {
        for (start, end) in other.0 {
            self.merge(start, end);
        }
    }

    fn merge(&mut self, mut start: Bytes, mut end: Bytes) {
        // Every interval that begins at or before the new end and ends at or after the new start
        // becomes part of the new one. As they do not overlap, these are neighbours.
        while let Some((other_start, other_end)) = self.0.range(..=end.clone()).next_back()
            && *other_end >= start
        {
            let other_start = other_start.clone();
            let other_end = self.0.remove(&other_start).expect("found just now");
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.0
            .range(..=key.clone())
            .next_back()
            .is_some_and(|(_, end)| key < end)
    }
}
