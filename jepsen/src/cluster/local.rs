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
//! - `dir/cluster.log` tells which connections the proxies refused, besides what a [`Machine`] tells.

mod faults;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    Cluster, FaultError, Node, machine,
    machine::{Machine, zone_name},
    ports,
    process::Launch,
    proxy::{Front, Links, Openers, Proxy},
    target::{BinaryError, Member, NodeArguments, Target},
};
use crate::history::NodeId;

/// Starts that may fail because somebody took a port between its choice and its use.
const STARTS_MAX: usize = 5;
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
    /// Descriptors that each node may have; as many as the harness may if it is not given.
    pub nofile: Option<u64>,
    /// Load the libraries that faults of syncs, clocks and power need.
    pub preload: bool,
    /// Record what is written and not synced, so that the power can be cut. Slows writes down.
    pub power_cuts: bool,
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
    #[error("{0}")]
    Io(std::io::Error),
    /// The nodes do not serve; with the ends of their logs.
    #[error("{0}")]
    NotServing(String),
}

fn refused(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let refused = machine::about(what.into());
    move |error| StartError::Io(refused(error))
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
/// The nodes of `machine` and `plans` have the same ids in the same order.
pub struct LocalCluster {
    options: LocalOptions,
    bin: PathBuf,
    version: String,
    plans: Vec<Plan>,
    machine: Machine,
    links: Arc<Links>,
    proxies: Mutex<Vec<Proxy>>,
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
        options.dir = machine::claim(&options.dir).map_err(StartError::Options)?;
        for _ in 0..STARTS_MAX {
            let cluster = Self::assemble(options.clone(), &bin, &version)?;
            let Err(missing) = cluster.come_up().await else {
                return Ok(cluster);
            };
            cluster.shut_down().await;
            if !cluster.lacks_ports() {
                return Err(StartError::NotServing(missing));
            }
            cluster.remove_files()?;
        }
        Err(StartError::NotServing(format!(
            "{STARTS_MAX} times in a row somebody else took a port of the cluster"
        )))
    }

    /// Everything but the processes.
    fn assemble(options: LocalOptions, bin: &Path, version: &str) -> Result<Self, StartError> {
        let mut machine =
            Machine::new(options.target, options.dir.clone()).map_err(StartError::Io)?;
        let held = ports::free(4 * options.nodes).map_err(refused("found no free ports"))?;
        let addr = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(refused("cannot ask a listener for its address"))
        };
        let ids: Vec<NodeId> = (1..=options.nodes as NodeId).collect();
        let links = Arc::new(Links::new(&ids));
        let (mut plans, mut proxies) = (Vec::new(), Vec::new());
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
                    log: machine.log.clone(),
                    seed: options.seed.wrapping_add(proxies.len() as u64),
                };
                let proxy = Proxy::start(next(), front).map_err(refused("cannot start a proxy"))?;
                let addr = proxy.addr();
                proxies.push(proxy);
                Ok::<_, StartError>(addr)
            };
            let client_proxy = proxy(client_addr, Openers::Clients)?;
            let peer_proxy = proxy(peer_addr, Openers::Nodes(machine.owners.clone()))?;
            let zone = zone_name(index % zones);
            machine.nodes.push(Node {
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
        if options.preload {
            let loaded = machine.load_libraries(options.power_cuts);
            loaded.map_err(StartError::Io)?;
        }
        Ok(Self {
            options,
            bin: bin.to_owned(),
            version: version.to_owned(),
            plans,
            machine,
            links,
            proxies: Mutex::new(proxies),
        })
    }

    /// Starts all nodes and waits until they serve.
    async fn come_up(&self) -> Result<(), String> {
        for node in &self.machine.nodes {
            self.spawn(node.id).map_err(|error| error.to_string())?;
        }
        self.machine.until_serving().await
    }

    /// Nodes that ended without being killed or stopped by this harness, with their last status.
    pub fn ended_by_themselves(&self) -> Vec<(NodeId, ExitStatus)> {
        self.machine.ended_by_themselves()
    }

    /// Connections between nodes that were refused because somebody else than a running node held their other
    /// end. A few come with killed nodes; more mean that something else talks to the cluster.
    pub fn unattributed(&self) -> u64 {
        self.proxies.lock().iter().map(Proxy::unattributed).sum()
    }

    fn plan(&self, node: NodeId) -> Result<&Plan, FaultError> {
        self.machine.check(node)?;
        let plan = self.plans.iter().find(|plan| plan.member.id == node);
        Ok(plan.expect("every node has a plan"))
    }

    fn spawn(&self, node: NodeId) -> Result<(), FaultError> {
        let plan = self.plan(node)?;
        let data_dir = self.machine.node_dir(node);
        let members: Vec<Member> = self.plans.iter().map(|plan| plan.member.clone()).collect();
        let target = self.options.target;
        let mut env: Vec<_> = self
            .options
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        if let Some(preload) = &self.machine.preload {
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
            log: self.machine.output(node),
            descriptors_max: self.options.nofile,
        };
        self.machine.spawn(node, &launch)
    }

    fn lacks_ports(&self) -> bool {
        let mut nodes = self.machine.nodes.iter();
        nodes.any(|node| {
            self.machine
                .read_log(node.id)
                .to_lowercase()
                .contains(PORT_TAKEN)
        })
    }

    /// Removes what a start that is repeated has left.
    fn remove_files(&self) -> Result<(), StartError> {
        for node in &self.machine.nodes {
            let machine = &self.machine;
            let (dir, log) = (machine.node_dir(node.id), machine.node_log(node.id));
            for removed in [fs::remove_dir_all(&dir), fs::remove_file(&log)] {
                match removed {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        let what = format!("cannot remove {}", dir.display());
                        return Err(refused(what)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
