//! The cluster with its zones and nodes in arrays, so that a decision about one of a thousand keyspaces
//! compares small numbers instead of names.

use crate::{Cluster, Health, NodeId};

/// How a node is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Healthy,
    Sick,
    Down,
    /// Dead for good, or no member.
    Dead,
}

impl State {
    /// Whether its vote counts.
    pub(crate) fn votes(self) -> bool {
        self <= Self::Sick
    }

    /// In words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Sick => "sick",
            Self::Down => "down",
            Self::Dead => "dead for good",
        }
    }
}

/// A node, and where its zone is in [`Index::zones`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexedNode {
    pub(crate) id: NodeId,
    pub(crate) zone: usize,
    pub(crate) state: State,
}

/// A zone, and where its nodes are in [`Index::nodes`] that are not dead for good.
#[derive(Debug)]
pub(crate) struct IndexedZone<'a> {
    pub(crate) name: &'a str,
    pub(crate) usable: Vec<usize>,
}

/// The cluster in arrays.
///
/// - `zones` are in the order of their names, and each has a node, which may be dead.
/// - `nodes` are in the order of their ids.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) zones: Vec<IndexedZone<'a>>,
    pub(crate) nodes: Vec<IndexedNode>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        let names = cluster.zones().into_iter();
        let zones = names.map(|name| IndexedZone {
            name,
            usable: Vec::new(),
        });
        let mut index = Self {
            cluster,
            zones: zones.collect(),
            nodes: Vec::with_capacity(cluster.nodes.len()),
        };
        for (id, node) in &cluster.nodes {
            let zone = index.zone(&node.zone).expect("zones come from the nodes");
            let state = match node.health {
                Health::Healthy => State::Healthy,
                Health::Sick => State::Sick,
                Health::Down { .. } if cluster.is_dead_for_good(*id) => State::Dead,
                Health::Down { .. } => State::Down,
            };
            if state != State::Dead {
                index.zones[zone].usable.push(index.nodes.len());
            }
            index.nodes.push(IndexedNode {
                id: *id,
                zone,
                state,
            });
        }
        index
    }

    pub(crate) fn zone(&self, name: &str) -> Option<usize> {
        self.zones
            .binary_search_by_key(&name, |zone| zone.name)
            .ok()
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&IndexedNode> {
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        Some(&self.nodes[at])
    }

    pub(crate) fn state(&self, id: NodeId) -> State {
        self.node(id).map_or(State::Dead, |node| node.state)
    }

    /// The zone of a node; empty for one that is no member.
    pub(crate) fn zone_of(&self, id: NodeId) -> &'a str {
        self.node(id).map_or("", |node| self.zones[node.zone].name)
    }

    /// Nodes that are not dead for good.
    pub(crate) fn usable(&self) -> usize {
        self.zones.iter().map(|zone| zone.usable.len()).sum()
    }

    /// Zones that have such a node.
    pub(crate) fn usable_zones(&self) -> impl Iterator<Item = &'a str> {
        let zones = self.zones.iter().filter(|zone| !zone.usable.is_empty());
        zones.map(|zone| zone.name)
    }
}
