//! Real nodes for tests: processes of the binary on this machine, killed, stopped and started.
//!
//! ```text
//!   run(test) ─▶ Cluster ─▶ Node ─▶ a `holdfast start` process, its data directory, its output
//!                   │
//!                   ├─ until_*: waits for what the nodes themselves report (holdfast.v1 Admin.Groups)
//!                   ├─ Load: writers with keys of their own (`unique_writes`); History: what they were told
//!                   └─ verify(History): every acknowledged write once, the same on every node
//! ```
//!
//! What holds here:
//!
//! - No process outlives its [`Node`], whether the test passes or panics.
//! - Nothing waits for a fixed time and then hopes: a wait names its condition, and a wait that is
//!   not met tells the last state that it saw.
//! - A failed test keeps its directory and prints where it is, with the seed of its random choices.
//! - Tests run one at a time: three nodes and their load are as much as a small machine carries.

mod check;
mod load;
mod node;
mod wire;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use holdfast_client::{Client, ClientBuilder};
use holdfast_proto::v1::{Group, GroupsResponse, TransferLeaderRequest};
use holdfast_server::{
    DEFAULT_KEYSPACE,
    config::{Config, Member},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

pub use self::{
    load::Load,
    node::{Node, channel},
    wire::{Ending, Wire},
};
pub use holdfast::unique_writes::History;

/// How long a condition may take that has no bound of its own: much longer than on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request of a load may take, retries included. It is a verdict on the cluster and not
/// on the machine, which may be slow.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Groups that every node runs by itself.
const GROUPS_OF_ALL: usize = 2;
/// Ports come from here: below what the system hands out for outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Variable that repeats the random choices of a failed test.
const SEED: &str = "HOLDFAST_TEST_SEED";

/// Runs a test on a runtime of its own, alone, with random choices that can be repeated.
pub fn run(test: impl AsyncFnOnce(&mut StdRng)) {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that the next one could trip over.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => rand::random::<u64>(),
    };
    println!("{SEED}={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test(&mut rng));
}

/// Looks until `probe` succeeds. Its error says what is still missing.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(missing) if begun.elapsed() > patience => {
                panic!("not within {patience:?}: {what}; at last: {missing}")
            }
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

/// A directory for a test, kept if the test fails.
pub struct Workdir(Option<TempDir>);

impl Workdir {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("holdfast-test-").tempdir();
        Self(Some(dir.expect("a temporary directory")))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("there until dropped").path()
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            println!("the test's files are kept in {}", dir.keep().display());
        }
    }
}

/// Three nodes in three zones.
///
/// - `nodes[n]` has the id `n + 1`.
/// - The nodes are dropped, and so killed, before their directory goes.
pub struct Cluster {
    pub nodes: Vec<Node>,
    workdir: Workdir,
    loads: usize,
    /// Groups that every node is to run.
    pub groups: usize,
}

impl Cluster {
    /// A cluster with default settings, all of it up.
    pub async fn start(rng: &mut StdRng) -> Self {
        Self::start_with(rng, |_| {}).await
    }

    /// A cluster with settings of the test's own, all of it up.
    pub async fn start_with(rng: &mut StdRng, settings: impl Fn(&mut Config)) -> Self {
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..5 {
            let workdir = Workdir::new();
            let configs = configs(workdir.path(), rng, &settings);
            let mut nodes: Vec<Node> = configs.into_iter().map(Node::new).collect();
            for node in &mut nodes {
                node.start();
            }
            let mut cluster = Self {
                nodes,
                workdir,
                loads: 0,
                groups: GROUPS_OF_ALL,
            };
            match cluster.leaders(PATIENCE).await {
                Ok(()) => return cluster,
                Err(_) if cluster.nodes.iter().any(Node::lacks_its_ports) => {}
                Err(missing) => panic!("the cluster does not come up: {missing}"),
            }
        }
        panic!("five times in a row a port was taken by somebody else");
    }

    /// Three nodes that have not been started.
    pub fn down(rng: &mut StdRng, settings: impl Fn(&mut Config)) -> Self {
        let workdir = Workdir::new();
        let configs = configs(workdir.path(), rng, &settings);
        Self {
            nodes: configs.into_iter().map(Node::new).collect(),
            workdir,
            loads: 0,
            groups: GROUPS_OF_ALL,
        }
    }

    /// Directory of the test.
    pub fn dir(&self) -> &Path {
        self.workdir.path()
    }

