//! The receiving end of a snapshot: chunks go to a spool file, then the whole is installed.
//!
//! The installation does not depend on the stream that brought the chunks. When that breaks off, it goes
//! on, and the sender, which opens another stream for the same snapshot, joins it: it is told that all
//! chunks are there for as long as the installation gets on, and in the end that it is done.

use std::{path::PathBuf, sync::Arc, time::Instant};

use futures_util::StreamExt;
use holdfast_proto::peer;
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    RaftGroup,
    codec::{DecodeError, vote_from_wire, vote_to_wire},
    snapshot::{InstallProgress, SnapshotData},
    state_machine::decode_applied,
    transport::BoxStream,
    type_config::{SnapshotMeta, TypeConfig},
};
use crate::storage::{
    snapshot_file::{SnapshotFile, SnapshotFileError},
    state::StateStore,
};

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A message does not decode.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A chunk was damaged on the way.
    #[error("the checksum of chunk {0} does not match")]
    Damaged(u64),
    /// The sender stopped before the last chunk. What arrived is kept for a resumption.
    #[error("the sender stopped after chunk {0}")]
    Incomplete(u64),
    /// The spool refused: the disk, or a chunk out of turn.
    #[error("spooling the snapshot: {0}")]
    Spool(#[from] SnapshotFileError),
    /// The snapshot ends before the log begins.
    #[error("the snapshot is at index {index}, the log begins after {index_min}")]
    TooOld {
        /// Applied index of the snapshot.
        index: u64,
        /// Last index that the log has purged.
        index_min: u64,
    },
    /// The state does not load.
    #[error("loading the snapshot: {0}")]
    Load(std::io::Error),
    /// The group has stopped on this node.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

impl RaftGroup {
    /// Receives one snapshot, or the rest of one that broke off, and installs it. Tells `acks`
    /// which chunk is due next, first of all and whenever chunks have reached the disk.
    pub async fn receive_snapshot(
        &self,
        header: peer::SnapshotHeader,
        mut chunks: BoxStream<peer::SnapshotChunk>,
        acks: mpsc::Sender<peer::SnapshotAck>,
    ) -> Result<(), ReceiveError> {
        let vote = vote_from_wire(header.vote)?;
        let applied = decode_applied(&header.applied_record)?;
        let id = header.snapshot_id;
        // One transfer at a time: a sender that reconnects waits for its old stream to end.
        let lock = self.receiving.lock();
        let mut received = self.giving_signs(&id, header.chunks, &acks, lock).await;
        if let Some(received) = received.as_ref().filter(|received| received.id == id) {
            return tell(&acks, received.ack).await;
        }
        let path = self.incoming_dir.join(format!("group-{}.spool", self.id));
        let spool_id = id.clone();
        let mut spool = blocking(move || SnapshotFile::open_or_resume(&path, &spool_id)).await?;
        tell(&acks, due(spool.next_seq())).await?;
        if header.chunks == 0 || header.chunks != spool.next_seq() {
            let stopped = async { ReceiveError::Stopped(self.has_stopped().await) };
            spool = spool_chunks(spool, &mut chunks, Some(&acks), stopped).await?;
        }
        let chunks = spool.next_seq();
        let progress = Arc::new(InstallProgress::default());
        let snapshot: SnapshotOf<TypeConfig, SnapshotData> = openraft::Snapshot {
            meta: SnapshotMeta {
                last_log_id: applied.applied,
                last_membership: applied.membership,
            },
            snapshot: SnapshotData::Spooled {
                spool,
                applied_record: header.applied_record,
                progress: progress.clone(),
            },
        };
        *self.installing.0.lock() = Some((id.clone(), progress));
        let install = self.raft.install_full_snapshot(vote, snapshot);
        let answer = self.giving_signs(&id, chunks, &acks, install).await;
        *self.installing.0.lock() = None;
        let answer = answer.map_err(|e| ReceiveError::Stopped(e.to_string()))?;
        let ack = peer::SnapshotAck {
            next_seq: chunks,
            vote: Some(vote_to_wire(&answer.vote)),
            done: true,
        };
        // Before it is told: the sender may be gone, and come back for it.
        *received = Some(Received { id, ack });
        tell(&acks, ack).await
    }

    /// Waits for `done`, and repeats to `acks` that all `chunks` of a snapshot are there for as long as
    /// its installation gets on. Nothing is said of another one, nor of one that hangs.
    async fn giving_signs<T>(
        &self,
        id: &str,
        chunks: u64,
        acks: &mpsc::Sender<peer::SnapshotAck>,
        done: impl Future<Output = T>,
    ) -> T {
        let mut done = std::pin::pin!(done);
        let every = self.snapshot_stall_max / SIGNS_PER_STALL;
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = (None, Instant::now());
        loop {
            tokio::select! {
                done = &mut done => return done,
                _ = ticks.tick() => {
                    let steps = self.installing.steps(id);
                    if steps != seen.0 {
                        seen = (steps, Instant::now());
                    }
                    if steps.is_some() && seen.1.elapsed() < self.snapshot_stall_max {
                        // A sender that has gone comes back; the installation goes on without it.
                        let _ = acks.try_send(due(chunks));
                    }
                }
            }
        }
    }
}

/// Signs of life in the longest silence that a sender bears.
const SIGNS_PER_STALL: u32 = 6;

/// The snapshot that was installed last, and what its sender is to be told.
pub(super) struct Received {
    id: String,
    ack: peer::SnapshotAck,
}

/// The snapshot that is being installed, and how far it has got.
#[derive(Default)]
pub(super) struct Installing(Mutex<Option<(String, Arc<InstallProgress>)>>);

impl Installing {
    /// How far the installation of the snapshot `id` has got, if it is under way.
    fn steps(&self, id: &str) -> Option<u64> {
        let installing = self.0.lock();
        let (_, progress) = installing.as_ref().filter(|(name, _)| name == id)?;
        Some(progress.steps())
    }
}

/// Brings back the state of a group whose log is still there, from the snapshot that a peer sent.
/// The snapshot must reach `index_min`, where the log begins.
pub async fn restore_state(
    store: Arc<StateStore>,
    spool_path: PathBuf,
    mut chunks: BoxStream<peer::SnapshotChunk>,
    index_min: u64,
) -> Result<u64, ReceiveError> {
    let header = chunks.next().await.and_then(|first| first.header);
    let header = header.ok_or(ReceiveError::Incomplete(0))?;
    let applied = decode_applied(&header.applied_record)?;
    let index = applied.applied.map_or(0, |id| id.index);
    if index < index_min {
        return Err(ReceiveError::TooOld { index, index_min });
    }
    let id = header.snapshot_id;
    let spool = blocking(move || SnapshotFile::open_or_resume(&spool_path, &id)).await?;
    let spool = spool_chunks(spool, &mut chunks, None, std::future::pending()).await?;
    let data = SnapshotData::Spooled {
        spool,
        applied_record: header.applied_record,
        progress: Arc::default(),
    };
    let loaded = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let replacement = data.load(&store, index)?;
        replacement.commit().map_err(std::io::Error::other)?.show();
        data.installed();
        Ok(())
    });
    match loaded.await {
        Ok(loaded) => loaded.map_err(ReceiveError::Load)?,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    };
    Ok(index)
}

