//! One thing to do for one keyspace, and why.

use std::{collections::BTreeSet, fmt};

use crate::{KeyspaceId, NodeId};

/// What is to be done for a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let a node listen, so that it catches up before it votes.
    AddLearner(NodeId),
    /// Let a node that listens leave.
    RemoveLearner(NodeId),
    /// Let exactly these vote, in one change of the membership (joint consensus): learners among them become
    /// voters, voters that are not among them leave the group.
    ChangeVoters(BTreeSet<NodeId>),
    /// Hand the leadership over.
    TransferLeader {
        /// Who leads now. The step is void if somebody else does.
        from: NodeId,
        /// A voter that is healthy and caught up.
        to: NodeId,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner(node) => write!(f, "add learner {node}"),
            Self::RemoveLearner(node) => write!(f, "remove learner {node}"),
            Self::ChangeVoters(voters) => write!(f, "change voters to {}", nodes(voters)),
            Self::TransferLeader { from, to } => {
                write!(f, "transfer leadership from {from} to {to}")
            }
        }
    }
}

/// Something to do for a keyspace. A keyspace has at most one step under way; it counts as done when it
/// shows in what is observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For which keyspace.
    pub keyspace: KeyspaceId,
    /// What is to be done.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "keyspace {}: {}: {}",
            self.keyspace, self.action, self.reason
        )
    }
}

/// "1, 2 and 3".
pub(crate) fn nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let names: Vec<String> = nodes.into_iter().map(NodeId::to_string).collect();
    row(&names, "and")
}

/// Names in a row, with a word before the last one.
pub(crate) fn row(names: &[String], word: &str) -> String {
    match names {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}