    /// The node with this id.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[index(id)]
    }

    /// The node with this id.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[index(id)]
    }

    /// Ids of the nodes that run.
    pub fn up(&self) -> Vec<u64> {
        let up = self.nodes.iter().filter(|node| node.is_up());
        up.map(|node| node.id).collect()
    }

    /// Ids of all nodes but this one.
    pub fn others(&self, id: u64) -> Vec<u64> {
        let others = self.nodes.iter().filter(|node| node.id != id);
        others.map(|node| node.id).collect()
    }

    /// A client that prefers the zone of a node.
    pub async fn client(&self, near: u64) -> Client {
        self.connect(near, |client| client.timeout(REQUEST_TIMEOUT))
            .await
    }

    async fn connect(&self, near: u64, set: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Client {
        let client = Client::builder()
            .endpoints(self.nodes.iter().map(|node| node.client_url()))
            .prefer_zone(zone(near));
        set(client)
            .connect_timeout(Duration::from_secs(20))
            .connect()
            .await
            .expect("the cluster answers")
    }

    /// Waits until all nodes that run agree on a leader of every group.
    pub async fn until_leaders(&mut self) {
        if let Err(missing) = self.leaders(PATIENCE).await {
            panic!("no leaders within {PATIENCE:?}: {missing}");
        }
    }

    async fn leaders(&mut self, patience: Duration) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let up = self.up();
            match self.agreement(&up).await {
                Ok(_) => return Ok(()),
                Err(missing) => {
                    for node in &mut self.nodes {
                        node.check_alive()?;
                    }
                    if begun.elapsed() > patience {
                        return Err(missing);
                    }
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Who leads the keyspace `default`, as soon as all that run say the same.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.up()).await
    }

    /// Who leads the keyspace `default`, as soon as all these say the same and it is one of them.
    pub async fn leader_among(&self, ids: &[u64]) -> u64 {
        until("a leader", PATIENCE, async || self.agreement(ids).await).await
    }

    async fn agreement(&self, ids: &[u64]) -> Result<u64, String> {
        let mut leaders = Vec::new();
        for id in ids {
            let told = self.node(*id).groups().await?;
            if !told.stays_out_because.is_empty() {
                return Err(format!("node {id} stays out: {}", told.stays_out_because));
            }
            if told.groups.len() != self.groups {
                return Err(format!("node {id} runs {} groups", told.groups.len()));
            }
            if let Some(stopped) = told.groups.iter().find(|g| !g.stopped_because.is_empty()) {
                return Err(format!("node {id} stopped a group: {stopped:?}"));
            }
            leaders.push(told.groups.iter().map(|g| g.leader).collect::<Vec<_>>());
        }
        let first = leaders.first().ok_or("no node runs")?.clone();
        if leaders.iter().any(|other| *other != first) || first.iter().any(|l| !ids.contains(l)) {
            return Err(format!("nodes {ids:?} see the leaders {leaders:?}"));
        }
        Ok(first[1])
    }

    /// Makes a node the leader of the keyspace `default`.
    pub async fn make_leader(&self, to: u64) {
        let patience = Duration::from_secs(30);
        until("a transfer of the leadership", patience, async || {
            let leader = self.leader().await;
            if leader == to {
                return Ok(());
            }
            let request = TransferLeaderRequest {
                keyspace: DEFAULT_KEYSPACE.to_string(),
                to_node: to,
            };
            let answer = self.node(leader).admin().transfer_leader(request).await;
            let answer = answer.map_err(|status| status.to_string())?.into_inner();
            if answer.leader == to {
                Ok(())
            } else {
                Err(format!("node {} leads", answer.leader))
            }
        })
        .await;
    }

    /// Waits until the output of a node, from byte `from` on, has all of this in it. A node writes its
    /// lines a moment after what they tell of.
    pub async fn until_logged(&self, id: u64, from: usize, whats: &[&str]) {
        until("lines in the output of a node", PATIENCE, async || {
            let log = self.node(id).log().split_off(from);
            match whats.iter().find(|what| !log.contains(**what)) {
                None => Ok(()),
                Some(what) => Err(format!("{what:?} is not in that of node {id}: {log}")),
            }
        })
        .await;
    }

    /// Waits until a node says that it stays out, for a reason with `why` in it, and runs nothing.
    pub async fn until_stays_out(&self, id: u64, why: &str) {
        let what = format!("node {id} stays out: {why}");
        until(&what, PATIENCE, async || {
            let told = self.node(id).groups().await?;
            match told.stays_out_because.contains(why) && told.groups.is_empty() {
                true => Ok(()),
                false => Err(format!("{told:?}")),
            }
        })
        .await;
    }

    /// Waits until these nodes have applied all that any of them knows to be committed.
    pub async fn until_caught_up(&self, ids: &[u64]) {
        let mut goal = Vec::new();
        for id in ids {
            let told = until("an answer", PATIENCE, async || {
                self.node(*id).groups().await
            })
            .await;
            goal.push(
                told.groups
                    .iter()
                    .map(|g| g.committed_index)
                    .collect::<Vec<_>>(),
            );
        }
        let goal = (0..self.groups)
            .map(|group| {
                goal.iter()
                    .filter_map(|node| node.get(group))
                    .max()
                    .copied()
            })
            .collect::<Vec<_>>();
        for id in ids {
            until("a node catches up", PATIENCE, async || {
                let told = self.node(*id).groups().await?;
                let applied = told.groups.iter().map(|g| Some(g.applied_index));
                let applied = applied.collect::<Vec<_>>();
                if applied.len() == goal.len() && applied.iter().zip(&goal).all(|(a, g)| a >= g) {
                    return Ok(());
                }
                Err(format!("node {id} has applied {applied:?} of {goal:?}"))
            })
            .await;
        }
    }

    /// A load of `writers` tasks, spread over clients that each prefer another zone.
    pub async fn load(&mut self, writers: usize) -> Load {
        self.load_of(writers, u64::MAX).await
    }

    /// A load that ends by itself after `writes` writes.
    pub async fn load_of(&mut self, writers: usize, writes: u64) -> Load {
        let mut clients = Vec::new();
        for node in &self.nodes {
            clients.push(self.client(node.id).await);
        }
        self.start_load(&clients, writers, writes)
    }

    /// A load that gives every write up at its first failure, so that many end with an effect that
    /// nobody knows.
    pub async fn load_that_gives_up(&mut self, writers: usize) -> Load {
        let mut clients = Vec::new();
        for node in &self.nodes {
            clients.push(self.connect(node.id, |client| client.max_attempts(1)).await);
        }
        self.start_load(&clients, writers, u64::MAX)
    }

    fn start_load(&mut self, clients: &[Client], writers: usize, writes: u64) -> Load {
        self.loads += 1;
        Load::start(&format!("load-{}", self.loads), clients, writers, writes)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                node.print_log_tail();
            }
        }
    }
}

