//! Groups in tests, whose other nodes do what the test has written down.
//!
//! A test says with a [`Script`] what the other nodes answer; what it does not mention never comes to an
//! end, but for votes, which are granted. The log is a real one, the state is in memory, and nothing
//! happens by itself unless the test has set another timing than [`quiet`].

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::PutRequest,
    peer,
};
use prost::Message;
use tempfile::TempDir;

use super::{
    GroupId, NodeId, Parts, PeerTransport, RaftGroup, SnapshotRate, TransportError, Tuning, Voter,
    transport::{BoxFuture, BoxStream},
};
use crate::storage::{
    engine::OpenEngine,
    log::{GroupLog, Log, LogOptions, files::DiskFiles},
    memory_engine::MemoryDisk,
    room::Room,
    state::{StateOptions, StateStore},
};

/// Longer than any test runs.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

/// Answers to append requests, in their order.
pub(crate) type AppendAnswers = BoxStream<Result<peer::AppendResponse, TransportError>>;
/// Acknowledgements of a transfer.
pub(crate) type SnapshotAcks = BoxStream<Result<peer::SnapshotAck, TransportError>>;
/// What becomes of a message.
pub(crate) type Fate<T> = BoxFuture<Result<T, TransportError>>;

/// What the other nodes do.
pub(crate) trait Script: Send + Sync + 'static {
    fn append(
        &self,
        _to: NodeId,
        _requests: BoxStream<peer::AppendRequest>,
    ) -> Fate<AppendAnswers> {
        Box::pin(std::future::pending())
    }

    fn heartbeat(&self, _to: NodeId, _request: peer::AppendRequest) -> Fate<peer::AppendResponse> {
        Box::pin(std::future::pending())
    }

    fn snapshot(&self, _to: NodeId, _chunks: BoxStream<peer::SnapshotChunk>) -> Fate<SnapshotAcks> {
        Box::pin(std::future::pending())
    }

    fn forward(&self, _to: NodeId, _request: peer::Forward) -> Fate<peer::ForwardReply> {
        Box::pin(std::future::pending())
    }

    fn survey(&self, _to: NodeId, _request: peer::SurveyMessage) -> Fate<peer::SurveyMessage> {
        Box::pin(std::future::pending())
    }

    /// A leader hands over. Nobody answers it.
    fn transfer_leader(&self, _to: NodeId, _request: &peer::TransferLeaderRequest) {}
}

impl<S: Script> PeerTransport for S {
    fn vote(&self, _: NodeId, request: peer::VoteRequest, _: Duration) -> Fate<peer::VoteResponse> {
        Box::pin(std::future::ready(Ok(peer::VoteResponse {
            vote: request.vote,
            granted: true,
            last_log_id: None,
        })))
    }

    fn survey(
        &self,
        to: NodeId,
        request: peer::SurveyMessage,
        timeout: Duration,
    ) -> Fate<peer::SurveyMessage> {
        let answer = Script::survey(self, to, request);
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(TransportError::Lost {
                    to,
                    why: "no answer in time".into(),
                }),
            }
        })
    }

    fn transfer_leader(
        &self,
        to: NodeId,
        request: peer::TransferLeaderRequest,
        _: Duration,
    ) -> Fate<peer::TransferLeaderResponse> {
        Script::transfer_leader(self, to, &request);
        Box::pin(std::future::pending())
    }

    fn append(&self, to: NodeId, requests: BoxStream<peer::AppendRequest>) -> Fate<AppendAnswers> {
        Script::append(self, to, requests)
    }

    fn heartbeat(&self, to: NodeId, request: peer::AppendRequest) -> Fate<peer::AppendResponse> {
        Script::heartbeat(self, to, request)
    }

    fn snapshot(&self, to: NodeId, chunks: BoxStream<peer::SnapshotChunk>) -> Fate<SnapshotAcks> {
        Script::snapshot(self, to, chunks)
    }

    fn forward(&self, to: NodeId, request: peer::Forward) -> Fate<peer::ForwardReply> {
        Script::forward(self, to, request)
    }
}

/// Other nodes that nothing is heard of.
pub(crate) struct Nobody;

impl Script for Nobody {}

/// The answer of a follower that has all that it was sent.
pub(crate) fn confirm(request: &peer::AppendRequest) -> peer::AppendResponse {
    let last = request.entries.last().map(|entry| peer::LogId {
        term: entry.term,
        index: entry.index,
    });
    peer::AppendResponse {
        result: Some(peer::append_response::Result::Matched(peer::Matched {
            log_id: last.or(request.prev_log_id),
        })),
        ..Default::default()
    }
}

