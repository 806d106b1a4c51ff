//! A cluster that exists already, given by a file that names its nodes and the commands that break
//! and heal them.
//!
//! What holds here:
//!
//! - Only commands of the file are run, by `sh -c`, each bounded in time. A fault without a command
//!   is skipped, and the reason names the missing field.
//! - Of the faults of links only one can be made: a node that is cut off from all other nodes.
//! - The harness does not own the cluster: when it is done, it undoes what it has broken and leaves
//!   the cluster running. Should it not come so far, its [`Journal`] has the commands that do.
//! - A node that somebody else has started again, such as a supervisor, is not started twice.

mod command;
mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use holdfast_client::Client;
use parking_lot::Mutex;
use tokio::{net::TcpStream, time::timeout};

pub(crate) use self::command::Command;
pub use self::file::{File, FileError, NodeEntry};
use super::{Cluster, Description, End, FaultError, Link, LinkFault, Node};
use crate::{
    history::NodeId,
    journal::{Journal, Remedy},
    terminal,
};

/// Name of this kind of cluster.
pub const KIND: &str = "existing";
/// How long a node may take to answer when the harness starts.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a node may take to accept a connection, when it is asked whether it runs.
const ACCEPT_WITHIN: Duration = Duration::from_secs(2);

/// Why an existing cluster cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum ExistingError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nodes do not answer.
    #[error("the cluster of {} is not reachable: {}", file.display(), nodes.join("; "))]
    Unreachable {
        /// The file.
        file: PathBuf,
        /// Those that do not answer: node, address and error.
        nodes: Vec<String>,
    },
}

/// What the harness has done to the cluster and not undone. A fault is noted before its command is
/// run, so that it is undone even if nobody knows whether it was made.
#[derive(Debug, Default)]
struct Broken {
    down: BTreeSet<NodeId>,
    paused: BTreeSet<NodeId>,
    isolated: BTreeSet<NodeId>,
    /// Links that are to be cut, as asked for.
    cut: BTreeSet<Link>,
    /// Numbers in the journal, by node and the field of what mends it.
    noted: BTreeMap<(NodeId, &'static str), u64>,
}

/// A cluster that exists already.
///
/// - `nodes` has the ids of `entries`.
pub struct ExistingCluster {
    path: PathBuf,
    target: String,
    version: String,
    command_within: Duration,
    nodes: Vec<Node>,
    entries: BTreeMap<NodeId, NodeEntry>,
    journal: Journal,
    broken: Mutex<Broken>,
}

impl ExistingCluster {
    /// Reads the file and asks every node for its state. Fails unless all of them answer. What is broken
    /// later is noted in `journal` first.
    pub async fn connect(path: &Path, journal: Journal) -> Result<Self, ExistingError> {
        let mut cluster = Self::assemble(path, File::load(path)?, journal);
        let mut silent = Vec::new();
        for node in &cluster.nodes {
            for addr in BTreeSet::from([&node.endpoint, &node.direct]) {
                match ask_version(addr).await {
                    Ok(version) => cluster.version = version,
                    Err(error) => silent.push(format!("node {} at {addr}: {error}", node.id)),
                }
            }
        }
        if silent.is_empty() {
            return Ok(cluster);
        }
        Err(ExistingError::Unreachable {
            file: path.to_owned(),
            nodes: silent,
        })
    }

    fn assemble(path: &Path, file: File, journal: Journal) -> Self {
        let nodes = file.nodes.iter().map(|entry| Node {
            id: entry.id,
            zone: entry.zone.clone(),
            endpoint: entry.endpoint.clone(),
            direct: entry
                .direct
                .clone()
                .unwrap_or_else(|| entry.endpoint.clone()),
        });
        let mut nodes: Vec<Node> = nodes.collect();
        nodes.sort_by_key(|node| node.id);
        Self {
            path: path.to_owned(),
            command_within: file.command_within(),
            target: file.target,
            version: String::new(),
            nodes,
            entries: file
                .nodes
                .into_iter()
                .map(|entry| (entry.id, entry))
                .collect(),
            journal,
            broken: Mutex::default(),
        }
    }

    fn entry(&self, node: NodeId) -> Result<&NodeEntry, FaultError> {
        let entry = self.entries.get(&node);
        entry.ok_or_else(|| FaultError::Failed(format!("there is no node {node}")))
    }

    /// The command in a field of a node, or the refusal that names the field.
    fn command(
        &self,
        node: NodeId,
        name: &'static str,
        field: impl FnOnce(&NodeEntry) -> &Option<String>,
    ) -> Result<Command, FaultError> {
        let entry = self.entry(node)?;
        let Some(script) = field(entry) else {
            let path = self.path.display();
            return Err(FaultError::Skipped(format!(
                "node {node} has no `{name}` in {path}"
            )));
        };
        Ok(Command {
            node,
            name,
            what: format!("`{name}` of node {node}"),
            script: script
                .replace("{id}", &node.to_string())
                .replace("{zone}", &entry.zone)
                .replace("{endpoint}", &entry.endpoint),
            within: self.command_within,
        })
    }

