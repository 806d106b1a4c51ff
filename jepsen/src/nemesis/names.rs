//! The names of the faults, and of groups of them, with what users read about each.

use super::{fault::Fault, target::Target};

/// Names, faults, and what they do.
pub const FAULTS: &[(&str, Fault, &str)] = &[
    (
        "kill-one",
        Fault::Kill(Target::One),
        "SIGKILL to one node; started again",
    ),
    (
        "kill-leader",
        Fault::Kill(Target::Leader),
        "SIGKILL to the leader",
    ),
    (
        "kill-minority",
        Fault::Kill(Target::Minority),
        "SIGKILL to as many nodes as the cluster survives",
    ),
    (
        "kill-majority",
        Fault::Kill(Target::Majority),
        "SIGKILL to a majority",
    ),
    (
        "kill-all",
        Fault::Kill(Target::All),
        "SIGKILL to all nodes at once",
    ),
    (
        "kill-staggered",
        Fault::KillStaggered,
        "SIGKILL to one node, a while later to the rest; the one that lags is started first",
    ),
    (
        "kill-leader-last",
        Fault::KillLeaderLast,
        "SIGKILL to all but the leader, a while later to the leader; it is started last",
    ),
    (
        "kill-leader-silently",
        Fault::KillSilently,
        "SIGKILL to the leader, while its proxies go on taking connections and keep them open: only silence tells",
    ),
    (
        "lagging-candidate",
        Fault::LaggingCandidate,
        "SIGSTOP to a minority, a while later the leader is killed silently; when its lease is over, those that lag go on \
         and stand for election first (made for election timeouts of 1.5 to 2 s)",
    ),
    (
        "zone-loss",
        Fault::Kill(Target::Zone),
        "SIGKILL to all nodes of a zone",
    ),
    (
        "pause-one",
        Fault::Pause(Target::One),
        "SIGSTOP to one node",
    ),
    (
        "pause-leader",
        Fault::Pause(Target::Leader),
        "SIGSTOP to the leader",
    ),
    (
        "pause-majority",
        Fault::Pause(Target::Majority),
        "SIGSTOP to a majority",
    ),
    (
        "restart-one",
        Fault::Restart(Target::One),
        "SIGTERM to one node; started again",
    ),
    (
        "restart-leader",
        Fault::Restart(Target::Leader),
        "SIGTERM to the leader",
    ),
    (
        "restart-all",
        Fault::Restart(Target::All),
        "SIGTERM to one node after the other",
    ),
    (
        "power-one",
        Fault::Power(Target::One),
        "power cut of one node: unsynced writes are lost",
    ),
    (
        "power-leader",
        Fault::Power(Target::Leader),
        "power cut of the leader",
    ),
    (
        "power-all",
        Fault::Power(Target::All),
        "power cut of all nodes at once",
    ),
    (
        "power-stalled",
        Fault::PowerStalled,
        "the syncs of all nodes stall, then a power cut of all of them",
    ),
    (
        "isolate-one",
        Fault::IsolateOne,
        "one node cut off from nodes and clients",
    ),
    (
        "partition-one",
        Fault::PartitionOne,
        "the peer links of one node cut, its clients reach it",
    ),
    (
        "partition-leader",
        Fault::PartitionLeader,
        "the peer links of the leader cut, its clients reach it",
    ),
    (
        "partition-halves",
        Fault::PartitionHalves,
        "the nodes cut into a majority and a minority",
    ),
    (
        "partition-ring",
        Fault::PartitionRing,
        "every node sees a majority, no two the same (three nodes: one pair is cut)",
    ),
    (
        "partition-one-way",
        Fault::PartitionOneWay,
        "one node hears and is not heard, or the reverse",
    ),
    (
        "partition-direction",
        Fault::PartitionDirection,
        "one direction of the link between the leader and one other node cut",
    ),
    (
        "direction-followers",
        Fault::DirectionFollowers,
        "what one follower sends another is lost, and nothing else",
    ),
    (
        "direction-from-leader",
        Fault::DirectionFromLeader,
        "what the leader sends one follower is lost, and nothing else",
    ),
    (
        "direction-to-leader",
        Fault::DirectionToLeader,
        "what one follower sends the leader is lost, and nothing else",
    ),
    (
        "partition-clients",
        Fault::PartitionClients,
        "the client links of one node cut",
    ),
    (
        "slow-link",
        Fault::SlowLink,
        "latency with jitter on the links of one node",
    ),
    (
        "slow-bandwidth",
        Fault::SlowBandwidth,
        "little bandwidth on the peer links of one node",
    ),
    ("loss", Fault::Loss, "packet loss on the links of one node"),
    (
        "reset",
        Fault::Reset,
        "connections of one node reset, again and again",
    ),
    (
        "lose-answers",
        Fault::LoseAnswers,
        "the leader's answers to one node are held back, then lost with the connections",
    ),
    (
        "clock-jump",
        Fault::ClockJump,
        "the wall clock of one node jumps",
    ),
    (
        "clock-skew",
        Fault::ClockSkew,
        "the wall clock of one node runs too fast or too slow",
    ),
    (
        "full-disk",
        Fault::FullDisk(Target::One),
        "one node has no room to write",
    ),
    (
        "full-disk-all",
        Fault::FullDisk(Target::All),
        "no node has room to write",
    ),
    (
        "slow-fsync",
        Fault::SlowFsync(Target::One),
        "fsync of one node is slow",
    ),
    (
        "slow-fsync-all",
        Fault::SlowFsync(Target::All),
        "fsync of all nodes is slow",
    ),
    (
        "stall-leader-disk",
        Fault::StallDisk(Target::Leader),
        "no fsync of the leader returns for two seconds",
    ),
    (
        "stall-one-disk",
        Fault::StallDisk(Target::One),
        "no fsync of one node returns for two seconds",
    ),
    ("fail-fsync", Fault::FailFsync, "fsync of one node fails"),
    (
        "full-log",
        Fault::FullLog,
        "log lines of all nodes go to a full device while the leader is killed",
    ),
    (
        "idle-connections",
        Fault::IdleConnections,
        "hundreds of connections to every node over which nothing is said (see --nofile)",
    ),
    (
        "hang-disk",
        Fault::HangDisk,
        "fsync of one follower does not return (see --log-mib-max)",
    ),
    (
        "slow-install",
        Fault::SlowInstall,
        "a node that needs a snapshot gets a disk whose every fsync takes 8 s when it begins to install it",
    ),
    (
        "tear-log",
        Fault::TearLog,
        "the last record of one node's log is torn while it is down",
    ),
    (
        "truncate-log",
        Fault::TruncateLog,
        "one node's log is cut short while it is down; it may refuse to come back",
    ),
    (
        "flip-bit",
        Fault::FlipBit,
        "a bit in one node's log flips while it is down; it may refuse to come back",
    ),
    (
        "wipe",
        Fault::Wipe,
        "one node loses its disk: it must stay out and say so",
    ),
    (
        "lose-log",
        Fault::LoseLog,
        "one node loses its log while the others lag or are down: it must stay out and say so",
    ),
    (
        "old-copy-follower",
        Fault::OldCopyFollower,
        "a follower comes back with an old copy of its files while the others lag or are down",
    ),
    (
        "old-copy-leader",
        Fault::OldCopyLeader,
        "the leader comes back with a copy of its files that was made while it led",
    ),
    ("compact", Fault::Compact, "old versions are compacted away"),
    (
        "move-leader",
        Fault::MoveLeader,
        "the leadership is handed to another node",
    ),
    (
        "busy-machine",
        Fault::BusyMachine,
        "twice as many busy loops as the machine has cores, and 200 MB written and synced beside the nodes' data, \
         again and again",
    ),
];

