//! The log of a node keeps within one budget, whatever its groups do.
//!
//! The log is shared, so old entries of any group hold segments that are otherwise dead. When the files
//! of the log are larger than the budget, segments are emptied:
//!
//! - one in which little is live is vacated: its entries are written again at the end of the log;
//! - else, from the oldest on, the groups that hold much of it are purged up to there, and what others
//!   hold is moved afterwards. A follower that still needs entries which were purged gets a snapshot.
//!
//! Only what is applied here can be purged, so a group that applies nothing can hold the log above its
//! budget; that is told.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

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
        // Without what holds much of it, the rest can be moved; without one that does, all must go.
        let much = used.held.values().any(|held| held.bytes > little);
        for (&group, held) in &used.held {
            if held.bytes > little || !much {
                let upto = plan.purge.entry(group).or_default();
                *upto = held.last.max(*upto);
            }
        }
    }
    plan
}

/// Keeps the log within `budget_bytes` until the log fails. `running` tells which groups run now: those
/// that wait for their state come later, and what they hold of the log is moved meanwhile, not purged.
pub async fn keep_log_within(
    budget_bytes: u64,
    segment_bytes: u64,
    log: Log,
    running: impl Fn() -> Vec<Arc<Group>>,
) {
    let mut ticks = tokio::time::interval(limits::LOG_BUDGET_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut over_since = None;
    while log.failure().is_none() {
        ticks.tick().await;
        let over_bytes = log.disk_bytes().saturating_sub(budget_bytes);
        if over_bytes == 0 {
            over_since = None;
            continue;
        }
        let groups = running();
        if groups.is_empty() {
            // Nothing is written: the log stays as it was found, or was left.
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
            let group = groups.iter().find(|group| group.id() == id);
            let applied = group.and_then(|group| group.read().0.index);
            if let (Some(group), Some(applied)) = (group, applied)
                && let Err(error) = group.raft.checkpoint_and_purge(upto.min(applied)).await
            {
                tracing::debug!(group = id, upto, %error, "log not purged");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_proto::{
        command::{Command, command::Op},
        etcdserverpb::PutRequest,
    };

    use super::*;
    use crate::{
        group::tests::{alone, late},
        storage::log::{Held, LogOptions, files::DiskFiles},
    };

    /// Groups, what each holds, and up to which index.
    fn used(segment: u64, held: &[(u64, u64, u64)]) -> SegmentUse {
        let held = held
            .iter()
            .map(|&(group, bytes, last)| (group, Held { bytes, last }));
        let held: BTreeMap<u64, Held> = held.collect();
        SegmentUse {
            segment,
            live_bytes: held.values().map(|held| held.bytes).sum(),
            held,
        }
    }

    #[test]
    fn what_holds_little_is_moved_and_what_holds_much_is_purged_from_the_oldest_on() {
        let uses = || {
            vec![
                used(3, &[(1, 800, 90), (2, 100, 7)]),
                used(4, &[(2, 20, 8)]),
                used(5, &[(1, 800, 95)]),
                used(6, &[(2, 10, 9)]),
                used(7, &[(2, 100, 12), (3, 120, 99)]),
            ]
        };
        let of = |over_bytes| plan(uses(), 1_000, over_bytes);
        assert_eq!(of(1).vacate, [6], "the least first");
        assert_eq!(of(2_000).vacate, [6, 4]);
        assert_eq!(of(2_000).purge, [].into());
        let more = of(3_500);
        assert_eq!(more.vacate, [6, 4]);
        assert_eq!(
            more.purge,
            [(1, 95)].into(),
            "what is little is moved later"
        );
        let all = of(1 << 40).purge;
        assert_eq!(
            all,
            [(1, 95), (2, 12), (3, 99)].into(),
            "little of each is much"
        );
        assert_eq!(plan(Vec::new(), 1_000, 5), Plan::default());
    }

    fn put(bytes: usize) -> Command {
        Command {
            op: Some(Op::Put(PutRequest {
                key: "k".into(),
                value: Bytes::from(vec![1; bytes]),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_log_keeps_within_its_budget_and_a_quiet_group_keeps_its_entries() {
        const SEGMENT_BYTES: u32 = 64 << 10;
        let budget_bytes = 16 * u64::from(SEGMENT_BYTES);
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            ..LogOptions::default()
        };
        let (log, _) = Log::open(&dir.path().join("log"), options, Arc::new(DiskFiles)).unwrap();
        let (busy, quiet) = (
            alone(1, &log, dir.path()).await,
            alone(2, &log, dir.path()).await,
        );
        for _ in 0..60 {
            quiet.propose(put(40), late()).await.unwrap();
            busy.propose(put(40_000), late()).await.unwrap();
        }
        let kept = log.group(2).unwrap().read(0..u64::MAX, usize::MAX).unwrap();
        assert!(kept.len() >= 60);
        assert!(log.stats().disk_bytes > 2 * budget_bytes);

        let groups = [busy.clone(), quiet.clone()];
        let running = {
            let groups = groups.clone();
            move || groups.to_vec()
        };
        let segment_bytes = u64::from(SEGMENT_BYTES);
        let kept_within = keep_log_within(budget_bytes, segment_bytes, log.clone(), running);
        // Aborted with the test.
        let mut beside = tokio::task::JoinSet::new();
        beside.spawn(kept_within);
        let within = async {
            while log.stats().disk_bytes > budget_bytes {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), within)
            .await
            .unwrap_or_else(|_| panic!("not within the budget: {:?}", log.stats()));
        let now = log.group(2).unwrap().read(0..u64::MAX, usize::MAX).unwrap();
        assert_eq!(now, kept, "moved, not purged");
        assert!(busy.log_bounds().0 > 0, "the busy one was purged");
        // Both go on.
        for group in groups {
            group.propose(put(1), late()).await.unwrap();
        }
    }
}