/// The group of the keyspace `default` in what a node reports.
pub fn default_group(told: &GroupsResponse) -> Result<&Group, String> {
    let group = told
        .groups
        .iter()
        .find(|group| group.keyspace == DEFAULT_KEYSPACE);
    group.ok_or_else(|| format!("node {} does not run {DEFAULT_KEYSPACE:?}", told.node_id))
}

/// Copies a directory with all that is in it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("the directory can be read") {
        let entry = entry.expect("the directory can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a file can be copied");
        }
    }
}

/// Waits at most so long for a request, whatever its connection does.
pub async fn within<T>(
    time: Duration,
    request: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    match timeout(time, request).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded("the test waits no longer")),
    }
}

fn index(id: u64) -> usize {
    usize::try_from(id - 1).expect("a small number")
}

fn zone(id: u64) -> String {
    format!("zone-{}", char::from(b'a' + id as u8 - 1))
}

/// Configurations of three nodes on ports that nobody has just now.
fn configs(dir: &Path, rng: &mut StdRng, settings: &impl Fn(&mut Config)) -> Vec<Config> {
    let ports = free_ports(rng, 6);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let members: Vec<Member> = (1..=3)
        .map(|id| Member {
            id,
            zone: zone(id),
            client_url: url(ports[2 * index(id)]),
            peer_url: url(ports[2 * index(id) + 1]),
        })
        .collect();
    let node_dir = |id: u64| -> PathBuf { dir.join(format!("node-{id}")) };
    (1..=3)
        .map(|id| {
            let mut config = Config::default();
            config.node.id = id;
            config.node.zone = zone(id);
            config.node.data_dir = node_dir(id);
            config.node.client_addr = ([127, 0, 0, 1], ports[2 * index(id)]).into();
            config.node.peer_addr = ([127, 0, 0, 1], ports[2 * index(id) + 1]).into();
            config.cluster.members = members.clone();
            settings(&mut config);
            config
        })
        .collect()
}

/// Ports that are free now. All are held until the last is found, so they differ.
pub fn free_ports(rng: &mut StdRng, wanted: usize) -> Vec<u16> {
    let mut held = Vec::new();
    while held.len() < wanted {
        let port = rng.random_range(PORTS);
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    held.into_iter().map(|(port, _)| port).collect()
}
