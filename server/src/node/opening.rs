//! Opening what a node has on its disk: the log, if it is its own, the database, and the state of every
//! group that the node is to run.

use std::{sync::Arc, time::Instant};

use super::{
    Inner,
    assigned::Assigned,
    error::RunError,
    groups::{OpenState, Opened},
    space,
};
use crate::{
    config::{Config, EngineName},
    keyspace::{Assignment, DEFAULT, DEFAULT_GROUP, SYSTEM, SYSTEM_GROUP},
    limits, planted,
    raft::{GroupId, NodeId},
    storage::{
        engine::OpenEngine,
        log::{Log, LogOptions, files::DiskFiles},
        lsm_engine::Lsm,
        sled_engine::Sled,
        state::{Database, StateOptions, StateStore},
    },
};

/// The groups that every node runs.
pub(super) const GROUPS_OF_ALL: [(GroupId, &str); 2] =
    [(SYSTEM_GROUP, SYSTEM), (DEFAULT_GROUP, DEFAULT)];

/// The groups that every node of this cluster runs.
fn groups_of_all(config: &Config) -> impl Iterator<Item = Assignment> {
    let voters: Vec<NodeId> = config.cluster.members.iter().map(|m| m.id).collect();
    GROUPS_OF_ALL
        .into_iter()
        .map(move |(id, keyspace)| Assignment {
            id,
            keyspace: keyspace.to_owned(),
            voters: voters.clone(),
        })
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
        if let Some(why) = data.log_mismatch(stored)?
            && !planted::trusts_any_memory()
        {
            return Err(RunError::StaysOut(why));
        }
        let log_options = LogOptions {
            vitals: self.vitals.clone(),
            ..log_options(config)
        };
        let (log, recovery) =
            tokio::task::block_in_place(|| Log::open(&log_dir, log_options, files))?;
        let session = data.begin_session(recovery.log_id)?;
        tracing::info!(elapsed = ?began.elapsed(), session = session.number, ?recovery, "log opened");
        *self.log.lock() = Some(log.clone());
        space::watch(self);
        let database = self.open_database()?;
        let mut assigned = Assigned::read(data.path())?;
        self.finish_drops(&log, &database, &mut assigned)?;
        let groups: Vec<_> = groups_of_all(config)
            .chain(assigned.groups().cloned())
            .collect();
        for group in log.groups().into_iter().chain(database.groups()) {
            if !groups.iter().any(|known| known.id == group) {
                return Err(RunError::NotAssigned { group });
            }
        }
        for Assignment { id, .. } in &groups {
            let store = self.open_store(&database, *id)?;
            if store.applied_record().is_some() && !data.identity().took_part {
                return Err(RunError::StaysOut(format!(
                    "its directory state/ holds data of group {id}, but the node has never taken \
                     part in a cluster"
                )));
            }
        }
        tracing::info!(elapsed = ?began.elapsed(), groups = groups.len(), "state opened");
        Ok(Opened {
            log,
            database,
            groups,
            assigned,
        })
    }

    /// Removes what a crash left of groups that were dropped: the record in the log is what counts.
    fn finish_drops(
        &self,
        log: &Log,
        database: &Database,
        assigned: &mut Assigned,
    ) -> Result<(), RunError> {
        let dropped = log.dropped();
        let left = database.groups().into_iter();
        let left = left.chain(assigned.groups().map(|group| group.id));
        let mut left: Vec<GroupId> = left.filter(|id| dropped.contains(*id)).collect();
        left.sort_unstable();
        left.dedup();
        if left.is_empty() {
            return Ok(());
        }
        tracing::info!(groups = ?left, "removing what is left of groups that were dropped");
        for &id in database.groups().iter().filter(|id| left.contains(id)) {
            let dropped = || database.drop_group(database.group(id)?);
            tokio::task::block_in_place(dropped).map_err(RunError::State)?;
        }
        tokio::task::block_in_place(|| self.forget_dropped(&left, assigned))
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

    /// Opens the state of a group and watches it.
    pub(super) fn open_store(
        self: &Arc<Self>,
        database: &Database,
        group: GroupId,
    ) -> Result<Arc<StateStore>, RunError> {
        let store = tokio::task::block_in_place(|| database.group(group));
        let store = Arc::new(store.map_err(RunError::State)?);
        let watching = self.watch_store(group, store.clone());
        let open = OpenState {
            store: store.clone(),
            watching,
        };
        self.states.lock().insert(group, open);
        Ok(store)
    }
}

pub(super) fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        segment_bytes: u32::try_from(config.storage.log_segment_bytes).unwrap_or(u32::MAX),
        ..LogOptions::default()
    }
}
