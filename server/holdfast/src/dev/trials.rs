//! `holdfast dev --demo --trials N`: how long writes stop when the node that leads is killed, paused or
//! asked to stop, N times, and whether anything acknowledged was lost.
//!
//! ```text
//!   until all nodes name one leader ─▶ 64 writers ─▶ fault ─▶ writes flow again ─▶ audit
//!      ▲                                                                             │
//!      └──────────────── the node is back: started by the supervisor, or resumed ◀───┘
//! ```
//!
//! - Time runs from the fault to the first acknowledgement of a write that was *begun after it*, so that
//!   answers already under way do not count.
//! - Keys are unique, so an acknowledged write must be there with its revision and version 1: neither
//!   lost nor applied twice.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use holdfast::unique_writes::{Contents, Writers};
use holdfast_client::Client;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    cluster_file::ClusterFile,
    layout::NodePlan,
    screen::{Screen, short},
    supervisor::{Order, Status, until_over},
};

const WRITERS: usize = 64;
/// Load before the fault.
const LEAD_IN: Duration = Duration::from_millis(1500);
/// Load after it. Writes that flow again show the longest gap.
const LEAD_OUT: Duration = Duration::from_secs(2);
/// A write that began this soon after the fault may have met a leader that was not hit yet.
const DYING: Duration = Duration::from_millis(2);
/// Longest time until the nodes agree on a leader, and until writes flow again.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the audit may read.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What hits the node that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL: the process is gone, as when a machine loses power.
    Kill,
    /// SIGSTOP: the process is there, and silent.
    Pause,
    /// SIGTERM: it hands its leaderships over first.
    Term,
}

/// What the operator chose.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often.
    pub trials: u32,
    /// What is done.
    pub fault: Fault,
}

/// What one trial showed.
struct Trial {
    /// From the fault to the first acknowledgement of a write begun after it.
    first: Duration,
    /// Longest time between two acknowledgements.
    gap: Duration,
    acknowledged: usize,
    failed: usize,
    lost: usize,
    twice: usize,
    /// What was lost or is there twice, in words.
    examples: Vec<String>,
}

/// All trials, as a table.
pub struct Report {
    fault: Fault,
    trials: Vec<Trial>,
}

/// Runs the trials, then has the supervisor stop the nodes.
pub async fn run(
    settings: Settings,
    nodes: Vec<NodePlan>,
    data_dir: PathBuf,
    status: watch::Receiver<Status>,
    orders: mpsc::Sender<Order>,
    screen: Screen,
) -> anyhow::Result<Report> {
    let performed = perform(settings, &nodes, &data_dir, status.clone(), screen);
    until_over(performed, status, &orders).await
}

async fn perform(
    settings: Settings,
    nodes: &[NodePlan],
    data_dir: &Path,
    mut status: watch::Receiver<Status>,
    screen: Screen,
) -> anyhow::Result<Report> {
    status.wait_for(|status| status.ready).await?;
    let urls: Vec<String> = nodes.iter().map(NodePlan::client_url).collect();
    let mut report = Report {
        fault: settings.fault,
        trials: Vec::new(),
    };
    for number in 1..=settings.trials {
        let all_serve = |status: &Status| status.nodes.values().all(|node| node.serves);
        tokio::time::timeout(AGREEMENT_TIMEOUT, status.wait_for(all_serve))
            .await
            .context("a node did not come back")??;
        let trial = trial(number, settings.fault, &urls, data_dir).await?;
        screen.event(format!(
            "trial {number}: first write after {}, longest gap {}, {} acknowledged, {} failed, {} lost, {} twice",
            short(trial.first),
            short(trial.gap),
            trial.acknowledged,
            trial.failed,
            trial.lost,
            trial.twice
        ));
        for example in &trial.examples {
            screen.event(example);
        }
        report.trials.push(trial);
    }
    Ok(report)
}

