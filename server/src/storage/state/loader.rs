//! Replacing the whole state: a snapshot goes into a fresh generation, which then takes over.
//!
//! ```text
//!   new generation, called garbage                           after a crash it is removed
//!                  ◀─ records, in order ─ build()            readers still see the old one
//!                  ◀─ sync, mark, sync
//!   Replacement: the caller looks at it
//!   commit(): the catalogue names it, and the old one is garbage: from here on a restart finds it
//!   show(): layers: empty table + new generation             from here on readers see it
//!   the old generation's records are removed after its last reader
//! ```

use std::sync::Arc;

use bytes::Bytes;
use holdfast_mvcc::Write;
use parking_lot::MutexGuard;

use super::generation::Generation;
use super::group::Shared;
use super::table::Table;
use super::view::{Layers, View};
use super::{MARK_KEY, Mark, StateError, StateStore, catalogue, database};
use crate::limits;
use crate::storage::engine::{Batch, Load};

/// The right to replace the state of a group, which one has at a time.
struct Replacing<'a> {
    shared: &'a Shared,
    lock: Option<MutexGuard<'a, ()>>,
}

impl<'a> Replacing<'a> {
    fn begin(shared: &'a Shared) -> Result<Self, StateError> {
        let lock = Some(shared.replacing.lock());
        let replacing = Replacing { shared, lock };
        // Whoever closes the store waits for those who began before.
        shared.check_not_closing()?;
        Ok(replacing)
    }
}

impl Drop for Replacing<'_> {
    fn drop(&mut self) {
        self.lock = None;
        self.shared.database.tick();
    }
}

/// Fills a fresh generation.
///
/// - Ascending records go to the engine one by one, as one run, if it takes them so. Where they begin anew at a
///   smaller key another run begins, [`limits::LOAD_RUNS_MAX`] times; after that, and for an engine that takes
///   batches only, they are collected.
/// - Holds at most `load_bytes_max` of records and those of one call.
pub struct Loader<'a> {
    shared: &'a Shared,
    database: &'a database::Shared,
    generation: &'a Generation,
    bytes_max: u64,
    run: Option<Run<'a>>,
    runs: u32,
    pending: Batch,
    /// Of `pending`, or of what went to the run since it was looked whether the store is being closed.
    pending_bytes: u64,
    mark: Option<(u64, Bytes)>,
}

/// Records on their way into the engine, the last of them with the key `last`.
struct Run<'a> {
    load: Box<dyn Load + 'a>,
    last: Bytes,
}

impl<'a> Loader<'a> {
    fn new(shared: &'a Shared, generation: &'a Generation) -> Self {
        let database = &*shared.database;
        Loader {
            shared,
            database,
            generation,
            bytes_max: database.options.load_bytes_max,
            run: None,
            runs: 0,
            pending: Batch::new(),
            pending_bytes: 0,
            mark: None,
        }
    }

    /// Adds records. Ascending keys are fastest; of two writes to one key the later counts. Blocks on
    /// I/O now and then.
    pub fn write(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<(), StateError> {
        for Write { key, value } in writes {
            assert!(
                key != MARK_KEY,
                "the key of the applied mark belongs to the store"
            );
            let key = Bytes::from(self.generation.prefix().key(&key));
            self.pending_bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            self.turn_to(&key)?;
            match &mut self.run {
                Some(run) => {
                    run.last = key.clone();
                    let load = &mut run.load;
                    self.database.call(|_| load.write(key, value))?;
                }
                None => self.pending.push((key, value)),
            }
            if self.pending_bytes >= self.bytes_max {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    /// Says which applied position the loaded state is of. Required once; written last.
    pub fn mark_applied(&mut self, index: u64, record: Bytes) {
        self.mark = Some((index, record));
    }

    /// Makes ready for a record with this key.
    fn turn_to(&mut self, key: &Bytes) -> Result<(), StateError> {
        if self.run.as_ref().is_some_and(|run| run.last < *key) {
            return Ok(());
        }
        self.end_run()?;
        if self.runs < limits::LOAD_RUNS_MAX {
            self.runs += 1;
            let load = self.database.call(|engine| engine.begin_load())?;
            self.run = load.map(|load| Run {
                load,
                last: Bytes::new(),
            });
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), StateError> {
        match self.run.take() {
            Some(run) => self.database.call(|_| run.load.finish()),
            None => Ok(()),
        }
    }

    fn pass_on(&mut self) -> Result<(), StateError> {
        self.shared.check_not_closing()?;
        self.pending_bytes = 0;
        let mut batch = std::mem::take(&mut self.pending);
        if batch.is_empty() {
            return Ok(());
        }
        if !batch.is_sorted_by(|a, b| a.0 < b.0) {
            // Stable, so the latest of equal keys is the last, and the one kept.
            batch.sort_by(|a, b| a.0.cmp(&b.0));
            batch.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(later, earlier);
                }
                same
            });
        }
        self.database.call(|engine| engine.load(batch))
    }

    fn finish(mut self) -> Result<Mark, StateError> {
        let (index, record) = self.mark.take().ok_or(StateError::Unmarked)?;
        self.end_run()?;
        self.pass_on()?;
        // Before the mark, which says that all is there.
        self.database.call(|engine| engine.sync())?;
        let mark = Mark {
            index,
            record,
            sequence: 0,
        };
        let key = self.generation.prefix().key(MARK_KEY);
        let records = vec![(key.into(), Some(mark.encode()))];
        self.database.change(records, |_| ())?;
        Ok(mark)
    }
}

impl Drop for Loader<'_> {
    fn drop(&mut self) {
        // Given up: the generation is garbage, and what is in the engine can be removed.
        let _ = self.end_run();
    }
}

/// A whole state beside the one in use, loaded and not yet seen by anybody.
///
/// - Dropped, it is gone and the store is as it was.
/// - While it lives no other replacement of the group is begun.
pub struct Replacement<'a> {
    shared: &'a Shared,
    /// Taken by commit.
    one_at_a_time: Option<Replacing<'a>>,
    /// What readers get in place of the layers in use.
    layers: Option<Arc<Layers>>,
    mark: Mark,
}

