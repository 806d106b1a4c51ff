//! The controller: has the leader of every keyspace be where it should.
//!
//! It works on the node that leads the system group, and nowhere else. What is decided, and why, is computed
//! by `holdfast-placement`; what is here looks, and does it.
//!
//! ```text
//!   registry ─┐
//!   detector ─┼─▶ [observe] ─▶ Observed ─▶ plan() ─▶ steps ─▶ hand over, on the node that leads
//!   every node┘                  ▲ Memory                     └▶ placement/history in the system keyspace
//!     what it leads, who lags,   └── lost with the leadership of the system group: waits begin anew
//!     what it took from clients
//! ```
//!
//! What holds here:
//!
//! - A decision can be late or wrong and breaks nothing: a leader checks the lag of whom it hands over to
//!   itself, and clients are told to try again.
//! - A node that does not answer is no target: its lags and its leaderships are not known.
//! - All that is asked has an end, and one node that hangs holds up nobody but itself.

pub mod history;
pub mod observe;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_placement::{Action, KeyspaceId, Memory, Step, plan};
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::CompactionRequest,
    peer,
    v1::Keyspace,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use self::{history::Outcome, observe::Observer};
use super::{Keyspaces, Registry};
use crate::{
    group::Group,
    limits,
    raft::{
        GroupId, Leadership, NodeId,
        transport::{BoxFuture, TransportError},
    },
};

/// How the controller reaches the other nodes.
pub trait PlacementPeers: Send + Sync {
    /// What a node knows of the groups that it leads, and what it took from clients.
    fn placed(&self, node: NodeId) -> BoxFuture<Result<peer::PlacedResponse, TransportError>>;

    /// Has a node hand over the leadership of a group.
    fn hand_over(
        &self,
        node: NodeId,
        request: peer::HandOverRequest,
    ) -> BoxFuture<Result<peer::HandOverResponse, TransportError>>;
}

/// The groups of this node, for the controller that asks.
pub fn placed_here(keyspaces: &Keyspaces) -> peer::PlacedResponse {
    let groups = keyspaces.all().into_iter().map(|group| {
        let mut placed = peer::PlacedGroup {
            group_id: group.id(),
            writes: group.writes(),
            ..Default::default()
        };
        if group.raft().standing().0.leads {
            let status = group.status();
            placed.leads = true;
            placed.changing = status.changing;
            placed.learners = status.learners;
            placed.voters = status.voters;
            placed.lags = status
                .matched
                .iter()
                .filter_map(|(node, matched)| {
                    let entries = status.last_log_index.saturating_sub((*matched)?);
                    Some(peer::Lag {
                        node_id: *node,
                        entries,
                    })
                })
                .collect();
        }
        placed
    });
    peer::PlacedResponse {
        groups: groups.collect(),
    }
}

/// Hands a leadership of this node over, because the controller asks for it.
pub async fn hand_over_here(
    keyspaces: &Keyspaces,
    request: peer::HandOverRequest,
) -> peer::HandOverResponse {
    let refused = |why: String| peer::HandOverResponse {
        leader: 0,
        refused_because: why,
    };
    let Some(group) = keyspaces.by_id(request.group_id) else {
        return refused(format!("group {} does not run here", request.group_id));
    };
    let deadline = Instant::now() + Duration::from_millis(limits::HANDOVER_MS_MAX);
    match group.hand_over(Some(request.to_node), deadline).await {
        Ok(leader) => peer::HandOverResponse {
            leader,
            refused_because: String::new(),
        },
        Err(e) => refused(e.to_string()),
    }
}

/// Places the leaders of all keyspaces.
pub struct Controller {
    /// This node.
    pub node: NodeId,
    /// The groups of this node.
    pub keyspaces: Arc<Keyspaces>,
    /// What is wished for.
    pub registry: Arc<Registry>,
    /// The other nodes.
    pub peers: Arc<dyn PlacementPeers>,
    /// Looks at them.
    pub observer: Observer,
}

/// Whether a node places leaders, as the leadership of the system group stands. A group that has stopped may
/// still name its last leader.
fn may_decide(now: &Leadership, node: NodeId) -> bool {
    now.leader == Some(node) && now.stopped.is_none()
}

/// Whether placement looks after a keyspace: `default` is left where it is until somebody asks for anything.
fn is_placed(keyspace: &Keyspace) -> bool {
    keyspace.mod_revision > 0
}

/// The revision up to which the system keyspace is to forget what was superseded, if it is time.
fn to_compact(system: &Group) -> Option<i64> {
    let revisions = system.read().0.revisions;
    let kept = revisions.current - revisions.compact;
    // Not with every new revision, once there are so many.
    let upto = revisions.current - limits::SYSTEM_REVISIONS_MAX / 2;
    (kept > limits::SYSTEM_REVISIONS_MAX).then_some(upto)
}

