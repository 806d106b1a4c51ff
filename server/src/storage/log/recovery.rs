//! Opening a log: find its end, tell a torn tail from damage, rebuild the state of every group.
//!
//! ```text
//!   newest file with a valid first batch = last segment ── its head lists the segments before it
//!   older files:  in the list → must be whole up to the listed end │ not in the list → freed long ago
//!   newer files:  prepared, never synced into
//!   replay in order ─▶ verify that no live entry is missing ─▶ only now change anything:
//!   write the end of the log again, zeros over a torn tail, sync; free what is not needed
//! ```

mod end;

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use self::end::{End, find_end};
use super::error::OpenError;
use super::files::Files;
use super::format::{Invalid, SEGMENT_HEADER_BYTES, TERMINATOR_BYTES};
use super::found::{Found, Walk};
use super::group::Group;
use super::options::LogOptions;
use super::replay::{Replay, retrack};
use super::segment::{Directory, Name, Segment, Spares, parse_name};
use super::tracked::Pins;
use super::writer::Tail;

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Random id of the log, in the head of every segment.
    pub log_id: u64,
    /// There was no log before.
    pub created: bool,
    /// Segments read.
    pub segments: usize,
    /// Valid batches in them.
    pub batches: u64,
    /// Valid records in them.
    pub records: u64,
    /// Bytes of the valid batches.
    pub bytes: u64,
    /// What was cut off the end.
    pub torn: Option<TornTail>,
    /// How long it took.
    pub elapsed: Duration,
}

/// A write that a crash cut short. Nobody was told that it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Where in the file the log ends now, in bytes.
    pub offset: u64,
    /// What was found there.
    pub found: String,
}

/// An opened log, before its threads start.
pub(super) struct Recovered {
    pub report: Recovery,
    pub tail: Tail,
    pub spares: Spares,
    pub segments: BTreeMap<u64, Arc<Segment>>,
    pub groups: HashMap<u64, Arc<Group>>,
}

/// Id of the log in `dir`, if there is one. Changes nothing.
pub(super) fn stored_id(dir: &Path, files: &dyn Files) -> Result<Option<u64>, OpenError> {
    let names = match files.list(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(OpenError::io(dir, "list the directory")(e)),
    };
    let first = names.iter().find_map(|name| match parse_name(name)? {
        Name::Segment(sequence) => Some((name, sequence)),
        Name::Free | Name::New => None,
    });
    let Some((name, sequence)) = first else {
        return Ok(None);
    };
    let found = Found::open(files, dir.join(name), sequence)?;
    Ok(Some(found.place.log_id))
}

