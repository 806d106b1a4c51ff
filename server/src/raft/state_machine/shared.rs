//! What readers and snapshots share with the state machine that applies.
//!
//! A reader takes what is published and a view of the state under one lock, so that the two are of one
//! state even while a snapshot takes its place. A snapshot that is being read pins its revision: the
//! versions that it may still need stay.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_mvcc as mvcc;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Loaded;
use crate::{
    raft::{snapshot::SnapshotData, type_config::LogId},
    storage::state::{StateStore, View},
};

/// How far the state of a group has got, as readers may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Index of the last applied entry; `None` before the first.
    pub index: Option<u64>,
    /// Term of that entry.
    pub term: u64,
    /// Revisions of the keyspace after it.
    pub revisions: mvcc::Revisions,
    /// Version that the state has been raised to.
    pub version: u32,
}

impl Published {
    pub(super) fn at(applied: Option<LogId>, machine: &mvcc::StateMachine) -> Self {
        Self {
            index: applied.map(|id| id.index),
            term: applied.map_or(0, |id| id.leader_id.term),
            revisions: machine.revisions(),
            version: machine.version(),
        }
    }
}

/// What readers share with the state machine of a group.
pub struct SharedState {
    pub(super) store: Arc<StateStore>,
    /// Its lock is taken before those of the store.
    pub(super) published: watch::Sender<Published>,
    /// Revisions at which snapshots and states are being read, with the number of them. Versions that a
    /// snapshot may still need are not removed.
    pins: Mutex<BTreeMap<i64, usize>>,
    snapshots_installed: AtomicU64,
}

impl SharedState {
    /// Of a group whose state is this.
    pub(super) fn new(store: Arc<StateStore>, published: Published) -> Self {
        Self {
            store,
            published: watch::Sender::new(published),
            pins: Mutex::default(),
            snapshots_installed: AtomicU64::new(0),
        }
    }

    /// The present state: what is published, and a view that holds at least that much.
    ///
    /// The two are of one state: while the lock of `published` is held here, no snapshot takes the
    /// place of the state in [`Self::install`].
    pub fn read(&self) -> (Published, View) {
        let published = self.published.borrow();
        (*published, self.store.view())
    }

    /// As [`Self::read`], for a read that takes its time: what it may see stays until it is done.
    pub fn read_pinned(self: &Arc<Self>) -> (Published, View, Pin) {
        // The pin comes first. A scrub that did not see it works towards a compact revision that was
        // published before, and so towards none that is later than the one read after it.
        let pin = self.pin(self.read().0.revisions.compact);
        let (published, view) = self.read();
        (published, view, pin)
    }

    /// Replaces the state by a snapshot that ends at `expected`. Blocks on the disk: everything is
    /// loaded and checked before the first reader sees any of it.
    pub(super) fn install(
        &self,
        snapshot: SnapshotData,
        expected: Option<LogId>,
    ) -> io::Result<Loaded> {
        let index = expected.map_or(0, |id| id.index);
        let replacement = snapshot.load(&self.store, index)?;
        let loaded = Loaded::read(&replacement.view(), Some(replacement.applied_record()))?;
        if loaded.record.applied != expected {
            return Err(io::Error::other(format!(
                "a snapshot at {expected:?} holds the state at {:?}",
                loaded.record.applied
            )));
        }
        let mut committed = replacement.commit().map_err(io::Error::other)?;
        self.published.send_modify(|published| {
            committed.show();
            *published = loaded.published();
            // Before anybody sees what it brought.
            let received = u64::from(snapshot.is_received());
            self.snapshots_installed
                .fetch_add(received, Ordering::Relaxed);
        });
        snapshot.installed();
        Ok(loaded)
    }

    /// Version that the state has been raised to.
    pub fn version(&self) -> u32 {
        self.published.borrow().version
    }

    /// Index of the last applied entry that readers can see.
    pub fn applied_index(&self) -> Option<u64> {
        self.published.borrow().index
    }

    /// Follows the progress of applying.
    pub fn watch(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// The store behind, for its figures.
    pub fn store(&self) -> &StateStore {
        &self.store
    }

    /// Snapshots installed from other nodes since the start.
    pub fn snapshots_installed(&self) -> u64 {
        self.snapshots_installed.load(Ordering::Relaxed)
    }

    pub(super) fn pin(self: &Arc<Self>, revision: i64) -> Pin {
        *self.pins.lock().entry(revision).or_default() += 1;
        Pin {
            shared: self.clone(),
            revision,
        }
    }

    pub(super) fn lowest_pin(&self) -> Option<i64> {
        self.pins.lock().keys().next().copied()
    }
}

/// Holds back the removal of versions while a snapshot at `revision` is read, or the state by somebody
/// who takes his time.
pub struct Pin {
    shared: Arc<SharedState>,
    revision: i64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}
