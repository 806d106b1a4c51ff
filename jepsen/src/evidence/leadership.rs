//! Who led when, as the nodes said.

use serde::{Deserialize, Serialize};

use crate::history::NodeId;

/// From a moment on until the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// Nanoseconds since the run began.
    pub at_ns: u64,
    /// Who led; `None` if no node said so.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: u64,
}

/// The same of one group of many. Only Holdfast tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLeadership {
    /// Keyspace of the group.
    pub group: String,
    /// Who led it from when on.
    #[serde(flatten)]
    pub led: Leadership,
}
