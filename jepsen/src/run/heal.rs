//! `holdfast-jepsen heal`: mends what a harness has left broken that could not mend it itself, from the
//! [`journal`]s in the directories of its runs.
//!
//! - What a run that goes on has broken is left to it.
//! - A node that answers is not started a second time; a process is ended only if it is the one that was
//!   started, and not the next one of its id.
//! - What was mended is noted, so that mending again does nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_client::Client;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{existing::Command, netns, process::Identity},
    journal::{self, JOURNAL, Journal, Open, Remedy},
};

/// Directories of runs below the one that is named: a suite has one for each scenario, and one for each
/// seed in that.
const DEPTH_MAX: usize = 3;
/// How long a node may take to say how it is.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How long a node that was mended may take to answer.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to end that was killed.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What came of it, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// What is whole again.
    pub mended: Vec<String>,
    /// What is not, and why.
    pub left: Vec<String>,
}

/// Mends what the journals in `dir` and below it say is broken, and takes away the networks of harnesses
/// that are gone.
///
/// # Errors
///
/// A journal cannot be read.
pub async fn heal(dir: &Path) -> io::Result<Healed> {
    let mut healed = Healed::default();
    for dir in journals(dir, DEPTH_MAX)? {
        heal_one(&dir, &mut healed).await?;
    }
    match netns::take_away_left() {
        Ok(names) => {
            let taken = names
                .iter()
                .map(|name| format!("network {name}: taken away"));
            healed.mended.extend(taken);
        }
        Err(error) => healed
            .left
            .push(format!("networks of a run that is gone: {error}")),
    }
    Ok(healed)
}

/// Directories with a journal, this one first.
fn journals(dir: &Path, depth: usize) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if dir.join(JOURNAL).is_file() {
        found.push(dir.to_owned());
    }
    if depth == 0 {
        return Ok(found);
    }
    let mut below = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // What a node stores is large, and its own affair.
        let stored = entry.file_name().to_string_lossy().starts_with("node-");
        if entry.file_type()?.is_dir() && !stored {
            below.push(entry.path());
        }
    }
    below.sort();
    for dir in below {
        found.extend(journals(&dir, depth - 1)?);
    }
    Ok(found)
}

async fn heal_one(dir: &Path, healed: &mut Healed) -> io::Result<()> {
    let left = journal::read(dir)?;
    let Some(left) = left.filter(|left| !left.open.is_empty()) else {
        return Ok(());
    };
    if let Some(harness) = left.harness.filter(Identity::runs) {
        healed.left.push(format!(
            "{}: the run goes on as process {}; interrupt it, and it heals by itself",
            dir.display(),
            harness.pid
        ));
        return Ok(());
    }
    let journal = Journal::open(dir)?;
    // What was broken last is mended first.
    for open in left.open.iter().rev() {
        match mend(open).await {
            Ok(how) => {
                journal.mended(open.id);
                healed.mended.push(format!("{}: {how}", open.what));
            }
            Err(why) => healed.left.push(format!("{}: {why}", open.what)),
        }
    }
    Ok(())
}

/// How it was mended, or why it could not be.
async fn mend(open: &Open) -> Result<String, String> {
    match &open.remedy {
        Remedy::Command {
            node,
            name,
            script,
            within_seconds,
            direct,
        } => {
            let is_start = name == "start";
            if is_start && answers(direct).await {
                return Ok("it answers already".to_owned());
            }
            let command = Command {
                node: *node,
                what: format!("`{name}` of node {node}"),
                name: "",
                script: script.clone(),
                within: Duration::try_from_secs_f64(*within_seconds).unwrap_or(ENDS_WITHIN),
            };
            command.run().await.map_err(|error| error.to_string())?;
            comes_back(direct)
                .await
                .map(|()| format!("mended by `{name}`, and it answers"))
                .map_err(|()| {
                    format!(
                        "`{name}` has succeeded, and it does not answer at {direct} within \
                         {COMES_BACK_WITHIN:?}"
                    )
                })
        }
        Remedy::End { process, .. } => {
            if !process.runs() {
                return Ok("it has ended".to_owned());
            }
            process.kill().map_err(|error| error.to_string())?;
            let deadline = Instant::now() + ENDS_WITHIN;
            while process.runs() {
                if Instant::now() >= deadline {
                    return Err(format!("it lives on {ENDS_WITHIN:?} after SIGKILL"));
                }
                sleep(POLL_INTERVAL).await;
            }
            Ok("killed".to_owned())
        }
    }
}

async fn comes_back(direct: &str) -> Result<(), ()> {
    let deadline = Instant::now() + COMES_BACK_WITHIN;
    while !answers(direct).await {
        if Instant::now() >= deadline {
            return Err(());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Whether a node says of itself how it is.
async fn answers(direct: &str) -> bool {
    let client = Client::builder()
        .endpoints([direct])
        .discover(false)
        .timeout(ANSWERS_WITHIN)
        .connect_lazy();
    let Ok(client) = client else { return false };
    matches!(
        timeout(ANSWERS_WITHIN, client.status(direct)).await,
        Ok(Ok(_))
    )
}
