//! A node: the one place where its parts are put together, and taken apart.
//!
//! ```text
//!   start     data directory (lock) ─▶ peer server ─▶ client server ─▶ log, state ─▶ groups
//!                                                      introductions ─────────────────┘ let it vote
//!   shutdown  hand over leaderships ─▶ client server ─▶ groups ─▶ peer server ─▶ state ─▶ log
//! ```
//!
//! The servers listen before the groups run: peers must get an answer to their introductions, and
//! clients a clear refusal instead of a closed port. The order of shutdown is the reverse of what
//! depends on what: clients are served until somebody else leads, groups stop before what they
//! write to.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use holdfast_proto::command::Settings;
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::MissedTickBehavior,
};

use crate::{
    config::Config,
    descriptors,
    group::{
        Group, GroupLimits, HandOverError, MemberVersions, Raising, Retention, keep_log_within,
    },
    identity::{DataDir, IdentityError, Memory},
    keyspace::{DEFAULT, DEFAULT_GROUP, Keyspaces, SYSTEM, SYSTEM_GROUP},
    limits,
    planted::{self, Bug},
    raft::{
        DecodeError, GroupId, NodeId, Parts, PeerTransport, RaftGroup, Reach, SnapshotRate,
        StartError as RaftStartError, Tuning, Voter, has_promised_nothing, reach_of, restore_state,
    },
    service::{
        ServeError, ServiceContext, Serving,
        peer::{
            Gate, GrpcTransport, Introduction, PeerServer, Standing, client,
            reachability::{Heard, watch},
        },
        serve_clients, serve_peers,
    },
    stop::Step,
    storage::{
        cause::Cause,
        log::{GroupLog, Log, LogOptions, files::DiskFiles},
        room::Room,
        sled_engine::Sled,
        state::{StateError, StateOptions, StateStore},
    },
};

mod space;

/// The groups that every node runs.
const GROUPS: [(u64, &str); 2] = [(SYSTEM_GROUP, SYSTEM), (DEFAULT_GROUP, DEFAULT)];

/// Time between two rounds of asking peers for a state that was lost.
const RESTORE_EVERY: Duration = Duration::from_millis(500);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address cannot be had.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The log cannot be looked into.
    #[error("the log: {0}")]
    Log(#[from] crate::storage::log::OpenError),
    /// A vote in the log does not decode.
    #[error("the log: {0}")]
    Vote(#[from] DecodeError),
    /// A peer's address makes no sense.
    #[error("cluster.members: {0}")]
    Peers(#[from] tonic::transport::Error),
}

impl StartError {
    /// What kind of trouble it is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Identity(error) => error.cause(),
            Self::Log(error) => error.into(),
            Self::Serve(_) | Self::Peers(_) | Self::Vote(_) => Cause::Other,
        }
    }
}

/// What ended a node that had started.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct NodeFailure {
    /// What kind of trouble it is.
    pub cause: Cause,
    /// What happened, and what to do.
    pub why: String,
}

/// Why a node that had started gave up.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the log: {0}")]
    Log(#[from] crate::storage::log::OpenError),
    #[error("the state of group {group}: {error}")]
    State { group: u64, error: StateError },
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    #[error(
        "the state of group {group} is lost, its log begins after index {purged}, and there is no \
         peer to fetch the state from; put a copy of the directory state/ back"
    )]
    NothingToRestoreFrom { group: u64, purged: u64 },
    #[error("how far the memory of group {group} goes: {error}")]
    Vote { group: u64, error: std::io::Error },
    /// Nothing is broken, but the node may not take part.
    #[error("{0}")]
    StaysOut(String),
    #[error("{path}: {source}")]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl RunError {
    fn cause(&self) -> Cause {
        match self {
            Self::Identity(error) => error.cause(),
            Self::Log(error) => error.into(),
            Self::State { error, .. } => error.into(),
            Self::Raft(RaftStartError::State(error)) => Cause::of(error),
            Self::Raft(_)
            | Self::NothingToRestoreFrom { .. }
            | Self::Vote { .. }
            | Self::StaysOut(_) => Cause::Other,
            Self::Directory { source, .. } => Cause::of(source),
        }
    }
}

