//! The command line of `holdfast-jepsen`.
//!
//! Exit codes: 0 valid, 1 invalid, 2 unknown, or the harness could not do its work. A run that a signal
//! interrupts heals, judges and writes what there is, and is *unknown* unless that is *invalid*.

mod interruption;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use self::interruption::interruption;
use crate::{
    checker::Verdict,
    cluster::{
        netns::{self, Entered},
        target::Target,
    },
    evidence::{
        self, Results, compare::Comparison, results::exit_code, scoreboard::Scoreboard, summary,
    },
    history::jsonl,
    nemesis::names,
    run::{
        conclusion,
        heal::heal,
        judge::judge,
        scenario::{ClusterKind, Scenario, parse_time, spell_time},
        session::{HISTORY, run_scenario},
    },
    suite::{self, Suite, Surroundings, planted},
    terminal,
    workload::Workload,
};
use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

/// Exit code of everything that is no verdict.
const EXIT_ERROR: u8 = 2;

#[derive(Parser)]
#[command(
    name = "holdfast-jepsen",
    version,
    about = "Breaks a cluster that speaks the etcd v3 API, and judges what it did",
    after_help = "Exit codes: 0 valid, 1 invalid, 2 unknown or the harness could not do its work; of heal: 0 nothing is \
                  broken any more, 2 something is.\n\
                  SIGINT, SIGTERM, SIGHUP and SIGQUIT end a run: it heals, and writes what there is. A second one ends \
                  it at once.",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one workload under nemeses, and judge it
    Run {
        #[command(flatten)]
        scenario: Box<Scenario>,
        /// Directory for the evidence; must not hold a run. Default: holdfast-jepsen-runs/<time>-<workload>
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Run many scenarios and print a scoreboard
    Suite(SuiteArgs),
    /// Judge the history of an earlier run again
    Check {
        /// Directory of the run, or a history.jsonl
        dir: PathBuf,
        /// Judge what there is of a history that was cut off
        #[arg(long)]
        truncated: bool,
        /// How long a checker may search before its verdict is `unknown`
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
        check_limit: Duration,
        /// Also write the history in Jepsen's form to this file
        #[arg(long, value_name = "FILE")]
        edn: Option<PathBuf>,
    },
    /// Put two runs of one seed side by side, such as a Holdfast and an etcd, or before and after a change
    Compare {
        /// Directory of a run
        first: PathBuf,
        /// Directory of another run with the same workload, seed and nemeses
        second: PathBuf,
        /// Also write a page to this file
        #[arg(long, value_name = "FILE", default_value = "comparison.html")]
        html: PathBuf,
    },
    /// Mend what a run has left broken that was ended before it could: nodes of an existing cluster,
    /// processes and networks of this machine
    Heal {
        /// Directory of the run, or of many
        #[arg(default_value = suite::RUNS)]
        dir: PathBuf,
    },
    /// List the workloads, the nemeses and the suites
    List,
}

#[derive(clap::Args)]
struct SuiteArgs {
    /// Which
    suite: Suite,
    /// Directory for the evidence. Default: holdfast-jepsen-runs/<time>-<suite>
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed from which those of the scenarios follow; drawn and printed if it is not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only scenarios whose name contains one of these, separated by commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    only: Vec<String>,
    /// What the clusters are made of: holdfast, or etcd 3.4 or later
    #[arg(long, value_name = "NAME", default_value_t = Target::Holdfast)]
    target: Target,
    /// The program; by default `holdfast` beside this program or in PATH, `etcd` in PATH
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// Seeds with which each planted bug is hunted, and the clean server run (suite planted)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Directory of Holdfast's source, from which the server with planted bugs is built (suite planted)
    #[arg(long, value_name = "DIR", default_value = planted::SOURCE)]
    source: PathBuf,
    /// Only name the scenarios
    #[arg(long)]
    list: bool,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            terminal::note(format_args!("holdfast-jepsen: {}", with_causes(&error)));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// An error with those of its causes that it does not tell itself.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { scenario, out } => {
            if scenario.cluster == ClusterKind::Netns
                && let Entered::Done(code) = netns::enter(scenario.nodes as usize)?
            {
                return Ok(ExitCode::from(code));
            }
            runtime()?.block_on(run(&scenario, out))
        }
        Command::Suite(args) => runtime()?.block_on(run_suite(args)),
        Command::Check {
            dir,
            truncated,
            check_limit,
            edn,
        } => check(&dir, truncated, check_limit, edn.as_deref()),
        Command::Compare {
            first,
            second,
            html,
        } => compare(&first, &second, &html),
        Command::Heal { dir } => runtime()?.block_on(mend(&dir)),
        Command::List => {
            list();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime for the harness")
}