async fn trial(
    number: u32,
    fault: Fault,
    urls: &[String],
    data_dir: &Path,
) -> anyhow::Result<Trial> {
    // A new client knows nothing of what earlier trials have seen.
    let client = Client::builder().endpoints(urls).connect().await?;
    let leader = until_one_leader(&client, urls).await?;
    let prefix = format!("trials/{number}/{:08x}/", rand::random::<u32>());
    let writers = Writers::waiting(&prefix, std::slice::from_ref(&client), WRITERS, u64::MAX);
    sleep(LEAD_IN).await;
    let pid = process_of(data_dir, leader)?;
    let hit = Instant::now();
    send(
        pid,
        match fault {
            Fault::Kill => libc::SIGKILL,
            Fault::Pause => libc::SIGSTOP,
            Fault::Term => libc::SIGTERM,
        },
    )?;
    let flows_again = async {
        while !writers.ledger().flows_since(hit + DYING) {
            sleep(POLL_INTERVAL).await;
        }
        sleep((hit + LEAD_OUT).saturating_duration_since(Instant::now())).await;
    };
    let flows_again = tokio::time::timeout(AGREEMENT_TIMEOUT, flows_again).await;
    let history = writers.stop_within(AGREEMENT_TIMEOUT).await;
    if fault == Fault::Pause {
        send(pid, libc::SIGCONT)?;
    }
    flows_again.context("writes did not flow again")?;
    let first = history.first_begun_after(hit + DYING);
    let contents = Contents::read(&client.with_timeout(AUDIT_TIMEOUT), &prefix, false).await?;
    let findings = contents.compare(&history);
    Ok(Trial {
        first: first.context("no write after the fault")?.at - hit,
        gap: history.longest_gap(),
        acknowledged: history.acknowledged.len(),
        failed: history.failures(),
        // What is there with another revision or value is not what was acknowledged.
        lost: findings.lost + findings.wrong,
        twice: findings.twice,
        examples: findings.examples,
    })
}

/// Waits until every node answers and names the same leader.
async fn until_one_leader(client: &Client, urls: &[String]) -> anyhow::Result<u64> {
    let deadline = Instant::now() + AGREEMENT_TIMEOUT;
    while Instant::now() < deadline {
        let mut leaders = Vec::new();
        for url in urls {
            let status = client.status(url).await;
            leaders.push(status.map_or(0, |status| status.leader));
        }
        leaders.dedup();
        if let [leader] = leaders[..]
            && leader != 0
        {
            return Ok(leader);
        }
        sleep(POLL_INTERVAL).await;
    }
    bail!(
        "the nodes did not agree on a leader in {}",
        short(AGREEMENT_TIMEOUT)
    )
}

/// The present process of a node.
fn process_of(data_dir: &Path, node: u64) -> anyhow::Result<i32> {
    let file = ClusterFile::read(data_dir).context("cluster.json cannot be read")?;
    let entry = file.nodes.iter().find(|entry| entry.id == node);
    Ok(i32::try_from(
        entry.context("the leader is none of these nodes")?.pid,
    )?)
}

fn send(pid: i32, signal: i32) -> anyhow::Result<()> {
    // SAFETY: kill takes two numbers and touches no memory of this process.
    let sent = unsafe { libc::kill(pid, signal) } == 0;
    ensure!(sent, "kill {pid}: {}", std::io::Error::last_os_error());
    Ok(())
}

impl Report {
    /// Nothing acknowledged was lost or applied twice.
    pub fn passed(&self) -> bool {
        self.trials
            .iter()
            .all(|trial| trial.lost + trial.twice == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "median", "worst"]);
        let mut row = |name: &str, mut times: Vec<Duration>| {
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let worst = times.last().copied().unwrap_or_default();
            table.add_row([name.to_owned(), short(median), short(worst)]);
        };
        row(
            "first write begun after the fault",
            self.trials.iter().map(|trial| trial.first).collect(),
        );
        row(
            "longest gap between answers",
            self.trials.iter().map(|trial| trial.gap).collect(),
        );
        let sum = |count: fn(&Trial) -> usize| self.trials.iter().map(count).sum::<usize>();
        write!(
            f,
            "{table}\n{} trials, {} of the leader: {} writes acknowledged, {} requests failed, {} lost, {} applied twice",
            self.trials.len(),
            format!("{:?}", self.fault).to_lowercase(),
            sum(|trial| trial.acknowledged),
            sum(|trial| trial.failed),
            sum(|trial| trial.lost),
            sum(|trial| trial.twice),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(first_ms: u64, lost: usize) -> Trial {
        Trial {
            first: Duration::from_millis(first_ms),
            gap: Duration::from_millis(first_ms + 1),
            acknowledged: 100,
            failed: 1,
            lost,
            twice: 0,
            examples: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_medians_and_the_worst_and_a_loss_is_a_failure() {
        let trials = vec![trial(40, 0), trial(20, 0), trial(900, 0)];
        let mut report = Report {
            fault: Fault::Kill,
            trials,
        };
        let text = report.to_string();
        let (median, worst) = (Duration::from_millis(40), Duration::from_millis(900));
        for part in [
            short(median).as_str(),
            short(worst).as_str(),
            "300 writes acknowledged",
            "3 requests failed",
            "0 lost",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(report.passed());
        report.trials.push(trial(10, 1));
        assert!(!report.passed());
    }
}
