//! The groups of a node: their log and states are opened, a state that was lost is fetched from a peer,
//! and what stops or fails is watched. Each group starts by itself; one that waits holds up no other.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use holdfast_proto::command::Settings;

use super::{Inner, error::RunError, space};
use crate::{
    config::{Config, EngineName},
    group::{Group, GroupLimits, Raising, Retention, keep_log_within},
    keyspace::{DEFAULT, DEFAULT_GROUP, SYSTEM, SYSTEM_GROUP},
    limits,
    planted::{self, Bug},
    raft::{NodeId, Parts, PeerTransport, RaftGroup, SnapshotRate, Tuning, Voter, restore_state},
    storage::{
        cause::Cause,
        engine::OpenEngine,
        log::{GroupLog, Log, LogOptions, files::DiskFiles},
        lsm_engine::Lsm,
        sled_engine::Sled,
        state::{Database, StateOptions, StateStore},
    },
};

/// The groups that every node runs.
pub(super) const GROUPS: [(u64, &str); 2] = [(SYSTEM_GROUP, SYSTEM), (DEFAULT_GROUP, DEFAULT)];

/// Time between two rounds of asking peers for a state that was lost.
const RESTORE_EVERY: Duration = Duration::from_millis(500);

/// What the node found on its disk: the log, then each group with its keyspace and its state.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) groups: Vec<OpenedGroup>,
}

pub(super) struct OpenedGroup {
    pub(super) id: u64,
    pub(super) keyspace: &'static str,
    pub(super) store: Arc<StateStore>,
}

impl Inner {
    /// Opens the log, if it is the one of this node, and the states; begins a session.
    pub(super) fn open(self: &Arc<Self>) -> Result<Opened, RunError> {
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
        let database = self.open_database()?;
        let mut groups = Vec::new();
        for (id, keyspace) in GROUPS {
            let store = self.open_store(&database, id)?;
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

    pub(super) async fn run_groups(self: &Arc<Self>, opened: Opened) -> Result<(), RunError> {
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
        try_join_all(groups).await?;
        Ok(())
    }

    /// Keeps the log within its budget, with those groups that run.
    pub(super) fn keep_log_within(&self, log: Log) -> impl Future<Output = ()> + use<> {
        let storage = &self.context.config.storage;
        let (budget_bytes, segment_bytes) = (storage.log_bytes_max, storage.log_segment_bytes);
        let keyspaces = self.context.keyspaces.clone();
        keep_log_within(budget_bytes, segment_bytes, log, move || keyspaces.all())
    }

    async fn run_group(
        self: &Arc<Self>,
        opened: OpenedGroup,
        log: Log,
        voters: BTreeMap<NodeId, Voter>,
        incoming_dir: PathBuf,
        snapshot_rate: Arc<SnapshotRate>,
    ) -> Result<(), RunError> {
        let OpenedGroup {
            id,
            keyspace,
            store,
        } = opened;
        let config = &self.context.config;
        let group = {
            let log = log.group(id)?;
            self.restore(id, &store, &log).await?;
            let transport: Arc<dyn PeerTransport> = self.transport.clone();
            let raft = RaftGroup::start(Parts {
                group_id: id,
                node_id: config.node.id,
                log: log.clone(),
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
                log,
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
        Ok(())
    }

    fn open_database(&self) -> Result<Database, RunError> {
        let storage = &self.context.config.storage;
        let dir = self.context.data.path().join("state");
        let engine: Arc<dyn OpenEngine> = match storage.engine {
            EngineName::Sled => Arc::new(Sled {
                cache_bytes: storage.cache_bytes,
            }),
            EngineName::LsmTree => {
                Arc::new(Lsm::new(storage.cache_bytes, limits::LSM_OPEN_TABLES_MAX))
            }
        };
        let options = StateOptions {
            table_bytes_max: storage.table_bytes_max,
            flush_interval: storage.flush_interval(),
            engine,
            ..StateOptions::default()
        };
        let (database, moved_aside) = tokio::task::block_in_place(|| Database::open(&dir, options))
            .map_err(RunError::State)?;
        if let Some(aside) = moved_aside {
            tracing::error!(
                path = %aside.path.display(),
                reason = %aside.reason,
                "the state did not open and was moved aside; it is rebuilt from the log or a peer"
            );
        }
        *self.database.lock() = Some(database.clone());
        Ok(database)
    }

    fn open_store(
        self: &Arc<Self>,
        database: &Database,
        group: u64,
    ) -> Result<Arc<StateStore>, RunError> {
        let store = tokio::task::block_in_place(|| database.group(group));
        let store = Arc::new(store.map_err(RunError::State)?);
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
            if failure.damaged {
                inner.start_over_next_time(&why);
            }
            match failure.cause {
                Cause::NoSpace | Cause::Disk => inner.end(failure.cause, why),
                Cause::Other => {}
            }
        });
    }
}

impl Inner {
    /// Damage is there at the next start too. The state is rebuilt then, if there is anybody to rebuild
    /// it from.
    fn start_over_next_time(&self, why: &str) {
        if self.context.config.cluster.members.len() < 2 {
            return;
        }
        let Some(database) = self.database.lock().clone() else {
            return;
        };
        match tokio::task::block_in_place(|| database.start_over_next_time(why)) {
            Ok(()) => tracing::error!(
                why,
                "the database of this node is damaged: at the next start it is moved aside, and the state \
                 rebuilt from the log or a peer"
            ),
            Err(error) => tracing::error!(why, %error, "the damage could not be written down"),
        }
    }
}

pub(super) fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        segment_bytes: u32::try_from(config.storage.log_segment_bytes).unwrap_or(u32::MAX),
        ..LogOptions::default()
    }
}
