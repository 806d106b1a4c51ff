//! Damage to the files of a node that is down: a log cut short, a bit flipped, a directory lost.
//!
//! Which damage is fair? A crash can leave the last write of a log cut short, so a store takes an
//! unreadable last record for that and drops it; it cannot know better. Everything before was synced,
//! and later records often prove it: there a store must notice. So a [`Damage`] tells what it hit, and
//! a run that tears the last record of a node that had acknowledged it has made that node forget a
//! promise: with one more node behind, a correct store may lose the write.
//!
//! ```text
//!   log file   ── header ─┬─ record ─┬─ record ─┬─ last record ─┬─ zeros, or what was there before ──
//!                         └── Hit::Synced: noticed ──┴─ Hit::LastRecord: dropped ┘
//! ```
//!
//! How the end of what is written is found, without the server's code:
//!
//! - **Holdfast**, `log/*.log`: batches are walked by their magic, length and number, from byte 64 on
//!   (checksums are not looked at). The newest file that holds one is taken; newer ones are prepared,
//!   and empty. Behind the last batch are zeros, then perhaps what an earlier use left, so that the
//!   last byte that is not zero says nothing.
//! - **etcd**, `member/wal/*.wal`: up to the last byte that is not zero in the newest file, which is
//!   allocated ahead. Where records begin is not known.

use std::{
    fmt, fs,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::{Rng, RngExt};

use super::FaultError;

mod copies;

pub use self::copies::{copy, lose_log, put_back, wipe};

/// How far from the end of a log damage is made, in bytes.
const TAIL_BYTES: usize = 64 * 1024;
const SEGMENT_HEADER_BYTES: usize = 64;
const BATCH_HEADER_BYTES: usize = 36;
const BATCH_MAGIC: [u8; 4] = [0xb7, 0x48, 0x46, 0xba];

/// What was done to the files of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the directory that was moved.
    pub file: PathBuf,
    /// First byte that is not as it was.
    pub offset: u64,
    /// What is different.
    pub change: Change,
    /// What it hit.
    pub hit: Hit,
}

/// How a file was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file ends at the offset.
    Truncated {
        /// Its length before, in bytes.
        from: u64,
    },
    /// One byte has another value.
    Flipped {
        /// The value before.
        from: u8,
        /// The value now.
        to: u8,
    },
    /// Zeros from the offset on.
    Zeroed {
        /// How many bytes.
        bytes: u64,
    },
    /// All is gone from where the node looks for it.
    Moved {
        /// Where it is now.
        to: PathBuf,
    },
    /// All is as it was when a copy was made.
    PutBack,
}

/// What damage hit, as far as the format is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// Data that was synced, as the file itself says or its length shows. The store must notice.
    Synced,
    /// The last record, or one behind which nothing says that it was synced. The store may take it for
    /// a write that a crash cut short.
    LastRecord,
    /// The format is not known well enough.
    Unknown,
    /// Everything.
    All,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, offset) = (self.file.display(), self.offset);
        match &self.change {
            Change::Truncated { from } => {
                write!(f, "{file}: cut from {from} to {offset} bytes")?;
            }
            Change::Flipped { from, to } => {
                write!(f, "{file}: byte {offset} is {to:#04x}, was {from:#04x}")?;
            }
            Change::Zeroed { bytes } => write!(f, "{file}: {bytes} zeros at byte {offset}")?,
            Change::Moved { to } => return write!(f, "{file}: moved to {}", to.display()),
            Change::PutBack => return write!(f, "{file}: an old copy was put back"),
        }
        match self.hit {
            Hit::Synced => write!(f, " (synced data)"),
            Hit::LastRecord => write!(f, " (the last record)"),
            Hit::Unknown | Hit::All => Ok(()),
        }
    }
}

/// A place in the log where a batch or, if the format is not known, anything is.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
    hit: Hit,
}

/// The written part of the newest file of a log.
struct Log {
    path: PathBuf,
    bytes: Vec<u8>,
    /// In order, at least one.
    spans: Vec<Span>,
}

impl Log {
    fn end(&self) -> usize {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// Finds the log of a node of either kind. [`FaultError::Skipped`] if it has none.
    fn find(data_dir: &Path) -> Result<Self, FaultError> {
        type Walk = fn(&[u8]) -> Vec<Span>;
        let kinds: [(&str, &str, Walk); 2] = [
            ("log", "log", holdfast_batches),
            ("member/wal", "wal", written_bytes),
        ];
        for (dir, extension, walk) in kinds {
            let dir = data_dir.join(dir);
            let mut names = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries
                    .and_then(|entries| {
                        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
                        paths.collect::<io::Result<Vec<_>>>()
                    })
                    .map_err(failed("read", &dir))?,
            };
            names.retain(|path| path.extension().is_some_and(|is| is == extension));
            names.sort();
            for path in names.into_iter().rev() {
                let bytes = fs::read(&path).map_err(failed("read", &path))?;
                let spans = walk(&bytes);
                if !spans.is_empty() {
                    return Ok(Log { path, bytes, spans });
                }
            }
        }
        Err(FaultError::Skipped(format!(
            "{} holds no log with a record in it",
            data_dir.display()
        )))
    }

