//! Whether a node may take part, before it does.
//!
//! A node with a new data directory asks *every* other member, and waits until all have answered:
//! only then can it be sure that no cluster exists in which it has voted before. A node that has
//! taken part before starts at once and asks in the background; if a peer knows it under another
//! incarnation (an old copy of the directory was put back, say), it stops taking part.

use std::{collections::BTreeSet, time::Duration};

use holdfast_proto::peer;

use super::GrpcTransport;
use crate::{
    group::MemberVersions,
    identity::{DataDir, IdentityError},
    raft::{NodeId, TransportError},
};

/// Time between two rounds of introductions.
const ROUND_EVERY: Duration = Duration::from_millis(100);
/// Time between two lines in the log about members that do not answer.
const REMIND_EVERY: Duration = Duration::from_secs(5);

/// How the introductions ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Introduction {
    /// Every member knows this node.
    Accepted,
    /// A member knows this node with another memory: it must stay out.
    LostMemory {
        /// The member that said so.
        by: NodeId,
        /// The incarnation it has on record.
        recorded: u64,
    },
}

/// Introduces this node to `members` until all of them have answered.
pub async fn introduce(
    transport: &GrpcTransport,
    data: &DataDir,
    versions: &MemberVersions,
    zone: &str,
    members: &[NodeId],
) -> Result<Introduction, IdentityError> {
    let identity = data.identity();
    let mut missing: BTreeSet<NodeId> = members.iter().copied().collect();
    missing.remove(&identity.node_id);
    let mut reminded = tokio::time::Instant::now();
    loop {
        for member in missing.clone() {
            let request = peer::HelloRequest {
                cluster_id: identity.cluster_id,
                node_id: identity.node_id,
                incarnation: identity.incarnation,
                zone: zone.to_string(),
                fresh: !identity.took_part,
                version: holdfast_mvcc::VERSION,
            };
            match transport.hello(member, request).await {
                Ok(answer) if answer.recorded_incarnation != identity.incarnation => {
                    return Ok(Introduction::LostMemory {
                        by: member,
                        recorded: answer.recorded_incarnation,
                    });
                }
                Ok(answer) => {
                    data.record_peer(answer.node_id, answer.incarnation)?;
                    versions.heard(answer.node_id, answer.version);
                    missing.remove(&member);
                }
                Err(TransportError::Refused { why, .. }) => {
                    tracing::error!(member, why, "a member of the cluster refuses this node");
                }
                Err(e) => tracing::debug!(member, error = %e, "introduction not answered"),
            }
        }
        if missing.is_empty() {
            return Ok(Introduction::Accepted);
        }
        if reminded.elapsed() > REMIND_EVERY {
            tracing::info!(?missing, "waiting for members of the cluster to answer");
            reminded = tokio::time::Instant::now();
        }
        tokio::time::sleep(ROUND_EVERY).await;
    }
}
