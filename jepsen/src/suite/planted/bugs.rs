//! The planted bugs, and the scenario that must catch each.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{run::scenario::Scenario, workload::Workload};

/// Cargo profile with which the server is built.
pub(super) const PROFILE: &str = "planted";
/// Directory of that profile below the target directory.
pub(super) const PROFILE_DIR: &str = "planted";

/// A mistake in the server.
#[derive(Debug)]
pub(super) struct Bug {
    /// As the server knows it.
    pub(super) name: &'static str,
    /// What was done wrong.
    pub(super) mistake: &'static str,
    /// Name of the scenario that must catch it; see [`scenario`].
    pub(super) scenario: &'static str,
}

const fn bug(name: &'static str, mistake: &'static str, scenario: &'static str) -> Bug {
    Bug {
        name,
        mistake,
        scenario,
    }
}

/// All of them.
pub(super) const BUGS: &[Bug] = &[
    bug(
        "ack-before-fsync",
        "an append counts as durable before it is synced",
        "set-power",
    ),
    bug(
        "vote-not-persisted",
        "a vote is answered and not written to disk",
        "register-kill-all",
    ),
    bug(
        "deposed-leader-reads",
        "a leader vouches for reads without asking a quorum",
        "register-partition-leader",
    ),
    bug(
        "read-index-not-awaited",
        "a follower reads before it has applied the read index",
        "register-slow-link",
    ),
    bug(
        "retry-table-lost-on-snapshot",
        "a snapshot leaves out the answers to earlier requests",
        "counter-snapshot",
    ),
    bug(
        "apply-skipped-on-restart",
        "the first entry after the checkpoint counts as applied on a restart",
        "register-kill-all",
    ),
    bug(
        "log-purged-past-durable",
        "the log is purged up to what is applied, not to what is durable",
        "register-kill-all-short-log",
    ),
    bug(
        "txn-not-atomic",
        "readers can see a transaction half done",
        "bank-compact",
    ),
    bug(
        "duplicate-on-forward-timeout",
        "a forwarded write of unknown outcome is proposed again without a retry id",
        "register-pause-leader",
    ),
    bug(
        "snapshot-without-tombstones",
        "a snapshot leaves out that keys were deleted",
        "register-snapshot",
    ),
    bug(
        "stale-after-rejoin",
        "a read joins a read index round that has begun already",
        "register-slow-link",
    ),
];

/// The scenarios by name. They are short: a run ends as soon as the bug shows.
pub(super) fn scenario(name: &str) -> Result<Scenario> {
    let short_log = "--log-entries-max=200";
    let (workload, nemesis, args): (Workload, &str, &[&str]) = match name {
        "set-power" => (Workload::Set, "power-all,slow-fsync-all", &[]),
        "register-kill-all" => (Workload::Register, "kill-all", &[]),
        "register-partition-leader" => (Workload::Register, "partition-leader", &[]),
        "register-slow-link" => (Workload::Register, "slow-link", &[]),
        "counter-snapshot" => (
            Workload::CounterRetry,
            "isolate-one,kill-leader",
            &[short_log],
        ),
        "register-kill-all-short-log" => (Workload::Register, "kill-all", &[short_log]),
        "bank-compact" => (Workload::Bank, "compact", &[]),
        "register-pause-leader" => (Workload::Register, "pause-leader", &[]),
        "register-snapshot" => (Workload::Register, "isolate-one,compact", &[short_log]),
        _ => bail!("no scenario of the planted bugs is called {name}"),
    };
    let pace = Duration::from_secs(2);
    Ok(Scenario {
        workload,
        nemesis: nemesis.to_owned(),
        time: Duration::from_secs(25),
        interval: pace,
        hold: pace,
        timeout: Duration::from_secs(if workload.retries() { 10 } else { 2 }),
        server_arg: args.iter().map(ToString::to_string).collect(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nemesis::Nemesis;

    #[test]
    fn every_bug_has_a_name_of_its_own_and_a_scenario() {
        let names: BTreeSet<_> = BUGS.iter().map(|bug| bug.name).collect();
        assert_eq!(names.len(), BUGS.len());
        assert!(names.len() >= 10);
        for bug in BUGS {
            let scenario = scenario(bug.scenario).unwrap();
            assert!(!Nemesis::parse_list(&scenario.nemesis).unwrap().is_empty());
        }
    }
}
