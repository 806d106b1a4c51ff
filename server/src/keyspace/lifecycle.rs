//! Groups that come and go while the node runs: what can be asked of whoever owns them.

use serde::{Deserialize, Serialize};

use crate::raft::{GroupId, NodeId, transport::BoxFuture};

/// A group that a node is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its id, never used before and never again.
    pub id: GroupId,
    /// The keyspace that it replicates.
    pub keyspace: String,
    /// The nodes that vote in it from the first.
    pub voters: Vec<NodeId>,
}

/// Why a group did not start, or was not dropped.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// Nothing was done. It may work later.
    #[error("this node does not run its groups: {0}")]
    NotRunning(String),
    /// Nothing was done: the id or the name cannot be had.
    #[error("group {id} ({keyspace:?}) cannot be: {why}")]
    Refused {
        /// Id that was asked for.
        id: GroupId,
        /// Name that was asked for.
        keyspace: String,
        /// What stands in the way.
        why: String,
    },
    /// Nothing was done: there is no such group.
    #[error("there is no group {0} that can be dropped, stopped or started")]
    Unknown(GroupId),
    /// A group has not stopped in time. It goes on stopping; whatever was asked can be asked again.
    #[error("group {id} has not stopped yet: it waits for {waits_for}")]
    Stopping {
        /// The group.
        id: GroupId,
        /// What has not come about.
        waits_for: String,
    },
    /// Some of it may have been done; the rest is done at the next start of the node.
    #[error("{0}")]
    Failed(String),
}

/// Creates, stops, starts and drops groups on one node. Each node is asked by itself; what the cluster is to look like is
/// the caller's to know.
pub trait Lifecycle: Send + Sync {
    /// Starts groups: written down before they start, so that they are there after a restart.
    /// A group that is there already, with the same name and voters, is left as it is: one that was stopped
    /// stays so.
    fn create(&self, groups: Vec<Assignment>) -> BoxFuture<Result<(), LifecycleError>>;

    /// Drops groups with all that the node has of them. Their ids are refused from then on.
    fn drop_groups(&self, groups: Vec<GroupId>) -> BoxFuture<Result<(), LifecycleError>>;

    /// Stops groups, which lose nothing and start again with the node, if not before. One that does not run is
    /// left as it is.
    fn stop(&self, groups: Vec<GroupId>) -> BoxFuture<Result<(), LifecycleError>>;

    /// Starts groups that were stopped. One that runs is left as it is.
    fn start(&self, groups: Vec<GroupId>) -> BoxFuture<Result<(), LifecycleError>>;

    /// The groups that were created here and not dropped, whether they run or not.
    fn assigned(&self) -> BoxFuture<Result<Vec<Assignment>, LifecycleError>>;

    /// The smallest id above those of all groups that this node has or had.
    fn next_id(&self) -> GroupId;
}
