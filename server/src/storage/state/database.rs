//! The database of a node: one engine for the states of all its groups.
//!
//! ```text
//!   group 1: active table ─┐ cut                        ┌─ sorted by group, one batch, one sync
//!   group 2: active table ─┼──────▶ frozen tables ──────┤
//!   group 3: active table ─┘        flusher             └─▶ engine: group, generation, key
//! ```
//!
//! Groups share one budget of memory, one flusher, one cache, and one sync for all that go down together.
//! An idle group costs nothing: the flusher sleeps until the oldest table that holds something is due.
//!
//! Locks are taken in this order: a group's writer, its layers, the queue; and apart from these: writing,
//! the catalogue.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::catalogue::{self, Catalogue};
use super::directory::{Directory, Found, MovedAside, mark_damaged};
use super::generation::{FIRST, Generation, Prefix};
use super::group::{self, Frozen};
use super::health::Health;
use super::sweeper::{self, Garbage};
use super::{MARK_KEY, Mark, StateError, StateOptions, StateStore, flusher};
use crate::storage::engine::{Batch, Engine, EngineError};
use crate::storage::guard::panic_message;

/// Tables that wait for the flusher, or will.
#[derive(Default)]
pub(super) struct Queue {
    /// Tables that were cut, and the groups they are of.
    pub(super) frozen: Vec<(Arc<group::Shared>, Frozen)>,
    /// Tables that hold something, oldest first, with the time of their first record. One that was cut
    /// meanwhile has another time. At [`limits::FILLING_TABLES_MAX`] all are cut.
    pub(super) filling: VecDeque<(Instant, Weak<group::Shared>)>,
    /// The tables together are over the budget: cut all that can be cut.
    pub(super) pressed: bool,
    pub(super) closing: bool,
}

/// Bytes of memory in tables, of all groups together.
#[derive(Default)]
pub(super) struct Budget {
    pub(super) active: AtomicU64,
    pub(super) frozen: AtomicU64,
}

/// What the groups, the flusher and the sweeper share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: StateOptions,
    pub(super) engine: Arc<dyn Engine>,
    /// Batches go in one at a time.
    pub(super) writing: Mutex<()>,
    /// Changes with the database, while a batch is written.
    pub(super) catalogue: Mutex<Catalogue>,
    pub(super) garbage: Arc<Garbage>,
    pub(super) queue: Mutex<Queue>,
    /// Wakes the flusher; goes with `queue`.
    pub(super) work: Condvar,
    pub(super) budget: Budget,
    pub(super) health: Arc<Health>,
    /// Ticks when the flusher got on, or something failed.
    pub(super) progress: watch::Sender<u64>,
}

impl Shared {
    /// Has the engine do something for all. A failure ends the database: what the engine holds after it is
    /// not known, so nobody may write to it again.
    pub(super) fn call<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn Engine) -> Result<T, EngineError>,
    ) -> Result<T, StateError> {
        self.health.check()?;
        call(&*self.engine).map_err(|error| {
            let error = StateError::Engine(error);
            self.health.poison(&error);
            self.tick();
            error
        })
    }

    /// Puts a few records in, durably, and changes the catalogue with them.
    pub(super) fn change(
        &self,
        mut records: Batch,
        change: impl FnOnce(&mut Catalogue),
    ) -> Result<(), StateError> {
        records.sort_by(|a, b| a.0.cmp(&b.0));
        let _one_at_a_time = self.writing.lock();
        self.call(|engine| {
            engine.apply_batch(records)?;
            engine.sync()
        })?;
        change(&mut self.catalogue.lock());
        Ok(())
    }

    pub(super) fn tick(&self) {
        self.progress.send_modify(|ticks| *ticks += 1);
    }

    /// No room until the flusher has caught up.
    pub(super) fn is_full(&self) -> bool {
        self.budget.frozen.load(Ordering::Relaxed) > 0 && self.is_pressed()
    }

    /// The tables that are written to hold what they may.
    pub(super) fn is_pressed(&self) -> bool {
        self.budget.active.load(Ordering::Relaxed) >= self.options.table_bytes_max
    }
}

