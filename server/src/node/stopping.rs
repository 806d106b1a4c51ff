//! Stopping a group while the node runs, and starting it again: the process that it runs in has not ended, so
//! nothing of the first start may be left when the second begins.
//!
//! ```text
//!   hand over ─▶ no requests ─▶ consensus ─▶ state machine ─▶ state ─▶ log
//!                               ended        ended            closed,  all that was
//!                                                             at rest  accepted is on disk
//! ```
//!
//! No step of a stop is broken off, because what is half stopped can neither run nor start: a stop that takes
//! longer than [`limits::GROUP_CHANGE_MAX`] goes on by itself, and whoever asked is told what it waits for.
//!
//! A group is stopped for this process. Peers are told how far its memory goes, as of one that runs, and it
//! starts again with the node.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};

use super::{
    Inner,
    error::RunError,
    groups::Surroundings,
    leave,
    lifecycle::{Owned, failed},
};
use crate::{
    keyspace::{Assignment, LifecycleError},
    limits,
    raft::GroupId,
};

/// What a stop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Another voter leads.
    HandOver,
    /// Its consensus has ended.
    Consensus,
    /// The state machine has done what it was given.
    Machine,
    /// The state is at rest.
    State,
    /// A snapshot that was being received is not any more.
    Receiving,
    /// What the log accepted is on disk.
    Log,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HandOver => "another voter to lead",
            Self::Consensus => "its consensus, which may wait for the log on the disk",
            Self::Machine => "its state machine, which may wait for the state on the disk",
            Self::State => "its memory table to go down to the disk",
            Self::Receiving => "a snapshot that is being received",
            Self::Log => "the log on the disk",
        })
    }
}

/// Groups that are being stopped.
#[derive(Default)]
pub(super) struct Stops(BTreeMap<GroupId, Stop>);

struct Stop {
    step: watch::Receiver<Step>,
    /// `None` if it ended in a panic: the group cannot be started any more.
    task: Option<JoinHandle<Result<(), String>>>,
}

impl Stops {
    /// Waits until a group is not being stopped any more.
    async fn until_done(&mut self, id: GroupId, deadline: Instant) -> Result<(), LifecycleError> {
        let Some(stop) = self.0.get_mut(&id) else {
            return Ok(());
        };
        let Some(task) = &mut stop.task else {
            let why = format!("stopping group {id} panicked; it starts with the node again");
            return Err(LifecycleError::Failed(why));
        };
        match tokio::time::timeout_at(deadline.into(), &mut *task).await {
            Err(_) => Err(LifecycleError::Stopping {
                id,
                waits_for: stop.step.borrow().to_string(),
            }),
            Ok(Err(e)) => {
                stop.task = None;
                Err(LifecycleError::Failed(format!("stopping group {id}: {e}")))
            }
            Ok(Ok(stopped)) => {
                self.0.remove(&id);
                stopped.map_err(|e| LifecycleError::Failed(format!("stopping group {id}: {e}")))
            }
        }
    }
}

fn stopping() -> LifecycleError {
    LifecycleError::NotRunning("it stops".into())
}

impl Inner {
    /// Stops groups side by side.
    pub(super) async fn stop_assigned(
        self: &Arc<Self>,
        groups: Vec<GroupId>,
    ) -> Result<(), LifecycleError> {
        let owned = &mut *self.change().await?;
        owned.check_known(&groups)?;
        for &id in &groups {
            if !owned.stops.0.contains_key(&id) && self.is_in_use(id) {
                let (steps, step) = watch::channel(Step::HandOver);
                let stopped = self.clone().stop(id, owned.surroundings.clone(), steps);
                let task = Some(tokio::spawn(stopped));
                owned.stops.0.insert(id, Stop { step, task });
            }
        }
        let deadline = Instant::now() + limits::GROUP_CHANGE_MAX;
        let mut first = Ok(());
        for &id in &groups {
            first = first.and(self.until_stopped(&mut owned.stops, id, deadline).await);
        }
        first
    }

