//! Time as the detector counts it: monotonic, since its own start, so that no clock of a wall matters.

use std::{
    ops::Add,
    time::{Duration, Instant},
};

/// A moment, in microseconds since the detector started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(u64);

impl Time {
    /// That many microseconds after the start.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start.
    pub fn as_micros(self) -> u64 {
        self.0
    }

    /// `at`, for a detector that started at `start`.
    pub fn of(at: Instant, start: Instant) -> Self {
        Self(micros(at.saturating_duration_since(start)))
    }

    /// This moment on the clock of a detector that started at `start`.
    pub fn on(self, start: Instant) -> Instant {
        start + Duration::from_micros(self.0)
    }

    /// How long `earlier` is ago; nothing if it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// So much earlier, or the start.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
