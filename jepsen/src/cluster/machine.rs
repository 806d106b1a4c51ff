//! The nodes of a cluster as processes on this machine: what the kinds of clusters that start their
//! own nodes have in common. They differ in how a node is launched and in what is between the nodes.
//!
//! What holds here:
//!
//! - Nothing outlives this: dropping it kills the nodes before it returns.
//! - `dir/node-N` and `dir/node-N.log` belong to node N; `dir/cluster.log` tells when which process
//!   was started and ended, and what else a cluster has to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    fs::File,
    io,
    io::Write,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_client::Client;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{
    ClockFault, FaultError, Node, SyncFault,
    attribution::Owners,
    preload::Preload,
    process::{Identity, Launch, Process},
    target::Target,
};
use crate::{
    history::NodeId,
    journal::{Journal, Remedy},
};

/// How long a new cluster may take until all nodes serve.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// How long one question to a starting node may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Time between two looks at a starting node.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a node may take to stop when asked: more than handing over all leaderships takes.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// What can be opened and takes nothing.
const FULL_DEVICE: &str = "/dev/full";
/// Lines of a node's log that an error shows.
const LOG_TAIL_LINES: usize = 15;

/// What was done to a cluster, and what its proxies have to tell, appended to a file.
#[derive(Debug)]
pub struct ClusterLog {
    file: Mutex<File>,
    begun: Instant,
}

impl ClusterLog {
    /// Appends to this file.
    pub fn open(file: &Path) -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new(File::options().create(true).append(true).open(file)?),
            begun: Instant::now(),
        })
    }

    /// Appends a line, with the seconds since the log was opened.
    pub fn tell(&self, text: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        // A full disk is a fault of its own; the cluster goes on.
        let _ = writeln!(self.file.lock(), "{at:.3} s: {text}");
    }
}

/// Makes the directory of a new cluster, and returns its canonical path.
///
/// # Errors
///
/// A sentence: it cannot be made, or holds a cluster already.
pub(super) fn claim(dir: &Path) -> Result<PathBuf, String> {
    let made = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let dir =
        made.map_err(|error| format!("cannot use the directory {}: {error}", dir.display()))?;
    if node_dir(&dir, 1).exists() {
        return Err(format!(
            "{} holds the data of a cluster already; give another directory",
            dir.display()
        ));
    }
    Ok(dir)
}

/// The same error, with what could not be done.
pub(super) fn about(what: String) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn node_dir(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("node-{node}"))
}

/// `zone-a` and on; with numbers when the letters are used up.
pub(super) fn zone_name(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index @ 0..26) => format!("zone-{}", char::from(b'a' + index)),
        _ => format!("zone-{}", index + 1),
    }
}

/// The processes of a cluster.
///
/// - `processes` has every process that was started and not yet seen to end.
/// - `owners` has the same, for those who ask whose process it is.
/// - `noted` has the numbers of the same in the journal.
pub(super) struct Machine {
    pub(super) target: Target,
    pub(super) dir: PathBuf,
    pub(super) nodes: Vec<Node>,
    pub(super) owners: Owners,
    pub(super) preload: Option<Preload>,
    pub(super) log: Arc<ClusterLog>,
    journal: Journal,
    noted: Mutex<BTreeMap<NodeId, u64>>,
    processes: Mutex<BTreeMap<NodeId, Arc<Process>>>,
    /// Nodes whose output goes to a full device from their next start on.
    muted: Mutex<BTreeSet<NodeId>>,
}

impl Machine {
    /// A machine without nodes so far, in a directory that was claimed.
    pub(super) fn new(target: Target, dir: PathBuf) -> io::Result<Self> {
        let log = dir.join("cluster.log");
        let log =
            ClusterLog::open(&log).map_err(about(format!("cannot open {}", log.display())))?;
        let journal = Journal::open(&dir);
        let what = format!("cannot write the journal in {}", dir.display());
        Ok(Self {
            journal: journal.map_err(about(what))?,
            noted: Mutex::default(),
            target,
            dir,
            nodes: Vec::new(),
            owners: Owners::default(),
            preload: None,
            log: Arc::new(log),
            processes: Mutex::default(),
            muted: Mutex::default(),
        })
    }

