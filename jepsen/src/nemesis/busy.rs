//! A machine that has too much to do beside the nodes: no fault of any node, and none may notice.
//!
//! The work is done by threads of the harness, which end with it whatever happens. The file they write has
//! no name, so nothing is left of it either.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::task::JoinSet;

use super::{
    ActiveFaults,
    injected::{Healing, Injected},
};
use crate::cluster::FaultError;

/// Busy loops for each core.
const LOOPS_PER_CORE: usize = 2;
/// What is written before it is synced.
const FILE_BYTES: usize = 200_000_000;
/// What is written at once: the order to stop is looked for in between.
const BLOCK_BYTES: usize = 1_000_000;

/// Threads that keep a machine busy until this is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Busy {
    /// So many loops, and somebody who writes to `dir` and syncs.
    fn start(loops: usize, dir: &Path) -> io::Result<Self> {
        let busy = Busy {
            stop: Arc::default(),
        };
        // Tried here, so that a directory that cannot be written to is told.
        drop(nameless(dir)?);
        let (stop, dir) = (busy.stop.clone(), dir.to_owned());
        thread::Builder::new()
            .name("busy-disk".to_owned())
            .spawn(move || write_and_sync(&dir, &stop))?;
        for _ in 0..loops {
            let stop = busy.stop.clone();
            thread::Builder::new()
                .name("busy-loop".to_owned())
                .spawn(move || compute(&stop))?;
        }
        Ok(busy)
    }
}

/// A file that goes with its last handle.
fn nameless(dir: &Path) -> io::Result<fs::File> {
    let path = dir.join("busy-machine");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn write_and_sync(dir: &Path, stop: &AtomicBool) {
    let block = vec![7_u8; BLOCK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let written = nameless(dir).and_then(|mut file| {
            for _ in 0..FILE_BYTES / BLOCK_BYTES {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                file.write_all(&block)?;
            }
            file.sync_all()
        });
        // A full disk: the loops go on, and the nodes tell what they think of it.
        if written.is_err() {
            return;
        }
    }
}

fn compute(stop: &AtomicBool) {
    let mut number = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..10_000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

/// Where the nodes keep what they store, if that is on this machine.
fn beside_the_nodes(active: &ActiveFaults) -> Option<PathBuf> {
    let first = active.cluster().nodes().first()?.id;
    let data = active.cluster().data_dir(first)?;
    Some(data.parent()?.to_owned())
}

pub(super) async fn inject(active: &ActiveFaults, id: u64) -> Result<Injected, FaultError> {
    let Some(dir) = beside_the_nodes(active) else {
        return Err(FaultError::unsupported(
            "keep the machines of its nodes busy",
        ));
    };
    let loops = LOOPS_PER_CORE * thread::available_parallelism().map_or(1, usize::from);
    let busy = Busy::start(loops, &dir)
        .map_err(|error| FaultError::Failed(format!("{}: {error}", dir.display())))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _busy = busy;
        std::future::pending::<()>().await;
    });
    active.go_on(id, tasks).await;
    let detail =
        format!("{loops} busy loops, and {FILE_BYTES} bytes written and synced, again and again");
    Ok(Injected::new(Vec::new(), detail, Healing::Tasks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_end_when_it_is_dropped_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let busy = Busy::start(1, dir.path()).unwrap();
        let stop = busy.stop.clone();
        drop(busy);
        // Threads hold a clone each until they end.
        while Arc::strong_count(&stop) > 1 {
            thread::yield_now();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Busy::start(0, &dir.path().join("missing")).is_err());
    }
}
