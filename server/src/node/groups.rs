//! The groups of a node: each starts by itself, a state that was lost is fetched from a peer first, and
//! what stops or fails is watched. One that waits holds up no other.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_proto::command::Settings;
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

use super::{Inner, assigned::Assigned, error::RunError, stopping::Stops};
use crate::{
    group::{Group, GroupLimits, Raising, Retention, keep_log_within},
    keyspace::Assignment,
    limits,
    planted::planted,
    raft::{
        GroupId, NodeId, Parts, PeerTransport, RaftGroup, SnapshotRate, Tuning, Voter,
        restore_state,
    },
    storage::{
        cause::Cause,
        log::{GroupLog, Log},
        state::{Database, StateStore},
    },
};

/// Time between two rounds of asking peers for a state that was lost.
const RESTORE_EVERY: Duration = Duration::from_millis(500);

/// What the node found on its disk, and the groups that it is to run.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) database: Database,
    pub(super) groups: Vec<Assignment>,
    pub(super) assigned: Assigned,
}

/// The state of a group that is open.
pub(super) struct OpenState {
    pub(super) store: Arc<StateStore>,
    /// Looks whether it fails.
    pub(super) watching: AbortHandle,
}

/// What all groups of the node are made with.
pub(super) struct Surroundings {
    pub(super) log: Log,
    pub(super) database: Database,
    pub(super) incoming_dir: PathBuf,
    snapshot_rate: Arc<SnapshotRate>,
    /// Groups that start now; it is work for the processor and the disk.
    starting: Semaphore,
    /// Groups that fetch a state now.
    restoring: Semaphore,
}

impl Inner {
    /// Runs all groups, and returns when each runs.
    pub(super) async fn run_groups(self: &Arc<Self>, opened: Opened) -> Result<(), RunError> {
        let Opened {
            log,
            database,
            groups,
            assigned,
        } = opened;
        let config = &self.context.config;
        let incoming_dir = self.incoming_dir();
        std::fs::create_dir_all(&incoming_dir).map_err(|source| RunError::Directory {
            path: incoming_dir.clone(),
            source,
        })?;
        let snapshot_rate = config.limits.snapshot_bytes_per_second_max;
        let surroundings = Arc::new(Surroundings {
            log: log.clone(),
            database,
            incoming_dir,
            snapshot_rate: Arc::new(SnapshotRate::new(snapshot_rate)),
            starting: Semaphore::new(limits::GROUPS_STARTING_MAX),
            restoring: Semaphore::new(limits::GROUPS_RESTORING_MAX),
        });
        let names = groups.iter().map(|group| group.keyspace.as_str());
        self.context.keyspaces.expect(names);
        self.watch_log(log);
        *self.owned.lock().await = Some(super::lifecycle::Owned {
            assigned,
            surroundings: surroundings.clone(),
            stops: Stops::default(),
        });
        let mut starting = self.start_all(&surroundings, groups, None);
        while let Some(started) = starting.join_next().await {
            started.map_err(|e| RunError::Panicked(e.to_string()))??;
        }
        Ok(())
    }

    /// Starts groups side by side. They stop starting when the set is dropped. One whose state is lost is
    /// given up at `until` when no peer has sent it.
    pub(super) fn start_all(
        self: &Arc<Self>,
        surroundings: &Arc<Surroundings>,
        groups: Vec<Assignment>,
        until: Option<Instant>,
    ) -> JoinSet<Result<(), RunError>> {
        let mut starting = JoinSet::new();
        for group in groups {
            let (inner, surroundings) = (self.clone(), surroundings.clone());
            starting.spawn(async move { inner.run_group(&surroundings, group, until).await });
        }
        starting
    }

    /// Keeps the log within its budget, with those groups that run.
    pub(super) fn keep_log_within(&self, log: Log) -> impl Future<Output = ()> + use<> {
        let storage = &self.context.config.storage;
        let (budget_bytes, segment_bytes) = (storage.log_bytes_max, storage.log_segment_bytes);
        let keyspaces = self.context.keyspaces.clone();
        keep_log_within(budget_bytes, segment_bytes, log, move || keyspaces.all())
    }

    pub(super) fn incoming_dir(&self) -> PathBuf {
        self.context.data.path().join("incoming")
    }

    /// The voters of a new group, as the configuration knows them.
    fn voters(&self, ids: &[NodeId]) -> BTreeMap<NodeId, Voter> {
        let members = self.context.config.cluster.members.iter();
        let voters = members.filter(|m| ids.contains(&m.id)).map(|m| {
            let voter = Voter {
                zone: m.zone.clone(),
                peer_url: m.peer_url.clone(),
                client_url: m.client_url.clone(),
            };
            (m.id, voter)
        });
        voters.collect()
    }

