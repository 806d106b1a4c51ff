//! Replacing the whole state: a snapshot goes into a fresh generation, which then takes over.
//!
//! ```text
//!   new generation ◀─ batches of records ─ build()          readers still see the old one
//!                  ◀─ sync, mark, sync
//!   CURRENT names it                                         from here on a restart finds it
//!   layers: empty table + new generation                     from here on readers see it
//!   the old generation's files go with its last reader
//! ```

use std::sync::Arc;

use bytes::Bytes;
use holdfast_mvcc::Write;

use super::generations::Generation;
use super::table::Table;
use super::view::Layers;
use super::{MARK_KEY, Mark, StateError, StateStore};
use crate::storage::engine::Batch;

/// Fills a fresh generation.
///
/// - Holds at most `load_bytes_max` of records and those of one call.
pub struct Loader<'a> {
    generation: &'a Generation,
    bytes_max: u64,
    pending: Batch,
    pending_bytes: u64,
    mark: Option<(u64, Bytes)>,
}

impl Loader<'_> {
    /// Adds records. Ascending keys are fastest; of two writes to one key the later counts. Blocks on
    /// I/O now and then.
    pub fn write(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<(), StateError> {
        for Write { key, value } in writes {
            assert!(
                key != MARK_KEY,
                "the key of the applied mark belongs to the store"
            );
            self.pending_bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            self.pending.push((key, value));
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

    fn pass_on(&mut self) -> Result<(), StateError> {
        let mut batch = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
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
        Ok(self.generation.engine().load(batch)?)
    }

    fn finish(mut self) -> Result<Mark, StateError> {
        let (index, record) = self.mark.take().ok_or(StateError::Unmarked)?;
        self.pass_on()?;
        let engine = self.generation.engine();
        engine.sync()?;
        let mark = Mark {
            index,
            record,
            sequence: 0,
        };
        engine.apply_batch(vec![(Bytes::from_static(MARK_KEY), Some(mark.encode()))])?;
        engine.sync()?;
        Ok(mark)
    }
}

impl StateStore {
    /// Replaces the state by what `build` loads. Blocks on I/O throughout.
    ///
    /// Nothing may be written to the store meanwhile; what was written before is given up with the old
    /// state. If `build` fails, the store is as it was. Views taken before keep showing the old state.
    pub fn replace<E: From<StateError>>(
        &self,
        build: impl FnOnce(&mut Loader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let shared = &self.inner.shared;
        shared.health.check()?;
        let mut generations = shared.generations.lock();
        let generation = generations.begin(&*shared.options.engine)?;
        let loaded = {
            let mut loader = Loader {
                generation: &generation,
                bytes_max: shared.options.load_bytes_max,
                pending: Vec::new(),
                pending_bytes: 0,
                mark: None,
            };
            build(&mut loader).and_then(|()| Ok(loader.finish()?))
        };
        let mark = match loaded {
            Ok(mark) => mark,
            Err(error) => {
                generation.retire();
                return Err(error);
            }
        };
        if let Err(error) = generations.commit(&generation) {
            // Whether CURRENT names the new generation after a crash is not known.
            shared.health.poison(&error);
            shared.tick();
            return Err(error.into());
        }

        let mut writer = shared.writer.lock();
        let sequence = writer.mark.as_ref().map_or(0, |mark| mark.sequence) + 1;
        let index = mark.index;
        writer.active = Arc::new(Table::default());
        writer.active_since = None;
        writer.clean = true;
        writer.frozen = None;
        writer.flushed = sequence;
        writer.mark = Some(Mark { sequence, ..mark });
        let layers = Layers {
            active: writer.active.clone(),
            frozen: None,
            base: Arc::new(generation),
            health: shared.health.clone(),
        };
        let old = std::mem::replace(&mut *shared.layers.write(), Arc::new(layers));
        old.base.retire();
        shared.durable.send_replace(index);
        drop(writer);
        shared.tick();
        Ok(())
    }
}
