//! The connections of this node to its peers.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use holdfast_proto::{
    gathering::connect_lazy,
    metadata,
    peer::{self, peer_client::PeerClient},
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Error},
};

use super::{
    Gate,
    link::{Carried, Link},
    unreached::Unreached,
    until_error,
};
use crate::{
    limits,
    raft::{
        NodeId, PeerTransport, TransportError,
        transport::{BoxFuture, BoxStream},
    },
};

/// A peer, as the configuration names it.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    /// Its id.
    pub id: NodeId,
    /// Where it listens to peers.
    pub url: String,
}

/// Who this node is, in the metadata of every call.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this node.
    pub node_id: NodeId,
    /// Incarnation of its data directory.
    pub incarnation: u64,
}

type Client = PeerClient<InterceptedService<Channel, Signature>>;

/// Signs every call with who sends it and whom it is for.
#[derive(Clone)]
pub(super) struct Signature {
    fields: [(&'static str, MetadataValue<Ascii>); 4],
}

impl Signature {
    fn new(sender: Sender, to: NodeId) -> Self {
        Self {
            fields: [
                (metadata::CLUSTER_ID, sender.cluster_id.into()),
                (metadata::NODE_ID, sender.node_id.into()),
                (metadata::INCARNATION, sender.incarnation.into()),
                (metadata::TO_NODE, to.into()),
            ],
        }
    }
}

impl Interceptor for Signature {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.fields {
            request.metadata_mut().insert(*name, value.clone());
        }
        Ok(request)
    }
}

/// The gRPC connections to all peers. They are made on demand and again after they broke.
pub struct GrpcTransport {
    peers: BTreeMap<NodeId, PeerConnection>,
    /// Whom this node may ask for votes and lead.
    gate: Arc<Gate>,
}

/// Three connections: what is large never stands before what is urgent.
pub(super) struct PeerConnection {
    pub(super) client: Client,
    appends: Client,
    unreached: Arc<Unreached>,
    snapshots: Client,
    heartbeats: Link<Heartbeats>,
    forwards: Link<Forwards>,
}

impl GrpcTransport {
    /// Connections of `sender` to `peers`. `patience` bounds connecting and the opening of a
    /// stream. At most `forward_queue_max` requests wait for one peer.
    pub fn new(
        sender: Sender,
        peers: &[PeerAddress],
        patience: Duration,
        forward_queue_max: usize,
        gate: Arc<Gate>,
    ) -> Result<Self, Error> {
        let peers = peers
            .iter()
            .map(|peer| {
                Ok((
                    peer.id,
                    PeerConnection::new(sender, peer, patience, forward_queue_max)?,
                ))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { peers, gate })
    }

    /// Introduces this node to a peer.
    pub async fn hello(
        &self,
        to: NodeId,
        request: peer::HelloRequest,
    ) -> Result<peer::HelloResponse, TransportError> {
        let mut client = self.peer(to)?.client.clone();
        let answer = client.hello(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| failed(to, &status))
    }

    /// Whether a peer answers: asks it for nothing.
    pub async fn probe(&self, to: NodeId) -> Result<(), TransportError> {
        let mut client = self.peer(to)?.client.clone();
        let nothing = futures_util::stream::empty::<peer::HeartbeatBatch>();
        let answer = client.heartbeat(nothing);
        within(to, limits::PEER_PROBE_MAX, answer).await.map(drop)
    }

    /// Asks a peer which groups it leads.
    pub async fn leading(&self, to: NodeId) -> Result<peer::LeadingResponse, TransportError> {
        let mut client = self.peer(to)?.client.clone();
        let answer = client.leading(peer::LeadingRequest {});
        within(to, limits::PEER_PROBE_MAX, answer).await
    }

    /// Asks a peer for a snapshot of a group. The stream ends early when the connection breaks.
    pub async fn fetch_snapshot(
        &self,
        from: NodeId,
        group_id: u64,
    ) -> Result<BoxStream<peer::SnapshotChunk>, TransportError> {
        let mut client = self.peer(from)?.snapshots.clone();
        let request = peer::FetchSnapshotRequest { group_id };
        let answer = client.fetch_snapshot(request).await;
        let chunks = answer.map_err(|status| failed(from, &status))?.into_inner();
        Ok(Box::pin(until_error(chunks)))
    }

    /// A peer that has vouched for the memory of this node.
    pub(super) fn member(&self, to: NodeId) -> Result<&PeerConnection, TransportError> {
        if self.gate.lets(to) {
            return self.peer(to);
        }
        Err(TransportError::Unreachable {
            to,
            why: "it has not said yet that it knows this node".into(),
        })
    }

    fn peer(&self, to: NodeId) -> Result<&PeerConnection, TransportError> {
        self.peers.get(&to).ok_or(TransportError::Unreachable {
            to,
            why: "no such node in the configuration".into(),
        })
    }
}

impl PeerConnection {
    fn new(
        sender: Sender,
        peer: &PeerAddress,
        patience: Duration,
        forward_queue_max: usize,
    ) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(peer.url.clone())?
            .connect_timeout(patience)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(limits::PEER_KEEPALIVE_INTERVAL))
            .http2_keep_alive_interval(limits::PEER_KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::PEER_KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES);
        let connect = || {
            let message_max = limits::PEER_MESSAGE_BYTES_MAX as usize;
            let channel = connect_lazy(&endpoint);
            PeerClient::with_interceptor(channel, Signature::new(sender, peer.id))
                .max_decoding_message_size(message_max)
                .max_encoding_message_size(message_max)
        };
        let client = connect();
        let batch_bytes_max = limits::FORWARD_BATCH_BYTES_MAX as usize;
        Ok(Self {
            heartbeats: Link::new(
                peer.id,
                Heartbeats(client.clone()),
                limits::HEARTBEAT_QUEUE_MAX,
                batch_bytes_max,
                patience,
            ),
            forwards: Link::new(
                peer.id,
                Forwards(client.clone()),
                forward_queue_max,
                batch_bytes_max,
                patience,
            ),
            client,
            appends: connect(),
            unreached: Arc::default(),
            snapshots: connect(),
        })
    }
}

