//! How messages reach other nodes, as consensus sees it.
//!
//! The gRPC implementation lives in `service/`; nothing below it knows the wire. An
//! implementation owns the connections: it reconnects by itself, keeps a channel for snapshots
//! apart from the one for replication, and merges the heartbeats of many groups into one message.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::Stream;
use holdfast_proto::peer;

use super::type_config::NodeId;

/// A boxed future that the transport returns.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A boxed stream of messages.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Why a message got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// It never left this node: nothing happened at the other end.
    #[error("node {to} is unreachable: {why}")]
    Unreachable {
        /// Target of the message.
        to: NodeId,
        /// What the connection said.
        why: String,
    },
    /// Too much waits for the other node already. It never left this node.
    #[error("too many requests wait for node {to}")]
    Overloaded {
        /// Target of the message.
        to: NodeId,
    },
    /// It may have arrived; its fate is unknown.
    #[error("the connection to node {to} was lost: {why}")]
    Lost {
        /// Target of the message.
        to: NodeId,
        /// What the connection said.
        why: String,
    },
    /// The other node looked at it and refused it whole.
    #[error("node {to} refused: {why}")]
    Refused {
        /// Target of the message.
        to: NodeId,
        /// Its reason.
        why: String,
    },
}

/// Messages to other nodes.
pub trait PeerTransport: Send + Sync + 'static {
    /// RequestVote, or Pre-Vote.
    fn vote(
        &self,
        to: NodeId,
        request: peer::VoteRequest,
        timeout: Duration,
    ) -> BoxFuture<Result<peer::VoteResponse, TransportError>>;

    /// Where nodes stand in groups whose leader is in doubt.
    fn survey(
        &self,
        to: NodeId,
        request: peer::SurveyMessage,
        timeout: Duration,
    ) -> BoxFuture<Result<peer::SurveyMessage, TransportError>>;

    /// TimeoutNow.
    fn transfer_leader(
        &self,
        to: NodeId,
        request: peer::TransferLeaderRequest,
        timeout: Duration,
    ) -> BoxFuture<Result<peer::TransferLeaderResponse, TransportError>>;

    /// Pipelined AppendEntries: answers come in the order of the requests.
    fn append(
        &self,
        to: NodeId,
        requests: BoxStream<peer::AppendRequest>,
    ) -> BoxFuture<Result<BoxStream<Result<peer::AppendResponse, TransportError>>, TransportError>>;

    /// One heartbeat; the transport merges those that are under way at the same time.
    fn heartbeat(
        &self,
        to: NodeId,
        request: peer::AppendRequest,
    ) -> BoxFuture<Result<peer::AppendResponse, TransportError>>;

    /// Chunks of a snapshot; acknowledgements tell how far the receiver has got.
    fn snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<peer::SnapshotChunk>,
    ) -> BoxFuture<Result<BoxStream<Result<peer::SnapshotAck, TransportError>>, TransportError>>;

    /// A write or a read-index question for the node that leads the group.
    fn forward(
        &self,
        to: NodeId,
        request: peer::Forward,
    ) -> BoxFuture<Result<peer::ForwardReply, TransportError>>;
}
