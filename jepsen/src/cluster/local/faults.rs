//! What may be done to a local cluster.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;

use super::LocalCluster;
use crate::{
    cluster::{
        ClockFault, Cluster, Description, FaultError, Link, LinkFault, Node, SyncFault,
        preload::Preload, target::Target,
    },
    history::NodeId,
};

/// How long a node may take to stop when asked: more than handing over all leaderships takes.
const STOP_WITHIN: Duration = Duration::from_secs(20);

impl LocalCluster {
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

fn failed(node: NodeId, what: &str) -> impl FnOnce(std::io::Error) -> FaultError {
    let text = format!("cannot {what} node {node}");
    move |error| FaultError::Failed(format!("{text}: {error}"))
}

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
        &self.nodes
    }

    async fn start(&self, node: NodeId) -> Result<(), FaultError> {
        if self
            .process(node)?
            .is_some_and(|process| process.is_running())
        {
            return Ok(());
        }
        self.spawn(node)
    }

    async fn kill(&self, node: NodeId) -> Result<(), FaultError> {
        if let Some(process) = self.process(node)? {
            process.kill().await.map_err(failed(node, "kill"))?;
            self.forget(node, "is killed");
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
        if stopped.killed {
            let how = format!("did not stop within {STOP_WITHIN:?} of SIGTERM and was killed");
            self.forget(node, &how);
            return Err(FaultError::Failed(format!("node {node} {how}")));
        }
        self.forget(node, &format!("has stopped: {}", stopped.status));
        Ok(())
    }

    async fn pause(&self, node: NodeId) -> Result<(), FaultError> {
        match self.process(node)? {
            Some(process) if process.is_running() => {
                process.pause().map_err(failed(node, "pause"))?;
                self.log.tell(&format!("node {node} is paused"));
                Ok(())
            }
            _ => Err(FaultError::Skipped(format!("node {node} does not run"))),
        }
    }

    async fn resume(&self, node: NodeId) -> Result<(), FaultError> {
        if let Some(process) = self.process(node)? {
            process.resume().map_err(failed(node, "resume"))?;
            self.log.tell(&format!("node {node} is resumed"));
        }
        Ok(())
    }

    async fn is_running(&self, node: NodeId) -> bool {
        matches!(self.process(node), Ok(Some(process)) if process.is_running())
    }

    async fn set_links(&self, links: &[(Link, LinkFault)]) -> Result<(), FaultError> {
        self.links.set(links)
    }

    async fn heal_links(&self) -> Result<(), FaultError> {
        self.links.heal();
        Ok(())
    }

    async fn set_syncs(&self, node: NodeId, fault: SyncFault) -> Result<(), FaultError> {
        self.plan(node)?;
        self.preload()?.set_syncs(node, fault)
    }

    async fn set_clock(&self, node: NodeId, fault: ClockFault) -> Result<(), FaultError> {
        self.plan(node)?;
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
            let taken = preload.take_back_unsynced(*node).map_err(|error| {
                let text = format!("node {node} is killed, but keeps unsynced writes: {error}");
                FaultError::Failed(text)
            })?;
            let (writes, bytes) = (taken.writes, taken.bytes);
            self.log.tell(&format!(
                "node {node} lost {writes} unsynced writes of {bytes} bytes to a power cut"
            ));
        }
        Ok(())
    }

    fn data_dir(&self, node: NodeId) -> Option<PathBuf> {
        self.plan(node).ok().map(|_| self.node_dir(node))
    }

    fn log_file(&self, node: NodeId) -> Option<PathBuf> {
        self.plan(node).ok().map(|_| self.node_log(node))
    }

    async fn shut_down(&self) {
        let processes = std::mem::take(&mut *self.processes.lock());
        for process in processes.values() {
            // What could not be killed here is waited for by its drop.
            let _ = process.send_kill();
        }
        for (node, process) in processes {
            let _ = process.kill().await;
            self.owners.remove(node);
        }
        let proxies = std::mem::take(&mut *self.proxies.lock());
        for proxy in proxies {
            proxy.shut_down().await;
        }
    }
}
