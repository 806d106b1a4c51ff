//! The scenarios of the suites.
//!
//! - `smoke`: one of each kind of trouble, a few seconds each; about three minutes.
//! - `quick`: every workload, every family of faults; at most ten minutes.
//! - `full`: every workload under every family and their combinations; about an hour.

use std::time::Duration;

use clap::ValueEnum;

use super::Entry;
use crate::{
    cluster::target::Target,
    evidence::expected::Expected,
    nemesis::BlastRadius,
    run::scenario::{ClusterKind, Scenario},
    workload::Workload,
};

/// A list of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// About three minutes: what a change must pass before it lands
    Smoke,
    /// At most ten minutes: every workload, every family of faults
    Quick,
    /// About an hour: every workload under every family of faults and their combinations
    Full,
    /// Proves that the harness finds bugs: plants real mistakes in Holdfast one at a time
    Planted,
}

impl Suite {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Smoke => "smoke",
            Suite::Quick => "quick",
            Suite::Full => "full",
            Suite::Planted => "planted",
        }
    }
}

/// A log so short that a node that was away for a moment gets a snapshot, though commands share entries.
pub(super) const SHORT_LOG: [&str; 1] = ["--log-entries-max=20"];

/// Timers of the groups by which a voter that was paused stands for election as soon as it goes on, while the
/// others still wait for the failure detector or for timers of their own: see the nemesis `lagging-candidate`.
pub(super) const SHORT_TIMERS: [&str; 3] = [
    "--heartbeat-interval-ms=250",
    "--election-timeout-min-ms=1500",
    "--election-timeout-max-ms=2000",
];

/// A log that is purged often and in small steps. A segment holds two requests of the largest size.
const BOUNDED_LOG: [&str; 3] = [
    "--log-entries-max=1000",
    "--log-segment-bytes=1MiB",
    "--request-bytes-max=512KiB",
];
/// What it may take: the entries that are kept, a checkpoint's delay, and segments kept for reuse.
const BOUNDED_LOG_MIB_MAX: u64 = 33;

/// A disk on which the load of two minutes fits several times over: it is full only where it was filled. It
/// is memory, taken as it is filled: about this much for the one that is full, and what they hold for the others.
const ROOMY_DISK_MIB: u64 = 1024;
/// A disk that the load itself comes near to filling.
const TIGHT_DISK_MIB: u64 = 160;

const NOTHING: Expected = Expected {
    steady: false,
    answered: false,
    replaced_within_ms: None,
};

/// Within which a leader that a fault has taken is replaced, as clients see it. Where threads wait for their
/// turn, a detector bears 1.4 s of silence; an election and a write are some syncs of a disk that is shared.
/// Without the detector the timers of the groups would take eight seconds at least.
const REPLACED_WITHIN_MS: u64 = 2_500;

struct Line {
    workload: Workload,
    nemesis: &'static str,
    /// Distinguishes lines with the same workload and nemesis; empty if there is one only.
    variant: &'static str,
    nodes: u64,
    server_args: &'static [&'static str],
    /// Cannot be run against etcd: needs retry ids, or faults that a Go program does not notice.
    holdfast_only: bool,
    /// Seconds of load, and for which a fault is held, where it is not the pace of the suite.
    held: Option<(u64, u64)>,
    value_bytes: usize,
    nofile: Option<u64>,
    log_mib_max: Option<u64>,
    /// In network namespaces, with disks of this size.
    disk_mib: Option<u64>,
    expected: Expected,
    /// Clients, and operations per second, where they are not the usual ones.
    crowd: Option<(u64, f64)>,
}

const fn line(workload: Workload, nemesis: &'static str) -> Line {
    Line {
        workload,
        nemesis,
        variant: "",
        nodes: 3,
        server_args: &[],
        holdfast_only: false,
        held: None,
        value_bytes: 0,
        nofile: None,
        log_mib_max: None,
        disk_mib: None,
        expected: NOTHING,
        crowd: None,
    }
}

impl Line {
    const fn nodes(mut self, nodes: u64, variant: &'static str) -> Self {
        self.nodes = nodes;
        self.variant = variant;
        self
    }

    const fn short_log(mut self) -> Self {
        self.server_args = &SHORT_LOG;
        // A leader keeps what it is just sending to a peer, until it gives up the attempt.
        self.held = Some((36, 6));
        self.variant = "short-log";
        self.holdfast_only = true;
        self
    }

    const fn short_timers(mut self) -> Self {
        self.server_args = &SHORT_TIMERS;
        self.variant = "short-timers";
        self.holdfast_only = true;
        self
    }

    const fn holdfast_only(mut self) -> Self {
        self.holdfast_only = true;
        self
    }

    /// The load goes on for so many seconds, and a fault is held for about so many.
    const fn held(mut self, seconds: u64, hold: u64) -> Self {
        self.held = Some((seconds, hold));
        self
    }

