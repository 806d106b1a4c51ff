//! What `holdfast dev` writes to standard output: plain lines, on a terminal or in a pipe.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

/// Writes lines to standard output. A reader that has gone away does not stop the cluster, so
/// failures to write are ignored.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    started: Instant,
}

impl Screen {
    /// A screen whose clock starts now.
    pub fn new() -> Screen {
        Screen {
            started: Instant::now(),
        }
    }

    /// A line as it is.
    pub fn plain(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.as_ref());
        let _ = out.flush();
    }

    /// A line with the time since the start in front.
    pub fn event(&self, text: impl fmt::Display) {
        let at = self.started.elapsed();
        self.plain(format!("{:>8.3}s  {}", at.as_secs_f64(), text));
    }
}

impl Default for Screen {
    fn default() -> Self {
        Screen::new()
    }
}

/// A duration as people read it: `312 ms`, `3.41 s`.
pub fn short(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        seconds if seconds < 100.0 => format!("{seconds:.2} s"),
        seconds => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (ms, text) in [
            (0, "0 ms"),
            (312, "312 ms"),
            (3_412, "3.41 s"),
            (123_456, "123 s"),
        ] {
            assert_eq!(short(Duration::from_millis(ms)), text);
        }
    }
}
