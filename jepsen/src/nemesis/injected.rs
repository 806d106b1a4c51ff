//! A fault that was made, and how it is undone.

use crate::history::NodeId;

/// How a fault is undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Healing {
    /// There is nothing to undo.
    None,
    /// Nodes are started again.
    Start(Vec<NodeId>),
    /// Nodes are started again in this order, each a while after the one before.
    StartInTurn(Vec<NodeId>),
    /// Nodes go on.
    Resume(Vec<NodeId>),
    /// The links of this fault are whole again.
    Links,
    /// Syncs are as they should be; nodes that stopped over it are started again.
    Syncs(Vec<NodeId>),
    /// The clock tells the time.
    Clock(NodeId),
    /// There is room again; nodes that stopped over it are started again.
    Room(Vec<NodeId>),
    /// Log lines go to their files again; the nodes are restarted for that.
    Output(Vec<NodeId>),
    /// The tasks of this fault end.
    Tasks,
    /// The links of this fault are whole again, then nodes are started.
    LinksThenStart(Vec<NodeId>),
}

/// A fault that was made.
pub(super) struct Injected {
    pub(super) nodes: Vec<NodeId>,
    pub(super) detail: String,
    pub(super) healing: Healing,
}

impl Injected {
    pub(super) fn new(nodes: Vec<NodeId>, detail: impl Into<String>, healing: Healing) -> Self {
        Self {
            nodes,
            detail: detail.into(),
            healing,
        }
    }
}
