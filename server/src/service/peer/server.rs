//! The peer service: who speaks is checked first, then the message goes to its group.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use holdfast_proto::{
    metadata,
    peer::{self, peer_server::Peer},
};
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    super::listener::Guest,
    Gate,
    batches::{answer_forward, answer_heartbeat, serve_batches},
    hello::{dropped_from_wire, reaches_from_wire, reaches_to_wire},
    leading,
    reachability::Heard,
    until_error,
};
use crate::{
    group::{Failover, Group, MemberVersions},
    identity::{DataDir, Memory, Sessions},
    keyspace::{Keyspaces, placement},
    limits, planted,
    raft::{GroupId, MessageError, NodeId, Promises, Reach},
};

/// What a peer is told while this node asks whether its memory is whole.
pub(super) const UNSURE: &str = "this node is not sure of its memory yet and takes no part";

pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the messages of peers.
pub struct PeerServer {
    data: Arc<DataDir>,
    keyspaces: Arc<Keyspaces>,
    versions: Arc<MemberVersions>,
    members: Vec<NodeId>,
    heard: Arc<Heard>,
    failover: Arc<Failover>,
    standing: Standing,
}

/// Whether the node takes part in its cluster.
#[derive(Clone)]
pub struct Standing {
    /// Nothing is granted or acknowledged while it is closed.
    pub gate: Arc<Gate>,
    /// Why the node stays out, once it does.
    pub stays_out: Arc<RwLock<Option<String>>>,
}

impl PeerServer {
    /// A server for the node that owns `data`, open to `members`.
    /// It tells `heard` who has spoken.
    pub fn new(
        data: Arc<DataDir>,
        keyspaces: Arc<Keyspaces>,
        versions: Arc<MemberVersions>,
        members: Vec<NodeId>,
        heard: Arc<Heard>,
        failover: Arc<Failover>,
        standing: Standing,
    ) -> Self {
        Self {
            data,
            keyspaces,
            versions,
            members,
            heard,
            failover,
            standing,
        }
    }

    /// Checks the signature of a call. Returns the id of the sender.
    fn check<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let me = self.data.identity();
        let field = |name: &'static str| -> Result<u64, Status> {
            request
                .metadata()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.parse().ok())
                .ok_or_else(|| Status::invalid_argument(format!("metadata {name} is missing")))
        };
        let cluster = field(metadata::CLUSTER_ID)?;
        if cluster != me.cluster_id {
            tracing::warn!(
                theirs = cluster,
                ours = me.cluster_id,
                "refused a peer of another cluster"
            );
            return Err(Status::failed_precondition(format!(
                "etcdserver: cluster ID mismatch: node {} is of the cluster {:016x}, the sender of \
                 {cluster:016x}. Whichever was given a wrong cluster.name, or a wrong id, zone or \
                 peer address of a member: correct its list of members and start it again. A node \
                 that has promised nothing yet founds its cluster anew with the corrected list",
                me.node_id, me.cluster_id
            )));
        }
        let to = field(metadata::TO_NODE)?;
        if to != me.node_id {
            return Err(Status::failed_precondition(format!(
                "the message is for node {to}, this is node {}",
                me.node_id
            )));
        }
        let from = field(metadata::NODE_ID)?;
        if !self.members.contains(&from) || from == me.node_id {
            return Err(Status::permission_denied(format!(
                "node {from} is not a peer of node {}",
                me.node_id
            )));
        }
        if let Some(guest) = request.extensions().get::<Guest>() {
            guest.settle();
        }
        self.heard.from(from);
        Ok(from)
    }

    /// Like [`Self::check`], and the sender must have the memory that is on record.
    fn check_memory<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let from = self.check(request)?;
        let theirs = request
            .metadata()
            .get(metadata::INCARNATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<u64>().ok());
        match (self.data.known_peer(from), theirs) {
            (Some(known), Some(theirs)) if known != theirs => Err(Status::failed_precondition(
                format!("node {from} has lost its data and must stay out"),
            )),
            _ => Ok(from),
        }
    }

    /// The group, for a message that it may answer with a promise.
    fn voting_group(&self, from: NodeId, id: GroupId) -> Result<Arc<Group>, Status> {
        if !self.standing.gate.lets(from) {
            return Err(Status::unavailable(UNSURE));
        }
        self.group(id)
    }

    fn group(&self, id: GroupId) -> Result<Arc<Group>, Status> {
        self.keyspaces
            .by_id(id)
            .ok_or_else(|| Status::unavailable(format!("group {id} does not run on this node")))
    }
}

