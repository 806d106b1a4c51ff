//! Consensus: one openraft instance per group, wrapped so that nothing above knows openraft.
//!
//! ```text
//!   group/ ── propose, read_index ──▶ RaftGroup ──▶ openraft core ──▶ LogStore ──▶ shared log
//!   service/ ── messages of peers ──▶     │              │
//!                                         │              ├──▶ Network ──▶ PeerTransport (service/)
//!   readers ◀── SharedState ◀── GroupStateMachine ◀──────┘
//! ```
//!
//! What holds here:
//!
//! - A vote is on disk before it is answered, an entry is on disk before it counts.
//! - `NotLeader` means that nothing was appended; `Unknown` means that the entry may yet commit.
//! - A group that meets an error of the machine stops on this node and says why; it never goes on
//!   with a state that may differ from its peers'.

mod append_stream;
mod codec;
mod log_store;
mod messages;
mod network;
mod promises;
mod propose;
mod rate;
mod receive;
mod reconcile;
mod runtime;
pub mod snapshot;
mod standing;
pub mod state_machine;
mod stop;
pub mod transport;
pub mod type_config;

/// What the bodies of planted bugs need.
#[cfg(feature = "planted-bugs")]
pub(crate) mod planted {
    pub(crate) use super::{
        codec::log_id,
        state_machine::GroupStateMachine,
        type_config::{LeaderId, Vote},
    };
}
#[cfg(test)]
pub(crate) use self::standing::LogEnd;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use openraft::{
    ReadPolicy, SnapshotPolicy,
    async_runtime::WatchReceiver,
    errors::{Fatal, InitializeError, LinearizableReadError, RaftError},
};
use tokio::sync::watch;

pub use self::{
    codec::DecodeError,
    log_store::LogStore,
    messages::MessageError,
    promises::{Broken, Promises, Reach, has_promised_nothing, reach_of},
    propose::ProposeError,
    rate::SnapshotRate,
    receive::restore_state,
    standing::{Ballot, Standing, Surroundings},
    state_machine::{NewestVersions, Pin, Published, SharedState},
    transport::{PeerTransport, TransportError},
    type_config::{GroupId, NodeId, Voter},
};
use self::{
    network::{NetworkFactory, Observer},
    state_machine::GroupStateMachine,
    type_config::TypeConfig,
};
use crate::{
    detector::Vitals,
    limits,
    planted::planted,
    storage::{log::GroupLog, room::Room, state::StateStore},
};

type Raft = openraft::Raft<TypeConfig, GroupStateMachine>;

/// Timing and retention of a group. Checked by the configuration before it gets here.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Interval between two heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// Shortest election timeout.
    pub election_timeout_min: Duration,
    /// Longest election timeout, and length of the leader's lease on its followers' votes.
    pub election_timeout_max: Duration,
    /// Length of the phases in which a leader without a quorum falls silent and probes again.
    pub quorum_loss_probe_interval: Duration,
    /// Most entries in one append message.
    pub max_payload_entries: u64,
    /// Longest time in which a peer confirms none of the entries that it was sent.
    pub append_silence_max: Duration,
    /// Longest silence of the receiver of a snapshot, while it receives and while it installs.
    pub snapshot_stall_max: Duration,
    /// How fast snapshots are sent; one for all groups of a node.
    pub snapshot_rate: Arc<SnapshotRate>,
}

/// Why a leader could not vouch for a read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadIndexError {
    /// Another node leads, if one is named.
    #[error("this node does not lead the group")]
    NotLeader(Option<NodeId>),
    /// No quorum answered in time.
    #[error("no quorum confirmed the leadership in time")]
    NoQuorum,
    /// Too many wait to be vouched for.
    #[error("too many reads are waiting")]
    Overloaded,
    /// The group does not run on this node.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

/// Who leads, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Present term.
    pub term: u64,
    /// Why the group has stopped on this node.
    pub stopped: Option<String>,
}

/// State of a group on this node.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Who leads.
    pub leadership: Leadership,
    /// Voters of the present membership.
    pub voters: Vec<NodeId>,
    /// Last index in the log.
    pub last_log_index: u64,
    /// Last index known to be committed.
    pub committed_index: u64,
    /// On the leader: the last index known to match, by peer.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// Nodes that only listen, by the present membership.
    pub learners: Vec<NodeId>,
    /// The membership changes: two sets of voters must agree.
    pub changing: bool,
}

