//! Histories as lines of JSON: what a run writes while it goes on, and what `check` reads.
//!
//! ```text
//! workers, nemesis ──▶ record ──▶ events in memory ─────────────▶ finish: the History
//!                        └──────▶ lines not yet written ──▶ flusher ──▶ history.jsonl
//! ```
//!
//! What holds here:
//!
//! - Index and time are taken under one lock, so the order of the indices is the order of the times
//!   and the order of the lines.
//! - Nobody who records waits for the disk. A thread of the recorder writes what has gathered every
//!   [`FLUSH_INTERVAL`]; a harness that is killed loses at most that much, and leaves whole lines up
//!   to the last, which [`read`] tells from a history that is complete.
//! - A write that fails is told by [`Recorder::finish`]; recording goes on in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Event, FaultEvent, History, Kind, Phase, What};

/// How long an event may wait before it is written to the file.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Events of clients so far, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations invoked.
    pub invoked: u64,
    /// Operations that took effect.
    pub ok: u64,
    /// Operations that did not take effect.
    pub fail: u64,
    /// Operations whose outcome is not known.
    pub info: u64,
}

/// Takes down what happens in a run; shared by all workers and the nemesis.
///
/// Dropping it writes what has gathered.
pub struct Recorder {
    shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    started: Instant,
    /// Held for an append to two vectors, never during I/O.
    log: Mutex<Log>,
    /// Held while writing. Taken before `log`, so that lines reach the file in order.
    output: Mutex<Output>,
    /// Set once, to end the flusher.
    stopped: Mutex<bool>,
    wake: Condvar,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    /// Index of the next event; not the length of `events` once that has been taken.
    next: u64,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
    counts: Counts,
    /// Faults that have begun and are not over.
    faults: BTreeMap<u64, FaultEvent>,
    finished: bool,
}

struct Output {
    file: File,
    /// The first one; nothing is written after it.
    error: Option<io::Error>,
}

