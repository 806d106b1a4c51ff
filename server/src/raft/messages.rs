//! Messages of peers, handed to consensus.

use std::io;

use futures_util::{Stream, StreamExt};
use holdfast_proto::peer;
use openraft::raft::{TransferLeaderRequest, VoteRequest};

use super::{RaftGroup, codec, codec::DecodeError, snapshot};
use crate::planted::planted;

/// Why a message of a peer was not answered.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It does not decode.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The group has stopped on this node.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

impl RaftGroup {
    /// Peers go on asking a group that has stopped here, dozens of times a second, and consensus
    /// would write an error to the node's log for each: on a disk that is full already.
    fn check_running(&self) -> Result<(), MessageError> {
        self.stopped()
            .map_or(Ok(()), |why| Err(MessageError::Stopped(why)))
    }

    /// RequestVote or Pre-Vote.
    pub async fn handle_vote(
        &self,
        request: peer::VoteRequest,
    ) -> Result<peer::VoteResponse, MessageError> {
        let mut rpc = VoteRequest::new(
            codec::vote_from_wire(request.vote)?,
            request.last_log_id.map(codec::log_id_from_wire),
        );
        rpc.leadership_transfer = request.leadership_transfer;
        planted!(ElectionWithoutLogCheck => rpc.last_log_id = Some(codec::log_id(u64::MAX, u64::MAX)));
        self.check_running()?;
        let answer = if request.pre_vote {
            self.raft.pre_vote(rpc).await
        } else {
            self.raft.vote(rpc).await
        };
        let answer = answer.map_err(|e| MessageError::Stopped(e.to_string()))?;
        Ok(peer::VoteResponse {
            vote: Some(codec::vote_to_wire(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(codec::log_id_to_wire),
        })
    }

    /// Pipelined AppendEntries. The answers end with the requests, or with the first refusal.
    pub fn handle_append(
        &self,
        requests: impl Stream<Item = peer::AppendRequest> + Send + 'static,
    ) -> impl Stream<Item = Result<peer::AppendResponse, MessageError>> + Send + 'static {
        let running = self.check_running();
        let is_running = running.is_ok();
        // A request that does not decode ends the stream: nothing after it can be in order.
        let memory = self.memory.clone();
        let requests = requests
            .map(move |request| {
                memory.heard(request.vote.as_ref());
                codec::append_from_wire(request)
            })
            .take_while(move |request| {
                if let Err(e) = request {
                    tracing::warn!(error = %e, "ending an append stream");
                }
                std::future::ready(request.is_ok() && is_running)
            })
            .filter_map(|request| std::future::ready(request.ok()));
        let room = self.room.clone();
        let answers = self
            .raft
            .stream_append(requests)
            .map(move |answer| match answer {
                Ok(result) => Ok(codec::append_result_to_wire(&result, room.is_short())),
                Err(e) => Err(MessageError::Stopped(e.to_string())),
            });
        futures_util::stream::iter(running.err().map(Err)).chain(answers)
    }

    /// One heartbeat.
    pub async fn handle_heartbeat(
        &self,
        request: peer::AppendRequest,
    ) -> Result<peer::AppendResponse, MessageError> {
        self.memory.heard(request.vote.as_ref());
        let request = codec::append_from_wire(request)?;
        self.check_running()?;
        let prev = request.prev_log_id;
        let answer = self.raft.append_entries(request).await;
        let answer = answer.map_err(|e| MessageError::Stopped(e.to_string()))?;
        Ok(codec::append_result_to_wire(
            &answer.into_stream_result(prev, prev),
            self.room.is_short(),
        ))
    }

    /// A snapshot of the present state, for a peer that asks: its header, then its chunks.
    pub async fn stream_snapshot(
        &self,
    ) -> Result<impl Stream<Item = io::Result<peer::SnapshotChunk>> + Send + 'static, MessageError>
    {
        self.check_running()?;
        let taken = self.raft.with_state_machine(|machine| {
            let taken = machine.live_snapshot();
            Box::pin(async move { taken })
        });
        let stopped = |why: &dyn std::fmt::Display| MessageError::Stopped(why.to_string());
        let live = taken
            .await
            .map_err(|e| stopped(&e))?
            .map_err(|e| stopped(&e))?;
        let header = peer::SnapshotHeader {
            group_id: self.id,
            applied_record: live.applied_record().clone(),
            snapshot_id: snapshot::new_id(self.id),
            ..Default::default()
        };
        let first = peer::SnapshotChunk {
            header: Some(header),
            ..Default::default()
        };
        let chunks = tokio_stream::wrappers::ReceiverStream::new(snapshot::read_chunks(
            live.into(),
            self.snapshot_rate.clone(),
        ));
        Ok(futures_util::stream::once(std::future::ready(Ok(first))).chain(chunks))
    }

    /// TimeoutNow. Answers why it was refused, or nothing.
    pub async fn handle_transfer_leader(
        &self,
        request: peer::TransferLeaderRequest,
    ) -> Result<Option<String>, MessageError> {
        let request = TransferLeaderRequest::new(
            codec::vote_from_wire(request.from_leader)?,
            request.to_node,
            request.last_log_id.map(codec::log_id_from_wire),
        );
        self.check_running()?;
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(refused)) => Ok(Some(refused.to_string())),
            Err(e) => Err(MessageError::Stopped(e.to_string())),
        }
    }
}