/// One group on this node.
#[derive(Clone)]
pub struct RaftGroup {
    id: GroupId,
    node_id: NodeId,
    raft: Raft,
    shared: Arc<SharedState>,
    leadership: watch::Receiver<Leadership>,
    /// Commands that wait to share an entry.
    sharing: Arc<propose::Sharing>,
    room: Arc<Room>,
    incoming_dir: PathBuf,
    /// Held while a snapshot is received: one at a time. What was received last.
    receiving: Arc<tokio::sync::Mutex<Option<receive::Received>>>,
    /// What is being installed.
    installing: Arc<receive::Installing>,
    snapshot_stall_max: Duration,
    snapshot_rate: Arc<SnapshotRate>,
    promises: Arc<Promises>,
    memory: Arc<standing::Memory>,
    /// Its sender goes with the state machine.
    machine: watch::Receiver<()>,
    /// Set once nothing of this group may read the log any more.
    log_left: Arc<AtomicBool>,
}

/// What a group is made of.
pub struct Parts {
    /// Id of the group.
    pub group_id: GroupId,
    /// This node.
    pub node_id: NodeId,
    /// The group's part of the shared log.
    pub log: GroupLog,
    /// The group's state.
    pub store: Arc<StateStore>,
    /// The way to other nodes.
    pub transport: Arc<dyn PeerTransport>,
    /// Timing.
    pub tuning: Tuning,
    /// The room on the disks of this node and its peers.
    pub room: Arc<Room>,
    /// Where snapshots are received.
    pub incoming_dir: PathBuf,
    /// What other nodes have promised to this one.
    pub promises: Arc<Promises>,
    /// What the groups of this node remember of the newest versions.
    pub newest: Arc<NewestVersions>,
    /// Where the group says what it is doing.
    pub vitals: Arc<Vitals>,
}

