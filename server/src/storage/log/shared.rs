//! What the handles of a log, its writer and the thread that prepares segments share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::dropped::DroppedGroups;
use super::error::Failure;
use super::group::Group;
use super::options::LogOptions;
use super::queue::Queue;
use super::segment::{Segment, Spares};

/// State shared by the handles, the writer and the thread that prepares segments.
pub(super) struct Shared {
    pub options: LogOptions,
    pub queue: Queue,
    pub spares: Spares,
    /// Segments with live entries. Taken after the lock of a group.
    pub segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// Taken before the lock of a group.
    pub groups: RwLock<Groups>,
    pub cached_bytes: AtomicU64,
    pub tickets: AtomicU64,
    pub failure: watch::Sender<Option<Failure>>,
    pub counters: Counters,
}

/// Every group ever named: those that are there, and those that were dropped.
#[derive(Default)]
pub(super) struct Groups {
    pub known: HashMap<u64, Arc<Group>>,
    pub dropped: DroppedGroups,
}

/// What the writer counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub batches: AtomicU64,
    pub syncs: AtomicU64,
    pub written_bytes: AtomicU64,
}
