//! Between which events a node ran without a break and kept its files.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{FaultEvent, History, NodeId, Phase};

/// Parts of the names of nemeses after which a node may have less than it had. A node that is cut
/// off or paused keeps what it has.
const BREAKS: [&str; 11] = [
    "kill",
    "restart",
    "power",
    "stop",
    "zone",
    "wipe",
    "tear",
    "truncate",
    "flip",
    "full-disk",
    "fsync",
];

/// For each node, when it was in doubt what it has.
#[derive(Default)]
pub(super) struct Uptime {
    nodes: HashMap<NodeId, Doubts>,
}

#[derive(Default)]
struct Doubts {
    /// Events of faults that end a run of the node, ascending.
    breaks: Vec<u64>,
    /// First and last event of the making or healing of a fault, by the first.
    unsettled: Vec<(u64, u64)>,
}

impl Uptime {
    pub(super) fn new(history: &History) -> Self {
        let mut faults: BTreeMap<u64, Vec<(u64, &FaultEvent)>> = BTreeMap::new();
        for (event, fault) in history.faults() {
            // A look changes nothing.
            let looked = matches!(fault.phase, Phase::Seen | Phase::Unseen | Phase::Disproved);
            if !looked && BREAKS.iter().any(|part| fault.nemesis.contains(part)) {
                faults
                    .entry(fault.fault)
                    .or_default()
                    .push((event.index, fault));
            }
        }
        let mut uptime = Self::default();
        for events in faults.values() {
            // The nodes may be chosen only after the fault has begun.
            let nodes: BTreeSet<NodeId> = events
                .iter()
                .flat_map(|(_, fault)| fault.nodes.iter().copied())
                .collect();
            for node in nodes {
                let doubts = uptime.nodes.entry(node).or_default();
                for (at, (index, fault)) in events.iter().enumerate() {
                    doubts.breaks.push(*index);
                    if matches!(fault.phase, Phase::Begin | Phase::Heal | Phase::Error) {
                        let end = events.get(at + 1).map_or(u64::MAX, |(next, _)| *next);
                        doubts.unsettled.push((*index, end));
                    }
                }
            }
        }
        for doubts in uptime.nodes.values_mut() {
            doubts.breaks.sort_unstable();
            doubts.unsettled.sort_unstable();
        }
        uptime
    }

    /// Number of the run of the node in which everything between two events happened; `None` if
    /// there was a break between them, or may have been.
    pub(super) fn run(&self, node: NodeId, from: u64, to: u64) -> Option<usize> {
        let Some(doubts) = self.nodes.get(&node) else {
            return Some(0);
        };
        let run = doubts.breaks.partition_point(|at| *at < from);
        let unbroken = doubts.breaks.get(run).is_none_or(|at| *at > to);
        let settled = doubts
            .unsettled
            .iter()
            .all(|(begin, end)| *begin > to || *end < from);
        (unbroken && settled).then_some(run)
    }
}
