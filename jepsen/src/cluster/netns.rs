//! A cluster of processes on this machine, each in a network namespace of its own, for faults that
//! a proxy cannot make: packets that are lost, links that are cut in one direction below TCP,
//! resets that neither end has sent, and full disks. Needs root, Linux, `ip` and `nft`.
//!
//! ```text
//!   hub: workload ── 198.18.0.1:2379 ──▶ ┌────────┐ ◀── 198.18.0.1:2380 ── other nodes
//!                                        │ node 1 │
//!        harness ─── 198.18.1.1:2379 ──▶ └────────┘
//!                                        dir/node-1/ (a tmpfs): data/, ballast
//!                                        dir/node-1.log
//! ```
//!
//! The network is described in `netns/topology.rs`, the faults of links in `netns/rules.rs`, disks in
//! `netns/tmpfs.rs`, and how the harness gets among all this in `netns/enter.rs`.
//!
//! What holds here:
//!
//! - Nothing outlives the cluster: dropping it kills the nodes and unmounts their disks before it
//!   returns. What is in a tmpfs is lost with it; logs are kept.
//! - The faults of links never touch what the harness asks a node under its `direct` address.
//! - Which packets are lost is the kernel's choice, and not repeated by a seed.

mod enter;
mod rules;
mod tmpfs;
mod tools;
mod topology;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use holdfast_client::Client;
use parking_lot::Mutex;
use tokio::time::sleep;

pub use enter::{Entered, GRACE, enter, run_inside};
pub use topology::{NODES_MAX, Network, Topology, VARIABLE, run_in};

use self::{
    rules::Rules,
    tmpfs::Disk,
    tools::{Refusal, Tools},
};
use super::{
    ClockFault, Cluster, Description, End, FaultError, Link, LinkFault, Node, SyncFault,
    local::zone_name,
    preload::Preload,
    process::{Launch, Process},
    target::{BinaryError, Member, NodeArguments, Target},
};
use crate::history::NodeId;

/// Room for a node's data unless told otherwise: enough for minutes of a workload, and filled in
/// well under a second.
pub const TMPFS_BYTES: u64 = 256 << 20;
/// Where nodes listen for clients. Their namespaces have all ports free.
const CLIENT_PORT: u16 = 2379;
/// Where nodes listen for each other.
const PEER_PORT: u16 = 2380;
/// How long a new cluster may take until all nodes serve.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to stop when asked: more than handing over all leaderships takes.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long one question to a starting node may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Time between two looks at a starting node.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a node's log that an error shows.
const LOG_TAIL_LINES: usize = 15;

/// Why there is no cluster in network namespaces. Nothing of it runs or is left.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// An option makes no sense.
    #[error("{0}")]
    Options(String),
    /// Another user than root.
    #[error(
        "network namespaces need root, and this is user {user}: run it with sudo, or choose the \
         local cluster, which needs no privileges"
    )]
    NotRoot {
        /// The effective user id.
        user: u32,
    },
    /// A program is missing.
    #[error(
        "found no program `{tool}` in PATH, /usr/local/sbin, /usr/sbin and /sbin: install \
         {package}, or choose the local cluster, which does not need it"
    )]
    NoTool {
        /// The program.
        tool: &'static str,
        /// The package that has it, as most distributions call it.
        package: &'static str,
    },
    /// The kernel does not let us, or cannot.
    #[error("cannot {what}: {reason} ({remedy})")]
    Refused {
        /// What was wanted.
        what: &'static str,
        /// The command, and what it said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The variable with the description of the network does not hold one.
    #[error("the variable {VARIABLE} is not for you to set; unset it (`{text}`: {reason})")]
    Variable {
        /// What it holds.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The harness is not in the network that it was told of.
    #[error(
        "this is not the network namespace {hub}, in which the nodes can be reached; if you have \
         set the variable {VARIABLE}, unset it"
    )]
    Outside {
        /// Where it should be.
        hub: String,
    },
    /// There is no such namespace, or this thread may not enter it.
    #[error("cannot enter the network namespace {name}: {error}")]
    NoEntry {
        /// Its name.
        name: String,
        /// How it was refused.
        error: io::Error,
    },
    /// There is no program to start.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The machine refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was refused.
        what: String,
        /// How.
        error: io::Error,
    },
    /// The nodes do not serve; with the ends of their logs.
    #[error("{0}")]
    NotServing(String),
}

