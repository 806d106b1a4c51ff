//! Questions of the harness itself to the nodes: who leads, who serves, what they hold.
//!
//! They go past the faults of client links where the cluster allows, so that the harness sees what
//! is there and not what it has broken.

use std::{collections::BTreeMap, time::Duration};

use holdfast_client::{Client, ServerKind};
use tokio::time::{Instant, sleep, timeout};

use crate::{checker::convergence::NodeState, cluster::Node, history::NodeId};

/// Longest wait for the answer of one node.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
/// Time between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Read to find out whether a node serves. It need not exist.
const PROBE: &str = "jepsen-probe";

/// Asks the nodes of one cluster.
#[derive(Clone)]
pub struct Observer {
    client: Client,
    nodes: Vec<Node>,
}

/// What nodes said of the leader.
struct Saying {
    node: NodeId,
    member: u64,
    leader: u64,
    term: u64,
}

impl Observer {
    /// An observer of these nodes. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// An endpoint that is no address.
    pub fn new(nodes: &[Node]) -> Result<Self, holdfast_client::Error> {
        let client = Client::builder()
            .endpoints(nodes.iter().map(|node| &node.direct))
            .discover(false)
            .timeout(ANSWER_WITHIN)
            .connect_lazy()?;
        Ok(Self {
            client,
            nodes: nodes.to_vec(),
        })
    }

    /// A client that may ask any node, and repeats what is safe to repeat.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The node that leads, as the nodes of the highest term say.
    pub async fn leader(&self) -> Option<NodeId> {
        Some(self.leadership().await?.0)
    }

    /// The leader, and the term in which it leads.
    pub async fn leadership(&self) -> Option<(NodeId, u64)> {
        let asked = self.nodes.iter().map(async |node| {
            let status = self.client.status(&node.direct).await.ok()?;
            Some(Saying {
                node: node.id,
                member: status.header.map_or(0, |header| header.member_id),
                leader: status.leader,
                term: status.raft_term,
            })
        });
        let sayings: Vec<Saying> = futures_util::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .collect();
        let led = sayings.iter().filter(|saying| saying.leader != 0);
        let latest = led.max_by_key(|saying| saying.term)?;
        let (leader, term) = (latest.leader, latest.term);
        let found = sayings.iter().find(|saying| saying.member == leader);
        found.map(|saying| (saying.node, term))
    }

    /// Of each group the leader and the highest term that any node tells. Only Holdfast can say it.
    pub async fn leaders_of_groups(&self) -> BTreeMap<String, (Option<NodeId>, u64)> {
        let asked = self.nodes.iter().map(async |node| {
            let told = self.client.groups(&node.direct).await.ok()?;
            Some((node.id, told))
        });
        let told = futures_util::future::join_all(asked).await;
        let told: Vec<_> = told.into_iter().flatten().collect();
        // What the nodes call each other, where that is not what the harness calls them.
        let members = told.iter().map(|(id, said)| (said.node_id, *id));
        let members: BTreeMap<u64, NodeId> = members.collect();
        let mut leaders = BTreeMap::new();
        for group in told.iter().flat_map(|(_, said)| &said.groups) {
            let leader = members.get(&group.leader).copied();
            let known = leaders.entry(group.keyspace.clone()).or_insert((None, 0));
            if group.term > known.1 {
                *known = (leader, group.term);
            } else if group.term == known.1 && known.0.is_none() {
                known.0 = leader;
            }
        }
        leaders
    }

    /// Whether something says within this time, under this address, how it is.
    pub(super) async fn says(&self, address: &str, within: Duration) -> bool {
        let Ok(client) = alone(address, within) else {
            return false;
        };
        matches!(timeout(within, client.status(address)).await, Ok(Ok(_)))
    }

    /// Whether something answers a linearizable read within this time, under this address.
    pub(super) async fn reads(&self, address: &str, within: Duration) -> bool {
        let Ok(client) = alone(address, within) else {
            return false;
        };
        matches!(timeout(within, client.get(PROBE)).await, Ok(Ok(_)))
    }

