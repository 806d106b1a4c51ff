//! Undoes what a dead node had changed in its files and not synced, from the shim's journal.
//!
//! A disk whose power fails has, of every sector written since the last sync, any of the contents that
//! it was given since then; and of the file's length, any that it had. So each file is undone from its
//! last record to the first, and where chance *keeps* a sector (or the length), no earlier record
//! touches it again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::TakenBack;
use super::layout::{KIND_WRITE, RECORD_HEADER_BYTES, RING_BYTES, RecordHeader, Slot, ring_at};
use super::shared::Shared;

/// What a medium writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Undoes the records of journal `epoch` in the files below `data_dir`.
pub(super) fn take_back(
    shared: &Shared,
    epoch: u64,
    data_dir: &Path,
    seed: u64,
    keep_share: f64,
) -> io::Result<TakenBack> {
    let mut files = HashMap::new();
    list(data_dir, &mut files)?;
    let mut slots: Vec<(PathBuf, usize, &Slot)> = shared
        .slots()
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.epoch.load(Ordering::Acquire) == epoch)
        // A file that has no name any more is lost anyway.
        .filter_map(|(at, slot)| Some((files.remove(&identity(slot))?, at, slot)))
        .collect();
    slots.sort_by(|a, b| a.0.cmp(&b.0));
    let mut random = StdRng::seed_from_u64(seed);
    let mut taken = TakenBack::default();
    for (path, at, slot) in slots {
        let ring = Ring {
            file: shared.file(),
            at,
        };
        let (start, end) = (
            slot.start.load(Ordering::Acquire),
            slot.end.load(Ordering::Acquire),
        );
        let records = ring.records(start, end)?;
        if records.is_empty() {
            continue;
        }
        let file = File::options().read(true).write(true).open(&path)?;
        let mut undo = Undo {
            len: file.metadata()?.len(),
            file,
            ring,
            kept: HashSet::new(),
            len_kept: false,
            keep_share,
            random: &mut random,
        };
        for (position, record) in records.iter().rev() {
            if undo.record(*position, record)? {
                taken.writes += 1;
                taken.bytes += record.change_bytes;
            }
        }
        // The next power cut may be a real one.
        undo.file.sync_all()?;
    }
    Ok(taken)
}

type Identity = (u64, u64, u64);

fn identity(slot: &Slot) -> Identity {
    (
        slot.dev.load(Ordering::Relaxed),
        slot.ino.load(Ordering::Relaxed),
        slot.born_ns.load(Ordering::Relaxed),
    )
}

/// The regular files below a directory, by what tells them apart when they are renamed.
fn list(dir: &Path, files: &mut HashMap<Identity, PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), files)?;
        } else if kind.is_file() {
            let found = entry.metadata()?;
            let born = found.created().ok();
            let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
            let born_ns = born.map_or(0, |born| born.as_nanos() as u64);
            files.insert((found.dev(), found.ino(), born_ns), entry.path());
        }
    }
    Ok(())
}

/// The records of one file.
struct Ring<'a> {
    file: &'a File,
    at: usize,
}

impl Ring<'_> {
    fn read(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        let from = position % RING_BYTES;
        let first = bytes.len().min((RING_BYTES - from) as usize);
        let (head, rest) = bytes.split_at_mut(first);
        self.file.read_exact_at(head, ring_at(self.at) + from)?;
        self.file.read_exact_at(rest, ring_at(self.at))
    }

    fn records(&self, start: u64, end: u64) -> io::Result<Vec<(u64, RecordHeader)>> {
        let mut records = Vec::new();
        let mut position = start;
        while position < end {
            let mut bytes = [0; RECORD_HEADER_BYTES];
            self.read(position, &mut bytes)?;
            let Some(header) = RecordHeader::decode(&bytes) else {
                return Err(io::Error::other(format!(
                    "the journal of unsynced writes has no record at {position} of {}",
                    self.at
                )));
            };
            records.push((position, header));
            position += RECORD_HEADER_BYTES as u64 + header.old_bytes;
        }
        Ok(records)
    }
}

/// One file on its way back.
///
/// - `len` is the length that the file has.
/// - What is `kept` is as the medium has it, and is not touched again.
struct Undo<'a> {
    file: File,
    ring: Ring<'a>,
    len: u64,
    kept: HashSet<u64>,
    len_kept: bool,
    keep_share: f64,
    random: &'a mut StdRng,
}

impl Undo<'_> {
    /// Undoes a record, or parts of it; whether anything of it was lost.
    fn record(&mut self, position: u64, record: &RecordHeader) -> io::Result<bool> {
        let mut old = vec![0; record.old_bytes as usize];
        self.ring
            .read(position + RECORD_HEADER_BYTES as u64, &mut old)?;
        if record.kind == KIND_WRITE {
            self.write(record, &old)
        } else {
            self.resize(record, &old)
        }
    }

    fn keeps(&mut self) -> bool {
        self.keep_share > 0.0 && self.random.random_bool(self.keep_share.min(1.0))
    }

    /// The length and what was beyond it go together, and were there before any sector that is kept.
    fn resize(&mut self, record: &RecordHeader, old: &[u8]) -> io::Result<bool> {
        let first = record.change_at.min(record.old_len) / SECTOR_BYTES;
        if self.len_kept || self.kept.iter().any(|&kept| kept >= first) || self.keeps() {
            self.len_kept = true;
            return Ok(false);
        }
        self.set_len(record.old_len)?;
        for (from, to) in sectors(record.old_at, record.old_at + old.len() as u64) {
            self.put_back(record, old, from, to)?;
        }
        Ok(true)
    }

    fn write(&mut self, record: &RecordHeader, old: &[u8]) -> io::Result<bool> {
        let mut lost = false;
        let mut kept_end = 0;
        for (from, to) in sectors(record.change_at, record.change_at + record.change_bytes) {
            let sector = from / SECTOR_BYTES;
            if self.kept.contains(&sector) || self.keeps() {
                self.kept.insert(sector);
                kept_end = to;
                continue;
            }
            lost = true;
            self.put_back(record, old, from, to)?;
        }
        if !self.len_kept && self.len > record.old_len {
            // A sector that arrived behind the old end took the length with it; those before it that
            // did not arrive read as zeros.
            self.len_kept = kept_end > record.old_len;
            for (from, to) in sectors(record.old_len, kept_end.max(record.old_len)) {
                if !self.kept.contains(&(from / SECTOR_BYTES)) {
                    self.file
                        .write_all_at(&vec![0; (to - from) as usize], from)?;
                }
            }
            self.set_len(kept_end.max(record.old_len).min(self.len))?;
        }
        Ok(lost)
    }

    /// Writes the old bytes from `from` to `to`, as far as there were any and the file goes.
    fn put_back(
        &mut self,
        record: &RecordHeader,
        old: &[u8],
        from: u64,
        to: u64,
    ) -> io::Result<()> {
        let to = to.min(record.old_at + old.len() as u64).min(self.len);
        let from = from.max(record.old_at);
        if from >= to || self.kept.contains(&(from / SECTOR_BYTES)) {
            return Ok(());
        }
        let bytes = &old[(from - record.old_at) as usize..(to - record.old_at) as usize];
        self.file.write_all_at(bytes, from)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        if len != self.len {
            self.file.set_len(len)?;
            self.len = len;
        }
        Ok(())
    }
}

/// A range of bytes, cut at the borders of sectors.
fn sectors(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(to);
        (at < to).then(|| (std::mem::replace(&mut at, next), next))
    })
}

#[cfg(test)]
mod tests;