fn drawn(seed: Option<u64>) -> u64 {
    seed.unwrap_or_else(|| rand::random_range(0..100_000_000))
}

async fn run(scenario: &Scenario, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let seed = drawn(scenario.seed);
    let dir = out.unwrap_or_else(|| suite::default_dir(scenario.workload.name()));
    terminal::note(format_args!(
        "workload {}, nemesis {}, {}, seed {seed}, evidence in {}",
        scenario.workload,
        scenario.nemesis,
        spell_time(scenario.time),
        dir.display()
    ));
    let results = run_scenario(scenario, seed, &dir, interruption()?).await?;
    terminal::print(summary::of_results(&results).trim_end());
    terminal::print(format_args!(
        "report: {}",
        dir.join("report.html").display()
    ));
    terminal::print(format_args!("again:  {}", results.run.command));
    Ok(code(results.verdict()))
}

async fn run_suite(args: SuiteArgs) -> anyhow::Result<ExitCode> {
    if args.suite == Suite::Planted {
        let hunt = planted::Hunt {
            source: args.source,
            seeds: args.seeds,
            seed: drawn(args.seed),
            only: args.only,
            out: args.out.unwrap_or_else(|| suite::default_dir("planted")),
            list: args.list,
        };
        return Ok(code(planted::hunt(hunt, interruption()?).await?));
    }
    let mut entries = suite::scenarios(args.suite, args.target);
    if !args.only.is_empty() {
        entries.retain(|entry| args.only.iter().any(|word| entry.name.contains(word)));
        if entries.is_empty() {
            bail!(
                "no scenario of {} has {:?} in its name; see --list",
                args.suite.name(),
                args.only
            );
        }
    }
    for entry in &mut entries {
        entry.scenario.bin.clone_from(&args.bin);
    }
    if args.list {
        for entry in &entries {
            terminal::print(&entry.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    entries.retain(|entry| match suite::impossible(entry) {
        None => true,
        Some(why) => {
            terminal::note(format_args!("left out: {}: {why}", entry.name));
            false
        }
    });
    // Rather now than after the first scenario.
    let bin = args.target.find(args.bin.as_deref())?;
    let version = args.target.version(&bin).await?;
    let seed = drawn(args.seed);
    let out = args
        .out
        .unwrap_or_else(|| suite::default_dir(args.suite.name()));
    terminal::note(format_args!(
        "suite {}: {} scenarios, seed {seed}, evidence in {}",
        args.suite.name(),
        entries.len(),
        out.display()
    ));
    let surroundings = Surroundings::here();
    let scoreboard = Scoreboard {
        suite: match args.target {
            Target::Holdfast => args.suite.name().to_owned(),
            other => format!("{}, {other}", args.suite.name()),
        },
        started_at: surroundings.time,
        tested: suite::program(&version, &bin),
        commit: surroundings.commit,
        machine: surroundings.machine,
        rows: Vec::new(),
    };
    let scoreboard = suite::run_all(&entries, seed, &out, scoreboard, interruption()?)
        .await
        .with_context(|| format!("the scoreboard in {}", out.display()))?;
    terminal::print(scoreboard.terminal());
    terminal::print(format_args!(
        "scoreboard: {}",
        out.join("scoreboard.html").display()
    ));
    let complete = scoreboard.rows.len() == entries.len();
    let verdict = suite::verdict(&scoreboard);
    Ok(code(match verdict {
        Verdict::Valid if !complete => Verdict::Unknown,
        verdict => verdict,
    }))
}

fn check(
    dir: &Path,
    truncated: bool,
    limit: Duration,
    edn: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let checked = check_again(dir, truncated, limit, edn);
    if checked.is_err() {
        terminal::print(summary::verdict(Verdict::Unknown));
    }
    checked
}

/// Judges a run again and writes its results and its report anew, or a history alone.
fn check_again(
    dir: &Path,
    truncated: bool,
    limit: Duration,
    edn: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let (file, dir) = match dir.is_dir() {
        true => (dir.join(HISTORY), Some(dir)),
        false => (dir.to_owned(), None),
    };
    let history = if truncated {
        jsonl::read_prefix(&file)?.0
    } else {
        jsonl::read(&file)?
    };
    history
        .operations()
        .with_context(|| format!("{} is no history of a run", file.display()))?;
    if let Some(edn) = edn {
        evidence::write_edn(&history, edn)
            .with_context(|| format!("cannot write {}", edn.display()))?;
    }
    let Some(dir) = dir else {
        let findings = judge(&history, None, limit);
        terminal::print(summary::of_findings(&findings).trim_end());
        let worst = findings.iter().map(|finding| finding.verdict).max();
        let worst = worst.unwrap_or(Verdict::Unknown);
        terminal::print(summary::verdict(worst));
        return Ok(code(worst));
    };
    let results = conclusion::draw_again(dir, &history, truncated, limit)
        .with_context(|| format!("{} cannot be judged", dir.display()))?;
    terminal::print(summary::of_results(&results).trim_end());
    evidence::write_all(dir, &history, &results)
        .with_context(|| format!("cannot write the evidence in {}", dir.display()))?;
    let report = dir.join("report.html");
    terminal::print(format_args!("report: {}", report.display()));
    Ok(code(results.verdict()))
}

fn compare(first: &Path, second: &Path, page: &Path) -> anyhow::Result<ExitCode> {
    let read = |dir: &Path| Results::read(&dir.join("results.json"));
    let (first, second) = (read(first)?, read(second)?);
    let comparison = Comparison::of(&first, &second)?;
    std::fs::write(page, comparison.html())
        .with_context(|| format!("cannot write {}", page.display()))?;
    terminal::print(comparison.text().trim_end());
    terminal::print(format_args!("page: {}", page.display()));
    Ok(ExitCode::SUCCESS)
}

async fn mend(dir: &Path) -> anyhow::Result<ExitCode> {
    let healed = heal(dir).await;
    let healed = healed.with_context(|| format!("cannot read {}", dir.display()))?;
    for line in &healed.mended {
        terminal::print(line);
    }
    for line in &healed.left {
        terminal::note(format_args!("still broken: {line}"));
    }
    if healed.mended.is_empty() && healed.left.is_empty() {
        terminal::print(format_args!("nothing is broken in {}", dir.display()));
    }
    Ok(match healed.left.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_ERROR),
    })
}

fn list() {
    terminal::print("Workloads (--workload):");
    for workload in Workload::ALL {
        terminal::print(format_args!(
            "  {:<18} {}",
            workload.name(),
            workload.describe()
        ));
    }
    terminal::print("\nNemeses (--nemesis, several separated by commas):");
    for (name, _, what) in names::FAULTS {
        terminal::print(format_args!("  {name:<18} {what}"));
    }
    terminal::print("\nGroups of nemeses (each draws its members in a random order):");
    for (name, members) in names::GROUPS {
        terminal::print(format_args!("  {name:<18} {}", members.join(", ")));
    }
    terminal::print("\nSuites (holdfast-jepsen suite NAME; --list names the scenarios):");
    for suite in [Suite::Smoke, Suite::Quick, Suite::Full, Suite::Planted] {
        terminal::print(format_args!("  {}", suite.name()));
    }
}

fn code(verdict: Verdict) -> ExitCode {
    ExitCode::from(u8::try_from(exit_code(verdict)).unwrap_or(EXIT_ERROR))
}