    fn open(&self) -> Result<File, FaultError> {
        let file = File::options().write(true).open(&self.path);
        file.map_err(failed("open", &self.path))
    }

    fn damaged(
        self,
        offset: usize,
        change: Change,
        hit: Hit,
        make: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<Damage, FaultError> {
        let file = self.open()?;
        make(&file)
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &self.path))?;
        Ok(Damage {
            file: self.path,
            offset: offset as u64,
            change,
            hit,
        })
    }
}

/// Cuts the newest file of the log at a random place in the last 64 KiB that are written. No crash
/// does that to a file that was allocated ahead.
pub fn truncate_log_tail(data_dir: &Path, rng: &mut impl Rng) -> Result<Damage, FaultError> {
    let log = Log::find(data_dir)?;
    let first = log.spans[0].start.max(log.end().saturating_sub(TAIL_BYTES));
    let offset = rng.random_range(first..log.end());
    let change = Change::Truncated {
        from: log.bytes.len() as u64,
    };
    let hit = match log.spans[0].hit {
        Hit::Unknown => Hit::Unknown,
        // The header of a Holdfast segment tells the length of the file.
        _ => Hit::Synced,
    };
    log.damaged(offset, change, hit, |file| file.set_len(offset as u64))
}

/// Flips a random bit in the last 64 KiB that are written: of a record that others prove to have been
/// synced, if there is one; else of the last record.
pub fn flip_bit_in_log_tail(data_dir: &Path, rng: &mut impl Rng) -> Result<Damage, FaultError> {
    let log = Log::find(data_dir)?;
    let tail = log.end().saturating_sub(TAIL_BYTES);
    let last = log.spans[log.spans.len() - 1];
    let synced = log.spans.iter().filter(|span| span.hit == Hit::Synced);
    let near: Vec<Span> = synced.copied().filter(|span| span.end > tail).collect();
    let (start, end, hit) = match (near.first(), near.last()) {
        (Some(first), Some(last)) => (first.start.max(tail), last.end, Hit::Synced),
        _ => (last.start.max(tail), last.end, last.hit),
    };
    let offset = rng.random_range(start..end);
    let from = log.bytes[offset];
    let to = from ^ 1 << rng.random_range(0..8);
    log.damaged(offset, Change::Flipped { from, to }, hit, |file| {
        file.write_all_at(&[to], offset as u64)
    })
}

/// Zeroes the end of the last record, from a random place in it: what a power cut makes of a write that
/// was not synced. If it was, the node forgets what it has acknowledged.
pub fn tear_last_record(data_dir: &Path, rng: &mut impl Rng) -> Result<Damage, FaultError> {
    let log = Log::find(data_dir)?;
    let last = log.spans[log.spans.len() - 1];
    let start = last.start.max(last.end.saturating_sub(TAIL_BYTES));
    let offset = rng.random_range(start..last.end);
    let bytes = (last.end - offset) as u64;
    log.damaged(offset, Change::Zeroed { bytes }, last.hit, |file| {
        file.write_all_at(&vec![0; bytes as usize], offset as u64)
    })
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> FaultError {
    let tried = format!("cannot {what} {}", path.display());
    move |error| FaultError::Failed(format!("{tried}: {error}"))
}

/// The batches of a Holdfast segment.
fn holdfast_batches(bytes: &[u8]) -> Vec<Span> {
    let word = |at: usize, len: usize| {
        let bytes = bytes.get(at..at + len)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, &b| sum << 8 | u64::from(b)),
        )
    };
    let mut batches = Vec::new();
    let (mut at, mut synced_through) = (SEGMENT_HEADER_BYTES, 0);
    while bytes.get(at..at + 4) == Some(&BATCH_MAGIC)
        && let (Some(body), Some(number), Some(synced)) =
            (word(at + 8, 4), word(at + 16, 8), word(at + 24, 8))
    {
        let end = at + BATCH_HEADER_BYTES + body as usize;
        let follows = |&(before, _, _): &(u64, _, _)| before + 1 == number;
        if end > bytes.len() || !batches.last().is_none_or(follows) {
            break;
        }
        batches.push((number, at, end));
        synced_through = synced_through.max(synced);
        at = end;
    }
    batches
        .into_iter()
        .map(|(number, start, end)| {
            let hit = match number <= synced_through {
                true => Hit::Synced,
                false => Hit::LastRecord,
            };
            Span { start, end, hit }
        })
        .collect()
}

/// All up to the last byte that is not zero.
fn written_bytes(bytes: &[u8]) -> Vec<Span> {
    let last = bytes.iter().rposition(|&byte| byte != 0);
    let span = last.map(|last| Span {
        start: 0,
        end: last + 1,
        hit: Hit::Unknown,
    });
    span.into_iter().collect()
}

#[cfg(test)]
mod tests;
