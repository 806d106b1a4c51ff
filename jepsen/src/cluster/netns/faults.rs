//! What may be done to a cluster in network namespaces.

use std::{net::SocketAddr, path::PathBuf, process::ExitStatus};

use async_trait::async_trait;

use super::{CLIENT_PORT, NetnsCluster, topology};
use crate::{
    cluster::{
        ClockFault, Cluster, Description, End, FaultError, Link, LinkFault, Node, SyncFault,
        machine::failed,
    },
    history::NodeId,
};

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
        &self.machine.nodes
    }

    async fn start(&self, node: NodeId) -> Result<(), FaultError> {
        match self.machine.is_running(node)? {
            true => Ok(()),
            false => self.spawn(node),
        }
    }

    async fn kill(&self, node: NodeId) -> Result<(), FaultError> {
        self.machine.kill(node).await
    }

    /// A node that has to be killed is [`FaultError::Failed`]; it is down all the same.
    async fn stop(&self, node: NodeId) -> Result<(), FaultError> {
        self.machine.stop(node).await
    }

    async fn pause(&self, node: NodeId) -> Result<(), FaultError> {
        self.machine.pause(node).await
    }

    async fn resume(&self, node: NodeId) -> Result<(), FaultError> {
        self.machine.resume(node)
    }

    async fn is_running(&self, node: NodeId) -> bool {
        matches!(self.machine.is_running(node), Ok(true))
    }

    async fn ended_with(&self, node: NodeId) -> Option<ExitStatus> {
        let ended = self.machine.ended_by_themselves();
        let mut statuses = ended.into_iter().filter(|(id, _)| *id == node);
        statuses.next().map(|(_, status)| status)
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
        self.machine.set_syncs(node, fault)
    }

    async fn set_clock(&self, node: NodeId, fault: ClockFault) -> Result<(), FaultError> {
        self.machine.set_clock(node, fault)
    }

    async fn cut_power(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        self.machine.cut_power(nodes).await
    }

    async fn files_changed(&self, node: NodeId) -> Result<(), FaultError> {
        self.machine.files_changed(node)
    }

    async fn fill_disk(&self, node: NodeId, full: bool) -> Result<(), FaultError> {
        self.machine.check(node)?;
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

    async fn fill_output(&self, node: NodeId, full: bool) -> Result<(), FaultError> {
        self.machine.fill_output(node, full)
    }

    fn doors(&self, node: NodeId) -> Vec<SocketAddr> {
        let address = topology::direct_address(End::Node(node));
        match self.machine.check(node) {
            Ok(()) => vec![SocketAddr::from((address, CLIENT_PORT))],
            Err(_) => Vec::new(),
        }
    }

    fn data_dir(&self, node: NodeId) -> Option<PathBuf> {
        let known = self.machine.check(node).is_ok();
        known.then(|| self.node_data(node))
    }

    fn log_file(&self, node: NodeId) -> Option<PathBuf> {
        let known = self.machine.check(node).is_ok();
        known.then(|| self.machine.node_log(node))
    }

    async fn shut_down(&self) {
        self.machine.shut_down().await;
        // The network is taken away after this; the rules must not outlive a cluster all the same.
        let _ = self.heal_links().await;
        self.disks.lock().clear();
    }
}