impl NetnsError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| NetnsError::Io { what, error }
    }

    fn refused(what: &'static str, refusal: Refusal) -> Self {
        let forbidden = ["Operation not permitted", "Permission denied"];
        let is_forbidden = forbidden.iter().any(|text| refusal.output.contains(text));
        NetnsError::Refused {
            what,
            reason: refusal.to_string(),
            remedy: match is_forbidden {
                true => {
                    "root lacks the capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN here, as in most \
                     containers; choose the local cluster, which does not need them"
                }
                false => "the kernel may lack it; choose the local cluster, which does not need it",
            },
        }
    }
}

/// What a cluster in network namespaces is made of.
#[derive(Clone, Debug)]
pub struct NetnsOptions {
    /// What the nodes run.
    pub target: Target,
    /// Its program; see [`Target::find`] for what happens without.
    pub bin: Option<PathBuf>,
    /// Number of nodes: as many as the network was made for.
    pub nodes: usize,
    /// Number of zones that the nodes are dealt to in turn; as many as nodes if it is not given.
    pub zones: Option<usize>,
    /// Directory for data and logs; made if it is not there, and without a cluster so far.
    pub dir: PathBuf,
    /// Arguments that every node gets besides.
    pub extra_args: Vec<String>,
    /// Variables that every node gets besides.
    pub env: Vec<(String, String)>,
    /// Size of the tmpfs that each node keeps its data in, such as [`TMPFS_BYTES`]. Without it,
    /// data is in the directory itself and no disk can be filled.
    pub tmpfs_bytes: Option<u64>,
    /// Load the libraries that faults of syncs, clocks and power need.
    pub preload: bool,
}

/// A cluster of processes in network namespaces.
///
/// - `nodes` and `members` have the same ids in the same order, and so has `disks` if there are any.
/// - `processes` has every process that was started and not yet seen to end.
/// - Disks are unmounted after the processes have ended.
pub struct NetnsCluster {
    options: NetnsOptions,
    topology: Topology,
    ip: PathBuf,
    bin: PathBuf,
    version: String,
    nodes: Vec<Node>,
    members: Vec<Member>,
    processes: Mutex<BTreeMap<NodeId, Arc<Process>>>,
    disks: Arc<Mutex<BTreeMap<NodeId, Disk>>>,
    rules: Arc<Rules>,
    preload: Option<Preload>,
}

impl NetnsCluster {
    /// Starts all nodes in an existing network, whose hub the caller is in, and waits until they
    /// serve, at most a minute.
    ///
    /// # Errors
    ///
    /// The options do not fit the network or the directory, the caller is not in the hub, there is
    /// no program, or the nodes do not serve.
    pub async fn attach(topology: Topology, options: NetnsOptions) -> Result<Self, NetnsError> {
        topology.check_inside()?;
        let (nodes, zones) = (options.nodes, options.zones.unwrap_or(options.nodes));
        if nodes != topology.nodes() || zones == 0 || zones > nodes {
            return Err(NetnsError::Options(format!(
                "{nodes} nodes in {zones} zones do not fit a network of {}; there must be from one \
                 zone to as many as nodes",
                topology.nodes()
            )));
        }
        let bin = options.target.find(options.bin.as_deref())?;
        let version = options.target.version(&bin).await?;
        let mut cluster = Self::assemble(topology, options, bin, version)?;
        cluster.prepare_files()?;
        match cluster.come_up().await {
            Ok(()) => Ok(cluster),
            Err(missing) => {
                let logs = cluster.log_tails();
                cluster.shut_down().await;
                Err(NetnsError::NotServing(format!("{missing}{logs}")))
            }
        }
    }

