//! What this node's own parts tell the detector: a node knows better than its peers that its disk hangs.
//!
//! A part says when it begins something that may hang and when that is done; the detector looks from
//! its own thread, and counts how long it has been going on. Nothing here waits or allocates.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::limits;

/// A part of a node that may hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The writer of the log: its disk.
    LogSync,
    /// The state machine of a group.
    Apply,
    /// The event loop that serves requests.
    EventLoop,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::LogSync, Self::Apply, Self::EventLoop];
}

/// What the parts of a node are doing.
///
/// - A time is in nanoseconds since `epoch`, plus one; 0 is none.
#[derive(Debug)]
pub struct Vitals {
    epoch: Instant,
    /// When the write or the sync under way began. A node has one log, and that one writer.
    syncs: Places<1>,
    /// When the state machines at work began. One that finds no place is not watched.
    applies: Places<{ limits::APPLIES_WATCHED_MAX }>,
    /// When the event loop ran last.
    beat: AtomicU64,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            syncs: Places::default(),
            applies: Places::default(),
            beat: AtomicU64::new(0),
        }
    }
}

impl Vitals {
    /// The log writes or syncs as long as `work` takes.
    pub fn while_the_log_works<T>(&self, work: impl FnOnce() -> T) -> T {
        let _working = self.syncs.take(self.time(Instant::now()));
        work()
    }

    /// A state machine begins to apply; it is done when the answer is dropped.
    pub fn applies(&self) -> Working<'_> {
        self.applies.take(self.time(Instant::now()))
    }

    /// The event loop runs. It is watched from the first time on.
    pub fn beats(&self) {
        let now = self.time(Instant::now());
        self.beat.store(now, Ordering::Relaxed);
    }

    /// The event loop is watched no longer: the node stops.
    pub fn beats_no_more(&self) {
        self.beat.store(0, Ordering::Relaxed);
    }

    /// The part that has not got on for longest, and for how long.
    pub fn worst(&self, now: Instant) -> Option<(Part, Duration)> {
        let ages = Part::ALL.into_iter().filter_map(|part| {
            let since = match part {
                Part::LogSync => self.syncs.oldest(),
                Part::Apply => self.applies.oldest(),
                Part::EventLoop => match self.beat.load(Ordering::Relaxed) {
                    0 => None,
                    at => Some(at),
                },
            };
            // A part that began after `now` was taken has no age.
            let age = self.time(now).saturating_sub(since?);
            Some((part, Duration::from_nanos(age)))
        });
        ages.max_by_key(|(_, age)| *age)
    }

    fn time(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
    }
}

/// Places for work that is under way, each with the time when it began; 0 is free.
#[derive(Debug)]
struct Places<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Places<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Places<N> {
    fn take(&self, now: u64) -> Working<'_> {
        let free = self.0.iter().find(|place| {
            let taken = place.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok()
        });
        Working(free)
    }

    fn oldest(&self) -> Option<u64> {
        let times = self.0.iter().map(|place| place.load(Ordering::Relaxed));
        times.filter(|time| *time != 0).min()
    }
}

/// Work that is under way until this is dropped.
#[must_use]
pub struct Working<'a>(Option<&'a AtomicU64>);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_hangs_longest_is_told_until_it_is_done() {
        let vitals = Vitals::default();
        let start = vitals.epoch;
        assert_eq!(vitals.worst(start), None);
        vitals.beats();
        let later = start + Duration::from_secs(9);
        vitals.while_the_log_works(|| {
            let (part, age) = vitals.worst(later).unwrap();
            assert_eq!(part, Part::EventLoop, "it began first");
            assert!(age > Duration::from_secs(8));
            vitals.beats_no_more();
            assert_eq!(vitals.worst(later).unwrap().0, Part::LogSync);
        });
        assert_eq!(vitals.worst(later), None);
    }

    #[test]
    fn work_that_finds_no_place_is_not_watched() {
        let vitals = Vitals::default();
        let all: Vec<_> = (0..limits::APPLIES_WATCHED_MAX)
            .map(|_| vitals.applies())
            .collect();
        let beyond = vitals.applies();
        drop(all);
        let later = vitals.epoch + Duration::from_secs(9);
        assert_eq!(vitals.worst(later), None);
        drop(beyond);
        drop(vitals.applies());
        assert_eq!(vitals.worst(later), None, "every place is free again");
    }

    #[test]
    fn what_begins_after_the_look_has_no_age() {
        let vitals = Vitals::default();
        let before = vitals.epoch;
        let _applying = vitals.applies();
        let (_, age) = vitals.worst(before).unwrap();
        assert_eq!(age, Duration::ZERO);
    }
}
