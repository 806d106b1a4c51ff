//! Segment files, and the thread that keeps the next one ready.
//!
//! Rolling over must not stall the writer, and overwriting blocks that were written before is cheaper
//! to sync than extending a file. So the next segment is prepared while the current one fills: its
//! blocks written, its header synced, its name durable. Files of purged segments are used again.
//!
//! ```text
//!   writer ── purged segment ──▶ N.log ─rename▶ N.free ─ header of M, sync ─rename▶ M.log ──▶ writer
//!                                               or, when there is none:
//!                                               M.new ─ zeros, header, sync ─rename▶ M.log
//! ```
//!
//! The directory is synced after each rename, before the next step relies on it. Opening deletes
//! `.new` files and keeps `.free` files of the right length.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::files::{File, Files};
use crate::storage::cause::Cause;

use super::format::{Place, SEGMENT_HEADER_BYTES, TERMINATOR_BYTES, segment_header};

/// Zeros are written and synced in steps of this size, so that the sync of a new segment never
/// holds up a sync of the log for long.
const ZEROS_STEP_BYTES: usize = 1 << 20;

/// An open segment. Readers hold it while they read, so a file that is being read is never reused.
pub(super) struct Segment {
    pub place: Place,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    /// Length of the file.
    pub bytes: AtomicU64,
}

impl Segment {
    pub fn sequence(&self) -> u64 {
        self.place.segment
    }
}

/// The directory of a log, and the names in it.
#[derive(Clone)]
pub(super) struct Directory {
    pub files: Arc<dyn Files>,
    pub dir: PathBuf,
    pub log_id: u64,
    pub segment_bytes: u32,
}

/// What a file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Segment(u64),
    Free,
    New,
}

pub(super) fn parse_name(name: &str) -> Option<Name> {
    let (stem, extension) = name.split_once('.')?;
    let sequence = stem.parse().ok().filter(|_| stem.len() == 20)?;
    match extension {
        "log" => Some(Name::Segment(sequence)),
        "free" => Some(Name::Free),
        "new" => Some(Name::New),
        _ => None,
    }
}

impl Directory {
    pub fn path(&self, sequence: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{sequence:020}.{extension}"))
    }

    /// Makes the segment `sequence` out of a free file, or out of nothing.
    pub fn prepare(&self, sequence: u64, free: Option<PathBuf>) -> io::Result<Segment> {
        let (files, bytes) = (&self.files, u64::from(self.segment_bytes));
        let place = Place {
            log_id: self.log_id,
            segment: sequence,
        };
        let (temporary, file) = match free {
            Some(path) => {
                let file = files.open(&path)?;
                (path, file)
            }
            None => {
                let path = self.path(sequence, "new");
                let file = files.create(&path)?;
                let filled = file
                    .allocate(bytes)
                    .and_then(|()| self.write_zeros(&*file, 0, bytes));
                if let Err(error) = filled {
                    drop(file);
                    // The room that it took is wanted by what is written already. A file that stays
                    // behind all the same is removed by the next opening.
                    let _ = files.remove(&path);
                    return Err(error);
                }
                (path, file)
            }
        };
        // A free file holds records of its earlier use; the terminator says that none is live.
        let mut head = [0; SEGMENT_HEADER_BYTES + TERMINATOR_BYTES];
        head[..SEGMENT_HEADER_BYTES].copy_from_slice(&segment_header(place, bytes));
        file.write_all_at(&head, 0)?;
        file.sync()?;
        let path = self.path(sequence, "log");
        files.rename(&temporary, &path)?;
        files.sync_dir(&self.dir)?;
        Ok(Segment {
            place,
            path,
            file,
            bytes: AtomicU64::new(bytes),
        })
    }

    /// Overwrites a part of a file with zeros, durably.
    pub fn write_zeros(&self, file: &dyn File, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_STEP_BYTES.min((to - from) as usize)];
        let mut at = from;
        while at < to {
            let step = zeros.len().min((to - at) as usize);
            file.write_all_at(&zeros[..step], at)?;
            file.sync()?;
            at += step as u64;
        }
        Ok(())
    }

    /// Turns a segment that holds nothing live into a free file, or removes it.
    fn discard(&self, segment: Segment, keep: bool) -> io::Result<Option<PathBuf>> {
        if !keep {
            self.files.remove(&segment.path)?;
            return Ok(None);
        }
        let free = self.path(segment.sequence(), "free");
        self.files.rename(&segment.path, &free)?;
        self.files.sync_dir(&self.dir)?;
        Ok(Some(free))
    }
}

