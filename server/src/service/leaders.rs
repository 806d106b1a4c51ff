//! Which group has which leader, for the log: once when it changes, once when there is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::limits;

/// What was told of the groups.
#[derive(Default)]
pub(super) struct Leaders {
    groups: BTreeMap<u64, Seen>,
}

/// What was told of one group. `proven` is when it last had a leader that a quorum follows, or when
/// it was first looked at.
struct Seen {
    leader: Option<u64>,
    proven: Instant,
    lack_told: bool,
}

/// What there is to tell of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It has another leader, or one again, after this time without.
    Leader {
        leader: u64,
        before: Option<u64>,
        without: Duration,
    },
    /// It has had no leader for this time.
    Lack {
        before: Option<u64>,
        without: Duration,
    },
}

impl Leaders {
    /// Takes what a look at a group found: a leader that has proved itself, or none.
    pub(super) fn seen(&mut self, group: u64, leader: Option<u64>, now: Instant) -> Option<News> {
        let seen = self.groups.entry(group).or_insert(Seen {
            leader: None,
            proven: now,
            lack_told: false,
        });
        let without = now.duration_since(seen.proven);
        let before = seen.leader;
        if let Some(leader) = leader {
            seen.proven = now;
            seen.leader = Some(leader);
            let had_none = std::mem::take(&mut seen.lack_told);
            return (had_none || before != Some(leader)).then_some(News::Leader {
                leader,
                before,
                without,
            });
        }
        if seen.lack_told || without < limits::LEADERLESS_TOLD_AFTER {
            return None;
        }
        seen.lack_told = true;
        Some(News::Lack { before, without })
    }

    /// Forgets all groups but these.
    pub(super) fn keep(&mut self, groups: &BTreeSet<u64>) {
        self.groups.retain(|group, _| groups.contains(group));
    }

    /// Forgets all groups: the node runs none.
    pub(super) fn forget(&mut self) {
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_change_is_told_once_with_the_time_without_a_leader() {
        let start = Instant::now();
        let mut leaders = Leaders::default();
        let mut told = Vec::new();
        for second in 0..60 {
            let leader = match second {
                0..2 => None,
                2..10 => Some(1),
                10..11 => None,
                11..20 => Some(2),
                20..40 => None,
                _ => Some(2),
            };
            let now = start + SECOND * second;
            told.extend(leaders.seen(7, leader, now).map(|news| (second, news)));
        }
        let lack = limits::LEADERLESS_TOLD_AFTER;
        assert_eq!(
            told,
            [
                (
                    2,
                    News::Leader {
                        leader: 1,
                        before: None,
                        without: 2 * SECOND
                    }
                ),
                (
                    11,
                    News::Leader {
                        leader: 2,
                        before: Some(1),
                        without: 2 * SECOND
                    }
                ),
                (
                    19 + lack.as_secs() as u32,
                    News::Lack {
                        before: Some(2),
                        without: lack
                    }
                ),
                (
                    40,
                    News::Leader {
                        leader: 2,
                        before: Some(2),
                        without: 21 * SECOND
                    }
                ),
            ]
        );
    }

    #[test]
    fn a_node_that_never_sees_a_leader_says_so_and_groups_do_not_mix() {
        let start = Instant::now();
        let mut leaders = Leaders::default();
        assert_eq!(leaders.seen(1, None, start), None);
        assert!(leaders.seen(2, Some(3), start).is_some());
        let late = start + limits::LEADERLESS_TOLD_AFTER;
        assert_eq!(leaders.seen(2, Some(3), late), None);
        let lack = Some(News::Lack {
            before: None,
            without: limits::LEADERLESS_TOLD_AFTER,
        });
        assert_eq!(leaders.seen(1, None, late), lack);
        assert_eq!(leaders.seen(1, None, late + SECOND), None);
    }
}