/// A stream on which each request is answered at once.
pub(crate) fn answered(
    requests: BoxStream<peer::AppendRequest>,
    answer: impl Fn(&peer::AppendRequest) -> peer::AppendResponse + Send + 'static,
) -> Fate<AppendAnswers> {
    let answers: AppendAnswers = Box::pin(requests.map(move |request| Ok(answer(&request))));
    Box::pin(std::future::ready(Ok(answers)))
}

/// A log with small segments.
pub(crate) fn open_log(dir: &Path) -> Log {
    let options = LogOptions {
        segment_bytes: 64 * 1024,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(dir, options, Arc::new(DiskFiles)).unwrap();
    log
}

/// A state in memory.
pub(crate) fn open_state(dir: &Path) -> Arc<StateStore> {
    open_state_on(dir, MemoryDisk::default())
}

/// A state on an engine of the test's own.
pub(crate) fn open_state_on(dir: &Path, engine: impl OpenEngine + 'static) -> Arc<StateStore> {
    let options = StateOptions {
        engine: Arc::new(engine),
        ..StateOptions::default()
    };
    Arc::new(StateStore::open(dir, options).unwrap().store)
}

/// Timing with which nothing happens by itself.
pub(crate) fn quiet() -> Tuning {
    Tuning {
        heartbeat_interval: NEVER,
        election_timeout_min: 2 * NEVER,
        election_timeout_max: 3 * NEVER,
        quorum_loss_probe_interval: 10 * NEVER,
        max_payload_entries: 100,
        append_silence_max: NEVER,
        snapshot_stall_max: Duration::from_secs(60),
        snapshot_rate: Arc::new(SnapshotRate::new(1 << 20)),
    }
}

/// Timing of a leader that nobody replaces, however slow the machine is.
pub(crate) fn of_a_lasting_leader() -> Tuning {
    Tuning {
        heartbeat_interval: Duration::from_millis(500),
        election_timeout_min: Duration::from_secs(600),
        election_timeout_max: Duration::from_secs(1_200),
        quorum_loss_probe_interval: Duration::from_secs(6_000),
        ..quiet()
    }
}

/// Starts a group as node 1.
pub(crate) async fn start(
    group_id: GroupId,
    log: &Log,
    store: Arc<StateStore>,
    transport: Arc<dyn PeerTransport>,
    tuning: Tuning,
    incoming_dir: &Path,
) -> RaftGroup {
    let started = RaftGroup::start(Parts {
        group_id,
        node_id: 1,
        log: log.group(group_id).unwrap(),
        store,
        transport,
        tuning,
        room: Arc::new(Room::new(0)),
        incoming_dir: incoming_dir.to_path_buf(),
        promises: Arc::default(),
        newest: Arc::default(),
        vitals: Arc::default(),
    });
    started.await.unwrap()
}

/// Node 1 of three, which leads and is followed. With it its log, and what is to be kept.
pub(crate) async fn leader(
    peers: Arc<dyn PeerTransport>,
    tuning: Tuning,
) -> (RaftGroup, GroupLog, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir.path().join("log"));
    let store = open_state(&dir.path().join("state"));
    let raft = start(1, &log, store, peers, tuning, dir.path()).await;
    let voters: BTreeMap<_, _> = (1..=3).map(|id| (id, Voter::default())).collect();
    raft.initialize(voters).await.unwrap();
    until_led(&raft, 1).await;
    // A leader takes nothing before a quorum has followed it for the first time.
    let accepted = async {
        while raft.propose(put()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_a_minute("leader that a quorum follows", accepted).await;
    (raft, log.group(1).unwrap(), dir)
}

/// Waits until this node leads the group in a term of at least `term`.
pub(crate) async fn until_led(raft: &RaftGroup, term: u64) {
    let mut leadership = raft.leadership();
    let known = leadership.wait_for(|now| now.leader == Some(1) && now.term >= term);
    within_a_minute("leader", known).await.unwrap();
}

/// The first entry of a log: who votes.
pub(crate) fn first_membership(voters: BTreeMap<NodeId, Voter>) -> peer::Entry {
    let membership = openraft::Membership::from(voters);
    peer::Entry {
        term: 0,
        index: 0,
        kind: u32::from(super::codec::KIND_MEMBERSHIP),
        payload: super::codec::membership_to_bytes(&membership),
    }
}

/// A command of some size, encoded.
pub(crate) fn put() -> Bytes {
    let request = PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(&[0; 1_000]),
        ..Default::default()
    };
    let command = Command {
        op: Some(Op::Put(request)),
        ..Default::default()
    };
    command.encode_to_vec().into()
}

/// Waits for what does not take long on any machine.
pub(crate) async fn within_a_minute<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), done).await;
    done.unwrap_or_else(|_| panic!("no {what} within a minute"))
}

/// Looks until a condition is met.
pub(crate) async fn until(what: &str, met: impl Fn() -> bool) {
    let met = async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_a_minute(what, met).await;
}
