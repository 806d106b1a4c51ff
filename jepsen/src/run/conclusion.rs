//! From what a run saw to its verdict, the first time and whenever it is judged again.
//!
//! What a verdict rests on besides the history is kept in the directory of the run: what was run
//! (`run.json`, from the beginning), what the nodes held afterwards (`states.json`), and, in
//! `results.json`, which nodes were out and why the run can be no pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    time::Duration,
};

use super::judge::{Afterwards, judge};
use crate::{
    checker::convergence::NodeState,
    cluster::{Description, Node},
    evidence::{Results, Run, expected::Expected},
    history::{History, NodeId, Op, What},
    nemesis::Nemesis,
};

/// File with the states of the nodes after a run.
pub const STATES: &str = "states.json";
/// File with what was run.
pub const RUN: &str = "run.json";
/// File with the outcome.
pub const RESULTS: &str = "results.json";

/// What is known of a run besides its history.
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    /// What the nodes held in the end; empty if they were not asked.
    pub states: Vec<NodeState>,
    /// Nodes that could not take part any more, and why.
    pub out: BTreeMap<NodeId, String>,
    /// Why the run can be no pass, whatever the checkers say.
    pub shortcomings: Vec<String>,
}

/// Judges a run. A search gives up after `limit`.
pub fn draw(run: Run, history: &History, aftermath: Aftermath, limit: Duration) -> Results {
    let Aftermath {
        states,
        out,
        shortcomings,
    } = aftermath;
    let nodes = run.nodes.iter().map(|node| node.id);
    let nodes: Vec<NodeId> = nodes.filter(|node| !out.contains_key(node)).collect();
    let afterwards = Afterwards {
        states: &states,
        nodes: &nodes,
    };
    let findings = judge(history, Some(afterwards), limit);
    let mut results = Results::with_states(run, history, &states, findings);
    for shortcoming in &shortcomings {
        results.doubt(shortcoming);
    }
    for name in results.run.nemeses.clone() {
        // A name of another version of this program says nothing of what it stood for.
        let faults = Nemesis::parse_list(&name).unwrap_or_default();
        let faults = faults.iter().flat_map(|nemesis| &nemesis.faults);
        let applied: Vec<u64> = faults
            .map(|fault| results.faults.by_nemesis.get(fault.name()))
            .map(|counts| counts.map_or(0, |counts| counts.applied))
            .collect();
        if !applied.is_empty() && applied.iter().all(|applied| *applied == 0) {
            results.doubt(format!("{name} was asked for and nothing of it was done"));
        }
    }
    for (node, why) in &out {
        let key = format!("node {node} was out");
        results.run.options.insert(key, why.clone());
    }
    results.out = out;
    results.shortcomings = shortcomings;
    results
}

/// Judges a run again, of which `dir` holds what it left. `cut_off` says that a history with fewer
/// events than there were is judged all the same.
///
/// # Errors
///
/// A file is there and cannot be read, or the history has fewer events than there were.
pub fn draw_again(
    dir: &Path,
    history: &History,
    cut_off: bool,
    limit: Duration,
) -> io::Result<Results> {
    let mut aftermath = Aftermath {
        states: read_json(&dir.join(STATES))?.unwrap_or_default(),
        ..Aftermath::default()
    };
    let file = dir.join(RESULTS);
    if !file.exists() {
        aftermath.shortcomings = vec!["the run broke off before it was judged".to_owned()];
        let run = read_json(&dir.join(RUN))?;
        let run = run.unwrap_or_else(|| described_by(history));
        return Ok(draw(run, history, aftermath, limit));
    }
    let before = Results::read(&file)?;
    aftermath.out = before.out;
    aftermath.shortcomings = before.shortcomings;
    let events = history.events.len() as u64;
    if events != before.events {
        let short = format!(
            "the history is truncated: it has {events} events, and {RESULTS} says {}",
            before.events
        );
        if !cut_off {
            let short = format!("{short}; --truncated judges what there is");
            return Err(io::Error::new(io::ErrorKind::InvalidData, short));
        }
        aftermath.shortcomings.push(short);
    }
    Ok(draw(before.run, history, aftermath, limit))
}

/// What a history tells of what was run.
fn described_by(history: &History) -> Run {
    let mut nodes = BTreeSet::new();
    let mut nemeses = BTreeSet::new();
    let mut workload = "unknown";
    for event in &history.events {
        match &event.what {
            What::Fault(fault) => {
                nemeses.insert(fault.nemesis.clone());
                nodes.extend(&fault.nodes);
            }
            What::Client(client) => {
                nodes.extend((client.node != 0).then_some(client.node));
                workload = match client.op {
                    Op::Read { serializable, .. } if serializable => "stale",
                    Op::Delete { .. } | Op::Cas { .. } => "register",
                    Op::Read { .. } | Op::Write { .. } if workload == "stale" => "stale",
                    Op::Read { .. } | Op::Write { .. } => "register",
                    Op::Add { .. } | Op::ReadSet { .. } => "set",
                    Op::Txn { .. } => "append",
                    Op::OpenAccounts { .. } | Op::Transfer { .. } | Op::ReadAccounts => "bank",
                    Op::Increment { .. } | Op::ReadCounter { .. } | Op::ReadChain { .. } => {
                        "counter-retry"
                    }
                };
            }
        }
    }
    let nodes = nodes.into_iter().map(|id| Node {
        id,
        zone: String::new(),
        endpoint: String::new(),
        direct: String::new(),
    });
    Run {
        workload: workload.to_owned(),
        nemeses: nemeses.into_iter().collect(),
        options: BTreeMap::new(),
        seed: 0,
        command: String::new(),
        cluster: Description {
            kind: "unknown".to_owned(),
            target: "unknown".to_owned(),
            version: String::new(),
        },
        nodes: nodes.collect(),
        started_at: String::new(),
        duration_seconds: history.duration() as f64 / 1e9,
        began_unix_ms: 0,
        leaders: Vec::new(),
        groups: Vec::new(),
        expected: Expected::default(),
    }
}

/// Writes a file of a run as JSON.
pub(super) fn write_json(path: &Path, content: &impl serde::Serialize) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(content).map_err(io::Error::from)?;
    fs::write(path, json)
}

/// Reads such a file; `None` if it is not there.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let named = |kind, error: &dyn std::fmt::Display| {
        io::Error::new(kind, format!("{}: {error}", path.display()))
    };
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| named(io::ErrorKind::InvalidData, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(error.kind(), &error)),
    }
}