    fn assemble(
        topology: Topology,
        options: NetnsOptions,
        bin: PathBuf,
        version: String,
    ) -> Result<Self, NetnsError> {
        let tools = Tools::find()?;
        let zones = options.zones.unwrap_or(options.nodes);
        let (mut nodes, mut members) = (Vec::new(), Vec::new());
        for id in 1..=options.nodes as NodeId {
            let end = End::Node(id);
            let (address, direct) = (topology::address(end), topology::direct_address(end));
            let zone = zone_name((id as usize - 1) % zones);
            nodes.push(Node {
                id,
                zone: zone.clone(),
                endpoint: format!("{address}:{CLIENT_PORT}"),
                direct: format!("{direct}:{CLIENT_PORT}"),
            });
            members.push(Member {
                id,
                zone,
                client_url: format!("http://{address}:{CLIENT_PORT}"),
                peer_url: format!("http://{address}:{PEER_PORT}"),
            });
        }
        Ok(Self {
            ip: tools.ip.clone(),
            rules: Arc::new(Rules::new(tools, &topology)),
            options,
            topology,
            bin,
            version,
            nodes,
            members,
            processes: Mutex::default(),
            disks: Arc::default(),
            preload: None,
        })
    }

    /// Directories, disks and libraries.
    fn prepare_files(&mut self) -> Result<(), NetnsError> {
        let in_dir = format!("cannot use the directory {}", self.options.dir.display());
        fs::create_dir_all(&self.options.dir).map_err(NetnsError::io(&in_dir))?;
        self.options.dir = self
            .options
            .dir
            .canonicalize()
            .map_err(NetnsError::io(&in_dir))?;
        if self.node_dir(1).exists() {
            return Err(NetnsError::Options(format!(
                "{} holds the data of a cluster already; give another directory",
                self.options.dir.display()
            )));
        }
        for node in &self.nodes {
            let dir = self.node_dir(node.id);
            fs::create_dir(&dir).map_err(NetnsError::io(&in_dir))?;
            if let Some(bytes) = self.options.tmpfs_bytes {
                let source = self.topology.namespace(node.id);
                let what = format!("cannot mount a tmpfs at {}", dir.display());
                let disk = Disk::mount(&source, &dir, bytes).map_err(NetnsError::io(what))?;
                self.disks.lock().insert(node.id, disk);
            }
        }
        if self.options.preload && self.options.target != Target::Etcd {
            let dir = self.options.dir.join("preload");
            let what = format!("cannot prepare the libraries in {}", dir.display());
            let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
            self.preload = Some(Preload::prepare(&dir, &ids).map_err(NetnsError::io(what))?);
        }
        Ok(())
    }

