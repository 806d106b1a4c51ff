//! Proof that the harness finds bugs: mistakes planted in Holdfast one at a time, each to be caught.
//!
//! The server is built with its feature `planted-bugs` into a target directory of its own; a bug is
//! chosen by a variable of the node. The same scenarios run with the same seeds against the clean
//! server, and must be valid there: a harness that cries wolf catches everything.

mod bugs;
mod proof;
mod report;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use tokio::{process::Command, sync::watch, task::spawn_blocking};

pub use self::report::{Catch, Report};
use self::{bugs::BUGS, report::Caught};
use super::{Surroundings, discard_data, seed_of};
use crate::{
    checker::Verdict,
    cluster::target::Target,
    evidence::{Results, scoreboard::verdict_word},
    history::jsonl,
    run::{
        scenario::Scenario,
        session::{HISTORY, run_scenario},
    },
    terminal,
};

/// Where the source of Holdfast was when this program was built.
pub const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Variable of a node that chooses the bug.
const VARIABLE: &str = "HOLDFAST_PLANTED_BUG";
/// What a server says of itself that has bugs planted.
const CONFESSION: &str = "planted bugs";

/// What is hunted, and how.
#[derive(Debug)]
pub struct Hunt {
    /// Directory of Holdfast's source.
    pub source: PathBuf,
    /// Seeds for each bug.
    pub seeds: u64,
    /// From which they follow.
    pub seed: u64,
    /// Only bugs whose name contains one of these; empty for all.
    pub only: Vec<String>,
    /// Directory for the evidence.
    pub out: PathBuf,
    /// Only name the bugs.
    pub list: bool,
}

/// Plants each bug, runs its scenario, and runs the same on the clean server. *Valid* if every bug
/// was caught with every seed and the clean server was valid throughout.
///
/// # Errors
///
/// The server could not be built, or a file could not be written.
pub async fn hunt(hunt: Hunt, interrupted: watch::Receiver<bool>) -> anyhow::Result<Verdict> {
    let wanted = |name: &str| hunt.only.is_empty() || hunt.only.iter().any(|w| name.contains(w));
    let bugs: Vec<_> = BUGS.iter().filter(|bug| wanted(bug.name)).collect();
    if bugs.is_empty() {
        bail!("no planted bug has {:?} in its name; see --list", hunt.only);
    }
    if hunt.list {
        for bug in bugs {
            terminal::print(format_args!(
                "{:<32} {:<28} {}",
                bug.name, bug.scenario, bug.mistake
            ));
        }
        return Ok(Verdict::Valid);
    }
    let clean = Target::Holdfast.find(None)?;
    let planted = build(&hunt.source).await?;
    let mut report = Report::new(Surroundings::here(), hunt.seed);
    std::fs::create_dir_all(&hunt.out)?;
    let mut scenarios: BTreeMap<&str, Scenario> = BTreeMap::new();
    for bug in &bugs {
        scenarios.insert(bug.scenario, bugs::scenario(bug.scenario)?);
        for number in 0..hunt.seeds {
            if *interrupted.borrow() {
                return Ok(Verdict::Unknown);
            }
            let mut scenario = bugs::scenario(bug.scenario)?;
            scenario.bin = Some(planted.clone());
            scenario.stop_when_invalid = true;
            let variable = (VARIABLE.to_owned(), bug.name.to_owned());
            scenario.server_env.push(variable);
            let seed = seed_of(hunt.seed + number, bug.scenario);
            let dir = hunt.out.join(bug.name).join(seed.to_string());
            terminal::note(format_args!(
                "{} in {} (seed {seed})",
                bug.name, bug.scenario
            ));
            let concluded = run_scenario(&scenario, seed, &dir, interrupted.clone()).await;
            let catch = match concluded {
                Ok(results) => caught(&results, &dir).await?,
                Err(error) => Catch::Error(error.to_string()),
            };
            terminal::note(format_args!("        {catch}"));
            let is_caught = matches!(catch, Catch::Caught(_));
            report.note(bug, seed, catch);
            report.write(&hunt.out)?;
            if is_caught {
                discard_data(&dir);
            }
        }
    }
    for (name, scenario) in scenarios {
        for number in 0..hunt.seeds {
            if *interrupted.borrow() {
                return Ok(Verdict::Unknown);
            }
            let mut scenario = scenario.clone();
            scenario.bin = Some(clean.clone());
            scenario.stop_when_invalid = true;
            let seed = seed_of(hunt.seed + number, name);
            let dir = hunt.out.join("clean").join(name).join(seed.to_string());
            terminal::note(format_args!("the clean server in {name} (seed {seed})"));
            let concluded = run_scenario(&scenario, seed, &dir, interrupted.clone()).await;
            let verdict = concluded.map(|results| (results.verdict(), results.reasons));
            let verdict = match verdict {
                Ok((verdict, reasons)) => (verdict, reasons.join("; ")),
                Err(error) => (Verdict::Unknown, error.to_string()),
            };
            terminal::note(format_args!(
                "        {} {}",
                verdict_word(verdict.0),
                verdict.1
            ));
            let is_valid = verdict.0 == Verdict::Valid;
            report.note_clean(name, seed, verdict.0, verdict.1);
            report.write(&hunt.out)?;
            if is_valid {
                discard_data(&dir);
            }
        }
    }
    terminal::print(report.table());
    terminal::print(format_args!(
        "table: {}",
        hunt.out.join(report::MARKDOWN).display()
    ));
    Ok(report.verdict())
}

