//! What is loaded into the processes of a cluster: a shim that sits between a program and the C
//! library, which needs neither root nor a program built for it.
//!
//! ```text
//!   harness ── settings ──▶ shared file ◀── mapped ── shim in the node
//!      ▲                        │                        │ before a file changes: what was there
//!      └── after SIGKILL: undo ─┴──── undo journal ◀─────┘ after a sync: forget it
//! ```
//!
//! - **Syncs** take longer, or fail with `EIO` and sync nothing. What they were to cover stays unsynced
//!   and is covered by the next one that succeeds.
//! - **Power cuts**: SIGKILL leaves in the system's cache what a power cut would lose, so the shim notes
//!   every change of a file in the node's directory, and [`Preload::take_back_unsynced`] undoes those
//!   that no `fsync` or `fdatasync` covered. `sync_file_range` does not count: it does not make the disk
//!   write its cache.
//! - **The wall clock** is off by an offset and drifts; other clocks are right. The shim does this
//!   itself, so that libfaketime need not be installed.
//!
//! What it cannot do: names count as durable at once, so a file whose directory was not synced is
//! never lost, and a rename or a removal never undone (a journalling file system may behave so, and a
//! program must not rely on it); writes through mappings and by io_uring are not seen; and programs
//! that make system calls themselves, as those in Go do, are out of reach: [`can_load_into`] tells.

mod can_load;
#[path = "../../shim/layout.rs"]
#[allow(dead_code, reason = "shared with the shim, which uses the rest")]
mod layout;
mod shared;
mod undo;

pub use can_load::can_load_into;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use parking_lot::Mutex;
use tempfile::TempDir;

use self::{
    layout::{
        BROKEN_FULL, BROKEN_PROCESSES, BROKEN_READ, BROKEN_SLOTS, BROKEN_WRITE, CONTROL_VARIABLE,
        DATA_DIR_VARIABLE,
    },
    shared::Shared,
};
use super::{ClockFault, FaultError, SyncFault};
use crate::history::NodeId;

/// The shim, as a shared library; empty where it was not built.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));

/// The libraries that are loaded into the nodes of one cluster, and their settings by node.
///
/// - Dropped after the nodes have ended: it removes the files that they share with it.
/// - Node files are changed by [`Preload::take_back_unsynced`] only, and only while the node is down.
pub struct Preload {
    /// `None` where the shim cannot be loaded.
    library: Option<PathBuf>,
    /// Holds the library if the run's directory has a name that the loader cannot read.
    _elsewhere: Option<TempDir>,
    nodes: BTreeMap<NodeId, Loaded>,
}

struct Loaded {
    shared: Shared,
    /// Set when the node is first started. Only held for as long as it takes to read it.
    data_dir: Mutex<Option<PathBuf>>,
    /// Number of the journals begun so far. Held while one is begun.
    journals: Mutex<u64>,
}

/// What a power cut took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Writes that had not been synced.
    pub writes: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What the shim has seen of a node, over all its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Processes that loaded it.
    pub loads: u64,
    /// Syncs of any file.
    pub syncs: u64,
    /// Changes of the node's files while they were being recorded.
    pub changes: u64,
    /// Whether the wall clock was read.
    pub clock: bool,
}

impl Preload {
    /// Prepares the libraries and the settings of these nodes in a directory of its own. Changes are
    /// not recorded until [`Preload::record_unsynced`] says so.
    pub fn prepare(dir: &Path, nodes: &[NodeId]) -> io::Result<Self> {
        if SHIM.is_empty() {
            return Ok(Self {
                library: None,
                _elsewhere: None,
                nodes: BTreeMap::new(),
            });
        }
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        // The loader separates libraries by colons and spaces, and knows no way to quote them.
        let elsewhere = match dir.to_string_lossy().contains([':', ' ']) {
            true => Some(tempfile::tempdir()?),
            false => None,
        };
        let library = elsewhere.as_ref().map_or(&*dir, TempDir::path);
        let library = library.join("holdfast-jepsen-shim.so");
        std::fs::write(&library, SHIM)?;
        let mut loaded = BTreeMap::new();
        for &node in nodes {
            let node_files = Loaded {
                shared: Shared::create(dir.join(format!("node-{node}.shim")))?,
                data_dir: Mutex::new(None),
                journals: Mutex::new(0),
            };
            loaded.insert(node, node_files);
        }
        Ok(Self {
            library: Some(library),
            _elsewhere: elsewhere,
            nodes: loaded,
        })
    }