    /// Nodes with few descriptors, and values that fill segments of the log.
    const fn few_descriptors(mut self) -> Self {
        self.nofile = Some(256);
        self.value_bytes = 4_000;
        self.holdfast_only()
    }

    /// Nodes that keep little of their logs in small segments; a log that outgrows its bound is no pass.
    const fn bounded_log(mut self) -> Self {
        self.server_args = &BOUNDED_LOG;
        self.log_mib_max = Some(BOUNDED_LOG_MIB_MAX);
        self.value_bytes = 4_000;
        self.holdfast_only()
    }

    /// Nodes with disks of their own that can be filled.
    const fn disks(mut self, mib: u64) -> Self {
        self.disk_mib = Some(mib);
        self.value_bytes = 4_000;
        self.holdfast_only()
    }

    /// No group elects unless a fault took its leader.
    const fn steady(mut self) -> Self {
        self.expected.steady = true;
        self.holdfast_only()
    }

    /// A leader that a fault has taken is replaced in time.
    const fn replaced(mut self) -> Self {
        self.expected.replaced_within_ms = Some(REPLACED_WITHIN_MS);
        self
    }

    /// As many clients as a busy node has, of which every one is answered.
    const fn crowded(mut self) -> Self {
        self.crowd = Some((256, 2_000.0));
        self.expected.answered = true;
        self.steady()
    }

    fn entry(&self, target: Target, time: Duration, pace: Duration) -> Entry {
        let mut name = format!("{}-{}", self.workload, self.nemesis.replace(',', "+"));
        if !self.variant.is_empty() {
            name = format!("{name}-{}", self.variant);
        }
        let usual = Scenario::default();
        let (concurrency, rate) = self.crowd.unwrap_or((usual.concurrency, usual.rate));
        let scenario = Scenario {
            concurrency,
            rate,
            expected: self.expected,
            workload: self.workload,
            nemesis: self.nemesis.to_owned(),
            time: self
                .held
                .map_or(time, |(seconds, _)| Duration::from_secs(seconds)),
            target,
            nodes: self.nodes,
            zones: (self.nodes > 3).then_some(3),
            interval: pace,
            hold: self
                .held
                .map_or(pace, |(_, hold)| Duration::from_secs(hold)),
            value_bytes: self.value_bytes,
            nofile: self.nofile,
            log_mib_max: self.log_mib_max,
            disk_mib: self.disk_mib,
            cluster: match self.disk_mib {
                Some(_) => ClusterKind::Netns,
                None => ClusterKind::Local,
            },
            // Nemeses that meet are what a scenario with several of them is for.
            blast_radius: match self.nemesis.contains(',') {
                true => BlastRadius::All,
                false => BlastRadius::default(),
            },
            timeout: Duration::from_secs(match (self.workload.retries(), self.crowd) {
                (true, _) => 10,
                // What a stock client waits.
                (false, Some(_)) => 5,
                (false, None) => 2,
            }),
            server_arg: self.server_args.iter().map(ToString::to_string).collect(),
            ..usual
        };
        Entry { name, scenario }
    }
}

use Workload::{Append, Bank, CounterRetry, Register, Set, Stale};

const SMOKE: &[Line] = &[
    line(Register, "kill-leader,partition"),
    line(CounterRetry, "kill,reset").holdfast_only(),
    line(Append, "partition-leader,compact"),
    line(Set, "power,slow-fsync-all").holdfast_only(),
    line(Register, "isolate-one,compact").short_log(),
];

const QUICK: &[Line] = &[
    line(Register, "none"),
    line(Register, "kill"),
    line(Register, "partition"),
    line(Register, "partition-direction"),
    line(Register, "pause"),
    line(Set, "kill"),
    line(Set, "partition"),
    line(Set, "power,slow-fsync-all").holdfast_only(),
    line(Append, "kill,partition"),
    line(Bank, "kill,compact"),
    line(Bank, "slow"),
    line(CounterRetry, "kill,reset").holdfast_only(),
    line(CounterRetry, "restart,partition-clients").holdfast_only(),
    line(Stale, "kill,partition"),
    line(Register, "isolate-one,compact").short_log(),
    line(Register, "clock,disk").holdfast_only(),
    line(Set, "damage").holdfast_only(),
    line(Register, "lose-log").holdfast_only(),
    line(Register, "old-copy-follower").holdfast_only(),
    line(Register, "old-copy-leader").holdfast_only(),
    line(Register, "full-log,idle-connections").few_descriptors(),
    line(Append, "zone-loss,partition").nodes(5, "5-nodes"),
];

