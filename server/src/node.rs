//! A node: the one place where its parts are put together, and taken apart.
//!
//! ```text
//!   start     data directory (lock) ─▶ detector ─▶ peer server ─▶ client server ─▶ log, state ─▶ groups
//!                                                                   introductions ─────────────────┘ let it vote
//!   shutdown  hand over leaderships ─▶ client server ─▶ groups ─▶ detector ─▶ peer server ─▶ state ─▶ log
//! ```
//!
//! The servers listen before the groups run: peers must get an answer to their introductions, and
//! clients a clear refusal instead of a closed port. The order of shutdown is the reverse of what
//! depends on what: clients are served until somebody else leads, groups stop before what they
//! write to.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    config::Config,
    descriptors,
    detector::{Detector, Views, Vitals, Watched},
    group::{Failover, Group, HandOverError, MemberVersions},
    identity::DataDir,
    keyspace::{Keyspaces, Registry},
    limits,
    raft::{GroupId, NewestVersions, NodeId, has_promised_nothing},
    service::{
        ServiceContext, Serving,
        peer::{
            Gate, GrpcTransport, PeerServer, Standing, client, leading,
            reachability::{Heard, watch},
        },
        serve_clients, serve_peers,
    },
    stop::Step,
    storage::{
        cause::Cause,
        log::{Log, files::DiskFiles},
        room::Room,
        state::Database,
    },
};

mod assigned;
mod error;
mod groups;
mod joining;
mod lifecycle;
mod opening;
mod space;
mod stopping;

pub use self::error::{NodeFailure, StartError};
use self::{
    assigned::Assigned,
    error::RunError,
    groups::OpenState,
    opening::{GROUPS_OF_ALL, log_options},
};

/// A running node.
pub struct Node {
    context: Arc<ServiceContext>,
    clients: Serving,
    peers: Serving,
    /// Asks peers what they lead, and tells the log which of them can be reached.
    watching: JoinHandle<()>,
    /// Tells the vitals that the event loop runs.
    beating: JoinHandle<()>,
    /// Stopped once the groups are: then it says goodbye, and peers know that this node leads nothing.
    detector: Detector,
    /// Sees to it that groups are led.
    failing_over: JoinHandle<()>,
    /// Takes the node into its cluster; done once the groups run.
    joining: JoinHandle<()>,
    inner: Arc<Inner>,
}

/// What the task that joins the cluster shares with the node.
struct Inner {
    context: Arc<ServiceContext>,
    transport: Arc<GrpcTransport>,
    versions: Arc<MemberVersions>,
    views: watch::Receiver<Arc<Views>>,
    failover: Arc<Failover>,
    /// Open while the node may vote and acknowledge.
    gate: Arc<Gate>,
    /// Kept to be closed last: everything above writes to it.
    log: Mutex<Option<Log>>,
    database: Mutex<Option<Database>>,
    /// The states of groups that run, wait, or are about to.
    states: Mutex<BTreeMap<GroupId, OpenState>>,
    /// Which groups there are, for whoever changes that; taken before `states`.
    owned: lifecycle::Changing,
    room: Arc<Room>,
    newest: Arc<NewestVersions>,
    failed: watch::Sender<Option<NodeFailure>>,
    /// What the parts of this node are doing.
    vitals: Arc<Vitals>,
}