    /// Notes what is about to be done to a node, and the command that mends it.
    fn note(&self, what: &str, remedy: &Command) -> Result<(), FaultError> {
        let mut broken = self.broken.lock();
        let key = (remedy.node, remedy.name);
        if broken.noted.contains_key(&key) {
            return Ok(());
        }
        let node = self.nodes.iter().find(|node| node.id == remedy.node);
        let noted = self.journal.breaking(
            format!("node {} {what}", remedy.node),
            Remedy::Command {
                node: remedy.node,
                name: remedy.name.to_owned(),
                script: remedy.script.clone(),
                within_seconds: remedy.within.as_secs_f64(),
                direct: node.map_or_else(String::new, |node| node.direct.clone()),
            },
        );
        let id = noted.map_err(|error| {
            let dir = self.journal.dir().display();
            FaultError::Failed(format!(
                "not done, as it cannot be noted in the journal in {dir}: {error}"
            ))
        })?;
        broken.noted.insert(key, id);
        Ok(())
    }

    /// Notes that a node is mended by the command in this field.
    fn mended(&self, node: NodeId, name: &'static str) {
        if let Some(id) = self.broken.lock().noted.remove(&(node, name)) {
            self.journal.mended(id);
        }
    }

    /// Whether the node says of itself how it is.
    async fn answers(&self, node: NodeId) -> bool {
        let Some(node) = self.nodes.iter().find(|other| other.id == node) else {
            return false;
        };
        let asked = timeout(ACCEPT_WITHIN, ask_version(&node.direct)).await;
        matches!(asked, Ok(Ok(_)))
    }

    /// Whether the node takes connections.
    async fn accepts(&self, node: NodeId) -> bool {
        let Some(node) = self.nodes.iter().find(|other| other.id == node) else {
            return false;
        };
        let connect = TcpStream::connect(node.direct.as_str());
        matches!(timeout(ACCEPT_WITHIN, connect).await, Ok(Ok(_)))
    }

    /// Ends a node by a command.
    async fn end(&self, node: NodeId, command: Command) -> Result<(), FaultError> {
        if self.broken.lock().down.contains(&node) {
            return Ok(());
        }
        let start = self.command(node, "start", |entry| &entry.start)?;
        self.note("is killed or stopped", &start)?;
        self.broken.lock().down.insert(node);
        command.run().await?;
        self.broken.lock().paused.remove(&node);
        self.mended(node, "resume");
        Ok(())
    }

    /// Makes exactly these cuts.
    async fn cut(&self, cut: BTreeSet<Link>) -> Result<(), FaultError> {
        let wanted = self.isolated_by(&cut)?;
        let present = self.broken.lock().isolated.clone();
        let mut commands = Vec::new();
        for node in present.difference(&wanted) {
            commands.push((*node, self.command(*node, "rejoin", |entry| &entry.rejoin)?));
        }
        for node in wanted.difference(&present) {
            let isolate = self.command(*node, "isolate", |entry| &entry.isolate)?;
            let rejoin = self.command(*node, "rejoin", |entry| &entry.rejoin)?;
            self.note("is cut off from the others", &rejoin)?;
            commands.push((*node, isolate));
        }
        self.broken.lock().cut = cut;
        for (node, command) in commands {
            self.broken.lock().isolated.insert(node);
            command.run().await?;
            if !wanted.contains(&node) {
                self.broken.lock().isolated.remove(&node);
                self.mended(node, "rejoin");
            }
        }
        Ok(())
    }

    /// The nodes whose isolation makes exactly these cuts.
    fn isolated_by(&self, cut: &BTreeSet<Link>) -> Result<BTreeSet<NodeId>, FaultError> {
        let mut left = cut.clone();
        let mut isolated = BTreeSet::new();
        for node in self.entries.keys() {
            let links = self.links_of(*node);
            if links.is_subset(cut) && !links.is_disjoint(&left) {
                left.retain(|link| !links.contains(link));
                isolated.insert(*node);
            }
        }
        match left.first() {
            None => Ok(isolated),
            Some(link) => Err(FaultError::Skipped(format!(
                "an existing cluster can only cut nodes off from all others, and not {:?} from \
                 {:?} alone",
                link.from, link.to
            ))),
        }
    }

