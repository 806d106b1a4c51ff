//! A transfer from the state of one node to the consensus of another, whose engine is slow or hangs.

use std::{
    path::Path,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize},
    },
    thread,
    time::Instant,
};

use futures_util::stream;
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::PutRequest,
};
use openraft::{entry::RaftEntry, storage::RaftStateMachine};
use tempfile::TempDir;

use super::*;
use crate::{
    raft::{
        RaftGroup, Tuning,
        codec::log_id,
        scripted::{self, Fate, Script, SnapshotAcks},
        state_machine::GroupStateMachine,
        transport::BoxStream,
        type_config::{Entry, LeaderId, Proposal},
    },
    storage::{
        engine::{Batch, Engine, EngineError, OpenEngine, Scan},
        memory_engine::MemoryDisk,
    },
};

/// Longest silence in these tests.
const STALL: Duration = Duration::from_millis(1_500);
/// Bytes of the state that is sent: several batches of a loader.
const STATE_BYTES: u64 = 6 * limits::LOAD_BYTES_MAX;
const VALUE_BYTES: u64 = 64 * 1024;

/// A memory engine each of whose batches takes a while, or does not end while it hangs.
#[derive(Clone, Default)]
struct Slow {
    disk: MemoryDisk,
    batch: Duration,
    hangs: Arc<AtomicBool>,
}

struct SlowEngine {
    engine: Box<dyn Engine>,
    slow: Slow,
}

impl OpenEngine for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(SlowEngine {
            engine: self.disk.open(dir)?,
            slow: self.clone(),
        }))
    }
}

impl Engine for SlowEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(key)
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Scan<'a> {
        self.engine.scan(start, end)
    }

    fn apply_batch(&self, batch: Batch) -> Result<(), EngineError> {
        thread::sleep(self.slow.batch);
        while self.slow.hangs.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        self.engine.apply_batch(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.engine.sync()
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.engine.disk_bytes()
    }
}

/// The way to one receiving group, which itself sends nothing.
struct ToGroup {
    group: OnceLock<RaftGroup>,
    streams: AtomicUsize,
    /// The first stream breaks off when an acknowledgement is repeated, the sign of an installation.
    breaks: bool,
}

impl ToGroup {
    fn group(&self) -> &RaftGroup {
        self.group.get().expect("set once the group has started")
    }
}

fn receive(
    group: &RaftGroup,
    mut chunks: BoxStream<peer::SnapshotChunk>,
) -> mpsc::Receiver<peer::SnapshotAck> {
    let (tx, acks) = mpsc::channel(limits::SNAPSHOT_WINDOW_CHUNKS_MAX);
    let group = group.clone();
    tokio::spawn(async move {
        let header = chunks.next().await.unwrap().header.unwrap();
        // What is wrong shows in the acknowledgements.
        let _ = group.receive_snapshot(header, chunks, tx).await;
    });
    acks
}

impl Script for ToGroup {
    fn snapshot(&self, to: NodeId, chunks: BoxStream<peer::SnapshotChunk>) -> Fate<SnapshotAcks> {
        let breaks = self.streams.fetch_add(1, Ordering::Relaxed) == 0 && self.breaks;
        let acks = ReceiverStream::new(receive(self.group(), chunks));
        let last = Mutex::new(None);
        let acks = acks.map(move |ack| {
            let repeated = last.lock().unwrap().replace(ack.next_seq) == Some(ack.next_seq);
            match breaks && repeated {
                true => Err(TransportError::Lost {
                    to,
                    why: "cut".into(),
                }),
                false => Ok(ack),
            }
        });
        Box::pin(std::future::ready(Ok(Box::pin(acks) as SnapshotAcks)))
    }
}

/// A group with nothing in it, on a node that others lead.
async fn receiver(engine: Slow, breaks: bool) -> (Arc<ToGroup>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let to = Arc::new(ToGroup {
        group: OnceLock::new(),
        streams: AtomicUsize::new(0),
        breaks,
    });
    let log = scripted::open_log(&dir.path().join("log"));
    let store = scripted::open_state_on(&dir.path().join("state"), engine);
    let tuning = Tuning {
        snapshot_stall_max: STALL,
        snapshot_rate: Arc::new(SnapshotRate::new(u64::MAX)),
        ..scripted::quiet()
    };
    let group = scripted::start(1, &log, store, to.clone(), tuning, dir.path()).await;
    assert!(to.group.set(group).is_ok());
    (to, dir)
}

/// A state machine that has applied so many bytes.
async fn sender(bytes: u64) -> (GroupStateMachine, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = scripted::open_state(dir.path());
    let mut machine = GroupStateMachine::open(1, store, Arc::default()).unwrap();
    let entries = (0..bytes / VALUE_BYTES).map(|index| {
        let put = PutRequest {
            key: index.to_be_bytes().to_vec().into(),
            value: vec![index as u8; VALUE_BYTES as usize].into(),
            ..Default::default()
        };
        let command = Command {
            op: Some(Op::Put(put)),
            ..Default::default()
        };
        let proposal = Proposal(command.encode_to_vec().into());
        Ok((Entry::new_normal(log_id(1, index), proposal), None))
    });
    machine
        .apply(stream::iter(entries.collect::<Vec<_>>()))
        .await
        .unwrap();
    (machine, dir)
}

