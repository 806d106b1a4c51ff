//! A cluster of processes on this machine, with a proxy on every link. Needs no privileges.
//!
//! ```text
//!   workload ──▶ client proxy of node n ──▶ ┌────────┐ ◀── peer proxy of node n ◀── other nodes
//!                                           │ node n │
//!   harness ─────────── direct ───────────▶ └────────┘
//!                                            dir/node-n/, dir/node-n.log
//! ```
//!
//! What holds here:
//!
//! - What a node tells others of itself are the addresses of its proxies, so nothing but the
//!   harness itself goes past them.
//! - Nothing outlives the cluster: dropping it kills the nodes before it returns.
//! - `dir/cluster.log` tells when which process was started and killed, and which connections the
//!   proxies refused.

mod faults;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_client::Client;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{
    Cluster, FaultError, Node,
    attribution::Owners,
    ports,
    preload::Preload,
    process::{Launch, Process},
    proxy::{ClusterLog, Front, Links, Openers, Proxy},
    target::{BinaryError, Member, NodeArguments, Target},
};
use crate::history::NodeId;

/// How long a new cluster may take until all nodes serve.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// Starts that may fail because somebody took a port between its choice and its use.
const STARTS_MAX: usize = 5;
/// How long one question to a starting node may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Time between two looks at a starting node.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a node's log that an error shows.
const LOG_TAIL_LINES: usize = 15;
/// Part of a message that all targets log when a port is taken, in lower case.
const PORT_TAKEN: &str = "address already in use";

/// What a local cluster is made of.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// What the nodes run.
    pub target: Target,
    /// Its program; see [`Target::find`] for what happens without.
    pub bin: Option<PathBuf>,
    /// Number of nodes, 1 or more.
    pub nodes: usize,
    /// Number of zones that the nodes are dealt to in turn; as many as nodes if it is not given.
    pub zones: Option<usize>,
    /// Directory for data and logs; made if it is not there, and without a cluster so far.
    pub dir: PathBuf,
    /// Arguments that every node gets besides.
    pub extra_args: Vec<String>,
    /// Variables that every node gets besides.
    pub env: Vec<(String, String)>,
    /// Load the libraries that faults of syncs, clocks and power need.
    pub preload: bool,
    /// Seed of what is random in the faults of links.
    pub seed: u64,
}

/// Why a local cluster was not started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option makes no sense.
    #[error("{0}")]
    Options(String),
    /// There is no program to start.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The machine refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was refused.
        what: String,
        /// How.
        error: std::io::Error,
    },
    /// The nodes do not serve; with the ends of their logs.
    #[error("{0}")]
    NotServing(String),
}

fn refused(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |error| StartError::Io { what, error }
}

/// What a node needs to be started again.
#[derive(Debug)]
struct Plan {
    member: Member,
    client_addr: SocketAddr,
    peer_addr: SocketAddr,
}

/// A cluster of processes on this machine.
///
/// - `nodes`, `plans` and `processes` have the same ids in the same order, once all were started.
/// - `owners` has the processes that were started and not yet killed.
pub struct LocalCluster {
    options: LocalOptions,
    bin: PathBuf,
    version: String,
    nodes: Vec<Node>,
    plans: Vec<Plan>,
    processes: Mutex<BTreeMap<NodeId, Arc<Process>>>,
    owners: Owners,
    links: Arc<Links>,
    proxies: Mutex<Vec<Proxy>>,
    preload: Option<Preload>,
    log: Arc<ClusterLog>,
}

