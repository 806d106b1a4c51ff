//! `holdfast dev --demo`: what the loss of a zone costs, measured on the running cluster.
//!
//! ```text
//!  0 ── writers: one client per zone ─────────────────────────────────────────────── time
//!         │ a third          restart delay          catch-up            the rest │
//!         ▼                       ▼                     ▼                        ▼
//!     SIGKILL to the zone    process started      caught up              writers stop, audit:
//!     that leads `default`   again by the                                every node, every key
//!                            supervisor
//! ```
//!
//! Every write has a key of its own and carries a retry id, so that a write whose fate is unknown can
//! be sent again and still takes effect once. A write counts as acknowledged when its answer has
//! arrived; from then on it must be found with its revision and value, on every node, with version 1.

mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast::unique_writes::{AuditedNode, Ledger, Writers, audit};
use holdfast_client::Client;
use tokio::sync::{mpsc, watch};

use super::layout::NodePlan;
use super::screen::{Screen, short};
use super::supervisor::{Order, Status, until_over};
use report::CatchUp;
pub use report::Report;

/// Time between the live lines.
const LIVE_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time from the first start of the nodes until all groups have leaders.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time from the restart of the killed node until it has caught up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that writes of unknown fate are sent again after the writers have stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a write, however often it is sent again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for a request of the audit, and for a node to apply what was acknowledged before it.
const AUDIT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for a question whether a node has caught up.
const CATCH_UP_ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Time between two such questions.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(10);

/// What the operator chose.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Writes per second through each zone.
    pub rate: u32,
    /// Time of writing.
    pub time: Duration,
    /// Time until the supervisor starts the killed node again.
    pub restart_delay: Duration,
}

/// Runs the demonstration, then has the supervisor stop the nodes.
pub async fn run(
    settings: Settings,
    nodes: Vec<NodePlan>,
    status: watch::Receiver<Status>,
    orders: mpsc::Sender<Order>,
    screen: Screen,
) -> anyhow::Result<Report> {
    let performed = perform(settings, &nodes, status.clone(), &orders, screen);
    until_over(performed, status, &orders).await
}

async fn perform(
    settings: Settings,
    nodes: &[NodePlan],
    mut status: watch::Receiver<Status>,
    orders: &mpsc::Sender<Order>,
    screen: Screen,
) -> anyhow::Result<Report> {
    tokio::time::timeout(READY_TIMEOUT, status.wait_for(|status| status.ready))
        .await
        .with_context(|| format!("the cluster was not ready within {}", short(READY_TIMEOUT)))??;
    let urls: Vec<String> = nodes.iter().map(NodePlan::client_url).collect();
    let mut clients = Vec::new();
    for node in nodes {
        let client = Client::builder()
            .endpoints(&urls)
            .prefer_zone(node.zone)
            .timeout(WRITE_TIMEOUT)
            .connect_timeout(READY_TIMEOUT);
        clients.push(client.connect().await?);
    }
    screen.event(format!(
        "demo: {} writes per second through each of {} zones",
        settings.rate,
        nodes.len()
    ));
    let prefix = format!("demo/{:016x}/", rand::random::<u64>());
    // A client goes down with its zone: it sends nothing new until its node serves again. What it had under
    // way is sent again through the other zones, because somebody waits for the answer.
    let (ids, seen): (Vec<u64>, _) = (nodes.iter().map(|node| node.id).collect(), status.clone());
    let is_up = move |zone: usize| seen.borrow().serves(ids[zone]);
    let writers = Writers::paced(&prefix, &clients, settings.rate, is_up);
    let ledger = writers.ledger().clone();
    let begun = Instant::now();
    let live = tokio::spawn(live_lines(
        nodes.to_vec(),
        ledger.clone(),
        status.clone(),
        screen,
    ));

    tokio::time::sleep(settings.time / 3).await;
    let victim = status
        .wait_for(|status| status.leader.is_some())
        .await?
        .leader
        .context("`default` has no leader")?;
    let victim_at = nodes
        .iter()
        .position(|node| node.id == victim)
        .context("the leader is none of the nodes")?;
    require_writes(nodes, &ledger)?;
    let revision_at_kill = ledger.highest_revision();
    screen.event(format!(
        "demo: {} leads `default`: its zone is lost now (SIGKILL)",
        nodes[victim_at].name()
    ));
    let killed = Instant::now();
    orders
        .send(Order::Kill(victim))
        .await
        .context("the supervisor has ended")?;

    let restarted = tokio::time::timeout(
        settings.restart_delay + Duration::from_secs(10),
        status.wait_for(|status| {
            status
                .nodes
                .get(&victim)
                .is_some_and(|node| node.starts > 1)
        }),
    )
    .await
    .context("the supervisor did not start the killed node again")??
    .nodes
    .get(&victim)
    .and_then(|node| node.started)
    .context("the killed node has no start time")?;
    let mut catch_up = tokio::time::timeout(
        CATCH_UP_TIMEOUT,
        catch_up(&urls[victim_at], &ledger, restarted),
    )
    .await
    .with_context(|| {
        format!(
            "the killed node did not catch up within {}",
            short(CATCH_UP_TIMEOUT)
        )
    })??;
    catch_up.missed -= revision_at_kill;
    screen.event(format!(
        "demo: {} has caught up {} after its start; it had missed {} revisions",
        nodes[victim_at].name(),
        short(catch_up.caught_up),
        catch_up.missed
    ));
    let back = Instant::now();
    let rest = (begun + settings.time)
        .saturating_duration_since(back)
        .max(settings.time / 6);
    tokio::time::sleep(rest).await;

    let ended = Instant::now();
    let history = writers.stop_within(DRAIN_TIMEOUT).await;
    live.abort();
    screen.event(
        "demo: the writers have stopped; every acknowledged write is looked for on every node",
    );
    let audited = nodes
        .iter()
        .map(|node| AuditedNode::new(node.name(), node.client_url(), AUDIT_PATIENCE))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let audit = audit(&audited, &prefix, &history).await?;
    Ok(Report {
        nodes: nodes.to_vec(),
        victim: victim_at,
        history,
        resent: clients.iter().map(Client::repeats).sum(),
        begun,
        killed,
        back,
        ended,
        catch_up,
        audit,
    })
}

