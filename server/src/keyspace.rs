//! From the name of a keyspace to the group that replicates it.

mod lifecycle;
pub mod name;
pub mod placement;
mod reconciler;
mod registry;
pub mod wish;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::watch;

pub use self::{
    lifecycle::{Assignment, Lifecycle, LifecycleError},
    reconciler::Reconciler,
    registry::{ChangeError, Contents, Registry},
};
use crate::{group::Group, raft::GroupId};

/// Group that replicates what the cluster knows of itself.
pub const SYSTEM_GROUP: GroupId = 1;
/// Keyspace of that group.
pub const SYSTEM: &str = "system";
/// Group behind the keyspace that a stock etcd client reaches.
pub const DEFAULT_GROUP: GroupId = 2;
/// That keyspace.
pub const DEFAULT: &str = "default";

/// The keyspaces that run on this node.
///
/// Empty until the node takes part in its cluster. The locks are held for a look-up only, which takes
/// the same time however many there are.
#[derive(Default)]
pub struct Keyspaces {
    running: RwLock<Running>,
    /// Names of keyspaces whose groups are on their way. Never locked together with `running`.
    awaited: RwLock<HashSet<String>>,
    /// Names of keyspaces whose groups were stopped. Never locked together with the others.
    stopped: RwLock<HashSet<String>>,
    /// Counts what was added and taken away.
    changes: watch::Sender<u64>,
}

/// - Both maps hold the same groups.
#[derive(Default)]
struct Running {
    by_id: HashMap<GroupId, Arc<Group>>,
    by_name: HashMap<String, Arc<Group>>,
}

impl Keyspaces {
    /// Announces keyspaces whose groups come one by one, each as soon as it can run.
    pub fn expect<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let names = names.into_iter().map(str::to_owned);
        self.awaited.write().extend(names);
    }

    /// Adds a group that runs on this node.
    pub fn add(&self, group: Arc<Group>) {
        let name = group.keyspace().to_owned();
        let mut running = self.running.write();
        running.by_id.insert(group.id(), group.clone());
        running.by_name.insert(name.clone(), group);
        drop(running);
        // Last, so that the keyspace is known all the time.
        self.awaited.write().remove(&name);
        self.stopped.write().remove(&name);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Takes a group away that is about to stop and is to start again.
    pub fn stop(&self, id: GroupId) -> Option<Arc<Group>> {
        let name = self.by_id(id)?.keyspace().to_owned();
        // First, so that the keyspace is known all the time.
        self.stopped.write().insert(name);
        self.remove(id)
    }

    /// Forgets a keyspace whose group was stopped and will not start again.
    pub fn forget(&self, name: &str) {
        self.stopped.write().remove(name);
    }

    /// Takes a group away that is about to stop for good.
    pub fn remove(&self, id: GroupId) -> Option<Arc<Group>> {
        let mut running = self.running.write();
        let group = running.by_id.remove(&id)?;
        running.by_name.remove(group.keyspace());
        drop(running);
        self.changes.send_modify(|changes| *changes += 1);
        Some(group)
    }

    /// Told whenever a group was added or taken away.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether the group of a keyspace is on its way: it waits for its state.
    pub fn is_awaited(&self, name: &str) -> bool {
        self.awaited.read().contains(name)
    }

    /// Whether the group of a keyspace was stopped.
    pub fn is_stopped(&self, name: &str) -> bool {
        self.stopped.read().contains(name)
    }

    /// The group of a keyspace.
    pub fn by_name(&self, name: &str) -> Option<Arc<Group>> {
        self.running.read().by_name.get(name).cloned()
    }

    /// A group by its id, as peers name it.
    pub fn by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.running.read().by_id.get(&id).cloned()
    }

    /// Whether no group runs.
    pub fn is_empty(&self) -> bool {
        self.running.read().by_id.is_empty()
    }

    /// All groups, by id.
    pub fn all(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.running.read().by_id.values().cloned().collect();
        groups.sort_unstable_by_key(|group| group.id());
        groups
    }

    /// Takes all groups away, for shutdown.
    pub fn take_all(&self) -> Vec<Arc<Group>> {
        let running = std::mem::take(&mut *self.running.write());
        running.by_id.into_values().collect()
    }
}
