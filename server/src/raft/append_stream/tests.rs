//! A peer that takes everything and confirms nothing, beside peers that answer.

use std::{collections::BTreeMap, sync::atomic::AtomicUsize};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::PutRequest,
};
use prost::Message;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    raft::{Parts, RaftGroup, SnapshotRate, Tuning, Voter, transport::BoxFuture},
    storage::{
        log::{GroupLog, Log, LogOptions, files::DiskFiles},
        memory_engine::MemoryDisk,
        room::Room,
        state::{StateOptions, StateStore},
    },
};

const SILENT: NodeId = 3;

type AppendAnswers = BoxStream<Result<peer::AppendResponse, TransportError>>;

/// Peers that grant every vote and confirm every entry; the silent one takes all that it is sent and
/// confirms as many requests as there are permits.
struct Peers {
    permits: Arc<Semaphore>,
    /// Requests that the silent one has taken.
    taken: Arc<AtomicUsize>,
    streams: AtomicUsize,
    snapshots: AtomicUsize,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(0)),
            taken: Arc::default(),
            streams: AtomicUsize::new(0),
            snapshots: AtomicUsize::new(0),
        }
    }
}

fn confirm(request: &peer::AppendRequest) -> peer::AppendResponse {
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

impl PeerTransport for Peers {
    fn vote(
        &self,
        _: NodeId,
        request: peer::VoteRequest,
        _: Duration,
    ) -> BoxFuture<Result<peer::VoteResponse, TransportError>> {
        Box::pin(std::future::ready(Ok(peer::VoteResponse {
            vote: request.vote,
            granted: true,
            last_log_id: None,
        })))
    }

    fn transfer_leader(
        &self,
        _: NodeId,
        _: peer::TransferLeaderRequest,
        _: Duration,
    ) -> BoxFuture<Result<peer::TransferLeaderResponse, TransportError>> {
        Box::pin(std::future::pending())
    }

    fn append(
        &self,
        to: NodeId,
        mut requests: BoxStream<peer::AppendRequest>,
    ) -> BoxFuture<Result<AppendAnswers, TransportError>> {
        if to != SILENT {
            let answers: AppendAnswers = Box::pin(requests.map(|request| Ok(confirm(&request))));
            return Box::pin(std::future::ready(Ok(answers)));
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
        let (permits, taken) = (self.permits.clone(), self.taken.clone());
        // As a transport does, whether or not anybody still reads the answers.
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                taken.fetch_add(1, Ordering::Relaxed);
                let (tx, permits) = (tx.clone(), permits.clone());
                tokio::spawn(async move {
                    permits.acquire().await.unwrap().forget();
                    let _ = tx.send(Ok(confirm(&request)));
                });
            }
        });
        let answers = stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) });
        // The real one does not end its answers when its requests end either.
        let answers: AppendAnswers = Box::pin(answers.chain(stream::pending()));
        Box::pin(std::future::ready(Ok(answers)))
    }

    fn heartbeat(
        &self,
        _: NodeId,
        request: peer::AppendRequest,
    ) -> BoxFuture<Result<peer::AppendResponse, TransportError>> {
        Box::pin(std::future::ready(Ok(confirm(&request))))
    }

    fn snapshot(
        &self,
        _: NodeId,
        _: BoxStream<peer::SnapshotChunk>,
    ) -> BoxFuture<Result<BoxStream<Result<peer::SnapshotAck, TransportError>>, TransportError>>
    {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn forward(
        &self,
        _: NodeId,
        _: peer::Forward,
    ) -> BoxFuture<Result<peer::ForwardReply, TransportError>> {
        Box::pin(std::future::pending())
    }
}

