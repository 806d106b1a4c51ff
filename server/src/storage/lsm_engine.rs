//! `lsm-tree` as the checkpoint engine: the tree under fjall, without a journal.
//!
//! The Raft log is the journal here, and a frozen table is already sorted, so a batch needs neither the
//! tree's memory table nor a write-ahead log: it is written as sorted tables of its own and takes effect
//! when the list of tables is exchanged.
//!
//! ```text
//!   apply_batch   sorted tables, fsync ─▶ new list of tables, fsync ─▶ current, renamed, fsync
//!   sync          nothing: all of it was durable before
//!   compaction    one thread, one compaction at a time: the oldest runs into the level below, and the
//!                 whole tree when much of it is deleted, see [`garbage`]
//! ```
//!
//! What is kept away from:
//! - more than one compaction at a time (fjall issue 230), `clear` (fjall 287, lsm-tree 286), separation
//!   of values from keys, FIFO compaction (lsm-tree 310);
//! - keys over 64 KiB, which the tree cannot hold: long keys live in buckets, see [`long_keys`];
//! - panics: every call is guarded, as with sled.
//!
//! - the tree's own reads: they wait for the disk where it syncs its list of tables, see [`reads`].
//!
//! Every block carries a checksum that is verified when it is read, so damage is an error of the read
//! that meets it.

mod compaction;
mod garbage;
mod load;
mod long_keys;
mod reads;
mod size;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lsm_tree::{
    AbstractTree as _, AnyTree, Cache, Config, DescriptorTable, SequenceNumberCounter, Slice,
};
use parking_lot::Mutex;

use self::compaction::Compactor;
use self::load::TreeLoad;
use self::reads::Reads;
use super::engine::{Batch, Change, Engine, EngineError, Load, OpenEngine, Scan, allocated_bytes};
use super::guard::guarded;
use crate::limits;

/// How to open trees. What is opened through one of these, or its clones, shares its caches.
#[derive(Clone)]
pub struct Lsm {
    cache: Arc<Cache>,
    descriptors: Arc<DescriptorTable>,
}

impl Lsm {
    /// Trees that together keep `cache_bytes` of blocks in memory and `files_max` files open.
    pub fn new(cache_bytes: u64, files_max: usize) -> Self {
        Lsm {
            cache: Arc::new(Cache::with_capacity_bytes(cache_bytes)),
            descriptors: Arc::new(DescriptorTable::new(files_max)),
        }
    }
}

impl Default for Lsm {
    fn default() -> Self {
        Lsm::new(64 * 1024 * 1024, 128)
    }
}

impl OpenEngine for Lsm {
    fn name(&self) -> &'static str {
        "lsm-tree"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(LsmEngine::open(dir, self)?))
    }
}

/// One open tree.
///
/// - The tree's own memory table stays empty: records come in as tables.
/// - Dropped, it has stopped its compaction: nobody writes to the directory any more.
pub struct LsmEngine {
    // Dropped first: it works on the tree.
    compactor: Compactor,
    dir: PathBuf,
    tree: AnyTree,
    reads: Arc<Reads>,
    /// One batch at a time.
    writer: Mutex<()>,
}

impl LsmEngine {
    /// Opens or creates the tree in `dir`.
    pub fn open(dir: &Path, options: &Lsm) -> Result<Self, EngineError> {
        guarded(dir, || {
            let (next, visible) = (
                SequenceNumberCounter::default(),
                SequenceNumberCounter::default(),
            );
            let config = Config::new(dir, next.clone(), visible.clone())
                .use_cache(options.cache.clone())
                .use_descriptor_table(Some(options.descriptors.clone()));
            let stop = compaction::Stop::default();
            let config = config.with_compaction_filter_factory(Some(stop.factory()));
            let tree = config.open().map_err(failed(dir))?;
            // What a killed process renamed may not be durable yet.
            for path in [dir.join("current"), dir.to_path_buf()] {
                let synced = File::open(&path).and_then(|file| file.sync_all());
                synced.map_err(|e| EngineError::io(&path, e))?;
            }
            let first = tree.get_highest_seqno().map_or(0, |seqno| seqno + 1);
            next.fetch_max(first);
            visible.fetch_max(first);
            let reads = Arc::new(Reads::of(&tree));
            let compactor = Compactor::start(dir, tree.clone(), reads.clone(), visible, stop)
                .map_err(|e| EngineError::io(dir, e))?;
            Ok(LsmEngine {
                compactor,
                dir: dir.to_path_buf(),
                tree,
                reads,
                writer: Mutex::new(()),
            })
        })
    }