const FULL_WORKLOADS: &[Workload] = &[Register, Set, Append, Bank, CounterRetry, Stale];
const FULL_NEMESES: &[&str] = &[
    "kill",
    "pause",
    "partition",
    "restart,move-leader",
    "slow",
    "kill,partition",
    "power,slow-fsync-all",
    "disk,clock",
];
const FULL_MORE: &[Line] = &[
    line(Register, "none"),
    line(Register, "isolate-one,compact").short_log(),
    line(Register, "lagging-candidate").short_timers(),
    line(CounterRetry, "isolate-one,reset,compact").short_log(),
    line(Bank, "pause-one,kill-one,compact").short_log(),
    line(Register, "partition-direction"),
    line(CounterRetry, "kill-leader,partition-direction").holdfast_only(),
    line(Append, "kill,partition,pause,slow"),
    line(Register, "kill,partition,pause,slow"),
    line(Append, "power,partition,reset").holdfast_only(),
    line(Register, "zone-loss,partition").nodes(5, "5-nodes"),
    line(Append, "kill,partition").nodes(5, "5-nodes"),
    line(CounterRetry, "kill-minority,partition-ring")
        .nodes(5, "5-nodes")
        .holdfast_only(),
    line(Set, "damage").holdfast_only(),
    line(Register, "damage").holdfast_only(),
    line(Register, "lose-log").holdfast_only(),
    line(Register, "old-copy-follower").holdfast_only(),
    line(Register, "old-copy-leader").holdfast_only(),
    line(CounterRetry, "memory,kill-one")
        .nodes(5, "5-nodes")
        .holdfast_only(),
    line(Register, "full-log").held(120, 100).holdfast_only(),
    line(Register, "idle-connections")
        .held(120, 100)
        .few_descriptors(),
    line(Set, "full-disk").held(120, 100).disks(ROOMY_DISK_MIB),
    line(Register, "full-disk-all")
        .held(120, 100)
        .disks(TIGHT_DISK_MIB),
    line(Register, "hang-disk").held(90, 70).bounded_log(),
    line(Register, "slow-install").short_log().held(180, 320),
    line(Register, "kill-leader-silently")
        .held(60, 4)
        .steady()
        .replaced(),
    // Held for longer than the timers of groups take to run out, which is ten seconds.
    line(Register, "direction").held(120, 22).steady(),
    line(Register, "busy-machine").held(60, 100).crowded(),
    line(Register, "busy-machine,stall-disk")
        .held(90, 10)
        .crowded(),
];

/// The scenarios of a suite against a target. The planted bugs have a list of their own.
pub fn scenarios(suite: Suite, target: Target) -> Vec<Entry> {
    let secs = Duration::from_secs;
    let fits = |line: &&Line| target == Target::Holdfast || !line.holdfast_only;
    let entries = |lines: &[Line], time, pace| -> Vec<Entry> {
        let fitting = lines.iter().filter(fits);
        fitting.map(|line| line.entry(target, time, pace)).collect()
    };
    match suite {
        Suite::Smoke => entries(SMOKE, secs(25), secs(2)),
        Suite::Quick => entries(QUICK, secs(24), secs(2)),
        Suite::Full => {
            let mut all = Vec::new();
            for nemesis in FULL_NEMESES {
                for workload in FULL_WORKLOADS {
                    let mut line = line(*workload, nemesis);
                    line.holdfast_only = *workload == CounterRetry
                        || nemesis.contains("power")
                        || nemesis.contains("disk");
                    all.push(line);
                }
            }
            let mut entries_of_all = entries(&all, secs(45), secs(3));
            entries_of_all.extend(entries(FULL_MORE, secs(45), secs(3)));
            entries_of_all
        }
        Suite::Planted => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::nemesis::{LAGS, LEADERLESS, Nemesis};

    #[test]
    fn names_are_unique_and_nemeses_exist() {
        for suite in [Suite::Smoke, Suite::Quick, Suite::Full] {
            for target in [Target::Holdfast, Target::Etcd] {
                let entries = scenarios(suite, target);
                assert!(!entries.is_empty());
                let names: HashSet<_> = entries.iter().map(|entry| &entry.name).collect();
                assert_eq!(names.len(), entries.len(), "{suite:?}");
                for entry in &entries {
                    Nemesis::parse_list(&entry.scenario.nemesis).unwrap();
                }
            }
        }
    }

    /// A voter stands when its lease and a timeout are over since it heard the leader; both are of the
    /// configuration, and the lease is as long as the longest timeout.
    #[test]
    fn who_lags_stands_first_with_short_timers_and_no_lease_protects_the_leader() {
        let of = |name: &str| {
            let found = SHORT_TIMERS.iter().find_map(|arg| arg.strip_prefix(name));
            Duration::from_millis(found.unwrap().parse().unwrap())
        };
        let heartbeat = of("--heartbeat-interval-ms=");
        let (min, max) = (
            of("--election-timeout-min-ms="),
            of("--election-timeout-max-ms="),
        );
        assert!(LEADERLESS > max);
        assert!(LEADERLESS + heartbeat < max + min);
        assert!(LAGS + LEADERLESS > max + max);
    }

    #[test]
    fn every_workload_is_in_quick() {
        let entries = scenarios(Suite::Quick, Target::Holdfast);
        for workload in Workload::ALL {
            assert!(
                entries
                    .iter()
                    .any(|entry| entry.scenario.workload == workload)
            );
        }
    }
}
