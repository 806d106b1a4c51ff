//! A group between a scripted network and real consensus: what callers are told.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use holdfast_proto::{
    command::{
        Answer, Command, Settings, answer::Result as Outcome, command::Op, error::Kind as ErrorKind,
    },
    etcdserverpb::PutRequest,
    peer::{self, forward_error::Kind, forward_reply::Reply},
};
use prost::Message;
use tempfile::TempDir;

use super::*;
use crate::raft::{
    TransportError, Voter,
    scripted::{self, Fate, NEVER, Script},
};
use crate::storage::log::Log;

const OTHER: NodeId = 2;
/// Time after which reads in vain are the lack of a leader.
const SILENCE: Duration = Duration::from_millis(500);

/// A network that answers forwarded requests as written down, then no more.
#[derive(Default)]
struct Network {
    answers: Mutex<VecDeque<Result<Reply, TransportError>>>,
    forwarded: AtomicUsize,
}

impl Script for Network {
    fn forward(&self, _: NodeId, _: peer::Forward) -> Fate<peer::ForwardReply> {
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        match self.answers.lock().pop_front() {
            Some(answer) => Box::pin(std::future::ready(answer.map(|reply| peer::ForwardReply {
                id: 0,
                reply: Some(reply),
            }))),
            None => Box::pin(std::future::pending()),
        }
    }
}

struct Node {
    group: Arc<Group>,
    network: Arc<Network>,
    _dir: TempDir,
}

/// A group of one voter on a log that others share. Its own housekeeping purges nothing.
pub(super) async fn alone(id: GroupId, log: &Log, dir: &Path) -> Arc<Group> {
    let retention = Retention {
        log_entries_max: u64::MAX / 2,
        log_bytes_max: u64::MAX,
    };
    let state = dir.join(format!("state-{id}"));
    let group = group(id, log, &state, Arc::default(), retention).await;
    let voters = BTreeMap::from([(1, Voter::default())]);
    group.raft().initialize(voters).await.unwrap();
    let mut leadership = group.leadership();
    let known = leadership.wait_for(|now| now.leader == Some(1));
    now(known).await.unwrap();
    group
}

/// A group with these other nodes and views, in which nothing happens by itself.
pub(super) async fn among(
    others: Arc<dyn PeerTransport>,
    views: watch::Receiver<Arc<Views>>,
    dir: &Path,
) -> Arc<Group> {
    let log = scripted::open_log(&dir.join("log"));
    let retention = Retention {
        log_entries_max: 1_000,
        log_bytes_max: 1 << 20,
    };
    group_with(1, &log, &dir.join("state"), others, views, retention).await
}

/// Three voters in three zones.
pub(super) fn voters() -> BTreeMap<NodeId, Voter> {
    let voter = |id: NodeId| {
        let voter = Voter {
            zone: format!("zone-{id}"),
            ..Default::default()
        };
        (id, voter)
    };
    [1, OTHER, 3].map(voter).into()
}

/// A group in which nothing happens by itself.
async fn group(
    id: GroupId,
    log: &Log,
    state: &Path,
    network: Arc<Network>,
    retention: Retention,
) -> Arc<Group> {
    let views = watch::Sender::new(Arc::new(Views::new(1))).subscribe();
    group_with(id, log, state, network, views, retention).await
}

async fn group_with(
    id: GroupId,
    log: &Log,
    state: &Path,
    network: Arc<dyn PeerTransport>,
    views: watch::Receiver<Arc<Views>>,
    retention: Retention,
) -> Arc<Group> {
    let (store, quiet) = (scripted::open_state(state), scripted::quiet());
    let raft = scripted::start(id, log, store, network.clone(), quiet, state).await;
    let limits = GroupLimits {
        proposals_in_flight_max: 16,
        proposals_in_flight_bytes_max: 1 << 20,
        reads_waiting_max: 1,
        leader_silence_max: SILENCE,
        proof_age_max: SILENCE,
    };
    Group::new(
        "test".into(),
        1,
        raft,
        log.group(id).unwrap(),
        network,
        views,
        &limits,
        retention,
        Raising {
            versions: MemberVersions::new(1),
            first_settings: Settings::default(),
        },
    )
}

/// Node 1 of a group in which nothing happens by itself.
async fn node(answers: impl IntoIterator<Item = Result<Reply, TransportError>>) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let log = scripted::open_log(&dir.path().join("log"));
    let network = Arc::new(Network {
        answers: Mutex::new(answers.into_iter().collect()),
        forwarded: AtomicUsize::new(0),
    });
    let retention = Retention {
        log_entries_max: 1_000,
        log_bytes_max: 1 << 20,
    };
    let group = group(
        1,
        &log,
        &dir.path().join("state"),
        network.clone(),
        retention,
    )
    .await;
    Node {
        group,
        network,
        _dir: dir,
    }
}

