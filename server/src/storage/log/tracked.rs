//! A group as the writer sees it: the state after the last record written, which is what a checkpoint
//! says and what decides when a segment is free.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::LogPos;
use super::format::Checkpoint;

/// How many groups have live entries in each segment.
#[derive(Debug, Default)]
pub(super) struct Pins {
    groups: HashMap<u64, u32>,
    /// A segment lost its last pin since this was last cleared.
    pub released: bool,
}

impl Pins {
    pub fn holds(&self, segment: u64) -> bool {
        self.groups.contains_key(&segment)
    }

    fn add(&mut self, segment: u64) {
        *self.groups.entry(segment).or_default() += 1;
    }

    fn remove(&mut self, segment: u64) {
        let count = self
            .groups
            .get_mut(&segment)
            .expect("a run pins its segment");
        *count -= 1;
        if *count == 0 {
            self.groups.remove(&segment);
            self.released = true;
        }
    }
}

/// Consecutive live entries of a group in one segment, from `first` to the next run.
#[derive(Clone, Copy, Debug)]
struct Run {
    segment: u64,
    first: u64,
}

/// The state of one group in record order.
///
/// - `runs` cover the live entries without a gap; each holds at least one, and pins its segment once.
/// - `last` is the last live entry; it is `None` exactly when there are no runs.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub purged: Option<LogPos>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    last: Option<LogPos>,
    runs: VecDeque<Run>,
}

impl Tracked {
    /// What a checkpoint of this group says.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            purged: self.purged,
            last: self.last,
            runs: self
                .runs
                .iter()
                .map(|run| (run.segment, run.first))
                .collect(),
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        }
    }

    /// An entry was written to `segment`; it replaces what was at its index and after.
    pub fn append(&mut self, pos: LogPos, segment: u64, pins: &mut Pins) {
        self.drop_from(pos.index, pins);
        self.last = Some(pos);
        if self.runs.back().is_none_or(|run| run.segment != segment) {
            self.runs.push_back(Run {
                segment,
                first: pos.index,
            });
            pins.add(segment);
        }
    }

    /// Entries after `last` are dead; `None` leaves no entry.
    pub fn truncate(&mut self, last: Option<LogPos>, pins: &mut Pins) {
        self.drop_from(last.map_or(0, |last| last.index + 1), pins);
        self.last = last;
        assert_eq!(
            self.runs.is_empty(),
            last.is_none(),
            "runs end where entries end: {last:?}"
        );
    }

    /// Entries up to `pos` are dead.
    pub fn purge(&mut self, pos: LogPos, pins: &mut Pins) {
        if self.purged.is_some_and(|purged| purged.index >= pos.index) {
            return;
        }
        self.purged = Some(pos);
        if self.last.is_none_or(|last| last.index <= pos.index) {
            self.drop_from(0, pins);
            self.last = None;
            return;
        }
        // A run ends where the next begins, so the front one is dead when the next starts early enough.
        while self
            .runs
            .get(1)
            .is_some_and(|next| next.first <= pos.index + 1)
        {
            if let Some(run) = self.runs.pop_front() {
                pins.remove(run.segment);
            }
        }
        if let Some(front) = self.runs.front_mut() {
            front.first = front.first.max(pos.index + 1);
        }
    }

    /// Drops runs at and after `index`. Leaves `last` to the caller.
    fn drop_from(&mut self, index: u64, pins: &mut Pins) {
        while let Some(run) = self.runs.back()
            && run.first >= index
        {
            pins.remove(run.segment);
            self.runs.pop_back();
        }
    }
}
