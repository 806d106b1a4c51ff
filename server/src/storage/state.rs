//! The state of a node: a memory table for each group in front of one checkpoint engine for all.
//!
//! The Raft log already holds every committed write durably, so applying never waits for a database.
//! Writes go into a table in memory, readable at once. Now and then, always at an applied index, the
//! table is cut off, and a thread takes it down to the engine as part of one sorted, atomic batch together
//! with the record of that index. What a crash takes from memory is applied again from the log.
//!
//! ```text
//!   write ──▶ active table ──cut at a mark──▶ frozen table ──one batch + mark, sync──▶ engine
//!                  ▲                               ▲          of all groups that are ready    ▲
//!   view ──────────┴───────────────────────────────┴──────────────────────────────────────────┘
//!                                              then: durable_applied = mark, frozen table dropped
//! ```
//!
//! What it promises, for each group:
//! - after a crash the contents are exactly the state at one mark, not older than the last published
//!   [`StateStore::durable_applied`];
//! - [`StateStore::write`] and [`StateStore::mark_applied`] do no I/O;
//! - memory is bounded by twice the budget of tables, for all groups together, if the callers await
//!   [`StateStore::wait_for_room`] between entries: they pass the bound by what one entry each writes;
//! - the first failure of a write of the engine ends the stores of all groups, and one of a read that of
//!   its group: from then on every call says so, nothing more of it reaches the disk, and
//!   `durable_applied` stands still;
//! - a store that was closed with [`StateStore::close`] can be opened again, and the new one holds all that
//!   was marked in the old one and is durable: the old one has nothing on its way down, and neither reads
//!   nor writes any more.

mod catalogue;
mod database;
mod directory;
mod flusher;
mod generation;
mod group;
mod health;
mod import;
mod loader;
mod sweeper;
mod table;
mod view;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod database_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod load_tests;
#[cfg(test)]
mod reopen_tests;
#[cfg(test)]
mod tests;

use std::io;
#[cfg(any(test, feature = "internals"))]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_mvcc::Write;
use tokio::sync::watch;

use self::generation::Generation;
use super::cause::Cause;
use super::engine::{EngineError, OpenEngine};
use super::lsm_engine::Lsm;
use crate::limits;

pub use self::database::Database;
#[cfg(any(test, feature = "internals"))]
use self::directory::MovedAside;
pub use self::health::StoreFailure;
pub use self::loader::Replacement;
pub use self::view::View;

/// Key of the applied mark: index as u64 be, then the caller's record. Nobody else may write it.
const MARK_KEY: &[u8] = &[0x00];

/// How a database is opened.
#[derive(Clone)]
pub struct StateOptions {
    /// Bytes of the tables of all groups together at which they are cut. Twice this is what a database
    /// holds in memory.
    pub table_bytes_max: u64,
    /// Age at which a table is cut though it is small: bounds how much log a restart applies again.
    pub flush_interval: Duration,
    /// Bytes that [`StateStore::replace`] collects before it passes them to the engine.
    pub load_bytes_max: u64,
    /// What opens the database.
    pub engine: Arc<dyn OpenEngine>,
}

impl Default for StateOptions {
    fn default() -> Self {
        StateOptions {
            table_bytes_max: 16 * 1024 * 1024,
            flush_interval: Duration::from_secs(5),
            load_bytes_max: limits::LOAD_BYTES_MAX,
            engine: Arc::new(Lsm::default()),
        }
    }
}

