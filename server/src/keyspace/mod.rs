//! From the name of a keyspace to the group that replicates it.

use std::{collections::BTreeMap, sync::Arc};

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
}

impl Keyspaces {
    /// Adds groups that run on this node, all at once: while there are some but not the one that
    /// is asked for, clients are told that it does not exist.
    pub fn add(&self, added: Vec<Arc<Group>>) {
        let added = added.into_iter().map(|group| (group.id(), group));
        self.groups.write().extend(added);
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
