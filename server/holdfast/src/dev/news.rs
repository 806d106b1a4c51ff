//! News of the cluster: what is worth a line, and the line.

use std::{fmt, time::Duration};

use super::screen::short;

/// Something worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A node serves for the first time; time since its process started.
    NodeUp { node: u64, took: Duration },
    /// The process of a node has ended, or it does not answer any more.
    NodeLost {
        node: u64,
        why: String,
        led: Vec<String>,
    },
    /// A node serves again; time since it was lost and, if it is a new process, since that started.
    NodeBack {
        node: u64,
        away: Duration,
        started: Option<Duration>,
    },
    /// A group has a leader: after so long without one, or in place of another.
    Leader {
        keyspace: String,
        node: u64,
        term: u64,
        took: Option<Duration>,
    },
    /// A group has lost its leader though no node was lost.
    NoLeader { keyspace: String, node: u64 },
    /// A node says that it stays out of the cluster.
    StaysOut { node: u64, because: String },
    /// A group does not run on a node.
    GroupStopped {
        node: u64,
        keyspace: String,
        because: String,
    },
    /// All nodes are up and all groups have leaders; time since the first process started.
    Ready { took: Duration },
}

impl News {
    /// The line that tells it; `name` knows what people call a node.
    pub fn named<F: Fn(u64) -> String>(&self, name: F) -> impl fmt::Display {
        Named { news: self, name }
    }
}

/// A piece of news, with the names of the nodes.
struct Named<'a, F> {
    news: &'a News,
    name: F,
}

impl<F: Fn(u64) -> String> fmt::Display for Named<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.news {
            News::NodeUp { node, took } => {
                write!(f, "{} is up after {}", name(*node), short(*took))
            }
            News::NodeLost { node, why, led } if led.is_empty() => {
                write!(f, "{} {why}", name(*node))
            }
            News::NodeLost { node, why, led } => {
                write!(f, "{} {why}; it led {}", name(*node), led.join(", "))
            }
            News::NodeBack {
                node,
                away,
                started: Some(started),
            } => write!(
                f,
                "{} is back after {}, {} after its start",
                name(*node),
                short(*away),
                short(*started)
            ),
            News::NodeBack {
                node,
                away,
                started: None,
            } => {
                write!(f, "{} answers again after {}", name(*node), short(*away))
            }
            News::Leader {
                keyspace,
                node,
                term,
                took: Some(took),
            } => write!(
                f,
                "{keyspace}: {} leads (term {term}), elected after {} without a leader",
                name(*node),
                short(*took)
            ),
            News::Leader {
                keyspace,
                node,
                term,
                took: None,
            } => {
                write!(
                    f,
                    "{keyspace}: {} leads (term {term}), without a gap",
                    name(*node)
                )
            }
            News::NoLeader { keyspace, node } => {
                write!(f, "{keyspace}: {} leads no longer", name(*node))
            }
            News::StaysOut { node, because } => {
                write!(f, "{} stays out: {because}", name(*node))
            }
            News::GroupStopped {
                node,
                keyspace,
                because,
            } => {
                write!(f, "{keyspace}: stopped on {}: {because}", name(*node))
            }
            News::Ready { took } => write!(
                f,
                "all zones are up and all groups have leaders after {}",
                short(*took)
            ),
        }
    }
}
