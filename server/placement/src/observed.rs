//! What is seen of the cluster and its keyspaces at a moment: the input of every decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{Cluster, KeyspaceId, NodeId, Wish};

/// Everything that is seen at a moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The nodes, the time, the rules.
    pub cluster: Cluster,
    /// The keyspaces that placement looks after.
    pub keyspaces: BTreeMap<KeyspaceId, Observation>,
}

/// What is seen of a keyspace.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What its owner asks for.
    pub wish: Wish,
    /// Who votes, by the newest membership that is committed.
    pub voters: BTreeSet<NodeId>,
    /// Who only listens. Placement looks after learners: one that it has no use for is removed.
    pub learners: BTreeSet<NodeId>,
    /// Who leads with a quorum; `None` while nobody does.
    pub leader: Option<NodeId>,
    /// How many entries voters and learners are behind the leader, as the leader says. One that is missing
    /// is unknown, and never trusted; the leader itself need not be here.
    pub lag: BTreeMap<NodeId, u64>,
    /// How many writes came from clients of a zone, ever. A counter that shrinks has started anew.
    pub writes_by_zone: BTreeMap<String, u64>,
    /// Whether a change of the membership or a transfer is under way, whoever began it.
    pub changing: bool,
    /// What its owner counts on when something is lost.
    pub objectives: Objectives,
}

impl Observation {
    /// A keyspace with these voters, of which nothing else is known.
    pub fn new(wish: Wish, voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            wish,
            voters: voters.into_iter().collect(),
            learners: BTreeSet::new(),
            leader: None,
            lag: BTreeMap::new(),
            writes_by_zone: BTreeMap::new(),
            changing: false,
            objectives: Objectives::default(),
        }
    }

    /// How many entries a node is behind: none if it leads, `None` if nobody knows.
    pub(crate) fn lag_of(&self, node: NodeId) -> Option<u64> {
        if self.leader == Some(node) {
            return Some(0);
        }
        self.lag.get(&node).copied()
    }
}

/// What the owner of a keyspace counts on. Placement predicts whether it holds, it does not enforce it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// How long writes may stall after a loss (recovery time objective).
    pub rto: Option<Duration>,
    /// How much acknowledged work may be lost, as the time it was done in (recovery point objective). With
    /// a quorum left nothing is ever lost.
    pub rpo: Option<Duration>,
}