    /// From now on nodes are to be launched with the libraries that faults of syncs, clocks and
    /// power need; not for etcd, which does not notice them.
    pub(super) fn load_libraries(&mut self, power_cuts: bool) -> io::Result<()> {
        if self.target == Target::Etcd {
            return Ok(());
        }
        let dir = self.dir.join("preload");
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let what = format!("cannot prepare the libraries in {}", dir.display());
        let preload = Preload::prepare(&dir, &ids).map_err(about(what))?;
        if power_cuts {
            for id in &ids {
                // Where it cannot be, the power cuts themselves are skipped and say why.
                let _ = preload.record_unsynced(*id, true);
            }
        }
        self.preload = Some(preload);
        Ok(())
    }

    pub(super) fn node_dir(&self, node: NodeId) -> PathBuf {
        node_dir(&self.dir, node)
    }

    pub(super) fn node_log(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    /// Where the output of a node goes when it is started now.
    pub(super) fn output(&self, node: NodeId) -> PathBuf {
        match self.muted.lock().contains(&node) {
            true => PathBuf::from(FULL_DEVICE),
            false => self.node_log(node),
        }
    }

    pub(super) fn fill_output(&self, node: NodeId, full: bool) -> Result<(), FaultError> {
        self.check(node)?;
        let mut muted = self.muted.lock();
        match full {
            true if !Path::new(FULL_DEVICE).exists() => {
                return Err(FaultError::Skipped(format!("there is no {FULL_DEVICE}")));
            }
            true => muted.insert(node),
            false => muted.remove(&node),
        };
        Ok(())
    }

    /// Fails if there is no such node.
    pub(super) fn check(&self, node: NodeId) -> Result<(), FaultError> {
        match self.nodes.iter().any(|known| known.id == node) {
            true => Ok(()),
            false => Err(FaultError::Failed(format!("there is no node {node}"))),
        }
    }

    fn process(&self, node: NodeId) -> Result<Option<Arc<Process>>, FaultError> {
        self.check(node)?;
        Ok(self.processes.lock().get(&node).cloned())
    }

    /// Starts the process of a node that has none.
    pub(super) fn spawn(&self, node: NodeId, launch: &Launch) -> Result<(), FaultError> {
        let process = Process::spawn(launch)
            .map_err(|error| FaultError::Failed(format!("node {node} does not start: {error}")))?;
        self.owners.insert(node, process.id());
        self.log
            .tell(&format!("node {node} is process {}", process.id()));
        // The kernel ends it with the harness; the note is for the case that it could not.
        let noted = Identity::of(process.id()).and_then(|process| {
            let what = format!("node {node} runs as process {}", process.pid);
            self.journal.breaking(what, Remedy::End { node, process })
        });
        match noted {
            Ok(id) => {
                let before = self.noted.lock().insert(node, id);
                // One that ended by itself.
                before.into_iter().for_each(|id| self.journal.mended(id));
            }
            Err(error) => self.log.tell(&format!("node {node} is not noted: {error}")),
        }
        self.processes.lock().insert(node, Arc::new(process));
        Ok(())
    }

    /// Waits until all nodes serve clients, at most a minute.
    ///
    /// # Errors
    ///
    /// A node does not serve; the error says which and why, with the ends of all logs.
    pub(super) async fn until_serving(&self) -> Result<(), String> {
        let begun = Instant::now();
        for node in &self.nodes {
            let missing = self.until_one_serves(node, begun).await;
            missing.map_err(|missing| missing + &self.log_tails())?;
        }
        Ok(())
    }

    async fn until_one_serves(&self, node: &Node, begun: Instant) -> Result<(), String> {
        let client = Client::builder()
            .endpoints([&node.endpoint])
            .discover(false)
            .timeout(ANSWER_WITHIN)
            .connect_lazy()
            .map_err(|error| error.to_string())?;
        while let Err(error) = client.get("holdfast-jepsen").first().await {
            if let Some((id, status)) = self.ended_by_themselves().first() {
                return Err(format!("node {id} ended by itself: {status}"));
            }
            if begun.elapsed() > SERVING_WITHIN {
                let id = node.id;
                return Err(format!(
                    "node {id} does not serve within {SERVING_WITHIN:?}: {error}"
                ));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Nodes that ended without being killed or stopped by this harness, with their last status.
    pub(super) fn ended_by_themselves(&self) -> Vec<(NodeId, ExitStatus)> {
        let processes = self.processes.lock();
        let ended = processes
            .iter()
            .filter_map(|(id, process)| Some((*id, process.exit_status()?)));
        ended.collect()
    }

    /// The ends of the logs of all nodes, with headlines.
    pub(super) fn log_tails(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let (file, log) = (self.node_log(node.id), self.read_log(node.id));
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            text += &format!("\n--- the end of {}\n{}", file.display(), tail.join("\n"));
        }
        text
    }

    pub(super) fn read_log(&self, node: NodeId) -> String {
        let bytes = fs::read(self.node_log(node)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn is_running(&self, node: NodeId) -> Result<bool, FaultError> {
        let process = self.process(node)?;
        Ok(process.is_some_and(|process| process.is_running()))
    }

    pub(super) async fn kill(&self, node: NodeId) -> Result<(), FaultError> {
        if let Some(process) = self.process(node)? {
            process.kill().await.map_err(failed(node, "kill"))?;
            self.forget(node, "is killed");
        }
        Ok(())
    }

    /// A node that has to be killed is [`FaultError::Failed`]; it is down all the same.
    pub(super) async fn stop(&self, node: NodeId) -> Result<(), FaultError> {
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

    pub(super) async fn pause(&self, node: NodeId) -> Result<(), FaultError> {
        match self.process(node)? {
            Some(process) if process.is_running() => {
                process.pause().await.map_err(failed(node, "pause"))?;
                self.log.tell(&format!("node {node} is paused"));
                Ok(())
            }
            _ => Err(FaultError::Skipped(format!("node {node} does not run"))),
        }
    }

    pub(super) fn resume(&self, node: NodeId) -> Result<(), FaultError> {
        if let Some(process) = self.process(node)? {
            process.resume().map_err(failed(node, "resume"))?;
            self.log.tell(&format!("node {node} is resumed"));
        }
        Ok(())
    }

    /// SIGKILL to all of these at once; then what they have not synced is taken from their files.
    pub(super) async fn cut_power(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
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

    pub(super) fn files_changed(&self, node: NodeId) -> Result<(), FaultError> {
        let forgotten = self.preload.as_ref().map(|p| p.forget_unsynced(node));
        match forgotten {
            // The node has written nothing so far that could be taken back.
            None | Some(Err(FaultError::Skipped(_))) => Ok(()),
            Some(done) => done,
        }
    }

    pub(super) fn set_syncs(&self, node: NodeId, fault: SyncFault) -> Result<(), FaultError> {
        self.check(node)?;
        self.preload()?.set_syncs(node, fault)
    }

    pub(super) fn set_clock(&self, node: NodeId, fault: ClockFault) -> Result<(), FaultError> {
        self.check(node)?;
        self.preload()?.set_clock(node, fault)
    }

    fn preload(&self) -> Result<&Preload, FaultError> {
        if self.target == Target::Etcd {
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

    /// Kills all nodes and waits until they are gone.
    pub(super) async fn shut_down(&self) {
        let processes = self.kill_all();
        for (node, process) in processes {
            let gone = process.kill().await.is_ok();
            self.owners.remove(node);
            if gone {
                self.is_gone(node);
            }
        }
    }

    /// Notes that the process of a node needs no end any more.
    fn is_gone(&self, node: NodeId) {
        if let Some(id) = self.noted.lock().remove(&node) {
            self.journal.mended(id);
        }
    }

    /// Kills all nodes, and returns when they are gone.
    pub(super) fn kill_now(&self) {
        let processes = self.kill_all();
        let nodes: Vec<NodeId> = processes.keys().copied().collect();
        drop(processes);
        for node in nodes {
            self.is_gone(node);
        }
    }

    /// SIGKILL to all. What could not be killed is waited for by the drop of its process.
    fn kill_all(&self) -> BTreeMap<NodeId, Arc<Process>> {
        let processes = std::mem::take(&mut *self.processes.lock());
        for process in processes.values() {
            let _ = process.send_kill();
        }
        processes
    }

    /// Forgets a process that has ended.
    fn forget(&self, node: NodeId, how: &str) {
        self.owners.remove(node);
        self.processes.lock().remove(&node);
        self.is_gone(node);
        self.log.tell(&format!("node {node} {how}"));
    }
}

/// Prefixes an error of the machine with what could not be done to which node.
pub(super) fn failed(node: NodeId, what: &str) -> impl FnOnce(io::Error) -> FaultError {
    let text = format!("cannot {what} node {node}");
    move |error| FaultError::Failed(format!("{text}: {error}"))
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_letters() {
        assert_eq!(zone_name(0), "zone-a");
        assert_eq!(zone_name(25), "zone-z");
        assert_eq!(zone_name(26), "zone-27");
    }
}
