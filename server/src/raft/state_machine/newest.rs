//! The newest versions of the keys that were written last, for the writes that come next.
//!
//! A write needs the version before it. Versions lie in order of keys and revisions, so finding the newest
//! one is a seek through every layer of the store, which no filter can save: it cost more than all
//! else that applying does. Keys that are written are often written again, and whoever applies sees every write.
//!
//! ```text
//!   apply ─ newest version of a key ─▶ remembered? ── yes ─▶ the record
//!                                            └─ no ─▶ the store
//!   what apply writes ─▶ remember
//! ```
//!
//! It changes no answer: what is remembered is what the store would show.

use std::{
    cell::OnceCell,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hashbrown::HashTable;
use holdfast_mvcc::{Reader, Write, versions_of};

use crate::{
    limits,
    storage::state::{StateError, StateStore, View},
};

/// What an entry costs beside its key and record: a place in the map, two reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 200;

/// Bytes that the groups of a node remember together.
#[derive(Debug, Default)]
pub struct NewestBudget(AtomicU64);

/// The record of a version.
struct Newest {
    /// Of the prefix, so that a table that grows does not look at keys.
    hash: u64,
    key: Bytes,
    /// Length of what the keys of all versions begin with.
    prefix: usize,
    revision: i64,
    record: Bytes,
}

impl Newest {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.record.len()) as u64 + ENTRY_OVERHEAD_BYTES
    }

    fn is_of(&self, prefix: &[u8]) -> bool {
        self.key[..self.prefix] == *prefix
    }
}

/// - What is held for a key is its newest version, or a deletion that is its newest and may have been
///   scrubbed since: to a reader both are a key that does not exist.
/// - A key is in one of the two tables. When `young` is half of what the group may hold, `old` is forgotten.
/// - The budget counts exactly the bytes of both tables.
#[derive(Default)]
pub(super) struct NewestVersions {
    /// Seeded: whoever chooses keys does not choose their hashes.
    hasher: RandomState,
    young: HashTable<Newest>,
    old: HashTable<Newest>,
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
            let (Some((prefix, revision)), Some(record)) = (versions_of(key), value) else {
                continue;
            };
            let hash = self.hasher.hash_one(prefix);
            self.forget(hash, prefix);
            if record.len() <= limits::NEWEST_VERSION_RECORD_BYTES_MAX {
                self.insert(Newest {
                    hash,
                    key: key.clone(),
                    prefix: prefix.len(),
                    revision,
                    record: record.clone(),
                });
            }
        }
    }

    /// Forgets everything: another state takes the place of this one.
    pub(super) fn clear(&mut self) {
        // New maps: one that is cleared keeps its memory.
        (self.young, self.old) = Default::default();
        self.budget.give_back(self.young_bytes + self.old_bytes);
        (self.young_bytes, self.old_bytes) = (0, 0);
    }

    fn forget(&mut self, hash: u64, prefix: &[u8]) {
        for (table, bytes) in [
            (&mut self.young, &mut self.young_bytes),
            (&mut self.old, &mut self.old_bytes),
        ] {
            if let Ok(entry) = table.find_entry(hash, |newest| newest.is_of(prefix)) {
                let gone = entry.remove().0.bytes();
                *bytes -= gone;
                self.budget.give_back(gone);
                return;
            }
        }
    }

    fn insert(&mut self, newest: Newest) {
        let bytes = newest.bytes();
        self.young_bytes += bytes;
        let taken = self.budget.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let hash = |newest: &Newest| newest.hash;
        self.young.insert_unique(newest.hash, newest, hash);
        let crowded = taken > limits::NEWEST_VERSIONS_BYTES_MAX;
        if crowded || self.young_bytes > limits::NEWEST_VERSIONS_BYTES_MAX / 2 {
            self.old = mem::take(&mut self.young);
            let gone = mem::replace(&mut self.old_bytes, mem::take(&mut self.young_bytes));
            self.budget.give_back(gone);
        }
    }

    fn get(&self, prefix: &[u8]) -> Option<&Newest> {
        let hash = self.hasher.hash_one(prefix);
        let is_it = |newest: &Newest| newest.is_of(prefix);
        let young = self.young.find(hash, is_it);
        young.or_else(|| self.old.find(hash, is_it))
    }
}

impl NewestBudget {
    fn give_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for NewestVersions {
    fn drop(&mut self) {
        self.budget.give_back(self.young_bytes + self.old_bytes);
    }
}

/// The store as whoever applies reads it.
pub(super) struct Remembering<'a> {
    newest: &'a NewestVersions,
    store: &'a StateStore,
    /// Taken by the first read that needs one.
    view: OnceCell<View>,
}

impl<'a> Remembering<'a> {
    /// For one entry: the table that takes its writes may be cut off at any time before the first of them,
    /// and a view from before the cut does not have what is written after it.
    pub(super) fn of(newest: &'a NewestVersions, store: &'a StateStore) -> Self {
        Remembering {
            newest,
            store,
            view: OnceCell::new(),
        }
    }

    fn view(&self) -> &View {
        self.view.get_or_init(|| self.store.view())
    }
}

impl Reader for Remembering<'_> {
    type Error = StateError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.view().get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError>> + '_ {
        self.view().scan(start, end)
    }

    fn first(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, StateError> {
        self.view().first(start, end)
    }

    fn newest_version(&self, prefix: &[u8], at: i64) -> Result<Option<(Bytes, Bytes)>, StateError> {
        match self.newest.get(prefix) {
            Some(newest) if newest.revision <= at => {
                Ok(Some((newest.key.clone(), newest.record.clone())))
            }
            _ => self.view().newest_version(prefix, at),
        }
    }
}

#[cfg(test)]
mod tests;