/// What a status says of the fate of a message. Only a connection that could not be made, or an
/// explicit refusal, proves that nothing happened.
fn failed(to: NodeId, status: &Status) -> TransportError {
    let why = status.to_string();
    match status.code() {
        tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => {
            TransportError::Refused { to, why }
        }
        _ if never_connected(status) => TransportError::Unreachable { to, why },
        _ => TransportError::Lost { to, why },
    }
}

fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::HostUnreachable
                    | std::io::ErrorKind::NetworkUnreachable
            )
        {
            return true;
        }
        source = error.source();
    }
    false
}

pub(super) async fn within<T>(
    to: NodeId,
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(to, &status)),
        Err(_) => Err(TransportError::Lost {
            to,
            why: "no answer in time".into(),
        }),
    }
}

/// A boxed stream under a name of its own: the compiler cannot prove that a call with a bare
/// trait object may move between threads.
struct Messages<T>(BoxStream<T>);

impl<T> Stream for Messages<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(context)
    }
}

/// A stream of answers whose errors are told in the words of the transport.
fn answers<T: Send + 'static>(
    to: NodeId,
    stream: Streaming<T>,
) -> BoxStream<Result<T, TransportError>> {
    Box::pin(stream.map(move |item| item.map_err(|status| failed(to, &status))))
}

impl PeerTransport for GrpcTransport {
    fn vote(
        &self,
        to: NodeId,
        request: peer::VoteRequest,
        timeout: Duration,
    ) -> BoxFuture<Result<peer::VoteResponse, TransportError>> {
        let client = self.member(to).map(|p| p.client.clone());
        Box::pin(async move { within(to, timeout, { client? }.vote(request)).await })
    }

    fn survey(
        &self,
        to: NodeId,
        request: peer::SurveyMessage,
        timeout: Duration,
    ) -> BoxFuture<Result<peer::SurveyMessage, TransportError>> {
        let vouches = self.member(to).map(drop);
        // One that stays out vouches for nobody, and has that to say.
        let asked = match self.gate.is_open() {
            true => self.peer(to),
            false => self.member(to),
        };
        let client = asked.map(|p| p.client.clone());
        Box::pin(async move {
            let answer = within(to, timeout, { client? }.survey(request)).await?;
            match answer.stays_out {
                true => Ok(answer),
                false => vouches.map(|()| answer),
            }
        })
    }

    fn transfer_leader(
        &self,
        to: NodeId,
        request: peer::TransferLeaderRequest,
        timeout: Duration,
    ) -> BoxFuture<Result<peer::TransferLeaderResponse, TransportError>> {
        let client = self.peer(to).map(|p| p.client.clone());
        Box::pin(async move { within(to, timeout, { client? }.transfer_leader(request)).await })
    }

