//! Which lines are logged, and how those that are not are summed up.
//!
//! A line opens a window of [`limits::LOG_REPEAT_WINDOW`]. In it, [`limits::LOG_REPEATS_MAX`] lines
//! that are the same are logged and more are counted; at its end the count is told with the text of
//! the last one. While the condition lasts, each window after the first lets one line pass. So a
//! condition is seen when it begins, costs two lines a minute while it lasts, and has an end that
//! can be seen.
//!
//! Pure: the time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::Level;

use holdfast_server::limits;

/// Lines that were withheld.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Their level.
    pub(super) level: Level,
    /// Their number, without those that were logged.
    pub(super) times: u64,
    /// The time in which they came.
    pub(super) within: Duration,
    /// Text of the last of them.
    pub(super) last: String,
}

/// The lines of the present windows, by the key that says what is the same.
///
/// - No more than [`limits::LOG_REPEATS_TRACKED_MAX`] keys are told apart. What comes beyond shares
///   one window, with an allowance of its own.
/// - An entry without withheld lines whose window is over may go at any time.
#[derive(Default)]
pub(super) struct Repeats {
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    by_key: HashMap<u64, Window>,
    /// For the lines that found no room.
    others: Option<Window>,
}

struct Window {
    level: Level,
    since: Instant,
    allowed: u32,
    withheld: u64,
    last: String,
}

impl Window {
    fn new(level: Level, since: Instant, allowed: u32) -> Self {
        Self {
            level,
            since,
            allowed,
            withheld: 0,
            last: String::new(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= limits::LOG_REPEAT_WINDOW
    }

    /// Whether a line may pass. One that may not is counted.
    fn pass(&mut self, level: Level, text: &str) -> bool {
        if let Some(left) = self.allowed.checked_sub(1) {
            self.allowed = left;
            return true;
        }
        self.withheld += 1;
        // The more serious one is the smaller.
        self.level = self.level.min(level);
        self.last.clear();
        self.last.push_str(cut(text));
        false
    }

    /// What was withheld, if anything. Afterwards the next window has begun.
    fn close(&mut self, now: Instant) -> Option<Summary> {
        let within = now.saturating_duration_since(self.since);
        let times = std::mem::take(&mut self.withheld);
        let last = std::mem::take(&mut self.last);
        self.since = now;
        self.allowed = 1;
        (times > 0).then_some(Summary {
            level: self.level,
            times,
            within,
            last,
        })
    }
}

impl Repeats {
    /// Whether a line is logged. One that is not is counted.
    pub(super) fn seen(&self, key: u64, level: Level, text: &str, now: Instant) -> bool {
        let windows = &mut *self.windows.lock();
        let window = match windows.by_key.get_mut(&key) {
            Some(window) => window,
            None => {
                if windows.by_key.len() >= limits::LOG_REPEATS_TRACKED_MAX {
                    windows.forget(now);
                }
                if windows.by_key.len() >= limits::LOG_REPEATS_TRACKED_MAX {
                    windows.others.get_or_insert_with(|| {
                        Window::new(level, now, limits::LOG_UNTRACKED_LINES_MAX)
                    })
                } else {
                    let first = Window::new(level, now, limits::LOG_REPEATS_MAX);
                    windows.by_key.entry(key).or_insert(first)
                }
            }
        };
        if window.withheld == 0 && window.is_over(now) {
            let allowed = limits::LOG_REPEATS_MAX;
            *window = Window::new(level, now, allowed);
        }
        window.pass(level, text)
    }

    /// What was withheld in the windows that are over.
    pub(super) fn due(&self, now: Instant) -> Vec<Summary> {
        let mut windows = self.windows.lock();
        let summaries = windows.close(now, |window| window.is_over(now));
        windows.forget(now);
        summaries
    }

    /// All that was withheld.
    pub(super) fn all(&self, now: Instant) -> Vec<Summary> {
        self.windows.lock().close(now, |_| true)
    }
}

impl Windows {
    fn close(&mut self, now: Instant, of: impl Fn(&Window) -> bool) -> Vec<Summary> {
        self.by_key
            .values_mut()
            .chain(&mut self.others)
            .filter(|window| window.withheld > 0 && of(window))
            .filter_map(|window| window.close(now))
            .collect()
    }

    fn forget(&mut self, now: Instant) {
        let lives = |window: &Window| window.withheld > 0 || !window.is_over(now);
        self.by_key.retain(|_, window| lives(window));
        self.others.take_if(|window| !lives(window));
    }
}

/// The beginning of a text, as much of it as a summary tells.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(limits::LOG_SUMMARY_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(start: Instant, seconds: u32) -> Instant {
        start + SECOND * seconds
    }

