//! From the name of a keyspace to the group that replicates it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::RwLock;

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
/// Empty until the node takes part in its cluster. The lock is held for a look-up only.
#[derive(Default)]
pub struct Keyspaces {
    groups: RwLock<BTreeMap<GroupId, Arc<Group>>>,
    /// Names of keyspaces whose groups are on their way. Never locked together with `groups`.
    awaited: RwLock<BTreeSet<String>>,
}

impl Keyspaces {
    /// Announces keyspaces whose groups come one by one, each as soon as it can run.
    pub fn expect<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let names = names.into_iter().map(str::to_owned);
        self.awaited.write().extend(names);
    }

    /// Adds a group that runs on this node.
    pub fn add(&self, group: Arc<Group>) {
        let keyspace = group.keyspace().to_owned();
        self.groups.write().insert(group.id(), group);
        self.awaited.write().remove(&keyspace);
    }

    /// Whether the group of a keyspace is on its way: it waits for its state.
    pub fn is_awaited(&self, name: &str) -> bool {
        self.awaited.read().contains(name)
    }

    /// The group of a keyspace.
    pub fn by_name(&self, name: &str) -> Option<Arc<Group>> {
        let groups = self.groups.read();
        groups.values().find(|g| g.keyspace() == name).cloned()
    }

    /// A group by its id, as peers name it.
    pub fn by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.read().get(&id).cloned()
    }

    /// All groups, by id.
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    /// Takes all groups away, for shutdown.
    pub fn take_all(&self) -> Vec<Arc<Group>> {
        std::mem::take(&mut *self.groups.write())
            .into_values()
            .collect()
    }
}