    fn ingest(&self, changes: &mut dyn Iterator<Item = Change>) -> Result<(), EngineError> {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return Ok(());
        }
        let _one_at_a_time = self.writer.lock();
        let mut load = TreeLoad::begin(self)?;
        for (key, value) in changes {
            load.write(key, value)?;
        }
        Box::new(load).finish()
    }

    fn get_short(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.reads.get(key).map_err(failed(&self.dir))?;
        Ok(found.map(to_bytes))
    }
}

impl Engine for LsmEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        guarded(&self.dir, || match long_keys::bucket_of(key) {
            None => self.get_short(key),
            Some(bucket) => match self.get_short(bucket)? {
                Some(records) => long_keys::find(bucket, records, key, &self.dir),
                None => Ok(None),
            },
        })
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let first = Slice::from(long_keys::bucket_of(start).unwrap_or(start));
        let last = match long_keys::bucket_of(end) {
            Some(bucket) => Bound::Included(Slice::from(bucket)),
            None => Bound::Excluded(Slice::from(end)),
        };
        let opened = guarded(&self.dir, || {
            Ok(self.reads.range((Bound::Included(first), last)))
        });
        let mut records = match opened {
            Ok(records) => records,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let records = std::iter::from_fn(move || {
            guarded(&self.dir, || {
                let record = records.next().transpose().map_err(failed(&self.dir))?;
                Ok(record.map(|(key, value)| (to_bytes(key), to_bytes(value))))
            })
            .transpose()
        });
        Box::new(long_keys::spread(records, start, end, self.dir.clone()))
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        self.ingest(&mut batch.into_iter())
    }

    fn apply_sorted(&self, changes: &mut dyn Iterator<Item = Change>) -> Result<(), EngineError> {
        self.ingest(changes)
    }

    /// Batches go in beside it, whatever its length.
    fn begin_load(&self) -> Result<Option<Box<dyn Load + '_>>, EngineError> {
        Ok(Some(Box::new(TreeLoad::begin(self)?)))
    }

    fn release(&self, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
        guarded(&self.dir, || {
            let range = Slice::from(start)..Slice::from(end);
            self.tree.drop_range(range).map_err(failed(&self.dir))?;
            self.reads.renew(&self.tree);
            Ok(())
        })?;
        // It removes the list that still names the files.
        self.compactor.wake();
        Ok(())
    }

    /// Nothing is left to do: a batch is durable when it is applied. Tells what compaction met.
    fn sync(&self) -> Result<(), EngineError> {
        self.compactor.check()
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        allocated_bytes(&self.dir).map_err(|e| EngineError::io(&self.dir, e))
    }

    fn range_bytes(&self, start: &[u8], end: &[u8]) -> Result<u64, EngineError> {
        guarded(&self.dir, || {
            size::of_range(&self.tree, start, end).map_err(failed(&self.dir))
        })
    }
}

/// The tree's errors in ours: what tells of the contents, and what only of the surroundings.
fn failed(dir: &Path) -> impl Fn(lsm_tree::Error) -> EngineError + '_ {
    move |error| match error {
        // What the system refuses says nothing of the contents, but for a file that is missing. What has
        // no code of the system is the tree's own finding: a file that ends too early, or makes no sense.
        lsm_tree::Error::Io(source) => match source.raw_os_error() {
            Some(code) if code != libc::ENOENT => EngineError::io(dir, source),
            _ => EngineError::Corrupt {
                path: dir.to_path_buf(),
                reason: source.to_string(),
            },
        },
        error => EngineError::Corrupt {
            path: dir.to_path_buf(),
            reason: format!("{error:?}"),
        },
    }
}

fn to_bytes(slice: Slice) -> Bytes {
    if slice.len() < limits::LSM_SHARED_VALUE_BYTES_MIN {
        Bytes::copy_from_slice(&slice)
    } else {
        slice.into()
    }
}
