//! The memory table: the newest records of a group, ordered, readable while they are written.
//!
//! The skip list replaces an entry by taking the old one out before the new one goes in; a reader in
//! between would fall through to an older layer and see the past. So an entry stays where it is for
//! the life of the table, and overwriting changes the cell it holds. The cell's lock is held for one
//! pointer-sized copy by either side.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use parking_lot::RwLock;

/// What an entry costs beside its key and value: node, tower, two `Bytes`, reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

/// Records not yet in the engine; `None` marks a deletion, which hides the key in older layers.
///
/// - One writer at a time (the store's writer lock); any number of readers beside it.
/// - A key that is in the table stays in it: overwriting replaces its value in one step.
#[derive(Default)]
pub(super) struct Table {
    records: SkipMap<Bytes, RwLock<Option<Bytes>>>,
    bytes: AtomicU64,
}

impl Table {
    /// Writes one record; readable on return.
    pub(super) fn put(&self, key: Bytes, value: Option<Bytes>) {
        let key_bytes = key.len() as u64;
        let value_bytes = value_len(&value);
        let mut value = Some(value);
        let entry = self
            .records
            .get_or_insert_with(key, || RwLock::new(value.take().flatten()));
        // Only the writer changes `bytes`, so load and store need not be one operation.
        let before = self.bytes.load(Ordering::Relaxed);
        let after = match value {
            // The closure did not run: the key was there.
            Some(value) => {
                let old = std::mem::replace(&mut *entry.value().write(), value);
                before - value_len(&old) + value_bytes
            }
            None => before + key_bytes + value_bytes + ENTRY_OVERHEAD_BYTES,
        };
        self.bytes.store(after, Ordering::Relaxed);
    }

    /// `None` if the table knows nothing of the key, `Some(None)` if it deletes it.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.records
            .get(key)
            .map(|entry| entry.value().read().clone())
    }

    /// Records and deletions of `[start, end)`, ascending.
    pub(super) fn range(
        &self,
        start: Bytes,
        end: Bytes,
    ) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + use<'_> {
        let range = (start < end).then(|| {
            self.records
                .range((Bound::Included(start), Bound::Excluded(end)))
        });
        range
            .into_iter()
            .flatten()
            .map(|entry| (entry.key().clone(), entry.value().read().clone()))
    }

    /// Everything, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + use<'_> {
        self.records
            .iter()
            .map(|entry| (entry.key().clone(), entry.value().read().clone()))
    }

    /// Memory held, in bytes, with a flat estimate of what an entry costs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of records and deletions.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

fn value_len(value: &Option<Bytes>) -> u64 {
    value.as_ref().map_or(0, |value| value.len() as u64)
}
