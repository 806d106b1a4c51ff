//! Verdicts: what a history says about the store.
//!
//! Each checker looks at the whole history and gives a [`Finding`]. A run is valid when every
//! checker says so; one *invalid* makes it invalid; otherwise one *unknown* makes it unknown.
//!
//! A finding of *invalid* carries anomalies, each with the events that show it: as few as will do,
//! so that a reader can follow the proof by hand.

pub mod append;
pub mod bank;
pub mod convergence;
pub mod counter;
pub mod linearizability;
pub mod loss;
pub mod model;
pub mod revision;
pub mod set;
pub mod simulator;
pub mod stale;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// What a checker, or all of them together, concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing contradicts the model.
    Valid,
    /// Could not be decided: out of time, or nothing to judge.
    Unknown,
    /// No execution of the model explains the history.
    Invalid,
}

/// An edge in the drawing of an anomaly: from one event's operation to another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Index of an invocation.
    pub from: u64,
    /// Index of an invocation.
    pub to: u64,
    /// Why `from` must come before `to`: `ww`, `wr`, `rw`, `realtime`, `process`, or words.
    pub label: String,
}

/// One contradiction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Name, in the words of the field: `lost-write`, `stale-read`, `G1c`, `not-linearizable` …
    pub name: String,
    /// One paragraph that proves it, with values, revisions and event indices.
    pub explanation: String,
    /// Indices of the events that prove it, in order; as few as will do.
    pub events: Vec<u64>,
    /// Edges of a cycle, or of the order that is contradicted; may be empty.
    #[serde(default)]
    pub edges: Vec<Edge>,
}

/// What one checker concluded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the checker.
    pub checker: String,
    /// What it concluded.
    pub verdict: Verdict,
    /// One line: what was checked, or why it is unknown.
    pub summary: String,
    /// At most [`ANOMALIES_MAX`], the ones with the smallest proofs first. Rare names are kept in
    /// preference to more of a frequent one.
    pub anomalies: Vec<Anomaly>,
    /// Anomalies found in all.
    pub anomalies_found: u64,
    /// Operations that were looked at.
    pub checked: u64,
}

/// Anomalies that a finding spells out.
pub const ANOMALIES_MAX: usize = 10;

impl Finding {
    /// Makes a finding of the anomalies found: valid if there are none.
    pub fn new(
        checker: &str,
        checked: u64,
        summary: impl Into<String>,
        mut anomalies: Vec<Anomaly>,
    ) -> Self {
        let anomalies_found = anomalies.len() as u64;
        anomalies.sort_by_key(|anomaly| anomaly.events.len());
        if anomalies.len() > ANOMALIES_MAX {
            let mut seen: HashMap<String, usize> = HashMap::new();
            let mut ranked: Vec<(usize, Anomaly)> = anomalies
                .into_iter()
                .map(|anomaly| {
                    let rank = seen.entry(anomaly.name.clone()).or_default();
                    *rank += 1;
                    (*rank, anomaly)
                })
                .collect();
            ranked.sort_by_key(|(rank, _)| *rank);
            ranked.truncate(ANOMALIES_MAX);
            anomalies = ranked.into_iter().map(|(_, anomaly)| anomaly).collect();
            anomalies.sort_by_key(|anomaly| anomaly.events.len());
        }
        Self {
            checker: checker.to_owned(),
            verdict: if anomalies.is_empty() {
                Verdict::Valid
            } else {
                Verdict::Invalid
            },
            summary: summary.into(),
            anomalies,
            anomalies_found,
            checked,
        }
    }

    /// A finding that decides nothing, and why.
    pub fn unknown(checker: &str, checked: u64, why: impl Into<String>) -> Self {
        Self {
            checker: checker.to_owned(),
            verdict: Verdict::Unknown,
            summary: why.into(),
            anomalies: Vec::new(),
            anomalies_found: 0,
            checked,
        }
    }
}
