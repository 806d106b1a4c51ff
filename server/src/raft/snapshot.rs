//! Snapshots: a scan at a revision, sent in checksummed chunks, resumed where it broke off.
//!
//! ```text
//!  sender                                         receiver
//!  LiveSnapshot ── reader thread ─▶ chunks ─▶ ┐
//!     unversioned records (copied)            │ gRPC stream, own channel
//!     versions at the pinned revision         │
//!                    window of unacknowledged ◀─ acks ── SpoolFile (fsynced) ── replaces the state
//! ```
//!
//! The sender keeps every chunk until the receiver says that it is on disk. When the connection
//! breaks, the next stream opens with the header alone, the receiver answers with the chunk it
//! wants next, and the sender goes on from there; only when the receiver has forgotten the
//! transfer is it begun anew.
//!
//! Installing may take longer than any silence that is taken for a failure. While it gets on, the
//! receiver repeats its last acknowledgement; a stream that is opened meanwhile, or after it was done,
//! for the same snapshot is told the same.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_mvcc as mvcc;
use holdfast_proto::{peer, snapshot as wire};
use openraft::type_config::alias::SnapshotOf;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    codec::{DecodeError, log_id_to_wire, vote_from_wire, vote_to_wire},
    rate::SnapshotRate,
    state_machine::Pin,
    transport::{PeerTransport, TransportError},
    type_config::{GroupId, NodeId, TypeConfig, Vote},
};
use crate::{
    limits,
    storage::{
        snapshot_file::{SnapshotFile, SnapshotFileError},
        state::{Replacement, StateError, StateStore, View},
    },
};

/// The data of a snapshot, wherever it is.
pub enum SnapshotData {
    /// In this node's own store, read when needed.
    Live(Box<LiveSnapshot>),
    /// None: a durable point of the state, which is all that purging the log needs.
    Checkpoint,
    /// Received from a peer, complete.
    Spooled {
        /// The chunks.
        spool: SnapshotFile,
        /// What the state has applied.
        applied_record: Bytes,
        /// How far installing it has got.
        progress: Arc<InstallProgress>,
    },
}

/// How far an installation has got, for who waits: a number that moves while it gets on.
#[derive(Debug, Default)]
pub struct InstallProgress(AtomicU64);

impl InstallProgress {
    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn steps(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl SnapshotData {
    /// Loads this snapshot beside the state of a group. Blocks on the disk.
    pub(super) fn load<'a>(
        &self,
        store: &'a StateStore,
        index: u64,
    ) -> io::Result<Replacement<'a>> {
        let loaded = store.load(|loader| match self {
            Self::Checkpoint => Err(LoadError::Read(io::Error::other(
                "a checkpoint has no data",
            ))),
            Self::Live(live) => {
                live.for_each_record(|key, value| {
                    let value = Some(value);
                    loader.write([mvcc::Write { key, value }])?;
                    Ok(())
                })?;
                loader.mark_applied(index, live.applied_record.clone());
                Ok::<(), LoadError>(())
            }
            Self::Spooled {
                spool,
                applied_record,
                progress,
            } => {
                for chunk in spool.chunks()? {
                    let chunk = wire::Chunk::decode(chunk?)
                        .map_err(|e| DecodeError::new("snapshot chunk", e))?;
                    loader.write(chunk.records.into_iter().map(|record| mvcc::Write {
                        key: record.key,
                        value: Some(record.value),
                    }))?;
                    progress.step();
                }
                loader.mark_applied(index, applied_record.clone());
                Ok(())
            }
        });
        if let Self::Spooled { progress, .. } = self {
            progress.step();
        }
        Ok(loaded?)
    }

    /// Whether another node sent it.
    pub(super) fn is_received(&self) -> bool {
        matches!(self, Self::Spooled { .. })
    }

    /// Removes what is not needed any more once the state is installed.
    pub(super) fn installed(self) {
        if let Self::Spooled { spool, .. } = self
            && let Err(e) = spool.remove()
        {
            tracing::warn!(error = %e, "the spool of an installed snapshot stays behind");
        }
    }
}

/// Why a snapshot could not be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Store(#[from] StateError),
    #[error(transparent)]
    Spool(#[from] SnapshotFileError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Read(#[from] io::Error),
}

impl From<LoadError> for io::Error {
    fn from(e: LoadError) -> Self {
        Self::other(e)
    }
}

