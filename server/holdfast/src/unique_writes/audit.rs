//! Every acknowledged write, once, on every node: read in both ways, and all nodes with one hash.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_client::Client;
use tokio::time::sleep;

use super::{Contents, Findings, History, compare::first_key};

/// Time between two looks at a node.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A node that is audited, and nobody answers in its place.
#[derive(Debug, Clone)]
pub struct AuditedNode {
    name: String,
    url: String,
    client: Client,
    patience: Duration,
}

impl AuditedNode {
    /// A node at a URL. A request may take `patience`, and so may a wait for it.
    pub fn new(name: String, url: String, patience: Duration) -> Result<Self> {
        let client = Client::builder()
            .endpoints([&url])
            .discover(false)
            // There is no other endpoint to try beside it.
            .hedge_after(patience)
            .timeout(patience)
            .connect_lazy()?;
        Ok(Self {
            name,
            url,
            client,
            patience,
        })
    }

    /// Its keys with a prefix, linearizably or as it has them.
    pub async fn contents(&self, prefix: &str, serializable: bool) -> Result<Contents> {
        let contents = Contents::read(&self.client, prefix, serializable);
        contents.await.with_context(|| {
            let how = how(serializable);
            format!("{} did not answer a {how} read", self.name)
        })
    }

    /// Waits until its own state has reached a revision.
    pub async fn until_applied(&self, prefix: &str, revision: i64) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            let read = self.client.get(first_key(prefix)).serializable().await;
            let header = read.ok().and_then(|read| read.header);
            let reached = header.map(|header| header.revision);
            if reached >= Some(revision) {
                return Ok(());
            }
            let (name, patience) = (&self.name, self.patience);
            ensure!(
                Instant::now() < deadline,
                "{name} has applied {reached:?} and not revision {revision} in {patience:?}"
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Its hash at a revision, 0 for the present one, and that revision.
    pub async fn hash(&self, revision: i64) -> Result<(u32, i64)> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.client.hash_kv(&self.url, revision).await {
                Ok(hash) => return Ok((hash.hash, hash.hash_revision)),
                Err(error) if error.is_retryable() && Instant::now() < deadline => {}
                Err(error) => {
                    let what = format!("{} did not hash its contents", self.name);
                    return Err(error).context(what);
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn how(serializable: bool) -> &'static str {
    if serializable {
        "serializable"
    } else {
        "linearizable"
    }
}

/// What was found on one node.
#[derive(Debug, Clone)]
pub struct NodeAudit {
    /// Its name.
    pub name: String,
    /// What linearizable reads showed.
    pub linearizable: Findings,
    /// What serializable reads showed.
    pub serializable: Findings,
    /// Hash of the whole keyspace at a revision.
    pub hash: (u32, i64),
}

/// What was found on all nodes.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Acknowledged writes that were looked for.
    pub checked: usize,
    /// Revision that was hashed.
    pub revision: i64,
    /// In the order of the nodes.
    pub nodes: Vec<NodeAudit>,
}

impl Audit {
    /// All nodes have the same hash.
    pub fn hashes_agree(&self) -> bool {
        self.nodes
            .windows(2)
            .all(|pair| pair[0].hash == pair[1].hash)
    }

    /// Nothing is wrong anywhere.
    pub fn clean(&self) -> bool {
        let clean = |node: &NodeAudit| node.linearizable.clean() && node.serializable.clean();
        self.hashes_agree() && self.nodes.iter().all(clean)
    }

    /// The most that any node lacks.
    pub fn lost(&self) -> usize {
        self.worst(|findings| findings.lost)
    }

    /// The most that any node has more than once.
    pub fn twice(&self) -> usize {
        self.worst(|findings| findings.twice)
    }

    /// The most that any node has wrong.
    pub fn wrong(&self) -> usize {
        self.worst(|findings| findings.wrong)
    }

    fn worst(&self, count: impl Fn(&Findings) -> usize) -> usize {
        let of_node = |node: &NodeAudit| count(&node.linearizable).max(count(&node.serializable));
        self.nodes.iter().map(of_node).max().unwrap_or(0)
    }

    /// Examples of what is wrong, each with its node and how it was read.
    pub fn examples(&self) -> Vec<String> {
        let mut examples = Vec::new();
        for node in &self.nodes {
            for (serializable, findings) in
                [(false, &node.linearizable), (true, &node.serializable)]
            {
                let (name, how) = (&node.name, how(serializable));
                let seen = findings.examples.iter();
                examples.extend(seen.map(|example| format!("{name} ({how}): {example}")));
            }
        }
        examples
    }
}

/// Compares every node with the history: all keys below the prefix, read linearizably at once, then from its
/// own state as soon as that has caught up, and its hash at one revision.
pub async fn audit(nodes: &[AuditedNode], prefix: &str, history: &History) -> Result<Audit> {
    let mut audit = Audit {
        checked: history.acknowledged.len(),
        revision: 0,
        nodes: Vec::new(),
    };
    for node in nodes {
        let contents = node.contents(prefix, false).await?;
        // No node may lack this revision, and the first may not either.
        audit.revision = audit.revision.max(contents.revision);
        audit.nodes.push(NodeAudit {
            name: node.name.clone(),
            linearizable: contents.compare(history),
            serializable: Findings::default(),
            hash: (0, 0),
        });
    }
    for (node, found) in nodes.iter().zip(&mut audit.nodes) {
        node.until_applied(prefix, audit.revision).await?;
        found.serializable = node.contents(prefix, true).await?.compare(history);
    }
    for (node, found) in nodes.iter().zip(&mut audit.nodes) {
        found.hash = node.hash(audit.revision).await?;
    }
    Ok(audit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_clean_only_if_all_nodes_are_and_agree() {
        let node = |id| NodeAudit {
            name: format!("node-{id}"),
            linearizable: Findings::default(),
            serializable: Findings::default(),
            hash: (1, 3),
        };
        let mut audit = Audit {
            checked: 2,
            revision: 3,
            nodes: vec![node(1), node(2), node(3)],
        };
        assert!(audit.clean() && audit.examples().is_empty());
        for other in [(2, 3), (1, 4)] {
            audit.nodes[2].hash = other;
            assert!(!audit.clean() && !audit.hashes_agree());
        }
        audit.nodes[2].hash = (1, 3);
        audit.nodes[1].serializable.lost = 4;
        audit.nodes[1].serializable.examples.push("k".to_owned());
        assert!(!audit.clean());
        assert_eq!((audit.lost(), audit.twice(), audit.wrong()), (4, 0, 0));
        assert_eq!(audit.examples(), ["node-2 (serializable): k"]);
    }
}