    /// Waits until a node answers a linearizable read.
    ///
    /// # Errors
    ///
    /// What it answered last.
    pub async fn until_serving(&self, endpoint: &str, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let client = alone(endpoint, Duration::from_secs(2)).map_err(|e| e.to_string())?;
        loop {
            match client.get(PROBE).await {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() >= deadline => return Err(e.to_string()),
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Why a node stays out of its cluster, if it does and says so. Only Holdfast can say it.
    pub async fn stays_out(&self, node: NodeId) -> Option<String> {
        let node = self.nodes.iter().find(|n| n.id == node)?;
        let groups = self.client.groups(&node.direct).await.ok()?;
        Some(groups.stays_out_because).filter(|why| !why.is_empty())
    }

    /// Why a keyspace does not run on a node, if one does not and the node says so. Only Holdfast can
    /// say it.
    pub async fn stopped(&self, node: NodeId) -> Option<String> {
        let node = self.nodes.iter().find(|n| n.id == node)?;
        let groups = self.client.groups(&node.direct).await.ok()?.groups;
        let reasons = groups.into_iter().map(|group| group.stopped_because);
        reasons.into_iter().find(|why| !why.is_empty())
    }

    /// How many snapshots a node has installed since it started, in all keyspaces. Only Holdfast can say
    /// it.
    pub(super) async fn snapshots_installed(&self, node: NodeId) -> Option<u64> {
        let node = self.nodes.iter().find(|n| n.id == node)?;
        let groups = self.client.groups(&node.direct).await.ok()?.groups;
        Some(groups.iter().map(|group| group.snapshots_installed).sum())
    }

    /// Compacts at the present revision. Returns it, or `None` if there was nothing to compact.
    ///
    /// # Errors
    ///
    /// What the cluster answered.
    pub async fn compact(&self) -> Result<Option<i64>, holdfast_client::Error> {
        let client = self.client.with_timeout(Duration::from_secs(5));
        let header = client.get(PROBE).await?.header;
        let revision = header.map_or(0, |header| header.revision);
        if revision <= 1 {
            return Ok(None);
        }
        client.compact(revision).await?;
        Ok(Some(revision))
    }

    /// Hands the leadership over. Returns who leads afterwards.
    ///
    /// # Errors
    ///
    /// What the cluster answered.
    pub async fn move_leader(&self) -> Result<NodeId, String> {
        let client = self.client.with_timeout(Duration::from_secs(5));
        let to = if client.server_kind() == ServerKind::Etcd {
            let leader = self.leader().await;
            let other = self.nodes.iter().find(|node| Some(node.id) != leader);
            let other = other.ok_or("there is no other node")?;
            let status = self.client.status(&other.direct).await;
            let status = status.map_err(|e| e.to_string())?;
            status.header.map_or(0, |header| header.member_id)
        } else {
            0
        };
        let leader = client.transfer_leader(to).await;
        let leader = leader.map_err(|e| e.to_string())?;
        Ok(self.leader().await.unwrap_or(leader))
    }

    /// What the given nodes hold, at one revision, when they had time to catch up.
    pub async fn states(&self, nodes: &[NodeId], patience: Duration) -> Vec<NodeState> {
        let deadline = Instant::now() + patience;
        loop {
            let states = self.states_now(nodes).await;
            let first = states
                .first()
                .map(|s| (s.revision, s.hash, s.compact_revision));
            let agreed = states.iter().all(|state| {
                state.error.is_none()
                    && Some((state.revision, state.hash, state.compact_revision)) == first
            });
            if agreed || Instant::now() >= deadline {
                return states;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn states_now(&self, nodes: &[NodeId]) -> Vec<NodeState> {
        let chosen = self.nodes.iter().filter(|node| nodes.contains(&node.id));
        let client = self.client.with_timeout(Duration::from_secs(5));
        let asked = chosen.map(async |node| {
            let mut state = NodeState {
                node: node.id,
                revision: 0,
                hash: 0,
                compact_revision: 0,
                error: None,
            };
            // Revision 0 means all that the node has.
            match client.hash_kv(&node.direct, 0).await {
                Ok(answer) => {
                    state.revision = answer.header.map_or(0, |header| header.revision);
                    state.hash = answer.hash;
                    state.compact_revision = answer.compact_revision;
                }
                Err(e) => state.error = Some(e.to_string()),
            }
            state
        });
        futures_util::future::join_all(asked).await
    }
}

/// A client of this address and no other, with a connection of its own.
fn alone(address: &str, within: Duration) -> Result<Client, holdfast_client::Error> {
    Client::builder()
        .endpoints([address])
        .discover(false)
        .timeout(within)
        .connect_lazy()
}
