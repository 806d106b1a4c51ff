//! What others learn of the processes: the screen, cluster.json, and whoever follows the status.

use anyhow::Context;

use super::{Node, NodeStatus, Status, Supervisor};
use crate::dev::{
    cluster_file::{ClusterFile, NodeEntry},
    news::News,
};

impl Supervisor {
    pub(super) fn publish(&self) {
        let node = |id: u64, node: &Node| NodeStatus {
            serves: self.view.serves(id),
            starts: node.starts,
            started: node.started,
        };
        self.status.send_replace(Status {
            ready: self.view.was_ready(),
            leader: self.view.leader("default"),
            nodes: self
                .nodes
                .iter()
                .map(|(id, known)| (*id, node(*id, known)))
                .collect(),
            stopping: self.stopping.is_some(),
        });
    }

    pub(super) fn write_cluster_file(&self) -> anyhow::Result<()> {
        let entry = |node: &Node| {
            Ok(NodeEntry {
                id: node.plan.id,
                zone: node.plan.zone.to_owned(),
                pid: node.pid,
                client_url: node.plan.client_url(),
                peer_url: node.plan.peer_url(),
                data_dir: std::path::absolute(&node.plan.data_dir)?,
            })
        };
        let nodes: std::io::Result<Vec<NodeEntry>> = self.nodes.values().map(entry).collect();
        nodes
            .and_then(|nodes| ClusterFile { nodes }.write(&self.plan.data_dir))
            .with_context(|| {
                format!(
                    "cannot write cluster.json in {}",
                    self.plan.data_dir.display()
                )
            })
    }

    pub(super) fn publish_news(&self, news: Vec<News>) {
        for item in news {
            self.screen.event(item.named(|id| self.name(id)));
            if let News::Ready { .. } = item {
                self.screen.plain("ready");
            }
        }
    }

    pub(super) fn name(&self, id: u64) -> String {
        self.nodes
            .get(&id)
            .map_or_else(|| format!("node-{id}"), |node| node.plan.name())
    }
}
