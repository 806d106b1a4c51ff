//! What the loss of zones and nodes would do to every keyspace: who leads, how fast writes are, which objectives
//! break.
//!
//! A write costs the round trip of the client to the leader, and that of the leader to the nearest voters that make a
//! quorum with it:
//!
//! ```text
//!   client ──▶ leader ──▶ nearest voters until a majority has it
//!          ◀──        ◀──
//! ```
//!
//! Disks and queues are left out: the prediction is the floor that distance sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    KeyspaceId, NodeId, Observation, Observed, RoundTrips, election_order,
    index::{Index, State},
    quorum::{is_fit, majority},
};

/// What becomes of each keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// By keyspace.
    pub keyspaces: BTreeMap<KeyspaceId, Outlook>,
}

/// What becomes of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Its name.
    pub name: String,
    /// Who leads now.
    pub leader_now: Option<NodeId>,
    /// Who would lead; `None` without a quorum.
    pub leader_then: Option<NodeId>,
    /// Voters that would be left and answer.
    pub voters_left: BTreeSet<NodeId>,
    /// How many are needed.
    pub quorum: usize,
    /// How long a write of a client takes, by the zone of the client; for all zones that have a node.
    pub write_latency: BTreeMap<String, WriteLatency>,
    /// The objectives that would not hold.
    pub broken: Vec<Broken>,
}

impl Outlook {
    /// Whether writes go on.
    pub fn has_quorum(&self) -> bool {
        self.voters_left.len() >= self.quorum
    }
}

/// Predicted latency of a write; `None` where a round trip was never measured, or nobody answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteLatency {
    /// As things are.
    pub now: Option<Duration>,
    /// After the loss.
    pub then: Option<Duration>,
}

/// An objective that does not hold after the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Writes stall for longer than they may.
    Rto {
        /// How long they may.
        objective: Duration,
        /// How long they are expected to; `None` until a lost voter is back.
        expected: Option<Duration>,
    },
    /// Without a quorum, what was acknowledged last may be on the lost nodes alone: it is unavailable until they
    /// are back, and gone if they never are.
    Rpo {
        /// How much may be lost.
        objective: Duration,
    },
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rto {
                objective,
                expected: Some(expected),
            } => write!(f, "RTO {objective:?}: writes stall for about {expected:?}"),
            Self::Rto {
                objective,
                expected: None,
            } => write!(
                f,
                "RTO {objective:?}: no quorum, unavailable until a lost voter is back"
            ),
            Self::Rpo { objective } => {
                write!(
                    f,
                    "RPO {objective:?}: no quorum, the last writes are unavailable"
                )
            }
        }
    }
}

/// What would become of every keyspace if these zones and nodes were lost now, for good or not.
pub fn what_if(
    observed: &Observed,
    lost_zones: &BTreeSet<String>,
    lost_nodes: &BTreeSet<NodeId>,
) -> WhatIf {
    let index = Index::new(&observed.cluster);
    let is_lost =
        |node: NodeId| lost_nodes.contains(&node) || lost_zones.contains(index.zone_of(node));
    let keyspaces = observed.keyspaces.iter();
    let keyspaces = keyspaces.map(|(keyspace, observation)| {
        let outlook = outlook(&index, *keyspace, observation, &is_lost);
        (*keyspace, outlook)
    });
    WhatIf {
        keyspaces: keyspaces.collect(),
    }
}

fn outlook(
    index: &Index<'_>,
    keyspace: KeyspaceId,
    observation: &Observation,
    is_lost: &dyn Fn(NodeId) -> bool,
) -> Outlook {
    let voters = observation.voters.iter();
    let voters: BTreeMap<NodeId, String> = voters
        .map(|node| (*node, index.zone_of(*node).to_owned()))
        .collect();
    let answering = voters.keys().copied();
    let answering: BTreeSet<NodeId> = answering
        .filter(|node| index.state(*node).votes())
        .collect();
    let left: BTreeSet<NodeId> = answering
        .iter()
        .copied()
        .filter(|node| !is_lost(*node))
        .collect();
    let quorum = majority(voters.len());
    let now = observation.leader;
    let then = if left.len() < quorum {
        None
    } else {
        now.filter(|leader| left.contains(leader))
            .or_else(|| successor(index, keyspace, observation, &voters, &left))
    };
    let round_trips = &index.cluster.round_trips;
    let latency = |leader: Option<NodeId>, answering: &BTreeSet<NodeId>, zone: &str| {
        predict_write(leader?, &voters, answering, zone, round_trips)
    };
    let write_latency = index.zones.iter().map(|zone| {
        let latency = WriteLatency {
            now: latency(now, &answering, zone.name),
            then: latency(then, &left, zone.name),
        };
        (zone.name.to_owned(), latency)
    });
    Outlook {
        name: observation.wish.name.clone(),
        leader_now: now,
        leader_then: then,
        quorum,
        write_latency: write_latency.collect(),
        broken: broken(index, observation, then),
        voters_left: left,
    }
}

/// Who wins the election: the first in the order among those that have everything, else among all that answer.
fn successor(
    index: &Index<'_>,
    keyspace: KeyspaceId,
    observation: &Observation,
    voters: &BTreeMap<NodeId, String>,
    left: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    // An automatic home is where the keyspace is led.
    let auto_home = observation.leader.map(|leader| index.zone_of(leader));
    let order = election_order(&observation.wish, auto_home, voters, keyspace);
    let policy = &index.cluster.policy;
    let order = order.into_iter().filter(|node| left.contains(node));
    order.min_by_key(|node| {
        let is_fit = is_fit(index, observation, policy, *node);
        (!is_fit, index.state(*node) != State::Healthy)
    })
}

fn broken(index: &Index<'_>, observation: &Observation, then: Option<NodeId>) -> Vec<Broken> {
    let objectives = &observation.objectives;
    let stays = then.is_some() && then == observation.leader;
    let expected = if stays {
        Some(Duration::ZERO)
    } else {
        then.map(|_| index.cluster.policy.failover_expected)
    };
    let mut broken = Vec::new();
    if let Some(objective) = objectives.rto
        && expected.is_none_or(|expected| expected > objective)
    {
        broken.push(Broken::Rto {
            objective,
            expected,
        });
    }
    if let Some(objective) = objectives.rpo
        && then.is_none()
    {
        broken.push(Broken::Rpo { objective });
    }
    broken
}

/// How long a write takes from a client in `client_zone`: its round trip to the leader, and that of the leader to
/// the nearest voters that make a quorum with it.
///
/// `voters` tells the zone of every voter, a majority of which decides; `answering` are those that answer, the leader
/// among them. `None` when too few answer, or a round trip that counts was never measured.
pub fn predict_write(
    leader: NodeId,
    voters: &BTreeMap<NodeId, String>,
    answering: &BTreeSet<NodeId>,
    client_zone: &str,
    round_trips: &RoundTrips,
) -> Option<Duration> {
    let home = voters.get(&leader)?;
    let to_leader = round_trips.between(client_zone, home)?;
    let others = voters.iter();
    let others = others.filter(|(node, _)| **node != leader && answering.contains(node));
    let mut away: Vec<Option<Duration>> = others
        .map(|(_, zone)| round_trips.between(home, zone))
        .collect();
    // The unknown come last: they may be nearer than that, but nobody can promise it.
    away.sort_by_key(|away| (away.is_none(), *away));
    let to_quorum = match majority(voters.len()) - 1 {
        0 => Duration::ZERO,
        needed => (*away.get(needed - 1)?)?,
    };
    Some(to_leader + to_quorum)
}

#[cfg(test)]
mod tests;
