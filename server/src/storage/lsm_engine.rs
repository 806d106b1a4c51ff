//! `lsm-tree` as the checkpoint engine: the tree under fjall, without a journal.
//!
//! The Raft log is the journal here, and a frozen table is already sorted, so a batch needs neither the
//! tree's memory table nor a write-ahead log: it is written as sorted tables of its own and takes effect
//! when the list of tables is exchanged.
//!
//! ```text
//!   apply_batch   sorted tables, fsync ─▶ new list of tables, fsync ─▶ current, renamed, fsync
//!   sync          nothing: all of it was durable before
//!   compaction    one thread, one compaction at a time: the oldest runs into the level below
//! ```
//!
//! What is kept away from:
//! - more than one compaction at a time (fjall issue 230), `clear` (fjall 287, lsm-tree 286), separation
//!   of values from keys, FIFO compaction (lsm-tree 310);
//! - keys over 64 KiB, which the tree cannot hold: long keys live in buckets, see [`long_keys`];
//! - panics: every call is guarded, as with sled.
//!
//! Every block carries a checksum that is verified when it is read, so damage is an error of the read
//! that meets it.

mod compaction;
mod long_keys;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lsm_tree::{
    AbstractTree as _, AnyTree, Cache, Config, DescriptorTable, Guard as _, SeqNo,
    SequenceNumberCounter, Slice,
};
use parking_lot::Mutex;

use self::compaction::Compactor;
use super::engine::{Batch, Engine, EngineError, OpenEngine, Scan, allocated_bytes, remove_each};
use super::guard::guarded;

/// Values from this size on are handed out as the block cache holds them; smaller ones are copied,
/// because a value shares its memory with the whole block around it.
const SHARED_VALUE_BYTES_MIN: usize = 4 * 1024;

/// Reads see the newest tables there are.
const NEWEST: SeqNo = SeqNo::MAX;

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
            let first = tree.get_highest_seqno().map_or(0, |seqno| seqno + 1);
            next.fetch_max(first);
            visible.fetch_max(first);
            let compactor = Compactor::start(dir, tree.clone(), visible, stop)
                .map_err(|e| EngineError::io(dir, e))?;
            Ok(LsmEngine {
                compactor,
                dir: dir.to_path_buf(),
                tree,
                writer: Mutex::new(()),
            })
        })
    }

    fn ingest(&self, batch: Batch) -> Result<(), EngineError> {
        debug_assert!(
            batch.is_sorted_by(|a, b| a.0 < b.0),
            "a batch is sorted, its keys unique"
        );
        if batch.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.writer.lock();
        self.compactor.wait_for_room(&self.tree)?;
        let failed = failed(&self.dir);
        guarded(&self.dir, || {
            let batch = long_keys::gather(batch, |bucket| self.get_short(bucket))?;
            let mut ingestion = self.tree.ingestion().map_err(&failed)?;
            for (key, value) in batch {
                let key = Slice::from(key);
                match value {
                    Some(value) => ingestion.write(key, Slice::from(value)),
                    None => ingestion.write_tombstone(key),
                }
                .map_err(&failed)?;
            }
            ingestion.finish().map_err(&failed)
        })?;
        self.compactor.wake();
        Ok(())
    }

    fn get_short(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.tree.get(key, NEWEST).map_err(failed(&self.dir))?;
        Ok(found.map(to_bytes))
    }
}

impl Engine for LsmEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        guarded(&self.dir, || match long_keys::bucket_of(key) {
            None => self.get_short(key),
            Some(bucket) => match self.get_short(bucket)? {
                Some(records) => long_keys::find(bucket, records, key),
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
            Ok(self
                .tree
                .range((Bound::Included(first), last), NEWEST, None))
        });
        let mut records = match opened {
            Ok(records) => records,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let records = std::iter::from_fn(move || {
            guarded(&self.dir, || {
                let Some(record) = records.next() else {
                    return Ok(None);
                };
                let (key, value) = record.into_inner().map_err(failed(&self.dir))?;
                Ok(Some((to_bytes(key), to_bytes(value))))
            })
            .transpose()
        });
        Box::new(long_keys::spread(records, start, end))
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        self.ingest(batch)
    }

    fn remove_range(
        &self,
        start: &[u8],
        end: &[u8],
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, EngineError> {
        // Tables that hold nothing else go at once; what is left is deleted like anything else.
        guarded(&self.dir, || {
            let range = Slice::from(start)..Slice::from(end);
            self.tree.drop_range(range).map_err(failed(&self.dir))
        })?;
        remove_each(self, start, end, stop)
    }

    /// Nothing is left to do: a batch is durable when it is applied. Tells what compaction met.
    fn sync(&self) -> Result<(), EngineError> {
        self.compactor.check()
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        allocated_bytes(&self.dir).map_err(|e| EngineError::io(&self.dir, e))
    }
}

/// The tree's errors in ours: what tells of the contents, and what only of the surroundings.
fn failed(dir: &Path) -> impl Fn(lsm_tree::Error) -> EngineError + '_ {
    move |error| match error {
        lsm_tree::Error::Io(source) => match source.kind() {
            // A file of the tree that is missing or ends too early.
            io::ErrorKind::NotFound
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput => EngineError::Corrupt {
                path: dir.to_path_buf(),
                reason: source.to_string(),
            },
            _ => EngineError::io(dir, source),
        },
        error => EngineError::Corrupt {
            path: dir.to_path_buf(),
            reason: format!("{error:?}"),
        },
    }
}

fn to_bytes(slice: Slice) -> Bytes {
    if slice.len() < SHARED_VALUE_BYTES_MIN {
        Bytes::copy_from_slice(&slice)
    } else {
        slice.into()
    }
}
