//! The KV service: check, read or propose, answer.

use std::{sync::Arc, time::Instant};

use holdfast_mvcc::{self as mvcc, ReadError, Revisions, validate};
use holdfast_proto::{
    command::{Answer, answer::Result as Outcome, command::Op},
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse, kv_server::Kv,
        request_op::Request as Operation,
    },
};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    context::{self, ServiceContext},
    reads::{self, Held, LargeReads, Reading, WalkError, Walked},
    status,
};
use crate::group::{Group, GroupError};
use crate::planted::planted;

/// Serves etcd's KV API.
pub(super) struct KvService {
    context: Arc<ServiceContext>,
    reads: Arc<LargeReads>,
}

impl KvService {
    pub(super) fn new(context: Arc<ServiceContext>, reads: Arc<LargeReads>) -> Self {
        Self { context, reads }
    }

    fn check_size(&self, request: &impl Message) -> Result<(), Status> {
        validate::size(request.encoded_len(), self.context.request_bytes_max())
            .map_err(status::invalid)
    }

    /// Proposes a write, and gives its outcome with the term it was applied in.
    async fn write<T: Sync>(
        &self,
        request: Request<T>,
        op: impl FnOnce(T) -> Op,
    ) -> Result<(Outcome, u64), Status> {
        let group = self.context.group(&request).await?;
        let retry_id = context::retry_id(request.metadata())?;
        let deadline = context::deadline(request.metadata());
        self.propose(&group, retry_id, op(request.into_inner()), deadline)
            .await
    }

    async fn propose(
        &self,
        group: &Group,
        retry_id: context::RetryId,
        op: Op,
        deadline: Instant,
    ) -> Result<(Outcome, u64), Status> {
        let proposed = group
            .propose(retry_id.command(op), deadline)
            .await
            .map_err(|e| status::group(&e))?;
        match proposed.answer {
            Answer {
                result: Some(Outcome::Error(error)),
            } => Err(status::answered(&error)),
            Answer {
                result: Some(outcome),
            } => Ok((outcome, proposed.term)),
            Answer { result: None } => Err(Status::internal("holdfast: the command has no answer")),
        }
    }

    /// Waits until a compaction has given its space back, for as long as the client does: it has taken
    /// effect already, and a snapshot or a slow disk may hold the removal back.
    async fn until_scrubbed(&self, group: &Group, revision: i64) -> Result<(), Status> {
        let mut leadership = group.leadership();
        let mut stopping = self.context.stopping.subscribe();
        let why = tokio::select! {
            () = group.scrubbed_to(revision) => return Ok(()),
            _ = leadership.wait_for(|now| now.stopped.is_some()) => "the group has stopped",
            _ = stopping.wait_for(|stopping| *stopping) => "the node stops",
        };
        Err(status::group(&GroupError::Stopped(why.to_string())))
    }

