//! The openraft types of a group, named once.

use std::fmt;

use bytes::Bytes;
use holdfast_proto::command::Answer;
use serde::{Deserialize, Serialize};

/// Id of a node: chosen by the operator, never reused.
pub type NodeId = u64;

/// Id of a Raft group.
pub type GroupId = u64;

/// What membership entries say of a voter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Failure domain of the node.
    pub zone: String,
    /// Where other nodes reach it.
    pub peer_url: String,
    /// Where clients reach it.
    pub client_url: String,
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.peer_url, self.zone)
    }
}

/// Application data of a log entry: an encoded `holdfast.command.v1.Command`, which may be a batch of them.
///
/// It stays encoded on its way through the log and over the wire, so the bytes that the client's
/// node produced are the ones every replica decodes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry gave: the answers of its commands in order, none for other entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome(pub Vec<Answer>);

// openraft asks for serde on responses that its own RPC types could carry; outcomes never travel
// that way, so the protobuf encoding is wrapped as bytes.
impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(prost::Message::encode_to_vec))
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let answers = Vec::<Vec<u8>>::deserialize(deserializer)?;
        let answers = answers
            .iter()
            .map(|bytes| prost::Message::decode(bytes.as_slice()));
        answers
            .collect::<Result<_, _>>()
            .map(Outcome)
            .map_err(serde::de::Error::custom)
    }
}

openraft::declare_raft_types!(
    /// Types of every Holdfast group. One leader per term, as etcd's `raft_term` means.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = NodeId,
        Node = Voter,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = super::runtime::Runtime,
);

pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, Voter>;
