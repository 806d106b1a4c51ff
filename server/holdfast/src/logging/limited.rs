//! The layer that keeps one condition from filling the log; see [`super::repeats`] for the rule.

use std::{
    fmt::{Debug, Write},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::repeats::Repeats;

/// Fields whose values tell one subject from another. Lines that differ in one of them are
/// different lines; lines that differ only in other numbers (a term, a time, an index) are not.
const SUBJECTS: [&str; 10] = [
    "group", "peer", "to", "from", "node", "member", "path", "file", "thread", "server",
];

/// Lets an event pass, or counts it.
#[derive(Clone, Default)]
pub(super) struct Limited {
    pub(super) repeats: Arc<Repeats>,
    /// Set for good when the node takes itself apart: peers still send to groups that are gone, and what
    /// openraft says of that is no news.
    pub(super) groups_are_stopping: Arc<AtomicBool>,
}

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let level = *metadata.level();
        if metadata.target().starts_with("openraft")
            && self.groups_are_stopping.load(Ordering::Relaxed)
        {
            return false;
        }
        // Who asks for more than what concerns operators wants all of it. The log's own lines
        // tell of others that were withheld.
        if level > Level::INFO || metadata.target() == OWN_TARGET {
            return true;
        }
        let mut line = Line::default();
        metadata.callsite().hash(&mut line.key);
        event.record(&mut line);
        self.repeats
            .seen(line.key.finish(), level, &line.text, Instant::now())
    }
}

/// Target of the events of the module above.
const OWN_TARGET: &str = "holdfast::logging";

/// The text of an event and what identifies it.
#[derive(Default)]
struct Line {
    key: DefaultHasher,
    text: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: &str) {
        let name = field.name();
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        if name != "message" {
            self.text.push_str(name);
            self.text.push('=');
        }
        self.text.push_str(value);
        name.hash(&mut self.key);
        if SUBJECTS.contains(&name) {
            value.hash(&mut self.key);
        } else {
            without_numbers(value, |part| part.hash(&mut self.key));
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // A value that cannot be formatted has no text to tell it from others.
        let _ = write!(text, "{value:?}");
        self.add(field, &text);
    }
}

/// Gives `take` the parts of a text between its numbers: digits with the letters, digits and dots
/// that follow them at once, such as `17`, `1.5ms` or `7f3a`.
fn without_numbers(text: &str, mut take: impl FnMut(&str)) {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        take(&rest[..at]);
        let number = &rest[at..];
        let end = number
            .find(|c: char| !c.is_alphanumeric() && c != '.')
            .unwrap_or(number.len());
        rest = &number[end..];
    }
    take(rest);
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Keeps the messages that pass.
    #[derive(Clone, Default)]
    struct Passed(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Passed {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().push(line.text);
        }
    }

    fn passed(log: impl FnOnce()) -> Vec<String> {
        passed_through(Limited::default(), log)
    }

    fn passed_through(limited: Limited, log: impl FnOnce()) -> Vec<String> {
        let passed = Passed::default();
        let subscriber = tracing_subscriber::registry()
            .with(limited)
            .with(passed.clone());
        tracing::subscriber::with_default(subscriber, log);
        std::mem::take(&mut *passed.0.lock())
    }

    #[test]
    fn lines_that_differ_in_numbers_are_one_and_those_of_another_subject_are_not() {
        let lines = passed(|| {
            for term in 1..=50 {
                for group in [1, 2] {
                    tracing::warn!(group, term, "no leader for {}.5ms", term * 7);
                }
            }
        });
        assert_eq!(lines.len(), 6, "three of each group: {lines:?}");
        assert_eq!(lines[0], "no leader for 7.5ms group=1 term=1");
        assert_eq!(lines[1], "no leader for 7.5ms group=2 term=1");
    }

    #[test]
    fn other_words_and_other_places_are_other_lines() {
        let lines = passed(|| {
            for _ in 0..50 {
                for why in ["refused", "silent"] {
                    tracing::info!(why, "a peer");
                }
                tracing::info!(why = "refused", "a peer");
            }
        });
        assert_eq!(lines.len(), 9);
    }

    #[test]
    fn what_openraft_says_of_groups_that_stop_is_no_news() {
        let limited = Limited::default();
        let stopping = limited.groups_are_stopping.clone();
        let lines = passed_through(limited, || {
            let say = || {
                tracing::error!(target: "openraft::raft::raft_inner", "raft stopped");
                tracing::error!("the disk failed");
            };
            say();
            stopping.store(true, Ordering::Relaxed);
            say();
        });
        assert_eq!(
            lines,
            ["raft stopped", "the disk failed", "the disk failed"]
        );
    }

    #[test]
    fn who_debugs_sees_every_line() {
        let lines = passed(|| {
            for _ in 0..50 {
                tracing::debug!("tick");
            }
        });
        assert_eq!(lines.len(), 50);
    }

    #[test]
    fn numbers_are_digits_and_what_clings_to_them() {
        let parts = |text| {
            let mut parts = Vec::new();
            without_numbers(text, |part| parts.push(part.to_owned()));
            parts
        };
        assert_eq!(parts("no number"), ["no number"]);
        assert_eq!(
            parts("after 1.5ms at 127.0.0.1:80"),
            ["after ", " at ", ":", ""]
        );
        assert_eq!(parts("3µs"), ["", ""]);
    }
}