    /// Reads local state, after a round of the leader unless a stale answer is good enough.
    async fn read<Q, A>(
        &self,
        request: Request<Q>,
        shape: ReadShape,
        read: impl Fn(&Walked<'_>, Revisions, &Q) -> Result<A, ReadError<WalkError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<(A, u64, Option<Held>), Status>
    where
        Q: Send + Sync + 'static,
        A: Send + 'static,
    {
        let group = self.context.group(&request).await?;
        if !shape.serializable {
            group
                .linearizable(context::deadline(request.metadata()))
                .await
                .map_err(|e| status::group(&e))?;
        }
        let request = request.into_inner();
        let term = group.leadership().borrow().term;
        planted!(SerializableGoesBack => if shape.serializable {
            let (revisions, view) = crate::planted::reads::kept_by_this_thread(&group);
            let answer = read(&Reading::small().of(&view), revisions, &request);
            return Ok((answer.map_err(|e| reads::refused(&e))?, term, None));
        });
        if shape.small {
            return Ok((read_small(&group, &request, &read)?, term, None));
        }
        let done = self.reads.run(move |reading| {
            let (published, view, _pin) = group.read_pinned();
            read(&reading.of(&view), published.revisions, &request)
        });
        let (answer, held) = done.await?;
        Ok((answer.map_err(|e| reads::refused(&e))?, term, Some(held)))
    }
}

/// What a read costs and needs, known from the request alone. Only small reads stay on the threads
/// that serve requests.
#[derive(Clone, Copy)]
pub(super) struct ReadShape {
    serializable: bool,
    small: bool,
}

impl ReadShape {
    pub(super) fn is_small(self) -> bool {
        self.small
    }

    pub(super) fn of_range(request: &RangeRequest) -> Self {
        Self {
            serializable: request.serializable,
            // A range is walked to its end for the count, whatever the limit.
            small: request.range_end.is_empty(),
        }
    }

    pub(super) fn of_txn(request: &TxnRequest) -> Self {
        let mut shape = Self {
            serializable: true,
            small: request.compare.iter().all(|c| c.range_end.is_empty()),
        };
        for operation in request.success.iter().chain(&request.failure) {
            let inner = match &operation.request {
                Some(Operation::RequestRange(range)) => Self::of_range(range),
                // As in etcd, whose local reads are those that a transaction makes itself.
                Some(Operation::RequestTxn(txn)) => Self {
                    serializable: false,
                    ..Self::of_txn(txn)
                },
                _ => Self {
                    serializable: false,
                    small: false,
                },
            };
            shape.serializable &= inner.serializable;
            shape.small &= inner.small;
        }
        shape
    }
}

/// Reads at the published revision; once more, and pinned, if superseded versions may have been removed
/// from under the read.
fn read_small<Q, A>(
    group: &Group,
    request: &Q,
    read: &impl Fn(&Walked<'_>, Revisions, &Q) -> Result<A, ReadError<WalkError>>,
) -> Result<A, Status> {
    let reading = Reading::small();
    let (published, view) = group.read();
    let mut answer = read(&reading.of(&view), published.revisions, request);
    if group.read().0.revisions.compact != published.revisions.compact {
        let (published, view, _pin) = group.read_pinned();
        answer = read(&reading.of(&view), published.revisions, request);
    }
    answer.map_err(|e| reads::refused(&e))
}

/// The calls, as futures that are not boxed.
impl KvService {
    pub(super) async fn answer_range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        validate::range(request.get_ref()).map_err(status::invalid)?;
        let shape = ReadShape::of_range(request.get_ref());
        let (mut answer, term, held) = self
            .read(request, shape, |state, revisions, request| {
                mvcc::range(state, revisions, request)
            })
            .await?;
        self.context.complete(&mut answer.header, term);
        Ok(answered(answer, held))
    }

    pub(super) async fn answer_put(
        &self,
        request: Request<PutRequest>,
    ) -> Result<Response<PutResponse>, Status> {
        validate::put(request.get_ref()).map_err(status::invalid)?;
        self.check_size(request.get_ref())?;
        match self.write(request, Op::Put).await? {
            (Outcome::Put(mut answer), term) => {
                self.context.complete(&mut answer.header, term);
                Ok(Response::new(answer))
            }
            (other, _) => Err(mismatch(&other)),
        }
    }

    pub(super) async fn answer_delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        validate::delete_range(request.get_ref()).map_err(status::invalid)?;
        self.check_size(request.get_ref())?;
        match self.write(request, Op::DeleteRange).await? {
            (Outcome::DeleteRange(mut answer), term) => {
                self.context.complete(&mut answer.header, term);
                Ok(Response::new(answer))
            }
            (other, _) => Err(mismatch(&other)),
        }
    }

    pub(super) async fn answer_txn(
        &self,
        request: Request<TxnRequest>,
    ) -> Result<Response<TxnResponse>, Status> {
        validate::txn(request.get_ref(), self.context.config.limits.txn_ops_max)
            .map_err(status::invalid)?;
        self.check_size(request.get_ref())?;
        let (mut answer, term, held) = if mvcc::is_read_only(request.get_ref()) {
            let shape = ReadShape::of_txn(request.get_ref());
            self.read(request, shape, |state, revisions, request| {
                mvcc::read_txn(state, revisions, request)
            })
            .await?
        } else {
            #[cfg(feature = "planted-bugs")]
            let request = {
                let group = self.context.group(&request).await?;
                request.map(|txn| crate::planted::reads::without_what_holds_here(&group, txn))
            };
            match self.write(request, Op::Txn).await? {
                (Outcome::Txn(answer), term) => (answer, term, None),
                (other, _) => return Err(mismatch(&other)),
            }
        };
        self.context.complete(&mut answer.header, term);
        Ok(answered(answer, held))
    }

    async fn answer_compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let CompactionRequest { revision, physical } = *request.get_ref();
        let group = self.context.group(&request).await?;
        match self.write(request, Op::Compact).await? {
            (Outcome::Compact(mut answer), term) => {
                if physical {
                    self.until_scrubbed(&group, revision).await?;
                }
                self.context.complete(&mut answer.header, term);
                Ok(Response::new(answer))
            }
            (other, _) => Err(mismatch(&other)),
        }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        self.answer_range(request).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.answer_put(request).await
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.answer_delete_range(request).await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.answer_txn(request).await
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.answer_compact(request).await
    }
}

/// An answer that keeps its memory until it is sent.
fn answered<A>(answer: A, held: Option<Held>) -> Response<A> {
    let mut answer = Response::new(answer);
    if let Some(held) = held {
        held.until_sent(&mut answer);
    }
    answer
}

/// An answer to another operation than was asked: two requests share a retry id.
fn mismatch(outcome: &Outcome) -> Status {
    let answered = match outcome {
        Outcome::Error(_) => "an error",
        Outcome::Put(_) => "a put",
        Outcome::DeleteRange(_) => "a delete",
        Outcome::Txn(_) => "a txn",
        Outcome::Compact(_) => "a compaction",
        Outcome::Register(_) | Outcome::SetSettings(_) => "a change of the cluster's own",
    };
    Status::invalid_argument(format!(
        "holdfast: this retry id was used before, for {answered}; number every request anew"
    ))
}

#[cfg(test)]
mod tests {
    use holdfast_proto::etcdserverpb::RequestOp;

    use super::*;

    fn of(operation: Operation) -> TxnRequest {
        TxnRequest {
            success: vec![RequestOp {
                request: Some(operation),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_txn_is_read_locally_only_if_all_that_it_reads_itself_may_be_stale() {
        let range = |serializable| RangeRequest {
            serializable,
            ..Default::default()
        };
        let local = |txn: &TxnRequest| ReadShape::of_txn(txn).serializable;
        let stale = of(Operation::RequestRange(range(true)));
        assert!(local(&stale) && local(&TxnRequest::default()));
        assert!(!local(&of(Operation::RequestRange(range(false)))));
        assert!(!local(&of(Operation::RequestTxn(stale))), "nested");
    }
}