impl Node {
    /// Starts a node. It answers at once and takes part in its cluster as soon as it may.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let data = Arc::new(DataDir::open(
            &config.node.data_dir,
            &config.cluster.name,
            cluster_id(&config),
            config.node.id,
        )?);
        if data.identity().cluster_id != cluster_id(&config) && promised_nothing(&config, &data)? {
            tracing::info!(
                "the members are other ones than at the first start, and this node has promised \
                 nothing to any of them: its cluster is founded anew"
            );
            data.found_again(cluster_id(&config))?;
        }
        let identity = data.identity();
        let members: Vec<NodeId> = config.cluster.members.iter().map(|m| m.id).collect();
        let addresses: Vec<_> = config
            .cluster
            .members
            .iter()
            .filter(|m| m.id != config.node.id)
            .map(|m| client::PeerAddress {
                id: m.id,
                url: m.peer_url.clone(),
            })
            .collect();
        let gate = Arc::new(Gate::default());
        let stays_out = Arc::new(RwLock::new(None));
        let transport = Arc::new(GrpcTransport::new(
            client::Sender {
                cluster_id: identity.cluster_id,
                node_id: identity.node_id,
                incarnation: identity.incarnation,
            },
            &addresses,
            limits::PEER_CONNECT_MAX,
            config.limits.forward_queue_requests_max,
            gate.clone(),
        )?);
        let vitals = Arc::new(Vitals::default());
        let watched = Watched {
            cluster_id: identity.cluster_id,
            me: identity.node_id,
            session: rand::random_range(1..=u64::MAX),
            peers: addresses
                .iter()
                .map(|peer| (peer.id, peer.url.clone()))
                .collect(),
        };
        let detector = Detector::start(watched, vitals.clone())?;
        let keyspaces = Arc::new(Keyspaces::default());
        let peer_addr = config.node.peer_addr;
        let context = Arc::new(ServiceContext {
            config,
            data: data.clone(),
            keyspaces: keyspaces.clone(),
            stays_out: stays_out.clone(),
            reporter: detector.reporter(),
            stopping: watch::channel(false).0,
            lifecycle: std::sync::OnceLock::new(),
            registry: Arc::new(Registry::new(keyspaces.clone(), members.clone())),
            started: Instant::now(),
        });
        let standing = Standing {
            gate: gate.clone(),
            stays_out,
        };
        let groups = Assigned::read(data.path())?.groups().count() + GROUPS_OF_ALL.len();
        let shares = descriptors::take(&context.config, groups);
        let versions = MemberVersions::new(identity.node_id);
        let heard = Arc::new(Heard::default());
        let views = detector.views();
        let failover = Failover::new(identity.node_id, transport.clone(), views.clone());
        let peer_server = PeerServer::new(
            data,
            keyspaces,
            versions.clone(),
            members,
            heard.clone(),
            failover.clone(),
            standing,
        );
        let peers =
            serve_peers(peer_addr, peer_server, shares.peers_max, detector.doorway()).await?;
        let clients = serve_clients(context.clone(), shares.clients_max).await?;
        announce(&context);
        let beating = tokio::spawn(beat(vitals.clone()));
        let watching = tokio::spawn({
            let (transport, keyspaces) = (transport.clone(), context.keyspaces.clone());
            let leaders = leading::follow(
                identity.node_id,
                transport.clone(),
                addresses.clone(),
                keyspaces,
            );
            async move { tokio::join!(leaders, watch(transport, addresses, heard)).0 }
        });
        let failing_over = tokio::spawn(failover.clone().run());
        let inner = Arc::new(Inner {
            context: context.clone(),
            transport,
            versions,
            views,
            failover,
            gate,
            log: Mutex::new(None),
            database: Mutex::default(),
            states: Mutex::default(),
            owned: lifecycle::Changing::default(),
            room: Arc::new(Room::new(context.config.storage.reserve_bytes)),
            newest: Arc::default(),
            failed: watch::channel(None).0,
            vitals,
        });
        let handle = lifecycle::Handle(Arc::downgrade(&inner));
        context.set_lifecycle(Arc::new(handle));
        let joining = tokio::spawn({
            let inner = inner.clone();
            async move { inner.join().await }
        });
        Ok(Self {
            context,
            clients,
            peers,
            watching,
            beating,
            detector,
            failing_over,
            joining,
            inner,
        })
    }

    /// Waits until the node meets an error that it cannot go on with, and tells it.
    pub async fn failed(&self) -> NodeFailure {
        let mut failed = self.inner.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().expect("waited for"),
            Err(_) => unreachable!("the sender lives in `self`"),
        }
    }

    /// Stops the node in good order: leaderships go to others first, requests under way are
    /// answered, the state is made durable. Tells `step` what it is about to wait for.
    pub async fn shutdown(self, step: &watch::Sender<Step>) {
        step.send_replace(Step::HandOver);
        self.joining.abort();
        self.watching.abort();
        let handover = Duration::from_millis(limits::HANDOVER_MS_MAX);
        let deadline = Instant::now() + handover;
        let groups = self.context.keyspaces.all();
        futures_util::future::join_all(groups.iter().map(|group| leave(group, deadline))).await;
        step.send_replace(Step::DrainClients);
        self.failing_over.abort();
        self.context.stopping.send_replace(true);
        self.clients.stop(limits::DRAIN_MAX).await;
        step.send_replace(Step::StopGroups);
        // A change under way ends first; there is none afterwards.
        *self.inner.owned.lock().await = None;
        for group in self.context.keyspaces.take_all() {
            group.raft().shutdown().await;
        }
        self.beating.abort();
        self.inner.vitals.beats_no_more();
        tokio::task::block_in_place(|| self.detector.stop());
        step.send_replace(Step::DrainPeers);
        self.peers.stop(limits::PEER_DRAIN_MAX).await;
        step.send_replace(Step::FlushState);
        if let Err(e) = tokio::task::block_in_place(|| self.context.data.save_promises()) {
            tracing::warn!(error = %e, "what peers have promised was not written down");
        }
        let states = std::mem::take(&mut *self.inner.states.lock());
        // Together, so that they share the batch.
        let open = states.values().filter(|open| !open.store.is_closed());
        let flushed = open.map(|open| open.store.flush_at_rest());
        for flushed in futures_util::future::join_all(flushed).await {
            if let Err(e) = flushed {
                tracing::warn!(error = %e, "the last checkpoint was not made; the log has what it lacks");
            }
        }
        step.send_replace(Step::CloseLog);
        let log = self.inner.log.lock().take();
        if let Some(log) = log {
            // It waits for the disk; nothing else runs any more.
            tokio::task::block_in_place(|| log.close());
        }
        step.send_replace(Step::Done);
        tracing::info!("stopped");
    }
}