/// The states of a node's groups. Clones share it.
///
/// When the last clone and the last [`StateStore`] of it are gone, the flusher is stopped after the batch
/// under way; what is not flushed by then is in the log.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
    sweeper: Option<JoinHandle<()>>,
    /// Groups that are open.
    groups: Mutex<HashMap<u64, Weak<group::Shared>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.queue.lock().closing = true;
        shared.work.notify_all();
        shared.garbage.close();
        for thread in [self.flusher.take(), self.sweeper.take()] {
            // A panic was told when it came.
            let _ = thread.map(JoinHandle::join);
        }
        // What never went down holds its group, which holds this.
        shared.queue.lock().frozen.clear();
    }
}

impl Database {
    /// Opens the database in `dir`, creating it if there is none. Blocks on I/O.
    ///
    /// A database that cannot be used is moved aside and an empty one takes its place; the caller fetches
    /// the states from peers. A failure of the surroundings (a lock held by another process, no
    /// permission, no space) is an error instead, and nothing is moved.
    pub fn open(
        dir: &Path,
        options: StateOptions,
    ) -> Result<(Self, Option<MovedAside>), StateError> {
        let opener = options.engine.clone();
        let Found {
            mut directory,
            mut engine,
            mut moved_aside,
        } = Directory::open(dir, &*opener)?;
        let catalogue = match read(dir, &*engine) {
            Err(StateError::Engine(error)) if error.is_damage() => {
                drop(engine);
                let moved;
                (engine, moved) = directory.start_over(error.to_string(), &*opener)?;
                moved_aside = Some(moved);
                Catalogue::default()
            }
            catalogue => catalogue?,
        };
        // What a killed process left in the system's cache is read back as if it were durable.
        engine.sync()?;

        let garbage = Arc::new(Garbage::default());
        for (group, generation) in catalogue.garbage_of_all() {
            garbage.add(group, generation);
        }
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            options,
            engine: engine.into(),
            writing: Mutex::new(()),
            catalogue: Mutex::new(catalogue),
            garbage,
            queue: Mutex::default(),
            work: Condvar::new(),
            budget: Budget::default(),
            health: Arc::default(),
            progress: watch::Sender::new(0),
        });
        let thread = |spawned: std::io::Result<_>| {
            spawned.map_err(|source| StateError::Io {
                path: dir.to_path_buf(),
                source,
            })
        };
        // Built before the second thread, so that the first ends when that fails.
        let mut inner = Inner {
            flusher: Some(thread(spawn("state-flush", shared.clone(), flusher::run))?),
            shared: shared.clone(),
            sweeper: None,
            groups: Mutex::default(),
        };
        inner.sweeper = Some(thread(spawn("state-sweep", shared, sweeper::run))?);
        let database = Database {
            inner: Arc::new(inner),
        };
        Ok((database, moved_aside))
    }

    /// The state of a group; an empty one if the database knows none. Blocks on I/O.
    ///
    /// # Panics
    ///
    /// If the group is open already: a state has one writer. A store that was dropped without being closed
    /// counts as open for as long as its table is on its way down.
    pub fn group(&self, group: u64) -> Result<StateStore, StateError> {
        assert!(group > 0, "groups are numbered from 1");
        let shared = &self.inner.shared;
        let mut groups = self.inner.groups.lock();
        let earlier = groups.get(&group).and_then(Weak::upgrade);
        let open = earlier.is_some_and(|earlier| !earlier.health.is_closed());
        assert!(!open, "group {group} is open already");
        // Whoever closed an earlier store after a failure may have left something behind.
        shared.health.check()?;
        let number = shared.catalogue.lock().generation_or_first(group);
        let generation =
            Generation::new(shared.engine.clone(), shared.garbage.clone(), group, number);
        let mark = read_mark(&shared.dir, &generation)?;
        let store = StateStore::new(self.inner.clone(), group, generation, mark);
        groups.insert(group, Arc::downgrade(store.shared()));
        Ok(store)
    }

    /// The groups that the database knows a state of.
    pub fn groups(&self) -> Vec<u64> {
        let catalogue = self.inner.shared.catalogue.lock();
        catalogue.groups().map(|(group, _)| group).collect()
    }

    /// Forgets the state of a group that nobody writes to any more; its space comes back by and by.
    /// Blocks on I/O.
    pub fn drop_group(&self, store: StateStore) -> Result<(), StateError> {
        let shared = &self.inner.shared;
        let base = store.shared().base();
        let (group, number) = (base.group(), base.number());
        store.shared().close();
        // Whoever loads a replacement notices, and does not commit it.
        drop(store.shared().replacing.lock());
        shared.tick();
        let records = vec![
            catalogue::no_current(group),
            catalogue::garbage(group, number),
        ];
        shared.change(records, |catalogue| {
            catalogue.remove_current(group);
            catalogue.add_garbage(group, number);
        })?;
        base.retire();
        Ok(())
    }

    /// Bytes of memory in the tables of all groups.
    pub fn table_bytes(&self) -> u64 {
        let budget = &self.inner.shared.budget;
        budget.active.load(Ordering::Relaxed) + budget.frozen.load(Ordering::Relaxed)
    }

    /// Has all tables cut as soon as they can be, though they are neither full nor old; does not wait.
    pub fn flush_soon(&self) {
        self.inner.shared.queue.lock().pressed = true;
        self.inner.shared.work.notify_one();
    }

    /// Has the next opening move the database aside: a read met damage. Blocks on I/O.
    pub fn start_over_next_time(&self, reason: &str) -> std::io::Result<()> {
        mark_damaged(&self.inner.shared.dir, reason)
    }
}