/// A running node.
pub struct Node {
    context: Arc<ServiceContext>,
    clients: Serving,
    peers: Serving,
    /// Tells the log which peers can be reached.
    watching: JoinHandle<()>,
    /// Takes the node into its cluster; done once the groups run.
    joining: JoinHandle<()>,
    inner: Arc<Inner>,
}

/// What the node found on its disk: the log, then each group with its keyspace and its state.
struct Opened {
    log: Log,
    groups: Vec<OpenedGroup>,
}

struct OpenedGroup {
    id: u64,
    keyspace: &'static str,
    store: Arc<StateStore>,
}

/// What the task that joins the cluster shares with the node.
struct Inner {
    context: Arc<ServiceContext>,
    transport: Arc<GrpcTransport>,
    versions: Arc<MemberVersions>,
    /// Open while the node may vote and acknowledge.
    gate: Arc<Gate>,
    /// Kept to be closed last: everything above writes to it.
    log: Mutex<Option<Log>>,
    stores: Mutex<Vec<Arc<StateStore>>>,
    room: Arc<Room>,
    failed: watch::Sender<Option<NodeFailure>>,
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
            config.raft.election_timeout_max(),
            config.limits.forward_queue_requests_max,
            gate.clone(),
        )?);
        let keyspaces = Arc::new(Keyspaces::default());
        let peer_addr = config.node.peer_addr;
        let context = Arc::new(ServiceContext {
            config,
            data: data.clone(),
            keyspaces: keyspaces.clone(),
            stays_out: stays_out.clone(),
            stopping: watch::channel(false).0,
        });
        let standing = Standing {
            gate: gate.clone(),
            stays_out,
        };
        let shares = descriptors::take(&context.config, GROUPS.len());
        let versions = MemberVersions::new(identity.node_id);
        let heard = Arc::new(Heard::default());
        let peer_server = PeerServer::new(
            data,
            keyspaces,
            versions.clone(),
            members,
            heard.clone(),
            standing,
        );
        let peers = serve_peers(peer_addr, peer_server, shares.peers_max).await?;
        let clients = serve_clients(context.clone(), shares.clients_max).await?;
        announce(&context);
        let watching = tokio::spawn(watch(transport.clone(), addresses, heard));
        let inner = Arc::new(Inner {
            context: context.clone(),
            transport,
            versions,
            gate,
            log: Mutex::new(None),
            stores: Mutex::default(),
            room: Arc::new(Room::new(context.config.storage.reserve_bytes)),
            failed: watch::channel(None).0,
        });
        let joining = tokio::spawn({
            let inner = inner.clone();
            async move { inner.join().await }
        });
        Ok(Self {
            context,
            clients,
            peers,
            watching,
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
        self.context.stopping.send_replace(true);
        self.clients.stop(limits::DRAIN_MAX).await;
        step.send_replace(Step::StopGroups);
        for group in self.context.keyspaces.take_all() {
            group.raft().shutdown().await;
        }
        step.send_replace(Step::DrainPeers);
        self.peers.stop(limits::PEER_DRAIN_MAX).await;
        step.send_replace(Step::FlushState);
        if let Err(e) = tokio::task::block_in_place(|| self.context.data.save_promises()) {
            tracing::warn!(error = %e, "what peers have promised was not written down");
        }
        let stores = std::mem::take(&mut *self.inner.stores.lock());
        for store in stores {
            if let Err(e) = store.flush_at_rest().await {
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

async fn leave(group: &Group, deadline: Instant) {
    match group.hand_over(None, deadline).await {
        Ok(leader) => tracing::info!(group = group.id(), leader, "leadership handed over"),
        Err(HandOverError::NotLeader(_)) => {}
        Err(e) => tracing::warn!(group = group.id(), error = %e, "leadership not handed over"),
    }
}

impl Inner {
    /// Takes the node into its cluster.
    async fn join(self: Arc<Self>) {
        match self.clone().try_join().await {
            Ok(()) => {}
            Err(RunError::StaysOut(why)) => self.stay_out(&why).await,
            Err(e) => self.fail(&e),
        }
    }

    /// A new node introduces itself before it makes anything. Any other one opens what it has, tells
    /// it to its peers, and runs its groups meanwhile; they vote once the gate is open.
    async fn try_join(self: Arc<Self>) -> Result<(), RunError> {
        let data = &self.context.data;
        if !data.identity().took_part {
            let identity = data.identity();
            let nothing = Memory {
                incarnation: identity.incarnation,
                sessions: identity.sessions,
                reaches: Vec::new(),
            };
            self.introduce(&nothing, &Vec::new, None).await?;
        }
        let opened = self.open()?;
        let memory = self.memory(&opened)?;
        let reaches_now = reaches_now(&opened, &memory);
        // Aborted with this task.
        let mut introductions = JoinSet::new();
        let inner = self.clone();
        introductions.spawn(async move {
            let gate = Some(&*inner.gate);
            match inner.introduce(&memory, &reaches_now, gate).await {
                Ok(()) => {}
                Err(RunError::StaysOut(why)) => inner.stay_out(&why).await,
                Err(e) => inner.fail(&e),
            }
        });
        self.run_groups(opened).await?;
        let mut save = tokio::time::interval(limits::PROMISES_SAVED_EVERY);
        save.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            save.tick().await;
            let data = self.context.data.clone();
            let saved = tokio::task::spawn_blocking(move || data.save_promises()).await;
            if let Ok(Err(e)) = saved {
                // They are a second line of defence: a node that cannot keep them goes on.
                tracing::warn!(error = %e, "what peers have promised was not written down");
            }
        }
    }

    async fn introduce(
        &self,
        memory: &Memory,
        reaches_now: &(dyn Fn() -> Vec<(GroupId, Reach)> + Sync),
        gate: Option<&Gate>,
    ) -> Result<(), RunError> {
        let config = &self.context.config;
        let members: Vec<NodeId> = config.cluster.members.iter().map(|m| m.id).collect();
        let introduction = Introduction {
            transport: &self.transport,
            data: &self.context.data,
            zone: &config.node.zone,
            members: &members,
            memory,
            reaches_now,
            versions: &self.versions,
        };
        let lost = match gate {
            None => introduction.before_anything().await?,
            Some(gate) => introduction.with_memory(gate).await?,
        };
        match lost {
            None => Ok(()),
            Some(lost) => Err(RunError::StaysOut(format!(
                "node {} knows node {} with {}",
                lost.by, config.node.id, lost.why
            ))),
        }
    }

    /// How far the memory goes that was found.
    fn memory(&self, opened: &Opened) -> Result<Memory, RunError> {
        let identity = self.context.data.identity();
        let mut reaches = Vec::new();
        for OpenedGroup {
            id: group, store, ..
        } in &opened.groups
        {
            let reach =
                reach_of(&opened.log.group(*group), store).map_err(|error| RunError::Vote {
                    group: *group,
                    error,
                })?;
            reaches.push((*group, reach));
        }
        Ok(Memory {
            incarnation: identity.incarnation,
            sessions: identity.sessions,
            reaches,
        })
    }

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

    /// The node has lost its memory: it must neither vote nor acknowledge anything.
    async fn stay_out(&self, why: &str) {
        self.gate.close();
        let why = format!(
            "{why}. A voter that lost its data must not vote again: what it acknowledged could be \
             lost. Put the data directory back as it last was, with its log, or give the node a new \
             id; until then the others go on without it"
        );
        tracing::error!("this node stays out of the cluster: {why}");
        *self.context.stays_out.write() = Some(why);
        self.stop_groups().await;
    }

    async fn stop_groups(&self) {
        for group in self.context.keyspaces.take_all() {
            group.raft().shutdown().await;
        }
    }

    /// Opens the log, if it is the one of this node, and the states; begins a session.
    fn open(self: &Arc<Self>) -> Result<Opened, RunError> {
        let config = &self.context.config;
        let data = &self.context.data;
        let began = Instant::now();
        let log_dir = data.log_dir();
        let files = Arc::new(DiskFiles);
        let stored = Log::stored_id(&log_dir, &*files)?;
        if let Some(why) = data.log_mismatch(stored)? {
            if !planted::trusts_any_memory() {
                return Err(RunError::StaysOut(why));
            }
            tracing::warn!(why, "a planted bug: the node takes part all the same");
        }
        let log_options = log_options(config);
        let (log, recovery) =
            tokio::task::block_in_place(|| Log::open(&log_dir, log_options, files))?;
        let session = data.begin_session(recovery.log_id)?;
        tracing::info!(elapsed = ?began.elapsed(), session = session.number, ?recovery, "log opened");
        *self.log.lock() = Some(log.clone());
        space::watch(self);
        let mut groups = Vec::new();
        for (id, keyspace) in GROUPS {
            let store = self.open_store(id)?;
            if store.applied_record().is_some() && !data.identity().took_part {
                return Err(RunError::StaysOut(format!(
                    "its directory state/ holds data of group {id}, but the node has never taken \
                     part in a cluster"
                )));
            }
            groups.push(OpenedGroup {
                id,
                keyspace,
                store,
            });
        }
        Ok(Opened { log, groups })
    }

    async fn run_groups(self: &Arc<Self>, opened: Opened) -> Result<(), RunError> {
        let Opened { log, groups } = opened;
        let config = &self.context.config;
        let data = &self.context.data;
        let incoming_dir = data.path().join("incoming");
        std::fs::create_dir_all(&incoming_dir).map_err(|source| RunError::Directory {
            path: incoming_dir.clone(),
            source,
        })?;
        let voters: BTreeMap<NodeId, Voter> = config
            .cluster
            .members
            .iter()
            .map(|m| {
                let voter = Voter {
                    zone: m.zone.clone(),
                    peer_url: m.peer_url.clone(),
                    client_url: m.client_url.clone(),
                };
                (m.id, voter)
            })
            .collect();
        let snapshot_rate = config.limits.snapshot_bytes_per_second_max;
        let snapshot_rate = Arc::new(SnapshotRate::new(snapshot_rate));
        let keyspaces = &self.context.keyspaces;
        keyspaces.expect(GROUPS.map(|(_, keyspace)| keyspace));
        self.watch_log(log.clone());
        // Each by itself: one that waits for a peer keeps no other from serving.
        let groups = groups.into_iter().map(|opened| {
            let (log, voters, incoming_dir) = (log.clone(), voters.clone(), incoming_dir.clone());
            let snapshot_rate = snapshot_rate.clone();
            self.run_group(opened, log, voters, incoming_dir, snapshot_rate)
        });
        let groups = try_join_all(groups).await?;
        let storage = &config.storage;
        keep_log_within(
            storage.log_bytes_max,
            storage.log_segment_bytes,
            log,
            &groups,
        );
        Ok(())
    }

    async fn run_group(
        self: &Arc<Self>,
        opened: OpenedGroup,
        log: Log,
        voters: BTreeMap<NodeId, Voter>,
        incoming_dir: PathBuf,
        snapshot_rate: Arc<SnapshotRate>,
    ) -> Result<Arc<Group>, RunError> {
        let OpenedGroup {
            id,
            keyspace,
            store,
        } = opened;
        let config = &self.context.config;
        let group = {
            self.restore(id, &store, &log.group(id)).await?;
            let transport: Arc<dyn PeerTransport> = self.transport.clone();
            let raft = RaftGroup::start(Parts {
                group_id: id,
                node_id: config.node.id,
                log: log.group(id),
                store,
                transport: transport.clone(),
                tuning: Tuning {
                    heartbeat_interval: config.raft.heartbeat_interval(),
                    election_timeout_min: config.raft.election_timeout_min(),
                    election_timeout_max: config.raft.election_timeout_max(),
                    quorum_loss_probe_interval: config.raft.quorum_loss_probe_interval(),
                    max_payload_entries: config.raft.max_payload_entries,
                    append_silence_max: limits::APPEND_SILENCE_MAX,
                    snapshot_stall_max: limits::SNAPSHOT_STALL_MAX,
                    snapshot_rate,
                },
                room: self.room.clone(),
                incoming_dir,
                promises: self.context.data.promises().clone(),
            })
            .await?;
            Group::new(
                keyspace.to_string(),
                config.node.id,
                raft,
                log.clone(),
                transport,
                &GroupLimits {
                    proposals_in_flight_max: config.limits.proposals_in_flight_max,
                    proposals_in_flight_bytes_max: config.limits.proposals_in_flight_bytes_max,
                    reads_waiting_max: config.limits.reads_waiting_max,
                    leader_silence_max: config.raft.election_timeout_max() * 2,
                },
                Retention {
                    log_entries_max: config.raft.log_entries_max,
                    log_bytes_max: config.raft.log_bytes_max,
                },
                Raising {
                    versions: self.versions.clone(),
                    first_settings: Settings {
                        version: 0,
                        retry_clients_max: config.limits.retry_clients_max as u64,
                        retry_bytes_max: config.limits.retry_bytes_max,
                    },
                },
            )
        };
        // From the first vote on, this memory counts.
        let data = &self.context.data;
        if !data.identity().took_part {
            data.set_took_part()?;
        }
        group.raft().initialize(voters).await?;
        self.watch_for_failure(&group);
        self.context.keyspaces.add(group.clone());
        // The answer of a peer may have come while the group started.
        if self.context.stays_out.read().is_some() {
            self.stop_groups().await;
        }
        Ok(group)
    }

    fn open_store(self: &Arc<Self>, group: u64) -> Result<Arc<StateStore>, RunError> {
        let config = &self.context.config;
        let dir = self
            .context
            .data
            .path()
            .join("state")
            .join(format!("group-{group}"));
        let options = StateOptions {
            table_bytes_max: config.storage.table_bytes_max,
            flush_interval: config.storage.flush_interval(),
            engine: Arc::new(Sled {
                cache_bytes: config.storage.cache_bytes,
            }),
            ..StateOptions::default()
        };
        let opened = tokio::task::block_in_place(|| StateStore::open(&dir, options))
            .map_err(|error| RunError::State { group, error })?;
        if let Some(aside) = &opened.moved_aside {
            tracing::error!(
                group,
                path = %aside.path.display(),
                reason = %aside.reason,
                "the state did not open and was moved aside; it is rebuilt from the log or a peer"
            );
        }
        let store = Arc::new(opened.store);
        self.stores.lock().push(store.clone());
        self.watch_store(group, store.clone());
        Ok(store)
    }

    /// A group whose state is behind the beginning of its log cannot be brought up from it: the
    /// state is fetched from a peer, before the group votes. The log and the votes in it are kept.
    async fn restore(
        &self,
        group: u64,
        store: &Arc<StateStore>,
        log: &GroupLog,
    ) -> Result<(), RunError> {
        let Some(purged) = log.state().purged.map(|pos| pos.index) else {
            return Ok(());
        };
        let trusts_the_state = planted::is(Bug::LogPurgedPastDurable);
        if store.applied_record().is_some() && (store.applied_index() >= purged || trusts_the_state)
        {
            return Ok(());
        }
        let config = &self.context.config;
        let mut peers = config.cluster.members.iter().map(|m| m.id);
        let peers: Vec<NodeId> = peers.by_ref().filter(|id| *id != config.node.id).collect();
        if peers.is_empty() {
            return Err(RunError::NothingToRestoreFrom { group, purged });
        }
        let spool = self.context.data.path().join("incoming");
        let spool = spool.join(format!("group-{group}.restore"));
        tracing::warn!(
            group,
            purged,
            "the state is behind the log; fetching it from a peer"
        );
        loop {
            for peer in &peers {
                let restored = match self.transport.fetch_snapshot(*peer, group).await {
                    Ok(chunks) => restore_state(store.clone(), spool.clone(), chunks, purged).await,
                    Err(e) => {
                        tracing::info!(group, peer, error = %e, "no snapshot from this peer yet");
                        continue;
                    }
                };
                match restored {
                    Ok(index) => {
                        tracing::info!(group, peer, index, "state restored from a peer");
                        return Ok(());
                    }
                    Err(e) => tracing::warn!(group, peer, error = %e, "restoring the state failed"),
                }
            }
            tokio::time::sleep(RESTORE_EVERY).await;
        }
    }

    /// A group that stops is told in the log; the node keeps serving its other groups.
    fn watch_for_failure(&self, group: &Arc<Group>) {
        let mut leadership = group.leadership();
        let id = group.id();
        let keyspaces = self.context.keyspaces.clone();
        tokio::spawn(async move {
            if let Ok(now) = leadership.wait_for(|now| now.stopped.is_some()).await
                // One that was taken away was stopped on purpose.
                && keyspaces.by_id(id).is_some()
            {
                tracing::error!(group = id, why = ?now.stopped, "a group has stopped on this node");
            }
        });
    }

    /// A log that cannot write is the end of the node: nothing may be acknowledged any more.
    fn watch_log(self: &Arc<Self>, log: Log) {
        let inner = self.clone();
        tokio::spawn(async move {
            let failure = log.failed().await;
            inner.end(failure.cause(), failure.to_string());
        });
    }

    /// So is a state that cannot be written or read for want of room or because of the disk: all
    /// groups of the node are on it.
    fn watch_store(self: &Arc<Self>, group: u64, store: Arc<StateStore>) {
        let inner = self.clone();
        tokio::spawn(async move {
            let failure = store.failed().await;
            let why = format!("the state of group {group}: {}", failure.reason);
            match failure.cause {
                Cause::NoSpace | Cause::Disk => inner.end(failure.cause, why),
                Cause::Other => {}
            }
        });
    }
}

/// Tells how far the memory of a node that runs goes; where that cannot be read, how far it went.
fn reaches_now(
    opened: &Opened,
    memory: &Memory,
) -> impl Fn() -> Vec<(GroupId, Reach)> + Send + Sync + use<> {
    let known = memory.reaches.clone();
    let sources: Vec<_> = opened
        .groups
        .iter()
        .map(|group| (group.id, opened.log.group(group.id), group.store.clone()))
        .collect();
    move || {
        let then = |id| known.iter().find(|(group, _)| *group == id);
        let reaches = sources.iter().map(|(id, log, store)| {
            let then = then(*id).map_or_else(Reach::default, |(_, reach)| *reach);
            (*id, reach_of(log, store).unwrap_or(then))
        });
        reaches.collect()
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
        version = crate::planted::version(),
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
    let mut nothing = true;
    for id in log.groups() {
        nothing &= has_promised_nothing(&log.group(id), config.node.id)?;
    }
    tokio::task::block_in_place(|| log.close());
    Ok(nothing)
}

fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        segment_bytes: u32::try_from(config.storage.log_segment_bytes).unwrap_or(u32::MAX),
        ..LogOptions::default()
    }
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
