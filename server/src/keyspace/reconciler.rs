//! What this node runs, brought in line with the registry: again after each change of it, and until it is done.
//!
//! ```text
//!   system group applies ─▶ compare(registry, groups of this node) ─▶ drop, then create ─▶ wait for a change
//!                                        ▲                                  │ failed
//!                                        └──────── a moment later ◀─────────┘
//! ```
//!
//! The registry is read as this node has applied it. It may be behind: then a group starts later, or starts
//! and is dropped again. Nothing is dropped that the registry does not say is to go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Assignment, DEFAULT_GROUP, Lifecycle, LifecycleError, SYSTEM_GROUP,
    registry::{Contents, ReadError, Registry},
};
use crate::raft::{GroupId, NodeId};

/// Pause before what failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Time between two lines about the same trouble.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Why a node does not run what the registry says.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
}

/// What is to be done on a node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    drop: Vec<GroupId>,
    create: Vec<Assignment>,
}

/// What a node has to do that is `assigned` these groups.
fn compare(contents: &Contents, me: NodeId, assigned: &[Assignment]) -> Work {
    let here: BTreeSet<GroupId> = assigned.iter().map(|group| group.id).collect();
    let drop = here.intersection(&contents.dropped).copied().collect();
    // Those that every node runs are nobody's to create.
    let of_all = [SYSTEM_GROUP, DEFAULT_GROUP];
    let wanted = contents.keyspaces.values().filter(|keyspace| {
        let id = keyspace.group_id;
        keyspace.voters.contains(&me) && !here.contains(&id) && !of_all.contains(&id)
    });
    let create = wanted.map(|keyspace| Assignment {
        id: keyspace.group_id,
        keyspace: keyspace.name.clone(),
        voters: keyspace.voters.clone(),
    });
    Work {
        drop,
        create: create.collect(),
    }
}

/// Trouble that was told already.
#[derive(Default)]
struct Told(Option<(String, Instant)>);

impl Told {
    fn tell(&mut self, error: &ReconcileError) {
        let error = error.to_string();
        let known = self.0.as_ref();
        if known.is_some_and(|(told, at)| *told == error && at.elapsed() < TOLD_AGAIN_AFTER) {
            return;
        }
        tracing::warn!(%error, "this node does not run the groups that the registry says");
        self.0 = Some((error, Instant::now()));
    }
}

/// Keeps the groups of a node in line with the registry.
pub struct Reconciler {
    /// This node.
    pub node: NodeId,
    /// The zones of all members.
    pub zones: BTreeMap<NodeId, String>,
    /// What there is to be.
    pub registry: Arc<Registry>,
    /// Whoever owns the groups.
    pub lifecycle: Arc<dyn Lifecycle>,
}

impl Reconciler {
    /// Works until it is dropped; a change that has begun goes on to its end.
    pub async fn run(self) {
        let mut told = Told::default();
        let mut running = self.registry.running();
        loop {
            let Some(system) = self.registry.system() else {
                // The sender lives in the registry.
                let _ = running.changed().await;
                continue;
            };
            let mut published = system.raft().shared().watch();
            let mut leadership = system.leadership();
            loop {
                running.borrow_and_update();
                let revision = published.borrow_and_update().revisions.current;
                let local = self.registry.local(&system);
                let done = match local {
                    Ok(contents) => self.reconcile(&contents).await,
                    Err(e) => Err(e.into()),
                };
                let changed = published.wait_for(|now| now.revisions.current != revision);
                let stopped = leadership.wait_for(|now| now.stopped.is_some());
                let again = async {
                    match done {
                        Ok(()) => std::future::pending().await,
                        Err(e) => {
                            told.tell(&e);
                            tokio::time::sleep(AGAIN_AFTER).await;
                        }
                    }
                };
                tokio::select! {
                    changed = changed => if changed.is_err() { break },
                    _ = stopped => break,
                    // A group that has come to run does not know its order yet.
                    _ = running.changed() => {}
                    () = again => {}
                }
            }
            drop(system);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn reconcile(&self, contents: &Contents) -> Result<(), ReconcileError> {
        for keyspace in contents.keyspaces.values() {
            self.registry.tell_order(keyspace, &self.zones);
        }
        let assigned = self.lifecycle.assigned().await?;
        let work = compare(contents, self.node, &assigned);
        if !work.drop.is_empty() {
            self.lifecycle.drop_groups(work.drop).await?;
        }
        if work.create.is_empty() {
            return Ok(());
        }
        match self.lifecycle.create(work.create.clone()).await {
            Ok(()) => return Ok(()),
            // One that cannot be holds up no other.
            Err(LifecycleError::Refused { .. }) if work.create.len() > 1 => {}
            Err(e) => return Err(e.into()),
        }
        let mut first = Ok(());
        for group in work.create {
            let created = self.lifecycle.create(vec![group]).await;
            first = first.and(created);
        }
        Ok(first?)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::Keyspace;

    use super::*;

    fn contents(keyspaces: &[(&str, GroupId, &[NodeId])], dropped: &[GroupId]) -> Contents {
        let keyspaces = keyspaces.iter().map(|(name, id, voters)| {
            let keyspace = Keyspace {
                name: (*name).to_owned(),
                group_id: *id,
                voters: voters.to_vec(),
                ..Default::default()
            };
            ((*name).to_owned(), keyspace)
        });
        Contents {
            keyspaces: keyspaces.collect(),
            dropped: dropped.iter().copied().collect(),
            ..Default::default()
        }
    }

    fn assigned(id: GroupId) -> Assignment {
        Assignment {
            id,
            keyspace: format!("k{id}"),
            voters: vec![1, 2, 3],
        }
    }

    #[test]
    fn what_is_missing_here_is_created_and_what_is_to_go_is_dropped() {
        let registry = contents(
            &[
                ("default", 2, &[1, 2, 3]),
                ("k3", 3, &[1, 2, 3]),
                ("k4", 4, &[1, 2, 3]),
                ("elsewhere", 5, &[2, 3, 4]),
            ],
            &[6, 7],
        );
        let work = compare(&registry, 1, &[assigned(3), assigned(6)]);
        assert_eq!(work.drop, [6]);
        assert_eq!(work.create, [assigned(4)]);
    }

    #[test]
    fn a_registry_that_lacks_a_group_drops_nothing() {
        let here = [assigned(3), assigned(4)];
        assert_eq!(compare(&Contents::default(), 1, &here), Work::default());
        let behind = contents(&[("k3", 3, &[1, 2, 3])], &[]);
        assert_eq!(compare(&behind, 1, &here), Work::default());
    }

    #[test]
    fn a_name_that_came_back_is_another_group() {
        let registry = contents(&[("k3", 9, &[1, 2, 3])], &[3]);
        let work = compare(&registry, 1, &[assigned(3)]);
        assert_eq!(work.drop, [3]);
        assert_eq!(work.create[0].id, 9);
        assert_eq!(work.create[0].keyspace, "k3");
    }
}
