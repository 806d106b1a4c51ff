//! Keys of the gRPC metadata that Holdfast gives a meaning to, each written once: here.
//!
//! `docs/metadata.md` describes them for those who write a client of their own.
//!
//! ```text
//!   client ──▶ node   KEYSPACE  CLIENT_ID  REQUEST_SEQ  RETRY  HAS_LEADER  TIMEOUT
//!   client ◀── node   OUTCOME
//!   node   ──▶ node   CLUSTER_ID  NODE_ID  INCARNATION  TO_NODE
//! ```

/// Name of the keyspace that a request is for; without it `default`.
pub const KEYSPACE: &str = "holdfast-keyspace";
/// Id of the client that sends a write, for the retry table.
pub const CLIENT_ID: &str = "holdfast-client-id";
/// Number of the write under its client id, a decimal number counted from 1.
pub const REQUEST_SEQ: &str = "holdfast-request-seq";
/// With the value `1`: an earlier sending of this write may have taken effect.
pub const RETRY: &str = "holdfast-retry";
/// With the value `true`: refuse at once when the node sees no leader. etcd's own key.
pub const HAS_LEADER: &str = "hasleader";
/// The client's deadline (gRPC over HTTP/2, "Timeout").
pub const TIMEOUT: &str = "grpc-timeout";

/// What a refusal says of the request's effect, in a form that nothing between node and client
/// makes up: one of the values in [`outcome`]. Without it a refusal vouches for nothing.
pub const OUTCOME: &str = "holdfast-outcome";

/// Values of [`OUTCOME`].
pub mod outcome {
    /// The state machine refused the request. This is the answer of every sending of the request
    /// under its retry id, so none of them took effect.
    pub const REFUSED: &str = "refused";
    /// This sending was not appended to the log: it took no effect. It says nothing of others.
    pub const NOT_APPENDED: &str = "not-appended";
    /// The client id is not known: this sending took no effect, and what became of earlier ones is
    /// forgotten. The client registers, and may send under its new id what it sent once only.
    pub const CLIENT_UNKNOWN: &str = "client-unknown";
}

/// Cluster of the sender of a message between nodes.
pub const CLUSTER_ID: &str = "holdfast-cluster-id";
/// Node that sends it.
pub const NODE_ID: &str = "holdfast-node-id";
/// Incarnation of the sender's data directory.
pub const INCARNATION: &str = "holdfast-incarnation";
/// Node that it is meant for.
pub const TO_NODE: &str = "holdfast-to-node";
