//! Scenarios that need a network of their own: each is a process of its own, which enters it.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use super::Entry;
use crate::{
    cluster::netns,
    evidence::Results,
    run::{scenario::ClusterKind, session::SessionError},
};

/// Why a scenario cannot be run here, if it cannot.
pub fn impossible(entry: &Entry) -> Option<String> {
    match entry.scenario.cluster {
        ClusterKind::Netns => netns::possible().err().map(|error| error.to_string()),
        ClusterKind::Local | ClusterKind::Existing => None,
    }
}

/// Has this program run a scenario, and reads what it has found.
pub(super) async fn conclude(
    entry: &Entry,
    seed: u64,
    dir: &Path,
) -> Result<Results, SessionError> {
    let failed = |why: String| SessionError::Cluster(why);
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command
        .args(entry.scenario.arguments(seed))
        .arg("--out")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // It gets the signals of the terminal itself, heals, and ends; this only waits.
    let status = command.status().await;
    let status = status.map_err(|error| failed(format!("cannot be started: {error}")))?;
    Results::read(&dir.join("results.json"))
        .map_err(|error| failed(format!("the run left no results ({status}): {error}")))
}