/// A picture of a group at one applied entry, held in place by a pin.
pub struct LiveSnapshot {
    pub(super) _pin: Pin,
    pub(super) revisions: mvcc::Revisions,
    pub(super) unversioned: Vec<(Bytes, Bytes)>,
    pub(super) applied_record: Bytes,
    pub(super) view: View,
}

impl LiveSnapshot {
    pub(super) fn applied_record(&self) -> &Bytes {
        &self.applied_record
    }

    /// All records, in the order of their keys: whoever loads them writes one run.
    fn for_each_record(
        &self,
        mut each: impl FnMut(Bytes, Bytes) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let mut unversioned = self.unversioned.iter().peekable();
        for record in mvcc::snapshot_versions(&self.view, self.revisions) {
            let (key, value) = record.map_err(io::Error::other)?;
            while let Some((key, value)) = unversioned.next_if(|(before, _)| *before < key) {
                each(key.clone(), value.clone())?;
            }
            each(key, value)?;
        }
        for (key, value) in unversioned {
            each(key.clone(), value.clone())?;
        }
        Ok(())
    }
}

/// Why a snapshot could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("reading the snapshot: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("node {to} has forgotten the transfer: it wants chunk {wanted}, kept from {kept}")]
    Forgotten { to: NodeId, wanted: u64, kept: u64 },
}

/// How transfers are paced.
#[derive(Clone)]
pub(super) struct Pace {
    /// Delay before a transfer that broke off is resumed.
    pub pause: Duration,
    /// Longest such delay.
    pub pause_max: Duration,
    /// Longest silence of the receiver.
    pub stall_max: Duration,
    /// Shared by all transfers.
    pub rate: Arc<SnapshotRate>,
}

/// Sends a snapshot of this node's state to a peer and waits until it is installed there.
/// Returns the peer's vote. A transfer that broke off is resumed after a pause, which doubles with each
/// attempt that got nowhere.
pub(super) async fn send(
    transport: &dyn PeerTransport,
    group_id: GroupId,
    to: NodeId,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    pace: &Pace,
) -> Result<Vote, SendError> {
    let SnapshotData::Live(live) = snapshot.snapshot else {
        return Err(io::Error::other("only a picture of the present state is sent").into());
    };
    let header = peer::SnapshotHeader {
        group_id,
        vote: Some(vote_to_wire(&vote)),
        last_log_id: snapshot.meta.last_log_id.as_ref().map(log_id_to_wire),
        applied_record: live.applied_record.clone(),
        snapshot_id: new_id(group_id),
        chunks: 0,
    };
    let mut transfer = Transfer {
        to,
        header,
        source: read_chunks(live, pace.rate.clone()),
        stall_max: pace.stall_max,
        got_on: false,
        source_done: false,
        window: VecDeque::new(),
        next_seq: 0,
    };
    let mut failures = 0;
    let mut pause = pace.pause;
    loop {
        let attempted = transfer.attempt(transport).await;
        if std::mem::take(&mut transfer.got_on) {
            (failures, pause) = (0, pace.pause);
        }
        match attempted {
            Err(SendError::Transport(e)) if failures < limits::SNAPSHOT_RESUMES_MAX => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(group = group_id, to, error = %e, "snapshot transfer broke off; resuming");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(pace.pause_max);
            }
            done => return done,
        }
    }
}

/// One snapshot on its way to one peer.
///
/// - `window` holds the chunks that the peer has not acknowledged, in order, without gaps.
/// - `next_seq` is the number of the chunk that `source` gives next.
struct Transfer {
    to: NodeId,
    header: peer::SnapshotHeader,
    source: mpsc::Receiver<io::Result<peer::SnapshotChunk>>,
    stall_max: Duration,
    /// The present attempt has brought the transfer forward, or shown that it is being installed.
    got_on: bool,
    source_done: bool,
    window: VecDeque<peer::SnapshotChunk>,
    next_seq: u64,
}

impl Transfer {
    fn lost(&self, why: &str) -> SendError {
        SendError::Transport(TransportError::Lost {
            to: self.to,
            why: why.to_string(),
        })
    }

    /// The peer has everything.
    fn is_sent(&self) -> bool {
        self.source_done && self.window.is_empty()
    }

    fn acknowledged(&mut self, wanted: u64) -> Result<usize, SendError> {
        let before = self.window.len();
        while self.window.front().is_some_and(|chunk| chunk.seq < wanted) {
            self.window.pop_front();
        }
        let kept = self.window.front().map_or(self.next_seq, |chunk| chunk.seq);
        if kept != wanted {
            return Err(SendError::Forgotten {
                to: self.to,
                wanted,
                kept,
            });
        }
        Ok(before - self.window.len())
    }

