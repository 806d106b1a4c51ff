//! The thread that merges tables, and how it is stopped.
//!
//! It looks after each batch and works until the strategy finds nothing more to do; then it looks whether the
//! tree is to be rewritten, once for each batch. A batch waits while
//! too many runs of tables lie unmerged, because every read looks at each of them.

use std::io;
use std::panic::RefUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use lsm_tree::compaction::Leveled;
use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use lsm_tree::{AbstractTree as _, AnyTree, SequenceNumberCounter};
use parking_lot::{Condvar, Mutex};

use super::failed;
use super::garbage;
use super::reads::Reads;
use crate::limits;
use crate::storage::engine::EngineError;
use crate::storage::guard::guarded;

/// Set when the tree is closed: ends a compaction between two records.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// What makes a compaction look at this.
    pub(super) fn factory(&self) -> Arc<dyn Factory> {
        Arc::new(self.clone())
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl RefUnwindSafe for Stop {}

impl Factory for Stop {
    fn name(&self) -> &str {
        "stop"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(self.clone())
    }
}

impl CompactionFilter for Stop {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        match self.is_set() {
            // The merge is given up, its files are removed at the next opening.
            true => Err(lsm_tree::Error::Io(io::ErrorKind::Interrupted.into())),
            false => Ok(Verdict::Keep),
        }
    }
}

/// What is told of a failure again and again.
struct Failure {
    reason: Arc<str>,
    /// The system's code, if it was the system: a full disk and a broken one are told apart by it.
    os_error: Option<i32>,
    damage: bool,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let os_error = match &error {
            EngineError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        Failure {
            reason: error.to_string().into(),
            os_error,
            damage: error.is_damage(),
        }
    }
}

#[derive(Default)]
struct State {
    /// A batch came in since the strategy was asked last.
    wanted: bool,
    /// The strategy is being asked, or what it chose is done.
    working: bool,
    /// The first failure; nothing is compacted after it.
    failure: Option<Failure>,
    closing: bool,
}

struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    /// Wakes the thread; goes with `state`.
    work: Condvar,
    /// Wakes who waits for room; goes with `state`.
    progress: Condvar,
}

/// The compaction of one tree. Dropped, the thread has ended.
pub(super) struct Compactor {
    shared: Arc<Shared>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    pub(super) fn start(
        dir: &Path,
        tree: AnyTree,
        reads: Arc<Reads>,
        visible: SequenceNumberCounter,
        stop: Stop,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            state: Mutex::new(State {
                // What the process before left undone.
                wanted: true,
                ..State::default()
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let thread = std::thread::Builder::new().name("state-compact".into());
        let work = {
            let (shared, stop) = (shared.clone(), stop.clone());
            move || run(&shared, &tree, &reads, &visible, &stop)
        };
        Ok(Compactor {
            shared,
            stop,
            thread: Some(thread.spawn(work)?),
        })
    }

    /// A batch came in.
    pub(super) fn wake(&self) {
        self.shared.state.lock().wanted = true;
        self.shared.work.notify_one();
    }

    /// The failure of the compaction, if it met one.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        self.shared.check(&self.shared.state.lock())
    }

    /// Waits until there is nothing more to merge.
    #[cfg(test)]
    pub(super) fn wait_for_rest(&self) {
        let mut state = self.shared.state.lock();
        while state.wanted || state.working {
            self.shared.progress.wait(&mut state);
        }
    }

    /// Waits while too many runs lie unmerged.
    pub(super) fn wait_for_room(&self, tree: &AnyTree) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        loop {
            shared.check(&state)?;
            let rests = !state.wanted && !state.working;
            // At rest it will not merge them, however many there are.
            if rests || tree.l0_run_count() < limits::LSM_RUNS_MAX {
                return Ok(());
            }
            shared.progress.wait(&mut state);
        }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
        self.shared.state.lock().closing = true;
        self.shared.work.notify_one();
        // All it does of the tree is guarded, so it does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn check(&self, state: &State) -> Result<(), EngineError> {
        match &state.failure {
            None => Ok(()),
            Some(Failure {
                os_error: Some(code),
                ..
            }) => Err(EngineError::io(
                &self.dir,
                io::Error::from_raw_os_error(*code),
            )),
            Some(failure) => {
                let reason = format!("compaction failed: {}", failure.reason);
                let path = self.dir.clone();
                Err(match failure.damage {
                    true => EngineError::Corrupt { path, reason },
                    false => EngineError::io(path, io::Error::other(reason)),
                })
            }
        }
    }

    /// Waits until there may be something to do; false when the tree closes.
    fn next(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.closing {
                return false;
            }
            state.working = std::mem::take(&mut state.wanted);
            if state.working {
                return true;
            }
            self.progress.notify_all();
            self.work.wait(&mut state);
        }
    }
}

/// Merging is work of many seconds that nobody waits for, beside threads that have clients waiting.
fn give_way() {
    // With Linux alone it is of the thread that calls it. Without it merging competes with what serves, which
    // costs time and nothing else, so that it fails is no error.
    #[cfg(target_os = "linux")]
    // SAFETY: it takes a number and touches no memory of ours.
    let _ = unsafe { libc::nice(limits::LSM_MERGING_NICENESS) };
}

fn run(
    shared: &Shared,
    tree: &AnyTree,
    reads: &Reads,
    visible: &SequenceNumberCounter,
    stop: &Stop,
) {
    give_way();
    let strategy = Leveled::default()
        .with_table_target_size(limits::LSM_TABLE_BYTES)
        .with_l0_threshold(limits::LSM_TABLES_MERGED_AT);
    let strategy = Arc::new(strategy);
    while shared.next() {
        let mut rewritten = false;
        loop {
            let changed = guarded(&shared.dir, || {
                let failed = failed(&shared.dir);
                let before = tree.current_version().id();
                tree.compact(strategy.clone(), visible.get())
                    .map_err(&failed)?;
                let rests = tree.current_version().id() == before;
                if rests && !rewritten && garbage::is_due(tree, &shared.dir) {
                    rewritten = true;
                    tracing::debug!(
                        bytes = tree.disk_space(),
                        "rewriting the state without what is deleted"
                    );
                    tree.major_compact(limits::LSM_TABLE_BYTES, visible.get())
                        .map_err(&failed)?;
                }
                reads.renew(tree);
                // The lists before the newest hold the files that were merged.
                let mut lists = tree.get_version_history_lock();
                lists
                    .maintenance(&tree.tree_config().path, visible.get())
                    .map_err(&failed)?;
                drop(lists);
                Ok(tree.current_version().id() != before)
            });
            if stop.is_set() {
                return;
            }
            let mut state = shared.state.lock();
            shared.progress.notify_all();
            match changed {
                Ok(true) => {}
                // Asked again for what came in meanwhile.
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(path = %shared.dir.display(), %error, "compaction failed");
                    state.failure = Some(error.into());
                    return;
                }
            }
        }
    }
}