fn due(next_seq: u64) -> peer::SnapshotAck {
    peer::SnapshotAck {
        next_seq,
        ..Default::default()
    }
}

async fn tell(
    acks: &mpsc::Sender<peer::SnapshotAck>,
    ack: peer::SnapshotAck,
) -> Result<(), ReceiveError> {
    let next_seq = ack.next_seq;
    let told = acks.send(ack).await;
    told.map_err(|_| ReceiveError::Incomplete(next_seq))
}

/// Puts chunks on disk up to the last one, telling `acks` the next that is due. Gives up between two chunks
/// for the reason with which `given_up` resolves.
async fn spool_chunks(
    mut spool: SnapshotFile,
    chunks: &mut BoxStream<peer::SnapshotChunk>,
    acks: Option<&mpsc::Sender<peer::SnapshotAck>>,
    given_up: impl Future<Output = ReceiveError>,
) -> Result<SnapshotFile, ReceiveError> {
    let mut given_up = std::pin::pin!(given_up);
    loop {
        let chunk = tokio::select! {
            biased;
            why = &mut given_up => return Err(why),
            chunk = chunks.next() => chunk,
        };
        let Some(chunk) = chunk else {
            return Err(ReceiveError::Incomplete(spool.next_seq()));
        };
        if crc32c::crc32c(&chunk.data) != chunk.crc32c {
            return Err(ReceiveError::Damaged(chunk.seq));
        }
        let last = chunk.last;
        spool = blocking(move || {
            spool.append(chunk.seq, &chunk.data)?;
            spool.sync()?;
            Ok(spool)
        })
        .await?;
        if let Some(acks) = acks {
            tokio::select! {
                biased;
                why = &mut given_up => return Err(why),
                told = tell(acks, due(spool.next_seq())) => told?,
            }
        }
        if last {
            return Ok(spool);
        }
    }
}

/// Disk work, off the threads that serve requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotFileError> + Send + 'static,
) -> Result<T, SnapshotFileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