/// What a leader says of its own log, kept by the follower.
fn keep_flushed(promises: &Promises, from: NodeId, group: GroupId, request: &peer::AppendRequest) {
    let leads = request
        .vote
        .filter(|vote| vote.committed && vote.voted_for == from);
    if let Some(vote) = leads
        && request.leader_flushed > 0
    {
        let reach = Reach {
            term: vote.term,
            index: request.leader_flushed,
        };
        promises.keep(from, group, reach);
    }
}

fn status(e: MessageError) -> Status {
    match e {
        MessageError::Malformed(e) => Status::invalid_argument(e.to_string()),
        MessageError::Stopped(why) => Status::unavailable(why),
    }
}

#[tonic::async_trait]
impl Peer for PeerServer {
    async fn hello(
        &self,
        request: Request<peer::HelloRequest>,
    ) -> Result<Response<peer::HelloResponse>, Status> {
        let from = self.check(&request)?;
        let request = request.into_inner();
        if request.node_id != from {
            return Err(Status::invalid_argument(
                "the introduction names another node",
            ));
        }
        let sessions = Sessions::told(request.session, request.session_nonces)
            .ok_or_else(|| Status::invalid_argument("the sessions do not fit together"))?;
        let memory = Memory {
            incarnation: request.incarnation,
            sessions,
            reaches: reaches_from_wire(&request.reaches),
            dropped: dropped_from_wire(&request.dropped),
        };
        let (data, takes_part) = (self.data.clone(), request.takes_part);
        let (memory, met) = tokio::task::spawn_blocking(move || {
            let met = data.meet_peer(from, &memory, takes_part);
            (memory, met)
        })
        .await
        .map_err(|e| Status::internal(e.to_string()))?;
        let recorded = met.map_err(|e| Status::internal(e.to_string()))?;
        if let Some(why) = memory.contradicts(&recorded)
            && !planted::trusts_any_memory()
        {
            tracing::warn!(
                node = from,
                "a node came back without its memory and is told to stay out: this node knows it \
                 with {why}"
            );
        }
        if recorded.incarnation == request.incarnation {
            self.versions.heard(from, request.version);
        }
        let me = self.data.identity();
        Ok(Response::new(peer::HelloResponse {
            node_id: me.node_id,
            incarnation: me.incarnation,
            recorded_incarnation: recorded.incarnation,
            fresh: !me.took_part,
            version: holdfast_mvcc::VERSION,
            recorded_session: recorded.session.map_or(0, |session| session.number),
            recorded_session_nonce: recorded.session.map_or(0, |session| session.nonce),
            promised: reaches_to_wire(&recorded.promised),
            stays_out: self.standing.stays_out.read().is_some(),
        }))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let from = self.check_memory(&request)?;
        let request = request.into_inner();
        let group = self.voting_group(from, request.group_id)?;
        let answer = group.raft().handle_vote(request).await.map_err(status)?;
        Ok(Response::new(answer))
    }

    async fn survey(
        &self,
        request: Request<peer::SurveyMessage>,
    ) -> Result<Response<peer::SurveyMessage>, Status> {
        let from = self.check_memory(&request)?;
        if self.standing.stays_out.read().is_some() {
            return Ok(Response::new(peer::SurveyMessage {
                stays_out: true,
                ..Default::default()
            }));
        }
        if !self.standing.gate.lets(from) {
            return Err(Status::unavailable(UNSURE));
        }
        Ok(Response::new(self.failover.answer(from, request.get_ref())))
    }

