//! How long a peer may be silent before it is suspected.
//!
//! ```text
//!   patience = round trip (its mean and four times its deviation, and no less than the longest of late)
//!            + two beats + SILENCE_SLACK
//!            + LATENESS_FACTOR × (how late this detector gets to run + how late the peer's does)
//! ```
//!
//! On an idle machine in one rack that is the floor, 200 ms; a long or unsteady link adds what it was
//! measured to take, a machine with too much to do what its threads were measured to wait.
//!
//! Lateness is a condition when it comes again and again, and an event when it comes once: a process
//! that was stopped by a signal or moved with its virtual machine was late once, and its next silence
//! means what it meant before. So the worst second of late does not count, nor does a delay that is
//! longer than any queue of a scheduler.

use std::time::Duration;

use super::time::Time;
use crate::limits;

/// Half of the time for which the longest round trip is remembered.
const ROUND_TRIP_HALF: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
const LATENESS_SECONDS: usize = 10;

/// The round trip to a peer (RFC 6298), with the longest of late: a link that lost a segment a moment ago
/// may lose the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundTrip {
    measured: Option<(Duration, Duration)>,
    longest: Duration,
    longest_before: Duration,
    half_since: Time,
}

impl RoundTrip {
    pub fn measured(&mut self, sample: Duration, now: Time) {
        let sample = sample.min(limits::ROUND_TRIP_COUNTED_MAX);
        self.measured = Some(match self.measured {
            None => (sample, sample / 2),
            Some((mean, deviation)) => (
                (mean * 7 + sample) / 8,
                (deviation * 3 + mean.abs_diff(sample)) / 4,
            ),
        });
        self.forget(now);
        self.longest = self.longest.max(sample);
    }

    fn forget(&mut self, now: Time) {
        let age = now.since(self.half_since);
        if age < ROUND_TRIP_HALF {
            return;
        }
        self.longest_before = if age < 2 * ROUND_TRIP_HALF {
            self.longest
        } else {
            Duration::ZERO
        };
        self.longest = Duration::ZERO;
        self.half_since = now;
    }

    /// The mean of late.
    pub fn mean(&self) -> Option<Duration> {
        Some(self.measured?.0)
    }

    /// The longest that is to be expected. It does not fall while nothing is measured.
    pub fn bound(&self) -> Duration {
        let (mean, deviation) = self.measured.unwrap_or_default();
        let expected = mean + 4 * deviation;
        let longest = self.longest.max(self.longest_before);
        expected.max(longest).min(limits::ROUND_TRIP_COUNTED_MAX)
    }
}

/// How late a thread gets to run, of late: the worst of each second.
#[derive(Clone, Debug, Default)]
pub(super) struct Lateness {
    seconds: [Duration; LATENESS_SECONDS],
    /// The second that is being counted.
    second: u64,
}

impl Lateness {
    /// The thread ran so much later than it had asked for.
    pub fn measured(&mut self, late: Duration, now: Time) {
        self.turn(now);
        if late <= limits::LATENESS_STOPPED_MIN {
            let worst = &mut self.seconds[place(self.second)];
            *worst = (*worst).max(late.min(limits::LATENESS_COUNTED_MAX));
        }
    }

    fn turn(&mut self, now: Time) {
        let second = now.as_micros() / SECOND.as_micros() as u64;
        let passed = second.saturating_sub(self.second);
        for passed in 1..=passed.min(LATENESS_SECONDS as u64) {
            self.seconds[place(self.second + passed)] = Duration::ZERO;
        }
        self.second = self.second.max(second);
    }

    /// The worst but one second of late.
    pub fn bound(&self) -> Duration {
        let (mut worst, mut next) = (Duration::ZERO, Duration::ZERO);
        for second in self.seconds {
            if second > worst {
                (worst, next) = (second, worst);
            } else {
                next = next.max(second);
            }
        }
        next
    }
}

fn place(second: u64) -> usize {
    (second % LATENESS_SECONDS as u64) as usize
}

/// How long a peer may be silent: see the module.
pub(super) fn patience(round_trip: &RoundTrip, own: Duration, theirs: Duration) -> Duration {
    let theirs = theirs.min(limits::LATENESS_COUNTED_MAX);
    round_trip.bound()
        + 2 * limits::BEAT_INTERVAL
        + limits::SILENCE_SLACK
        + limits::LATENESS_FACTOR * (own + theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    #[test]
    fn a_quiet_machine_has_the_floor() {
        let floor = 2 * limits::BEAT_INTERVAL + limits::SILENCE_SLACK;
        let nothing = RoundTrip::default();
        assert_eq!(patience(&nothing, ms(0), ms(0)), floor);
        assert!(floor <= ms(200), "{floor:?}");
    }

    #[test]
    fn a_steady_link_costs_its_round_trip_and_a_jittery_one_more() {
        let (mut steady, mut jittery) = (RoundTrip::default(), RoundTrip::default());
        for beat in 0..1000 {
            let now = at(beat * 40);
            steady.measured(ms(100), now);
            jittery.measured(ms(60 + 80 * (beat % 2)), now);
        }
        assert!(steady.bound() < ms(105), "{:?}", steady.bound());
        assert!(jittery.bound() > ms(200), "{:?}", jittery.bound());
    }

    #[test]
    fn the_longest_round_trip_is_remembered_for_a_while() {
        let mut link = RoundTrip::default();
        let bound_after = |link: &mut RoundTrip, from: u64, to: u64| {
            for beat in from / 40..to / 40 {
                link.measured(ms(1), at(beat * 40));
            }
            link.bound()
        };
        bound_after(&mut link, 0, 7_000);
        link.measured(ms(400), at(7_000));
        assert_eq!(bound_after(&mut link, 7_000, 11_000), ms(400));
        assert!(bound_after(&mut link, 11_000, 30_000) < ms(10));
    }

    #[test]
    fn lateness_counts_when_it_comes_again() {
        let mut lateness = Lateness::default();
        lateness.measured(ms(250), at(500));
        assert_eq!(lateness.bound(), ms(0), "once");
        lateness.measured(ms(150), at(2_500));
        assert_eq!(lateness.bound(), ms(150), "again");
        lateness.measured(ms(1), at(11_000));
        assert_eq!(lateness.bound(), ms(1), "the first is long ago");
        lateness.measured(ms(1), at(60_000));
        assert_eq!(lateness.bound(), ms(0), "all are long ago");
    }

    #[test]
    fn who_was_stopped_was_not_late() {
        let mut lateness = Lateness::default();
        for second in 0..10 {
            lateness.measured(ms(5_000), at(second * 1000));
        }
        assert_eq!(lateness.bound(), ms(0));
    }

    #[test]
    fn nothing_makes_patience_endless() {
        let mut link = RoundTrip::default();
        link.measured(Duration::MAX, at(1));
        let longest = patience(&link, limits::LATENESS_COUNTED_MAX, Duration::MAX);
        assert!(longest < ms(4_000), "{longest:?}");
    }
}