    /// Variables for the process of a node that keeps its files in `data_dir`, which need not exist
    /// yet. Nothing else should write there: its output, above all, would be lost like any other file.
    pub fn environment(&self, node: NodeId, data_dir: &Path) -> Vec<(OsString, OsString)> {
        let (Some(library), Some(loaded)) = (&self.library, self.nodes.get(&node)) else {
            return Vec::new();
        };
        let data_dir = without_links(data_dir);
        *loaded.data_dir.lock() = Some(data_dir.clone());
        let mut libraries = library.clone().into_os_string();
        if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            libraries.push(":");
            libraries.push(others);
        }
        vec![
            ("LD_PRELOAD".into(), libraries),
            (CONTROL_VARIABLE.into(), loaded.shared.path().into()),
            (DATA_DIR_VARIABLE.into(), data_dir.into()),
        ]
    }

    /// Sets what is wrong with the syncs of a node, at once and across restarts: a sync that is being
    /// delayed ends as soon as the delay that it is to have has passed.
    pub fn set_syncs(&self, node: NodeId, fault: SyncFault) -> Result<(), FaultError> {
        let control = self.loaded(node)?.shared.control();
        let delay_us = u64::try_from(fault.delay.as_micros()).unwrap_or(u64::MAX);
        control.sync_delay_us.store(delay_us, Ordering::Release);
        let fails = u64::from(fault.fail);
        control.sync_fails.store(fails, Ordering::Release);
        Ok(())
    }

    /// Sets what is wrong with the wall clock of a node, at once and across restarts. The drift begins
    /// now, at the offset.
    pub fn set_clock(&self, node: NodeId, fault: ClockFault) -> Result<(), FaultError> {
        let control = self.loaded(node)?.shared.control();
        let offset_ns = (fault.offset_seconds * 1e9) as i64;
        let drift_ppb = (fault.drift * 1e9) as i64;
        control.clock_version.fetch_add(1, Ordering::AcqRel);
        control.clock_offset_ns.store(offset_ns, Ordering::Release);
        control.clock_drift_ppb.store(drift_ppb, Ordering::Release);
        let since = monotonic_ns();
        control.clock_since_ns.store(since, Ordering::Release);
        let faulty = u64::from(fault != ClockFault::default());
        control.clock_faulty.store(faulty, Ordering::Release);
        control.clock_version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Whether changes of the node's files are recorded from now on, so that a power cut can take them
    /// back; best set before the node is started. What was written before counts as synced. Costs a
    /// few system calls for every write.
    pub fn record_unsynced(&self, node: NodeId, on: bool) -> Result<(), FaultError> {
        let loaded = self.loaded(node)?;
        let recording = loaded.shared.control().journal.load(Ordering::Acquire) != 0;
        if on != recording {
            loaded.begin_journal(on);
        }
        Ok(())
    }

    /// Counts everything that the node has written as synced. To be called after something else than
    /// the node has changed its files, which only happens while it is down.
    pub fn forget_unsynced(&self, node: NodeId) -> Result<(), FaultError> {
        let loaded = self.loaded(node)?;
        if loaded.shared.control().journal.load(Ordering::Acquire) != 0 {
            loaded.begin_journal(true);
        }
        Ok(())
    }

    /// Takes back all that a node that has been killed had written and not synced. Its files are then
    /// as they were at the last sync of each.
    ///
    /// [`FaultError::Skipped`] if changes are not being recorded, or if the node has changed no file
    /// through the C library; [`FaultError::Failed`] if they could not all be recorded (nothing was
    /// taken back then) or not all undone.
    pub fn take_back_unsynced(&self, node: NodeId) -> Result<TakenBack, FaultError> {
        self.take_back_unsynced_with(node, 0, 0.0)
    }

    /// As [`Preload::take_back_unsynced`], but the disk had begun: of the 512-byte sectors of each
    /// unsynced write about the share `keep_share` (0 to 1) is kept, chosen by `seed`.
    pub fn take_back_unsynced_with(
        &self,
        node: NodeId,
        seed: u64,
        keep_share: f64,
    ) -> Result<TakenBack, FaultError> {
        let loaded = self.loaded(node)?;
        let control = loaded.shared.control();
        let epoch = control.journal.load(Ordering::Acquire);
        let data_dir = loaded.data_dir.lock().clone();
        let skipped = |why: &str| Err(FaultError::Skipped(format!("node {node}: {why}")));
        let Some(data_dir) = data_dir else {
            return skipped("was never started");
        };
        if epoch == 0 {
            return skipped("its unsynced writes are not being recorded");
        }
        if control.changes.load(Ordering::Relaxed) == 0 {
            return skipped("does not write files through the C library");
        }
        let why = match control.broken.load(Ordering::Acquire) {
            0 => None,
            BROKEN_FULL => Some("more was unsynced than the journal holds"),
            BROKEN_READ => Some("what a write was about to replace could not be read"),
            BROKEN_WRITE => Some("no room for the journal"),
            BROKEN_SLOTS => Some("too many files with unsynced writes"),
            BROKEN_PROCESSES => Some("several processes wrote to its files"),
            _ => Some("the journal is broken"),
        };
        let taken = match why {
            None => undo::take_back(&loaded.shared, epoch, &data_dir, seed, keep_share)
                .map_err(|error| error.to_string()),
            Some(why) => Err(why.to_owned()),
        };
        // Whatever is there now is what the disk has.
        loaded.begin_journal(true);
        taken.map_err(|why| {
            FaultError::Failed(format!("node {node}: cannot take back its writes: {why}"))
        })
    }

    /// What the shim has seen of a node. If the node has run and no syncs were seen, faults of them do
    /// not reach it.
    pub fn seen(&self, node: NodeId) -> Result<Seen, FaultError> {
        let control = self.loaded(node)?.shared.control();
        Ok(Seen {
            loads: control.loads.load(Ordering::Relaxed),
            syncs: control.syncs.load(Ordering::Relaxed),
            changes: control.changes.load(Ordering::Relaxed),
            clock: control.clock_read.load(Ordering::Relaxed) != 0,
        })
    }

    fn loaded(&self, node: NodeId) -> Result<&Loaded, FaultError> {
        if self.library.is_none() {
            return Err(FaultError::Skipped(
                "nothing can be loaded into nodes on this platform".to_owned(),
            ));
        }
        self.nodes
            .get(&node)
            .ok_or_else(|| FaultError::Failed(format!("there is no node {node}")))
    }
}

impl Loaded {
    /// Begins an empty journal, or none.
    fn begin_journal(&self, on: bool) {
        let control = self.shared.control();
        let mut journals = self.journals.lock();
        *journals += 1;
        // No change is recorded in between, so that the new journal is not taken for broken.
        control.journal.store(0, Ordering::Release);
        control.broken.store(0, Ordering::Release);
        if on {
            control.journal.store(*journals, Ordering::Release);
        }
    }
}

/// The path that the system will give to a directory that may not exist yet.
fn without_links(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    for existing in dir.ancestors() {
        if let Ok(known) = existing.canonicalize() {
            let rest = dir.strip_prefix(existing).unwrap_or(Path::new(""));
            // Joined to nothing it would end in a slash.
            return known.components().chain(rest.components()).collect();
        }
    }
    dir
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a timespec of this function's own; this clock exists on every Unix.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