/// Starts a thread of the database. If it panics, that ends the database: somebody waits for it.
fn spawn(
    name: &'static str,
    shared: Arc<Shared>,
    run: fn(&Shared),
) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        let panic = catch_unwind(AssertUnwindSafe(|| run(&shared))).err();
        let Some(panic) = panic else { return };
        shared
            .health
            .poison(&StateError::Engine(EngineError::Panicked {
                path: shared.dir.clone(),
                reason: format!("the thread {name}: {}", panic_message(&*panic)),
            }));
        shared.tick();
    };
    std::thread::Builder::new().name(name.into()).spawn(run)
}

/// Reads the catalogue and looks at the mark of every group.
fn read(dir: &Path, engine: &dyn Engine) -> Result<Catalogue, StateError> {
    let damaged = |reason| {
        StateError::Engine(EngineError::Corrupt {
            path: dir.to_path_buf(),
            reason,
        })
    };
    let catalogue = Catalogue::read(engine)?.map_err(damaged)?;
    for (group, number) in catalogue.groups() {
        let mark = engine.get(&Prefix::new(group, number).key(MARK_KEY))?;
        if mark.is_some_and(|mark| Mark::decode(mark).is_none()) {
            let reason = format!("the applied mark of group {group} cannot be read");
            return Err(damaged(reason));
        }
    }
    Ok(catalogue)
}

fn read_mark(dir: &Path, generation: &Generation) -> Result<Option<Mark>, StateError> {
    let Some(value) = generation.get(MARK_KEY)? else {
        return Ok(None);
    };
    let mark = Mark::decode(value).ok_or_else(|| EngineError::Corrupt {
        path: dir.to_path_buf(),
        reason: "the applied mark cannot be read".into(),
    })?;
    Ok(Some(mark))
}

const _: () = assert!(FIRST > 0, "the catalogue's prefix is no generation's");
