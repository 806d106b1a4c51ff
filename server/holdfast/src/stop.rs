//! Stopping has an end of its own: whatever hangs, the process ends.
//!
//! ```text
//!   first SIGTERM or SIGINT ──▶ the node stops in good order, step by step
//!   second signal, or the stated time has passed ──▶ the process is ended, and says in which step it stood
//! ```
//!
//! Signals are heeded by a thread of its own with a runtime of its own, because what hangs may be
//! every thread of the node: a disk that does not answer blocks whoever asks it.

use std::{io, thread, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
};

use holdfast_server::{exit::EXIT_FORCED, limits, stop::Step};

/// Why a stop was not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impatience {
    /// A second signal came.
    SecondSignal(&'static str),
    /// The time for stopping has passed.
    TimeIsUp(Duration),
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The thread that heeds the signals of this process.
pub struct StopWatch {
    asked: oneshot::Receiver<&'static str>,
    step: watch::Sender<Step>,
}

impl StopWatch {
    /// Begins to heed signals. From now on the process ends soon after it was asked to, by itself or
    /// by force.
    pub fn start() -> io::Result<Self> {
        let (asks, asked) = oneshot::channel();
        let step = watch::Sender::new(Step::NotBegun);
        let steps = step.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // On this thread, so that no signal comes before it is heeded.
        let mut signals = {
            let _guard = runtime.enter();
            Signals::new()?
        };
        thread::Builder::new().name("stop".into()).spawn(move || {
            runtime.block_on(async {
                let first = signals.next().await;
                // Nobody listens any more when the node gives up by itself just now.
                let _ = asks.send(first);
                let limit = Duration::from_millis(limits::STOP_MS_MAX);
                let why = impatience(signals.next(), limit).await;
                end(why, *steps.borrow());
            });
        })?;
        Ok(Self { asked, step })
    }

    /// Waits for the first signal, and names it.
    pub async fn asked(&mut self) -> &'static str {
        match (&mut self.asked).await {
            Ok(name) => name,
            // The thread ends only with the process.
            Err(_) => std::future::pending().await,
        }
    }

    /// Where a node that stops says how far it is.
    pub fn step(&self) -> &watch::Sender<Step> {
        &self.step
    }
}

/// Waits until a stop has taken long enough.
async fn impatience(
    second_signal: impl Future<Output = &'static str>,
    limit: Duration,
) -> Impatience {
    tokio::select! {
        name = second_signal => Impatience::SecondSignal(name),
        () = tokio::time::sleep(limit) => Impatience::TimeIsUp(limit),
    }
}

/// What an operator reads about a stop that was forced.
fn sentence(why: Impatience, step: Step) -> String {
    let why = match why {
        Impatience::SecondSignal(name) => format!("a second signal came ({name})"),
        Impatience::TimeIsUp(limit) => {
            format!("stopping took longer than {} s", limit.as_secs())
        }
    };
    format!(
        "{why}: the process ends now, while it waited for {}; nothing acknowledged is lost, the next \
         start applies from the log what the checkpoint lacks",
        step.waits_for()
    )
}

fn end(why: Impatience, step: Step) -> ! {
    tracing::error!("{}", sentence(why, step));
    crate::logging::flush();
    std::process::exit(i32::from(EXIT_FORCED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_ends_with_the_second_signal_or_when_its_time_is_up() {
        let limit = Duration::from_millis(1);
        let never = std::future::pending();
        assert_eq!(impatience(never, limit).await, Impatience::TimeIsUp(limit));
        let second = std::future::ready("SIGINT");
        let limit = Duration::from_secs(3600);
        assert_eq!(
            impatience(second, limit).await,
            Impatience::SecondSignal("SIGINT")
        );
    }

    #[test]
    fn a_forced_stop_says_why_and_what_it_waited_for() {
        let said = sentence(Impatience::SecondSignal("SIGTERM"), Step::FlushState);
        assert!(said.contains("SIGTERM"), "{said}");
        assert!(said.contains(Step::FlushState.waits_for()), "{said}");
        let said = sentence(
            Impatience::TimeIsUp(Duration::from_secs(10)),
            Step::CloseLog,
        );
        assert!(said.contains("longer than 10 s"), "{said}");
        assert!(said.contains(Step::CloseLog.waits_for()), "{said}");
    }
}
