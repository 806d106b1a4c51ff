//! What was written, what came of it, and when the answers came.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// A write that the cluster has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Which of the clients wrote it.
    pub client: usize,
    /// Its key, which no other write has.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision that it made, as it was answered.
    pub revision: i64,
    /// When it was first sent.
    pub begun: Instant,
    /// When the answer arrived.
    pub at: Instant,
}

/// A write that ended with an error.
#[derive(Clone)]
pub struct Failed {
    /// Its key, which no other write has.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What the client said.
    pub error: String,
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.error)
    }
}

/// What became of the writes of one or several runs. Every key is written once at most.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which they were.
    pub acknowledged: Vec<Acknowledged>,
    /// Writes that may or may not have taken effect.
    pub unknown: Vec<Failed>,
    /// Writes that have not taken effect and never will, says the client.
    pub refused: Vec<Failed>,
}

impl History {
    /// Adds another history to this one.
    pub fn extend(&mut self, other: History) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
    }

    /// Adds a write that somebody else has made.
    pub fn acknowledge(&mut self, key: &str, value: &str, revision: i64) {
        let now = Instant::now();
        self.acknowledged.push(Acknowledged {
            client: 0,
            key: key.to_string(),
            value: value.to_string(),
            revision,
            begun: now,
            at: now,
        });
    }

    /// Adds a write of somebody else that may or may not have taken effect.
    pub fn unknown(&mut self, key: &str, value: &str, error: &str) {
        self.unknown.push(Failed {
            key: key.to_string(),
            value: value.to_string(),
            error: error.to_string(),
        });
    }

    /// How many writes ended with an error.
    pub fn failures(&self) -> usize {
        self.unknown.len() + self.refused.len()
    }

    /// # Panics
    ///
    /// If any write has failed, and names them.
    pub fn assert_no_failures(&self) {
        let failed: Vec<_> = self.unknown.iter().chain(&self.refused).collect();
        assert!(failed.is_empty(), "writes have failed: {failed:#?}");
    }

    /// Of the writes that began after `moment`, the one that was acknowledged first.
    pub fn first_begun_after(&self, moment: Instant) -> Option<&Acknowledged> {
        let begun_after = self.acknowledged.iter().filter(|ack| ack.begun > moment);
        begun_after.min_by_key(|ack| ack.at)
    }

    /// The longest time between two acknowledgements.
    pub fn longest_gap(&self) -> Duration {
        let times = || self.acknowledged.iter().map(|ack| ack.at);
        match (times().min(), times().max()) {
            (Some(first), Some(last)) => longest_pause(&self.acknowledged, first, last),
            _ => Duration::ZERO,
        }
    }

    /// Time from `moment` to the first acknowledgement after it, and the longest time without any from
    /// then on. None if none came.
    pub fn recovery(&self, moment: Instant) -> Option<(Duration, Duration)> {
        let after = || self.acknowledged.iter().map(|ack| ack.at);
        let first = after().filter(|at| *at > moment).min()?;
        let last = after().max()?;
        let longest = longest_pause(&self.acknowledged, moment, last);
        Some((first - moment, longest))
    }
}

/// Acknowledgements per second between two moments.
pub fn rate<'a>(
    acknowledged: impl IntoIterator<Item = &'a Acknowledged>,
    from: Instant,
    to: Instant,
) -> f64 {
    let seconds = to.saturating_duration_since(from).as_secs_f64();
    let within = |ack: &&Acknowledged| ack.at >= from && ack.at < to;
    let count = acknowledged.into_iter().filter(within).count();
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// Longest time without an acknowledgement that reaches into the time from `from` to `to`.
pub fn longest_pause<'a>(
    acknowledged: impl IntoIterator<Item = &'a Acknowledged>,
    from: Instant,
    to: Instant,
) -> Duration {
    let times = acknowledged.into_iter().map(|ack| ack.at);
    let mut times: Vec<Instant> = times.filter(|at| *at < to).collect();
    times.sort_unstable();
    let after = times.partition_point(|at| *at <= from);
    let mut last = after.checked_sub(1).map_or(from, |before| times[before]);
    let mut longest = Duration::ZERO;
    for at in times[after..].iter().copied().chain([to]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes that were answered so many milliseconds after `start`, and begun 50 ms before.
    fn history(start: Instant, at_ms: &[u64]) -> History {
        let start = start + Duration::from_millis(50);
        let ack = |ms: &u64| Acknowledged {
            client: 0,
            key: format!("k{ms}"),
            value: String::new(),
            revision: 1,
            begun: start + Duration::from_millis(*ms) - Duration::from_millis(50),
            at: start + Duration::from_millis(*ms),
        };
        History {
            acknowledged: at_ms.iter().map(ack).collect(),
            ..History::default()
        }
    }

    /// A history and how its times are made.
    fn timed(at_ms: &[u64]) -> (History, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let from = start + Duration::from_millis(50);
        (history(start, at_ms), move |ms| {
            from + Duration::from_millis(ms)
        })
    }

    #[test]
    fn pauses_are_measured_from_the_last_answer_before() {
        let (history, ms) = timed(&[0, 400, 490, 820, 830, 900]);
        let pause = |from, to| longest_pause(&history.acknowledged, ms(from), ms(to)).as_millis();
        assert_eq!(pause(500, 1_000), 330, "490 to 820; 0 to 400 was before");
        assert_eq!(pause(100, 1_000), 400);
        assert_eq!(pause(850, 2_000), 1_100, "nothing came until the end");
        assert_eq!(longest_pause([], ms(100), ms(300)).as_millis(), 200);
    }

    #[test]
    fn the_longest_gap_lies_between_two_answers_whatever_their_order() {
        let (history, _) = timed(&[900, 0, 490, 400, 830, 820]);
        assert_eq!(history.longest_gap().as_millis(), 400);
        assert_eq!(timed(&[7]).0.longest_gap(), Duration::ZERO);
        assert_eq!(History::default().longest_gap(), Duration::ZERO);
    }

    #[test]
    fn rates_count_what_lies_within() {
        let (history, ms) = timed(&[0, 100, 200, 300, 500]);
        let acknowledged = &history.acknowledged;
        assert!((rate(acknowledged, ms(0), ms(500)) - 8.0).abs() < 1e-9);
        assert_eq!(rate(acknowledged, ms(500), ms(500)), 0.0);
    }

    #[test]
    fn an_answer_that_was_under_way_is_not_the_first_of_a_write_begun_after() {
        let (history, ms) = timed(&[0, 400, 430, 700]);
        let first = history.first_begun_after(ms(390)).map(|ack| ack.at);
        assert_eq!(first, Some(ms(700)), "400 and 430 began at 350 and 380");
        assert_eq!(history.first_begun_after(ms(650)), None);
        let (to_first, longest) = history.recovery(ms(390)).unwrap();
        assert_eq!((to_first.as_millis(), longest.as_millis()), (10, 400));
        assert_eq!(history.recovery(ms(700)), None);
    }
}
