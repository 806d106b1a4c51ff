//! Many runs, and their scoreboard.
//!
//! A suite is a list of scenarios, run one after the other, each on a cluster of its own. Every
//! scenario's seed follows from the suite's seed and its name, so one of them can be run again alone.

mod elsewhere;
mod matrix;
pub mod planted;
mod surroundings;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;

pub use self::{
    elsewhere::impossible,
    matrix::{Suite, scenarios},
    surroundings::{Surroundings, program},
};
use crate::{
    checker::{Verdict, loss::Certainty},
    evidence::{
        Results,
        scoreboard::{Row, Scoreboard, verdict_word},
    },
    run::{
        scenario::{ClusterKind, Scenario},
        session::{SessionError, run_scenario},
    },
    terminal,
};

/// A scenario of a suite.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Unique in the suite; also the name of its directory.
    pub name: String,
    /// What is run.
    pub scenario: Scenario,
}

/// The seed of one scenario of a suite: FNV-1a over its name, so that scenarios that come and go do
/// not change the others' seeds.
pub fn seed_of(suite_seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Seeds are printed and typed: eight digits are enough.
    (hash ^ suite_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % 100_000_000
}

/// Runs scenarios one after the other and keeps the scoreboard up to date in `out`. A scenario that
/// comes to no verdict is a row of its own, and the others go on.
pub async fn run_all(
    entries: &[Entry],
    suite_seed: u64,
    out: &Path,
    mut scoreboard: Scoreboard,
    interrupted: watch::Receiver<bool>,
) -> std::io::Result<Scoreboard> {
    std::fs::create_dir_all(out)?;
    for (number, entry) in entries.iter().enumerate() {
        if *interrupted.borrow() {
            break;
        }
        let seed = entry
            .scenario
            .seed
            .unwrap_or(seed_of(suite_seed, &entry.name));
        terminal::note(format_args!(
            "[{}/{}] {} (seed {seed})",
            number + 1,
            entries.len(),
            entry.name
        ));
        let dir = out.join(&entry.name);
        let begun = std::time::Instant::now();
        let concluded = match entry.scenario.cluster {
            ClusterKind::Netns => {
                elsewhere::run_scenario(entry, seed, &dir, interrupted.clone()).await
            }
            _ => run_scenario(&entry.scenario, seed, &dir, interrupted.clone()).await,
        };
        let row = row(entry, seed, &dir, begun.elapsed(), concluded);
        let note = if row.note.is_empty() { "" } else { ": " };
        let verdict = verdict_word(row.verdict);
        terminal::note(format_args!("        {verdict}{note}{}", row.note));
        let is_valid = row.verdict == Verdict::Valid;
        scoreboard.rows.push(row);
        scoreboard.write_all(out)?;
        if is_valid {
            discard_data(&dir);
        }
    }
    Ok(scoreboard)
}

/// Removes what the nodes of a concluded run have stored, a hundred megabytes and more, of which a
/// suite would fill the disk. Logs and evidence stay. What cannot be removed is told; the suite goes
/// on.
fn discard_data(dir: &Path) {
    let removed = || {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let is_data = entry.file_name().to_string_lossy().starts_with("node-");
            if is_data && entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    if let Err(error) = removed() {
        let dir = dir.display();
        terminal::note(format_args!(
            "        the data of the nodes in {dir} cannot be removed: {error}"
        ));
    }
}

fn row(
    entry: &Entry,
    seed: u64,
    dir: &Path,
    took: Duration,
    concluded: Result<Results, SessionError>,
) -> Row {
    match concluded {
        Ok(results) => Row::new(&entry.name, Verdict::Valid, &results, dir),
        Err(error) => Row {
            scenario: entry.name.clone(),
            workload: entry.scenario.workload.to_string(),
            nemesis: entry.scenario.nemesis.clone(),
            verdict: Verdict::Unknown,
            expected: Verdict::Valid,
            checked: 0,
            faults_applied: 0,
            faults_skipped: 0,
            rto_p50_ns: None,
            rto_max_ns: None,
            lost: 0,
            lost_certainty: Certainty::Unknown,
            duration_seconds: took.as_secs_f64(),
            seed,
            dir: dir.to_owned(),
            note: error.to_string(),
        },
    }
}

/// The verdict on a suite: the worst of its scenarios; nothing run is *unknown*.
pub fn verdict(scoreboard: &Scoreboard) -> Verdict {
    let worst = scoreboard.rows.iter().map(|row| row.verdict).max();
    worst.unwrap_or(Verdict::Unknown)
}

/// Where runs go that are given no directory.
pub const RUNS: &str = "holdfast-jepsen-runs";

/// Directory of a run that was given none: `holdfast-jepsen-runs/<time>-<name>`.
pub fn default_dir(name: &str) -> PathBuf {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let now = now.replace([':', '-'], "").replace('Z', "");
    PathBuf::from(RUNS).join(format!("{now}-{name}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_nodes_have_stored_is_discarded_and_the_evidence_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        for data in ["node-1/log", "node-2", "node-1.wiped-1", "preload"] {
            fs::create_dir_all(dir.path().join(data)).unwrap();
        }
        for file in ["node-1/log/1.log", "node-1.log", "history.jsonl"] {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        discard_data(dir.path());
        let left = fs::read_dir(dir.path()).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<String> = left.collect();
        left.sort();
        assert_eq!(left, ["history.jsonl", "node-1.log", "preload"]);
    }
}
