//! What must hold after every test: nothing acknowledged is lost, nothing is there twice, all nodes
//! hold the same.

use std::{collections::BTreeSet, time::Duration};

use holdfast::unique_writes::{AuditedNode, History, audit};

use super::Cluster;

/// How long one node may take to read or to hash everything, or to catch up.
const READ_WITHIN: Duration = Duration::from_secs(60);

impl Cluster {
    /// Checks all nodes that run against the history.
    pub async fn verify(&self, history: &History) {
        self.verify_on(&self.up(), history).await;
    }

    /// Checks these nodes against the history: everything that was acknowledged is there, once, with
    /// its revision, read linearizably and on each node from its own state; nothing else is there
    /// but what may be; all have the same hash.
    pub async fn verify_on(&self, ids: &[u64], history: &History) {
        self.leader_among(ids).await;
        let found = audit(&self.audited(ids), "", history).await;
        let found = found.expect("all nodes can be read");
        assert!(found.clean(), "{found:#?}");
        assert_eq!(found.nodes.len(), ids.len(), "{found:#?}");
        self.until_caught_up(ids).await;
    }

    /// Checks that these nodes hold the same, by their hash at one revision.
    pub async fn same_hash(&self, ids: &[u64]) {
        let nodes = self.audited(ids);
        let mut at = i64::MAX;
        for node in &nodes {
            at = at.min(node.hash(0).await.expect("a hash").1);
        }
        let mut hashes = BTreeSet::new();
        for node in &nodes {
            hashes.insert(node.hash(at).await.expect("a hash"));
        }
        let one = hashes.len() == 1;
        assert!(one, "hash and revision differ among {ids:?}: {hashes:?}");
    }

    fn audited(&self, ids: &[u64]) -> Vec<AuditedNode> {
        let node = |id: &u64| {
            let url = self.node(*id).client_url();
            AuditedNode::new(format!("node {id}"), url, READ_WITHIN).expect("a URL")
        };
        ids.iter().map(node).collect()
    }
}
