//! A group as the writer sees it: the state after the last record written, which is what a checkpoint
//! says and what decides when a segment is free.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::entry::LogPos;
use super::format::Checkpoint;

/// How many runs of live entries lie in each segment.
#[derive(Debug, Default)]
pub(super) struct Pins {
    runs: HashMap<u64, u32>,
    /// A segment lost its last pin since this was last cleared.
    pub released: bool,
}

impl Pins {
    pub fn holds(&self, segment: u64) -> bool {
        self.runs.contains_key(&segment)
    }

    fn add(&mut self, segment: u64) {
        *self.runs.entry(segment).or_default() += 1;
    }

    fn remove(&mut self, segment: u64) {
        let count = self.runs.get_mut(&segment).expect("a run pins its segment");
        *count -= 1;
        if *count == 0 {
            self.runs.remove(&segment);
            self.released = true;
        }
    }
}

/// Consecutive live entries of a group in one segment, from `first` to the next run. Entries that were
/// moved lie in a later segment than those after them.
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

    /// The live entry at `index` was written again, to `segment`.
    pub fn moved(&mut self, index: u64, segment: u64, pins: &mut Pins) {
        let live = self.runs.front().map(|run| run.first).zip(self.last);
        assert!(
            live.is_some_and(|(first, last)| (first..=last.index).contains(&index)),
            "entry {index} is moved while {live:?} are live"
        );
        let at = self.runs.partition_point(|run| run.first <= index) - 1;
        let old = self.runs[at];
        let end = match self.runs.get(at + 1) {
            Some(next) => next.first,
            None => self.last.map_or(index, |last| last.index) + 1,
        };
        // What of the run lies before the entry, the entry, and what lies behind it.
        let before = (old.first < index).then_some(old);
        let entry = Run {
            segment,
            first: index,
        };
        let behind = (index + 1 < end).then_some(Run {
            segment: old.segment,
            first: index + 1,
        });
        let parts = [before, Some(entry), behind].into_iter().flatten();
        // New pins first: a segment that stays pinned is never released in between.
        let parts: Vec<Run> = parts.inspect(|run| pins.add(run.segment)).collect();
        pins.remove(old.segment);
        let (from, to) = (at, at + parts.len());
        self.runs.remove(at);
        for (place, run) in (at..).zip(parts) {
            self.runs.insert(place, run);
        }
        self.join(from.saturating_sub(1), to, pins);
    }

    /// Joins neighbours of one segment among the runs from `from` to the one at `to`.
    fn join(&mut self, from: usize, to: usize, pins: &mut Pins) {
        for at in (from + 1..=to).rev() {
            let same = |run: &Run| run.segment == self.runs[at - 1].segment;
            if self.runs.get(at).is_some_and(same)
                && let Some(run) = self.runs.remove(at)
            {
                pins.remove(run.segment);
            }
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
