//! sled as the checkpoint engine.
//!
//! sled 0.34 is used for what it does well (ordered records larger than memory, written by large
//! sorted batches, quick to open) and kept away from what it does badly:
//!
//! - **Its atomic batch is not used.** `Tree::apply_batch` takes a lock that is one for the whole
//!   process: every read of every database waits, seconds for a table's worth of records, and all
//!   garbage of the batch is kept until its end (measured: 5 GiB for 50,000 records of 300 bytes).
//!   A batch is made atomic here instead, by a redo file that is durable before the first record goes
//!   in; the records are then inserted one by one, beside readers.
//! - **Its flush is not enough.** It ends in `sync_file_range`, which does not survive the loss of
//!   power; [`SledEngine::sync`] adds `fdatasync` on the database file, and `fsync` on the files it
//!   keeps large pages in, with their directory.
//! - **It can panic**, on opening a damaged database above all. Every call is guarded; a panic is an
//!   error like any other.
//!
//! ```text
//!   apply_batch   redo file: batch n, fdatasync ─▶ sled: begun = n ─▶ records ─▶ done = n
//!   sync          sled flush ─▶ fdatasync(db) ─▶ fsync(new blobs)       the redo file may be reused
//!   open          batch done + 1 from the redo file again, if it is there, whole: puts and deletes of
//!                 single records, so what went in before does no harm
//! ```
//!
//! sled recovers a prefix of its log, so a batch of which any record survived has `begun` set; and the
//! redo file of that batch was durable before. So a begun batch that the redo file does not hold whole
//! is damage, never passed over. And so is a redo file that is more than one batch ahead: sled cuts its
//! log at whatever it cannot read, and would present an old state as if it were the last.

mod redo;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;

use self::redo::RedoFile;
use super::engine::{Batch, Engine, EngineError, OpenEngine, Scan, allocated_bytes};
use super::guard::guarded;
use crate::limits;

/// Pages are written inline up to a quarter of a segment, larger ones as a file each. A page holds up
/// to 16 records, so at 2 MiB values of about 30 KiB still stay inline. sled cannot change the size of
/// an existing database.
const SEGMENT_BYTES: usize = 2 * 1024 * 1024;

/// Tree of the engine's own records, apart from the data.
const BATCHES: &str = "holdfast.batches";
const BEGUN: &[u8] = b"begun";
const DONE: &[u8] = b"done";

/// How to open sled databases.
#[derive(Clone, Debug)]
pub struct Sled {
    /// Page cache of one database, in bytes. sled goes over it for the time of a batch.
    pub cache_bytes: u64,
}

impl Default for Sled {
    fn default() -> Self {
        Sled {
            cache_bytes: 64 * 1024 * 1024,
        }
    }
}

impl OpenEngine for Sled {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(SledEngine::open(dir, self)?))
    }
}

/// One open sled database.
///
/// - At most one batch is in the database without being durable, and the redo file holds it.
/// - `done` in the database is the number of the last batch whose records are all in.
pub struct SledEngine {
    dir: PathBuf,
    db: sled::Db,
    batches: sled::Tree,
    /// sled's data file, opened again: sled lends its own handle to nobody.
    file: File,
    /// Only `apply_batch`, `load` and `sync` take it; readers never do.
    writer: Mutex<Writer>,
}

struct Writer {
    redo: RedoFile,
    done: u64,
    /// A batch is in that is not yet durable.
    unsynced: bool,
    /// Files of large pages known to be durable.
    synced_blobs: HashSet<OsString>,
}

impl SledEngine {
    /// Opens or creates the database in `dir` and completes the batch that a crash cut short.
    pub fn open(dir: &Path, options: &Sled) -> Result<Self, EngineError> {
        let db = open_database(dir, options)?;
        let engine = guarded(dir, || {
            let batches = db.open_tree(BATCHES).map_err(failed(dir))?;
            let path = dir.join("db");
            let file = File::open(&path).map_err(|e| EngineError::io(&path, e))?;
            let begun = read_counter(dir, &batches, BEGUN)?;
            let done = read_counter(dir, &batches, DONE)?;
            let redo = RedoFile::open(dir)?;
            let writer = Writer {
                redo,
                done,
                unsynced: true,
                synced_blobs: HashSet::new(),
            };
            let engine = SledEngine {
                dir: dir.to_path_buf(),
                db,
                batches,
                file,
                writer: Mutex::new(writer),
            };
            engine.complete(begun)?;
            Ok(engine)
        })?;
        // sled creates its files without making their names durable.
        let conf = dir.join("conf");
        fsync(&conf)?;
        fsync(dir)?;
        Ok(engine)
    }

