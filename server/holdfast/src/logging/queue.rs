//! The lines on their way to standard error: a bounded queue that never holds anybody back.
//!
//! `tracing-appender` has a lossy queue too, but it counts no line that could not be written, bounds
//! lines and not bytes, and tells nobody that something is missing.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use holdfast_server::limits;

/// Pause before a write that would have to wait is tried again: somebody has made standard error
/// non-blocking, for all who share it.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Makes the line that tells how many lines are missing, and why.
pub(super) type Notice<'a> = dyn Fn(u64, &str) -> Vec<u8> + 'a;

/// Lines that wait to be written.
///
/// - `bytes` is the sum of the lengths of `lines`.
/// - The lock is never held during a write.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to write, or to tell.
    came: Condvar,
    /// What there was at the end is written or lost.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that did not get out and that nobody has been told of.
    lost: u64,
    why: String,
    /// When it was last told how many lines were lost.
    told: Option<Instant>,
    /// The process ends: what was lost is told now.
    ending: bool,
    /// The last write ended within a line.
    torn: bool,
}

impl State {
    fn lose(&mut self, lines: u64, why: impl FnOnce() -> String) {
        if lines > 0 {
            self.lost += lines;
            self.why = why();
        }
    }

    /// Whether the time has come to tell of lost lines: in front of the next line, but not in front
    /// of each where the reader is slow.
    fn tells(&self, now: Instant) -> bool {
        let pause = limits::LOG_LOST_NOTICE_INTERVAL;
        self.lost > 0
            && (self.ending
                || self
                    .told
                    .is_none_or(|told| now.duration_since(told) >= pause))
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            came: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    /// Takes a line, or counts it as lost if there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        let line = cut(line);
        let mut state = self.state.lock();
        if state.bytes + line.len() > limits::LOG_QUEUE_OUTPUT_BYTES_MAX {
            state.lose(1, || "the queue was full, for nobody read".into());
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.came.notify_one();
    }

    /// Waits for lines, up to `patience`, and writes them to `out`. Returns when all are written or
    /// lost.
    pub(super) fn write_some(&self, out: &mut impl Write, patience: Duration, notice: &Notice<'_>) {
        let mut state = self.state.lock();
        if state.lines.is_empty() && !state.ending {
            self.came.wait_for(&mut state, patience);
        }
        let ending = state.ending;
        let lines = std::mem::take(&mut state.lines);
        let (lost, mut torn) = (state.lost, state.torn);
        let why = state.why.clone();
        let tells = state.tells(Instant::now());
        // Room is made line by line: what is being written still takes memory.
        drop(state);

        let mut told = false;
        let mut failed = None;
        if tells {
            let line = notice(lost, &why);
            match write_line(out, &line, &mut torn) {
                Ok(()) => told = true,
                Err(error) => failed = Some(error),
            }
        }
        let mut missing = 0;
        for line in lines {
            // After a failure the rest waits for no other: it would fail as well, or be written
            // behind a gap that nobody is told of.
            let length = line.len();
            if failed.is_some() {
                missing += 1;
            } else if let Err(error) = write_line(out, &line, &mut torn) {
                failed = Some(error);
                missing += 1;
            }
            self.state.lock().bytes -= length;
        }

        let mut state = self.state.lock();
        state.torn = torn;
        if told {
            state.told = Some(Instant::now());
            state.lost -= lost;
        }
        state.lose(missing, || {
            failed.map_or_else(String::new, |error| error.to_string())
        });
        // At the end there is one try to tell what was lost; another would fail alike.
        if ending && state.lines.is_empty() {
            state.ending = false;
            self.ended.notify_all();
        }
    }

    /// Waits until all lines are written or lost, up to `patience`. Returns whether they are.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        state.ending = true;
        self.came.notify_one();
        while state.ending {
            if self.ended.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        !state.ending
    }
}

/// A line of no more than [`limits::LOG_LINE_BYTES_MAX`].
fn cut(line: &[u8]) -> Vec<u8> {
    const MARK: &[u8] = " [cut]\n".as_bytes();
    if line.len() <= limits::LOG_LINE_BYTES_MAX {
        return line.to_vec();
    }
    let mut short = line[..limits::LOG_LINE_BYTES_MAX - MARK.len()].to_vec();
    short.extend_from_slice(MARK);
    short
}

/// Writes a line, on a line of its own even if the one before was torn.
fn write_line(out: &mut impl Write, line: &[u8], torn: &mut bool) -> io::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    if *torn {
        write_all(out, b"\n", &mut false)?;
        *torn = false;
    }
    write_all(out, line, torn)
}

fn write_all(out: &mut impl Write, mut bytes: &[u8], torn: &mut bool) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                *torn = !bytes.is_empty();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