/// A failure of the state. All are fatal for the group on this node; only those of [`Database::open`] may
/// pass when the surroundings change.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The engine failed just now.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine failed before; the store takes no more part.
    #[error("state store stopped by an earlier failure: {reason}")]
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
        /// What kind of trouble it was.
        cause: Cause,
    },
    /// A file of the store itself could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// File or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database was made by an engine that this program does not have.
    #[error(
        "{path}: made by the engine {engine:?}, which this program does not have; use the program that made it"
    )]
    UnknownEngine {
        /// Directory of the state.
        path: PathBuf,
        /// Name of the engine.
        engine: String,
    },
    /// The store was closed, and may have been opened again: this is not the one to use any more.
    #[error("the state store is closed")]
    Closed,
    /// Writes follow the last mark and nobody will mark them: they are of an entry that was not applied
    /// to its end.
    #[error("the last entry was not applied to its end")]
    Unfinished,
    /// A replacement was loaded without saying which applied index it is the state of.
    #[error("the loaded state carries no applied index")]
    Unmarked,
}

#[cfg(any(test, feature = "internals"))]
/// An opened store and what was noticed on the way.
pub struct Opened {
    /// The store.
    pub store: StateStore,
    /// Set if the database was unusable: it lies there now, and the store is empty.
    pub moved_aside: Option<MovedAside>,
}

/// An applied position.
#[derive(Clone)]
struct Mark {
    index: u64,
    record: Bytes,
    /// Counts marks, so that two marks of one index are told apart.
    sequence: u64,
}

impl Mark {
    fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(8 + self.record.len());
        value.put_u64(self.index);
        value.put_slice(&self.record);
        value.freeze()
    }

    fn decode(mut value: Bytes) -> Option<Self> {
        let index = value.try_get_u64().ok()?;
        Some(Mark {
            index,
            record: value,
            sequence: 0,
        })
    }
}

/// The state of one group. Clones share it.
///
/// There is one writer: `write`, `mark_applied`, `load` and `replace` are called by one task, in the order of
/// the log. Everything else may be called from anywhere. It is open until it is closed or the last clone is
/// dropped; dropped without being closed, it leaves a table on its way down.
#[derive(Clone)]
pub struct StateStore {
    group: Arc<group::Shared>,
    /// Keeps the flusher at work.
    database: Arc<database::Inner>,
}

impl StateStore {
    #[cfg(any(test, feature = "internals"))]
    /// Opens a database of its own for one group: what tests and measurements of one group need.
    pub fn open(dir: &Path, options: StateOptions) -> Result<Opened, StateError> {
        let (database, moved_aside) = Database::open(dir, options)?;
        let store = database.group(1)?;
        Ok(Opened { store, moved_aside })
    }

    fn new(
        database: Arc<database::Inner>,
        group: u64,
        generation: Generation,
        mark: Option<Mark>,
    ) -> Self {
        let shared = group::Shared::new(database.shared.clone(), group, generation, mark);
        StateStore {
            group: Arc::new(shared),
            database,
        }
    }

    fn shared(&self) -> &Arc<group::Shared> {
        &self.group
    }

    /// A look at the present state.
    pub fn view(&self) -> View {
        View(self.group.layers.read().clone())
    }

    /// Writes records in their order; readable on return by views taken from now on. No I/O.
    pub fn write(&self, writes: Vec<Write>) -> Result<(), StateError> {
        self.group.write(writes)
    }

    /// Declares everything written so far to be the state at `index`. `record` is the caller's
    /// description of that position, given back by [`StateStore::applied_record`]. No I/O; a table is
    /// cut here if it is due.
    pub fn mark_applied(&self, index: u64, record: Bytes) -> Result<(), StateError> {
        self.group.mark_applied(index, record)
    }

    /// The last mark's record; `None` if nothing was ever applied.
    pub fn applied_record(&self) -> Option<Bytes> {
        let writer = self.group.writer.lock();
        writer.mark.as_ref().map(|mark| mark.record.clone())
    }

    /// The last mark's index; 0 if nothing was ever applied.
    pub fn applied_index(&self) -> u64 {
        let writer = self.group.writer.lock();
        writer.mark.as_ref().map_or(0, |mark| mark.index)
    }

    /// Waits while the tables of all groups are full and others are still going down.
    pub async fn wait_for_room(&self) -> Result<(), StateError> {
        let database = self.group.database.clone();
        self.wait_until(|| !database.is_full()).await
    }

