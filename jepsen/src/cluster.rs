//! Clusters under test: what a run may do to one.
//!
//! Three kinds: [`local`] processes behind user-space proxies, processes in network namespaces of
//! their own, and clusters that exist already and are driven by commands. A kind that cannot make a
//! fault refuses it with [`FaultError::Skipped`] and does nothing.

pub mod attribution;
pub mod damage;
pub mod existing;
pub mod local;
mod machine;
pub mod netns;
pub mod ports;
pub mod preload;
pub mod process;
pub mod proxy;
mod sock_diag;
pub mod target;

use std::{net::SocketAddr, path::PathBuf, process::ExitStatus, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::history::NodeId;

/// A node of a cluster under test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// 1 and up.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: String,
    /// Where the workload's clients reach it: `host:port`, subject to the faults of client links.
    pub endpoint: String,
    /// Where the harness asks it about its state: `host:port`, untouched by those faults where the
    /// cluster allows, else the same as `endpoint`.
    pub direct: String,
}

/// What the cluster is, for the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// `local`, `netns` or `existing`.
    pub kind: String,
    /// `holdfast`, `etcd`, or what the file says.
    pub target: String,
    /// What the program says of itself with `--version`; empty if it was not asked.
    pub version: String,
}

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// A node.
    Node(NodeId),
    /// All clients of the workload.
    Clients,
}

/// One direction of the traffic between two ends: the bytes that `from` sends to `to`, whoever
/// opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Sends.
    pub from: End,
    /// Receives.
    pub to: End,
}

/// What is wrong with a link; by default nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkFault {
    /// Nothing arrives; the sender is not told. Connections stay, and go on when it is healed.
    pub cut: bool,
    /// Everything arrives this much later.
    pub delay: Duration,
    /// Up to this much is added to the delay at random.
    pub jitter: Duration,
    /// Bytes that pass in a second; 0 for any number.
    pub bytes_per_second: u64,
    /// Share of the packets that are lost and sent again, 0 to 1.
    pub loss: f64,
    /// Connections are reset, now and as long as the fault lasts, a few times a second at random.
    pub reset: bool,
}

/// What is wrong with the syncs of a node's files; by default nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncFault {
    /// Every `fsync` and `fdatasync` takes this much longer.
    pub delay: Duration,
    /// Every `fsync` and `fdatasync` fails with `EIO`.
    pub fail: bool,
}

/// What is wrong with the wall clock of a node; by default nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClockFault {
    /// Seconds by which it is off.
    pub offset_seconds: f64,
    /// How much faster than time it runs: 0 for not at all, 0.1 for 10 %.
    pub drift: f64,
}

/// Why a fault was not made.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// This cluster, machine or user cannot make it. Nothing was done.
    #[error("skipped: {0}")]
    Skipped(String),
    /// It should have worked and did not. The state of the cluster is not known.
    #[error("{0}")]
    Failed(String),
}

impl FaultError {
    /// A refusal by a cluster that has no way to do `what`.
    pub fn unsupported(what: &str) -> Self {
        FaultError::Skipped(format!("this kind of cluster cannot {what}"))
    }
}

/// A cluster that can be broken and healed. All methods may be called at any time, by one caller at
/// a time; doing again what is done already does nothing.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// What it is.
    fn describe(&self) -> Description;

    /// Its nodes, by id. Never changes.
    fn nodes(&self) -> &[Node];

    /// Starts a node that does not run, with the data it has. Does not wait until it serves.
    async fn start(&self, node: NodeId) -> Result<(), FaultError>;

    /// SIGKILL, and waits until the process is gone.
    async fn kill(&self, node: NodeId) -> Result<(), FaultError>;

    /// Asks a node to stop, and waits until it has; kills it if it takes too long, which is told.
    async fn stop(&self, node: NodeId) -> Result<(), FaultError>;

    /// SIGSTOP.
    async fn pause(&self, node: NodeId) -> Result<(), FaultError>;

    /// SIGCONT.
    async fn resume(&self, node: NodeId) -> Result<(), FaultError>;

    /// Whether the process runs (paused or not), as far as can be told.
    async fn is_running(&self, node: NodeId) -> bool;

    /// What the process of a node ended with that ended by itself, if it did and it is known.
    async fn ended_with(&self, _node: NodeId) -> Option<ExitStatus> {
        None
    }

    /// Sets what is wrong with these links; others stay as they are.
    async fn set_links(&self, links: &[(Link, LinkFault)]) -> Result<(), FaultError>;

    /// Heals all links.
    async fn heal_links(&self) -> Result<(), FaultError>;

    /// Sets what is wrong with the syncs of a node's files, at once and across restarts.
    async fn set_syncs(&self, _node: NodeId, _fault: SyncFault) -> Result<(), FaultError> {
        Err(FaultError::unsupported("interfere with fsync"))
    }

    /// Sets what is wrong with the wall clock of a node.
    async fn set_clock(&self, _node: NodeId, _fault: ClockFault) -> Result<(), FaultError> {
        Err(FaultError::unsupported("change clocks"))
    }

    /// Kills nodes at the same moment and takes back what they had written to their files and not
    /// synced, as when the power fails.
    async fn cut_power(&self, _nodes: &[NodeId]) -> Result<(), FaultError> {
        Err(FaultError::unsupported("take back unsynced writes"))
    }

    /// Tells that somebody else than the node has changed its files while it was down: what they are
    /// now is what a power cut leaves.
    async fn files_changed(&self, _node: NodeId) -> Result<(), FaultError> {
        Ok(())
    }

    /// Leaves a node no room to write; `false` gives it back.
    async fn fill_disk(&self, _node: NodeId, _full: bool) -> Result<(), FaultError> {
        Err(FaultError::unsupported("fill a disk"))
    }

    /// From the next start of a node on, what it says goes to a device that is full; `false` takes that
    /// back.
    async fn fill_output(&self, _node: NodeId, _full: bool) -> Result<(), FaultError> {
        Err(FaultError::unsupported("redirect the output of a node"))
    }

    /// The addresses on which a node itself listens, for clients and for other nodes, as far as they are
    /// known and can be reached.
    fn doors(&self, _node: NodeId) -> Vec<SocketAddr> {
        Vec::new()
    }

    /// Directory with everything that a node stores, if the harness can get at it.
    fn data_dir(&self, _node: NodeId) -> Option<PathBuf> {
        None
    }

    /// File with the output of a node, if the harness has it.
    fn log_file(&self, _node: NodeId) -> Option<PathBuf> {
        None
    }

    /// Ends all that was started. After it nothing of the cluster is left but its files.
    async fn shut_down(&self);
}
