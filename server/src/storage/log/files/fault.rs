//! Files that fail: short writes, failed writes and syncs, and power cuts with torn writes.
//!
//! It keeps the content that each 512-byte sector had at the last sync, for as long as the sector has
//! newer content that no sync has covered. A crash puts some of the old content back. Creates, renames
//! and removes are kept in a journal until the directory is synced; a crash undoes a suffix of it.
//!
//! ```text
//!   write ─▶ old sectors ─▶ unsynced ── sync ──▶ forgotten: durable
//!                              │ failed sync
//!                              ▼
//!                           doubtful: a later sync does not help, writing the sector again does
//!   crash ─▶ unsynced and doubtful sectors: put back all, or a random subset
//! ```
//!
//! What is random depends on the seed and on the order of operations only. A file never gets shorter in
//! a crash: growth that was not synced comes back as zeros.

mod file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::file::FaultFile;
use super::{File, Files, MemoryFiles};

/// Content that a medium writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
/// Names of files that were removed, while a crash may bring them back.
const HIDDEN: &str = ".fault-";

/// What a crash does to what no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies, the machine lives: nothing is lost, nothing becomes durable.
    KillProcess,
    /// Power fails before any of it reached the medium.
    LoseUnsynced,
    /// Power fails in the middle: a random subset of sectors and a random prefix of renames got there.
    Tear,
}

/// Operations so far, successful or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Operations that change something: the unit of [`FaultFiles::power_off_after`].
    pub changes: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
}

/// Files with faults. A test keeps them, and gives the log what [`FaultFiles::mount`] returns.
pub struct FaultFiles {
    inner: Arc<dyn Files>,
    /// Held during every operation.
    core: Arc<Mutex<Core>>,
    /// The power cycle that these files are for; `None` for all of them.
    generation: Option<u64>,
}

struct Core {
    random: u64,
    generation: u64,
    off: bool,
    changes_left: Option<u64>,
    writes_left: Option<u64>,
    syncs_left: Option<u64>,
    short_writes: bool,
    counts: FaultCounts,
    nodes: HashMap<PathBuf, Arc<Mutex<Node>>>,
    journal: Vec<Change>,
    hidden: u64,
}

/// A file, whatever it is called.
struct Node {
    file: Arc<dyn File>,
    /// Durable content of sectors by number, where it differs from what readers see.
    unsynced: BTreeMap<u64, Vec<u8>>,
    doubtful: BTreeMap<u64, Vec<u8>>,
}

/// A change of a directory that no sync has covered.
enum Change {
    Created(PathBuf),
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    /// Removed or replaced: now called `hidden`.
    Removed {
        path: PathBuf,
        hidden: PathBuf,
    },
}

impl Change {
    fn is_in(&self, dir: &Path) -> bool {
        let (Change::Created(path)
        | Change::Renamed { to: path, .. }
        | Change::Removed { path, .. }) = self;
        path.parent() == Some(dir)
    }
}

/// What becomes of one operation.
enum Fate {
    Whole,
    /// Power fails during the operation.
    PowerFails,
    Fails,
}

impl Core {
    /// splitmix64
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random() % bound.max(1)
    }

    fn check_power(&self, generation: u64) -> io::Result<()> {
        match self.off || generation != self.generation {
            true => Err(power_failed()),
            false => Ok(()),
        }
    }

    fn change(&mut self) -> Fate {
        self.counts.changes += 1;
        if counts_down(&mut self.changes_left) {
            self.off = true;
            return Fate::PowerFails;
        }
        Fate::Whole
    }
}

/// Whether a countdown has reached its end; a finished one stays finished.
fn counts_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn power_failed() -> io::Error {
    io::Error::other("injected: the power failed")
}

fn injected(operation: &str) -> io::Error {
    io::Error::other(format!("injected: {operation} failed"))
}

impl FaultFiles {
    /// Faults over files in memory.
    pub fn memory(seed: u64) -> Self {
        FaultFiles::over(Arc::new(MemoryFiles::default()), seed)
    }