/// Requests one after the other for as long as they are read, and how many were.
fn endless() -> (BoxStream<peer::AppendRequest>, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    let requests = stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        peer::AppendRequest::default()
    });
    // As slow as a disk, so that the transport does not run away with the test.
    let requests = requests.then(|request| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        request
    });
    (Box::pin(requests), read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_confirms_nothing_is_given_up_and_no_request_is_read_after_that() {
    let peers = Peers::default();
    let silences = Silences::new(1, SILENT, Duration::from_millis(50));
    for (silent_ms, in_a_row) in [(50, 1), (100, 2), (200, 3), (400, 4), (400, 5)] {
        let (requests, read) = endless();
        let begun = Instant::now();
        let mut answers = open(&peers, silences.clone(), requests).await.unwrap();
        let error = within_a_minute("end", answers.next()).await;
        let error = error.unwrap().unwrap_err().to_string();
        let read_then = read.load(Ordering::Relaxed);
        assert!(error.contains("nothing was confirmed for"), "{error}");
        assert!(begun.elapsed() >= Duration::from_millis(silent_ms));
        assert_eq!(silences.in_a_row.load(Ordering::Relaxed), in_a_row);
        assert!(read_then > 0, "requests waited");
        // The transport goes on asking, even while the answers still exist.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(read.load(Ordering::Relaxed), read_then, "not read any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_peer_is_not_a_silent_one_and_an_idle_stream_stays_open() {
    let peers = Peers::default();
    let silence = Duration::from_secs(2);
    let silences = Silences::new(1, SILENT, silence);
    silences.in_a_row.store(2, Ordering::Relaxed);
    let requests = stream::repeat(peer::AppendRequest::default()).take(20);
    let requests = requests.chain(stream::pending());
    let answers = open(&peers, silences.clone(), Box::pin(requests)).await;
    let mut answers = answers.unwrap();
    // Requests wait for longer than the silence that is allowed, but there are answers all the time.
    for _ in 0..20 {
        tokio::time::sleep(silence / 15).await;
        peers.permits.add_permits(1);
        let answer = within_a_minute("answer", answers.next()).await;
        answer.unwrap().unwrap();
        assert_eq!(silences.in_a_row.load(Ordering::Relaxed), 0);
    }
    let idle = tokio::time::timeout(silence + silence / 2, answers.next()).await;
    assert!(idle.is_err(), "nothing waits for an answer: {idle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_opens_the_stream_is_given_up() {
    struct Shut(Peers);
    impl PeerTransport for Shut {
        fn vote(
            &self,
            to: NodeId,
            request: peer::VoteRequest,
            timeout: Duration,
        ) -> BoxFuture<Result<peer::VoteResponse, TransportError>> {
            self.0.vote(to, request, timeout)
        }
        fn transfer_leader(
            &self,
            to: NodeId,
            request: peer::TransferLeaderRequest,
            timeout: Duration,
        ) -> BoxFuture<Result<peer::TransferLeaderResponse, TransportError>> {
            self.0.transfer_leader(to, request, timeout)
        }
        fn append(
            &self,
            _: NodeId,
            requests: BoxStream<peer::AppendRequest>,
        ) -> BoxFuture<Result<AppendAnswers, TransportError>> {
            Box::pin(async move {
                let _kept = requests;
                std::future::pending().await
            })
        }
        fn heartbeat(
            &self,
            to: NodeId,
            request: peer::AppendRequest,
        ) -> BoxFuture<Result<peer::AppendResponse, TransportError>> {
            self.0.heartbeat(to, request)
        }
        fn snapshot(
            &self,
            to: NodeId,
            chunks: BoxStream<peer::SnapshotChunk>,
        ) -> BoxFuture<Result<BoxStream<Result<peer::SnapshotAck, TransportError>>, TransportError>>
        {
            self.0.snapshot(to, chunks)
        }
        fn forward(
            &self,
            to: NodeId,
            request: peer::Forward,
        ) -> BoxFuture<Result<peer::ForwardReply, TransportError>> {
            self.0.forward(to, request)
        }
    }
    let silences = Silences::new(1, SILENT, Duration::from_millis(50));
    let opened = open(&Shut(Peers::default()), silences, endless().0).await;
    assert!(matches!(opened, Err(TransportError::Lost { .. })));
}

/// Node 1 of three, which leads.
async fn leader(peers: Arc<Peers>) -> (RaftGroup, GroupLog, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let log_options = LogOptions {
        segment_bytes: 64 * 1024,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(&dir.path().join("log"), log_options, Arc::new(DiskFiles)).unwrap();
    let state_options = StateOptions {
        engine: Arc::new(MemoryDisk::default()),
        ..StateOptions::default()
    };
    let store = StateStore::open(&dir.path().join("state"), state_options);
    let raft = RaftGroup::start(Parts {
        group_id: 1,
        node_id: 1,
        log: log.group(1),
        store: Arc::new(store.unwrap().store),
        transport: peers,
        tuning: Tuning {
            // Nothing is elected after the first one, however slow the machine is.
            heartbeat_interval: Duration::from_millis(500),
            election_timeout_min: Duration::from_secs(600),
            election_timeout_max: Duration::from_secs(1_200),
            quorum_loss_probe_interval: Duration::from_secs(6_000),
            max_payload_entries: 100,
            append_silence_max: Duration::from_millis(300),
            snapshot_stall_max: Duration::from_secs(60),
            snapshot_rate: Arc::new(SnapshotRate::new(1 << 20)),
        },
        room: Arc::new(Room::new(0)),
        incoming_dir: dir.path().to_path_buf(),
        promises: Arc::default(),
    });
    let raft = raft.await.unwrap();
    let voters: BTreeMap<_, _> = (1..=3).map(|id| (id, Voter::default())).collect();
    raft.initialize(voters).await.unwrap();
    let mut leadership = raft.leadership();
    let known = leadership.wait_for(|now| now.leader == Some(1));
    within_a_minute("a leader", known).await.unwrap();
    // A leader takes nothing before a quorum has followed it for the first time.
    let accepted = async {
        while raft.propose(put()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_a_minute("a leader that a quorum follows", accepted).await;
    (raft, log.group(1), dir)
}

async fn within_a_minute<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), done).await;
    done.unwrap_or_else(|_| panic!("no {what} within a minute"))
}

fn put() -> Bytes {
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

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_leader_is_purged_beside_a_peer_that_confirms_nothing() {
    let peers = Arc::new(Peers::default());
    let (raft, log, _dir) = leader(peers.clone()).await;
    for round in 0..5_u64 {
        for _ in 0..50 {
            let committed = raft.propose(put());
            within_a_minute("answer", committed).await.unwrap();
        }
        let upto = 50 * round + 20;
        raft.checkpoint_and_purge(upto).await.unwrap();
        let purged = async {
            while log.state().purged.is_none_or(|purged| purged.index < upto) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within_a_minute("purge", purged).await;
    }
    assert!(
        peers.taken.load(Ordering::Relaxed) > 0,
        "it was sent entries"
    );
    let snapshot = async {
        while peers.snapshots.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_a_minute("snapshot for the one that was silent", snapshot).await;
    raft.shutdown().await;
}