impl LocalCluster {
    /// Starts all nodes and waits until they serve, at most a minute. Must be called within a tokio
    /// runtime, which runs the proxies.
    pub async fn start(mut options: LocalOptions) -> Result<Self, StartError> {
        let zones = options.zones.unwrap_or(options.nodes);
        if options.nodes == 0 || zones == 0 || zones > options.nodes {
            return Err(StartError::Options(format!(
                "{} nodes in {zones} zones make no cluster; there must be one node or more, and \
                 from one zone to as many as nodes",
                options.nodes
            )));
        }
        let bin = options.target.find(options.bin.as_deref())?;
        let version = options.target.version(&bin).await?;
        let in_dir = format!("cannot use the directory {}", options.dir.display());
        fs::create_dir_all(&options.dir).map_err(refused(in_dir.clone()))?;
        options.dir = options.dir.canonicalize().map_err(refused(in_dir))?;
        let data = options.dir.join("node-1");
        if data.exists() {
            return Err(StartError::Options(format!(
                "{} holds the data of a cluster already; give another directory",
                options.dir.display()
            )));
        }
        for _ in 0..STARTS_MAX {
            let cluster = Self::assemble(options.clone(), &bin, &version)?;
            let Err(missing) = cluster.come_up().await else {
                return Ok(cluster);
            };
            let logs = cluster.log_tails();
            cluster.shut_down().await;
            if !cluster.lacks_ports() {
                return Err(StartError::NotServing(format!("{missing}{logs}")));
            }
            cluster.remove_files()?;
        }
        Err(StartError::NotServing(format!(
            "{STARTS_MAX} times in a row somebody else took a port of the cluster"
        )))
    }

