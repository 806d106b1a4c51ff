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
