//! Whether a node installed a snapshot, and whether that took longer than a sender waits for a sign of
//! life: as its log tells, which it must not contradict when it is asked what it has installed.
//!
//! It shows only when it is over, so it is looked at for as long as the fault is held.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{Effect, Installs, Observer};
use crate::history::NodeId;

/// How long a sender bears a receiver that gives no sign of life (`SNAPSHOT_STALL_MAX` of the server).
const SENDER_WAITS: Duration = Duration::from_secs(60);
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Asks a node how many snapshots it has installed since it started.
pub(super) type Count = Arc<dyn Fn() -> BoxFuture<'static, Option<u64>> + Send + Sync>;

pub(super) fn installed(observer: &Observer, node: NodeId) -> Count {
    let observer = observer.clone();
    Arc::new(move || {
        let observer = observer.clone();
        Box::pin(async move { observer.snapshots_installed(node).await })
    })
}

pub(super) async fn look_for_install(
    mut installs: Installs,
    counted: Count,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) -> Effect {
    let deadline = Instant::now() + patience;
    loop {
        if let Err(error) = installs.look() {
            return Effect::Unseen(format!("has a log that cannot be read: {error}"));
        }
        let slow = installs.longest().filter(|took| *took > SENDER_WAITS);
        let count = match slow {
            Some(_) => counted().await,
            None => None,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // A sender that is gone is an order to stop, too.
        let over = left.is_zero() || *stop.borrow() || stop.has_changed().is_err();
        match (slow, count) {
            (Some(took), Some(1..)) => return seen(took, "counts it when it is asked"),
            // A disk that is slow may keep a node from answering.
            (Some(took), None) if over => return seen(took, "does not answer when it is asked"),
            (Some(_), Some(0)) if over => {
                return Effect::Unseen(
                    "tells of an install in its log, and does not count it when it is asked"
                        .to_owned(),
                );
            }
            (None, _) if over => return Effect::Unseen(instead(&installs)),
            _ => {
                let stopped = stop.wait_for(|stopped| *stopped);
                let _ = timeout(POLL_INTERVAL.min(left), stopped).await;
            }
        }
    }
}

fn seen(took: Duration, asked: &str) -> Effect {
    Effect::Seen(format!(
        "installed a snapshot within {} s, as its log tells, and {asked}; a sender waits {} s for a sign of \
         life",
        took.as_secs(),
        SENDER_WAITS.as_secs()
    ))
}

/// What there is instead of an install that took long.
fn instead(installs: &Installs) -> String {
    match (installs.longest(), installs.under_way()) {
        (_, Some(begun)) => format!(
            "has been installing a snapshot for {} s and is not done",
            begun.elapsed().as_secs()
        ),
        (Some(took), None) => format!(
            "installed a snapshot within {} ms, which no sender takes for too long",
            took.as_millis()
        ),
        (None, None) => "installed no snapshot".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::history::Phase;

    /// The effect of what a log says, of which the end comes so much later.
    fn looked(lines: &[(u64, &str)], counted: Option<u64>) -> Effect {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let mut installs = Installs::follow(log.path().to_owned());
        let begun = Instant::now();
        for (second, line) in lines {
            writeln!(log, "2026-11-28T00:00:00Z  INFO {line}").unwrap();
            let now = begun + Duration::from_secs(*second);
            installs.look_at(now).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let counted: Count = Arc::new(move || Box::pin(async move { counted }));
            let (_hold, stop) = watch::channel(false);
            look_for_install(installs, counted, Duration::ZERO, stop).await
        })
    }

    const BEGUN: &str = "installing a snapshot group=2 index=7";
    const GOES_ON: &str = "something else";
    const DONE: &str = "snapshot installed group=2 index=7";

    #[test]
    fn an_install_is_seen_when_it_took_longer_than_a_sender_waits() {
        let slow = [(1, BEGUN), (62, GOES_ON), (63, DONE)];
        let words = |asked: &str| {
            format!(
                "installed a snapshot within 61 s, as its log tells, and {asked}; a sender waits 60 s for \
                 a sign of life"
            )
        };
        let counts = Effect::Seen(words("counts it when it is asked"));
        assert_eq!(looked(&slow, Some(1)), counts);
        let silent = Effect::Seen(words("does not answer when it is asked"));
        assert_eq!(looked(&slow, None), silent);
        let contradicted = looked(&slow, Some(0));
        assert_eq!(contradicted.phase(), Phase::Unseen, "{contradicted:?}");
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        let unseen = |lines: &[(u64, &str)], words: &str| {
            let effect = looked(lines, Some(1));
            assert!(
                matches!(&effect, Effect::Unseen(why) if why.contains(words)),
                "{effect:?}"
            );
        };
        unseen(&[], "installed no snapshot");
        // Its end may have come any time since the last look before.
        unseen(&[(1, BEGUN), (30, GOES_ON), (90, DONE)], "within 29000 ms");
        unseen(&[(1, BEGUN), (90, GOES_ON)], "is not done");
    }
}