    /// Faults over other files. What is there already counts as durable.
    pub fn over(inner: Arc<dyn Files>, seed: u64) -> Self {
        let core = Core {
            random: seed,
            generation: 0,
            off: false,
            changes_left: None,
            writes_left: None,
            syncs_left: None,
            short_writes: false,
            counts: FaultCounts::default(),
            nodes: HashMap::new(),
            journal: Vec::new(),
            hidden: 0,
        };
        FaultFiles {
            inner,
            core: Arc::new(Mutex::new(core)),
            generation: None,
        }
    }

    /// The same files for a process that starts now: after the next crash it can do nothing any more,
    /// though its threads may still run.
    pub fn mount(&self) -> FaultFiles {
        FaultFiles {
            inner: self.inner.clone(),
            core: self.core.clone(),
            generation: Some(self.core.lock().generation),
        }
    }

    /// From now on about half of the writes write only a part of what they are given.
    pub fn short_writes(&self, on: bool) {
        self.core.lock().short_writes = on;
    }

    /// The next `writes` writes succeed; later ones write a random part and fail.
    pub fn fail_writes_after(&self, writes: u64) {
        self.core.lock().writes_left = Some(writes);
    }

    /// The next `syncs` syncs of files succeed; later ones fail, and what they were to cover is in doubt
    /// even if another sync succeeds.
    pub fn fail_syncs_after(&self, syncs: u64) {
        self.core.lock().syncs_left = Some(syncs);
    }

    /// Failures planned so far are called off.
    pub fn no_more_failures(&self) {
        let mut core = self.core.lock();
        (core.changes_left, core.writes_left, core.syncs_left) = (None, None, None);
    }

    /// The next `changes` changing operations succeed; during the one after them the power fails, and
    /// nothing works until [`FaultFiles::crash`].
    pub fn power_off_after(&self, changes: u64) {
        self.core.lock().changes_left = Some(changes);
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.core.lock().off
    }

    /// Operations so far.
    pub fn counts(&self) -> FaultCounts {
        self.core.lock().counts
    }

