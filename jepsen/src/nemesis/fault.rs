//! The faults: what each is, what it takes, and who makes it. Their names are in `names.rs`.

use rand::rngs::StdRng;

use super::{
    ActiveFaults, BlastRadius, busy, disk, injected::Injected, memory, names::FAULTS, network,
    process, scarcity, target::Target,
};
use crate::cluster::FaultError;

/// Something that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the table below describes each where users read it"
)]
pub enum Fault {
    Kill(Target),
    KillStaggered,
    KillLeaderLast,
    KillSilently,
    LaggingCandidate,
    Pause(Target),
    Restart(Target),
    Power(Target),
    PowerStalled,
    IsolateOne,
    PartitionOne,
    PartitionLeader,
    PartitionHalves,
    PartitionRing,
    PartitionOneWay,
    PartitionDirection,
    DirectionFollowers,
    DirectionFromLeader,
    DirectionToLeader,
    PartitionClients,
    SlowLink,
    SlowBandwidth,
    Loss,
    Reset,
    LoseAnswers,
    ClockJump,
    ClockSkew,
    FullDisk(Target),
    SlowFsync(Target),
    FailFsync,
    StallDisk(Target),
    FullLog,
    IdleConnections,
    HangDisk,
    SlowInstall,
    TearLog,
    TruncateLog,
    FlipBit,
    Wipe,
    LoseLog,
    OldCopyFollower,
    OldCopyLeader,
    Compact,
    MoveLeader,
    BusyMachine,
}

impl Fault {
    /// Its name.
    pub fn name(self) -> &'static str {
        let found = FAULTS.iter().find(|(_, fault, _)| *fault == self);
        found.map_or("unnamed", |(name, _, _)| name)
    }

    /// Whether it must not overlap with another. Damage takes from one node what that has promised to
    /// keep; a store that survives the loss of one copy may be wrong when a second one is out.
    pub(super) fn wants_to_be_alone(self) -> bool {
        matches!(
            self,
            Fault::TearLog
                | Fault::TruncateLog
                | Fault::FlipBit
                | Fault::Wipe
                | Fault::LoseLog
                | Fault::OldCopyFollower
                | Fault::OldCopyLeader
        )
    }

    /// What it takes by its name, where that may be more than a minority. Nodes that are restarted one
    /// after the other are not taken together.
    pub(super) fn own_radius(self) -> Option<BlastRadius> {
        match self {
            Fault::Kill(target) | Fault::Pause(target) | Fault::Power(target) => match target {
                Target::Majority => Some(BlastRadius::Majority),
                Target::All => Some(BlastRadius::All),
                Target::One | Target::Leader | Target::Minority | Target::Zone => None,
            },
            Fault::LaggingCandidate => Some(BlastRadius::Majority),
            Fault::KillStaggered
            | Fault::KillLeaderLast
            | Fault::PowerStalled
            | Fault::FullDisk(Target::All)
            | Fault::LoseLog
            | Fault::OldCopyFollower => Some(BlastRadius::All),
            _ => None,
        }
    }

    /// Whether it takes nodes for a while, or may.
    pub(super) fn takes_nodes(self) -> bool {
        !matches!(
            self,
            Fault::SlowLink
                | Fault::SlowBandwidth
                | Fault::Loss
                | Fault::Reset
                | Fault::LoseAnswers
                | Fault::ClockJump
                | Fault::ClockSkew
                | Fault::SlowFsync(_)
                | Fault::StallDisk(_)
                | Fault::IdleConnections
                | Fault::DirectionFollowers
                | Fault::DirectionFromLeader
                | Fault::DirectionToLeader
                | Fault::Compact
                | Fault::MoveLeader
                | Fault::BusyMachine
        )
    }

    /// Whether it takes back what was not synced.
    pub fn cuts_power(self) -> bool {
        matches!(self, Fault::Power(_) | Fault::PowerStalled)
    }

    /// Makes it. `id` is the number of the fault in the run.
    pub(super) async fn inject(
        self,
        active: &ActiveFaults,
        id: u64,
        rng: &mut StdRng,
    ) -> Result<Injected, FaultError> {
        match self {
            Fault::Kill(target) => process::kill(active, target, rng).await,
            Fault::KillStaggered => process::kill_staggered(active, rng).await,
            Fault::KillLeaderLast => process::kill_leader_last(active, rng).await,
            Fault::KillSilently => process::kill_silently(active, id, rng).await,
            Fault::LaggingCandidate => process::lagging_candidate(active, id, rng).await,
            Fault::Pause(target) => process::pause(active, target, rng).await,
            Fault::Restart(target) => process::restart(active, target, rng).await,
            Fault::Power(target) => process::cut_power(active, target, rng).await,
            Fault::PowerStalled => process::cut_power_stalled(active, rng).await,
            Fault::IsolateOne
            | Fault::PartitionOne
            | Fault::PartitionLeader
            | Fault::PartitionHalves
            | Fault::PartitionRing
            | Fault::PartitionOneWay
            | Fault::PartitionDirection
            | Fault::DirectionFollowers
            | Fault::DirectionFromLeader
            | Fault::DirectionToLeader
            | Fault::PartitionClients
            | Fault::SlowLink
            | Fault::SlowBandwidth
            | Fault::Loss
            | Fault::Reset => network::inject(self, active, id, rng).await,
            Fault::LoseAnswers => network::lose_answers(active, id, rng).await,
            Fault::ClockJump | Fault::ClockSkew => disk::clock(self, active, rng).await,
            Fault::FullDisk(target) => disk::full(active, target, rng).await,
            Fault::SlowFsync(target) => disk::slow_fsync(active, target, rng).await,
            Fault::FailFsync => disk::fail_fsync(active, rng).await,
            Fault::StallDisk(target) => disk::stall(active, target, rng).await,
            Fault::TearLog | Fault::TruncateLog | Fault::FlipBit | Fault::Wipe => {
                disk::damage(self, active, rng).await
            }
            Fault::FullLog | Fault::IdleConnections | Fault::HangDisk | Fault::SlowInstall => {
                scarcity::inject(self, active, id, rng).await
            }
            Fault::LoseLog => memory::lose_log(active, rng).await,
            Fault::OldCopyFollower => memory::old_copy_follower(active, rng).await,
            Fault::OldCopyLeader => memory::old_copy_leader(active, rng).await,
            Fault::Compact => process::compact(active).await,
            Fault::MoveLeader => process::move_leader(active).await,
            Fault::BusyMachine => busy::inject(active, id).await,
        }
    }
}
