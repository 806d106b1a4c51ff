//! The newest versions of the keys that were written last, for the writes that come next.
//!
//! A write needs the version before it. Versions lie in order of keys and revisions, so finding the newest
//! one is a seek through every layer of the store, which no filter can save: it cost more than all
//! else that applying does. Keys that are written are often written again, and whoever applies sees every write.
//!
//! ```text
//!   apply ─ newest version of a key ─▶ remembered? ── yes ─▶ its counters; its value is a get in the store
//!                                            └─ no ─▶ a seek in the store
//!   what apply writes ─▶ remember
//! ```
//!
//! Values are not remembered: few writes need the one before, and where its version is known it lies under a
//! known key, which filters lead to; while it is young it is in the memory table besides.
//!
//! A key that was never written has nothing to find, and to find nothing costs the same seek. Which keys were
//! written is noted too, those that the state had before included, so that the others are known.
//!
//! It changes no answer: what is remembered is what the store would show.

mod filter;
mod learning;
mod versions;

use std::{cell::OnceCell, sync::Arc};

use bytes::Bytes;
use holdfast_mvcc::{Newest, Reader, Write, version_written};

use crate::storage::state::{StateError, StateStore, View};

pub use self::versions::NewestVersions;
use self::{learning::Learning, versions::Known};

/// What one group remembers, in the memory that all groups of the node share.
///
/// - What is held for a key is its newest version, or a deletion that is its newest and may have been
///   scrubbed since: to a reader both are a key that does not exist.
/// - Under `owner` nobody but this group, in this state, has remembered anything.
pub(super) struct GroupNewest {
    versions: Arc<NewestVersions>,
    owner: u64,
    /// Of the keys that the state had before. Begins when something is applied.
    learning: Option<Learning>,
}

impl GroupNewest {
    pub(super) fn within(versions: Arc<NewestVersions>) -> Self {
        let owner = versions.new_owner();
        GroupNewest {
            versions,
            owner,
            learning: None,
        }
    }

    /// Begins to learn which keys the state has, if that has not begun. To be called before anything is
    /// written, on a runtime.
    pub(super) fn learn(&mut self, store: &Arc<StateStore>) {
        self.learning.get_or_insert_with(|| {
            Learning::start(self.versions.clone(), self.owner, store.clone())
        });
    }

    /// Remembers what was written. To be told of every write, in order.
    pub(super) fn remember(&mut self, writes: &[Write]) {
        for (prefix, newest) in writes.iter().filter_map(version_written) {
            self.versions.remember(self.owner, prefix, newest);
        }
    }

    /// Forgets everything: another state takes the place of this one.
    pub(super) fn clear(&mut self) {
        // What was remembered under the number before gives way to what others remember.
        self.owner = self.versions.new_owner();
        self.learning = None;
    }

    fn get(&self, prefix: &[u8]) -> Option<Newest> {
        // Before the look: what the walk notes between the two, and then is complete, would be taken for
        // never written.
        let is_complete = self.is_complete();
        match self.versions.get(self.owner, prefix) {
            Known::Newest(newest) => Some(newest),
            Known::NeverWritten if is_complete => Some(Newest::NEVER_WRITTEN),
            Known::NeverWritten | Known::Nothing => None,
        }
    }

    /// Whether every key is noted of which there is a version.
    fn is_complete(&self) -> bool {
        self.learning.as_ref().is_some_and(Learning::is_complete)
    }
}

/// The store as whoever applies reads it.
pub(super) struct Remembering<'a> {
    newest: &'a GroupNewest,
    store: &'a StateStore,
    /// Taken by the first read that needs one.
    view: OnceCell<View>,
}

impl<'a> Remembering<'a> {
    /// For one command: the table that takes its writes may be cut off at any time before the first of them,
    /// and a view from before the cut does not have what is written after it.
    pub(super) fn of(newest: &'a GroupNewest, store: &'a StateStore) -> Self {
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

    fn remembered(&self, prefix: &[u8]) -> Option<Newest> {
        self.newest.get(prefix)
    }
}

#[cfg(test)]
mod tests;
