//! A peer that takes everything and confirms nothing, beside peers that answer.

use std::sync::atomic::AtomicUsize;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::*;
use crate::raft::{
    Tuning,
    scripted::{
        self, AppendAnswers, Fate, Script, SnapshotAcks, answered, confirm, put, until,
        within_a_minute,
    },
};

const SILENT: NodeId = 3;

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

impl Script for Peers {
    fn append(
        &self,
        to: NodeId,
        mut requests: BoxStream<peer::AppendRequest>,
    ) -> Fate<AppendAnswers> {
        if to != SILENT {
            return answered(requests, confirm);
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

    fn heartbeat(&self, _: NodeId, request: peer::AppendRequest) -> Fate<peer::AppendResponse> {
        Box::pin(std::future::ready(Ok(confirm(&request))))
    }

    fn snapshot(&self, _: NodeId, _: BoxStream<peer::SnapshotChunk>) -> Fate<SnapshotAcks> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
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
    struct Shut;
    impl Script for Shut {
        fn append(
            &self,
            _: NodeId,
            requests: BoxStream<peer::AppendRequest>,
        ) -> Fate<AppendAnswers> {
            Box::pin(async move {
                let _kept = requests;
                std::future::pending().await
            })
        }
    }
    let silences = Silences::new(1, SILENT, Duration::from_millis(50));
    let opened = open(&Shut, silences, endless().0).await;
    assert!(matches!(opened, Err(TransportError::Lost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_leader_is_purged_beside_a_peer_that_confirms_nothing() {
    let peers = Arc::new(Peers::default());
    let tuning = Tuning {
        append_silence_max: Duration::from_millis(300),
        ..scripted::of_a_lasting_leader()
    };
    let (raft, log, _dir) = scripted::leader(peers.clone(), tuning).await;
    for round in 0..5_u64 {
        for _ in 0..50 {
            let committed = raft.propose(put());
            within_a_minute("answer", committed).await.unwrap();
        }
        let upto = 50 * round + 20;
        raft.checkpoint_and_purge(upto).await.unwrap();
        let purged = || log.state().purged;
        until("purge", || purged().is_some_and(|at| at.index >= upto)).await;
    }
    assert!(
        peers.taken.load(Ordering::Relaxed) > 0,
        "it was sent entries"
    );
    until("snapshot for the one that was silent", || {
        peers.snapshots.load(Ordering::Relaxed) > 0
    })
    .await;
    raft.shutdown().await;
}