/// Who caught the bug, and how long after the beginning of the run it had shown.
async fn caught(results: &Results, dir: &Path) -> anyhow::Result<Catch> {
    if results.verdict() != Verdict::Invalid {
        return Ok(Catch::Missed(results.verdict()));
    }
    let history = jsonl::read(&dir.join(HISTORY))?;
    let seconds = history.duration() as f64 / 1e9;
    if let Some(caught) = spawn_blocking(move || proof::first(history)).await? {
        return Ok(Catch::Caught(caught));
    }
    // Nothing was answered wrongly; the nodes have come to a wrong end.
    let mut findings = results.findings.iter();
    let finding = findings.find(|f| f.verdict == Verdict::Invalid);
    let anomaly = finding.and_then(|f| Some((f, f.anomalies.first()?)));
    let (finding, anomaly) = anomaly.context("an invalid run names no anomaly")?;
    Ok(Catch::Caught(Caught {
        seconds,
        checker: finding.checker.clone(),
        anomaly: anomaly.name.clone(),
    }))
}

/// Builds the server with the bugs in it. Returns its program.
async fn build(source: &Path) -> anyhow::Result<PathBuf> {
    let manifest = source.join("Cargo.toml");
    let source = source
        .canonicalize()
        .ok()
        .filter(|_| manifest.is_file())
        .with_context(|| {
            format!(
                "{} is not the source of Holdfast; give its directory with --source",
                source.display()
            )
        })?;
    let target = source.join("target").join("planted");
    terminal::note(format_args!(
        "building the server with planted bugs into {}",
        target.display()
    ));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(&source)
        .args(["build", "--package", "holdfast", "--bin", "holdfast"])
        .args(["--profile", bugs::PROFILE, "--features", "planted-bugs"])
        .arg("--target-dir")
        .arg(&target)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("cargo cannot be run; it is needed to build the server with planted bugs")?;
    if !status.success() {
        bail!("the server with planted bugs could not be built: {status}");
    }
    let bin = target.join(bugs::PROFILE_DIR).join("holdfast");
    let version = Target::Holdfast.version(&bin).await?;
    if !version.contains(CONFESSION) {
        bail!("{} says `{version}` and has no planted bugs", bin.display());
    }
    Ok(bin)
}
