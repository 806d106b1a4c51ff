//! After the healing: every node answers, and all of them hold the same.
//!
//! The hash of a keyspace covers its contents at a revision, so two nodes that are at the same
//! revision, compacted at the same revision, and differ in the hash have diverged for good. The
//! caller gathers the states when the run is healed and no writes are under way, and gives the
//! nodes time to catch up: a node that is behind is reported as diverged.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Anomaly, Finding};
use crate::history::NodeId;

const NAME: &str = "convergence";

/// What a node said of its state after the healing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Which node.
    pub node: NodeId,
    /// Its revision.
    pub revision: i64,
    /// Hash of its contents at that revision.
    pub hash: u32,
    /// Revision at which it is compacted; -1 or 0 if it never was.
    pub compact_revision: i64,
    /// Why it gave no answer; the numbers mean nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Judges the states of all nodes that should take part.
///
/// *Unknown* if the list is empty. There are no events in the anomalies: the proof is what the nodes
/// said.
pub fn check(states: &[NodeState]) -> Finding {
    let checked = states.len() as u64;
    let anomaly = |name: &str, explanation: String| Anomaly {
        name: name.to_owned(),
        explanation,
        events: Vec::new(),
        edges: Vec::new(),
    };
    let mut anomalies = Vec::new();
    for state in states {
        if let Some(error) = &state.error {
            anomalies.push(anomaly(
                "no-recovery",
                format!(
                    "Node {} does not answer after the healing: {error}",
                    state.node
                ),
            ));
        }
    }
    let answered: Vec<&NodeState> = states
        .iter()
        .filter(|state| state.error.is_none())
        .collect();
    let same = answered
        .windows(2)
        .all(|pair| said(pair[0]) == said(pair[1]));
    if !same {
        anomalies.push(anomaly("diverged", table(&answered)));
    }
    let Some(first) = answered.first().filter(|_| same) else {
        if states.is_empty() {
            return Finding::unknown(NAME, 0, "nothing to judge: no node was asked");
        }
        let summary = format!("{} of {checked} nodes answered", answered.len());
        return Finding::new(NAME, checked, summary, anomalies);
    };
    let summary = format!(
        "{} of {checked} nodes answered, all at revision {} with hash {:08x}, compacted at {}",
        answered.len(),
        first.revision,
        first.hash,
        first.compact_revision
    );
    Finding::new(NAME, checked, summary, anomalies)
}

fn said(state: &NodeState) -> (i64, u32, i64) {
    (state.revision, state.hash, state.compact_revision.max(0))
}

fn table(states: &[&NodeState]) -> String {
    let mut table = String::from("The nodes do not hold the same after the healing.");
    for state in states {
        // Writing to a string cannot fail.
        let _ = write!(
            table,
            "\nnode {}: revision {}, hash {:08x}, compacted at {}",
            state.node, state.revision, state.hash, state.compact_revision
        );
    }
    table
}
