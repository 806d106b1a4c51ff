//! Writers that remember what was acknowledged to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_client::{Client, Effect, Error};
use holdfast_proto::etcdserverpb::PutResponse;
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::sleep};

use super::{PATIENCE, until};

const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// A write that the cluster has acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub key: String,
    pub value: String,
    pub revision: i64,
    /// When the answer arrived.
    pub at: Instant,
}

/// A write that ended with an error.
#[derive(Clone)]
pub struct Failed {
    pub key: String,
    pub value: String,
    pub error: String,
}

impl std::fmt::Debug for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.error)
    }
}

/// What became of the writes of one or several loads. Every key is written once at most.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub acknowledged: Vec<Acknowledged>,
    /// Writes that may or may not have taken effect.
    pub unknown: Vec<Failed>,
    /// Writes that have not taken effect and never will, says the client.
    pub refused: Vec<Failed>,
}

impl History {
    /// Adds another history to this one.
    pub fn extend(&mut self, other: History) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
    }

    /// Adds a write that the test itself has made.
    pub fn acknowledge(&mut self, key: &str, value: &str, revision: i64) {
        self.acknowledged.push(Acknowledged {
            key: key.to_string(),
            value: value.to_string(),
            revision,
            at: Instant::now(),
        });
    }

    /// Adds a write of the test's own that may or may not have taken effect.
    pub fn unknown(&mut self, key: &str, value: &str, error: &str) {
        self.unknown.push(Failed {
            key: key.to_string(),
            value: value.to_string(),
            error: error.to_string(),
        });
    }

    /// Fails the test if any write has failed.
    pub fn assert_no_failures(&self) {
        let failed: Vec<_> = self.unknown.iter().chain(&self.refused).collect();
        assert!(failed.is_empty(), "writes have failed: {failed:#?}");
    }

    /// Time from `moment` to the first acknowledgement after it, and the longest time without any
    /// from then on.
    pub fn recovery(&self, moment: Instant) -> (Duration, Duration) {
        let mut after: Vec<Instant> = self.acknowledged.iter().map(|write| write.at).collect();
        after.retain(|at| *at > moment);
        after.sort_unstable();
        let first = after.first().expect("a write was acknowledged since");
        let gaps = after.windows(2).map(|pair| pair[1] - pair[0]);
        let to_first = *first - moment;
        (to_first, gaps.fold(to_first, Duration::max))
    }
}

/// Concurrent writers, each waiting for its answer before it writes again.
pub struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
}

struct Shared {
    name: String,
    stop: AtomicBool,
    begun: AtomicU64,
    writes_max: u64,
    acknowledged: AtomicU64,
    history: Mutex<History>,
}

impl Load {
    pub(super) fn start(name: &str, clients: &[Client], writers: usize, writes_max: u64) -> Self {
        let shared = Arc::new(Shared {
            name: name.to_string(),
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            writes_max,
            acknowledged: AtomicU64::new(0),
            history: Mutex::default(),
        });
        let writers = (0..writers)
            .map(|writer| write(clients[writer % clients.len()].clone(), shared.clone()))
            .collect();
        Self { shared, writers }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for this many acknowledgements from now on.
    pub async fn until_more(&self, writes: u64) {
        let goal = self.acknowledged() + writes;
        until("writes are acknowledged", PATIENCE, async || {
            let now = self.acknowledged();
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        })
        .await;
    }

    /// Begins no more writes, and waits for those under way.
    pub async fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the load has ended by itself.
    pub async fn finish(mut self) -> History {
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("a writer does not panic");
        }
        std::mem::take(&mut *self.shared.history.lock())
    }
}

async fn write(client: Client, shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.begun.fetch_add(1, Ordering::Relaxed);
        if number >= shared.writes_max {
            return;
        }
        let key = format!("{}/{number:08}", shared.name);
        let value = format!("the value of {key}");
        let answer = client.put(key.clone(), value.clone()).await;
        if shared.record(key, value, answer) {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            // A cluster that is down refuses much faster than it writes.
            sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}

impl Shared {
    /// Remembers how a write ended. Returns whether it was acknowledged.
    fn record(&self, key: String, value: String, answer: Result<PutResponse, Error>) -> bool {
        let at = Instant::now();
        let mut history = self.history.lock();
        let error = match answer {
            Ok(answer) => {
                history.acknowledged.push(Acknowledged {
                    key,
                    value,
                    revision: answer.header.map_or(0, |header| header.revision),
                    at,
                });
                return true;
            }
            Err(error) => error,
        };
        let failed = Failed {
            key,
            value,
            error: format!("{error:?}"),
        };
        match error.effect() {
            Effect::None => history.refused.push(failed),
            Effect::Unknown => history.unknown.push(failed),
        }
        false
    }
}