    /// Everything but the processes.
    fn assemble(options: LocalOptions, bin: &Path, version: &str) -> Result<Self, StartError> {
        let log = options.dir.join("cluster.log");
        let log =
            ClusterLog::open(&log).map_err(refused(format!("cannot open {}", log.display())))?;
        let log = Arc::new(log);
        let held = ports::free(4 * options.nodes).map_err(refused("found no free ports"))?;
        let addr = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(refused("cannot ask a listener for its address"))
        };
        let ids: Vec<NodeId> = (1..=options.nodes as NodeId).collect();
        let links = Arc::new(Links::new(&ids));
        let owners = Owners::default();
        let preload = match options.preload && options.target != Target::Etcd {
            true => {
                let dir = options.dir.join("preload");
                let what = format!("cannot prepare the libraries in {}", dir.display());
                Some(Preload::prepare(&dir, &ids).map_err(refused(what))?)
            }
            false => None,
        };
        let (mut nodes, mut plans, mut proxies) = (Vec::new(), Vec::new(), Vec::new());
        let zones = options.zones.unwrap_or(options.nodes);
        let mut held = held.into_iter();
        let mut next = || held.next().expect("four for each node");
        for (index, id) in ids.iter().enumerate() {
            let (client_addr, peer_addr) = (addr(&next())?, addr(&next())?);
            let mut proxy = |addr, openers| {
                let front = Front {
                    node: *id,
                    addr,
                    openers,
                    links: links.clone(),
                    log: log.clone(),
                    seed: options.seed.wrapping_add(proxies.len() as u64),
                };
                let proxy = Proxy::start(next(), front).map_err(refused("cannot start a proxy"))?;
                let addr = proxy.addr();
                proxies.push(proxy);
                Ok::<_, StartError>(addr)
            };
            let client_proxy = proxy(client_addr, Openers::Clients)?;
            let peer_proxy = proxy(peer_addr, Openers::Nodes(owners.clone()))?;
            let zone = zone_name(index % zones);
            nodes.push(Node {
                id: *id,
                zone: zone.clone(),
                endpoint: client_proxy.to_string(),
                direct: client_addr.to_string(),
            });
            plans.push(Plan {
                member: Member {
                    id: *id,
                    zone,
                    client_url: format!("http://{client_proxy}"),
                    peer_url: format!("http://{peer_proxy}"),
                },
                client_addr,
                peer_addr,
            });
        }
        Ok(Self {
            options,
            bin: bin.to_owned(),
            version: version.to_owned(),
            nodes,
            plans,
            processes: Mutex::default(),
            owners,
            links,
            proxies: Mutex::new(proxies),
            preload,
            log,
        })
    }

    /// Starts all nodes and waits until they serve.
    async fn come_up(&self) -> Result<(), String> {
        for node in &self.nodes {
            self.spawn(node.id).map_err(|error| error.to_string())?;
        }
        let begun = Instant::now();
        for node in &self.nodes {
            let client = Client::builder()
                .endpoints([&node.endpoint])
                .discover(false)
                .timeout(ANSWER_WITHIN)
                .connect_lazy()
                .map_err(|error| error.to_string())?;
            while let Err(error) = client.get("holdfast-jepsen").first().await {
                if let Some((id, status)) = self.ended_by_themselves().first() {
                    return Err(format!("node {id} ended by itself: {status}"));
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

    /// Nodes that ended without being killed or stopped by this harness, with their last status.
    pub fn ended_by_themselves(&self) -> Vec<(NodeId, ExitStatus)> {
        let processes = self.processes.lock();
        let ended = processes
            .iter()
            .filter_map(|(id, process)| Some((*id, process.exit_status()?)));
        ended.collect()
    }

    /// Connections between nodes that were refused because no running node held their other end. A
    /// few come with killed nodes; more mean that something else talks to the cluster.
    pub fn unattributed(&self) -> u64 {
        self.proxies.lock().iter().map(Proxy::unattributed).sum()
    }

    fn plan(&self, node: NodeId) -> Result<&Plan, FaultError> {
        let plan = self.plans.iter().find(|plan| plan.member.id == node);
        plan.ok_or_else(|| FaultError::Failed(format!("there is no node {node}")))
    }

    fn process(&self, node: NodeId) -> Result<Option<Arc<Process>>, FaultError> {
        self.plan(node)?;
        Ok(self.processes.lock().get(&node).cloned())
    }

    fn spawn(&self, node: NodeId) -> Result<(), FaultError> {
        let plan = self.plan(node)?;
        let data_dir = self.node_dir(node);
        let members: Vec<Member> = self.plans.iter().map(|plan| plan.member.clone()).collect();
        let target = self.options.target;
        let mut env: Vec<_> = self
            .options
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        if let Some(preload) = &self.preload {
            env.extend(preload.environment(node, &data_dir));
        }
        let launch = Launch {
            program: self.bin.clone(),
            args: target.arguments(&NodeArguments {
                node: &plan.member,
                data_dir: &data_dir,
                client_addr: plan.client_addr,
                peer_addr: plan.peer_addr,
                members: &members,
                extra: &self.options.extra_args,
            }),
            withheld: vec![target.variables().to_owned()],
            env,
            log: self.node_log(node),
        };
        let process = Process::spawn(&launch)
            .map_err(|error| FaultError::Failed(format!("node {node} does not start: {error}")))?;
        self.owners.insert(node, process.id());
        self.log
            .tell(&format!("node {node} is process {}", process.id()));
        self.processes.lock().insert(node, Arc::new(process));
        Ok(())
    }

    /// Forgets a process that has ended.
    fn forget(&self, node: NodeId, how: &str) {
        self.owners.remove(node);
        self.processes.lock().remove(&node);
        self.log.tell(&format!("node {node} {how}"));
    }

    fn node_dir(&self, node: NodeId) -> PathBuf {
        self.options.dir.join(format!("node-{node}"))
    }

    fn node_log(&self, node: NodeId) -> PathBuf {
        self.options.dir.join(format!("node-{node}.log"))
    }

    fn read_log(&self, node: NodeId) -> String {
        let bytes = fs::read(self.node_log(node)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn lacks_ports(&self) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|node| self.read_log(node.id).to_lowercase().contains(PORT_TAKEN))
    }

    fn log_tails(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let (id, log) = (node.id, self.read_log(node.id));
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            text += &format!("\n--- the end of {}\n", self.node_log(id).display());
            text += &tail.join("\n");
        }
        text
    }

    /// Removes what a start that is repeated has left.
    fn remove_files(&self) -> Result<(), StartError> {
        for node in &self.nodes {
            let (dir, log) = (self.node_dir(node.id), self.node_log(node.id));
            for removed in [fs::remove_dir_all(&dir), fs::remove_file(&log)] {
                match removed {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        let what = format!("cannot remove {}", dir.display());
                        return Err(StartError::Io { what, error });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// `zone-a` and on; with numbers when the letters are used up.
pub(super) fn zone_name(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index @ 0..26) => format!("zone-{}", char::from(b'a' + index)),
        _ => format!("zone-{}", index + 1),
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        let processes = std::mem::take(self.processes.get_mut());
        for process in processes.values() {
            // What could not be killed here is waited for by its drop.
            let _ = process.send_kill();
        }
    }
}

#[cfg(test)]
mod tests;
