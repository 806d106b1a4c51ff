//! The runtime under openraft: tokio, with timers of many groups that fire together.
//!
//! Each group has a timer of its own, and openraft spreads their phases. With hundreds of groups that nobody
//! uses, nearly every tick then wakes a thread, and waking costs more than the tick. Here a wait may end
//! late by a part of its length, and ends at a mark that all groups of the process have in common:
//!
//! ```text
//!   asked for      |  a   b  |  c     d |    e    |
//!   fires at       |         ab         cd        e      one wake for each mark
//! ```
//!
//! - No wait ends early.
//! - A wait ends late by less than half of what was left of it, and by less than
//!   [`limits::TIMER_GRAIN_MAX_MS`].
//!
//! openraft waits until a time only for its ticks, and for a microsecond when it gathers what was synced;
//! timeouts and pauses are durations, and those are tokio's.

use std::{io, sync::LazyLock, time::Duration};

use openraft::{AsyncRuntime, Instant, OptionalSend};
use openraft_rt_tokio::{TokioInstant, TokioRuntime};

use crate::limits;

/// Tokio, with common marks for timers.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

/// Since when marks are counted.
static EPOCH: LazyLock<TokioInstant> = LazyLock::new(TokioInstant::now);

/// How far from the first mark a wait ends that began at `now` and was to end at `due`.
fn mark(now: Duration, due: Duration) -> Duration {
    let wait = due.saturating_sub(now).as_millis();
    let late_max = u64::try_from(wait / 2).unwrap_or(u64::MAX);
    if late_max == 0 {
        return due;
    }
    let grain = (1 << late_max.ilog2()).min(limits::TIMER_GRAIN_MAX_MS);
    let grain = Duration::from_millis(grain);
    let past = due.as_nanos() % grain.as_nanos();
    match u64::try_from(past) {
        Ok(0) | Err(_) => due,
        Ok(past) => due + (grain - Duration::from_nanos(past)),
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let epoch = *EPOCH;
        let since_epoch = |at: TokioInstant| at.saturating_duration_since(epoch);
        let (now, due) = (since_epoch(TokioInstant::now()), since_epoch(deadline));
        TokioRuntime::sleep_until(deadline + (mark(now, due) - due))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_ends_late_by_less_than_half_and_never_early(
            now in 0_u64..1 << 44,
            wait in 0_u64..1 << 36,
        ) {
            let (now, wait) = (Duration::from_nanos(now), Duration::from_nanos(wait));
            let late = mark(now, now + wait).checked_sub(now + wait).expect("never early");
            prop_assert!(late <= wait / 2);
            prop_assert!(late < Duration::from_millis(limits::TIMER_GRAIN_MAX_MS));
        }

        #[test]
        fn waits_of_many_end_together(now in 0_u64..1 << 44, spread in 0_u64..200) {
            let (now, tick) = (Duration::from_nanos(now), Duration::from_millis(400));
            let ends = mark(now, now + tick + Duration::from_millis(spread));
            let grain = u128::from(limits::TIMER_GRAIN_MAX_MS) * 1_000_000;
            prop_assert_eq!(ends.as_nanos() % grain, 0);
        }
    }

    #[test]
    fn a_wait_of_a_moment_is_as_long_as_asked() {
        let now = Duration::from_micros(77_777);
        let due = now + Duration::from_micros(1);
        assert_eq!(mark(now, due), due);
    }

    #[test]
    fn openraft_can_run_on_it() {
        openraft::testing::runtime::Suite::<Runtime>::test_all();
    }
}