    /// Starts groups that were stopped, side by side.
    pub(super) async fn start_assigned(
        self: &Arc<Self>,
        groups: Vec<GroupId>,
    ) -> Result<(), LifecycleError> {
        let owned = &mut *self.change_and_start().await?;
        owned.check_known(&groups)?;
        let deadline = Instant::now() + limits::GROUP_CHANGE_MAX;
        for &id in &groups {
            self.until_stopped(&mut owned.stops, id, deadline).await?;
        }
        let stopped = owned.assigned.groups().filter(|group| {
            groups.contains(&group.id) && self.context.keyspaces.by_id(group.id).is_none()
        });
        let stopped: Vec<Assignment> = stopped.cloned().collect();
        self.start_at_run_time(owned, stopped).await
    }

    /// Starts groups that do not run, and returns when each runs or cannot.
    pub(super) async fn start_at_run_time(
        self: &Arc<Self>,
        owned: &Owned,
        groups: Vec<Assignment>,
    ) -> Result<(), LifecycleError> {
        let until = Some(Instant::now() + limits::GROUP_CHANGE_MAX);
        let mut starting = self.start_all(&owned.surroundings, groups, until);
        let mut first = Ok(());
        // All of them to their end: a start that is broken off leaves something running. That is no matter
        // when the node stops.
        let all = async {
            while let Some(started) = starting.join_next().await {
                let started = started.map_err(|e| RunError::Panicked(e.to_string()));
                let started = started.flatten();
                first = std::mem::replace(&mut first, Ok(())).and(started);
            }
        };
        tokio::select! {
            () = all => first.map_err(failed),
            () = self.node_stops() => Err(stopping()),
        }
    }

    /// Resolves when the node stops: it waits for a change under way, which therefore waits for nothing else.
    async fn node_stops(&self) {
        let mut stopping = self.context.stopping.subscribe();
        // The sender lives in `self`.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// [`Stops::until_done`], or until the node stops.
    pub(super) async fn until_stopped(
        &self,
        stops: &mut Stops,
        id: GroupId,
        deadline: Instant,
    ) -> Result<(), LifecycleError> {
        tokio::select! {
            biased;
            done = stops.until_done(id, deadline) => done,
            () = self.node_stops() => Err(stopping()),
        }
    }

    /// Whether a group runs, or its state is open.
    fn is_in_use(&self, id: GroupId) -> bool {
        let states = self.states.lock();
        let open = states.get(&id).is_some_and(|open| !open.store.is_closed());
        open || self.context.keyspaces.by_id(id).is_some()
    }

    async fn stop(
        self: Arc<Self>,
        id: GroupId,
        surroundings: Arc<Surroundings>,
        steps: watch::Sender<Step>,
    ) -> Result<(), String> {
        if let Some(group) = self.context.keyspaces.by_id(id) {
            let handover = Duration::from_millis(limits::HANDOVER_MS_MAX);
            leave(&group, Instant::now() + handover).await;
        }
        let group = self.context.keyspaces.stop(id);
        if let Some(group) = &group {
            steps.send_replace(Step::Consensus);
            group.raft().shutdown().await;
            steps.send_replace(Step::Machine);
            // What was committed is applied, and whoever proposed it is answered, unless that takes long.
            let ended = group.raft().machine_ended();
            let _ = tokio::time::timeout(limits::MACHINE_END_MAX, ended).await;
            group.raft().leave_log();
        }
        steps.send_replace(Step::State);
        // It stays among the states: it knows how far the memory of the group goes.
        let store = {
            let states = self.states.lock();
            let open = states.get(&id);
            open.inspect(|open| open.watching.abort())
                .map(|open| open.store.clone())
        };
        if let Some(store) = store {
            store.close().await.map_err(|e| e.to_string())?;
        }
        if let Some(group) = &group {
            steps.send_replace(Step::Machine);
            group.raft().machine_ended().await;
            steps.send_replace(Step::Receiving);
            group.raft().receives_nothing().await;
        }
        steps.send_replace(Step::Log);
        let log = surroundings.log.group(id).map_err(|e| e.to_string())?;
        log.settle().await.map_err(|e| e.to_string())?;
        tracing::info!(group = id, "group stopped");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