    /// Puts in the batch that a crash cut short, if there is one.
    fn complete(&self, begun: u64) -> Result<(), EngineError> {
        let mut writer = self.writer.lock();
        let due = writer.done + 1;
        let damaged = |reason| EngineError::Corrupt {
            path: self.dir.clone(),
            reason,
        };
        if begun != writer.done && begun != due {
            return Err(damaged(format!(
                "batch {begun} was begun, {} was done",
                writer.done
            )));
        }
        let written = writer.redo.number()?;
        if written > due {
            // Batch `written` was not written down before the one before it was durable.
            let done = writer.done;
            return Err(damaged(format!(
                "ends at batch {done}, but {} was durable",
                written - 1
            )));
        }
        let batch = match writer.redo.read(due) {
            Ok(batch) => batch,
            // None was written, or the crash came while it was.
            Err(error) if begun != due && error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        tracing::info!(path = %self.dir.display(), records = batch.len(), "completing a batch that was cut short");
        self.batches
            .insert(BEGUN, &due.to_be_bytes())
            .map_err(failed(&self.dir))?;
        self.insert(batch)?;
        self.batches
            .insert(DONE, &due.to_be_bytes())
            .map_err(failed(&self.dir))?;
        writer.done = due;
        self.sync_locked(&mut writer)
    }

    fn insert(&self, batch: Batch) -> Result<(), EngineError> {
        for (key, value) in batch {
            match value {
                Some(value) => self.db.insert(&key, &*value),
                None => self.db.remove(&key),
            }
            .map_err(failed(&self.dir))?;
        }
        Ok(())
    }

    fn sync_locked(&self, writer: &mut Writer) -> Result<(), EngineError> {
        self.db.flush().map_err(failed(&self.dir))?;
        self.file
            .sync_data()
            .map_err(|e| EngineError::io(self.dir.join("db"), e))?;
        self.sync_blobs(writer)?;
        writer.unsynced = false;
        Ok(())
    }

    /// sled writes pages too large for a segment as files of their own and never syncs them.
    fn sync_blobs(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let dir = self.dir.join("blobs");
        let mut present = HashSet::new();
        let mut new = false;
        for entry in std::fs::read_dir(&dir).map_err(|e| EngineError::io(&dir, e))? {
            let name = entry.map_err(|e| EngineError::io(&dir, e))?.file_name();
            if !writer.synced_blobs.contains(&name) {
                match fsync(&dir.join(&name)) {
                    // Superseded and removed since the listing.
                    Err(EngineError::Io { source, .. })
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        continue;
                    }
                    result => result?,
                }
                new = true;
            }
            present.insert(name);
        }
        if new {
            fsync(&dir)?;
        }
        writer.synced_blobs = present;
        Ok(())
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        guarded(&self.dir, || {
            Ok(self.db.get(key).map_err(failed(&self.dir))?.map(to_bytes))
        })
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let mut range = self.db.range(start.to_vec()..end.to_vec());
        let mut ended = false;
        Box::new(std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let item = guarded(&self.dir, || {
                range.next().transpose().map_err(failed(&self.dir))
            });
            ended = !matches!(item, Ok(Some(_)));
            Some(
                item.transpose()?
                    .map(|(key, value)| (to_bytes(key), to_bytes(value))),
            )
        }))
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        debug_assert!(
            batch.is_sorted_by(|a, b| a.0 < b.0),
            "a batch is sorted, its keys unique"
        );
        let mut writer = self.writer.lock();
        guarded(&self.dir, || {
            if writer.unsynced {
                // The redo file still holds the batch before, and there is only one.
                self.sync_locked(&mut writer)?;
            }
            let number = writer.done + 1;
            writer.redo.write(number, &batch)?;
            self.batches
                .insert(BEGUN, &number.to_be_bytes())
                .map_err(failed(&self.dir))?;
            writer.unsynced = true;
            self.insert(batch)?;
            self.batches
                .insert(DONE, &number.to_be_bytes())
                .map_err(failed(&self.dir))?;
            writer.done = number;
            Ok(())
        })
    }

    fn load(&self, batch: Batch) -> Result<(), EngineError> {
        let mut writer = self.writer.lock();
        writer.unsynced = true;
        guarded(&self.dir, || self.insert(batch))
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut writer = self.writer.lock();
        guarded(&self.dir, || self.sync_locked(&mut writer))
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        allocated_bytes(&self.dir).map_err(|e| EngineError::io(&self.dir, e))
    }
}

/// sled panics when it is opened on a machine whose clock stands before 1970, and a panic is taken for
/// damage: the database would be moved aside.
fn check_clock(dir: &Path, now: SystemTime) -> Result<(), EngineError> {
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(before) => Err(EngineError::io(
            dir,
            io::Error::other(format!(
                "the clock of this machine stands {} s before 1970-01-01, and no database can be \
                 opened then; set the clock and start the node again (nothing was changed)",
                before.duration().as_secs()
            )),
        )),
    }
}

fn open_database(dir: &Path, options: &Sled) -> Result<sled::Db, EngineError> {
    check_clock(dir, SystemTime::now())?;
    let deadline = Instant::now() + limits::SLED_LOCK_WAIT_MAX;
    loop {
        let opened = guarded(dir, || {
            sled::Config::new()
                .path(dir)
                .cache_capacity(options.cache_bytes)
                .segment_size(SEGMENT_BYTES)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None)
                .open()
                .map_err(failed(dir))
        });
        match opened {
            Err(EngineError::Io { source, .. })
                if source.to_string().contains("could not acquire lock")
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn read_counter(dir: &Path, tree: &sled::Tree, key: &[u8]) -> Result<u64, EngineError> {
    let Some(value) = tree.get(key).map_err(failed(dir))? else {
        return Ok(0);
    };
    let value = value
        .as_ref()
        .try_into()
        .map_err(|_| EngineError::Corrupt {
            path: dir.to_path_buf(),
            reason: format!("a batch counter of {} bytes", value.len()),
        })?;
    Ok(u64::from_be_bytes(value))
}

/// sled's errors in ours: what tells of the contents, and what only of the surroundings.
fn failed(dir: &Path) -> impl Fn(sled::Error) -> EngineError + '_ {
    move |error| match error {
        sled::Error::Io(source) => match source.kind() {
            // A file of the database that is missing or ends too early.
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
            reason: error.to_string(),
        },
    }
}

fn to_bytes(value: sled::IVec) -> Bytes {
    if value.len() < limits::SLED_SHARED_VALUE_BYTES_MIN {
        Bytes::copy_from_slice(&value)
    } else {
        Bytes::from_owner(value)
    }
}

fn fsync(path: &Path) -> Result<(), EngineError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| EngineError::io(path, e))
}

#[cfg(test)]
mod tests;
