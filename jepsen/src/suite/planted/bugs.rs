//! The planted bugs, and the scenario that must catch each.

use std::time::Duration;

use anyhow::{Result, bail};

use super::super::matrix::{SHORT_LOG, SHORT_TIMERS};
use crate::{nemesis::BlastRadius, run::scenario::Scenario, workload::Workload};

/// Cargo profile with which the server is built.
pub(super) const PROFILE: &str = "planted";
/// Directory of that profile below the target directory.
pub(super) const PROFILE_DIR: &str = "planted";

/// A mistake in the server.
#[derive(Debug)]
pub(super) struct Bug {
    /// Its name, as the server knows it.
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
        "entries are acknowledged before they are synced",
        "set-power-stalled",
    ),
    bug(
        "apply-skipped-on-restart",
        "the entry after the checkpoint is taken for applied after a restart",
        "register-kill-all-checkpoints",
    ),
    bug(
        "compare-on-stale-state",
        "the comparisons of a transaction are decided on local state, before replication",
        "bank-compact",
    ),
    bug(
        "deposed-leader-reads",
        "who believes that it leads answers reads without asking a quorum",
        "register-partition-leader",
    ),
    bug(
        "duplicate-on-forward-timeout",
        "a write of unknown outcome is proposed again without a retry id",
        "register-lose-answers",
    ),
    bug(
        "election-without-log-check",
        "votes are granted to candidates that lack committed entries",
        "register-lagging-candidate",
    ),
    bug(
        "entry-skipped",
        "applying leaves out an entry between two reads of the log, and does not notice",
        "register-kill-one",
    ),
    bug(
        "log-purged-past-durable",
        "the log is purged up to what is applied, durable or not",
        "register-kill-all-purging",
    ),
    bug(
        "read-index-not-awaited",
        "reads do not wait until the read index is applied",
        "register-kill-one-short-log",
    ),
    bug(
        "retry-table-lost-on-snapshot",
        "snapshots leave the retry table out",
        "counter-snapshot",
    ),
    bug(
        "serializable-goes-back",
        "serializable reads use a state that each thread keeps for a while",
        "stale-pause",
    ),
    bug(
        "snapshot-without-tombstones",
        "snapshots leave deletions out",
        "register-kill-one-short-log",
    ),
    bug(
        "stale-after-rejoin",
        "a reader that is cut off falls back on the read index of an earlier round",
        "register-partition-one",
    ),
    bug(
        "torn-batch",
        "the applied mark goes into the checkpoint before its data",
        "register-kill-all-flushing",
    ),
    bug(
        "truncate-ignored",
        "a follower keeps entries that conflict with the leader's",
        "register-lose-leader",
    ),
    bug(
        "txn-not-atomic",
        "a compaction removes what a transaction wrote after its first write",
        "bank-compact",
    ),
    bug(
        "unknown-client-trusted",
        "a request of a client that is not known is taken for a new client's",
        "counter-evictions",
    ),
    bug(
        "unknown-operation-skipped",
        "one node of three does not know the operations of version 2 and skips them",
        "counter-evictions-moving",
    ),
    bug(
        "vote-not-persisted",
        "votes and terms are not on disk",
        "register-kill-leader-last",
    ),
    bug(
        "vote-with-lost-log",
        "a node takes part whatever log it finds, and whatever it had promised before",
        "register-lose-log",
    ),
];

/// The scenarios by name. They are short: a run ends as soon as the bug shows.
pub(super) fn scenario(name: &str) -> Result<Scenario> {
    use Workload::{Bank, CounterRetry, Register, Set, Stale};
    let short_log = &SHORT_LOG[..];
    let purging: &[&str] = &["--log-entries-max=20", "--flush-interval-ms=700"];
    let checkpoints: &[&str] = &["--flush-interval-ms=1000"];
    // Fewer clients than ask: each is forgotten again and again.
    let evictions: &[&str] = &["--retry-clients-max=6"];
    let flushing: &[&str] = &["--flush-interval-ms=20"];
    // Milliseconds between faults, for which each is held, and seconds of the run.
    let (usual, slow) = ((2_000, 2_000, 25), (4_000, 1_000, 30));
    // Longer than a request takes to be given up: those that hang do not keep others from being asked. Many of
    // them, for a leader that is cut off says soon itself that it has no power.
    let held = (1_000, 4_000, 90);
    let (quick, long) = ((1_000, 1_000, 40), (1_000, 1_000, 80));
    let (workload, nemesis, args, pace) = match name {
        "set-power-stalled" => (Set, "power-stalled", &[][..], usual),
        "register-kill-leader-last" => (Register, "kill-leader-last", &[][..], long),
        "register-kill-all-checkpoints" => (Register, "kill-all", checkpoints, slow),
        "register-kill-all-purging" => (Register, "kill-all", purging, slow),
        "register-kill-all-flushing" => (Register, "kill-all,slow-fsync-all", flushing, quick),
        "register-partition-leader" => (Register, "partition-leader", &[][..], held),
        "register-lose-answers" => (Register, "lose-answers", &[][..], quick),
        "register-lose-log" => (Register, "lose-log", &[][..], usual),
        "register-lose-leader" => (Register, "partition-leader,kill-leader", &[][..], quick),
        "register-partition-one" => (Register, "partition-one", &[][..], usual),
        "register-lagging-candidate" => (Register, "lagging-candidate", &SHORT_TIMERS[..], long),
        "register-kill-one" => (Register, "kill-one", &[][..], usual),
        "register-kill-one-short-log" => (Register, "kill-one", short_log, usual),
        "counter-evictions" => (CounterRetry, "pause-one", evictions, usual),
        // A leader that refuses all it is asked shows nothing: it must not lead for the whole run.
        "counter-evictions-moving" => (CounterRetry, "pause-one,move-leader", evictions, usual),
        "counter-snapshot" => (CounterRetry, "kill-one", short_log, usual),
        "bank-compact" => (Bank, "compact", &[][..], quick),
        "stale-pause" => (Stale, "pause-one", &[][..], usual),
        _ => bail!("no scenario of the planted bugs is called {name}"),
    };
    Ok(Scenario {
        workload,
        nemesis: nemesis.to_owned(),
        // Some bugs show only where two nemeses meet.
        blast_radius: BlastRadius::All,
        time: Duration::from_secs(pace.2),
        interval: Duration::from_millis(pace.0),
        hold: Duration::from_millis(pace.1),
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
