//! The state store of one group: a memory table in front of a checkpoint engine.
//!
//! The Raft log already holds every committed write durably, so applying never waits for a database.
//! Writes go into a table in memory, readable at once. Now and then, always at an applied index, the
//! table is cut off, and a thread takes it down to the engine as one sorted, atomic batch together
//! with the record of that index. What a crash takes from memory is applied again from the log.
//!
//! ```text
//!   write ──▶ active table ──cut at a mark──▶ frozen table ──one batch + mark, sync──▶ engine
//!                  ▲                               ▲                                      ▲
//!   view ──────────┴───────────────────────────────┴──────────────────────────────────────┘
//!                                              then: durable_applied = mark, frozen table dropped
//! ```
//!
//! What it promises:
//! - after a crash the contents are exactly the state at one mark, not older than the last published
//!   [`StateStore::durable_applied`];
//! - [`StateStore::write`] and [`StateStore::mark_applied`] do no I/O;
//! - memory is bounded by two tables, if the caller awaits [`StateStore::wait_for_room`] between
//!   entries: a table passes its bound by what one entry writes;
//! - the first failure of the engine ends the store: from then on every call says so, nothing more
//!   reaches the disk, and `durable_applied` stands still.

mod flusher;
mod generations;
mod health;
mod loader;
mod table;
mod view;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_mvcc::Write;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use self::generations::{Generation, Generations};
use self::health::Health;
use self::table::Table;
use self::view::Layers;
use super::cause::Cause;
use super::engine::{EngineError, OpenEngine};
use super::sled_engine::Sled;
use crate::limits;

pub use self::generations::MovedAside;
pub use self::health::StoreFailure;
pub use self::loader::{Committed, Loader, Replacement};
pub use self::view::View;

/// Key of the applied mark: index as u64 be, then the caller's record. Nobody else may write it.
const MARK_KEY: &[u8] = &[0x00];

/// How a store is opened.
#[derive(Clone)]
pub struct StateOptions {
    /// Bytes of a table at which it is cut. Twice this is what a store holds in memory.
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
            engine: Arc::new(Sled::default()),
        }
    }
}

/// A failure of the state store. All are fatal for the group on this node; only those of
/// [`StateStore::open`] may pass when the surroundings change.
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
    /// Writes follow the last mark and nobody will mark them: they are of an entry that was not applied
    /// to its end.
    #[error("the last entry was not applied to its end")]
    Unfinished,
    /// A replacement was loaded without saying which applied index it is the state of.
    #[error("the loaded state carries no applied index")]
    Unmarked,
}

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

/// What the writer and the flusher share.
///
/// - Writes since the last mark are in `active` only: `clean` is false, and no table is cut.
/// - `frozen` is set exactly while the layers have a frozen table.
/// - `flushed <= mark.sequence`; equal means that the engine holds the last mark durably.
struct Writer {
    active: Arc<Table>,
    /// When `active` got its first write or mark.
    active_since: Option<Instant>,
    mark: Option<Mark>,
    /// Nothing was written since `mark`.
    clean: bool,
    frozen: Option<Frozen>,
    /// Sequence of the newest mark that is durable in the engine.
    flushed: u64,
    /// Marks up to this sequence are wanted durable now.
    flush_wanted: u64,
    closing: bool,
}

/// A table on its way to the engine.
#[derive(Clone)]
struct Frozen {
    table: Arc<Table>,
    mark: Mark,
    base: Arc<Generation>,
}

/// Locks are taken in the order of the fields: generations, writer, layers.
struct Shared {
    options: StateOptions,
    generations: Mutex<Generations>,
    writer: Mutex<Writer>,
    /// Wakes the flusher; goes with `writer`.
    work: Condvar,
    layers: RwLock<Arc<Layers>>,
    health: Arc<Health>,
    durable: watch::Sender<u64>,
    /// Ticks when the flusher got on or failed.
    progress: watch::Sender<u64>,
}

/// The state of one group. Clones share it.
///
/// There is one writer: `write`, `mark_applied`, `load` and `replace` are called by one task, in the order of
/// the log. Everything else may be called from anywhere. When the last clone goes, the flusher is
/// stopped after the batch under way; what is not flushed by then is in the log.
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.writer.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(flusher) = self.flusher.take()
            && flusher.join().is_err()
        {
            tracing::error!("the flusher of a state store panicked");
        }
    }
}

