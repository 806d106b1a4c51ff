//! The nodes of the simulated store: how far each has come, and which one is down.

use rand::{RngExt, rngs::StdRng};

use crate::history::{NodeId, Phase};

/// Nodes that answer.
const NODES: usize = 3;

/// How far each node has come, as serializable reads have shown, and the fault of one.
pub(super) struct Nodes {
    reached: [i64; NODES],
    /// The number of the fault, its node, and what it has come to.
    fault: Option<(u64, NodeId, Phase)>,
    faults: u64,
}

impl Nodes {
    /// All at one revision.
    pub(super) fn at(revision: i64) -> Self {
        Self {
            reached: [revision; NODES],
            fault: None,
            faults: 0,
        }
    }

    /// The node that a client asks.
    pub(super) fn of(client: u64) -> NodeId {
        client % NODES as u64 + 1
    }

    pub(super) fn is_down(&self, node: NodeId) -> bool {
        matches!(self.fault, Some((_, down, Phase::Broken)) if down == node)
    }

    pub(super) fn reached(&self, node: NodeId) -> i64 {
        self.reached[node as usize - 1]
    }

    /// A node applies what it has got, of a store at `revision`; how far that is.
    pub(super) fn catch_up(&mut self, node: NodeId, revision: i64, random: &mut StdRng) -> i64 {
        let reached = &mut self.reached[node as usize - 1];
        *reached = random.random_range(*reached..=revision);
        *reached
    }

    /// All go back with the store.
    pub(super) fn go_back(&mut self, revision: i64) {
        for reached in &mut self.reached {
            *reached = (*reached).min(revision);
        }
    }

    pub(super) fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// The fault of a node begins, or goes on: its number, what it comes to, and its node.
    pub(super) fn next_phase(&mut self, random: &mut StdRng) -> (u64, Phase, NodeId) {
        let (fault, node, phase) = match self.fault {
            None => {
                self.faults += 1;
                let node = random.random_range(1..=NODES as NodeId);
                (self.faults, node, Phase::Begin)
            }
            Some((fault, node, Phase::Begin)) => (fault, node, Phase::Broken),
            Some((fault, node, Phase::Broken)) => {
                // It starts again with whatever it has on its disk.
                let reached = &mut self.reached[node as usize - 1];
                *reached = random.random_range(1..=*reached);
                (fault, node, Phase::Heal)
            }
            Some((fault, node, _)) => (fault, node, Phase::Healed),
        };
        self.fault = (phase != Phase::Healed).then_some((fault, node, phase));
        (fault, phase, node)
    }
}
