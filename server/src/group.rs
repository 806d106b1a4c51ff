//! One group as a node uses it: propose, read, forward, keep house.
//!
//! ```text
//!   service ─ propose(command) ─▶ admission ─┬─ leader here ──▶ raft.propose
//!                                            └─ elsewhere ────▶ transport.forward ─▶ handle_forward there
//!   service ─ linearizable() ──▶ read rounds ─┬─ leader here ─▶ index rounds ─▶ raft.read_index
//!                                             └─ elsewhere ───▶ transport.forward ─▶ index rounds there
//!                                   then wait until applied that far, then read local state
//! ```
//!
//! What holds here:
//!
//! - A request is proposed at most once unless it carries a retry id; whoever gets
//!   [`GroupError::LeaderLost`] or [`GroupError::TimedOut`] must find out by itself.
//! - Reads that arrive while a round is under way share the next round, never the running one.
//! - Everything in flight is bounded; at the bound the request is refused at once.

mod admission;
mod chase;
mod failover;
mod forward;
mod hand_over;
mod housekeeping;
mod log_budget;
mod propose;
mod read;
mod rounds;
mod space;
mod versions;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_proto::command::Answer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub(crate) use self::forward::error as forward_error;
#[cfg(feature = "planted-bugs")]
pub(crate) use self::read::NoIndex;
use self::{admission::Admission, read::Confirmation, rounds::Rounds};
pub use self::{
    failover::Failover,
    hand_over::HandOverError,
    housekeeping::Retention,
    log_budget::keep_log_within,
    versions::{MemberVersions, Raising},
};
use crate::{
    detector::Views,
    raft::{
        GroupId, Leadership, NodeId, PeerTransport, Pin, Published, RaftGroup, ReadIndexError,
        Status,
    },
    storage::{log::GroupLog, state::View},
};

/// Why a group did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupError {
    /// Too much is in flight. Nothing was done.
    #[error("too many requests are in flight")]
    Overloaded,
    /// It would grow the data, and the voters with room on their disks are no quorum. Nothing was done.
    #[error("too few nodes have room on their disks")]
    NoSpace,
    /// No leader was found in time. Nothing was done.
    #[error("no leader was found in time")]
    NoLeader,
    /// The leader was lost while the request was in flight: it may or may not take effect.
    #[error("the leader was lost while the request was in flight")]
    LeaderLost,
    /// The time was up while the request was in flight: it may or may not take effect.
    #[error("the time was up while the request was in flight")]
    TimedOut,
    /// Not every node that would apply it knows the operation. Nothing was done.
    #[error("not every node knows the operation: {0}")]
    Unsupported(String),
    /// The group does not run on this node. Nothing was done.
    #[error("the group does not run on this node: {0}")]
    Stopped(String),
}

impl GroupError {
    /// The request may yet take effect.
    #[cfg(test)]
    pub fn effect_unknown(&self) -> bool {
        matches!(self, Self::LeaderLost | Self::TimedOut)
    }
}

/// The answer to a proposal, with the term in which it was applied.
#[derive(Debug)]
pub struct Proposed {
    /// The answer, the same on every replica.
    pub answer: Answer,
    /// Term of the entry.
    pub term: u64,
}

/// Bounds of a group, from the configuration.
#[derive(Clone, Debug)]
pub struct GroupLimits {
    /// Proposals under way from this node.
    pub proposals_in_flight_max: usize,
    /// Their encoded bytes.
    pub proposals_in_flight_bytes_max: usize,
    /// Reads that wait for a round.
    pub reads_waiting_max: usize,
    /// Time in which reads find a leader unless the quorum is lost: that of an election and the
    /// detection before it.
    pub leader_silence_max: Duration,
    /// How old the proof of a quorum becomes that no read asked for, while all is well: it comes with
    /// heartbeats and is passed on by looks.
    pub proof_age_max: Duration,
}

/// One group on this node.
pub struct Group {
    keyspace: String,
    node_id: NodeId,
    raft: RaftGroup,
    log: GroupLog,
    transport: Arc<dyn PeerTransport>,
    views: watch::Receiver<Arc<Views>>,
    /// This node leads and hears no quorum.
    powerless: AtomicBool,
    /// Writes that were asked for on this node.
    writes: AtomicU64,
    /// In which order voters should lead, by placement. Held for a copy only.
    election_order: RwLock<Arc<[NodeId]>>,
    raising: Raising,
    admission: Admission,
    /// Leader side: confirms the leadership with a quorum, for local and forwarded reads together.
    index_rounds: Rounds<Result<u64, ReadIndexError>>,
    /// Reader side: gets an index from the leader and waits until it is applied here.
    read_rounds: Rounds<Result<(), GroupError>>,
    confirmation: Mutex<Confirmation>,
    /// How long reads may find no leader before it counts as lost.
    leader_silence_max: Duration,
    proof_age_max: Duration,
    /// Revision up to which superseded versions have been removed from this node's storage.
    scrubbed: watch::Sender<i64>,
}

