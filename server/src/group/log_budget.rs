//! The log of a node keeps within one budget, whatever its groups do.
//!
//! The log is shared, so old entries of any group hold segments that are otherwise dead. When the files
//! of the log are larger than the budget, segments are emptied:
//!
//! - one in which little is live is vacated: its entries are written again at the end of the log;
//! - else, from the oldest on, the groups that hold it are purged up to there. A follower that still
//!   needs those entries gets a snapshot.
//!
//! Only what is applied here can be purged, so a group that applies nothing can hold the log above its
//! budget; that is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Instant,
};

use super::Group;
use crate::{
    limits,
    storage::log::{Log, SegmentUse},
};

/// What to do about a log that is too large.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Segments to vacate.
    vacate: Vec<u64>,
    /// Group, and the index up to which it is to be purged.
    purge: BTreeMap<u64, u64>,
}

/// Frees `over_bytes` or a little more, if there is so much to free.
fn plan(mut uses: Vec<SegmentUse>, segment_bytes: u64, over_bytes: u64) -> Plan {
    let needed = over_bytes.div_ceil(segment_bytes) as usize;
    let little = segment_bytes / limits::LOG_VACATE_FRACTION;
    let mut plan = Plan::default();
    // Least first: most room for the bytes that are written again.
    uses.sort_by_key(|used| (used.live_bytes, used.segment));
    let cheap = uses.partition_point(|used| used.live_bytes <= little);
    let rest = uses.split_off(cheap);
    plan.vacate = uses.iter().take(needed).map(|used| used.segment).collect();
    let mut oldest = rest;
    oldest.sort_by_key(|used| used.segment);
    for used in oldest.iter().take(needed - plan.vacate.len()) {
        for (&group, &last) in &used.last {
            let upto = plan.purge.entry(group).or_default();
            *upto = last.max(*upto);
        }
    }
    plan
}

/// Starts the task that keeps the log of `groups` within `budget_bytes`. It ends with them.
pub fn keep_log_within(budget_bytes: u64, segment_bytes: u64, log: Log, groups: &[Arc<Group>]) {
    let groups: BTreeMap<u64, Weak<Group>> = groups
        .iter()
        .map(|group| (group.id(), Arc::downgrade(group)))
        .collect();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(limits::LOG_BUDGET_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut over_since = None;
        while log.failure().is_none() {
            ticks.tick().await;
            if groups.values().all(|group| group.strong_count() == 0) {
                return;
            }
            let over_bytes = log.stats().disk_bytes.saturating_sub(budget_bytes);
            if over_bytes == 0 {
                over_since = None;
                continue;
            }
            let since = *over_since.get_or_insert_with(Instant::now);
            if since.elapsed() > limits::LOG_OVER_BUDGET_MAX {
                tracing::warn!(
                    over_bytes,
                    budget_bytes,
                    "the log of this node stays over its budget: a keyspace applies nothing, or its \
                     entries are still being sent; see which with `holdfastctl status`"
                );
                over_since = None;
            }
            let plan = plan(log.segment_uses(), segment_bytes, over_bytes);
            tracing::debug!(over_bytes, ?plan, "the log is over its budget");
            for segment in plan.vacate {
                if let Err(error) = log.vacate(segment).await {
                    tracing::debug!(segment, %error, "segment not vacated");
                    break;
                }
            }
            for (id, upto) in plan.purge {
                let group = groups.get(&id).and_then(Weak::upgrade);
                let applied = group.as_ref().and_then(|group| group.read().0.index);
                if let (Some(group), Some(applied)) = (group, applied)
                    && let Err(error) = group.raft.checkpoint_and_purge(upto.min(applied)).await
                {
                    tracing::debug!(group = id, upto, %error, "log not purged");
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(segment: u64, live_bytes: u64, last: &[(u64, u64)]) -> SegmentUse {
        SegmentUse {
            segment,
            live_bytes,
            last: last.iter().copied().collect(),
        }
    }

    #[test]
    fn what_holds_little_is_moved_and_what_holds_much_is_purged_from_the_oldest_on() {
        let uses = || {
            vec![
                used(3, 900, &[(1, 90), (2, 7)]),
                used(4, 20, &[(2, 8)]),
                used(5, 800, &[(1, 95)]),
                used(6, 10, &[(2, 9)]),
                used(7, 700, &[(1, 99)]),
            ]
        };
        let of = |over_bytes| plan(uses(), 1_000, over_bytes);
        assert_eq!(of(1).vacate, [6], "the least first");
        assert_eq!(of(2_000).vacate, [6, 4]);
        assert_eq!(of(2_000).purge, [].into());
        let more = of(3_500);
        assert_eq!(more.vacate, [6, 4]);
        assert_eq!(more.purge, [(1, 95), (2, 7)].into());
        assert_eq!(of(1 << 40).purge, [(1, 99), (2, 7)].into());
        assert_eq!(plan(Vec::new(), 1_000, 5), Plan::default());
    }
}
