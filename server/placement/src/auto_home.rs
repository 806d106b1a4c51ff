//! Where a keyspace with an automatic home lives: in the zone that most of its writes come from.
//!
//! Writes are counted in windows. A zone becomes home when it had more than a stated share of the writes of
//! several windows in a row, so that a burst, a batch at night or a client that wandered moves nothing. Idle
//! windows favour nobody.

use std::{collections::BTreeMap, time::Duration};

use crate::Policy;

/// The home of a keyspace, and what was seen that speaks for another.
#[derive(Clone, Debug)]
pub(crate) struct AutoHome {
    pub(crate) home: String,
    pub(crate) window_ends: Duration,
    /// The counters at the beginning of the window.
    counted: BTreeMap<String, u64>,
    /// The zone that the last windows favoured, and how many of them.
    candidate: Option<(String, u32)>,
    /// What the last window showed, in words.
    pub(crate) saw: String,
}

impl AutoHome {
    pub(crate) fn new(
        home: String,
        writes: &BTreeMap<String, u64>,
        now: Duration,
        policy: &Policy,
    ) -> Self {
        Self {
            home,
            window_ends: now.saturating_add(policy.auto_window),
            counted: writes.clone(),
            candidate: None,
            saw: "no window of writes is complete yet".to_owned(),
        }
    }

    /// Closes the window if it is over. `may_be_home` tells whether a zone can lead.
    pub(crate) fn look(
        &mut self,
        writes: &BTreeMap<String, u64>,
        now: Duration,
        policy: &Policy,
        may_be_home: impl Fn(&str) -> bool,
    ) {
        if now < self.window_ends {
            return;
        }
        let in_window = writes.iter().map(|(zone, count)| {
            let before = self.counted.get(zone).copied().unwrap_or(0);
            // A counter that shrank has started anew.
            (zone.as_str(), count.checked_sub(before).unwrap_or(*count))
        });
        let in_window: BTreeMap<&str, u64> = in_window.collect();
        let total: u64 = in_window
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count));
        let most = in_window.iter().max_by_key(|(_, count)| **count);
        let favoured = most.filter(|(zone, count)| {
            let share = u128::from(**count) * 100;
            total >= policy.auto_writes_min.max(1)
                && share > u128::from(total) * u128::from(policy.auto_share_percent)
                && may_be_home(zone)
        });
        let favoured = favoured.map(|(zone, _)| *zone);
        self.candidate = match (favoured, self.candidate.take()) {
            (Some(zone), _) if zone == self.home => None,
            (Some(zone), Some((before, windows))) if before == zone => Some((before, windows + 1)),
            (Some(zone), _) => Some((zone.to_owned(), 1)),
            (None, _) => None,
        };
        self.saw = saw(&in_window, total, policy);
        match self.candidate.take() {
            Some((zone, windows)) if windows >= policy.auto_windows => {
                self.saw.push_str(&format!(
                    "; {zone} became home after {windows} windows in a row, it was {}",
                    self.home
                ));
                self.home = zone;
            }
            Some((zone, windows)) => {
                let needed = policy.auto_windows;
                let text = format!("; {windows} of {needed} windows in a row speak for {zone}");
                self.saw.push_str(&text);
                self.candidate = Some((zone, windows));
            }
            None => {}
        }
        self.counted = writes.clone();
        self.window_ends = now.saturating_add(policy.auto_window);
    }
}

/// "of 1200 writes in 600 s: zone-b 82 %, zone-a 18 %".
fn saw(in_window: &BTreeMap<&str, u64>, total: u64, policy: &Policy) -> String {
    let window = policy.auto_window.as_secs_f64();
    let mut zones: Vec<_> = in_window.iter().filter(|(_, count)| **count > 0).collect();
    zones.sort_by_key(|(zone, count)| (std::cmp::Reverse(**count), **zone));
    let zones = zones.into_iter().map(|(zone, count)| {
        let percent = u128::from(*count) * 100 / u128::from(total.max(1));
        format!("{zone} {percent} %")
    });
    let zones: Vec<String> = zones.collect();
    let few = if total < policy.auto_writes_min {
        ", too few to count"
    } else {
        ""
    };
    if zones.is_empty() {
        return format!("no writes in {window} s");
    }
    format!("of {total} writes in {window} s: {}{few}", zones.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    /// Closes one window after the other, each with these writes from zones a and b.
    fn homes(windows: &[(u64, u64)]) -> (Vec<String>, AutoHome) {
        let policy = Policy::default();
        let mut writes = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 0)]);
        let mut now = Duration::ZERO;
        let mut auto = AutoHome::new("a".to_owned(), &writes, now, &policy);
        let mut homes = Vec::new();
        for (a, b) in windows {
            *writes.get_mut("a").unwrap() += a;
            *writes.get_mut("b").unwrap() += b;
            now += WINDOW;
            auto.look(&writes, now, &policy, |_| true);
            homes.push(auto.home.clone());
        }
        (homes, auto)
    }

    #[test]
    fn a_zone_becomes_home_after_three_windows_in_a_row() {
        let (homes, auto) = homes(&[(100, 9_900); 3]);
        assert_eq!(homes, ["a", "a", "b"]);
        assert!(auto.saw.contains("b 99 %, a 1 %"), "{}", auto.saw);
    }

    #[test]
    fn a_burst_moves_nothing() {
        let (homes, _) = homes(&[(0, 9_000), (0, 9_000), (9_000, 0), (0, 9_000), (0, 9_000)]);
        assert_eq!(homes, ["a"; 5]);
    }

    #[test]
    fn an_idle_keyspace_stays() {
        let (homes, auto) = homes(&[(0, 10); 9]);
        assert_eq!(homes, ["a"; 9]);
        assert!(auto.saw.ends_with("too few to count"), "{}", auto.saw);
    }

    #[test]
    fn writes_from_everywhere_move_nothing() {
        let (homes, _) = homes(&[(5_000, 6_000); 9]);
        assert_eq!(homes, ["a"; 9]);
    }

    #[test]
    fn a_counter_that_starts_anew_counts_from_zero() {
        let policy = Policy::default();
        let mut auto = AutoHome::new(
            "a".to_owned(),
            &BTreeMap::from([("a".to_owned(), 1_000_000)]),
            Duration::ZERO,
            &policy,
        );
        let writes = BTreeMap::from([("a".to_owned(), 5_000)]);
        auto.look(&writes, WINDOW, &policy, |_| true);
        assert_eq!(auto.saw, "of 5000 writes in 600 s: a 100 %");
    }
}