impl<'a> Replacement<'a> {
    /// A look at the loaded state.
    pub fn view(&self) -> View {
        let layers = self.layers.as_ref();
        View(layers.expect("taken by commit only").clone())
    }

    /// The record of the applied position that was loaded.
    pub fn applied_record(&self) -> Bytes {
        self.mark.record.clone()
    }

    /// Makes the loaded state the one that a restart finds. Blocks on I/O. The store is of no more
    /// use when it fails: which of the two a restart finds is not known.
    pub fn commit(mut self) -> Result<Committed<'a>, StateError> {
        self.shared.check_not_closing()?;
        let layers = self.layers.take().expect("taken by commit only");
        let (group, new) = (layers.base.group(), layers.base.number());
        let old = self.shared.base().number();
        let records = vec![
            catalogue::current(group, new),
            catalogue::no_garbage(group, new),
            catalogue::garbage(group, old),
        ];
        self.shared.database.change(records, |catalogue| {
            catalogue.set_current(group, new);
            catalogue.remove_garbage(group, new);
            catalogue.add_garbage(group, old);
        })?;
        Ok(Committed {
            shared: self.shared,
            next: Some((layers, self.mark.clone())),
            previous: None,
            _one_at_a_time: self.one_at_a_time.take(),
        })
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if let Some(layers) = &self.layers {
            layers.base.retire();
        }
    }
}

/// A state that a restart finds and that readers do not see yet: at the latest when this is dropped.
pub struct Committed<'a> {
    shared: &'a Shared,
    next: Option<(Arc<Layers>, Mark)>,
    /// The layers before; closing their files is left to the drop of this.
    previous: Option<Arc<Layers>>,
    _one_at_a_time: Option<Replacing<'a>>,
}

impl Committed<'_> {
    /// From the return of this on, views are of the new state. Fast, without I/O, and without waiting
    /// for readers: a caller may hold a lock that keeps what it knows of the state together with it.
    pub fn show(&mut self) {
        let Some((layers, mark)) = self.next.take() else {
            return;
        };
        let old = self.shared.replace(layers, mark);
        old.base.retire();
        self.previous = Some(old);
        self.shared.database.tick();
    }
}

impl Drop for Committed<'_> {
    fn drop(&mut self) {
        self.show();
    }
}

impl StateStore {
    /// Loads a whole state beside the one in use. Blocks on I/O throughout.
    ///
    /// If `build` fails, the store is as it was; if the engine does, the database has ended.
    pub fn load<E: From<StateError>>(
        &self,
        build: impl FnOnce(&mut Loader<'_>) -> Result<(), E>,
    ) -> Result<Replacement<'_>, E> {
        let shared = &**self.shared();
        shared.health.check()?;
        let one_at_a_time = Replacing::begin(shared)?;
        let database = &shared.database;
        let group = shared.id();
        let number = database.catalogue.lock().unused(group);
        // Until it is committed; a crash must not leave it unknown.
        database.change(vec![catalogue::garbage(group, number)], |catalogue| {
            catalogue.add_garbage(group, number);
        })?;
        let generation = Generation::new(
            database.engine.clone(),
            database.garbage.clone(),
            group,
            number,
        );
        let loaded = {
            let mut loader = Loader::new(shared, &generation);
            build(&mut loader).and_then(|()| Ok(loader.finish()?))
        };
        let mark = match loaded {
            Ok(mark) => mark,
            Err(error) => {
                generation.retire();
                return Err(error);
            }
        };
        let layers = Layers {
            active: Arc::new(Table::default()),
            frozen: None,
            base: Arc::new(generation),
            health: shared.health.clone(),
        };
        Ok(Replacement {
            shared,
            one_at_a_time: Some(one_at_a_time),
            layers: Some(Arc::new(layers)),
            mark,
        })
    }

    #[cfg(any(test, feature = "internals"))]
    /// Replaces the state by what `build` loads. Blocks on I/O throughout.
    ///
    /// Nothing may be written to the store meanwhile; what was written before is given up with the old
    /// state. If `build` fails, the store is as it was. Views taken before keep showing the old state.
    pub fn replace<E: From<StateError>>(
        &self,
        build: impl FnOnce(&mut Loader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.load(build)?.commit()?.show();
        Ok(())
    }
}
