//! The peer service: who speaks is checked first, then the message goes to its group.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use holdfast_proto::{
    metadata,
    peer::{self, forward_error::Kind, peer_server::Peer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{super::listener::Guest, reachability::Heard, until_error};
use crate::{
    group::{Group, MemberVersions},
    identity::DataDir,
    keyspace::Keyspaces,
    limits,
    raft::{GroupId, MessageError, NodeId},
};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the messages of peers.
pub struct PeerServer {
    data: Arc<DataDir>,
    keyspaces: Arc<Keyspaces>,
    versions: Arc<MemberVersions>,
    members: Vec<NodeId>,
    heard: Arc<Heard>,
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
    ) -> Self {
        Self {
            data,
            keyspaces,
            versions,
            members,
            heard,
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
            return Err(Status::failed_precondition(
                "etcdserver: cluster ID mismatch",
            ));
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

    fn group(&self, id: GroupId) -> Result<Arc<Group>, Status> {
        self.keyspaces
            .by_id(id)
            .ok_or_else(|| Status::unavailable(format!("group {id} does not run on this node")))
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
        let recorded = self
            .data
            .record_peer(from, request.incarnation)
            .map_err(|e| Status::internal(e.to_string()))?;
        if recorded != request.incarnation {
            tracing::warn!(
                node = from,
                "a node came back without its data; it is told to stay out"
            );
        }
        if recorded == request.incarnation {
            self.versions.heard(from, request.version);
        }
        let me = self.data.identity();
        Ok(Response::new(peer::HelloResponse {
            node_id: me.node_id,
            incarnation: me.incarnation,
            recorded_incarnation: recorded,
            fresh: !me.took_part,
            version: holdfast_mvcc::VERSION,
        }))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.check_memory(&request)?;
        let request = request.into_inner();
        let group = self.group(request.group_id)?;
        let answer = group.raft().handle_vote(request).await.map_err(status)?;
        Ok(Response::new(answer))
    }

    type AppendStream = Replies<peer::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.check_memory(&request)?;
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Err(Status::invalid_argument("an empty append stream"));
        };
        let group = self.group(first.group_id)?;
        let first = futures_util::stream::once(std::future::ready(first));
        let requests = first.chain(until_error(requests));
        let answers = group.raft().handle_append(requests);
        Ok(Response::new(Box::pin(answers.map(|a| a.map_err(status)))))
    }

    type HeartbeatStream = Replies<peer::HeartbeatBatchResponse>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<peer::HeartbeatBatch>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        self.check_memory(&request)?;
        let keyspaces = self.keyspaces.clone();
        let requests = until_error(request.into_inner()).map(|batch| batch.heartbeats);
        let replies = serve_batches(
            requests,
            move |heartbeat| answer_heartbeat(keyspaces.clone(), heartbeat),
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
        let group = self.group(header.group_id)?;
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
        self.check_memory(&request)?;
        let request = request.into_inner();
        let group = self.group(request.group_id)?;
        let refused = group.raft().handle_transfer_leader(request).await;
        Ok(Response::new(peer::TransferLeaderResponse {
            refused_because: refused.map_err(status)?.unwrap_or_default(),
        }))
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

async fn answer_heartbeat(
    keyspaces: Arc<Keyspaces>,
    heartbeat: peer::Heartbeat,
) -> peer::HeartbeatResponse {
    let id = heartbeat.id;
    let answer = match heartbeat.request {
        Some(request) => match keyspaces.by_id(request.group_id) {
            Some(group) => group
                .raft()
                .handle_heartbeat(request)
                .await
                .map_err(|e| e.to_string()),
            None => Err(format!("group {} does not run here", request.group_id)),
        },
        None => Err("the heartbeat is empty".to_string()),
    };
    match answer {
        Ok(response) => peer::HeartbeatResponse {
            id,
            response: Some(response),
            unavailable: String::new(),
        },
        Err(unavailable) => peer::HeartbeatResponse {
            id,
            response: None,
            unavailable,
        },
    }
}

async fn answer_forward(keyspaces: Arc<Keyspaces>, request: peer::Forward) -> peer::ForwardReply {
    match keyspaces.by_id(request.group_id) {
        Some(group) => group.handle_forward(request).await,
        None => peer::ForwardReply {
            id: request.id,
            reply: Some(crate::group::forward_error(
                Kind::Stopped,
                None,
                "the group does not run on this node",
            )),
        },
    }
}

/// Serves a multiplexed stream: requests are answered as they are done, and answers that are
/// ready together share a message.
fn serve_batches<Req, Rep, Batch, F, Fut>(
    requests: impl Stream<Item = Vec<Req>> + Send + 'static,
    answer: F,
    pack: fn(Vec<Rep>) -> Batch,
) -> Replies<Batch>
where
    Req: Send + 'static,
    Rep: Send + 'static,
    Batch: Send + 'static,
    F: Fn(Req) -> Fut + Send + 'static,
    Fut: Future<Output = Rep> + Send + 'static,
{
    let (tx, rx) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut requests = Box::pin(requests);
        let mut working = FuturesUnordered::new();
        let mut open = true;
        while open || !working.is_empty() {
            tokio::select! {
                batch = requests.next(), if open && working.len() < limits::FORWARDS_WORKING_MAX => match batch {
                    Some(batch) => working.extend(batch.into_iter().map(&answer)),
                    None => open = false,
                },
                Some(first) = working.next() => {
                    let mut done = vec![first];
                    while let Some(Some(more)) = futures_util::FutureExt::now_or_never(working.next()) {
                        done.push(more);
                        if done.len() >= limits::FORWARD_BATCH_REQUESTS_MAX {
                            break;
                        }
                    }
                    if tx.send(Ok(pack(done))).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(rx))
}