impl RaftGroup {
    /// Starts the group from what its log and its store hold.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts {
            group_id,
            node_id,
            log,
            store,
            transport,
            tuning,
            room,
            incoming_dir,
            promises,
            newest,
            vitals,
        } = parts;
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: format!("group-{group_id}"),
            heartbeat_interval: millis(tuning.heartbeat_interval),
            election_timeout_min: millis(tuning.election_timeout_min),
            election_timeout_max: millis(tuning.election_timeout_max),
            quorum_loss_probe_interval: Some(millis(tuning.quorum_loss_probe_interval)),
            enable_pre_vote: Some(true),
            // A restarted leader holds an election: its state may be behind what it acknowledged.
            enable_leader_restore: Some(false),
            max_payload_entries: tuning.max_payload_entries,
            // Checkpoints and purges are decided by the size of the log, in `group/`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: u64::MAX,
            install_snapshot_timeout: millis(tuning.snapshot_stall_max),
            // Nobody looks at the stages of entries, and the room for them is set aside for each group.
            log_stage_capacity: Some(1),
            ..Default::default()
        };
        let config = Arc::new(config.validate().map_err(StartError::Config)?);
        reconcile::reconcile(&log, &store).await?;
        let machine = GroupStateMachine::open(group_id, store, newest)?.watched_by(vitals);
        #[cfg(feature = "planted-bugs")]
        let machine = crate::planted::state::opened(machine, &log, node_id);
        let (heartbeat, lease) = (tuning.heartbeat_interval, tuning.election_timeout_max);
        let memory = standing::Memory::new(log.clone(), heartbeat, lease);
        let log = LogStore::new(log);
        let observer = Observer {
            group_id,
            promises: promises.clone(),
            flushed: log.flushed(),
        };
        let network = NetworkFactory::new(observer, transport, room.clone(), &tuning);
        let (shared, life, log_left) = (machine.shared(), machine.life(), log.left());
        let raft = Raft::new(node_id, config, network, log, machine)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        let leadership = standing::follow_leadership(&raft, memory.clone());
        Ok(Self {
            id: group_id,
            node_id,
            raft,
            shared,
            leadership,
            sharing: Arc::default(),
            room,
            incoming_dir,
            receiving: Arc::default(),
            installing: Arc::default(),
            snapshot_stall_max: tuning.snapshot_stall_max,
            snapshot_rate: tuning.snapshot_rate,
            promises,
            memory,
            machine: life,
            log_left,
        })
    }

    /// Id of the group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// State that readers use.
    pub fn shared(&self) -> &Arc<SharedState> {
        &self.shared
    }

    /// The room on the disks of this node and its peers.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Writes the first membership into an empty log. Every first voter may do so with the same
    /// members; a log that holds anything is left as it is.
    pub async fn initialize(&self, voters: BTreeMap<NodeId, Voter>) -> Result<(), StartError> {
        match self.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(StartError::Raft(e.to_string())),
        }
    }

    /// The index that a linearizable read must have applied (Raft thesis, section 6.4), confirmed
    /// by a quorum after this call began. Only the leader can tell.
    pub async fn read_index(&self) -> Result<u64, ReadIndexError> {
        planted!(DeposedLeaderReads => {
            let metrics = self.raft.metrics().borrow_watched().clone();
            if metrics.state.is_leader() {
                return Ok(metrics.last_applied.map_or(0, |id| id.index));
            }
        });
        if let Some(why) = self.stopped() {
            return Err(ReadIndexError::Stopped(why));
        }
        let mut confirmed = std::pin::pin!(self.raft.get_read_linearizer(ReadPolicy::ReadIndex));
        let deadline = tokio::time::Instant::now() + limits::READ_INDEX_MAX;
        // openraft asks once for each read, and then not before the next heartbeat.
        let confirmed = loop {
            tokio::select! {
                confirmed = &mut confirmed => break confirmed,
                () = tokio::time::sleep(limits::READ_BEAT_EVERY) => self.beat().await,
                () = tokio::time::sleep_until(deadline) => return Err(ReadIndexError::NoQuorum),
            }
        };
        match confirmed {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ReadIndexError::NotLeader(to.leader_id))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadIndexError::NoQuorum)
            }
            Err(RaftError::Fatal(e)) => Err(ReadIndexError::Stopped(e.to_string())),
        }
    }

    /// Followers whose logs lost what they had confirmed to this node.
    pub fn broken_promises(&self) -> Vec<Broken> {
        self.promises.broken(self.id)
    }

    /// State of the group as this node sees it.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        Status {
            leadership: self.leadership.borrow().clone(),
            learners: membership.learner_ids().collect(),
            changing: membership.get_joint_config().len() > 1,
            voters: membership.voter_ids().collect(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.map_or(0, |id| id.index),
            matched: metrics
                .replication
                .map(|peers| {
                    peers
                        .into_iter()
                        .map(|(node, matched)| (node, matched.map(|id| id.index)))
                        .collect()
                })
                .unwrap_or_default(),
        }
    }

    fn stopped(&self) -> Option<String> {
        match &self.raft.metrics().borrow_watched().running_state {
            Ok(()) => None,
            Err(e) => Some(e.to_string()),
        }
    }

    /// Tells the leader core to hand its leadership to `to`. Whether it worked is seen in
    /// [`Self::leadership`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        self.memory.hands_over(self.leadership.borrow().term);
        let done = self.raft.trigger().transfer_leader(to).await;
        done.map_err(|e| ProposeError::Stopped(e.to_string()))
    }

    /// Makes the present state durable, then lets the log go up to `upto`, which is never past
    /// what is durable.
    pub async fn checkpoint_and_purge(&self, upto: u64) -> Result<(), ProposeError> {
        let stopped = |e: Fatal<TypeConfig>| ProposeError::Stopped(e.to_string());
        self.raft.trigger().snapshot().await.map_err(stopped)?;
        let wait = self.raft.wait(Some(limits::CHECKPOINT_WAIT_MAX));
        let built = wait.metrics(
            |m| m.snapshot.is_some_and(|id| id.index >= upto),
            "checkpoint",
        );
        built
            .await
            .map_err(|e| ProposeError::Stopped(e.to_string()))?;
        self.raft.trigger().purge_log(upto).await.map_err(stopped)
    }

    /// Removes superseded versions, `records_max` records at most. Returns whether more is left.
    pub async fn scrub_step(&self, records_max: usize) -> Result<bool, ProposeError> {
        let step = self
            .raft
            .with_state_machine(move |machine| {
                let step = machine.scrub_step(records_max);
                Box::pin(async move { step })
            })
            .await
            .map_err(|e| ProposeError::Stopped(e.to_string()))?;
        step.map_err(|e: io::Error| ProposeError::Stopped(e.to_string()))
    }

    /// Compact revision up to which superseded versions have been removed.
    pub async fn scrubbed_to(&self) -> Result<i64, ProposeError> {
        self.raft
            .with_state_machine(|machine| {
                let done = machine.scrubbed_to();
                Box::pin(async move { done })
            })
            .await
            .map_err(|e| ProposeError::Stopped(e.to_string()))
    }
}

/// Why a group could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The timing does not fit together.
    #[error("raft configuration: {0}")]
    Config(openraft::ConfigError),
    /// The state could not be loaded.
    #[error("loading the state: {0}")]
    State(#[from] io::Error),
    /// The core refused.
    #[error("starting the group: {0}")]
    Raft(String),
}
