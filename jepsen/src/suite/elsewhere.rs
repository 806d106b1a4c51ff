//! Scenarios that need a network of their own: each is a process of its own, which enters it.

use std::{path::Path, process::Stdio};

use tokio::{
    process::{Child, Command},
    sync::watch,
};

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

/// Has this program run a scenario, and reads what it has found. An interruption is passed on.
pub(super) async fn run_scenario(
    entry: &Entry,
    seed: u64,
    dir: &Path,
    mut interrupted: watch::Receiver<bool>,
) -> Result<Results, SessionError> {
    let failed = |why: String| SessionError::Cluster(why);
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let child = Command::new(program)
        .args(entry.scenario.arguments(seed))
        .arg("--out")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| failed(format!("cannot be started: {error}")))?;
    let ended = tokio::select! {
        ended = child.wait() => ended,
        _ = interrupted.wait_for(|yes| *yes) => {
            ask_to_end(&child);
            child.wait().await
        }
    };
    let status = ended.map_err(|error| failed(format!("cannot be waited for: {error}")))?;
    Results::read(&dir.join("results.json"))
        .map_err(|error| failed(format!("the run left no results ({status}): {error}")))
}

/// SIGTERM: it heals, writes what it has, and ends.
fn ask_to_end(child: &Child) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // SAFETY: the process is our child and has not been waited for, so the id is still its own. That
        // it cannot be asked means that it has ended.
        unsafe { libc::kill(id, libc::SIGTERM) };
    }
}