#[derive(Default)]
struct State {
    discarded: VecDeque<Arc<Segment>>,
    free: Vec<PathBuf>,
    /// Sequence of the segment to prepare.
    wanted: Option<u64>,
    ready: Option<io::Result<Segment>>,
    closing: bool,
    /// Free files that are kept to be used again.
    free_max: usize,
}

/// The hand-over between the writer and the thread that prepares segments.
pub(super) struct Spares {
    directory: Directory,
    /// Never held across I/O.
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes of the files that are not segments in use.
    bytes: AtomicU64,
}

impl Spares {
    pub fn new(directory: Directory, free: Vec<PathBuf>, free_max: usize) -> Self {
        let bytes = AtomicU64::new(free.len() as u64 * u64::from(directory.segment_bytes));
        let state = State {
            free,
            free_max,
            ..State::default()
        };
        Spares {
            directory,
            state: Mutex::new(state),
            changed: Condvar::new(),
            bytes,
        }
    }

    /// Bytes on disk of free files and of the prepared segment.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Asks for a segment to be prepared, unless one is ready.
    pub fn want(&self, sequence: u64) {
        let mut state = self.state.lock();
        if state.ready.is_none() {
            state.wanted = Some(sequence);
            self.changed.notify_all();
        }
    }

    /// The prepared segment, which is `sequence`; waits while it is being made. One that could not be
    /// prepared for want of room may have found some since, so it is tried once more.
    pub fn take(&self, sequence: u64) -> io::Result<Segment> {
        let mut state = self.state.lock();
        let mut last_try = false;
        loop {
            match state.ready.take() {
                Some(Err(error)) if !last_try && Cause::of(&error) == Cause::NoSpace => {
                    last_try = true;
                    state.wanted = Some(sequence);
                    self.changed.notify_all();
                }
                Some(ready) => {
                    if ready.is_ok() {
                        self.bytes
                            .fetch_sub(u64::from(self.directory.segment_bytes), Ordering::Relaxed);
                    }
                    return ready;
                }
                None => {}
            }
            if state.closing {
                return Err(io::Error::other(
                    "no segment is being prepared: the log is closing",
                ));
            }
            self.changed.wait(&mut state);
        }
    }

    /// Takes a segment that holds nothing live. Readers may still hold it.
    pub fn discard(&self, segment: Arc<Segment>) {
        self.state.lock().discarded.push_back(segment);
        self.changed.notify_all();
    }

    /// Keeps at most so many free files; more are deleted.
    pub fn keep_free(&self, free_max: usize) {
        self.state.lock().free_max = free_max;
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// The body of the thread.
    pub fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if state.free.len() > state.free_max
                && let Some(path) = state.free.pop()
            {
                drop(state);
                self.remove(&path);
                state = self.state.lock();
            } else if let Some(segment) = state.discarded.pop_front() {
                let room = state.free.len() < state.free_max;
                drop(state);
                let free = self.free(segment, room);
                state = self.state.lock();
                state.free.extend(free);
            } else if state.closing {
                return;
            } else if let Some(sequence) = state.wanted.take() {
                let free = state.free.pop();
                if free.is_none() {
                    self.bytes
                        .fetch_add(u64::from(self.directory.segment_bytes), Ordering::Relaxed);
                }
                drop(state);
                let segment = self.directory.prepare(sequence, free);
                if segment.is_err() {
                    self.bytes
                        .fetch_sub(u64::from(self.directory.segment_bytes), Ordering::Relaxed);
                }
                state = self.state.lock();
                state.ready = Some(segment);
                self.changed.notify_all();
            } else {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Removes a free file; a failure leaves it behind for the next opening.
    fn remove(&self, path: &Path) {
        self.bytes
            .fetch_sub(u64::from(self.directory.segment_bytes), Ordering::Relaxed);
        if let Err(error) = self.directory.files.remove(path) {
            tracing::warn!(file = %path.display(), %error, "cannot remove a free log segment");
        }
    }

    /// Frees the file of a segment; a failure leaves it behind for the next opening.
    fn free(&self, segment: Arc<Segment>, room: bool) -> Option<PathBuf> {
        let path = segment.path.clone();
        let standard =
            segment.bytes.load(Ordering::Relaxed) == u64::from(self.directory.segment_bytes);
        let freed = match Arc::try_unwrap(segment) {
            Ok(segment) => self.directory.discard(segment, room && standard),
            // A reader still has the file: without a name it goes when the reader is done.
            Err(_) => self.directory.files.remove(&path).map(|()| None),
        };
        match freed {
            Ok(free) => {
                if free.is_some() {
                    self.bytes
                        .fetch_add(u64::from(self.directory.segment_bytes), Ordering::Relaxed);
                }
                free
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot free a purged log segment");
                None
            }
        }
    }
}
