//! Keeps the three processes of `holdfast dev` running, tells what happens to them, and stops them.
//!
//! ```text
//!   child ended ─────┐                       ┌─▶ screen: a line per event, `ready`
//!   WatchGroups ─────┼─▶ run(): one loop, ───┼─▶ cluster.json
//!   signals, orders ─┤   one owner of all    ├─▶ Status (watch channel) ─▶ demo
//!   time ────────────┘                       └─▶ Process::spawn, Process::signal
//! ```
//!
//! Stopping goes node by node: SIGTERM first to the one that leads most, so that it can hand over to
//! the others while they are there, then the next. A node that takes too long is killed.

mod publish;
mod restart;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::child::{Process, describe};
use super::cluster_file::ClusterFile;
use super::layout::NodePlan;
use super::screen::{Screen, short};
use super::signals::Signals;
use super::view::{Observation, View};
use super::watcher;
use holdfast_server::exit::EXIT_REFUSED;
use holdfast_server::limits::NODE_STOP_MS_MAX;

/// Events that wait for the loop. At the bound the watchers wait, which costs them nothing.
const EVENTS_MAX: usize = 256;
/// A process that ends sooner than this after its start has failed to start.
const FAILED_START: Duration = Duration::from_secs(2);

/// What the supervisor is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Directory of it all; exists.
    pub data_dir: PathBuf,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Flags for all of them.
    pub node_flags: Vec<String>,
    /// Time until a dead node is started again; `None` leaves it dead.
    pub restart_after: Option<Duration>,
}

/// An order to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Kill a node with SIGKILL.
    Kill(u64),
    /// Stop all nodes gracefully, then end.
    Stop,
}

/// The cluster as the supervisor sees it.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// All nodes were up and all groups had leaders.
    pub ready: bool,
    /// Leader of the keyspace `default`.
    pub leader: Option<u64>,
    /// State of each node.
    pub nodes: BTreeMap<u64, NodeStatus>,
    /// The end has begun.
    pub stopping: bool,
}

impl Status {
    /// A node takes part in all its groups.
    pub fn serves(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.serves)
    }
}

/// Performs something on the cluster, unless that is stopped before, and has it stopped afterwards.
pub async fn until_over<T>(
    performed: impl Future<Output = anyhow::Result<T>>,
    mut status: watch::Receiver<Status>,
    orders: &mpsc::Sender<Order>,
) -> anyhow::Result<T> {
    let outcome = tokio::select! {
        outcome = performed => outcome,
        _ = status.wait_for(|status| status.stopping) => Err(anyhow::anyhow!("stopped before it was over")),
    };
    // A supervisor that has ended needs no order.
    let _ = orders.send(Order::Stop).await;
    outcome
}

/// A node as the supervisor sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeStatus {
    /// It takes part in all its groups.
    pub serves: bool,
    /// Processes started for it so far.
    pub starts: u32,
    /// When the last one was started.
    pub started: Option<Instant>,
}

#[derive(Debug)]
enum Event {
    /// The process of the n-th start has ended.
    Ended {
        node: u64,
        starts: u32,
        status: ExitStatus,
    },
    /// Seen while the process of the n-th start ran.
    Seen {
        starts: u32,
        observation: Observation,
    },
}

struct Node {
    plan: NodePlan,
    process: Option<Process>,
    watcher: Option<JoinHandle<()>>,
    starts: u32,
    started: Option<Instant>,
    /// Last process id, for cluster.json.
    pid: u32,
    /// Starts in a row that have failed.
    failures: u32,
    restart_at: Option<Instant>,
}

/// The stop of one node after the other.
struct Stopping {
    /// Who is being stopped, and when it is killed instead.
    current: Option<(u64, Instant)>,
}

/// Owns the processes. Everything happens in [`Supervisor::run`], on one thread.
///
/// - events of an earlier process of a node are ignored: they carry the number of its start;
/// - a node has a restart time only while it has no process and nothing is being stopped.
pub struct Supervisor {
    plan: Plan,
    screen: Screen,
    nodes: BTreeMap<u64, Node>,
    view: View,
    events: mpsc::Receiver<Event>,
    tell: mpsc::Sender<Event>,
    status: watch::Sender<Status>,
    stopping: Option<Stopping>,
}

