//! One run: a workload against a cluster under nemeses, and what came of it.
//!
//! ```text
//!  setup ─▶ load ───────────────────────────────────────────▶ stop ─▶ final reads ─▶ states ─▶ verdict
//!             └─▶ nemeses: break, heal, break, heal … ─▶ heal all
//! ```
//!
//! - The load goes on while everything is healed, so that the recovery is seen by clients.
//! - The final reads and the states of the nodes are taken when nothing is broken any more; a node
//!   that does not come back then is a finding, not an error of the harness.
//! - Whatever happens, the cluster is shut down by the caller and the history is on disk.

pub mod conclusion;
mod footprint;
pub mod heal;
pub mod judge;
pub mod leaders;
pub mod scenario;
pub mod session;
pub mod worker;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{Mutex, RwLock, watch},
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use self::{
    conclusion::Aftermath,
    footprint::Footprint,
    judge::judge,
    leaders::Leaders,
    worker::{Processes, Worker, client},
};
use crate::{
    checker::{Verdict, convergence::NodeState},
    cluster::{Cluster, Node, target::Target},
    evidence::progress::Stage,
    history::{History, Kind, NodeId, Op, What, jsonl::Recorder},
    nemesis::{ActiveFaults, BlastRadius, Nemesis, Observer, Plan, schedule},
    workload::{self, Generator, Settings, repeat::Repeater, store::Store},
};

/// Share of the time of a run, in the end, in which nothing is broken any more.
const CALM_SHARE: f64 = 0.15;
/// Bounds of that time.
const CALM: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long a question of the final phase may take, retries included.
const FINAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long all nodes have to serve again, and then to agree, after everything was healed.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(45);
/// Time between two judgements while a run goes on.
const JUDGE_EVERY: Duration = Duration::from_secs(2);
/// How long a search may take then.
const JUDGE_LIMIT: Duration = Duration::from_secs(5);
/// Final reads that are made at the same time.
const FINAL_READERS: usize = 6;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// What clients ask.
    pub settings: Settings,
    /// What is broken.
    pub nemeses: Vec<Nemesis>,
    /// Duration of the load.
    pub time: Duration,
    /// Operations per second of all workers together; 0 for as many as are answered.
    pub rate: f64,
    /// Time between two faults of a nemesis, on average.
    pub interval: Duration,
    /// Time for which a fault is held, on average.
    pub hold: Duration,
    /// Most nodes that nemeses may take at the same time.
    pub blast_radius: BlastRadius,
    /// Judge while it goes on, and end as soon as something is wrong.
    pub stop_when_invalid: bool,
    /// Bytes that the log of each node may take on its disk.
    pub log_bytes_max: Option<u64>,
    /// Where `history.jsonl` goes.
    pub dir: PathBuf,
    /// Before every key of this run.
    pub prefix: String,
    /// Where it says what it waits for.
    pub stage: Stage,
}

/// What a run saw.
pub struct Observed {
    /// What happened.
    pub history: History,
    /// What else its verdict rests on.
    pub aftermath: Aftermath,
    /// Who led when.
    pub leaders: Leaders,
}

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file of the run.
    #[error("{path}: {error}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// A client could not be made.
    #[error("a client cannot be made: {0}")]
    Client(#[from] holdfast_client::Error),
    /// A client that repeats requests cannot be made.
    #[error("a client that repeats requests cannot be made: {0}")]
    Repeater(tonic::transport::Error),
    /// What must be there before the load could not be written.
    #[error("the setup of the workload failed: {0}")]
    Setup(String),
    /// A worker or a nemesis panicked: a fault of the harness.
    #[error("a task of the harness failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why the load ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    TimeIsUp,
    /// Something is wrong already; there is nothing more to learn.
    Invalid,
    Interrupted,
}

/// Waits until the checkers find something wrong in what has happened so far.
async fn first_anomaly(recorder: &Recorder) {
    loop {
        sleep(JUDGE_EVERY).await;
        let events = recorder.with_events(<[_]>::to_vec);
        let findings = spawn_blocking(move || judge(&History { events }, None, JUDGE_LIMIT)).await;
        // A judge that panics is met again at the end of the run, and told there.
        let findings = findings.unwrap_or_default();
        if findings.iter().any(|f| f.verdict == Verdict::Invalid) {
            return;
        }
    }
}

