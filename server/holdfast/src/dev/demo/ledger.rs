//! What the demonstration wrote and what it was told about it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A write: which zone's client made it, and its number there, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId {
    /// Index of the zone.
    pub zone: usize,
    /// Number of the write; also its retry id.
    pub seq: u64,
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Which write.
    pub write: WriteId,
    /// The revision that it made, as it was answered.
    pub revision: i64,
    /// When the answer arrived.
    pub at: Instant,
}

/// What was written and what came of it. Keys and values follow from the [`WriteId`], so they are
/// not kept.
///
/// - a write is in at most one of `acks` and `unresolved`;
/// - no write has two acknowledgements.
#[derive(Debug)]
pub struct Ledger {
    run: u64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    acks: Vec<Ack>,
    /// Sent, and neither acknowledged nor known to have had no effect.
    unresolved: BTreeSet<WriteId>,
    refusals: Vec<String>,
    resent: u64,
    highest_revision: i64,
}

/// Refusals beyond these are not kept: the first says what is wrong.
const REFUSALS_MAX: usize = 8;

impl Ledger {
    /// An empty ledger; `run` keeps the keys of several runs over the same data apart.
    pub fn new(run: u64) -> Ledger {
        Ledger {
            run,
            book: Mutex::default(),
        }
    }

    /// What the keys of this run begin with.
    pub fn prefix(&self) -> String {
        format!("demo/{:016x}/", self.run)
    }

    /// Key of a write.
    pub fn key(&self, write: WriteId) -> String {
        format!("{}{}/{:08}", self.prefix(), write.zone, write.seq)
    }

    /// Value of a write, 64 bytes, different for each.
    pub fn value(&self, write: WriteId) -> String {
        format!(
            "{:-<64}",
            format!(
                "written in run {:016x} as {}/{}",
                self.run, write.zone, write.seq
            )
        )
    }

    /// A write is about to be sent for the first time.
    pub fn sending(&self, write: WriteId) {
        self.book.lock().unresolved.insert(write);
    }

    /// A write is about to be sent again.
    pub fn resending(&self) {
        self.book.lock().resent += 1;
    }

    /// A write was acknowledged.
    pub fn acknowledged(&self, write: WriteId, revision: i64, at: Instant) {
        let mut book = self.book.lock();
        if book.unresolved.remove(&write) {
            book.highest_revision = book.highest_revision.max(revision);
            book.acks.push(Ack {
                write,
                revision,
                at,
            });
        }
    }

    /// A write was refused for good. It stays unresolved: nothing is promised about it.
    pub fn refused(&self, why: String) {
        let mut book = self.book.lock();
        if book.refusals.len() < REFUSALS_MAX {
            book.refusals.push(why);
        }
    }

    /// The acknowledged writes, in the order in which they were.
    pub fn acks(&self) -> Vec<Ack> {
        self.book.lock().acks.clone()
    }

    /// The writes of unknown fate.
    pub fn unresolved(&self) -> BTreeSet<WriteId> {
        self.book.lock().unresolved.clone()
    }

    /// Whether a client may send another write: fewer than `in_flight_max` of unknown fate, and the
    /// oldest of them less than `window` numbers back.
    pub fn has_room(&self, next: WriteId, in_flight_max: usize, window: u64) -> bool {
        let book = self.book.lock();
        let first = WriteId { seq: 0, ..next };
        let mut open = book.unresolved.range(first..next);
        let oldest = open.next();
        oldest
            .is_none_or(|oldest| next.seq - oldest.seq < window && open.count() + 1 < in_flight_max)
    }

    /// Why writes were refused; the first few.
    pub fn refusals(&self) -> Vec<String> {
        self.book.lock().refusals.clone()
    }

    /// How often a write was sent again.
    pub fn resent(&self) -> u64 {
        self.book.lock().resent
    }

    /// Highest revision that was acknowledged.
    pub fn highest_revision(&self) -> i64 {
        self.book.lock().highest_revision
    }

    /// Acknowledged writes of each zone.
    pub fn counts(&self, zones: usize) -> Vec<u64> {
        let mut counts = vec![0; zones];
        for ack in &self.book.lock().acks {
            counts[ack.write.zone] += 1;
        }
        counts
    }
}