impl Node {
    async fn until_led_by(&self, leader: NodeId) {
        let mut leadership = self.group.leadership();
        let known = leadership.wait_for(|now| now.leader == Some(leader));
        tokio::time::timeout(Duration::from_secs(60), known)
            .await
            .expect("a leader within a minute")
            .unwrap();
    }

    /// The other node leads, and says so once.
    async fn follow(&self) {
        let heartbeat = peer::AppendRequest {
            group_id: 1,
            vote: Some(peer::Vote {
                term: 1,
                voted_for: OTHER,
                committed: true,
            }),
            ..Default::default()
        };
        self.group.raft().handle_heartbeat(heartbeat).await.unwrap();
        self.until_led_by(OTHER).await;
    }

    /// This node leads, and hears of nobody any more.
    async fn lead(&self) {
        let voters = voters();
        self.group.raft().initialize(voters).await.unwrap();
        self.until_led_by(1).await;
    }
}

pub(super) fn put(client_id: &'static str) -> Command {
    Command {
        client_id: Bytes::from_static(client_id.as_bytes()),
        request_seq: 1,
        op: Some(Op::Put(PutRequest {
            key: "k".into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn full() -> Result<Reply, TransportError> {
    Err(TransportError::Overloaded { to: OTHER })
}

fn lost() -> Result<Reply, TransportError> {
    Err(TransportError::Lost {
        to: OTHER,
        why: "cut".into(),
    })
}

fn refused(kind: Kind) -> Result<Reply, TransportError> {
    Ok(forward_error(kind, None, ""))
}

pub(super) fn late() -> Instant {
    Instant::now() + NEVER
}

/// What must come now comes within a minute, whatever the machine does besides.
async fn now<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), answer)
        .await
        .expect("answered long before the deadline of the request")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_finds_a_queue_full_is_refused_at_once() {
    for answer in [full(), refused(Kind::Overloaded)] {
        let node = node([answer]).await;
        node.follow().await;
        for client_id in ["", "client"] {
            let error = now(node.group.propose(put(client_id), late())).await;
            assert!(matches!(error, Err(GroupError::Overloaded)), "{error:?}");
            assert!(!GroupError::Overloaded.effect_unknown());
            node.network.answers.lock().push_back(full());
        }
        assert_eq!(
            node.network.forwarded.load(Ordering::Relaxed),
            2,
            "each was offered once"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_whose_fate_is_unknown_is_never_refused_as_not_done() {
    for second in [full(), refused(Kind::Overloaded)] {
        let node = node([lost(), second]).await;
        node.follow().await;
        let error = now(node.group.propose(put("client"), late())).await;
        let error = error.unwrap_err();
        assert!(error.effect_unknown(), "{error}");
        assert_eq!(node.network.forwarded.load(Ordering::Relaxed), 2);
    }
}

/// A client that sent its request once registers again when it is told that it is not known, and sends
/// the request under the new id: that must not be one which this node has offered before.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_forgotten_between_two_offers_is_not_told_that_nothing_was_done() {
    for kind in [ErrorKind::ClientUnknown, ErrorKind::RetryForgotten] {
        let forgotten = || {
            let answer = Answer {
                result: Some(Outcome::Error(holdfast_proto::command::Error {
                    kind: kind.into(),
                    message: String::new(),
                })),
            };
            Ok(Reply::Applied(peer::Applied {
                term: 1,
                index: 7,
                answer: answer.encode_to_vec().into(),
            }))
        };
        let node = node([lost(), forgotten()]).await;
        node.follow().await;
        let error = now(node.group.propose(put("client"), late())).await;
        let error = error.unwrap_err();
        assert!(error.effect_unknown(), "{error}");
        assert_eq!(node.network.forwarded.load(Ordering::Relaxed), 2);

        // The first offer is the only one: the answer is what it is.
        node.network.answers.lock().push_back(forgotten());
        let answered = now(node.group.propose(put("client"), late())).await;
        let answered = answered.unwrap().answer.result;
        assert!(
            matches!(&answered, Some(Outcome::Error(error)) if error.kind() == kind),
            "{answered:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_finds_a_queue_full_is_refused_at_once() {
    for answer in [full(), refused(Kind::Overloaded)] {
        let node = node([answer]).await;
        node.follow().await;
        let error = now(node.group.linearizable(late())).await;
        assert!(matches!(error, Err(GroupError::Overloaded)), "{error:?}");
        assert!(!node.group.led_within(NEVER), "nobody gave an index");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_too_many_rounds_refuses_the_next_question() {
    let node = node([]).await;
    node.lead().await;
    // No quorum answers, so these never end: as many as run at a time, and one that waits.
    let ask = || {
        let group = node.group.clone();
        let question = peer::Forward {
            id: 7,
            group_id: 1,
            request: Some(peer::forward::Request::ReadIndex(peer::ReadIndex {})),
        };
        async move { group.handle_forward(question).await }
    };
    let mut asked = tokio::task::JoinSet::new();
    let refused = now(async {
        loop {
            asked.spawn(ask());
            let first = tokio::time::timeout(Duration::from_millis(20), asked.join_next()).await;
            if let Ok(Some(answered)) = first {
                break answered.unwrap();
            }
        }
    })
    .await;
    match refused.reply {
        Some(Reply::Error(error)) => assert_eq!(error.kind(), Kind::Overloaded, "{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_known_for_as_long_as_its_last_read_index_is_young() {
    let index = Reply::ReadIndex(peer::ReadIndexReply { index: 0 });
    let node = node([Ok(index)]).await;
    node.follow().await;
    assert!(!node.group.led_within(NEVER), "not asked yet");
    // Nothing is applied here, so the read itself goes on waiting.
    let waiting = {
        let group = node.group.clone();
        tokio::spawn(async move { group.linearizable(late()).await })
    };
    now(async {
        while !node.group.led_within(NEVER) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!waiting.is_finished());
    assert!(!node.group.led_within(Duration::ZERO), "older than that");
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_wait_for_a_lost_leader_are_not_too_many_but_leaderless() {
    let node = node([]).await;
    node.follow().await;
    assert_eq!(node.group.proven_leader(), Some(OTHER));
    let mut asked = tokio::task::JoinSet::new();
    let mut ask = || {
        let group = node.group.clone();
        asked.spawn(async move { group.linearizable(late()).await });
    };
    // The leader never answers: the rounds are taken, then the only place to wait.
    let full = now(async {
        loop {
            ask();
            let soon = Instant::now() + Duration::from_millis(20);
            match node.group.linearizable(soon).await {
                Err(GroupError::TimedOut) => {}
                refused => break refused,
            }
        }
    })
    .await;
    let known_as_lost = node.group.leader_is_lost();
    assert!(
        matches!(full, Err(GroupError::Overloaded)) || known_as_lost,
        "{full:?}"
    );
    now(async {
        while !node.group.leader_is_lost() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let refused = now(node.group.linearizable(late())).await;
    assert!(matches!(refused, Err(GroupError::NoLeader)), "{refused:?}");
    assert_eq!(node.group.proven_leader(), None, "nobody follows it");
    // Those who wait give up: their places are free, and whoever comes waits for his own time.
    asked.shutdown().await;
    let soon = Instant::now() + Duration::from_millis(20);
    let waited = now(node.group.linearizable(soon)).await;
    assert!(matches!(waited, Err(GroupError::TimedOut)), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_command_of_a_later_version_is_refused_before_it_is_appended() {
    let node = node([]).await;
    let command = Command {
        min_version: holdfast_mvcc::VERSION + 1,
        ..put("")
    };
    let forwarded = peer::Forward {
        id: 7,
        group_id: 1,
        request: Some(peer::forward::Request::Command(
            command.encode_to_vec().into(),
        )),
    };
    let before = node.group.status().last_log_index;
    match now(node.group.handle_forward(forwarded)).await.reply {
        Some(Reply::Error(error)) => {
            assert_eq!(error.kind(), Kind::Unsupported, "{error:?}");
            assert!(error.message.contains("version 4"), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(node.group.status().last_log_index, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_the_state_was_not_raised_to_is_not_proposed() {
    let node = node([]).await;
    node.follow().await;
    let register = Command {
        op: Some(Op::Register(Default::default())),
        ..Default::default()
    };
    let refused = now(node.group.propose(register, late())).await;
    assert!(
        matches!(refused, Err(GroupError::Unsupported(_))),
        "{refused:?}"
    );
    assert_eq!(node.network.forwarded.load(Ordering::Relaxed), 0);
    // Nobody has said yet what it knows, so there is nothing to wait for.
    let why = now(node
        .group
        .raised_to(holdfast_mvcc::REGISTRATION, Instant::now()))
    .await;
    assert!(why.is_err());
}

/// With one voter that has said nothing, or that knows less, the leader proposes nothing new.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_raised_only_when_every_voter_has_said_that_it_knows_it() {
    let node = node([]).await;
    node.lead().await;
    let versions = node.group.raising.versions.clone();
    versions.heard(OTHER, holdfast_mvcc::VERSION);
    assert_eq!(node.group.due(), None, "3 is silent");
    versions.heard(3, 0);
    assert_eq!(node.group.due(), None, "3 does not know it");
    versions.heard(3, holdfast_mvcc::VERSION);
    let due = node.group.due().unwrap();
    assert_eq!(due.version, holdfast_mvcc::VERSION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_raises_the_version_by_itself_and_then_new_operations_are_proposed() {
    let node = node([]).await;
    let alone = BTreeMap::from([(1, Voter::default())]);
    node.group.raft().initialize(alone).await.unwrap();
    now(node.group.raised_to(holdfast_mvcc::REGISTRATION, late()))
        .await
        .unwrap();
    let register = Command {
        op: Some(Op::Register(Default::default())),
        ..Default::default()
    };
    let proposed = now(node.group.propose(register, late())).await.unwrap();
    let outcome = proposed.answer.result;
    assert!(matches!(outcome, Some(Outcome::Register(_))), "{outcome:?}");
}
