//! What a group does on its own: purge its log, remove superseded versions.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Group, versions};
use crate::limits;

/// How much of the log stays behind the checkpoint, for followers that were away.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Entries kept.
    pub log_entries_max: u64,
    /// Bytes kept.
    pub log_bytes_max: u64,
}

/// Bytes of a group that stay in the log while the disk is nearly full: the log gives way before
/// anything is refused for longer than need be.
const SHORT_LOG_BYTES: u64 = 1024 * 1024;
/// Interval between two looks at the log.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn spawn(group: &Arc<Group>, retention: Retention) {
    tokio::spawn(purge(Arc::downgrade(group), retention));
    tokio::spawn(scrub(Arc::downgrade(group)));
    tokio::spawn(versions::raise(Arc::downgrade(group)));
}

/// Index up to which the log may go, if it is worth it: with a tenth of slack, so that a
/// checkpoint is not made for a handful of entries.
fn purge_target(retention: Retention, first: u64, applied: u64, bytes: u64) -> Option<u64> {
    let held = (applied + 1).saturating_sub(first);
    let entries_max = retention.log_entries_max;
    if held > entries_max + entries_max / 10 {
        return Some(applied.saturating_sub(entries_max));
    }
    if bytes > retention.log_bytes_max {
        return half_target(first, applied);
    }
    None
}

/// Entries differ in size; half of them is about half of the bytes. One entry stays.
fn half_target(first: u64, applied: u64) -> Option<u64> {
    let held = (applied + 1).saturating_sub(first);
    (held > 1).then(|| first + held / 2)
}

/// Looks at the log when something was applied, or room became short, and at most so often. What could not
/// be purged is tried again.
async fn purge(group: Weak<Group>, retention: Retention) {
    let Some((mut published, mut short)) = group
        .upgrade()
        .map(|group| (group.raft.shared().watch(), group.raft.room().watch()))
    else {
        return;
    };
    loop {
        published.borrow_and_update();
        let is_short = *short.borrow_and_update();
        let settled = {
            let Some(group) = group.upgrade() else {
                return;
            };
            if group.leadership().borrow().stopped.is_some() {
                return;
            }
            group.purge_if_due(retention, is_short).await
        };
        if settled {
            tokio::select! {
                changed = published.changed() => if changed.is_err() {
                    return;
                },
                changed = short.changed() => if changed.is_err() {
                    return;
                },
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

impl Group {
    /// Purges what need not stay. Whether nothing is left to do until something happens.
    async fn purge_if_due(&self, retention: Retention, short: bool) -> bool {
        let Some(applied) = self.read().0.index else {
            return true;
        };
        let first = self.log_bounds().0;
        let live_bytes = self.live_log_bytes();
        let target = purge_target(retention, first, applied, live_bytes);
        let target = target.or_else(|| {
            let worth_it = short && live_bytes > SHORT_LOG_BYTES;
            worth_it.then(|| half_target(first, applied)).flatten()
        });
        let Some(upto) = target else {
            return true;
        };
        match self.raft.checkpoint_and_purge(upto).await {
            Ok(()) => tracing::debug!(group = self.id(), upto, "log purged"),
            Err(e) => tracing::warn!(group = self.id(), upto, error = %e, "log not purged"),
        }
        false
    }
}

async fn scrub(group: Weak<Group>) {
    let Some(mut published) = group.upgrade().map(|g| g.raft.shared().watch()) else {
        return;
    };
    loop {
        let compact = {
            let Some(group) = group.upgrade() else {
                return;
            };
            let compact = published.borrow_and_update().revisions.compact;
            if compact > *group.scrubbed.borrow() {
                loop {
                    if group.raft.shared().store().wait_for_room().await.is_err() {
                        return;
                    }
                    match group.raft.scrub_step(limits::SCRUB_STEP_RECORDS_MAX).await {
                        Ok(true) => tokio::task::yield_now().await,
                        Ok(false) => break,
                        Err(_) => return,
                    }
                }
                let done = group.raft.scrubbed_to().await.unwrap_or(-1);
                group.scrubbed.send_replace(done);
                done < compact
            } else {
                false
            }
        };
        if compact {
            // A snapshot in progress holds the rest back.
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        let known = published.borrow().revisions.compact;
        if published
            .wait_for(|p| p.revisions.compact > known)
            .await
            .is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Retention = Retention {
        log_entries_max: 1000,
        log_bytes_max: 1 << 20,
    };

    #[test]
    fn the_log_is_purged_with_slack_and_by_bytes() {
        assert_eq!(purge_target(KEEP, 0, 1050, 0), None, "within the slack");
        assert_eq!(purge_target(KEEP, 0, 1200, 0), Some(200));
        assert_eq!(purge_target(KEEP, 100, 200, 2 << 20), Some(150));
        assert_eq!(
            purge_target(KEEP, 200, 200, 2 << 20),
            None,
            "one entry stays"
        );
    }
}