async fn transfer(to: &ToGroup) -> Result<Vote, SendError> {
    let (mut machine, _dir) = sender(STATE_BYTES).await;
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    let vote = Vote {
        leader_id: LeaderId {
            term: 1,
            voted_for: 2,
        },
        committed: true,
    };
    let pace = Pace {
        pause: Duration::from_millis(10),
        pause_max: Duration::from_millis(100),
        stall_max: STALL,
        rate: Arc::new(SnapshotRate::new(u64::MAX)),
    };
    let sent = send(to, 1, 1, vote, snapshot, &pace);
    let sent = tokio::time::timeout(Duration::from_secs(120), sent).await;
    let sent = sent.expect("the transfer ends");
    if sent.is_ok() {
        let theirs = to.group().shared().read().0;
        assert_eq!(theirs, machine.shared().read().0);
        assert_eq!(to.group().shared().snapshots_installed(), 1);
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_takes_longer_than_any_silence_ends_at_the_first_attempt() {
    let slow = Slow {
        batch: STALL / 3,
        ..Slow::default()
    };
    let (to, _dir) = receiver(slow, false).await;
    let begun = Instant::now();
    transfer(&to).await.unwrap();
    assert!(begun.elapsed() > STALL, "longer than a silence may last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_whose_stream_breaks_joins_the_installation_that_goes_on() {
    let slow = Slow {
        batch: STALL / 3,
        ..Slow::default()
    };
    let (to, _dir) = receiver(slow, true).await;
    transfer(&to).await.unwrap();
    assert!(
        to.streams.load(Ordering::Relaxed) >= 2,
        "the first one broke"
    );
    // Whoever comes back once it is done is told so, too: nothing is sent or installed again.
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_hangs_gives_no_signs_of_life() {
    let slow = Slow::default();
    slow.hangs.store(true, Ordering::Relaxed);
    let (to, _dir) = receiver(slow.clone(), false).await;
    let (mut machine, _sender_dir) = sender(2 * limits::LOAD_BYTES_MAX).await;
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    let SnapshotData::Live(live) = snapshot.snapshot else {
        panic!("a snapshot of a node's own state is live");
    };
    let header = peer::SnapshotHeader {
        group_id: 1,
        vote: Some(peer::Vote {
            term: 1,
            voted_for: 2,
            committed: true,
        }),
        applied_record: live.applied_record.clone(),
        snapshot_id: "one".into(),
        ..Default::default()
    };
    let opening = peer::SnapshotChunk {
        header: Some(header),
        ..Default::default()
    };
    let chunks = read_chunks(live, Arc::new(SnapshotRate::new(u64::MAX)));
    let chunks = ReceiverStream::new(chunks).map(|chunk| chunk.unwrap());
    let chunks = stream::once(std::future::ready(opening)).chain(chunks);
    let mut acks = receive(to.group(), Box::pin(chunks));
    // It falls silent although it is not done.
    while let Ok(ack) = tokio::time::timeout(2 * STALL, acks.recv()).await {
        assert!(!ack.unwrap().done);
    }
    slow.hangs.store(false, Ordering::Relaxed);
    let done = async { while !acks.recv().await.unwrap().done {} };
    tokio::time::timeout(Duration::from_secs(60), done)
        .await
        .unwrap();
}

/// Whoever loads it writes one run.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_sent_in_the_order_of_its_keys() {
    let (mut machine, _dir) = sender(3 * limits::SNAPSHOT_CHUNK_BYTES).await;
    // An answer that is kept: a record behind the versions.
    let index = machine.shared().read().0.index.unwrap() + 1;
    let retried = Command {
        client_id: "client".into(),
        request_seq: 1,
        op: Some(Op::Put(PutRequest {
            key: "kept".into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let proposal = Proposal(retried.encode_to_vec().into());
    let entry = Ok((Entry::new_normal(log_id(1, index), proposal), None));
    machine.apply(stream::iter([entry])).await.unwrap();
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    let SnapshotData::Live(live) = snapshot.snapshot else {
        panic!("a snapshot of a node's own state is live");
    };
    let unversioned = live.unversioned.clone();
    let mut chunks = read_chunks(live, Arc::new(SnapshotRate::new(u64::MAX)));
    let mut keys = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        let chunk = wire::Chunk::decode(chunk.unwrap().data).unwrap();
        keys.extend(chunk.records.into_iter().map(|record| record.key));
    }
    assert!(keys.is_sorted_by(|a, b| a < b));
    assert!(unversioned.iter().all(|(key, _)| keys.contains(key)));
    let (first, last) = (&unversioned[0].0, &unversioned[unversioned.len() - 1].0);
    assert_eq!((keys.first(), keys.last()), (Some(first), Some(last)));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_transfers_of_a_node_share_one_rate() {
    let (mut machine, _dir) = sender(4 * limits::SNAPSHOT_CHUNK_BYTES).await;
    let bytes_per_second = 8 * limits::SNAPSHOT_CHUNK_BYTES;
    let rate = Arc::new(SnapshotRate::new(bytes_per_second));
    let begun = Instant::now();
    let mut transfers = Vec::new();
    for _ in 0..3 {
        let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
        let SnapshotData::Live(live) = snapshot.snapshot else {
            panic!("a snapshot of a node's own state is live");
        };
        let mut chunks = read_chunks(live, rate.clone());
        transfers.push(tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(chunk) = chunks.recv().await {
                bytes += chunk.unwrap().data.len() as u64;
            }
            bytes
        }));
    }
    let mut bytes = 0;
    for transfer in transfers {
        bytes += transfer.await.unwrap();
    }
    assert!(bytes >= 12 * limits::SNAPSHOT_CHUNK_BYTES, "{bytes}");
    // The last chunk goes when all before it have had their time.
    let before_last = bytes - 2 * limits::SNAPSHOT_CHUNK_BYTES;
    let least = Duration::from_secs_f64(before_last as f64 / bytes_per_second as f64);
    assert!(
        begun.elapsed() >= least,
        "{:?} < {least:?}",
        begun.elapsed()
    );
}
