//! The thread that removes generations nobody uses any more: replaced ones, those of dropped groups, and
//! what a crash left half loaded.
//!
//! Slowly and in slices, because the database serves meanwhile; what is not removed when the node stops
//! is garbage still when it starts again.

use parking_lot::{Condvar, Mutex};

use super::StateError;
use super::catalogue;
use super::database::Shared;
use super::generation::Prefix;
use crate::limits;
use crate::storage::engine::Batch;

/// Generations to remove.
#[derive(Default)]
pub(super) struct Garbage {
    state: Mutex<State>,
    /// Wakes the sweeper; goes with `state`.
    work: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<(u64, u32)>,
    closing: bool,
}

impl Garbage {
    pub(super) fn add(&self, group: u64, generation: u32) {
        self.state.lock().pending.push((group, generation));
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.work.notify_one();
    }

    fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    fn next(&self) -> Option<(u64, u32)> {
        let mut state = self.state.lock();
        loop {
            if state.closing {
                return None;
            }
            if let Some(next) = state.pending.pop() {
                return Some(next);
            }
            self.work.wait(&mut state);
        }
    }
}

/// The life of the thread.
pub(super) fn run(shared: &Shared) {
    while let Some((group, generation)) = shared.garbage.next() {
        match remove(shared, group, generation) {
            Ok(()) => tracing::debug!(group, generation, "old state removed"),
            // The database has ended, and everybody knows.
            Err(_) => return,
        }
    }
}

fn remove(shared: &Shared, group: u64, generation: u32) -> Result<(), StateError> {
    let (start, end) = Prefix::new(group, generation).range();
    shared.call(|engine| engine.release(&start, &end))?;
    let mut batch = Batch::new();
    for record in shared.engine.scan(&start, &end) {
        let (key, _) = shared.call(|_| record)?;
        batch.push((key, None));
        if batch.len() >= limits::SWEPT_RECORDS_MAX {
            if shared.garbage.is_closing() {
                return Ok(());
            }
            shared.call(|engine| engine.load(std::mem::take(&mut batch)))?;
        }
    }
    shared.call(|engine| engine.load(batch))?;
    shared.change(
        vec![catalogue::no_garbage(group, generation)],
        |catalogue| {
            catalogue.remove_garbage(group, generation);
        },
    )
}
