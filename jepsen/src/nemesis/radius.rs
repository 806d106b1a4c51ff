//! How much of a cluster is broken at the same time: the blast radius.
//!
//! A node is *taken* if it does not run, hangs, is out, may end over a fault, or is cut off: from clients,
//! or from the node that sees most of the others. Faults of several nemeses never take more nodes
//! together than is stated for the run, which is a minority unless more is asked for. A fault that takes
//! more by its name, such as `kill-all`, states its own radius: it and what is there already stay within
//! that.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::{fault::Fault, names::FAULTS};
use crate::{cluster::End, history::NodeId};

/// Most nodes that may be taken at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlastRadius {
    /// As many nodes as the cluster survives, one at least.
    #[default]
    Minority,
    /// One more than it survives.
    Majority,
    /// All nodes.
    All,
    /// So many nodes.
    Nodes(u64),
}

impl BlastRadius {
    /// Nodes of a cluster of `count`, at most.
    pub fn nodes(self, count: usize) -> usize {
        match self {
            BlastRadius::Minority => (count.saturating_sub(1) / 2).max(1),
            BlastRadius::Majority => count / 2 + 1,
            BlastRadius::All => count,
            BlastRadius::Nodes(nodes) => usize::try_from(nodes).unwrap_or(usize::MAX).min(count),
        }
    }
}

impl fmt::Display for BlastRadius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlastRadius::Minority => f.write_str("minority"),
            BlastRadius::Majority => f.write_str("majority"),
            BlastRadius::All => f.write_str("all"),
            BlastRadius::Nodes(nodes) => write!(f, "{nodes}"),
        }
    }
}

impl FromStr for BlastRadius {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "minority" => Ok(BlastRadius::Minority),
            "majority" => Ok(BlastRadius::Majority),
            "all" => Ok(BlastRadius::All),
            _ => match text.parse() {
                Ok(nodes) if nodes > 0 => Ok(BlastRadius::Nodes(nodes)),
                _ => Err(format!(
                    "`{text}` must be minority, majority, all, or a number of nodes, 1 or more"
                )),
            },
        }
    }
}

/// The nodes that cannot be part of a quorum while a fault of this name holds that hit `nodes`, in a
/// cluster whose nodes are counted from 1 to `count`. An unknown name takes none.
pub fn taken_by_name(name: &str, nodes: &[NodeId], count: u64) -> Vec<NodeId> {
    let Some((_, fault, _)) = FAULTS.iter().find(|(known, _, _)| *known == name) else {
        return Vec::new();
    };
    match fault {
        // All others are taken as well while the files of one are.
        Fault::LoseLog | Fault::OldCopyFollower => (1..=count).collect(),
        // One after the other; or each sees a majority; or only clients are cut off.
        Fault::Restart(_) if nodes.len() > 1 => Vec::new(),
        Fault::PartitionRing | Fault::PartitionDirection | Fault::PartitionClients => Vec::new(),
        fault if fault.takes_nodes() => nodes.to_vec(),
        _ => Vec::new(),
    }
}

/// Whether a fault of this name that hit `nodes` may cost `leader` its leadership, in a cluster whose nodes are
/// counted from 1 to `count`: it takes that node, or hinders it so that it hands over, or moves leaders.
pub fn may_depose(name: &str, nodes: &[NodeId], count: u64, leader: Option<NodeId>) -> bool {
    let Some((_, fault, _)) = FAULTS.iter().find(|(known, _, _)| *known == name) else {
        return false;
    };
    let hit = match fault {
        Fault::MoveLeader => return true,
        Fault::Restart(_) | Fault::SlowFsync(_) | Fault::StallDisk(_) => nodes.to_vec(),
        _ => taken_by_name(name, nodes, count),
    };
    leader.is_some_and(|leader| hit.contains(&leader))
}

/// The nodes that are taken. `gone` do not take part at all; `cut` says whether a direction is.
pub(super) fn taken(
    all: &[NodeId],
    gone: &BTreeSet<NodeId>,
    cut: impl Fn(End, End) -> bool,
) -> BTreeSet<NodeId> {
    let apart = |a: End, b: End| cut(a, b) || cut(b, a);
    let there: Vec<NodeId> = all
        .iter()
        .copied()
        .filter(|node| !gone.contains(node) && !apart(End::Node(*node), End::Clients))
        .collect();
    let sees = |from: &NodeId| -> BTreeSet<NodeId> {
        let seen = there
            .iter()
            .filter(|node| *node == from || !apart(End::Node(*from), End::Node(**node)));
        seen.copied().collect()
    };
    let best = there.iter().map(sees).max_by_key(BTreeSet::len);
    let best = best.unwrap_or_default();
    all.iter()
        .copied()
        .filter(|node| !best.contains(node))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_radius_is_spelled_as_it_is_read() {
        for text in ["minority", "majority", "all", "2"] {
            assert_eq!(text.parse::<BlastRadius>().unwrap().to_string(), text);
        }
        for wrong in ["0", "some", "-1", ""] {
            assert!(wrong.parse::<BlastRadius>().is_err(), "{wrong}");
        }
        let minorities = [1, 2, 3, 4, 5].map(|count| BlastRadius::Minority.nodes(count));
        assert_eq!(minorities, [1, 1, 1, 1, 2]);
        assert_eq!(BlastRadius::Nodes(7).nodes(3), 3);
    }

    #[test]
    fn who_does_not_see_the_most_is_taken() {
        let all = [1, 2, 3];
        let none = BTreeSet::new();
        let pair = |x: NodeId, y: NodeId| {
            move |from: End, to: End| {
                [(x, y), (y, x)].contains(&match (from, to) {
                    (End::Node(from), End::Node(to)) => (from, to),
                    _ => (0, 0),
                })
            }
        };
        let whole = |_: End, _: End| false;
        assert!(taken(&all, &none, whole).is_empty());
        assert_eq!(taken(&all, &[2].into(), whole), [2].into());
        // Node 3 sees both others, so a majority is left; without it there is none.
        assert!(taken(&all, &none, pair(1, 2)).is_empty());
        assert_eq!(taken(&all, &[3].into(), pair(1, 2)).len(), 2);
        // One direction is enough.
        let deaf = |from: End, to: End| to == End::Node(1) && from != End::Clients;
        assert_eq!(taken(&all, &none, deaf), [1].into());
        let without_clients = |from: End, to: End| from == End::Clients && to == End::Node(2);
        assert_eq!(taken(&all, &none, without_clients), [2].into());
        assert_eq!(taken(&all, &all.into(), whole), all.into());
    }
}