/// Without writes the loss of a zone would show nothing.
fn require_writes(nodes: &[NodePlan], ledger: &Ledger) -> anyhow::Result<()> {
    if let Some(refusal) = ledger.refusal() {
        bail!("a write was refused: {refusal}");
    }
    for (zone, node) in nodes.iter().enumerate() {
        if ledger.acknowledged_to(zone) == 0 {
            bail!("no write was acknowledged through {}", node.name());
        }
    }
    Ok(())
}

/// Waits until the node answers, and then until its own state holds what had been acknowledged by
/// then. `missed` is the highest acknowledged revision when the process was started.
async fn catch_up(url: &str, ledger: &Ledger, started: Instant) -> anyhow::Result<CatchUp> {
    let missed = ledger.highest_revision();
    let client = Client::builder()
        .endpoints([url])
        .discover(false)
        .max_attempts(1)
        .timeout(CATCH_UP_ANSWER_TIMEOUT)
        .connect_lazy()?;
    // Fixed at the first answer: a follower is always some moments behind what is acknowledged.
    let mut first: Option<(Duration, i64)> = None;
    loop {
        if let Ok(read) = client.get(ledger.prefix().to_owned()).serializable().await {
            let (answered, target) =
                *first.get_or_insert_with(|| (started.elapsed(), ledger.highest_revision()));
            if read.header.is_some_and(|header| header.revision >= target) {
                return Ok(CatchUp {
                    missed,
                    answered,
                    caught_up: started.elapsed(),
                });
            }
        }
        tokio::time::sleep(CATCH_UP_INTERVAL).await;
    }
}

/// Shows the write rate of each zone and who leads, until it is aborted.
async fn live_lines(
    nodes: Vec<NodePlan>,
    ledger: Arc<Ledger>,
    status: watch::Receiver<Status>,
    screen: Screen,
) {
    let mut ticks = tokio::time::interval(LIVE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen: Vec<u64> = vec![0; nodes.len()];
    let mut since = Instant::now();
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let zones = 0..nodes.len();
        let counts: Vec<u64> = zones.map(|zone| ledger.acknowledged_to(zone)).collect();
        let status = status.borrow().clone();
        let zones: Vec<String> = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                let rate = (counts[at] - seen[at]) as f64 / seconds;
                let up = status.serves(node.id);
                format!(
                    "{} {rate:>5.0}{}",
                    node.zone,
                    if up { "       " } else { " (down)" }
                )
            })
            .collect();
        seen = counts;
        let leader = nodes.iter().find(|node| Some(node.id) == status.leader);
        screen.event(format!(
            "writes/s  {}  leader {}",
            zones.join("  "),
            leader.map_or_else(|| "none".to_owned(), NodePlan::name)
        ));
    }
}

impl Report {
    /// Fails if there is nothing to report about: a demonstration without writes shows nothing.
    pub fn require_writes(&self) -> anyhow::Result<()> {
        if let Some(refused) = self.history.refused.first() {
            bail!("a write was refused: {refused:?}");
        }
        for (at, node) in self.nodes.iter().enumerate() {
            if self.rate(at, self.begun, self.killed) == 0.0 {
                bail!(
                    "no write was acknowledged through {} before the loss",
                    node.zone
                );
            }
            if self.rate(at, self.back, self.ended) == 0.0 {
                bail!(
                    "no write was acknowledged through {} after the loss",
                    node.zone
                );
            }
        }
        Ok(())
    }
}