    /// The index below which (inclusive) the log is not needed any more.
    pub fn durable_applied(&self) -> watch::Receiver<u64> {
        self.group.durable.subscribe()
    }

    /// Makes everything marked so far durable; gives the durable index, which is that mark's or a
    /// later one's. If writes follow the last mark, it waits for theirs.
    pub async fn flush(&self) -> Result<u64, StateError> {
        let wanted = self.group.want_flushed();
        self.wait_until(|| self.group.writer.lock().flushed >= wanted)
            .await?;
        Ok(*self.group.durable.borrow())
    }

    /// [`StateStore::flush`] for a store that nobody writes to any more, so that it never waits for a
    /// mark that will not come: writes after the last mark make it fail at once, with
    /// [`StateError::Unfinished`].
    pub async fn flush_at_rest(&self) -> Result<u64, StateError> {
        if !self.group.writer.lock().clean {
            return Err(StateError::Unfinished);
        }
        self.flush().await
    }

    /// Ends the use of the store in good order, so that the state can be opened again: what is marked goes
    /// down, what follows the last mark is given up, a replacement that is being loaded too. Waits for the
    /// disk; when the future is dropped, the store takes no more writes, and closing it can be tried again.
    ///
    /// From the return of this on, whether it failed or not, every call and every view say
    /// [`StateError::Closed`], but for what is known of the last mark.
    pub async fn close(&self) -> Result<(), StateError> {
        self.group.begin_close();
        let rested = self.wait_until(|| self.group.is_at_rest()).await;
        self.group.close();
        self.group.database.tick();
        rested
    }

    /// Whether the store was closed.
    pub fn is_closed(&self) -> bool {
        self.group.health.is_closed()
    }

    /// Ends the store: the disk failed while something else was written for it.
    pub fn give_up(&self, error: &StateError) {
        self.group.health.poison(error);
        self.group.database.tick();
    }

    /// Resolves when the engine has failed, which ends the store.
    pub async fn failed(&self) -> StoreFailure {
        self.group.health.failed().await
    }

    #[cfg(test)]
    /// Bytes of memory in the tables of this group.
    pub fn table_bytes(&self) -> u64 {
        let layers = self.view().0;
        layers.active.bytes() + layers.frozen.as_ref().map_or(0, |table| table.bytes())
    }

    /// About how many bytes the state of the group takes: its part of the files of the database, or all of
    /// them where the engine cannot tell, and its records that are in memory still. What was overwritten or
    /// deleted counts until it is merged away; a state that was replaced does not. Blocks on I/O.
    pub fn size_bytes(&self) -> Result<u64, StateError> {
        let layers = self.view().0;
        let (start, end) = layers.base.prefix().range();
        let on_disk = self.database.shared.engine.range_bytes(&start, &end)?;
        let frozen = layers.frozen.as_ref();
        Ok(on_disk + layers.active.record_bytes() + frozen.map_or(0, |table| table.record_bytes()))
    }

    #[cfg(feature = "internals")]
    /// Bytes on disk of the whole database. Blocks on I/O.
    pub fn disk_bytes(&self) -> Result<u64, StateError> {
        Ok(self.database.shared.engine.disk_bytes()?)
    }

    /// Waits for the flusher to bring `condition` about; fails if the store has failed.
    async fn wait_until(&self, condition: impl Fn() -> bool) -> Result<(), StateError> {
        // Subscribed before the first look, so no progress is missed.
        let mut progress = self.group.database.progress.subscribe();
        loop {
            self.group.health.check_failure()?;
            if condition() {
                return Ok(());
            }
            // Nothing brings it about any more.
            self.group.health.check_open()?;
            if progress.changed().await.is_err() {
                // The sender lives in `self`.
                unreachable!("the store is borrowed");
            }
        }
    }
}