    #[test]
    fn a_lasting_condition_costs_a_few_lines_and_loses_no_count() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let mut logged = Vec::new();
        let mut summed_up = Vec::new();
        // Twenty lines a second for three minutes.
        for tick in 0..3 * 60 * 20 {
            let now = start + SECOND * tick / 20;
            if repeats.seen(7, Level::WARN, &format!("line {tick}"), now) {
                logged.push(tick);
            }
            summed_up.extend(repeats.due(now).into_iter().map(|summary| (tick, summary)));
        }
        summed_up.extend(
            repeats
                .all(after(start, 180))
                .into_iter()
                .map(|summary| (3600, summary)),
        );
        assert_eq!(logged, [0, 1, 2, 1201, 2401]);
        let told: Vec<_> = summed_up.iter().map(|(at, s)| (*at, s.times)).collect();
        assert_eq!(told, [(1200, 1198), (2400, 1199), (3600, 1198)]);
        let total: u64 = told.iter().map(|(_, times)| times).sum();
        assert_eq!(total + logged.len() as u64, 3600);
        assert_eq!(summed_up[0].1.last, "line 1200");
        assert_eq!(summed_up[0].1.within, SECOND * 60);
        assert_eq!(summed_up[0].1.level, Level::WARN);
    }

    #[test]
    fn a_rare_line_is_never_withheld_and_keeps_no_memory() {
        let repeats = Repeats::default();
        let start = Instant::now();
        for minute in 0..100 {
            let now = after(start, 21 * minute);
            assert!(repeats.seen(7, Level::INFO, "now and then", now));
            assert_eq!(repeats.due(now), []);
        }
        assert_eq!(repeats.due(after(start, 10_000)), []);
        assert!(repeats.windows.lock().by_key.is_empty());
    }

    #[test]
    fn a_condition_that_is_back_after_a_pause_is_seen_anew() {
        let repeats = Repeats::default();
        let start = Instant::now();
        for _ in 0..10 {
            repeats.seen(7, Level::INFO, "again", start);
        }
        assert_eq!(repeats.due(after(start, 60))[0].times, 7);
        assert_eq!(repeats.due(after(start, 120)), []);
        let back = after(start, 500);
        let logged = (0..10).filter(|_| repeats.seen(7, Level::INFO, "again", back));
        assert_eq!(logged.count(), limits::LOG_REPEATS_MAX as usize);
    }

    #[test]
    fn lines_without_end_share_what_memory_there_is() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let lines = 10 * limits::LOG_REPEATS_TRACKED_MAX as u64;
        let logged = (0..lines).filter(|key| repeats.seen(*key, Level::WARN, "new", start));
        let logged = logged.count() as u64;
        let room =
            limits::LOG_REPEATS_TRACKED_MAX as u64 + u64::from(limits::LOG_UNTRACKED_LINES_MAX);
        assert_eq!(logged, room);
        assert_eq!(
            repeats.windows.lock().by_key.len(),
            limits::LOG_REPEATS_TRACKED_MAX
        );
        let told = repeats.due(after(start, 60));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].times, lines - logged);
        // Once the windows are over there is room again.
        assert!(repeats.seen(lines, Level::WARN, "new", after(start, 60)));
    }

    #[test]
    fn a_summary_is_as_serious_as_the_worst_it_tells_of_and_short() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let long = "ä".repeat(limits::LOG_SUMMARY_BYTES_MAX);
        for level in [
            Level::INFO,
            Level::INFO,
            Level::INFO,
            Level::ERROR,
            Level::INFO,
        ] {
            repeats.seen(7, level, &long, start);
        }
        let told = repeats.all(start);
        assert_eq!(told[0].level, Level::ERROR);
        assert!(told[0].last.len() <= limits::LOG_SUMMARY_BYTES_MAX);
    }
}
