//! What the process tells its operator: `tracing` events on standard error.
//!
//! Diagnostics share no fate with consensus. Whoever logs formats a line, puts it into a bounded
//! queue and goes on; a thread of its own writes. So a standard error that is full, closed, or a
//! pipe that nobody reads costs lines of the log, and nothing else:
//!
//! ```text
//!   event ─▶ level ─▶ Limited (repeats) ─▶ format ─▶ queue ─▶ thread "log" ─▶ standard error
//!                        └─ withheld, counted ──▶ summed up by the thread ┘
//! ```
//!
//! Promises:
//!
//! - logging never waits for standard error, never fails and never panics;
//! - lines that did not get out are counted, and the count is the first thing written once writing
//!   works again;
//! - the same line comes a few times a minute at most, with the number of those withheld
//!   ([`repeats`]);
//! - a panic of any thread is logged like everything else;
//! - what is in the queue when the process ends is written if that takes no longer than
//!   [`limits::LOG_FLUSH_MAX`].
//!
//! Standard output is left to the commands, so that a pipe sees only what a command promises.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::RefCell,
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::Level;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use holdfast_server::{
    config::{LogConfig, LogFormat},
    limits,
};

use self::{limited::Limited, queue::Queue, repeats::Summary};

mod limited;
mod queue;
mod repeats;

/// Time between two looks at the lines that were withheld.
const SUM_UP_EVERY: Duration = Duration::from_secs(1);

/// The one log of the process, as `tracing` has one subscriber and a process one standard error.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    queue: Arc<Queue>,
    limited: Limited,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives of the level do not parse.
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Standard error or the thread that writes to it cannot be had.
    #[error("the log: {0}")]
    Io(#[from] io::Error),
    /// Somebody else listens to the events of this process.
    #[error("the log: {0}")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends all events of this process, and its panics, to standard error, as the configuration says.
///
/// Called once, before the first event. A second call changes nothing and returns an error.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level)?;
    // A descriptor of its own, without the lock that everything else takes to write there: the
    // thread may be stuck in a write for good.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let queue = Arc::new(Queue::new());
    let limited = Limited::default();
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(limited.clone());
    let writer = {
        let queue = queue.clone();
        move || Line(queue.clone())
    };
    match config.format {
        LogFormat::Plain => registry
            .with(
                fmt::layer()
                    .with_writer(writer)
                    .log_internal_errors(false)
                    .with_ansi(io::stderr().is_terminal())
                    .with_target(false),
            )
            .try_init()?,
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .with_writer(writer)
                    .log_internal_errors(false)
                    .json()
                    .flatten_event(true),
            )
            .try_init()?,
    }
    let log = LOG.get_or_init(|| Log { queue, limited });
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || log.write_to(out))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The groups are being shut down: what openraft says of messages that find a group gone is no news.
/// Without [`init`] there is nothing to do.
pub fn groups_are_stopping() {
    if let Some(log) = LOG.get() {
        let stopping = &log.limited.groups_are_stopping;
        stopping.store(true, Ordering::Relaxed);
    }
}

/// Writes what waits, before the process ends. Returns after [`limits::LOG_FLUSH_MAX`] at the
/// latest, whatever standard error does. Without [`init`] there is nothing to do.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sum_up(log.limited.repeats.all(Instant::now()));
        log.queue.flush(limits::LOG_FLUSH_MAX);
    }
}

impl Log {
    /// The life of the thread: as long as the process.
    fn write_to(&self, mut out: impl Write) {
        let mut looked = Instant::now();
        loop {
            self.queue.write_some(&mut out, SUM_UP_EVERY, &|lost, why| {
                captured(|| {
                    tracing::warn!(
                        lost,
                        why,
                        "lines of the log were lost here: standard error did not take them"
                    );
                })
            });
            if looked.elapsed() >= SUM_UP_EVERY {
                looked = Instant::now();
                self.sum_up(self.limited.repeats.due(looked));
            }
        }
    }

    fn sum_up(&self, summaries: Vec<Summary>) {
        for summary in summaries {
            let Summary {
                level,
                times,
                within,
                last,
            } = summary;
            let seconds = within.as_secs();
            // The level of an event is part of its source.
            macro_rules! tell {
                ($level:ident) => {
                    tracing::$level!("repeated {times} times more in {seconds} s, the last: {last}")
                };
            }
            match level {
                Level::ERROR => tell!(error),
                Level::WARN => tell!(warn),
                _ => tell!(info),
            }
        }
    }
}

thread_local! {
    /// Where the lines of this thread go instead of the queue, while it asks for them.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The lines that the events of `log` make. Empty if nobody wants to see their level.
fn captured(log: impl FnOnce()) -> Vec<u8> {
    CAPTURED.set(Some(Vec::new()));
    log();
    CAPTURED.take().unwrap_or_default()
}

/// Takes one formatted event. Its writes always succeed.
struct Line(Arc<Queue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let queued = CAPTURED.with_borrow_mut(|captured| match captured {
            Some(captured) => {
                captured.extend_from_slice(line);
                false
            }
            None => true,
        });
        if queued {
            self.0.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The standard hook writes to standard error itself, and waits for it.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let thread = std::thread::current();
    let at = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let why = panic.payload();
    let why = why
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| why.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    tracing::error!(
        thread = thread.name().unwrap_or("without a name"),
        at,
        "a thread panicked, which is a bug of Holdfast: {why}{backtrace}"
    );
}
