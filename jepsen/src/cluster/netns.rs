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
mod error;
mod faults;
mod rules;
mod tmpfs;
mod tools;
mod topology;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;

pub use enter::{Entered, GRACE, enter, run_inside};
pub use error::NetnsError;
pub use topology::{NODES_MAX, Network, Topology, VARIABLE, possible, run_in, take_away_left};

use self::{rules::Rules, tmpfs::Disk, tools::Tools};
use super::{
    Cluster, End, FaultError, Node, machine,
    machine::{Machine, zone_name},
    process::Launch,
    target::{Member, NodeArguments, Target},
};
use crate::history::NodeId;

/// Room for a node's data unless told otherwise: enough for minutes of a workload, and filled in
/// well under a second.
pub const TMPFS_BYTES: u64 = 256 << 20;
/// Where nodes listen for clients. Their namespaces have all ports free.
const CLIENT_PORT: u16 = 2379;
/// Where nodes listen for each other.
const PEER_PORT: u16 = 2380;

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
    /// Descriptors that each node may have; as many as the harness may if it is not given.
    pub nofile: Option<u64>,
    /// Load the libraries that faults of syncs, clocks and power need.
    pub preload: bool,
    /// Record what is written and not synced, so that the power can be cut. Slows writes down.
    pub power_cuts: bool,
}

/// A cluster of processes in network namespaces.
///
/// - The nodes of `machine` and `members` have the same ids in the same order, and so has `disks` if
///   there are any.
/// - Disks are unmounted after the processes have ended.
pub struct NetnsCluster {
    options: NetnsOptions,
    topology: Topology,
    ip: PathBuf,
    bin: PathBuf,
    version: String,
    members: Vec<Member>,
    machine: Machine,
    disks: Arc<Mutex<BTreeMap<NodeId, Disk>>>,
    rules: Arc<Rules>,
}

impl NetnsCluster {
    /// Starts all nodes in an existing network, whose hub the caller is in, and waits until they
    /// serve, at most a minute.
    ///
    /// # Errors
    ///
    /// The options do not fit the network or the directory, the caller is not in the hub, there is
    /// no program, or the nodes do not serve.
    pub async fn attach(topology: Topology, mut options: NetnsOptions) -> Result<Self, NetnsError> {
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
        options.dir = machine::claim(&options.dir).map_err(NetnsError::Options)?;
        let mut cluster = Self::assemble(topology, options, bin, version)?;
        cluster.prepare_files()?;
        match cluster.come_up().await {
            Ok(()) => Ok(cluster),
            Err(missing) => {
                cluster.shut_down().await;
                Err(NetnsError::NotServing(missing))
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
        let mut machine =
            Machine::new(options.target, options.dir.clone()).map_err(NetnsError::Io)?;
        let mut members = Vec::new();
        for id in 1..=options.nodes as NodeId {
            let end = End::Node(id);
            let (address, direct) = (topology::address(end), topology::direct_address(end));
            let zone = zone_name((id as usize - 1) % zones);
            machine.nodes.push(Node {
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
            members,
            machine,
            disks: Arc::default(),
        })
    }

    /// Directories, disks and libraries.
    fn prepare_files(&mut self) -> Result<(), NetnsError> {
        for id in self.members.iter().map(|member| member.id) {
            let dir = self.machine.node_dir(id);
            let what = format!("cannot make the directory {}", dir.display());
            fs::create_dir(&dir).map_err(NetnsError::io(what))?;
            if let Some(bytes) = self.options.tmpfs_bytes {
                let source = self.topology.namespace(id);
                let what = format!("cannot mount a tmpfs at {}", dir.display());
                let disk = Disk::mount(&source, &dir, bytes).map_err(NetnsError::io(what))?;
                self.disks.lock().insert(id, disk);
            }
        }
        if self.options.preload {
            let loaded = self.machine.load_libraries(self.options.power_cuts);
            loaded.map_err(NetnsError::Io)?;
        }
        Ok(())
    }

    /// Starts all nodes and waits until they serve.
    async fn come_up(&self) -> Result<(), String> {
        for node in &self.machine.nodes {
            self.spawn(node.id).map_err(|error| error.to_string())?;
        }
        self.machine.until_serving().await
    }

    fn member(&self, node: NodeId) -> Result<&Member, FaultError> {
        self.machine.check(node)?;
        let member = self.members.iter().find(|member| member.id == node);
        Ok(member.expect("every node is a member"))
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
        if let Some(preload) = &self.machine.preload {
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
            log: self.machine.output(node),
            descriptors_max: self.options.nofile,
        };
        self.machine.spawn(node, &launch.behind(words))
    }

    /// Beside the ballast, which is no business of the node.
    fn node_data(&self, node: NodeId) -> PathBuf {
        self.machine.node_dir(node).join("data")
    }
}

impl Drop for NetnsCluster {
    fn drop(&mut self) {
        self.machine.kill_now();
        self.disks.lock().clear();
    }
}

#[cfg(test)]
mod tests;