/// Acknowledgements per second between two moments.
pub fn rate<'a>(acks: impl Iterator<Item = &'a Ack>, from: Instant, to: Instant) -> f64 {
    let seconds = to.saturating_duration_since(from).as_secs_f64();
    let count = acks.filter(|ack| ack.at >= from && ack.at < to).count();
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// Longest time without an acknowledgement that reaches into the time from `from` to `to`.
pub fn longest_pause<'a>(
    acks: impl Iterator<Item = &'a Ack>,
    from: Instant,
    to: Instant,
) -> Duration {
    let mut times: Vec<Instant> = acks.map(|ack| ack.at).filter(|at| *at < to).collect();
    times.sort_unstable();
    let before = times.iter().rposition(|at| *at <= from);
    let mut last = before.map_or(from, |at| times[at]);
    let mut longest = Duration::ZERO;
    for at in times[before.map_or(0, |at| at + 1)..]
        .iter()
        .copied()
        .chain([to])
    {
        longest = longest.max(at - last);
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(start: Instant, at_ms: &[u64]) -> Vec<Ack> {
        let ack = |(seq, ms): (u64, &u64)| Ack {
            write: WriteId { zone: 0, seq },
            revision: 1,
            at: start + Duration::from_millis(*ms),
        };
        (1..).zip(at_ms).map(ack).collect()
    }

    #[test]
    fn pauses_are_measured_from_the_last_answer_before() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let acks = acks(start, &[0, 400, 490, 820, 830, 900]);
        let pause = |from, to| longest_pause(acks.iter(), ms(from), ms(to)).as_millis();
        assert_eq!(pause(500, 1_000), 330, "490 to 820; 0 to 400 was before");
        assert_eq!(pause(100, 1_000), 400);
        assert_eq!(pause(850, 2_000), 1_100, "nothing came until the end");
        assert_eq!(longest_pause([].iter(), ms(100), ms(300)).as_millis(), 200);
    }

    #[test]
    fn rates_count_what_lies_within() {
        let start = Instant::now();
        let acks = acks(start, &[0, 100, 200, 300, 500]);
        let end = start + Duration::from_millis(500);
        assert!((rate(acks.iter(), start, end) - 8.0).abs() < 1e-9);
        assert_eq!(rate(acks.iter(), end, end), 0.0);
    }

    #[test]
    fn a_write_is_open_until_it_is_acknowledged_once() {
        let ledger = Ledger::new(7);
        let write = |seq| WriteId { zone: 1, seq };
        for seq in 1..=3 {
            ledger.sending(write(seq));
        }
        let now = Instant::now();
        ledger.acknowledged(write(2), 12, now);
        ledger.acknowledged(write(2), 13, now);
        assert_eq!(
            ledger.acks(),
            [Ack {
                write: write(2),
                revision: 12,
                at: now
            }]
        );
        assert_eq!(ledger.unresolved(), BTreeSet::from([write(1), write(3)]));
        assert_eq!(
            (ledger.highest_revision(), ledger.counts(3)),
            (12, vec![0, 1, 0])
        );
    }

    #[test]
    fn the_window_is_counted_from_the_oldest_open_write_of_the_zone() {
        let ledger = Ledger::new(7);
        let write = |zone, seq| WriteId { zone, seq };
        ledger.sending(write(0, 1));
        ledger.sending(write(1, 5));
        ledger.sending(write(1, 6));
        assert!(
            ledger.has_room(write(1, 7), 3, 10),
            "another zone's writes do not count"
        );
        assert!(!ledger.has_room(write(1, 7), 2, 10), "two are in flight");
        assert!(
            !ledger.has_room(write(1, 15), 3, 10),
            "5 is ten numbers back"
        );
        assert!(ledger.has_room(write(1, 14), 3, 10));
        assert!(ledger.has_room(write(2, 1), 1, 1), "the first of a zone");
    }

    #[test]
    fn keys_and_values_are_different_for_each_write() {
        let ledger = Ledger::new(7);
        let write = WriteId { zone: 2, seq: 31 };
        assert_eq!(ledger.key(write), "demo/0000000000000007/2/00000031");
        assert!(ledger.key(write).starts_with(&ledger.prefix()));
        assert_eq!(ledger.value(write).len(), 64);
        assert_ne!(
            ledger.value(write),
            ledger.value(WriteId { zone: 2, seq: 3 })
        );
    }
}