/// Runs a workload against a cluster that serves. `interrupted` ends the load early, and heals.
///
/// # Errors
///
/// The harness could not do its work. What the cluster did wrong is no error here.
pub async fn run(
    options: &Options,
    cluster: Arc<dyn Cluster>,
    recorder: Arc<Recorder>,
    mut interrupted: watch::Receiver<bool>,
) -> Result<Observed, RunError> {
    let nodes = cluster.nodes().to_vec();
    let observer = Observer::new(&nodes)?;
    let active = ActiveFaults::new(cluster.clone(), observer).within(options.blast_radius);
    let shared = Arc::new(schedule::Shared {
        active,
        recorder: recorder.clone(),
        plan: Plan {
            interval: options.interval,
            hold: options.hold,
            seed: options.settings.seed,
        },
        faults: AtomicU64::new(1),
        turn: RwLock::default(),
    });
    let processes = Arc::new(Processes::after(options.settings.concurrency));
    let team = Team {
        options,
        nodes: &nodes,
        recorder: &recorder,
        processes: &processes,
        knows_retry_ids: cluster.describe().target == Target::Holdfast.to_string(),
    };
    if team.knows_retry_ids {
        let led = leaders::until_all_are_led(shared.active.observer()).await;
        led.map_err(RunError::Setup)?;
    }
    team.set_up().await?;

    let (stop_load, load_stopped) = watch::channel(false);
    let (stop_nemeses, nemeses_stopped) = watch::channel(false);
    let mut load = JoinSet::new();
    let every = match options.rate {
        rate if rate > 0.0 => Duration::from_secs_f64(options.settings.concurrency as f64 / rate),
        _ => Duration::ZERO,
    };
    for number in 0..options.settings.concurrency {
        let worker = team.worker(number)?;
        let generator = Generator::new(&options.settings, number);
        load.spawn(worker.work(generator, every, load_stopped.clone()));
    }
    let leaders = tokio::spawn(leaders::watch_leaders(
        shared.active.observer().clone(),
        recorder.clone(),
        team.knows_retry_ids,
        load_stopped.clone(),
    ));
    let mut torment = JoinSet::new();
    for (number, nemesis) in options.nemeses.iter().enumerate() {
        let stop = nemeses_stopped.clone();
        torment.spawn(schedule::torment(
            shared.clone(),
            nemesis.clone(),
            number as u64,
            stop,
        ));
    }

    let footprint = options
        .log_bytes_max
        .map(|most| Footprint::watch(cluster.clone(), most));

    let calm = options.time.mul_f64(CALM_SHARE).clamp(CALM.0, CALM.1);
    let ended = tokio::select! {
        () = sleep(options.time.saturating_sub(calm)) => Ended::TimeIsUp,
        () = first_anomaly(&recorder), if options.stop_when_invalid => Ended::Invalid,
        _ = interrupted.wait_for(|yes| *yes) => Ended::Interrupted,
    };
    stop_nemeses.send_replace(true);
    while let Some(ended) = torment.join_next().await {
        ended?;
    }
    let mut shortcomings = Vec::new();
    let healed = shared.active.heal_all().await;
    if let Err(e) = &healed {
        shortcomings.push(format!("not everything could be healed: {e}"));
    }
    if ended == Ended::TimeIsUp {
        sleep(calm).await;
    }
    stop_load.send_replace(true);
    while let Some(ended) = load.join_next().await {
        ended?;
    }

    if let Some(footprint) = footprint {
        shortcomings.extend(footprint.finish().await?);
    }

    let leaders = leaders.await?;
    let out = shared.active.out().await;
    let taking_part: Vec<Node> = nodes
        .iter()
        .filter(|node| !out.contains_key(&node.id))
        .cloned()
        .collect();
    let last_looks = async {
        options.stage.enter("waiting until all nodes serve");
        let absent = team.recovered(&shared.active, &taking_part).await;
        options.stage.enter("reading everything once more");
        team.read_finally(&taking_part, &absent).await?;
        options.stage.enter("waiting until all nodes hold the same");
        Ok::<_, RunError>(match healed {
            Ok(()) => team.states(&shared.active, &taking_part, absent).await,
            // What is still broken by our hand says nothing against a node.
            Err(_) => Vec::new(),
        })
    };
    let states = match ended {
        Ended::TimeIsUp => tokio::select! {
            states = last_looks => Some(states?),
            _ = interrupted.wait_for(|yes| *yes) => None,
        },
        Ended::Invalid => Some(Vec::new()),
        Ended::Interrupted => None,
    };
    if states.is_none() {
        shortcomings.push("it was interrupted".to_owned());
    }
    let states = states.unwrap_or_default();
    let history = recorder.finish().map_err(|error| RunError::File {
        path: options.dir.join("history.jsonl"),
        error,
    })?;
    Ok(Observed {
        history,
        aftermath: Aftermath {
            states,
            out,
            shortcomings,
        },
        leaders,
    })
}

/// Who asks in a run.
struct Team<'a> {
    options: &'a Options,
    nodes: &'a [Node],
    recorder: &'a Arc<Recorder>,
    processes: &'a Arc<Processes>,
    /// The store promises that a request under a retry id takes effect once.
    knows_retry_ids: bool,
}

