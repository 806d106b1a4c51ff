//! After the healing: every node answers, and all of them hold the same, which is what the history
//! says.
//!
//! The hash of a keyspace covers its contents at a revision, so two nodes that are at the same
//! revision, compacted at the same revision, and differ in the hash have diverged for good. The
//! caller gathers the states when the run is healed and no writes are under way, and gives the
//! nodes time to catch up: a node that is behind is reported as diverged.
//!
//! Nodes that agree may all be wrong. No node may be below a revision that was told in the history,
//! nor above what its writes can have made: each revision since the first that was told has a write
//! of its own, acknowledged or of unknown outcome.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    Anomaly, Finding,
    model::{Fate, Normal, describe},
};
use crate::history::{History, NodeId};

const NAME: &str = "convergence";

/// What a node said of its state after the healing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The node whose state this is.
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

/// Judges what the nodes said that should take part, after a history.
///
/// *Unknown* if one of them was not asked, unless what the others said is wrong already. The proof of
/// an anomaly is what the nodes said, and for those that contradict the history one event of it.
pub fn check(history: &History, nodes: &[NodeId], states: &[NodeState]) -> Finding {
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
    let bounds = Bounds::of(history);
    for state in &answered {
        anomalies.extend(bounds.contradicted_by(state));
    }
    let missing: Vec<String> = nodes
        .iter()
        .filter(|node| states.iter().all(|state| state.node != **node))
        .map(ToString::to_string)
        .collect();
    if anomalies.is_empty() && (states.is_empty() || !missing.is_empty()) {
        let why = match states {
            [] => "nothing to judge: no node was asked what it holds in the end".to_owned(),
            _ => format!(
                "{} of {} nodes were asked what they hold in the end, not node {}",
                states.len(),
                nodes.len(),
                missing.join(", ")
            ),
        };
        return Finding::unknown(NAME, checked, why);
    }
    let mut summary = format!("{} of {checked} nodes answered", answered.len());
    if let Some(first) = answered.first().filter(|_| same) {
        // Writing to a string cannot fail.
        let _ = write!(
            summary,
            ", all at revision {} with hash {:08x}, compacted at {}",
            first.revision, first.hash, first.compact_revision
        );
    }
    Finding::new(NAME, checked, summary, anomalies)
}

/// Between which revisions a store must be after a history.
#[derive(Default)]
struct Bounds {
    /// The largest revision that was told, by which event, and in what words.
    told: Option<(i64, u64, String)>,
    /// What the writes of the history can have made at most, and how many are of unknown outcome.
    most: Option<(i64, usize)>,
}

impl Bounds {
    /// No bounds follow from a malformed history, which other checkers tell.
    fn of(history: &History) -> Self {
        let Ok(operations) = history.operations() else {
            return Self::default();
        };
        let normal: Result<Vec<Normal<'_>>, _> = operations.into_iter().map(Normal::new).collect();
        let Ok(operations) = normal else {
            return Self::default();
        };
        let told = operations
            .iter()
            .filter_map(|normal| Some((normal.header?, normal)))
            .max_by_key(|(revision, _)| *revision);
        let first = operations.iter().filter_map(|normal| match normal.fate {
            Fate::Done(revision) => Some(revision - 1),
            _ if normal.linearizable => normal.header,
            _ => None,
        });
        let of_fate = |wanted: fn(Fate) -> bool| {
            let fitting = operations.iter().filter(|normal| wanted(normal.fate));
            fitting.count()
        };
        let unknown = of_fate(|fate| fate == Fate::Maybe);
        let done = of_fate(|fate| matches!(fate, Fate::Done(_)));
        let highest = told.as_ref().map_or(0, |(revision, _)| *revision);
        Self {
            most: first
                .min()
                .map(|first| ((first + (done + unknown) as i64).max(highest), unknown)),
            told: told.map(|(revision, normal)| {
                let operation = &normal.operation;
                (revision, operation.completed, describe(operation))
            }),
        }
    }

    fn contradicted_by(&self, state: &NodeState) -> Option<Anomaly> {
        let NodeState { node, revision, .. } = state;
        let (name, explanation, events) = if let Some((told, event, words)) = &self.told
            && revision < told
        {
            (
                "behind-history",
                format!(
                    "Node {node} is at revision {revision} after the healing, and revision {told} had \
                     been told: {words}."
                ),
                vec![*event],
            )
        } else if let Some((most, unknown)) = self.most
            && *revision > most
        {
            (
                "ahead-of-history",
                format!(
                    "Node {node} is at revision {revision} after the healing, and the writes of the \
                     history make {most} at most, {unknown} of unknown outcome included."
                ),
                Vec::new(),
            )
        } else {
            return None;
        };
        Some(Anomaly {
            name: name.to_owned(),
            explanation,
            events,
            edges: Vec::new(),
        })
    }
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
