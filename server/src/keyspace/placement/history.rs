//! What was decided and what became of it, on record in the system keyspace: the last of it, oldest first.
//!
//! ```text
//!   placement/history/TIME-KEYSPACE   PlacementRecord, TIME in milliseconds since 1970, 16 digits
//! ```

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use holdfast_mvcc as mvcc;
use holdfast_placement::Step;
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
    },
    v1::PlacementRecord,
};
use prost::Message;

use crate::{group::Group, keyspace::registry::ReadError, limits};

const PREFIX: &str = "placement/history/";
/// First key after all of them.
const END: &str = "placement/history0";
/// How long writing a record may take.
const RECORD_WITHIN: Duration = Duration::from_secs(5);

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is not, for this reason.
    Failed(String),
}

/// Writes down what became of a step; tells the log too. The oldest records go when there are too many.
pub(super) async fn record(system: &Group, keyspace: &str, step: &Step, outcome: &Outcome) {
    let failed = match outcome {
        Outcome::Done => String::new(),
        Outcome::Failed(why) => why.clone(),
    };
    tracing::info!(keyspace, action = %step.action, reason = step.reason, failed, "placement");
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let at_ms = u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    let record = PlacementRecord {
        at_ms,
        keyspace: keyspace.to_owned(),
        action: step.action.to_string(),
        reason: step.reason.clone(),
        failed_because: failed,
    };
    let put = PutRequest {
        key: format!("{PREFIX}{at_ms:016}-{keyspace}").into(),
        value: record.encode_to_vec().into(),
        ..Default::default()
    };
    let mut success = vec![RequestOp {
        request: Some(request_op::Request::RequestPut(put)),
    }];
    match beyond(system) {
        Ok(None) => {}
        Ok(Some(oldest_kept)) => {
            let old = DeleteRangeRequest {
                key: PREFIX.into(),
                range_end: oldest_kept,
                ..Default::default()
            };
            success.push(RequestOp {
                request: Some(request_op::Request::RequestDeleteRange(old)),
            });
        }
        Err(error) => tracing::warn!(%error, "old records of placement are not removed"),
    }
    let command = Command {
        op: Some(Op::Txn(TxnRequest {
            success,
            ..Default::default()
        })),
        ..Default::default()
    };
    let deadline = Instant::now() + RECORD_WITHIN;
    if let Err(error) = system.propose(command, deadline).await {
        tracing::warn!(%error, "a decision of placement is in this log only");
    }
}

/// The key of the oldest record that stays, if there are too many.
fn beyond(system: &Group) -> Result<Option<Bytes>, ReadError> {
    let keys = read(system, true)?;
    let surplus = keys.len().saturating_sub(limits::PLACEMENT_RECORDS_MAX);
    Ok((surplus > 0).then(|| keys[surplus].0.clone()))
}

/// All records, with their keys.
fn read(system: &Group, keys_only: bool) -> Result<Vec<(Bytes, PlacementRecord)>, ReadError> {
    let (published, view, _pin) = system.read_pinned();
    let all = RangeRequest {
        key: PREFIX.into(),
        range_end: END.into(),
        keys_only,
        ..Default::default()
    };
    let kvs = mvcc::range(&view, published.revisions, &all)?.kvs;
    let records = kvs
        .into_iter()
        .map(|kv| match PlacementRecord::decode(kv.value) {
            Ok(record) => Ok((kv.key, record)),
            Err(e) => Err(ReadError::Damaged {
                key: String::from_utf8_lossy(&kv.key).into_owned(),
                why: e.to_string(),
            }),
        });
    records.collect()
}

/// The records of a keyspace, or of all, oldest first, as this node has applied them.
pub fn list(system: &Group, keyspace: Option<&str>) -> Result<Vec<PlacementRecord>, ReadError> {
    let records = read(system, false)?.into_iter().map(|(_, record)| record);
    let wanted = records.filter(|record| keyspace.is_none_or(|name| record.keyspace == name));
    Ok(wanted.collect())
}
