//! What may be done to a cluster in network namespaces.

use std::{io, path::PathBuf, time::Duration};

use async_trait::async_trait;

use super::NetnsCluster;
use crate::{
    cluster::{
        ClockFault, Cluster, Description, FaultError, Link, LinkFault, Node, SyncFault,
        preload::Preload, target::Target,
    },
    history::NodeId,
};

/// How long a node may take to stop when asked: more than handing over all leaderships takes.
const STOP_WITHIN: Duration = Duration::from_secs(20);

impl NetnsCluster {
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
