//! Records on their way into a tree: tables are written while they come, and are there when all have come.
//!
//! ```text
//!   write ─▶ the table being written ─full─▶ table, fsync          nobody knows of them: a crash leaves files
//!   finish ─▶ last table, fsync ─▶ new list of tables, fsync       that the next opening removes
//! ```
//!
//! Whatever their number, there is one list of tables more and one run to merge, and memory holds the blocks
//! and the index of one table.

use bytes::Bytes;
use lsm_tree::{AnyIngestion, Slice};

use super::long_keys::Gathering;
use super::{LsmEngine, failed};
use crate::storage::engine::{EngineError, Load};
use crate::storage::guard::guarded;

pub(super) struct TreeLoad<'a> {
    engine: &'a LsmEngine,
    ingestion: AnyIngestion<'a>,
    long_keys: Gathering,
    /// Only looked at where assertions are on.
    last: Bytes,
}

impl<'a> TreeLoad<'a> {
    /// Waits while too many runs lie unmerged.
    pub(super) fn begin(engine: &'a LsmEngine) -> Result<Self, EngineError> {
        let ingestion = guarded(&engine.dir, || {
            engine.compactor.wait_for_room(&engine.tree)?;
            engine.tree.ingestion().map_err(failed(&engine.dir))
        })?;
        Ok(TreeLoad {
            engine,
            ingestion,
            long_keys: Gathering::default(),
            last: Bytes::new(),
        })
    }
}

/// Writes what [`Gathering`] gives.
fn put<'a>(
    engine: &'a LsmEngine,
    ingestion: &'a mut AnyIngestion<'_>,
) -> impl FnMut(Bytes, Option<Bytes>) -> Result<(), EngineError> + 'a {
    move |key, value| {
        let key = Slice::from(key);
        match value {
            Some(value) => ingestion.write(key, Slice::from(value)),
            None => ingestion.write_tombstone(key),
        }
        .map_err(failed(&engine.dir))
    }
}

impl Load for TreeLoad<'_> {
    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<(), EngineError> {
        debug_assert!(
            self.last < key,
            "changes are sorted, their keys unique and not empty"
        );
        if cfg!(debug_assertions) {
            self.last = key.clone();
        }
        let Self {
            engine,
            ingestion,
            long_keys,
            ..
        } = self;
        guarded(&engine.dir, || {
            let read = |bucket: &[u8]| engine.get_short(bucket);
            long_keys.push((key, value), &engine.dir, read, put(engine, ingestion))
        })
    }

    fn finish(self: Box<Self>) -> Result<(), EngineError> {
        let Self {
            engine,
            mut ingestion,
            mut long_keys,
            ..
        } = *self;
        guarded(&engine.dir, || {
            long_keys.end(put(engine, &mut ingestion))?;
            ingestion.finish().map_err(failed(&engine.dir))?;
            engine.reads.renew(&engine.tree);
            Ok(())
        })?;
        engine.compactor.wake();
        Ok(())
    }
}
