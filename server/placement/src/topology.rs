//! What a cluster is made of, as placement sees it: nodes in zones, how they are, and how far apart.
//!
//! All of it is observed elsewhere and handed in; nothing here is remembered from one call to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::Policy;

/// A node of the cluster. Ids are never used again.
pub type NodeId = u64;

/// A keyspace, by the id of its group.
pub type KeyspaceId = u64;

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Answers, and has no complaint.
    Healthy,
    /// Answers and says itself that it should not lead (a slow disk, a stalled loop). Its vote counts.
    Sick,
    /// Does not answer. After [`Policy::dead_after`] it counts as dead for good, and its replicas are
    /// replaced.
    Down {
        /// When it was last heard of, since the same epoch as [`Cluster::now`].
        since: Duration,
    },
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The failure domain it stands in.
    pub zone: String,
    /// How it is.
    pub health: Health,
}

/// Measured round trips between zones, and within a zone. They are the same in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// Under the zone that comes first by name, the other one.
    by_zones: BTreeMap<String, BTreeMap<String, Duration>>,
}

impl RoundTrips {
    /// Takes note of a measurement between two zones, or within one.
    pub fn set(&mut self, one: &str, other: &str, round_trip: Duration) {
        let (first, second) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        self.by_zones
            .entry(first.to_owned())
            .or_default()
            .insert(second.to_owned(), round_trip);
    }

    /// The round trip between two zones, or within one; `None` if it was never measured.
    pub fn between(&self, one: &str, other: &str) -> Option<Duration> {
        let (first, second) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        self.by_zones.get(first)?.get(second).copied()
    }
}

/// The nodes at a moment, and the rules that hold for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The moment, since any epoch that stays the same from call to call.
    pub now: Duration,
    /// Times, bounds and shares that the decisions keep to.
    pub policy: Policy,
    /// All members. One that is not here is no member any more, and counts as dead for good.
    pub nodes: BTreeMap<NodeId, Node>,
    /// How far apart the zones are.
    pub round_trips: RoundTrips,
}

impl Cluster {
    /// Whether a node has been away for so long that its replicas are replaced, or is no member.
    pub fn is_dead_for_good(&self, node: NodeId) -> bool {
        match self.nodes.get(&node).map(|node| node.health) {
            None => true,
            Some(Health::Healthy | Health::Sick) => false,
            Some(Health::Down { since }) => {
                self.now.saturating_sub(since) >= self.policy.dead_after
            }
        }
    }

    /// The zones that have a node, in whatever health.
    pub fn zones(&self) -> BTreeSet<&str> {
        self.nodes.values().map(|node| node.zone.as_str()).collect()
    }
}
