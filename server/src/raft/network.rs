//! openraft's view of the other nodes, over a [`PeerTransport`].
//!
//! ```text
//!  replication task ─┐ stream_append (long-lived) ─▶ transport.append      given up when silent
//!  heartbeat worker ─┤ stream_append (one item)   ─▶ transport.heartbeat   merged with other groups
//!  election          ─┤ vote, pre_vote             ─▶ transport.vote
//!  snapshot task     ─┘ full_snapshot              ─▶ transport.snapshot    one rate for all
//! ```
//!
//! A heartbeat is a `stream_append` of one request whose answers must end; a stream left open would
//! time every heartbeat out. So heartbeats get a client of their own kind.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use holdfast_proto::peer;
use openraft::{
    OptionalSend, RaftNetworkFactory,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption, RaftNetworkV2},
    raft::{
        AppendEntriesResponse, SnapshotResponse, StreamAppendError, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use parking_lot::Mutex;

use super::{
    Tuning,
    append_stream::{self, Silences},
    codec::{
        AppendEntriesRequest, DecodeError, StreamAppendResult, append_result_from_wire,
        append_to_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
    },
    log_store::Flushed,
    promises::{Promises, Reach},
    rate::SnapshotRate,
    snapshot::{self, SnapshotData},
    transport::{PeerTransport, TransportError},
    type_config::{GroupId, NodeId, TypeConfig, Vote, Voter},
};
use crate::{limits, storage::room::Room};

type RpcError = RPCError<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes a client for each peer of one group.
pub struct NetworkFactory {
    group_id: GroupId,
    transport: Arc<dyn PeerTransport>,
    /// Learns from answers which peers are short of space.
    room: Arc<Room>,
    /// Delays between attempts to reach a node that is not there.
    backoff: (Duration, Duration),
    append_silence_max: Duration,
    snapshot_stall_max: Duration,
    snapshot_rate: Arc<SnapshotRate>,
    observer: Observer,
}

/// Keeps what followers and voters promise, and tells them how far this node's own log is flushed.
#[derive(Clone)]
pub(super) struct Observer {
    pub(super) group_id: GroupId,
    pub(super) promises: Arc<Promises>,
    pub(super) flushed: Arc<Flushed>,
}

/// What a leader knew when it sent an append.
#[derive(Clone, Copy)]
struct Sent {
    term: u64,
    /// The follower had confirmed the entry before those that were sent.
    confirmed: bool,
}

impl Observer {
    fn sent(&self, to: NodeId, request: &AppendEntriesRequest) -> Sent {
        let term = request.vote.leader_id.term;
        let before = request.prev_log_id.map_or(0, |id| id.index);
        let promised = self.promises.get(to, self.group_id);
        Sent {
            term,
            confirmed: promised.is_some_and(|p| p.term == term && p.index >= before),
        }
    }

    fn answered(&self, from: NodeId, sent: Sent, answer: &Result<StreamAppendResult, RpcError>) {
        let term = sent.term;
        match answer {
            Ok(Ok(matched)) => {
                let index = matched.map_or(0, |id| id.index);
                self.promises
                    .keep(from, self.group_id, Reach { term, index });
            }
            // An answer may be late: what was confirmed after the request was sent does not count.
            Ok(Err(StreamAppendError::Conflict(at))) if sent.confirmed => {
                self.promises.conflict(from, self.group_id, term, at.index);
            }
            _ => {}
        }
    }
}

impl NetworkFactory {
    /// A factory whose clients retry an unreachable node soon: one that comes back is found within
    /// [`limits::PEER_RETRY_MAX`].
    pub(super) fn new(
        observer: Observer,
        transport: Arc<dyn PeerTransport>,
        room: Arc<Room>,
        tuning: &Tuning,
    ) -> Self {
        Self {
            group_id: observer.group_id,
            transport,
            room,
            backoff: (limits::PEER_RETRY_MIN, limits::PEER_RETRY_MAX),
            append_silence_max: tuning.append_silence_max,
            snapshot_stall_max: tuning.snapshot_stall_max,
            snapshot_rate: tuning.snapshot_rate.clone(),
            observer,
        }
    }

    fn client(&self, target: NodeId, purpose: Purpose) -> Network {
        Network {
            group_id: self.group_id,
            target,
            purpose,
            transport: self.transport.clone(),
            room: self.room.clone(),
            backoff: self.backoff,
            silences: Silences::new(self.group_id, target, self.append_silence_max),
            pace: snapshot::Pace {
                pause: self.backoff.0,
                pause_max: self.backoff.1,
                stall_max: self.snapshot_stall_max,
                rate: self.snapshot_rate.clone(),
            },
            observer: self.observer.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, _node: &Voter) -> Network {
        self.client(target, Purpose::Replicate)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &Voter) -> Network {
        self.client(target, Purpose::Heartbeat)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Replicate,
    Heartbeat,
}

/// The way from one group to one peer.
pub struct Network {
    group_id: GroupId,
    target: NodeId,
    purpose: Purpose,
    transport: Arc<dyn PeerTransport>,
    room: Arc<Room>,
    backoff: (Duration, Duration),
    silences: Silences,
    pace: snapshot::Pace,
    observer: Observer,
}

impl Network {
    fn rpc_error(e: TransportError) -> RpcError {
        match e {
            TransportError::Unreachable { .. }
            | TransportError::Overloaded { .. }
            | TransportError::Refused { .. } => RPCError::Unreachable(Unreachable::new(&e)),
            TransportError::Lost { .. } => RPCError::Network(NetworkError::new(&e)),
        }
    }

    fn decode_error(e: DecodeError) -> RpcError {
        RPCError::Network(NetworkError::new(&e))
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = peer::VoteRequest {
            group_id: self.group_id,
            vote: Some(vote_to_wire(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(log_id_to_wire),
            pre_vote,
            leadership_transfer: rpc.leadership_transfer,
        };
        let response = self
            .transport
            .vote(self.target, request, option.soft_ttl())
            .await
            .map_err(Self::rpc_error)?;
        if let Some(vote) = response.vote.filter(|_| response.granted && !pre_vote) {
            let reach = Reach {
                term: vote.term,
                index: 0,
            };
            self.observer
                .promises
                .keep(self.target, self.group_id, reach);
        }
        Ok(VoteResponse {
            vote: vote_from_wire(response.vote).map_err(Self::decode_error)?,
            vote_granted: response.granted,
            last_log_id: response.last_log_id.map(log_id_from_wire),
        })
    }

    fn result(
        room: &Room,
        target: NodeId,
        response: Result<peer::AppendResponse, TransportError>,
    ) -> Result<StreamAppendResult, RpcError> {
        let response = response.map_err(Self::rpc_error)?;
        room.peer_is_short(target, response.short_of_space);
        append_result_from_wire(response).map_err(Self::decode_error)
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let sent = self.observer.sent(self.target, &rpc);
        let request = append_to_wire(self.group_id, rpc, self.observer.flushed.get());
        let one = Box::pin(stream::once(async move { request }));
        let mut answers = self
            .transport
            .append(self.target, one)
            .await
            .map_err(Self::rpc_error)?;
        let answer = answers.next().await.unwrap_or_else(|| {
            Err(TransportError::Lost {
                to: self.target,
                why: "the stream ended without an answer".into(),
            })
        });
        let answer = Self::result(&self.room, self.target, answer);
        self.observer.answered(self.target, sent, &answer);
        Ok(match answer? {
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> openraft::base::BoxFuture<
        's,
        Result<openraft::base::BoxStream<'s, Result<StreamAppendResult, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest> + OptionalSend + Unpin + 'static,
    {
        let (group_id, target) = (self.group_id, self.target);
        let (room, observer) = (self.room.clone(), self.observer.clone());
        Box::pin(async move {
            if self.purpose == Purpose::Heartbeat {
                let Some(request) = input.next().await else {
                    return Ok(stream::empty().boxed());
                };
                let sent = observer.sent(target, &request);
                let request = append_to_wire(group_id, request, observer.flushed.get());
                let answer = self.transport.heartbeat(target, request).await;
                let answer = Self::result(&room, target, answer);
                observer.answered(target, sent, &answer);
                return Ok(stream::once(std::future::ready(answer)).boxed());
            }
            // The request comes first, the connection second: openraft's pause after a failure is
            // in its stream of requests, and a stream that cannot be opened is never read.
            let Some(first) = input.next().await else {
                return Ok(stream::empty().boxed());
            };
            // Answers come in the order of the requests.
            let under_way: Arc<Mutex<VecDeque<Sent>>> = Arc::default();
            let requests = stream::once(std::future::ready(first)).chain(input).map({
                let (observer, under_way) = (observer.clone(), under_way.clone());
                move |request| {
                    under_way.lock().push_back(observer.sent(target, &request));
                    append_to_wire(group_id, request, observer.flushed.get())
                }
            });
            let transport = self.transport.as_ref();
            let answers =
                append_stream::open(transport, self.silences.clone(), Box::pin(requests)).await;
            let answers = answers.map_err(Self::rpc_error)?.map(move |answer| {
                let answer = Self::result(&room, target, answer);
                if let Some(sent) = under_way.lock().pop_front() {
                    observer.answered(target, sent, &answer);
                }
                answer
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(rpc, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = snapshot::send(
            self.transport.as_ref(),
            self.group_id,
            self.target,
            vote,
            snapshot,
            &self.pace,
        );
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = send => match answer {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(snapshot::SendError::Transport(e)) => Err(Self::rpc_error(e).into()),
                Err(e) => Err(StreamingError::Network(NetworkError::new(&e))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let wire = peer::TransferLeaderRequest {
            group_id: self.group_id,
            from_leader: Some(vote_to_wire(request.from_leader())),
            to_node: *request.to_node_id(),
            last_log_id: request.last_log_id().map(log_id_to_wire),
        };
        let response = self
            .transport
            .transfer_leader(self.target, wire, option.soft_ttl())
            .await
            .map_err(Self::rpc_error)?;
        if response.refused_because.is_empty() {
            return Ok(Ok(()));
        }
        tracing::warn!(
            to = self.target,
            why = response.refused_because,
            "leadership transfer refused"
        );
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: None,
        }))
    }

    fn backoff(&self) -> Option<Backoff> {
        let (first, most) = self.backoff;
        Some(Backoff::new(std::iter::successors(Some(first), move |d| {
            Some((*d * 2).min(most))
        })))
    }
}

#[cfg(test)]
mod tests;
