//! What is loaded into the processes of a cluster: a shim that sits between a program and its
//! files, and libfaketime.

use std::{ffi::OsString, path::Path};

use super::{ClockFault, FaultError, SyncFault};
use crate::history::NodeId;

/// The libraries that are loaded into the nodes of one cluster, and their settings by node.
pub struct Preload {}

/// What a power cut took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Writes that had not been synced.
    pub writes: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Preload {
    /// Prepares the libraries and the settings of these nodes in a directory of its own.
    pub fn prepare(_dir: &Path, _nodes: &[NodeId]) -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Variables for the process of a node that keeps its files in `data_dir`.
    pub fn environment(&self, _node: NodeId, _data_dir: &Path) -> Vec<(OsString, OsString)> {
        Vec::new()
    }

    /// Sets what is wrong with the syncs of a node, at once and across restarts.
    pub fn set_syncs(&self, _node: NodeId, _fault: SyncFault) -> Result<(), FaultError> {
        Err(FaultError::unsupported("interfere with fsync"))
    }

    /// Sets what is wrong with the wall clock of a node.
    pub fn set_clock(&self, _node: NodeId, _fault: ClockFault) -> Result<(), FaultError> {
        Err(FaultError::unsupported("change clocks"))
    }

    /// Takes back what a node that has been killed had written and not synced.
    pub fn take_back_unsynced(&self, _node: NodeId) -> Result<TakenBack, FaultError> {
        Err(FaultError::unsupported("take back unsynced writes"))
    }
}