/// Names that stand for several faults, of which each run draws all in a random order.
pub const GROUPS: &[(&str, &[&str])] = &[
    (
        "kill",
        &[
            "kill-one",
            "kill-leader",
            "kill-minority",
            "kill-majority",
            "kill-all",
            "kill-staggered",
            "kill-leader-last",
        ],
    ),
    ("pause", &["pause-one", "pause-leader", "pause-majority"]),
    ("restart", &["restart-one", "restart-leader", "restart-all"]),
    (
        "power",
        &["power-one", "power-leader", "power-all", "power-stalled"],
    ),
    (
        "partition",
        &[
            "isolate-one",
            "partition-one",
            "partition-leader",
            "partition-halves",
            "partition-ring",
            "partition-one-way",
            "partition-direction",
            "partition-clients",
        ],
    ),
    (
        "slow",
        &[
            "slow-link",
            "slow-bandwidth",
            "loss",
            "reset",
            "lose-answers",
        ],
    ),
    (
        "direction",
        &[
            "direction-followers",
            "direction-from-leader",
            "direction-to-leader",
        ],
    ),
    ("clock", &["clock-jump", "clock-skew"]),
    (
        "disk",
        &["slow-fsync", "slow-fsync-all", "fail-fsync", "full-disk"],
    ),
    ("stall-disk", &["stall-leader-disk", "stall-one-disk"]),
    ("damage", &["tear-log", "truncate-log", "flip-bit", "wipe"]),
    (
        "memory",
        &["lose-log", "old-copy-follower", "old-copy-leader"],
    ),
];

/// The faults that a name stands for.
///
/// # Errors
///
/// Unknown names, with the known ones.
pub fn parse(name: &str) -> Result<Vec<Fault>, String> {
    let by_name = |name: &str| {
        let found = FAULTS.iter().find(|(known, _, _)| *known == name);
        found.map(|(_, fault, _)| *fault)
    };
    if let Some(fault) = by_name(name) {
        return Ok(vec![fault]);
    }
    if let Some((_, members)) = GROUPS.iter().find(|(known, _)| *known == name) {
        return Ok(members
            .iter()
            .filter_map(|member| by_name(member))
            .collect());
    }
    let groups: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
    let faults: Vec<_> = FAULTS.iter().map(|(name, _, _)| *name).collect();
    Err(format!(
        "unknown nemesis `{name}`; groups: {}; faults: {}; or none",
        groups.join(", "),
        faults.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_made_of_faults_and_every_fault_has_a_name() {
        for (group, members) in GROUPS {
            let faults = parse(group).unwrap();
            assert_eq!(faults.len(), members.len(), "{group}");
        }
        for (name, fault, _) in FAULTS {
            assert_eq!(fault.name(), *name);
            assert_eq!(parse(name).unwrap(), [*fault]);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = parse("kil").unwrap_err();
        assert!(
            error.contains("kill-leader") && error.contains("partition"),
            "{error}"
        );
    }
}