async fn compact(system: &Group, revision: i64) {
    let command = Command {
        op: Some(Op::Compact(CompactionRequest {
            revision,
            physical: false,
        })),
        ..Default::default()
    };
    let deadline = Instant::now() + Duration::from_millis(limits::HANDOVER_MS_MAX);
    if let Err(error) = system.propose(command, deadline).await {
        tracing::warn!(%error, "the system keyspace is not compacted yet");
    }
}

impl Controller {
    /// Works until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut running = self.keyspaces.changes();
        loop {
            let Some(system) = self.registry.system() else {
                // The sender lives in the keyspaces.
                let _ = running.changed().await;
                continue;
            };
            let mut leadership = system.leadership();
            let leads = leadership.wait_for(|now| may_decide(now, self.node)).await;
            match leads.map(|_| ()) {
                Ok(()) => self.lead(&system).await,
                // Its group has ended; another may take its place.
                Err(_) => tokio::time::sleep(limits::PLACEMENT_INTERVAL).await,
            }
        }
    }

    /// Looks and decides for as long as this node leads the system group.
    async fn lead(self: &Arc<Self>, system: &Arc<Group>) {
        tracing::info!("this node places the leaders of keyspaces from now on");
        let memory = Arc::new(Mutex::new(Memory::new()));
        let mut next_look = limits::PLACEMENT_INTERVAL;
        let mut steps = JoinSet::new();
        let mut leadership = system.leadership();
        let lost = leadership.wait_for(|now| !may_decide(now, self.node));
        tokio::pin!(lost);
        loop {
            tokio::select! {
                _ = &mut lost => return,
                () = tokio::time::sleep(next_look) => {}
            }
            while steps.try_join_next().is_some() {}
            next_look = limits::PLACEMENT_INTERVAL;
            if let Some(revision) = to_compact(system) {
                let system = system.clone();
                steps.spawn(async move { compact(&system, revision).await });
            }
            let registry = match self.registry.local(system) {
                Ok(registry) => registry,
                Err(error) => {
                    tracing::warn!(%error, "leaders are not placed");
                    continue;
                }
            };
            if !registry.keyspaces.values().any(is_placed) {
                continue;
            }
            let observed = self
                .observer
                .observe(&registry, &self.keyspaces, &*self.peers)
                .await;
            let planned = plan(&observed, &mut memory.lock());
            if !planned.is_empty() || !steps.is_empty() {
                next_look = limits::PLACEMENT_BUSY_INTERVAL;
            }
            let observed = Arc::new(observed);
            let names: BTreeMap<KeyspaceId, &String> = registry
                .keyspaces
                .values()
                .map(|keyspace| (keyspace.group_id, &keyspace.name))
                .collect();
            for step in planned {
                let name = names
                    .get(&step.keyspace)
                    .map_or("", |name| name.as_str())
                    .to_owned();
                let (controller, system) = (self.clone(), system.clone());
                let (memory, observed) = (memory.clone(), observed.clone());
                steps.spawn(async move {
                    let outcome = controller.perform(&step).await;
                    if outcome != Outcome::Done {
                        memory.lock().step_failed(step.keyspace, &observed.cluster);
                    }
                    history::record(&system, &name, &step, &outcome).await;
                });
            }
        }
    }

    /// Does what was decided.
    async fn perform(&self, step: &Step) -> Outcome {
        match step.action {
            Action::TransferLeader { from, to } => self.hand_over(step.keyspace, from, to).await,
            Action::AddLearner(_) | Action::RemoveLearner(_) | Action::ChangeVoters(_) => {
                Outcome::Failed("voters are not changed yet".to_owned())
            }
        }
    }

    async fn hand_over(&self, group: GroupId, from: NodeId, to: NodeId) -> Outcome {
        let request = peer::HandOverRequest {
            group_id: group,
            to_node: to,
        };
        let answer = match from == self.node {
            true => hand_over_here(&self.keyspaces, request).await,
            false => match self.peers.hand_over(from, request).await {
                Ok(answer) => answer,
                Err(e) => return Outcome::Failed(e.to_string()),
            },
        };
        match (answer.leader, answer.refused_because) {
            (leader, _) if leader == to => Outcome::Done,
            (0, why) => Outcome::Failed(why),
            (leader, _) => Outcome::Failed(format!("node {leader} leads now")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_led_a_system_group_that_has_stopped_decides_nothing() {
        let leads = Leadership {
            leader: Some(1),
            ..Default::default()
        };
        assert!(may_decide(&leads, 1));
        assert!(!may_decide(&leads, 2));
        let stopped = Leadership {
            stopped: Some("the disk failed".into()),
            ..leads
        };
        assert!(!may_decide(&stopped, 1));
    }
}
