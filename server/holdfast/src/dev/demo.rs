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

mod audit;
mod ledger;
mod report;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_proto::etcdserverpb::RangeRequest;
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use super::layout::NodePlan;
use super::screen::{Screen, short};
use super::supervisor::{Order, Status};
use super::watcher;
use ledger::Ledger;
pub use report::Report;
use writer::Writers;

/// Time between the live lines.
const LIVE_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time from the first start of the nodes until all groups have leaders.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time from the restart of the killed node until it has caught up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that writes of unknown fate are sent again after the writers have stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

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
    let mut stopping = status.clone();
    let outcome = tokio::select! {
        outcome = perform(settings, &nodes, status, &orders, screen) => outcome,
        _ = stopping.wait_for(|status| status.stopping) => Err(anyhow::anyhow!("stopped before it was over")),
    };
    let _ = orders.send(Order::Stop).await;
    outcome
}

/// How the killed node came back.
#[derive(Debug, Clone, Copy)]
pub struct CatchUp {
    /// Revisions it lacked when its new process was started.
    pub missed: i64,
    /// From the start of the new process to its first answer.
    pub answered: Duration,
    /// From the start of the new process until its own state held all that had been acknowledged
    /// when it first answered.
    pub caught_up: Duration,
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
    let channels: Vec<Channel> = nodes
        .iter()
        .map(|node| watcher::channel(&node.client_url()))
        .collect::<Result<_, _>>()?;
    let clients: Vec<KvClient<Channel>> = channels.iter().cloned().map(KvClient::new).collect();

    let ledger = Arc::new(Ledger::new(rand::random()));
    screen.event(format!(
        "demo: {} writes per second through each of {} zones",
        settings.rate,
        nodes.len()
    ));
    let starting = Writers::start(
        settings.rate,
        nodes,
        &channels,
        ledger.clone(),
        status.clone(),
    );
    let writers = tokio::time::timeout(READY_TIMEOUT, starting)
        .await
        .with_context(|| format!("the clients were not known within {}", short(READY_TIMEOUT)))?;
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
        catch_up(clients[victim_at].clone(), &ledger, restarted),
    )
    .await
    .with_context(|| {
        format!(
            "the killed node did not catch up within {}",
            short(CATCH_UP_TIMEOUT)
        )
    })?;
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
    writers.finish(DRAIN_TIMEOUT).await;
    live.abort();
    screen.event(
        "demo: the writers have stopped; every acknowledged write is looked for on every node",
    );
    let audit = audit::audit(nodes, &channels, &ledger).await?;
    Ok(Report {
        nodes: nodes.to_vec(),
        victim: victim_at,
        acks: ledger.acks(),
        resent: ledger.resent(),
        refusals: ledger.refusals(),
        unknown: ledger.unresolved().len(),
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
    if let Some(refusal) = ledger.refusals().first() {
        bail!("a write was refused: {refusal}");
    }
    for (node, count) in nodes.iter().zip(ledger.counts(nodes.len())) {
        if count == 0 {
            bail!("no write was acknowledged through {}", node.name());
        }
    }
    Ok(())
}

/// Waits until the node answers, and then until its own state holds what had been acknowledged by
/// then. `missed` is the highest acknowledged revision when the process was started.
async fn catch_up(mut client: KvClient<Channel>, ledger: &Ledger, started: Instant) -> CatchUp {
    let missed = ledger.highest_revision();
    // Fixed at the first answer: a follower is always some moments behind what is acknowledged.
    let mut first: Option<(Duration, i64)> = None;
    loop {
        let mut request = tonic::Request::new(RangeRequest {
            key: b"demo/".to_vec().into(),
            serializable: true,
            ..RangeRequest::default()
        });
        request.set_timeout(Duration::from_millis(500));
        if let Ok(response) = client.range(request).await {
            let (answered, target) =
                *first.get_or_insert_with(|| (started.elapsed(), ledger.highest_revision()));
            let header = response.into_inner().header;
            if header.is_some_and(|header| header.revision >= target) {
                return CatchUp {
                    missed,
                    answered,
                    caught_up: started.elapsed(),
                };
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
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
        let counts = ledger.counts(nodes.len());
        let status = status.borrow().clone();
        let zones: Vec<String> = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                let rate = (counts[at] - seen[at]) as f64 / seconds;
                let up = status.nodes.get(&node.id).is_some_and(|node| node.serves);
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
        if let Some(refusal) = self.refusals.first() {
            bail!("a write was refused: {refusal}");
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