    async fn attempt(&mut self, transport: &dyn PeerTransport) -> Result<Vote, SendError> {
        let (tx, rx) = mpsc::channel(1);
        let opening = peer::SnapshotChunk {
            header: Some(self.header.clone()),
            ..Default::default()
        };
        // The channel is new and has room for one.
        let _ = tx.try_send(opening);
        let mut acks = transport
            .snapshot(self.to, Box::pin(ReceiverStream::new(rx)))
            .await?;
        let mut sent = 0;
        let mut opened = false;
        loop {
            let unsent = opened.then(|| self.window.get(sent)).flatten().cloned();
            let wants_more = opened
                && unsent.is_none()
                && !self.source_done
                && self.window.len() < limits::SNAPSHOT_WINDOW_CHUNKS_MAX;
            tokio::select! {
                ack = tokio::time::timeout(self.stall_max, acks.next()) => {
                    let ack = match ack {
                        Err(_) => return Err(self.lost("no acknowledgement in time")),
                        Ok(None) => return Err(self.lost("the stream ended before the snapshot was installed")),
                        Ok(Some(ack)) => ack?,
                    };
                    if ack.done {
                        return Ok(vote_from_wire(ack.vote)?);
                    }
                    let popped = self.acknowledged(ack.next_seq)?;
                    // The first one only says where to go on.
                    self.got_on |= opened && (popped > 0 || self.is_sent());
                    sent = if opened { sent.saturating_sub(popped) } else { 0 };
                    opened = true;
                }
                permit = tx.reserve(), if unsent.is_some() => {
                    let permit = permit.map_err(|_| self.lost("the stream was closed"))?;
                    if let Some(chunk) = unsent {
                        permit.send(chunk);
                        sent += 1;
                    }
                }
                chunk = self.source.recv(), if wants_more => match chunk {
                    Some(chunk) => {
                        let chunk = chunk?;
                        self.next_seq = chunk.seq + 1;
                        self.source_done = chunk.last;
                        if chunk.last {
                            self.header.chunks = self.next_seq;
                        }
                        self.window.push_back(chunk);
                    }
                    None => return Err(io::Error::other("the reader of the snapshot stopped early").into()),
                },
            }
        }
    }
}

/// A name for a transfer that no other has.
pub(super) fn new_id(group_id: GroupId) -> String {
    format!("{group_id}-{:016x}", rand::random::<u64>())
}

/// Reads a snapshot on a thread of its own into checksummed chunks, no faster than the limit.
pub(super) fn read_chunks(
    live: Box<LiveSnapshot>,
    rate: Arc<SnapshotRate>,
) -> mpsc::Receiver<io::Result<peer::SnapshotChunk>> {
    let (tx, rx) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut writer = ChunkWriter {
            tx: &tx,
            seq: 0,
            chunk: wire::Chunk::default(),
            bytes: 0,
            rate: &rate,
        };
        let read = live.for_each_record(|key, value| Ok(writer.push(key, value)?));
        let end = read
            .map_err(io::Error::from)
            .and_then(|()| writer.send(true));
        if let Err(e) = end {
            // Nobody listens when the transfer was given up.
            let _ = tx.blocking_send(Err(e));
        }
    });
    rx
}

struct ChunkWriter<'a> {
    tx: &'a mpsc::Sender<io::Result<peer::SnapshotChunk>>,
    seq: u64,
    chunk: wire::Chunk,
    bytes: usize,
    rate: &'a SnapshotRate,
}

impl ChunkWriter<'_> {
    fn push(&mut self, key: Bytes, value: Bytes) -> io::Result<()> {
        self.bytes += key.len() + value.len();
        self.chunk.records.push(wire::Record { key, value });
        if self.bytes >= limits::SNAPSHOT_CHUNK_BYTES as usize {
            self.send(false)?;
        }
        Ok(())
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.chunk).encode_to_vec());
        self.bytes = 0;
        self.rate.wait_for(data.len());
        let chunk = peer::SnapshotChunk {
            header: None,
            seq: self.seq,
            crc32c: crc32c::crc32c(&data),
            data,
            last,
        };
        self.seq += 1;
        self.tx
            .blocking_send(Ok(chunk))
            .map_err(|_| io::Error::other("the transfer was given up"))
    }
}

#[cfg(test)]
mod tests;