impl StateStore {
    /// Opens the store in `dir`, creating it if there is none. Blocks on I/O.
    ///
    /// A database that cannot be used is moved aside and an empty one takes its place; the caller
    /// fetches the state from a peer. A failure of the surroundings (a lock held by another process,
    /// no permission, no space) is an error instead, and nothing is moved.
    pub fn open(dir: &Path, options: StateOptions) -> Result<Opened, StateError> {
        let opener = options.engine.clone();
        let (mut generations, mut generation, mut moved_aside) = Generations::open(dir, &*opener)?;
        let mark = match read_mark(dir, &generation) {
            Err(StateError::Engine(error)) if error.is_damage() => {
                drop(generation);
                let moved;
                (generation, moved) = generations.start_over(error.to_string(), &*opener)?;
                moved_aside = Some(moved);
                None
            }
            mark => mark?,
        };
        // What a killed process left in the system's cache is read back as if it were durable.
        generation.engine().sync()?;

        let active = Arc::new(Table::default());
        let health = Arc::new(Health::default());
        let layers = Layers {
            active: active.clone(),
            frozen: None,
            base: Arc::new(generation),
            health: health.clone(),
        };
        let shared = Arc::new(Shared {
            options,
            generations: Mutex::new(generations),
            durable: watch::Sender::new(mark.as_ref().map_or(0, |mark| mark.index)),
            writer: Mutex::new(Writer {
                active,
                active_since: None,
                mark,
                clean: true,
                frozen: None,
                flushed: 0,
                flush_wanted: 0,
                closing: false,
            }),
            work: Condvar::new(),
            layers: RwLock::new(Arc::new(layers)),
            health,
            progress: watch::Sender::new(0),
        });
        let flusher = flusher::spawn(shared.clone()).map_err(|source| StateError::Io {
            path: dir.to_path_buf(),
            source,
        })?;
        let store = StateStore {
            inner: Arc::new(Inner {
                shared,
                flusher: Some(flusher),
            }),
        };
        Ok(Opened { store, moved_aside })
    }

    /// A look at the present state.
    pub fn view(&self) -> View {
        View(self.inner.shared.layers.read().clone())
    }

    /// Writes records in their order; readable on return by views taken from now on. No I/O.
    pub fn write(&self, writes: Vec<Write>) -> Result<(), StateError> {
        let shared = &self.inner.shared;
        shared.health.check()?;
        if writes.is_empty() {
            return Ok(());
        }
        let mut writer = shared.writer.lock();
        writer.clean = false;
        writer.active_since.get_or_insert_with(Instant::now);
        for Write { key, value } in writes {
            assert!(
                key != MARK_KEY,
                "the key of the applied mark belongs to the store"
            );
            writer.active.put(key, value);
        }
        Ok(())
    }

    /// Declares everything written so far to be the state at `index`. `record` is the caller's
    /// description of that position, given back by [`StateStore::applied_record`]. No I/O; a table is
    /// cut here if it is due.
    pub fn mark_applied(&self, index: u64, record: Bytes) -> Result<(), StateError> {
        let shared = &self.inner.shared;
        shared.health.check()?;
        let mut writer = shared.writer.lock();
        let last = writer.mark.as_ref();
        let last_index = last.map_or(0, |mark| mark.index);
        assert!(index >= last_index, "mark {index} after mark {last_index}");
        let sequence = last.map_or(0, |mark| mark.sequence) + 1;
        writer.mark = Some(Mark {
            index,
            record,
            sequence,
        });
        writer.clean = true;
        writer.active_since.get_or_insert_with(Instant::now);
        shared.cut_if_due(&mut writer);
        Ok(())
    }

    /// The last mark's record; `None` if nothing was ever applied.
    pub fn applied_record(&self) -> Option<Bytes> {
        self.inner
            .shared
            .writer
            .lock()
            .mark
            .as_ref()
            .map(|mark| mark.record.clone())
    }

    /// The last mark's index; 0 if nothing was ever applied.
    pub fn applied_index(&self) -> u64 {
        self.inner
            .shared
            .writer
            .lock()
            .mark
            .as_ref()
            .map_or(0, |mark| mark.index)
    }

    /// Waits while the active table is full and the frozen one is still going down.
    pub async fn wait_for_room(&self) -> Result<(), StateError> {
        let shared = &self.inner.shared;
        let full = |writer: &Writer| {
            writer.frozen.is_some() && writer.active.bytes() >= shared.options.table_bytes_max
        };
        shared.wait_until(|writer| !full(writer)).await
    }

    /// The index below which (inclusive) the log is not needed any more.
    pub fn durable_applied(&self) -> watch::Receiver<u64> {
        self.inner.shared.durable.subscribe()
    }