    /// All links between a node and the others.
    fn links_of(&self, node: NodeId) -> BTreeSet<Link> {
        let others = self.entries.keys().filter(|other| **other != node);
        let ends = others.map(|other| (End::Node(node), End::Node(*other)));
        ends.flat_map(|(a, b)| [Link { from: a, to: b }, Link { from: b, to: a }])
            .collect()
    }
}

async fn ask_version(addr: &str) -> holdfast_client::Result<String> {
    let client = Client::builder()
        .endpoints([addr])
        .discover(false)
        .timeout(ANSWER_WITHIN)
        .connect_lazy()?;
    Ok(client.status(addr).await?.version)
}

#[async_trait]
impl Cluster for ExistingCluster {
    fn describe(&self) -> Description {
        Description {
            kind: KIND.to_owned(),
            target: self.target.clone(),
            version: self.version.clone(),
        }
    }

    fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    async fn start(&self, node: NodeId) -> Result<(), FaultError> {
        let known_down = self.broken.lock().down.contains(&node);
        if !known_down && self.accepts(node).await {
            return Ok(());
        }
        // A supervisor may have been faster, or nothing has stopped it at all.
        if !(known_down && self.answers(node).await) {
            let command = self.command(node, "start", |entry| &entry.start)?;
            command.run().await?;
        }
        self.broken.lock().down.remove(&node);
        self.mended(node, "start");
        Ok(())
    }

    async fn kill(&self, node: NodeId) -> Result<(), FaultError> {
        let command = self.command(node, "kill", |entry| &entry.kill)?;
        self.end(node, command).await
    }

    async fn stop(&self, node: NodeId) -> Result<(), FaultError> {
        let command = self.command(node, "stop", |entry| &entry.stop)?;
        self.end(node, command).await
    }

    async fn pause(&self, node: NodeId) -> Result<(), FaultError> {
        let command = self.command(node, "pause", |entry| &entry.pause)?;
        if self.broken.lock().down.contains(&node) {
            return Err(FaultError::Skipped(format!("node {node} does not run")));
        }
        if self.broken.lock().paused.contains(&node) {
            return Ok(());
        }
        let resume = self.command(node, "resume", |entry| &entry.resume)?;
        self.note("is paused", &resume)?;
        self.broken.lock().paused.insert(node);
        let done = command.run().await;
        if done.is_err() && resume.run().await.is_ok() {
            // Whether it took effect or not, it is undone.
            self.broken.lock().paused.remove(&node);
            self.mended(node, "resume");
        }
        done
    }

    async fn resume(&self, node: NodeId) -> Result<(), FaultError> {
        let command = self.command(node, "resume", |entry| &entry.resume)?;
        if !self.broken.lock().paused.contains(&node) {
            return Ok(());
        }
        command.run().await?;
        self.broken.lock().paused.remove(&node);
        self.mended(node, "resume");
        Ok(())
    }

    /// A node that is cut off may look down although it runs, so then what was done to it counts.
    async fn is_running(&self, node: NodeId) -> bool {
        let (down, isolated) = {
            let broken = self.broken.lock();
            (broken.down.contains(&node), broken.isolated.contains(&node))
        };
        !down && (isolated || self.accepts(node).await)
    }

    async fn set_links(&self, links: &[(Link, LinkFault)]) -> Result<(), FaultError> {
        let whole_cut = LinkFault {
            cut: true,
            ..LinkFault::default()
        };
        let mut cut = self.broken.lock().cut.clone();
        for (link, fault) in links {
            let ends = [link.from, link.to];
            for end in ends {
                if let End::Node(node) = end {
                    self.entry(node)?;
                }
            }
            if *fault == LinkFault::default() {
                cut.remove(link);
            } else if *fault != whole_cut {
                return Err(FaultError::unsupported("do more to a link than cut it"));
            } else if ends.contains(&End::Clients) {
                return Err(FaultError::unsupported("cut clients off"));
            } else {
                cut.insert(*link);
            }
        }
        self.cut(cut).await
    }

    async fn heal_links(&self) -> Result<(), FaultError> {
        self.cut(BTreeSet::new()).await
    }

    fn data_dir(&self, node: NodeId) -> Option<PathBuf> {
        let dir = self.entries.get(&node)?.data_dir.clone()?;
        dir.is_dir().then_some(dir)
    }

    /// Heals links, resumes and starts what the harness has broken, and leaves the cluster running.
    async fn shut_down(&self) {
        let mut failures = Vec::new();
        failures.extend(self.heal_links().await.err());
        for node in self.entries.keys() {
            let (paused, down) = {
                let broken = self.broken.lock();
                (broken.paused.contains(node), broken.down.contains(node))
            };
            if paused {
                failures.extend(self.resume(*node).await.err());
            }
            if down {
                failures.extend(self.start(*node).await.err());
            }
        }
        let hint = !failures.is_empty();
        for failure in failures {
            terminal::note(format_args!(
                "warning: the cluster is not as it was: {failure}"
            ));
        }
        if hint {
            let dir = self.journal.dir().display();
            terminal::note(format_args!("to mend it: holdfast-jepsen heal {dir}"));
        }
    }
}

#[cfg(test)]
mod tests;