/// Opens or creates the log in `dir`.
pub(super) fn recover(
    dir: &Path,
    options: &LogOptions,
    files: Arc<dyn Files>,
) -> Result<Recovered, OpenError> {
    let started = Instant::now();
    files
        .create_dir(dir)
        .map_err(OpenError::io(dir, "create the directory"))?;
    let mut found = Vec::new();
    let (mut free, mut unfinished) = (Vec::new(), Vec::new());
    for name in files
        .list(dir)
        .map_err(OpenError::io(dir, "list the directory"))?
    {
        let path = dir.join(&name);
        match parse_name(&name) {
            Some(Name::Segment(sequence)) => found.push(Found::open(&*files, path, sequence)?),
            Some(Name::Free) => free.push(path),
            Some(Name::New) => unfinished.push(path),
            None => {}
        }
    }
    found.sort_by_key(|found| found.place.segment);
    let log_id = found.first().map(|first| first.place.log_id);
    if let Some(stranger) = found
        .iter()
        .find(|found| Some(found.place.log_id) != log_id)
    {
        let expected = format!("a segment of the log {:016x}", log_id.unwrap_or_default());
        let found = format!("one of {:016x}", stranger.place.log_id);
        return Err(stranger.corrupt(16, Invalid { expected, found }));
    }
    let next_segment = found.last().map_or(1, |last| last.place.segment + 1);
    let directory = Directory {
        files: files.clone(),
        dir: dir.to_owned(),
        log_id: log_id.unwrap_or_else(rand::random),
        segment_bytes: options.segment_bytes,
    };

    let mut report = Recovery {
        log_id: directory.log_id,
        created: found.is_empty(),
        ..Recovery::default()
    };
    let End { last, newer } = find_end(&mut found)?;
    // Only there: an older file that nobody needs holds batches because it was in use.
    let torn_head = newer.iter().find_map(Found::torn_head);
    let mut replay = Replay::default();
    let mut used = Vec::new();
    let mut unneeded: Vec<Found> = newer;
    let mut older = BTreeMap::new();
    if let Some((last, _, walk, ends)) = &last {
        for found in mem::take(&mut found) {
            let Some(end) = ends.iter().find(|end| end.sequence == found.place.segment) else {
                // Freed before the last segment began; the crash undid its removal.
                unneeded.push(found);
                continue;
            };
            let bytes = found.read()?;
            let walk = found.walk_whole(&bytes, end)?;
            report.count(&walk);
            replay.segment(&found, &bytes, &walk)?;
            older.insert(end.sequence, *end);
            used.push(found);
        }
        let (_, first_batch) = walk.batches[0];
        if let Some(before) = ends
            .last()
            .filter(|before| before.last_batch + 1 != first_batch.number)
        {
            let expected = format!("batch {}", before.last_batch + 1);
            let found = format!("batch {}", first_batch.number);
            return Err(last.corrupt(SEGMENT_HEADER_BYTES, Invalid { expected, found }));
        }
    }
    if let Some((last, bytes, walk, _)) = &last {
        report.count(walk);
        replay.segment(last, bytes, walk)?;
    }
    report.records = replay.records;
    let mut pins = Pins::default();
    let mut groups = HashMap::new();
    let mut tracked = BTreeMap::new();
    for (id, view) in replay.views {
        tracked.insert(id, retrack(dir, id, &view, &mut pins)?);
        groups.insert(
            id,
            Arc::new(Group {
                id,
                view: Mutex::new(view),
            }),
        );
    }

    // Everything is verified: from here on files change.
    for path in &unfinished {
        files.remove(path).map_err(OpenError::io(path, "remove"))?;
    }
    free.retain(|path| usable(&*files, path, options.segment_bytes));
    for path in free.split_off(free.len().min(options.free_segments)) {
        files
            .remove(&path)
            .map_err(OpenError::io(&path, "remove"))?;
    }
    let (active, position, next_batch) = match last {
        Some((last, bytes, walk, _)) => {
            let torn = walk
                .torn(&bytes)
                .map(|found| (last.path.clone(), walk.stop, found));
            let torn = torn.or(torn_head);
            report.torn = torn.map(|(file, offset, found)| TornTail {
                file,
                offset: offset as u64,
                found,
            });
            let next_batch = walk
                .batches
                .last()
                .map_or(1, |(_, header)| header.number + 1);
            settle(&directory, &last, &bytes, &walk)
                .map_err(OpenError::io(&last.path, "write and sync"))?;
            (last.into_segment(), walk.stop as u64, next_batch)
        }
        None => {
            report.torn = torn_head.map(|(file, offset, found)| TornTail {
                file,
                offset: offset as u64,
                found,
            });
            let first = directory
                .prepare(next_segment, None)
                .map_err(OpenError::io(dir, "create a segment in"))?;
            (Arc::new(first), SEGMENT_HEADER_BYTES as u64, 1)
        }
    };
    files
        .sync_dir(dir)
        .map_err(OpenError::io(dir, "sync the directory"))?;
    let next_segment = next_segment.max(active.sequence() + 1);
    let mut segments: BTreeMap<u64, Arc<Segment>> = used
        .into_iter()
        .map(|found| (found.place.segment, found.into_segment()))
        .collect();
    segments.insert(active.sequence(), active.clone());
    report.segments = segments.len();
    let spares = Spares::new(directory, free, options.free_segments);
    for found in unneeded {
        spares.discard(found.into_segment());
    }
    report.elapsed = started.elapsed();
    pins.released = true;
    let tail = Tail {
        active,
        position,
        next_batch,
        next_segment,
        groups: tracked,
        pins,
        dropped: replay.dropped,
        older,
    };
    Ok(Recovered {
        report,
        tail,
        spares,
        segments,
        groups,
    })
}

impl Recovery {
    fn count(&mut self, walk: &Walk) {
        self.batches += walk.batches.len() as u64;
        self.bytes += (walk.stop - SEGMENT_HEADER_BYTES) as u64;
    }
}

/// Makes the end of the log durable and leaves nothing behind it that could become valid.
fn settle(directory: &Directory, last: &Found, bytes: &Bytes, walk: &Walk) -> std::io::Result<()> {
    // The kernel may hold these bytes as written although they are not: a sync may have failed.
    last.file.write_all_at(&bytes[..walk.stop], 0)?;
    last.file.sync()?;
    let dirty = walk.torn(bytes).is_some() || bytes.len() < walk.stop + TERMINATOR_BYTES;
    if dirty {
        let end = last.bytes.max((walk.stop + TERMINATOR_BYTES) as u64);
        directory.write_zeros(&*last.file, walk.stop as u64, end)?;
    }
    Ok(())
}

fn usable(files: &dyn Files, path: &Path, segment_bytes: u32) -> bool {
    let len = files.open(path).and_then(|file| file.len());
    let usable = matches!(len, Ok(len) if len == u64::from(segment_bytes));
    if !usable {
        // Of another size, or unreadable: not worth keeping, and no harm if it stays.
        if let Err(error) = files.remove(path) {
            tracing::warn!(file = %path.display(), %error, "cannot remove a free log file");
        }
    }
    usable
}
