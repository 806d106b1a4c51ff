//! Groups that are created and dropped while the node runs. One change at a time: what is written down and
//! what runs are the same again when it ends, but for groups that were stopped, see [`super::stopping`].

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::{
    sync::{MappedMutexGuard, Mutex, MutexGuard},
    task::JoinSet,
};

use super::{Inner, assigned::Assigned, error::RunError, groups::Surroundings, stopping::Stops};
use crate::{
    keyspace::{Assignment, Lifecycle, LifecycleError},
    limits,
    raft::{GroupId, NodeId, transport::BoxFuture},
    storage::{log::GroupDropped, state::StateError},
};

/// What is needed to change which groups there are. Held while they are changed.
pub(super) struct Owned {
    pub(super) assigned: Assigned,
    pub(super) surroundings: Arc<Surroundings>,
    pub(super) stops: Stops,
}

impl Owned {
    /// Whether all of these may be dropped, stopped and started.
    pub(super) fn check_known(&self, groups: &[GroupId]) -> Result<(), LifecycleError> {
        match groups.iter().find(|id| self.assigned.get(**id).is_none()) {
            Some(unknown) => Err(LifecycleError::Unknown(*unknown)),
            None => Ok(()),
        }
    }
}

/// The groups that a change works on; gone before the node runs them, and once it stops.
pub(super) type Changing = Mutex<Option<Owned>>;

/// The hand that services have on the node's groups.
pub(super) struct Handle(pub(super) Weak<Inner>);

impl Handle {
    /// Runs a change to its end, whether or not the caller waits for it.
    fn run<T, F>(
        &self,
        change: impl FnOnce(Arc<Inner>) -> F,
    ) -> BoxFuture<Result<T, LifecycleError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LifecycleError>> + Send + 'static,
    {
        let Some(inner) = self.0.upgrade() else {
            let gone = LifecycleError::NotRunning("it has stopped".into());
            return Box::pin(std::future::ready(Err(gone)));
        };
        let change = tokio::spawn(change(inner));
        Box::pin(async move {
            let changed = change.await;
            changed.unwrap_or_else(|e| Err(LifecycleError::Failed(e.to_string())))
        })
    }
}

impl Lifecycle for Handle {
    fn create(&self, groups: Vec<Assignment>) -> BoxFuture<Result<(), LifecycleError>> {
        self.run(|inner| async move { inner.create_groups(groups).await })
    }

    fn drop_groups(&self, groups: Vec<GroupId>) -> BoxFuture<Result<(), LifecycleError>> {
        self.run(|inner| async move { inner.drop_groups(groups).await })
    }

    fn stop(&self, groups: Vec<GroupId>) -> BoxFuture<Result<(), LifecycleError>> {
        self.run(|inner| async move { inner.stop_assigned(groups).await })
    }

    fn start(&self, groups: Vec<GroupId>) -> BoxFuture<Result<(), LifecycleError>> {
        self.run(|inner| async move { inner.start_assigned(groups).await })
    }

    fn assigned(&self) -> BoxFuture<Result<Vec<Assignment>, LifecycleError>> {
        self.run(|inner| async move {
            let owned = inner.change().await?;
            Ok(owned.assigned.groups().cloned().collect())
        })
    }

    fn next_id(&self) -> GroupId {
        self.0.upgrade().map_or(0, |inner| inner.next_group_id())
    }
}

pub(super) fn failed(e: impl Into<RunError>) -> LifecycleError {
    LifecycleError::Failed(e.into().to_string())
}

impl Inner {
    pub(super) fn not_running(&self) -> LifecycleError {
        let why = self.context.stays_out.read().clone();
        let why = why.unwrap_or_else(|| "it does not take part in its cluster yet".into());
        LifecycleError::NotRunning(why)
    }