impl Team<'_> {
    fn store(&self, client: holdfast_client::Client) -> Store {
        Store {
            client,
            prefix: self.options.prefix.clone(),
            repeater: None,
            value_bytes: self.options.settings.value_bytes,
        }
    }

    /// The n-th worker: bound to one node, unless its workload is about finding one that answers.
    /// Every second one is a stock client, or repeats what was answered already.
    fn worker(&self, number: u64) -> Result<Worker, RunError> {
        let settings = &self.options.settings;
        let node = &self.nodes[number as usize % self.nodes.len()];
        let bound = (!settings.workload.retries()).then_some(node);
        let odd = number % 2 == 1;
        let stock = odd && !settings.workload.retries();
        let mut store = self.store(client(self.nodes, bound, settings, stock)?);
        if odd && self.knows_retry_ids && settings.workload.retries() {
            let endpoints: Vec<String> = self.nodes.iter().map(|n| n.endpoint.clone()).collect();
            let seed = settings.seed ^ (number << 32);
            let repeater = Repeater::new(&endpoints, seed, settings.timeout);
            let repeater = repeater.map_err(RunError::Repeater)?;
            store.repeater = Some(Arc::new(Mutex::new(repeater)));
        }
        Ok(Worker {
            process: number,
            node: bound.map_or(0, |node| node.id),
            store,
            recorder: self.recorder.clone(),
            processes: self.processes.clone(),
        })
    }

    /// A worker that asks one node with patience, or any if that one is absent.
    fn patient(&self, node: Option<&Node>) -> Result<Worker, RunError> {
        let endpoints: Vec<&String> = match node {
            Some(node) => vec![&node.endpoint],
            None => self.nodes.iter().map(|node| &node.endpoint).collect(),
        };
        let client = holdfast_client::Client::builder()
            .endpoints(endpoints)
            .discover(false)
            .timeout(FINAL_TIMEOUT)
            .connect_lazy()?;
        Ok(Worker {
            process: self.processes.fresh(),
            node: node.map_or(0, |node| node.id),
            store: self.store(client),
            recorder: self.recorder.clone(),
            processes: self.processes.clone(),
        })
    }

    async fn set_up(&self) -> Result<(), RunError> {
        let mut worker = self.patient(None)?;
        for op in workload::setup(&self.options.settings) {
            let done = worker.ask(&op, false).await;
            if done.kind != Kind::Ok {
                let why = done.error.unwrap_or_default();
                return Err(RunError::Setup(why));
            }
        }
        Ok(())
    }

    /// Waits until all nodes serve. Returns those that do not, and why.
    async fn recovered(&self, active: &ActiveFaults, nodes: &[Node]) -> BTreeMap<NodeId, String> {
        let waits = nodes.iter().map(async |node| {
            let served = active
                .observer()
                .until_serving(&node.direct, RECOVERY_PATIENCE)
                .await;
            served.err().map(|why| (node.id, why))
        });
        let mut absent: BTreeMap<NodeId, String> = futures_util::future::join_all(waits)
            .await
            .into_iter()
            .flatten()
            .collect();
        for node in active.ended_by_themselves().await {
            absent.insert(node, "its process ended by itself".to_owned());
        }
        absent
    }

    /// Reads everything that was touched, through the nodes that serve.
    async fn read_finally(
        &self,
        nodes: &[Node],
        absent: &BTreeMap<NodeId, String>,
    ) -> Result<(), RunError> {
        let there: Vec<&Node> = nodes
            .iter()
            .filter(|node| !absent.contains_key(&node.id))
            .collect();
        if there.is_empty() {
            return Ok(());
        }
        let ids: Vec<NodeId> = there.iter().map(|node| node.id).collect();
        let used: Vec<Op> = self.recorder.with_events(|events| {
            let ops = events.iter().filter_map(|event| match &event.what {
                What::Client(client) if client.kind == Kind::Invoke => Some(client.op.clone()),
                _ => None,
            });
            ops.collect()
        });
        let reads = workload::final_reads(&self.options.settings, &ids, used.iter());
        let mut readers = JoinSet::new();
        let reads_by_node = there.iter().flat_map(|node| {
            let of_node = reads.iter().filter(|(id, _)| *id == node.id);
            let ops: Vec<Op> = of_node.map(|(_, op)| op.clone()).collect();
            let share = ops.len().div_ceil(FINAL_READERS / 3).max(1);
            let shares: Vec<Vec<Op>> = ops.chunks(share).map(<[Op]>::to_vec).collect();
            shares.into_iter().map(move |share| (*node, share))
        });
        for (node, share) in reads_by_node {
            let mut worker = self.patient(Some(node))?;
            readers.spawn(async move {
                for op in &share {
                    worker.ask(op, true).await;
                }
            });
        }
        while let Some(ended) = readers.join_next().await {
            ended?;
        }
        Ok(())
    }

    async fn states(
        &self,
        active: &ActiveFaults,
        nodes: &[Node],
        absent: BTreeMap<NodeId, String>,
    ) -> Vec<NodeState> {
        let there = nodes.iter().filter(|node| !absent.contains_key(&node.id));
        let there: Vec<NodeId> = there.map(|node| node.id).collect();
        let mut states = active.observer().states(&there, RECOVERY_PATIENCE).await;
        states.extend(absent.into_iter().map(|(node, why)| NodeState {
            node,
            revision: 0,
            hash: 0,
            compact_revision: 0,
            error: Some(why),
        }));
        states.sort_by_key(|state| state.node);
        states
    }
}
