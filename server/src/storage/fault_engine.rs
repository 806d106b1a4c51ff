//! An engine that fails when told to, and that loses what was not synced, for tests of crashes.
//!
//! ```text
//!   store ──▶ FaultEngine ──▶ live contents            what the running process sees
//!                    │
//!                    └──────▶ unsynced batches ─sync─▶ durable contents
//!                                     │
//!               crash: a chosen prefix survives, the rest is lost, as on a real disk
//! ```
//!
//! A crash makes every open handle useless, as the death of the process would: whatever threads of
//! the old store still do, they can no longer reach the medium. [`FaultDisk::restart`] lets the
//! directories be opened again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::engine::{Batch, Engine, EngineError, OpenEngine, Scan};
use super::memory_engine::{MemoryEngine, is_new, merge};

/// A point of the medium's life at which something goes wrong. Operations are counted from 0,
/// batches and syncs of all directories together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th operation from now fails without effect; the medium goes on.
    FailAt(u64),
    /// The power goes at the n-th operation from now. If that operation is a batch, it is lost; if
    /// it is a sync, it has not taken place. Of the unsynced batches of each directory the first
    /// `keep` survive.
    CrashAt {
        /// Operations until the crash.
        operations: u64,
        /// Unsynced batches that reach the medium all the same.
        keep: usize,
    },
}

#[derive(Default)]
struct Database {
    durable: BTreeMap<Bytes, Bytes>,
    unsynced: Vec<Batch>,
}

#[derive(Default)]
struct Medium {
    databases: HashMap<PathBuf, Database>,
    fault: Option<Fault>,
    refuse_open: Option<EngineErrorKind>,
    operations: u64,
    /// Handles opened under an earlier life are dead.
    life: u64,
    crashed: bool,
}

/// How a directory refuses to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// As damaged.
    Corrupt,
    /// By a panic within the engine.
    Panicked,
    /// By a passing failure of the surroundings.
    Io,
}

impl Medium {
    fn crash(&mut self, keep: usize) {
        for database in self.databases.values_mut() {
            for batch in std::mem::take(&mut database.unsynced).iter().take(keep) {
                merge(&mut database.durable, batch);
            }
        }
        self.crashed = true;
        self.life += 1;
        self.fault = None;
    }

    /// Counts one operation of a handle of `life` and lets the planned fault happen.
    fn operation(&mut self, life: u64) -> Result<(), EngineError> {
        if self.life != life {
            return Err(EngineError::Injected("the medium is gone"));
        }
        self.operations += 1;
        match &mut self.fault {
            Some(Fault::FailAt(0)) => {
                self.fault = None;
                return Err(EngineError::Injected("operation failed"));
            }
            Some(Fault::CrashAt {
                operations: 0,
                keep,
            }) => {
                let keep = *keep;
                self.crash(keep);
                return Err(EngineError::Injected("power lost"));
            }
            Some(Fault::FailAt(n) | Fault::CrashAt { operations: n, .. }) => *n -= 1,
            None => {}
        }
        Ok(())
    }
}

/// The medium: shared by all engines opened through it, and surviving them.
#[derive(Clone, Default)]
pub struct FaultDisk {
    medium: Arc<Mutex<Medium>>,
}

impl FaultDisk {
    /// Plans one fault, in place of the one planned before.
    pub fn plan(&self, fault: Fault) {
        self.medium.lock().fault = Some(fault);
    }

    /// The power goes now; of each directory's unsynced batches the first `keep` survive.
    pub fn crash(&self, keep: usize) {
        self.medium.lock().crash(keep);
    }

    /// The power is back: directories can be opened again.
    pub fn restart(&self) {
        let mut medium = self.medium.lock();
        medium.crashed = false;
        medium.fault = None;
    }

    /// The next opening fails in this way.
    pub fn refuse_next_open(&self, kind: EngineErrorKind) {
        self.medium.lock().refuse_open = Some(kind);
    }

    /// True between a crash and [`FaultDisk::restart`].
    pub fn is_crashed(&self) -> bool {
        self.medium.lock().crashed
    }

    /// Batches and syncs done so far.
    pub fn operations(&self) -> u64 {
        self.medium.lock().operations
    }
}

impl OpenEngine for FaultDisk {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        let mut medium = self.medium.lock();
        if medium.crashed {
            return Err(EngineError::Injected("the medium is gone"));
        }
        let path = dir.to_path_buf();
        match medium.refuse_open.take() {
            Some(EngineErrorKind::Corrupt) => {
                return Err(EngineError::Corrupt {
                    path,
                    reason: "injected".into(),
                });
            }
            Some(EngineErrorKind::Panicked) => {
                return Err(EngineError::Panicked {
                    path,
                    reason: "injected".into(),
                });
            }
            Some(EngineErrorKind::Io) => return Err(EngineError::Injected("open failed")),
            None => {}
        }
        let live = MemoryEngine::default();
        if is_new(dir)? {
            medium.databases.remove(dir);
        }
        let database = medium.databases.entry(path.clone()).or_default();
        live.reset(&database.durable);
        Ok(Box::new(FaultEngine {
            path,
            live,
            life: medium.life,
            disk: self.clone(),
        }))
    }
}

/// One open directory of a [`FaultDisk`].
pub struct FaultEngine {
    path: PathBuf,
    live: MemoryEngine,
    life: u64,
    disk: FaultDisk,
}

impl Engine for FaultEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.live.get(key)
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        self.live.scan(start, end)
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        let mut medium = self.disk.medium.lock();
        medium.operation(self.life)?;
        medium
            .databases
            .entry(self.path.clone())
            .or_default()
            .unsynced
            .push(batch.clone());
        drop(medium);
        self.live.apply_batch(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut medium = self.disk.medium.lock();
        medium.operation(self.life)?;
        let database = medium.databases.entry(self.path.clone()).or_default();
        for batch in std::mem::take(&mut database.unsynced) {
            merge(&mut database.durable, &batch);
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.live.disk_bytes()
    }
}