impl Group {
    /// Puts the group to work. The tasks it starts end when the group is dropped or stops.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another part of the node; they are put together in one place"
    )]
    pub fn new(
        keyspace: String,
        node_id: NodeId,
        raft: RaftGroup,
        log: GroupLog,
        transport: Arc<dyn PeerTransport>,
        views: watch::Receiver<Arc<Views>>,
        limits: &GroupLimits,
        retention: Retention,
        raising: Raising,
    ) -> Arc<Self> {
        let index_rounds = {
            let raft = raft.clone();
            Rounds::new(limits.reads_waiting_max, move || {
                let raft = raft.clone();
                async move { raft.read_index().await }
            })
        };
        let group = Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let weak = weak.clone();
            Self {
                keyspace,
                node_id,
                raft,
                log,
                transport,
                views,
                powerless: AtomicBool::new(false),
                writes: AtomicU64::new(0),
                election_order: RwLock::new(Arc::from([])),
                raising,
                admission: Admission::new(
                    limits.proposals_in_flight_max,
                    limits.proposals_in_flight_bytes_max,
                ),
                index_rounds,
                read_rounds: Rounds::new(limits.reads_waiting_max, move || {
                    let weak = weak.clone();
                    async move {
                        match weak.upgrade() {
                            Some(group) => group.read_round().await,
                            // The group is gone; so are those who wait.
                            None => std::future::pending().await,
                        }
                    }
                }),
                confirmation: Mutex::default(),
                leader_silence_max: limits.leader_silence_max,
                proof_age_max: limits.proof_age_max,
                scrubbed: watch::channel(-1).0,
            }
        });
        housekeeping::spawn(&group, retention);
        space::spawn(&group);
        group
    }

    /// Id of the group.
    pub fn id(&self) -> GroupId {
        self.raft.id()
    }

    /// Keyspace that the group replicates.
    pub fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// Writes that clients have asked this node for since the group started here.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// In which order voters stand for election where their logs are equal; empty as long as nobody has said.
    pub fn election_order(&self) -> Arc<[NodeId]> {
        self.election_order.read().clone()
    }

    /// Says in which order voters should stand.
    pub fn set_election_order(&self, order: &[NodeId]) {
        if **self.election_order.read() != *order {
            *self.election_order.write() = Arc::from(order);
        }
    }

    /// The consensus below, for messages of peers.
    pub fn raft(&self) -> &RaftGroup {
        &self.raft
    }

    /// Local state: what is published, and a view that holds at least that much.
    pub fn read(&self) -> (Published, View) {
        self.raft.shared().read()
    }

    /// As [`Self::read`], for a read that takes its time: what it may see stays until it is done.
    pub fn read_pinned(&self) -> (Published, View, Pin) {
        self.raft.shared().read_pinned()
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.raft.leadership()
    }

    /// State of the group as this node sees it.
    pub fn status(&self) -> Status {
        self.raft.status()
    }

    /// First index that the log still holds, and the checkpoint's index.
    pub fn log_bounds(&self) -> (u64, u64) {
        let purged = self.log.state().purged;
        let first = purged.map_or(0, |pos| pos.index + 1);
        (
            first,
            *self.raft.shared().store().durable_applied().borrow(),
        )
    }

    /// Syncs of the log of this node, which the group shares with all others.
    pub fn log_syncs(&self) -> u64 {
        self.log.log_syncs()
    }

    /// Bytes that the group's entries take in the log.
    fn live_log_bytes(&self) -> u64 {
        self.log.live_bytes()
    }

    /// Waits until superseded versions up to `revision` are gone from this node's storage.
    pub async fn scrubbed_to(&self, revision: i64) {
        let mut scrubbed = self.scrubbed.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = scrubbed.wait_for(|done| *done >= revision).await;
    }

    /// Whether this node leads and hears no quorum of the voters: what it takes would wait for nothing.
    pub fn is_powerless(&self) -> bool {
        self.powerless.load(Ordering::Relaxed)
    }

    fn set_powerless(&self, powerless: bool) {
        self.powerless.store(powerless, Ordering::Relaxed);
    }

    /// Whether a majority of the voters holds the leader for dead: another is elected now, and nothing
    /// that is sent to this one is answered.
    fn is_dead(&self, leader: NodeId) -> bool {
        let views = self.views.borrow();
        views.suspicion(self.node_id, leader).is_some()
            && views.is_suspected(leader, self.status().voters)
    }

    fn leads(&self, leader: NodeId) -> bool {
        leader == self.node_id
    }
}

/// Time left until `deadline`.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