    /// What a change works on, which is the only one while this is held.
    pub(super) async fn change(&self) -> Result<MappedMutexGuard<'_, Owned>, LifecycleError> {
        let owned = self.owned.lock().await;
        MutexGuard::try_map(owned, Option::as_mut).map_err(|_| self.not_running())
    }

    /// The same for a change that starts groups, which a node that stays out does not.
    pub(super) async fn change_and_start(
        &self,
    ) -> Result<MappedMutexGuard<'_, Owned>, LifecycleError> {
        let owned = self.change().await?;
        match self.context.stays_out.read().is_some() {
            true => Err(self.not_running()),
            false => Ok(owned),
        }
    }

    fn next_group_id(&self) -> GroupId {
        let known = self.states.lock().last_key_value().map_or(0, |(id, _)| *id);
        let log = self.log.lock();
        let dropped = log.as_ref().and_then(|log| log.dropped().last());
        known.max(dropped.unwrap_or(0)) + 1
    }

    pub(super) async fn create_groups(
        self: &Arc<Self>,
        groups: Vec<Assignment>,
    ) -> Result<(), LifecycleError> {
        let owned = &mut *self.change_and_start().await?;
        let dropped = owned.surroundings.log.dropped();
        let mut new: Vec<Assignment> = Vec::new();
        for group in groups {
            if owned.assigned.get(group.id) == Some(&group) {
                continue;
            }
            let taken = self.states.lock().contains_key(&group.id);
            let members = &self.context.config.cluster.members;
            let known = |voter: &NodeId| members.iter().any(|member| member.id == *voter);
            let name = &group.keyspace;
            let why = if taken || new.iter().any(|other| other.id == group.id) {
                "its id is that of another group".to_owned()
            } else if dropped.contains(group.id) {
                GroupDropped { group: group.id }.to_string()
            } else if group.id == 0 || name.is_empty() {
                "it needs an id and a name".to_owned()
            } else if owned.assigned.has_keyspace(name)
                || self.context.keyspaces.by_name(name).is_some()
                || new.iter().any(|other| other.keyspace == *name)
            {
                "its name is that of another group".to_owned()
            } else if group.voters.is_empty() || !group.voters.iter().all(known) {
                "its voters are not members of the cluster".to_owned()
            } else {
                new.push(group);
                continue;
            };
            return Err(LifecycleError::Refused {
                id: group.id,
                keyspace: group.keyspace,
                why,
            });
        }
        tokio::task::block_in_place(|| owned.assigned.add(&new)).map_err(failed)?;
        self.start_at_run_time(owned, new).await
    }

    pub(super) async fn drop_groups(
        self: &Arc<Self>,
        groups: Vec<GroupId>,
    ) -> Result<(), LifecycleError> {
        let owned = &mut *self.change().await?;
        owned.check_known(&groups)?;
        let deadline = Instant::now() + limits::GROUP_CHANGE_MAX;
        for &id in &groups {
            self.until_stopped(&mut owned.stops, id, deadline).await?;
        }
        // They stop and leave their records side by side, which share their syncs.
        let mut stopping = JoinSet::new();
        for &id in &groups {
            let (inner, surroundings) = (self.clone(), owned.surroundings.clone());
            stopping.spawn(async move {
                if let Some(group) = inner.context.keyspaces.remove(id) {
                    group.raft().shutdown().await;
                    group.raft().leave_log();
                }
                surroundings.log.drop_group(id).await
            });
        }
        while let Some(stopped) = stopping.join_next().await {
            let stopped = stopped.map_err(|e| RunError::Panicked(e.to_string()));
            stopped
                .map_err(failed)?
                .map_err(|e| LifecycleError::Failed(e.to_string()))?;
        }
        // From here on they are dropped, whatever happens.
        for assignment in groups.iter().filter_map(|id| owned.assigned.get(*id)) {
            self.context.keyspaces.forget(&assignment.keyspace);
        }
        tokio::task::block_in_place(|| {
            for id in &groups {
                self.drop_state(*id, &owned.surroundings)
                    .map_err(RunError::State)?;
            }
            self.forget_dropped(&groups, &mut owned.assigned)
        })
        .map_err(failed)?;
        tracing::info!(?groups, "groups dropped");
        Ok(())
    }

    fn drop_state(&self, id: GroupId, surroundings: &Surroundings) -> Result<(), StateError> {
        let Some(open) = self.states.lock().remove(&id) else {
            return Ok(());
        };
        open.watching.abort();
        surroundings.database.drop_group((*open.store).clone())
    }

    /// Removes what is left of groups that the log and the database have dropped, and strikes them.
    pub(super) fn forget_dropped(
        &self,
        groups: &[GroupId],
        assigned: &mut Assigned,
    ) -> Result<(), RunError> {
        let dir = self.incoming_dir();
        let io = |source| RunError::Directory {
            path: dir.clone(),
            source,
        };
        // Not there before the first group has run.
        if dir.exists() {
            for file in std::fs::read_dir(&dir).map_err(io)? {
                let file = file.map_err(io)?;
                let name = file.file_name();
                let of = name.to_str().and_then(|name| name.strip_prefix("group-"));
                let of = of.and_then(|name| name.split('.').next()?.parse().ok());
                if of.is_some_and(|id| groups.contains(&id)) {
                    std::fs::remove_file(file.path()).map_err(io)?;
                }
            }
        }
        self.context.data.forget_groups(groups)?;
        Ok(assigned.remove(groups)?)
    }
}
