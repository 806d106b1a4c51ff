//! The engine trait: what the state store asks of the thing that keeps a checkpoint on disk.
//!
//! The Raft log is the only write-ahead log, so an engine is never written for one request. It takes
//! large sorted batches, each the difference between two applied positions, and is told when to make
//! them durable. That is why the trait is small, and why one engine can be exchanged for another.
//!
//! What an engine promises:
//! - [`Engine::apply_batch`] is all or nothing across a crash, whatever the size of the batch;
//! - when [`Engine::sync`] has returned `Ok`, every earlier batch survives the loss of power;
//! - a batch that was not synced may be lost, but only as a suffix: a later batch never outlives an
//!   earlier one.
//!
//! What it does not promise: a scan is not a snapshot. While a batch is going in, a reader may see
//! some of its records. Records that matter to readers are versioned, and a store keeps the batch's
//! table in front of the engine until the batch is durable.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// A key, and its new value or `None` to delete.
pub type Change = (Bytes, Option<Bytes>);

/// A sorted batch. Keys are unique, ascending, not empty.
pub type Batch = Vec<Change>;

/// A scan over an engine: ascending, ends after the first error.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

/// Ordered records on disk.
pub trait Engine: Send + Sync {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Records of `[start, end)`, ascending. Empty when `start >= end`.
    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a>;

    /// Applies the whole batch, atomically across a crash. Called by one thread at a time.
    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError>;

    /// [`Engine::apply_batch`] for changes that come one by one, for an engine that needs no list of them.
    fn apply_sorted(&self, changes: &mut dyn Iterator<Item = Change>) -> Result<(), EngineError> {
        self.apply_batch(changes.collect())
    }

    /// Adds records without the promise of atomicity: what nobody reads before it is complete, and what
    /// is thrown away after a crash. May be called beside [`Engine::apply_batch`].
    fn load(&self, batch: Batch) -> Result<(), EngineError> {
        self.apply_batch(batch)
    }

    /// Begins to add records in ascending order, however many, as one thing: they are there when it is finished.
    /// Otherwise as [`Engine::load`]. `None` from an engine that takes batches only.
    fn begin_load(&self) -> Result<Option<Box<dyn Load + '_>>, EngineError> {
        Ok(None)
    }

    /// Gives back at once the files that hold nothing but records of `[start, end)`, which nobody reads or
    /// writes any more. What other files hold of them is left for batches to delete. Nothing, where files
    /// hold records of any range.
    fn release(&self, _start: &[u8], _end: &[u8]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Makes everything applied so far durable.
    fn sync(&self) -> Result<(), EngineError>;

    /// Bytes the database takes on its medium.
    fn disk_bytes(&self) -> Result<u64, EngineError>;

    /// About how many of these are for records of `[start, end)`. All of them, from an engine that cannot tell.
    fn range_bytes(&self, _start: &[u8], _end: &[u8]) -> Result<u64, EngineError> {
        self.disk_bytes()
    }
}

/// Records on their way into an engine. Dropped without being finished, none of them is there, and what was
/// written of them may take up room until the next opening.
pub trait Load {
    /// Adds a record, behind all that came before.
    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<(), EngineError>;

    /// Puts everything in; durable as a batch is.
    fn finish(self: Box<Self>) -> Result<(), EngineError>;
}

/// Opens or creates the database of one directory.
pub trait OpenEngine: Send + Sync {
    /// What the engine is called in the configuration, and in the directory of what it made.
    fn name(&self) -> &'static str;

    /// Opens the database in `dir`, which exists, creating it when the directory holds none.
    ///
    /// [`EngineError::Corrupt`] and [`EngineError::Panicked`] mean that the contents are of no use
    /// and another attempt will not help; [`EngineError::Io`] is a failure of the surroundings
    /// (permission, space, a lock held by another process) that says nothing about the contents.
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError>;
}

/// A failure of an engine. All are fatal for the store above: none is cured by trying again.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// File or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The contents of the database are damaged.
    #[error("{path}: damaged: {reason}", path = path.display())]
    Corrupt {
        /// File or directory concerned.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The engine panicked.
    #[error("{path}: the storage engine panicked: {reason}", path = path.display())]
    Panicked {
        /// Directory of the database.
        path: PathBuf,
        /// Message of the panic.
        reason: String,
    },
    /// A fault put there by a test.
    #[error("injected fault: {0}")]
    Injected(&'static str),
}

impl EngineError {
    /// An [`EngineError::Io`] about `path`.
    pub fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        EngineError::Io {
            path: path.into(),
            source,
        }
    }

    /// True if the database itself is of no use, false if only this attempt failed.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            EngineError::Corrupt { .. } | EngineError::Panicked { .. }
        )
    }
}

/// Bytes that the files below `dir` take on disk; a file that vanishes meanwhile counts nothing.
pub(super) fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;

    let mut total = 0;
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                // st_blocks counts 512-byte units whatever the block size of the file system.
                Ok(metadata) => total += metadata.blocks() * 512,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(total)
}
