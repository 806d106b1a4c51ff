//! Taking part in the cluster, or staying out of it: what a node tells its peers of its memory before
//! it promises anything, and what becomes of it when one of them knows better.

use std::sync::Arc;

use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{Inner, error::RunError, groups::Opened, lifecycle::Handle};
use crate::{
    identity::Memory,
    keyspace::{
        Reconciler,
        placement::{Controller, observe::Observer},
    },
    limits,
    raft::{NodeId, Reach, reach_of},
    service::peer::{Gate, Introduction},
    storage::log::{DroppedGroups, Log},
};

impl Inner {
    /// Takes the node into its cluster.
    pub(super) async fn join(self: Arc<Self>) {
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
                dropped: DroppedGroups::default(),
            };
            let now = || nothing.clone();
            self.introduce(&nothing, &now, None).await?;
        }
        let opened = self.open()?;
        let memory = self.memory(&opened)?;
        // Aborted with this task. None waits for the groups: one of those may wait for its state as long
        // as no peer has it.
        let mut beside = JoinSet::new();
        let (inner, log) = (self.clone(), opened.log.clone());
        beside.spawn(async move {
            let gate = Some(&*inner.gate);
            let memory_now = || inner.memory_now(&log, &memory);
            match inner.introduce(&memory, &memory_now, gate).await {
                Ok(()) => {}
                Err(RunError::StaysOut(why)) => inner.stay_out(&why).await,
                Err(e) => inner.fail(&e),
            }
        });
        beside.spawn(self.keep_log_within(opened.log.clone()));
        beside.spawn(self.clone().keep_promises());
        let reconciler = Reconciler {
            node: self.context.config.node.id,
            zones: {
                let members = self.context.config.cluster.members.iter();
                members
                    .map(|member| (member.id, member.zone.clone()))
                    .collect()
            },
            registry: self.context.registry.clone(),
            lifecycle: Arc::new(Handle(Arc::downgrade(&self))),
        };
        beside.spawn(reconciler.run());
        beside.spawn(Arc::new(self.controller()).run());
        self.run_groups(opened).await?;
        std::future::pending().await
    }

    fn controller(&self) -> Controller {
        let context = &self.context;
        Controller {
            node: context.config.node.id,
            keyspaces: context.keyspaces.clone(),
            registry: context.registry.clone(),
            peers: self.transport.clone(),
            observer: Observer {
                config: Arc::new(context.config.clone()),
                reporter: context.reporter.clone(),
                epoch: context.started,
            },
        }
    }

    /// Writes down what peers have promised, again and again.
    async fn keep_promises(self: Arc<Self>) {
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
        memory_now: &(dyn Fn() -> Memory + Sync),
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
            memory_now,
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
        for (&group, open) in self.states.lock().iter() {
            let reach = reach_of(&opened.log.group(group)?, &open.store)
                .map_err(|error| RunError::Vote { group, error })?;
            reaches.push((group, reach));
        }
        Ok(Memory {
            incarnation: identity.incarnation,
            sessions: identity.sessions,
            reaches,
            dropped: opened.log.dropped(),
        })
    }

    /// How far the memory of a node that runs goes; where that cannot be read, how far it went.
    fn memory_now(&self, log: &Log, found: &Memory) -> Memory {
        // What is dropped meanwhile is neither here nor there: so the dropped ones come last.
        let then = |id| found.reaches.iter().find(|(group, _)| *group == id);
        let states = self.states.lock();
        let reaches = states.iter().map(|(&id, open)| {
            let now = log.group(id).map_err(std::io::Error::from);
            let now = now.and_then(|log| reach_of(&log, &open.store));
            let then = then(id).map_or_else(Reach::default, |(_, reach)| *reach);
            (id, now.unwrap_or(then))
        });
        Memory {
            reaches: reaches.collect(),
            dropped: log.dropped(),
            ..found.clone()
        }
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

    pub(super) async fn stop_groups(&self) {
        for group in self.context.keyspaces.take_all() {
            group.raft().shutdown().await;
        }
    }
}
