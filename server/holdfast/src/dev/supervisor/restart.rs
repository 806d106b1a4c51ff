//! When a node that ended is started again.

use std::time::Duration;

/// Longest time between two attempts to start a node that fails to start.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);

/// Longer and longer for a node that fails to start, so that it does not fill the log.
pub(super) fn delay(delay: Duration, failures: u32) -> Duration {
    let base = if failures == 0 {
        delay
    } else {
        delay.max(Duration::from_secs(1))
    };
    base.saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(RESTART_DELAY_MAX.max(delay))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_node_that_fails_to_start_is_tried_less_and_less_often() {
        let delays = |delay: u64| -> Vec<u64> {
            (0..8)
                .map(|failures| super::delay(Duration::from_secs(delay), failures).as_secs())
                .collect()
        };
        assert_eq!(delays(3), [3, 3, 6, 12, 24, 48, 60, 60]);
        assert_eq!(delays(0), [0, 1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(delays(100), [100; 8], "the operator's wish is a minimum");
    }
}