/// Tells that the event loop runs, as long as it does.
async fn beat(vitals: Arc<Vitals>) {
    let mut ticks = tokio::time::interval(limits::BEAT_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        vitals.beats();
    }
}

async fn leave(group: &Group, deadline: Instant) {
    match group.hand_over(None, deadline).await {
        Ok(leader) => tracing::info!(group = group.id(), leader, "leadership handed over"),
        Err(HandOverError::NotLeader(_)) => {}
        Err(e) => tracing::warn!(group = group.id(), error = %e, "leadership not handed over"),
    }
}

impl Inner {
    fn fail(&self, e: &RunError) {
        self.end(e.cause(), e.to_string());
    }

    /// The node cannot go on; the first reason is the one that is told.
    fn end(&self, cause: Cause, why: String) {
        self.failed.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(NodeFailure { cause, why });
            first
        });
    }
}

/// Who this node is and where it listens: what an operator compares with the other nodes.
fn announce(context: &ServiceContext) {
    let config = &context.config;
    let identity = context.data.identity();
    tracing::info!(
        node = identity.node_id,
        zone = config.node.zone,
        cluster = config.cluster.name,
        cluster_id = format_args!("{:016x}", identity.cluster_id),
        incarnation = format_args!("{:016x}", identity.incarnation),
        data_dir = %context.data.path().display(),
        version = env!("CARGO_PKG_VERSION"),
        "this node"
    );
    let member = config.this_member();
    tracing::info!(
        clients = %config.node.client_addr,
        peers = %config.node.peer_addr,
        known_to_clients_as = member.map(|member| member.client_url.as_str()),
        known_to_peers_as = member.map(|member| member.peer_url.as_str()),
        "listening"
    );
}

/// Whether the log of this node holds no promise to any other: then its founding was never more
/// than its own.
fn promised_nothing(config: &Config, data: &DataDir) -> Result<bool, StartError> {
    let files = DiskFiles;
    let stored = Log::stored_id(&data.log_dir(), &files)?;
    let known = data.identity().log_id;
    // A log that is not the one in which it would have promised shows nothing.
    if stored.is_none() || stored != known {
        return Ok(false);
    }
    let options = log_options(config);
    let (log, _) =
        tokio::task::block_in_place(|| Log::open(&data.log_dir(), options, Arc::new(files)))?;
    // Nobody knows what was promised in a group that is no more.
    let mut nothing = log.dropped().is_empty();
    for group in log.groups().into_iter().flat_map(|id| log.group(id)) {
        nothing &= has_promised_nothing(&group, config.node.id)?;
    }
    tokio::task::block_in_place(|| log.close());
    Ok(nothing)
}

/// The id of a cluster follows from its name and its first members, as in etcd: nodes that are
/// configured for different clusters never take each other for peers. 64-bit FNV-1a.
fn cluster_id(config: &Config) -> u64 {
    let mut members: Vec<String> = config
        .cluster
        .members
        .iter()
        .map(|m| format!("{}={}={}", m.id, m.zone, m.peer_url))
        .collect();
    members.sort();
    let text = format!("{}\n{}", config.cluster.name, members.join("\n"));
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
