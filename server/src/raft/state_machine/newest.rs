//! The newest versions of the keys that were written last, for the writes that come next.
//!
//! A write needs the version before it. Versions lie in order of keys and revisions, so finding the newest
//! one is a seek through every layer of the store, which no filter can save: it cost more than all
//! else that applying does. Keys that are written are often written again, and whoever applies sees every write.
//!
//! ```text
//!   apply ─ first(versions of a key) ─▶ remembered? ── yes ─▶ the record
//!                                            └─ no ─▶ the store
//!   what apply writes ─▶ remember
//! ```
//!
//! It changes no answer: what is remembered is what the store would show.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use holdfast_mvcc::{Reader, Write, versions_of};

use crate::{
    limits,
    storage::state::{StateError, View},
};

/// What an entry costs beside its key and record: a place in the map, two reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 200;

/// Bytes that the groups of a node remember together.
#[derive(Debug, Default)]
pub struct NewestBudget(AtomicU64);

struct Newest {
    key: Bytes,
    record: Bytes,
}

impl Newest {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.record.len()) as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// - What is held for a key is its newest version, or a deletion that is its newest and may have been
///   scrubbed since: to a reader both are a key that does not exist.
/// - A key is in one of the two maps. When `young` is half of what the group may hold, `old` is forgotten.
/// - The budget counts exactly the bytes of both maps.
#[derive(Default)]
pub(super) struct NewestVersions {
    young: HashMap<Bytes, Newest>,
    old: HashMap<Bytes, Newest>,
    young_bytes: u64,
    old_bytes: u64,
    budget: Arc<NewestBudget>,
}

impl NewestVersions {
    pub(super) fn within(budget: Arc<NewestBudget>) -> Self {
        let mut newest = Self::default();
        newest.budget = budget;
        newest
    }

    /// Remembers what was written. To be told of every write, in order.
    pub(super) fn remember(&mut self, writes: &[Write]) {
        for Write { key, value } in writes {
            let (Some(prefix), Some(record)) = (versions_of(key), value) else {
                continue;
            };
            self.forget(prefix);
            if record.len() <= limits::NEWEST_VERSION_RECORD_BYTES_MAX {
                let prefix = key.slice(..prefix.len());
                let (key, record) = (key.clone(), record.clone());
                self.insert(prefix, Newest { key, record });
            }
        }
    }

    /// Forgets everything: another state takes the place of this one.
    pub(super) fn clear(&mut self) {
        // New maps: one that is cleared keeps its memory.
        (self.young, self.old) = Default::default();
        self.give_back(self.young_bytes + self.old_bytes);
        (self.young_bytes, self.old_bytes) = (0, 0);
    }

    fn forget(&mut self, prefix: &[u8]) {
        if let Some(gone) = self.young.remove(prefix) {
            self.young_bytes -= gone.bytes();
            self.give_back(gone.bytes());
        } else if let Some(gone) = self.old.remove(prefix) {
            self.old_bytes -= gone.bytes();
            self.give_back(gone.bytes());
        }
    }

    fn insert(&mut self, prefix: Bytes, newest: Newest) {
        let bytes = newest.bytes();
        self.young_bytes += bytes;
        let taken = self.budget.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.young.insert(prefix, newest);
        let crowded = taken > limits::NEWEST_VERSIONS_BYTES_MAX;
        if crowded || self.young_bytes > limits::NEWEST_VERSIONS_BYTES_MAX / 2 {
            self.old = mem::take(&mut self.young);
            let gone = mem::replace(&mut self.old_bytes, mem::take(&mut self.young_bytes));
            self.give_back(gone);
        }
    }

    fn get(&self, prefix: &[u8]) -> Option<&Newest> {
        self.young.get(prefix).or_else(|| self.old.get(prefix))
    }

    fn give_back(&self, bytes: u64) {
        self.budget.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for NewestVersions {
    fn drop(&mut self) {
        self.give_back(self.young_bytes + self.old_bytes);
    }
}

/// The store as whoever applies reads it.
pub(super) struct Remembering<'a> {
    pub(super) newest: &'a NewestVersions,
    pub(super) view: &'a View,
}

impl Reader for Remembering<'_> {
    type Error = StateError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.view.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError>> + '_ {
        self.view.scan(start, end)
    }

    fn first(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, StateError> {
        // The newest version is the first of all versions of its key: if it is not before the range, then
        // it is the first in it.
        if let Some(newest) = versions_of(start).and_then(|prefix| self.newest.get(prefix))
            && newest.key[..] >= *start
            && newest.key[..] < *end
        {
            return Ok(Some((newest.key.clone(), newest.record.clone())));
        }
        self.view.first(start, end)
    }
}

#[cfg(test)]
mod tests;