    type AppendStream = Replies<peer::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let from = self.check_memory(&request)?;
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Err(Status::invalid_argument("an empty append stream"));
        };
        let group_id = first.group_id;
        let group = self.voting_group(from, group_id)?;
        let first = futures_util::stream::once(std::future::ready(first));
        let promises = self.data.promises().clone();
        let requests = first
            .chain(until_error(requests))
            .inspect(move |request| keep_flushed(&promises, from, group_id, request));
        let answers = group.raft().handle_append(requests);
        Ok(Response::new(Box::pin(answers.map(|a| a.map_err(status)))))
    }

    type HeartbeatStream = Replies<peer::HeartbeatBatchResponse>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<peer::HeartbeatBatch>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let from = self.check_memory(&request)?;
        let keyspaces = self.keyspaces.clone();
        let gate = self.standing.gate.clone();
        let promises = self.data.promises().clone();
        let requests = until_error(request.into_inner()).map(|batch| batch.heartbeats);
        let replies = serve_batches(
            requests,
            move |heartbeat| {
                // Nothing is kept of a group that is not here.
                if let Some(request) = &heartbeat.request
                    && keyspaces.by_id(request.group_id).is_some()
                {
                    keep_flushed(&promises, from, request.group_id, request);
                }
                answer_heartbeat(gate.lets(from), keyspaces.clone(), heartbeat)
            },
            |responses| peer::HeartbeatBatchResponse { responses },
        );
        Ok(Response::new(replies))
    }

    type SnapshotStream = Replies<peer::SnapshotAck>;

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let from = self.check_memory(&request)?;
        let mut chunks = request.into_inner();
        let header = chunks
            .message()
            .await?
            .and_then(|first| first.header)
            .ok_or_else(|| Status::invalid_argument("a snapshot begins with its header"))?;
        let group = self.voting_group(from, header.group_id)?;
        let (acks, stream) = mpsc::channel(limits::SNAPSHOT_WINDOW_CHUNKS_MAX);
        tokio::spawn(async move {
            let (progress, mut told) = mpsc::channel(limits::SNAPSHOT_WINDOW_CHUNKS_MAX);
            let relay = {
                let acks = acks.clone();
                async move {
                    while let Some(ack) = told.recv().await {
                        if acks.send(Ok(ack)).await.is_err() {
                            break;
                        }
                    }
                }
            };
            let receive =
                group
                    .raft()
                    .receive_snapshot(header, Box::pin(until_error(chunks)), progress);
            let (received, ()) = tokio::join!(receive, relay);
            if let Err(e) = received {
                tracing::warn!(from, error = %e, "a snapshot was not received");
                // A sender that has gone finds out by itself.
                let _ = acks.send(Err(Status::aborted(e.to_string()))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type FetchSnapshotStream = Replies<peer::SnapshotChunk>;

    async fn fetch_snapshot(
        &self,
        request: Request<peer::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        self.check_memory(&request)?;
        let group = self.group(request.get_ref().group_id)?;
        let chunks = group.raft().stream_snapshot().await.map_err(status)?;
        let chunks = chunks.map(|chunk| chunk.map_err(|e| Status::internal(e.to_string())));
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let from = self.check_memory(&request)?;
        let request = request.into_inner();
        let group = self.voting_group(from, request.group_id)?;
        let refused = group.raft().handle_transfer_leader(request).await;
        Ok(Response::new(peer::TransferLeaderResponse {
            refused_because: refused.map_err(status)?.unwrap_or_default(),
        }))
    }

    async fn leading(
        &self,
        request: Request<peer::LeadingRequest>,
    ) -> Result<Response<peer::LeadingResponse>, Status> {
        let from = self.check_memory(&request)?;
        // Nobody is led by a node that may promise nothing.
        let answer = match self.standing.gate.lets(from) {
            true => leading::led_here(&self.keyspaces),
            false => peer::LeadingResponse::default(),
        };
        Ok(Response::new(answer))
    }

    async fn placed(
        &self,
        request: Request<peer::PlacedRequest>,
    ) -> Result<Response<peer::PlacedResponse>, Status> {
        let from = self.check_memory(&request)?;
        let answer = match self.standing.gate.lets(from) {
            true => placement::placed_here(&self.keyspaces),
            false => peer::PlacedResponse::default(),
        };
        Ok(Response::new(answer))
    }

    async fn hand_over(
        &self,
        request: Request<peer::HandOverRequest>,
    ) -> Result<Response<peer::HandOverResponse>, Status> {
        self.check_memory(&request)?;
        let answer = placement::hand_over_here(&self.keyspaces, request.into_inner()).await;
        Ok(Response::new(answer))
    }

    type ForwardStream = Replies<peer::ForwardReplyBatch>;

    async fn forward(
        &self,
        request: Request<Streaming<peer::ForwardBatch>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        self.check_memory(&request)?;
        let keyspaces = self.keyspaces.clone();
        let requests = until_error(request.into_inner()).map(|batch| batch.requests);
        let replies = serve_batches(
            requests,
            move |request| answer_forward(keyspaces.clone(), request),
            |replies| peer::ForwardReplyBatch { replies },
        );
        Ok(Response::new(replies))
    }
}