impl Recorder {
    /// Creates the file, which must not exist, and starts the clock of the run.
    ///
    /// # Errors
    ///
    /// The file exists or cannot be created, or no thread can be started.
    pub fn create(path: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            log: Mutex::default(),
            output: Mutex::new(Output {
                file: File::create_new(path)?,
                error: None,
            }),
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        });
        let flusher = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.flush_until_stopped()
            })?;
        Ok(Self {
            shared,
            flusher: Mutex::new(Some(flusher)),
        })
    }

    /// Appends an event and returns its index. After [`Recorder::finish`] the event is dropped, and
    /// the index is that of no event.
    pub fn record(&self, what: What) -> u64 {
        // The costly part of the line is made before the lock is taken; index and time are put in
        // front of it. The result is what serde makes of the `Event`.
        let json = serde_json::to_vec(&what).expect("events have only strings for keys");
        let mut log = self.shared.log.lock();
        let index = log.next;
        log.next += 1;
        if log.finished {
            return index;
        }
        let time = u64::try_from(self.shared.started.elapsed().as_nanos())
            .expect("a run lasts less than 584 years");
        write!(log.pending, "{{\"index\":{index},\"time\":{time},")
            .expect("a vector takes every write");
        log.pending.extend_from_slice(&json[1..]);
        log.pending.push(b'\n');
        match &what {
            What::Client(client) => match client.kind {
                Kind::Invoke => log.counts.invoked += 1,
                Kind::Ok => log.counts.ok += 1,
                Kind::Fail => log.counts.fail += 1,
                Kind::Info => log.counts.info += 1,
            },
            What::Fault(fault) => match fault.phase {
                Phase::Begin | Phase::Broken | Phase::Heal => {
                    log.faults.insert(fault.fault, fault.clone());
                }
                Phase::Seen | Phase::Unseen | Phase::Disproved => {}
                Phase::Skipped | Phase::Healed | Phase::Error => {
                    log.faults.remove(&fault.fault);
                }
            },
        }
        log.events.push(Event { index, time, what });
        index
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Events of clients so far.
    pub fn counts(&self) -> Counts {
        self.shared.log.lock().counts
    }

    /// Looks at the events so far. Nothing is recorded meanwhile.
    pub fn with_events<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.shared.log.lock().events)
    }

    /// The last event of each fault that has begun and is not over, by its number.
    pub fn present_faults(&self) -> Vec<FaultEvent> {
        self.shared.log.lock().faults.values().cloned().collect()
    }

    /// Writes and syncs what has gathered, and hands out the history. A second call hands out an
    /// empty one.
    ///
    /// # Errors
    ///
    /// The first error in writing the file: it is not complete then.
    pub fn finish(&self) -> io::Result<History> {
        let events = {
            let mut log = self.shared.log.lock();
            log.finished = true;
            std::mem::take(&mut log.events)
        };
        self.stop();
        let mut output = self.shared.output.lock();
        match output.error.take() {
            Some(error) => Err(error),
            None => output.file.sync_data().map(|()| History { events }),
        }
    }

    fn stop(&self) {
        *self.shared.stopped.lock() = true;
        self.shared.wake.notify_all();
        let flusher = self.flusher.lock().take();
        if let Some(flusher) = flusher
            && flusher.join().is_err()
        {
            self.shared.output.lock().error = Some(io::Error::other("the flusher panicked"));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn flush_until_stopped(&self) {
        let mut stopped = self.stopped.lock();
        while !*stopped {
            self.wake.wait_for(&mut stopped, FLUSH_INTERVAL);
            parking_lot::MutexGuard::unlocked(&mut stopped, || self.flush());
        }
        drop(stopped);
        self.flush();
    }

    fn flush(&self) {
        let mut output = self.output.lock();
        let pending = std::mem::take(&mut self.log.lock().pending);
        if output.error.is_none()
            && let Err(error) = output.file.write_all(&pending)
        {
            output.error = Some(error);
        }
    }
}

/// Why a history cannot be read. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no event in it.
    #[error("{path}: the history is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line is not an event.
    #[error("{path}, line {line}: not an event of a history: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// What is wrong with it, and at which column.
        source: serde_json::Error,
    },
    /// An event is missing, or stands twice.
    #[error("{path}, line {line}: event {found} where event {expected} belongs")]
    Index {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// Index that belongs there.
        expected: u64,
        /// Index that stands there.
        found: u64,
    },
    /// The file ends in the middle of a line: the run that wrote it did not end well.
    #[error(
        "{path}: the history is truncated at line {line}; {complete} complete events precede it"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The line that is cut off.
        line: u64,
        /// Events before it; [`read_prefix`] gives them.
        complete: u64,
    },
}

/// Reads a history that is complete.
///
/// # Errors
///
/// See [`ReadError`]. A file that was cut off between two lines cannot be told from a complete one
/// here; the number of events in `results.json` tells it.
pub fn read(path: &Path) -> Result<History, ReadError> {
    let (history, cut) = read_prefix(path)?;
    match cut {
        None => Ok(history),
        Some(line) => Err(ReadError::Truncated {
            path: path.to_owned(),
            line,
            complete: history.events.len() as u64,
        }),
    }
}

/// Reads what there is of a history whose last line may be cut off, and the number of that line.
/// The operations that were open at the end have an unknown outcome, as ever.
///
/// # Errors
///
/// See [`ReadError`]; not [`ReadError::Truncated`] unless nothing precedes the line.
pub fn read_prefix(path: &Path) -> Result<(History, Option<u64>), ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut events: Vec<Event> = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if file.read_until(b'\n', &mut text).map_err(io)? == 0 {
            break;
        }
        let event: Event = match serde_json::from_slice(&text) {
            Ok(event) => event,
            Err(_) if text.last() != Some(&b'\n') => {
                if events.is_empty() {
                    return Err(ReadError::Truncated {
                        path: path.to_owned(),
                        line,
                        complete: 0,
                    });
                }
                return Ok((History { events }, Some(line)));
            }
            Err(source) => {
                return Err(ReadError::Json {
                    path: path.to_owned(),
                    line,
                    source,
                });
            }
        };
        let expected = events.len() as u64;
        if event.index != expected {
            return Err(ReadError::Index {
                path: path.to_owned(),
                line,
                expected,
                found: event.index,
            });
        }
        events.push(event);
    }
    if events.is_empty() {
        return Err(ReadError::Empty {
            path: path.to_owned(),
        });
    }
    Ok((History { events }, None))
}

#[cfg(test)]
mod tests;