impl Supervisor {
    /// A supervisor that has started nothing yet, and where its status can be watched.
    pub fn new(plan: Plan, screen: Screen) -> (Supervisor, watch::Receiver<Status>) {
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let (status, watcher) = watch::channel(Status::default());
        let node = |plan: &NodePlan| Node {
            plan: plan.clone(),
            process: None,
            watcher: None,
            starts: 0,
            started: None,
            pid: 0,
            failures: 0,
            restart_at: None,
        };
        let nodes = plan
            .nodes
            .iter()
            .map(|plan| (plan.id, node(plan)))
            .collect();
        let view = View::new(Instant::now(), plan.nodes.iter().map(|node| node.id));
        (
            Supervisor {
                plan,
                screen,
                nodes,
                view,
                events,
                tell,
                status,
                stopping: None,
            },
            watcher,
        )
    }

    /// Starts the nodes and runs until they are stopped. Must be awaited on the main thread (see
    /// [`Process::spawn`]). An error means that the cluster could not be kept running.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.start(id)?;
        }
        self.write_cluster_file()?;
        let outcome = loop {
            let deadline = self.next_deadline();
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event),
                order = orders.recv() => match order {
                    Some(Order::Kill(id)) => self.signal(id, libc::SIGKILL),
                    Some(Order::Stop) | None => self.stop(),
                },
                name = signals.recv() => self.on_signal(name),
                () = sleep_until(deadline) => {}
            }
            if let Err(error) = self.on_time() {
                break Err(error);
            }
            self.publish();
            if self
                .nodes
                .values()
                .all(|node| node.process.is_none() && node.restart_at.is_none())
            {
                break match self.stopping {
                    Some(_) => Ok(()),
                    None => Err(anyhow::anyhow!("no node is left running")),
                };
            }
        };
        ClusterFile::remove(&self.plan.data_dir).context("cannot remove cluster.json")?;
        outcome
    }

    fn start(&mut self, id: u64) -> anyhow::Result<()> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        node.starts += 1;
        node.restart_at = None;
        let (starts, tell) = (node.starts, self.tell.clone());
        let ended = move |status| {
            // From a task of its own, so that a full channel does not hold up the caller.
            tokio::spawn(async move {
                tell.send(Event::Ended {
                    node: id,
                    starts,
                    status,
                })
                .await
            });
        };
        let process = Process::spawn(&node.plan, &self.plan.nodes, &self.plan.node_flags, ended)
            .with_context(|| format!("cannot start {}", node.plan.name()))?;
        let now = Instant::now();
        node.pid = process.pid;
        node.started = Some(now);
        node.process = Some(process);
        let channel = watcher::channel(&node.plan.client_url())?;
        let seen = move |observation| Event::Seen {
            starts,
            observation,
        };
        node.watcher = Some(tokio::spawn(watcher::follow(
            id,
            channel,
            self.tell.clone(),
            seen,
        )));
        if starts > 1 {
            let name = node.plan.name();
            self.screen
                .event(format!("{name} is started again (process {})", node.pid));
        }
        let news = self.view.observe(now, Observation::Started(id));
        self.publish_news(news);
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Seen {
                starts,
                observation,
            } => {
                let id = match &observation {
                    Observation::Started(id)
                    | Observation::Exited(id, _)
                    | Observation::Report(id, _)
                    | Observation::Silent(id) => *id,
                };
                let current = |node: &Node| node.starts == starts && node.process.is_some();
                // A node that is being stopped closes its streams before it ends.
                let expected =
                    self.stopping.is_some() && matches!(observation, Observation::Silent(_));
                if !expected && self.nodes.get(&id).is_some_and(current) {
                    let news = self.view.observe(now, observation);
                    self.publish_news(news);
                }
            }
            Event::Ended {
                node: id,
                starts,
                status,
            } => {
                let Some(node) = self.nodes.get_mut(&id) else {
                    return;
                };
                if node.starts == starts {
                    self.on_end(now, id, status);
                }
            }
        }
    }

    fn on_end(&mut self, now: Instant, id: u64, status: ExitStatus) {
        let served = self.view.serves(id);
        let news = self
            .view
            .observe(now, Observation::Exited(id, describe(status)));
        self.publish_news(news);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if let Some(watcher) = node.watcher.take() {
            watcher.abort();
        }
        let output = node
            .process
            .take()
            .map(|process| process.output_tail())
            .unwrap_or_default();
        if self.stopping.is_some() {
            return;
        }
        if !status.success() && status.code().is_some() && !output.is_empty() {
            let log_file = node.plan.log_file.display();
            self.screen.plain(format!(
                "           last lines of {log_file}:\n{}",
                indent(&output)
            ));
        }
        let quick = node
            .started
            .is_some_and(|started| now - started < FAILED_START);
        node.failures = if quick && !served {
            node.failures + 1
        } else {
            0
        };
        if status.code() == Some(i32::from(EXIT_REFUSED)) {
            self.screen.event(format!(
                "{} is not started again: it refuses its configuration",
                node.plan.name()
            ));
            return;
        }
        match self.plan.restart_after {
            None => {}
            Some(delay) => {
                let delay = restart::delay(delay, node.failures);
                node.restart_at = Some(now + delay);
                self.screen.event(format!(
                    "{} is started again in {}",
                    node.plan.name(),
                    short(delay)
                ));
            }
        }
    }

    /// Does what is due.
    fn on_time(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.stopping.is_some() {
            self.stop_next(now);
            return Ok(());
        }
        let due: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.restart_at.is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in &due {
            self.start(*id)?;
        }
        if !due.is_empty() {
            self.write_cluster_file()?;
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stop = self
            .stopping
            .as_ref()
            .and_then(|stopping| stopping.current)
            .map(|(_, at)| at);
        self.nodes
            .values()
            .filter_map(|node| node.restart_at)
            .chain(stop)
            .min()
    }

    fn on_signal(&mut self, name: &str) {
        if self.stopping.is_some() {
            self.screen
                .event(format!("{name} again: all nodes are killed"));
            for node in self.nodes.values() {
                if let Some(process) = &node.process {
                    process.signal(libc::SIGKILL);
                }
            }
        } else {
            self.screen.event(format!(
                "{name}: all nodes are stopped; leaders hand over first"
            ));
            self.stop();
        }
    }

    fn signal(&self, id: u64, signal: libc::c_int) {
        if let Some(process) = self.nodes.get(&id).and_then(|node| node.process.as_ref()) {
            process.signal(signal);
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { current: None });
            for node in self.nodes.values_mut() {
                node.restart_at = None;
            }
        }
    }

    /// Kills who takes too long to stop, and begins with the next when one has stopped.
    fn stop_next(&mut self, now: Instant) {
        let current = self.stopping.as_ref().and_then(|stopping| stopping.current);
        if let Some((id, deadline)) = current
            && let Some(process) = self.nodes.get(&id).and_then(|node| node.process.as_ref())
        {
            if deadline > now {
                return;
            }
            self.screen
                .event(format!("node-{id} has not stopped in time: it is killed"));
            process.signal(libc::SIGKILL);
        }
        let leaders = self.view.leaders();
        let led = |id: u64| leaders.iter().filter(|leader| **leader == Some(id)).count();
        let next = self
            .nodes
            .iter()
            .filter(|(id, node)| {
                node.process.is_some() && current.is_none_or(|(stopped, _)| stopped != **id)
            })
            .map(|(id, _)| *id)
            .max_by_key(|id| led(*id))
            // Only the one that has just been killed is left: its end is a matter of moments.
            .or(current
                .map(|(id, _)| id)
                .filter(|id| self.nodes[id].process.is_some()));
        let deadline = now + Duration::from_millis(NODE_STOP_MS_MAX);
        if let Some(id) = next.filter(|id| current.is_none_or(|(stopped, _)| stopped != *id)) {
            self.signal(id, libc::SIGTERM);
        }
        self.stopping = Some(Stopping {
            current: next.map(|id| (id, deadline)),
        });
    }
}

fn indent(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| format!("           | {line}"))
        .collect();
    lines.join("\n")
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
