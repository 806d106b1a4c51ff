//! One run from its scenario to its verdict: makes the directory, starts the cluster, runs, judges,
//! writes the evidence, and leaves nothing running.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    Observed, Options, RunError,
    conclusion::{self, RUN, STATES, write_json},
    run,
    scenario::{ClusterKind, Scenario},
};
use crate::{
    cluster::{
        Cluster, Node,
        existing::ExistingCluster,
        local::{LocalCluster, LocalOptions},
        netns::{NetnsCluster, NetnsOptions, Topology},
    },
    evidence::{
        self, Results, Run,
        progress::{Progress, Stage},
    },
    history::jsonl::Recorder,
    journal::Journal,
    terminal,
    workload::Settings,
};

/// How long removing the keys of a run from an existing cluster may take.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// File with the events of a run.
pub const HISTORY: &str = "history.jsonl";

/// Why a run came to no verdict.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The directory of the run cannot be used.
    #[error("{path}: {error}")]
    Directory {
        /// Path of the directory.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The directory holds a run already.
    #[error("{0} holds a run already; give another --out")]
    Occupied(PathBuf),
    /// The cluster could not be started or reached.
    #[error("{0}")]
    Cluster(String),
    /// The run broke off.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The judges broke off: a fault of the harness.
    #[error("judging failed: {0}")]
    Judge(#[from] tokio::task::JoinError),
}

/// Runs a scenario in `dir`, which must not hold a run, and writes its evidence there.
///
/// # Errors
///
/// No verdict was reached. The cluster is shut down, and what was seen until then is in `dir`.
pub async fn run_scenario(
    scenario: &Scenario,
    seed: u64,
    dir: &Path,
    interrupted: watch::Receiver<bool>,
) -> Result<Results, SessionError> {
    let directory = |error| SessionError::Directory {
        path: dir.to_owned(),
        error,
    };
    fs::create_dir_all(dir).map_err(directory)?;
    let dir = dir.canonicalize().map_err(directory)?;
    let started = SystemTime::now();
    let history = dir.join(HISTORY);
    if history.exists() {
        return Err(SessionError::Occupied(dir));
    }
    let cluster = start(scenario, seed, &dir).await?;
    let observed = observe(scenario, seed, &dir, &cluster, interrupted, started);
    let concluded = AssertUnwindSafe(observed).catch_unwind().await;
    // A mistake of the harness is no reason to leave a cluster broken either.
    cluster.shut_down().await;
    concluded.unwrap_or_else(|panic| resume_unwind(panic))
}

async fn observe(
    scenario: &Scenario,
    seed: u64,
    dir: &Path,
    cluster: &Arc<dyn Cluster>,
    interrupted: watch::Receiver<bool>,
    started: SystemTime,
) -> Result<Results, SessionError> {
    let options = Options {
        settings: Settings {
            workload: scenario.workload,
            seed,
            concurrency: scenario.concurrency,
            keys: scenario.keys(),
            operations_per_key: scenario.ops_per_key,
            value_bytes: scenario.value_bytes,
            timeout: scenario.timeout,
        },
        nemeses: scenario.nemeses(),
        time: scenario.time,
        rate: scenario.rate,
        interval: scenario.interval,
        hold: scenario.hold,
        blast_radius: scenario.blast_radius,
        stop_when_invalid: scenario.stop_when_invalid,
        log_bytes_max: scenario.log_mib_max.map(|mib| mib << 20),
        dir: dir.to_owned(),
        // Another run against the same cluster, even with the same seed, has other keys.
        prefix: format!("jepsen/{:x}", unix_millis(started)),
        stage: Stage::default(),
    };
    let path = dir.join(HISTORY);
    let recorder = Recorder::create(&path).map_err(|error| RunError::File { path, error })?;
    let recorder = Arc::new(recorder);
    let began_unix_ms = u64::try_from(unix_millis(SystemTime::now())).unwrap_or(u64::MAX);
    let name = format!("{}, {}", scenario.workload, scenario.nemesis);
    let progress = Progress::start(
        &name,
        recorder.clone(),
        scenario.time,
        options.stage.clone(),
    );
    let mut described = Run {
        workload: scenario.workload.to_string(),
        nemeses: options.nemeses.iter().map(|n| n.name.clone()).collect(),
        options: option_table(scenario, seed),
        seed,
        command: scenario.command(seed),
        cluster: cluster.describe(),
        nodes: cluster.nodes().to_vec(),
        started_at: humantime::format_rfc3339_seconds(started).to_string(),
        duration_seconds: 0.0,
        began_unix_ms,
        leaders: Vec::new(),
        groups: Vec::new(),
        expected: scenario.expected,
    };
    let path = dir.join(RUN);
    write_json(&path, &described).map_err(|error| RunError::File { path, error })?;
    let began = std::time::Instant::now();
    let observed = run(&options, cluster.clone(), recorder, interrupted).await;
    if scenario.cluster == ClusterKind::Existing {
        options.stage.enter("removing the keys of this run");
        if let Err(error) = remove_keys(&options.prefix, cluster.nodes()).await {
            let left = format!("{error}; remove {}/ by hand", options.prefix);
            terminal::note(format_args!(
                "keys of this run are left in the cluster: {left}"
            ));
            described
                .options
                .insert("keys left in the cluster".to_owned(), left);
        }
    }
    drop(progress);
    let observed = observed?;
    described.duration_seconds = began.elapsed().as_secs_f64();
    described.leaders.clone_from(&observed.leaders.all);
    described.groups.clone_from(&observed.leaders.of_groups);
    let (limit, dir) = (scenario.check_limit, dir.to_owned());
    spawn_blocking(move || {
        let Observed {
            history, aftermath, ..
        } = observed;
        let written = write_json(&dir.join(STATES), &aftermath.states);
        let results = conclusion::draw(described, &history, aftermath, limit);
        written
            .and_then(|()| evidence::write_all(&dir, &history, &results))
            .map_err(|error| SessionError::Directory { path: dir, error })?;
        Ok(results)
    })
    .await?
}

/// Removes what a run has written to a cluster that was there before and stays. No judge looks at it
/// any more.
async fn remove_keys(prefix: &str, nodes: &[Node]) -> Result<(), holdfast_client::Error> {
    let client = holdfast_client::Client::builder()
        .endpoints(nodes.iter().map(|node| &node.endpoint))
        .discover(false)
        .timeout(REMOVED_WITHIN)
        .connect_lazy()?;
    client.delete(format!("{prefix}/")).prefix().await?;
    Ok(())
}

/// Starts the cluster of a scenario, or reaches the one that is there.
async fn start(
    scenario: &Scenario,
    seed: u64,
    dir: &Path,
) -> Result<Arc<dyn Cluster>, SessionError> {
    let fault = |error: &dyn std::fmt::Display| SessionError::Cluster(error.to_string());
    Ok(match scenario.cluster {
        ClusterKind::Local => {
            let options = LocalOptions {
                target: scenario.target,
                bin: scenario.bin.clone(),
                nodes: scenario.nodes as usize,
                zones: scenario.zones.map(|zones| zones as usize),
                dir: dir.to_owned(),
                extra_args: scenario.server_arg.clone(),
                env: scenario.server_env.clone(),
                nofile: scenario.nofile,
                preload: true,
                power_cuts: scenario.cuts_power(),
                seed,
            };
            let cluster = LocalCluster::start(options).await;
            Arc::new(cluster.map_err(|e| fault(&e))?)
        }
        ClusterKind::Netns => {
            let options = NetnsOptions {
                target: scenario.target,
                bin: scenario.bin.clone(),
                nodes: scenario.nodes as usize,
                zones: scenario.zones.map(|zones| zones as usize),
                dir: dir.to_owned(),
                extra_args: scenario.server_arg.clone(),
                env: scenario.server_env.clone(),
                nofile: scenario.nofile,
                tmpfs_bytes: scenario.disk_mib.map(|mib| mib << 20),
                preload: true,
                power_cuts: scenario.cuts_power(),
            };
            let topology = Topology::from_environment().map_err(|e| fault(&e))?;
            let topology =
                topology.ok_or_else(|| fault(&"this process is in no network of its own"))?;
            let cluster = NetnsCluster::attach(topology, options).await;
            Arc::new(cluster.map_err(|e| fault(&e))?)
        }
        ClusterKind::Existing => {
            let file = scenario.cluster_file.as_deref();
            let file = file.expect("the command line asks for the file");
            let journal = Journal::open(dir).map_err(|error| SessionError::Directory {
                path: dir.to_owned(),
                error,
            })?;
            let cluster = ExistingCluster::connect(file, journal).await;
            Arc::new(cluster.map_err(|e| fault(&e))?)
        }
    })
}

fn unix_millis(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis()
}

fn option_table(scenario: &Scenario, seed: u64) -> BTreeMap<String, String> {
    let args = scenario.arguments(seed);
    let flags = args.iter().filter_map(|arg| arg.strip_prefix("--"));
    let mut table: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in flags.filter_map(|flag| flag.split_once('=')) {
        let known = table.entry(name.to_owned()).or_default();
        if !known.is_empty() {
            known.push(' ');
        }
        known.push_str(value);
    }
    table
}
