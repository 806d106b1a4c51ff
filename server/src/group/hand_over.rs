//! Leaving the leadership in good order.
//!
//! openraft stops accepting writes when a transfer begins, and stays so until somebody is elected.
//! So a transfer starts only towards a voter that has the log. If it is not done in time, this leader
//! says that it leads no longer, and the others elect one (`failover/`).

use std::time::{Duration, Instant};

use super::{Group, failover::is_well, left};
use crate::{limits, raft::NodeId};

/// Time that one transfer may take before the next voter is tried.
const TRANSFER_WAIT: Duration = Duration::from_millis(500);

/// Why a leadership was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// This node does not lead the group.
    #[error("this node does not lead the group; node {0:?} does")]
    NotLeader(Option<NodeId>),
    /// The target is not a voter of the group.
    #[error("node {0} is not a voter of the group")]
    NotAVoter(NodeId),
    /// No voter has enough of the log.
    #[error("no other voter has the log: {0}")]
    NobodyReady(String),
    /// The transfer was not done in time.
    #[error("the transfer was not done in time")]
    TimedOut,
}

impl Group {
    /// Hands the leadership to `to`, or to the voter with most of the log. Returns the new leader.
    pub async fn hand_over(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, HandOverError> {
        let status = self.status();
        if status.leadership.leader != Some(self.node_id) {
            return Err(HandOverError::NotLeader(status.leadership.leader));
        }
        if let Some(to) = to
            && !status.voters.contains(&to)
        {
            return Err(HandOverError::NotAVoter(to));
        }
        if to == Some(self.node_id) {
            return Ok(self.node_id);
        }
        let views = self.views.borrow().clone();
        // Whoever is well first, then who has most of the log.
        let mut ready: Vec<(bool, u64, NodeId)> = status
            .matched
            .iter()
            .filter(|(node, _)| status.voters.contains(node) && **node != self.node_id)
            .filter(|(node, _)| to.is_none_or(|to| to == **node))
            .filter_map(|(node, matched)| matched.map(|at| (is_well(&views, *node), at, *node)))
            .filter(|(_, index, _)| {
                index + limits::HAND_OVER_LAG_ENTRIES_MAX >= status.last_log_index
            })
            .collect();
        ready.sort_unstable();
        if ready.is_empty() {
            return Err(HandOverError::NobodyReady(format!(
                "last index {}, matched {:?}",
                status.last_log_index, status.matched
            )));
        }
        let mut leadership = self.leadership();
        while let Some((_, _, target)) = ready.pop() {
            if self.raft.transfer_leader(target).await.is_err() {
                return Err(HandOverError::TimedOut);
            }
            let wait = left(deadline).min(TRANSFER_WAIT);
            let moved = leadership.wait_for(|now| now.leader.is_some_and(|n| n != self.node_id));
            if let Ok(Ok(now)) = tokio::time::timeout(wait, moved).await
                && let Some(leader) = now.leader
            {
                return Ok(leader);
            }
            tracing::warn!(
                group = self.id(),
                target,
                "leadership transfer not done in time"
            );
            if left(deadline).is_zero() {
                break;
            }
        }
        Err(HandOverError::TimedOut)
    }
}