    fn append(
        &self,
        to: NodeId,
        requests: BoxStream<peer::AppendRequest>,
    ) -> BoxFuture<Result<BoxStream<Result<peer::AppendResponse, TransportError>>, TransportError>>
    {
        let peer = self.member(to);
        let peer = peer.map(|p| (p.appends.clone(), p.unreached.clone()));
        Box::pin(async move {
            let (mut client, unreached) = peer?;
            unreached.check(to)?;
            let opened = client.append(Messages(requests)).await;
            let opened = opened.map_err(|status| failed(to, &status));
            unreached.note(&opened);
            Ok(answers(to, opened?.into_inner()))
        })
    }

    fn heartbeat(
        &self,
        to: NodeId,
        request: peer::AppendRequest,
    ) -> BoxFuture<Result<peer::AppendResponse, TransportError>> {
        let sent = self.member(to).map(|p| {
            p.heartbeats.send(peer::Heartbeat {
                id: 0,
                request: Some(request),
            })
        });
        Box::pin(async move {
            let reply = sent?.await?;
            reply.response.ok_or(TransportError::Refused {
                to,
                why: reply.unavailable,
            })
        })
    }

    fn snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<peer::SnapshotChunk>,
    ) -> BoxFuture<Result<BoxStream<Result<peer::SnapshotAck, TransportError>>, TransportError>>
    {
        let client = self.peer(to).map(|p| p.snapshots.clone());
        Box::pin(async move {
            let stream = { client? }
                .snapshot(Messages(chunks))
                .await
                .map_err(|s| failed(to, &s))?;
            Ok(answers(to, stream.into_inner()))
        })
    }

    fn forward(
        &self,
        to: NodeId,
        request: peer::Forward,
    ) -> BoxFuture<Result<peer::ForwardReply, TransportError>> {
        let sent = self.peer(to).map(|p| p.forwards.send(request));
        Box::pin(async move { sent?.await })
    }
}

struct Heartbeats(Client);

impl Carried for Heartbeats {
    type Request = peer::Heartbeat;
    type Reply = peer::HeartbeatResponse;
    type RequestBatch = peer::HeartbeatBatch;
    type ReplyBatch = peer::HeartbeatBatchResponse;

    const BATCH_MAX: usize = limits::HEARTBEAT_QUEUE_MAX;

    fn number(request: &mut peer::Heartbeat, id: u64) {
        request.id = id;
    }

    fn bytes(_: &peer::Heartbeat) -> usize {
        // A heartbeat carries no entries.
        64
    }

    fn pack(heartbeats: Vec<peer::Heartbeat>) -> peer::HeartbeatBatch {
        peer::HeartbeatBatch { heartbeats }
    }

    fn unpack(batch: peer::HeartbeatBatchResponse) -> Vec<(u64, peer::HeartbeatResponse)> {
        batch.responses.into_iter().map(|r| (r.id, r)).collect()
    }

    fn open(
        &self,
        requests: Pin<Box<dyn Stream<Item = peer::HeartbeatBatch> + Send>>,
    ) -> BoxFuture<Result<Streaming<peer::HeartbeatBatchResponse>, Status>> {
        let mut client = self.0.clone();
        Box::pin(async move { Ok(client.heartbeat(Messages(requests)).await?.into_inner()) })
    }
}

struct Forwards(Client);

impl Carried for Forwards {
    type Request = peer::Forward;
    type Reply = peer::ForwardReply;
    type RequestBatch = peer::ForwardBatch;
    type ReplyBatch = peer::ForwardReplyBatch;

    const BATCH_MAX: usize = limits::FORWARD_BATCH_REQUESTS_MAX;

    fn number(request: &mut peer::Forward, id: u64) {
        request.id = id;
    }

    fn bytes(request: &peer::Forward) -> usize {
        match &request.request {
            Some(peer::forward::Request::Command(command)) => command.len(),
            _ => 0,
        }
    }

    fn pack(requests: Vec<peer::Forward>) -> peer::ForwardBatch {
        peer::ForwardBatch { requests }
    }

    fn unpack(batch: peer::ForwardReplyBatch) -> Vec<(u64, peer::ForwardReply)> {
        batch.replies.into_iter().map(|r| (r.id, r)).collect()
    }

    fn open(
        &self,
        requests: Pin<Box<dyn Stream<Item = peer::ForwardBatch> + Send>>,
    ) -> BoxFuture<Result<Streaming<peer::ForwardReplyBatch>, Status>> {
        let mut client = self.0.clone();
        Box::pin(async move { Ok(client.forward(Messages(requests)).await?.into_inner()) })
    }
}