    /// Makes everything marked so far durable; gives the durable index, which is that mark's or a
    /// later one's. If writes follow the last mark, it waits for theirs.
    pub async fn flush(&self) -> Result<u64, StateError> {
        let shared = &self.inner.shared;
        let wanted = {
            let mut writer = shared.writer.lock();
            let wanted = writer.mark.as_ref().map_or(0, |mark| mark.sequence);
            writer.flush_wanted = writer.flush_wanted.max(wanted);
            shared.work.notify_all();
            wanted
        };
        shared.wait_until(|writer| writer.flushed >= wanted).await?;
        Ok(*shared.durable.borrow())
    }

    /// Has the table cut at the next mark, though it is neither full nor old; does not wait.
    pub fn flush_soon(&self) {
        let shared = &self.inner.shared;
        let mut writer = shared.writer.lock();
        let wanted = writer.mark.as_ref().map_or(0, |mark| mark.sequence);
        writer.flush_wanted = writer.flush_wanted.max(wanted);
        shared.work.notify_all();
    }

    /// [`StateStore::flush`] for a store that nobody writes to any more, so that it never waits for a
    /// mark that will not come: writes after the last mark make it fail at once, with
    /// [`StateError::Unfinished`].
    pub async fn flush_at_rest(&self) -> Result<u64, StateError> {
        if !self.inner.shared.writer.lock().clean {
            return Err(StateError::Unfinished);
        }
        self.flush().await
    }

    /// Ends the store: the disk failed while something else was written for it.
    pub fn give_up(&self, error: &StateError) {
        self.inner.shared.health.poison(error);
        self.inner.shared.tick();
    }

    /// Resolves when the engine has failed, which ends the store.
    pub async fn failed(&self) -> StoreFailure {
        self.inner.shared.health.failed().await
    }

    /// Bytes of memory in the tables.
    pub fn table_bytes(&self) -> u64 {
        let layers = self.view().0;
        layers.active.bytes() + layers.frozen.as_ref().map_or(0, |table| table.bytes())
    }

    /// Bytes on disk of the current generation. Blocks on I/O.
    pub fn disk_bytes(&self) -> Result<u64, StateError> {
        Ok(self.view().0.base.engine().disk_bytes()?)
    }
}

impl Shared {
    /// Cuts the active table off if it stands at a mark that is not durable and is full, old, or
    /// wanted. Whoever holds the writer may call it at any time.
    fn cut_if_due(&self, writer: &mut Writer) {
        let Some(mark) = writer
            .mark
            .clone()
            .filter(|mark| mark.sequence > writer.flushed)
        else {
            return;
        };
        if !writer.clean || writer.frozen.is_some() {
            return;
        }
        let due = writer.flush_wanted > writer.flushed
            || writer.active.bytes() >= self.options.table_bytes_max
            || writer
                .active_since
                .is_some_and(|at| at.elapsed() >= self.options.flush_interval);
        if !due {
            return;
        }
        let table = std::mem::take(&mut writer.active);
        writer.active_since = None;
        let mut layers = self.layers.write();
        let base = layers.base.clone();
        *layers = Arc::new(Layers {
            active: writer.active.clone(),
            frozen: Some(table.clone()),
            base: base.clone(),
            health: self.health.clone(),
        });
        drop(layers);
        writer.frozen = Some(Frozen { table, mark, base });
        self.work.notify_all();
    }

    /// Waits for the flusher to bring `condition` about; fails if the store has failed.
    async fn wait_until(&self, condition: impl Fn(&Writer) -> bool) -> Result<(), StateError> {
        // Subscribed before the first look, so no progress is missed.
        let mut progress = self.progress.subscribe();
        loop {
            self.health.check()?;
            if condition(&self.writer.lock()) {
                return Ok(());
            }
            if progress.changed().await.is_err() {
                // The sender lives in `self`.
                unreachable!("the store is borrowed");
            }
        }
    }

    fn tick(&self) {
        self.progress.send_modify(|ticks| *ticks += 1);
    }
}

fn read_mark(dir: &Path, generation: &Generation) -> Result<Option<Mark>, StateError> {
    let Some(value) = generation.engine().get(MARK_KEY)? else {
        return Ok(None);
    };
    match Mark::decode(value) {
        Some(mark) => Ok(Some(mark)),
        None => Err(StateError::Engine(EngineError::Corrupt {
            path: dir.to_path_buf(),
            reason: "the applied mark cannot be read".into(),
        })),
    }
}