    /// Cuts the power, if it is not off, and turns it on again: open files and mounts are dead, planned
    /// failures are forgotten, and what was not synced is treated as `crash` says.
    pub fn crash(&self, crash: Crash) -> io::Result<()> {
        let mut core = self.core.lock();
        core.generation += 1;
        core.off = false;
        (core.changes_left, core.writes_left, core.syncs_left) = (None, None, None);
        if crash == Crash::KillProcess {
            return Ok(());
        }
        // Some crashes lose nearly all, some nearly nothing.
        let lost_per_8 = 1 + core.below(7);
        let mut nodes: Vec<_> = core
            .nodes
            .iter()
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect();
        nodes.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, node) in nodes {
            let mut node = node.lock();
            let Node {
                file,
                unsynced,
                doubtful,
            } = &mut *node;
            for (sector, old) in std::mem::take(unsynced)
                .into_iter()
                .chain(std::mem::take(doubtful))
            {
                if crash == Crash::LoseUnsynced || core.below(8) < lost_per_8 {
                    file.write_all_at(&old, sector * SECTOR_BYTES)?;
                }
            }
        }
        let changes = core.journal.len() as u64;
        let kept = if crash == Crash::LoseUnsynced {
            0
        } else {
            core.below(changes + 1)
        };
        while core.journal.len() as u64 > kept
            && let Some(change) = core.journal.pop()
        {
            self.undo(&mut core, change)?;
        }
        for change in std::mem::take(&mut core.journal) {
            self.settle(change)?;
        }
        Ok(())
    }

    fn undo(&self, core: &mut Core, change: Change) -> io::Result<()> {
        let (from, to) = match change {
            Change::Created(path) => {
                core.nodes.remove(&path);
                return self.inner.remove(&path);
            }
            Change::Renamed { from, to } => (to, from),
            Change::Removed { path, hidden } => (hidden, path),
        };
        self.inner.rename(&from, &to)?;
        if let Some(node) = core.nodes.remove(&from) {
            core.nodes.insert(to, node);
        }
        Ok(())
    }

    fn settle(&self, change: Change) -> io::Result<()> {
        match change {
            Change::Removed { hidden, .. } => self.inner.remove(&hidden),
            Change::Created(_) | Change::Renamed { .. } => Ok(()),
        }
    }

    fn handle(&self, core: &mut Core, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let fresh = || {
            Arc::new(Mutex::new(Node {
                file,
                unsynced: BTreeMap::new(),
                doubtful: BTreeMap::new(),
            }))
        };
        let node = core
            .nodes
            .entry(path.to_owned())
            .or_insert_with(fresh)
            .clone();
        Arc::new(FaultFile {
            core: self.core.clone(),
            node,
            generation: self.generation.unwrap_or(core.generation),
        })
    }

    fn check_power(&self, core: &Core) -> io::Result<()> {
        core.check_power(self.generation.unwrap_or(core.generation))
    }

    /// Decides whether a directory operation happens; when the power fails, chance does.
    fn directory_change(&self, core: &mut Core) -> io::Result<bool> {
        self.check_power(core)?;
        Ok(match core.change() {
            Fate::PowerFails => core.below(2) == 0,
            Fate::Whole | Fate::Fails => true,
        })
    }

    fn hide(&self, core: &mut Core, path: &Path) -> io::Result<()> {
        core.hidden += 1;
        let hidden = path.with_file_name(format!("{HIDDEN}{}", core.hidden));
        self.inner.rename(path, &hidden)?;
        if let Some(node) = core.nodes.remove(path) {
            core.nodes.insert(hidden.clone(), node);
        }
        core.journal.push(Change::Removed {
            path: path.to_owned(),
            hidden,
        });
        Ok(())
    }
}

/// The answer of a change that happened, or not, while the power failed.
fn unless_off(core: &Core) -> io::Result<()> {
    if core.off {
        Err(power_failed())
    } else {
        Ok(())
    }
}

impl Files for FaultFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.check_power(&self.core.lock())?;
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let core = self.core.lock();
        self.check_power(&core)?;
        let mut names = self.inner.list(dir)?;
        names.retain(|name| !name.starts_with(HIDDEN));
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut core = self.core.lock();
        if !self.directory_change(&mut core)? {
            return Err(power_failed());
        }
        let file = self.inner.create(path)?;
        core.journal.push(Change::Created(path.to_owned()));
        let handle = self.handle(&mut core, path, file);
        unless_off(&core).map(|()| handle)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut core = self.core.lock();
        self.check_power(&core)?;
        let file = self.inner.open(path)?;
        Ok(self.handle(&mut core, path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut core = self.core.lock();
        if !self.directory_change(&mut core)? {
            return Err(power_failed());
        }
        if self.inner.open(to).is_ok() {
            self.hide(&mut core, to)?;
        }
        self.inner.rename(from, to)?;
        if let Some(node) = core.nodes.remove(from) {
            core.nodes.insert(to.to_owned(), node);
        }
        core.journal.push(Change::Renamed {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        unless_off(&core)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut core = self.core.lock();
        if !self.directory_change(&mut core)? {
            return Err(power_failed());
        }
        self.hide(&mut core, path)?;
        unless_off(&core)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut core = self.core.lock();
        core.counts.dir_syncs += 1;
        if self.directory_change(&mut core)? {
            self.inner.sync_dir(dir)?;
            let (durable, rest) = std::mem::take(&mut core.journal)
                .into_iter()
                .partition(|change| change.is_in(dir));
            core.journal = rest;
            for change in Vec::<Change>::from_iter::<Vec<Change>>(durable) {
                self.settle(change)?;
            }
        }
        unless_off(&core)
    }
}