    /// Starts all nodes and waits until they serve.
    async fn come_up(&self) -> Result<(), String> {
        for node in &self.nodes {
            self.spawn(node.id).map_err(|error| error.to_string())?;
        }
        let begun = Instant::now();
        for node in &self.nodes {
            let client = Client::builder()
                .endpoints([&node.direct])
                .discover(false)
                .timeout(ANSWER_WITHIN)
                .connect_lazy()
                .map_err(|error| error.to_string())?;
            while let Err(error) = client.get("holdfast-jepsen").first().await {
                for (id, process) in self.processes.lock().iter() {
                    if let Some(status) = process.exit_status() {
                        return Err(format!("node {id} ended by itself: {status}"));
                    }
                }
                if begun.elapsed() > SERVING_WITHIN {
                    let id = node.id;
                    return Err(format!(
                        "node {id} does not serve within {SERVING_WITHIN:?}: {error}"
                    ));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    fn member(&self, node: NodeId) -> Result<&Member, FaultError> {
        let member = self.members.iter().find(|member| member.id == node);
        member.ok_or_else(|| FaultError::Failed(format!("there is no node {node}")))
    }

    fn process(&self, node: NodeId) -> Result<Option<Arc<Process>>, FaultError> {
        self.member(node)?;
        Ok(self.processes.lock().get(&node).cloned())
    }

    fn spawn(&self, node: NodeId) -> Result<(), FaultError> {
        let member = self.member(node)?;
        let data_dir = self.node_data(node);
        let target = self.options.target;
        let any = Ipv4Addr::UNSPECIFIED;
        let args = target.arguments(&NodeArguments {
            node: member,
            data_dir: &data_dir,
            // Both addresses of the node, faulty and direct.
            client_addr: SocketAddr::from((any, CLIENT_PORT)),
            peer_addr: SocketAddr::from((topology::address(End::Node(node)), PEER_PORT)),
            members: &self.members,
            extra: &self.options.extra_args,
        });
        // `env` puts the variables in force after `ip`, into which nothing is to be loaded.
        let mut words: Vec<OsString> = vec![self.ip.clone().into()];
        words.extend(["netns", "exec", &self.topology.namespace(node), "env"].map(Into::into));
        if let Some(preload) = &self.preload {
            for (name, value) in preload.environment(node, &data_dir) {
                let mut assignment = name;
                assignment.push("=");
                assignment.push(value);
                words.push(assignment);
            }
        }
        let pairs = self.options.env.iter();
        words.extend(pairs.map(|(name, value)| format!("{name}={value}").into()));
        let launch = Launch {
            program: self.bin.clone(),
            args,
            withheld: vec![target.variables().to_owned(), VARIABLE.to_owned()],
            env: Vec::new(),
            log: self.node_log(node),
        };
        let process = Process::spawn(&launch.behind(words))
            .map_err(|error| FaultError::Failed(format!("node {node} does not start: {error}")))?;
        self.processes.lock().insert(node, Arc::new(process));
        Ok(())
    }

    fn node_dir(&self, node: NodeId) -> PathBuf {
        self.options.dir.join(format!("node-{node}"))
    }

    /// Beside the ballast, which is no business of the node.
    fn node_data(&self, node: NodeId) -> PathBuf {
        self.node_dir(node).join("data")
    }

    fn node_log(&self, node: NodeId) -> PathBuf {
        self.options.dir.join(format!("node-{node}.log"))
    }

    fn log_tails(&self) -> String {
        let tails = self.nodes.iter().map(|node| tail(&self.node_log(node.id)));
        tails.collect()
    }

    fn preload(&self) -> Result<&Preload, FaultError> {
        if self.options.target == Target::Etcd {
            return Err(FaultError::Skipped(
                "etcd is a Go program, which calls the kernel and not libc, so nothing can be \
                 loaded between them"
                    .to_owned(),
            ));
        }
        self.preload.as_ref().ok_or_else(|| {
            FaultError::Skipped("the cluster was started without loading libraries".to_owned())
        })
    }
}

/// The end of a log, with a headline.
fn tail(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let log = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    format!("\n--- the end of {}\n{}", file.display(), tail.join("\n"))
}

fn failed(node: NodeId, what: &str) -> impl FnOnce(io::Error) -> FaultError {
    let text = format!("cannot {what} node {node}");
    move |error| FaultError::Failed(format!("{text}: {error}"))
}

/// Runs what blocks beside the tasks of the runtime.
async fn blocking(
    what: impl FnOnce() -> Result<(), FaultError> + Send + 'static,
) -> Result<(), FaultError> {
    tokio::task::spawn_blocking(what)
        .await
        .map_err(|error| FaultError::Failed(error.to_string()))?
}

#[async_trait]
impl Cluster for NetnsCluster {
    fn describe(&self) -> Description {
        Description {
            kind: "netns".to_owned(),
            target: self.options.target.to_string(),
            version: self.version.clone(),
        }
    }

    fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    async fn start(&self, node: NodeId) -> Result<(), FaultError> {
        match self.process(node)? {
            Some(process) if process.is_running() => Ok(()),
            _ => self.spawn(node),
        }
    }

    async fn kill(&self, node: NodeId) -> Result<(), FaultError> {
        if let Some(process) = self.process(node)? {
            process.kill().await.map_err(failed(node, "kill"))?;
            self.processes.lock().remove(&node);
        }
        Ok(())
    }

    /// A node that has to be killed is [`FaultError::Failed`]; it is down all the same.
    async fn stop(&self, node: NodeId) -> Result<(), FaultError> {
        let Some(process) = self.process(node)? else {
            return Ok(());
        };
        let stopped = process.terminate(STOP_WITHIN).await;
        let stopped = stopped.map_err(failed(node, "stop"))?;
        self.processes.lock().remove(&node);
        match stopped.killed {
            true => Err(FaultError::Failed(format!(
                "node {node} did not stop within {STOP_WITHIN:?} of SIGTERM and was killed"
            ))),
            false => Ok(()),
        }
    }

    async fn pause(&self, node: NodeId) -> Result<(), FaultError> {
        match self.process(node)? {
            Some(process) if process.is_running() => process.pause().map_err(failed(node, "pause")),
            _ => Err(FaultError::Skipped(format!("node {node} does not run"))),
        }
    }

    async fn resume(&self, node: NodeId) -> Result<(), FaultError> {
        match self.process(node)? {
            Some(process) => process.resume().map_err(failed(node, "resume")),
            None => Ok(()),
        }
    }

    async fn is_running(&self, node: NodeId) -> bool {
        matches!(self.process(node), Ok(Some(process)) if process.is_running())
    }

    async fn set_links(&self, links: &[(Link, LinkFault)]) -> Result<(), FaultError> {
        let (rules, links) = (self.rules.clone(), links.to_vec());
        blocking(move || rules.set(&links)).await
    }

    async fn heal_links(&self) -> Result<(), FaultError> {
        let rules = self.rules.clone();
        blocking(move || rules.heal()).await
    }

    async fn set_syncs(&self, node: NodeId, fault: SyncFault) -> Result<(), FaultError> {
        self.member(node)?;
        self.preload()?.set_syncs(node, fault)
    }

    async fn set_clock(&self, node: NodeId, fault: ClockFault) -> Result<(), FaultError> {
        self.member(node)?;
        self.preload()?.set_clock(node, fault)
    }

    async fn cut_power(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        let preload = self.preload()?;
        let mut processes = Vec::new();
        for node in nodes {
            processes.extend(self.process(*node)?);
        }
        // All signals first: what the nodes still do while one after the other is waited for is
        // what power that fails would not let them do.
        for process in &processes {
            let sent = process.send_kill();
            sent.map_err(|error| FaultError::Failed(format!("cannot cut the power: {error}")))?;
        }
        for node in nodes {
            self.kill(*node).await?;
        }
        // A node that was down before loses what its last process had not synced as well.
        for node in nodes {
            preload.take_back_unsynced(*node).map_err(|error| {
                let text = format!("node {node} is killed, but keeps unsynced writes: {error}");
                FaultError::Failed(text)
            })?;
        }
        Ok(())
    }

    async fn fill_disk(&self, node: NodeId, full: bool) -> Result<(), FaultError> {
        self.member(node)?;
        let disks = self.disks.clone();
        blocking(move || {
            let mut disks = disks.lock();
            let Some(disk) = disks.get_mut(&node) else {
                return Err(FaultError::Skipped(
                    "the nodes have no small disks of their own to fill".to_owned(),
                ));
            };
            match full {
                true => disk.fill().map_err(failed(node, "fill the disk of")),
                false => disk.relieve().map_err(failed(node, "relieve the disk of")),
            }
        })
        .await
    }

    fn data_dir(&self, node: NodeId) -> Option<PathBuf> {
        self.member(node).ok().map(|_| self.node_data(node))
    }

    fn log_file(&self, node: NodeId) -> Option<PathBuf> {
        self.member(node).ok().map(|_| self.node_log(node))
    }

    async fn shut_down(&self) {
        let processes = std::mem::take(&mut *self.processes.lock());
        for process in processes.values() {
            // What could not be killed here is waited for by its drop.
            let _ = process.send_kill();
        }
        for process in processes.into_values() {
            let _ = process.kill().await;
        }
        // The network is taken away after this; the rules must not outlive a cluster all the same.
        let _ = self.heal_links().await;
        self.disks.lock().clear();
    }
}

impl Drop for NetnsCluster {
    fn drop(&mut self) {
        let mut processes = std::mem::take(self.processes.get_mut());
        for process in processes.values() {
            // What could not be killed here is waited for by its drop.
            let _ = process.send_kill();
        }
        processes.clear();
        self.disks.lock().clear();
    }
}

#[cfg(test)]
mod tests;
