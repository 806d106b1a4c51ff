//! An engine in memory, for tests: ordered, atomic, and as durable as the process.
//!
//! A [`MemoryDisk`] plays the part of the medium. It keeps the contents of every directory opened
//! through it, so a store can be closed and opened again within one test. A file in the directory
//! stands for the contents: a directory that was removed and made again is empty.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::engine::{Batch, Engine, EngineError, OpenEngine, Scan};

/// Sorted contents of one database.
type Records = BTreeMap<Bytes, Bytes>;

/// How many records a scan copies under the lock at a time.
const SCAN_RECORDS_MAX: usize = 256;

/// A medium that lives as long as its last clone.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    databases: Arc<Mutex<HashMap<PathBuf, MemoryEngine>>>,
}

impl OpenEngine for MemoryDisk {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        let mut databases = self.databases.lock();
        if is_new(dir)? {
            databases.insert(dir.to_path_buf(), MemoryEngine::default());
        }
        Ok(Box::new(
            databases.entry(dir.to_path_buf()).or_default().clone(),
        ))
    }
}

/// Marks `dir` as holding a database; true if it held none.
pub(super) fn is_new(dir: &Path) -> Result<bool, EngineError> {
    let path = dir.join("in-memory");
    match File::create_new(&path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(EngineError::io(path, e)),
    }
}

/// One database in memory; clones share the contents.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    records: Arc<RwLock<Records>>,
}

impl MemoryEngine {
    /// Replaces the contents by a copy of `records`.
    pub(super) fn reset(&self, records: &Records) {
        *self.records.write() = records.clone();
    }
}

/// Puts a batch into sorted contents.
pub(super) fn merge(records: &mut Records, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => records.insert(key.clone(), value.clone()),
            None => records.remove(key),
        };
    }
}

fn bytes<'a>(records: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> u64 {
    records
        .map(|(key, value)| (key.len() + value.len()) as u64)
        .sum()
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.records.read().get(key).cloned())
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        Box::new(MemoryScan {
            engine: self,
            next: Bytes::copy_from_slice(start),
            end: Bytes::copy_from_slice(end),
            buffered: Vec::new().into_iter(),
        })
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        merge(&mut self.records.write(), &batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(bytes(self.records.read().iter()))
    }

    fn range_bytes(&self, start: &[u8], end: &[u8]) -> Result<u64, EngineError> {
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        Ok(bytes(self.records.read().range::<[u8], _>(bounds)))
    }
}

/// Copies a few records at a time, so that the lock is not held between items.
struct MemoryScan<'a> {
    engine: &'a MemoryEngine,
    next: Bytes,
    end: Bytes,
    buffered: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl Iterator for MemoryScan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.buffered.next() {
            return Some(Ok(record));
        }
        if self.next >= self.end {
            return None;
        }
        let records = self.engine.records.read();
        let batch: Vec<_> = records
            .range(self.next.clone()..self.end.clone())
            .take(SCAN_RECORDS_MAX)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        drop(records);
        match batch.last() {
            // The least key above `last`.
            Some((last, _)) => self.next = [last.as_ref(), &[0]].concat().into(),
            None => self.next = self.end.clone(),
        }
        self.buffered = batch.into_iter();
        self.buffered.next().map(Ok)
    }
}
