//! What may be done to a local cluster.

use std::{net::SocketAddr, path::PathBuf, process::ExitStatus};

use async_trait::async_trait;

use super::LocalCluster;
use crate::{
    cluster::{ClockFault, Cluster, Description, FaultError, Link, LinkFault, Node, SyncFault},
    history::NodeId,
};

#[async_trait]
impl Cluster for LocalCluster {
    fn describe(&self) -> Description {
        Description {
            kind: "local".to_owned(),
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
        self.links.set(links)
    }

    async fn heal_links(&self) -> Result<(), FaultError> {
        self.links.heal();
        Ok(())
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

    async fn fill_output(&self, node: NodeId, full: bool) -> Result<(), FaultError> {
        self.machine.fill_output(node, full)
    }

    fn doors(&self, node: NodeId) -> Vec<SocketAddr> {
        let plan = self.plan(node);
        plan.map_or_else(
            |_| Vec::new(),
            |plan| vec![plan.client_addr, plan.peer_addr],
        )
    }

    fn data_dir(&self, node: NodeId) -> Option<PathBuf> {
        let known = self.machine.check(node).is_ok();
        known.then(|| self.machine.node_dir(node))
    }

    fn log_file(&self, node: NodeId) -> Option<PathBuf> {
        let known = self.machine.check(node).is_ok();
        known.then(|| self.machine.node_log(node))
    }

    async fn shut_down(&self) {
        self.machine.shut_down().await;
        let proxies = std::mem::take(&mut *self.proxies.lock());
        for proxy in proxies {
            proxy.shut_down().await;
        }
    }
}