    async fn run_group(
        self: &Arc<Self>,
        surroundings: &Surroundings,
        assignment: Assignment,
        until: Option<Instant>,
    ) -> Result<(), RunError> {
        let Assignment {
            id,
            keyspace,
            voters,
        } = assignment;
        let config = &self.context.config;
        let log = surroundings.log.group(id)?;
        let open = self.states.lock().get(&id).map(|open| open.store.clone());
        let store = match open.filter(|store| !store.is_closed()) {
            Some(store) => store,
            None => self.open_store(&surroundings.database, id)?,
        };
        self.restore(id, &store, &log, surroundings, until).await?;
        let permit = surroundings.starting.acquire().await;
        let _permit = permit.expect("nobody closes it");
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
                snapshot_rate: surroundings.snapshot_rate.clone(),
            },
            room: self.room.clone(),
            incoming_dir: surroundings.incoming_dir.clone(),
            promises: self.context.data.promises().clone(),
            newest: self.newest.clone(),
            vitals: self.vitals.clone(),
        })
        .await?;
        let group = Group::new(
            keyspace,
            config.node.id,
            raft.clone(),
            log,
            transport,
            self.views.clone(),
            &GroupLimits {
                proposals_in_flight_max: config.limits.proposals_in_flight_max,
                proposals_in_flight_bytes_max: config.limits.proposals_in_flight_bytes_max,
                reads_waiting_max: config.limits.reads_waiting_max,
                leader_silence_max: limits::LEADER_SILENCE_MAX,
                proof_age_max: 2 * (config.raft.heartbeat_interval() + limits::LEADERS_ASKED_EVERY),
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
        );
        if let Err(e) = self.take_part(&group, &voters).await {
            // It is not to run where nobody knows of it.
            raft.shutdown().await;
            raft.leave_log();
            return Err(e);
        }
        self.watch_for_failure(&group);
        self.failover.watch(&group);
        self.context.keyspaces.add(group);
        // The answer of a peer may have come while the group started.
        if self.context.stays_out.read().is_some() {
            self.stop_groups().await;
        }
        Ok(())
    }

    /// From the first vote on, this memory counts.
    async fn take_part(&self, group: &Group, voters: &[NodeId]) -> Result<(), RunError> {
        let data = &self.context.data;
        if !data.identity().took_part {
            data.set_took_part()?;
        }
        Ok(group.raft().initialize(self.voters(voters)).await?)
    }

    /// A group whose state is behind the beginning of its log cannot be brought up from it: the
    /// state is fetched from a peer, before the group votes. The log and the votes in it are kept.
    async fn restore(
        &self,
        group: GroupId,
        store: &Arc<StateStore>,
        log: &GroupLog,
        surroundings: &Surroundings,
        until: Option<Instant>,
    ) -> Result<(), RunError> {
        let Some(purged) = log.state().purged.map(|pos| pos.index) else {
            return Ok(());
        };
        planted!(LogPurgedPastDurable => if store.applied_record().is_some() { return Ok(()) });
        if store.applied_record().is_some() && store.applied_index() >= purged {
            return Ok(());
        }
        let config = &self.context.config;
        let mut peers = config.cluster.members.iter().map(|m| m.id);
        let peers: Vec<NodeId> = peers.by_ref().filter(|id| *id != config.node.id).collect();
        if peers.is_empty() {
            return Err(RunError::NothingToRestoreFrom { group, purged });
        }
        let spool = format!("group-{group}.restore");
        let spool = surroundings.incoming_dir.join(spool);
        tracing::warn!(
            group,
            purged,
            "the state is behind the log; fetching it from a peer"
        );
        loop {
            for peer in &peers {
                let permit = surroundings.restoring.acquire().await;
                let _permit = permit.expect("nobody closes it");
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
            if until.is_some_and(|until| until <= Instant::now()) {
                return Err(RunError::NotRestored { group, purged });
            }
            tokio::time::sleep(RESTORE_EVERY).await;
        }
    }

    /// A group that stops is told in the log; the node keeps serving its other groups.
    fn watch_for_failure(&self, group: &Arc<Group>) {
        let mut leadership = group.leadership();
        let id = group.id();
        let keyspaces = self.context.keyspaces.clone();
        let group = Arc::downgrade(group);
        tokio::spawn(async move {
            if let Ok(now) = leadership.wait_for(|now| now.stopped.is_some()).await
                // One that was taken away was stopped on purpose.
                && keyspaces.by_id(id).is_some_and(|now| std::ptr::eq(Arc::as_ptr(&now), group.as_ptr()))
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
    pub(super) fn watch_store(
        self: &Arc<Self>,
        group: GroupId,
        store: Arc<StateStore>,
    ) -> AbortHandle {
        let inner = Arc::downgrade(self);
        let watching = tokio::spawn(async move {
            let failure = store.failed().await;
            let Some(inner) = inner.upgrade() else {
                return;
            };
            let why = format!("the state of group {group}: {}", failure.reason);
            if failure.damaged {
                inner.start_over_next_time(&why);
            }
            match failure.cause {
                Cause::NoSpace | Cause::Disk => inner.end(failure.cause, why),
                Cause::Other => {}
            }
        });
        watching.abort_handle()
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
