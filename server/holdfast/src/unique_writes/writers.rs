//! Writers: each write has a key of its own, and its fate is written down when it is known.
//!
//! A write counts as under way from before it is sent until its answer is there. One that is given up
//! before that is of unknown effect.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_client::{Client, Effect, Error};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use super::{Acknowledged, Failed, History};

/// A cluster that is down refuses much faster than it writes.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Most writes of a client that writes at a rate under way.
const PACED_IN_FLIGHT_MAX: usize = 100;
/// Values are padded to this, and differ.
const VALUE_BYTES: usize = 64;

/// What the writers have been told so far.
///
/// - A write is under way or in exactly one list of the history.
/// - No key is written twice.
#[derive(Debug)]
pub struct Ledger {
    prefix: String,
    writes_max: u64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// Number of the write that begins next.
    next: u64,
    /// Numbers of those under way.
    under_way: BTreeSet<u64>,
    history: History,
    /// Acknowledged writes of each client.
    counts: Vec<u64>,
    /// Latest beginning of an acknowledged write.
    latest_begun: Option<Instant>,
    highest_revision: i64,
}

/// A write under way.
struct Write {
    number: u64,
    key: String,
    value: String,
    begun: Instant,
}

impl Ledger {
    fn new(prefix: &str, writes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            prefix: prefix.to_owned(),
            writes_max,
            book: Mutex::default(),
        })
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.book.lock().counts.iter().sum()
    }

    /// Writes acknowledged to one client so far.
    pub fn acknowledged_to(&self, client: usize) -> u64 {
        self.book.lock().counts.get(client).copied().unwrap_or(0)
    }

    /// Highest revision that was acknowledged.
    pub fn highest_revision(&self) -> i64 {
        self.book.lock().highest_revision
    }

    /// A write that began after `moment` has been acknowledged.
    pub fn flows_since(&self, moment: Instant) -> bool {
        self.book.lock().latest_begun > Some(moment)
    }

    /// Why the first of the writes that were refused was.
    pub fn refusal(&self) -> Option<String> {
        let book = self.book.lock();
        book.history
            .refused
            .first()
            .map(|write| write.error.clone())
    }

    fn write(&self, number: u64) -> Write {
        let key = format!("{}{number:08}", self.prefix);
        let value = format!("{:-<VALUE_BYTES$}", format!("the value of {key}"));
        Write {
            number,
            key,
            value,
            begun: Instant::now(),
        }
    }

    /// Begins a write, unless there were enough.
    fn begin(&self) -> Option<Write> {
        let mut book = self.book.lock();
        let number = book.next;
        if number >= self.writes_max {
            return None;
        }
        book.next += 1;
        book.under_way.insert(number);
        drop(book);
        Some(self.write(number))
    }

    /// Remembers how a write ended: with its revision or an error. Returns whether it was acknowledged.
    fn end(&self, client: usize, write: Write, answer: Result<i64, Error>) -> bool {
        let at = Instant::now();
        let mut book = self.book.lock();
        if !book.under_way.remove(&write.number) {
            return false;
        }
        let Write {
            key, value, begun, ..
        } = write;
        let error = match answer {
            Ok(revision) => {
                if book.counts.len() <= client {
                    book.counts.resize(client + 1, 0);
                }
                book.counts[client] += 1;
                book.latest_begun = book.latest_begun.max(Some(begun));
                book.highest_revision = book.highest_revision.max(revision);
                book.history.acknowledged.push(Acknowledged {
                    client,
                    key,
                    value,
                    revision,
                    begun,
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
            Effect::None => book.history.refused.push(failed),
            Effect::Unknown => book.history.unknown.push(failed),
        }
        false
    }

    /// Takes the history. What is still under way is of unknown effect from now on.
    fn close(&self) -> History {
        let mut book = self.book.lock();
        let under_way = std::mem::take(&mut book.under_way);
        let mut history = std::mem::take(&mut book.history);
        drop(book);
        for write in under_way.into_iter().map(|number| self.write(number)) {
            history.unknown(&write.key, &write.value, "given up before it was answered");
        }
        history
    }
}

/// Running writers. They end when this is dropped.
pub struct Writers {
    ledger: Arc<Ledger>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Concurrent writers, in turn on these clients, each waiting for its answer before it writes again.
    /// They end by themselves after `writes_max` writes.
    pub fn waiting(prefix: &str, clients: &[Client], writers: usize, writes_max: u64) -> Self {
        let mut started = Self::new(prefix, writes_max);
        for at in (0..clients.len()).cycle().take(writers) {
            let (ledger, stopped) = (started.ledger.clone(), started.stop.subscribe());
            let client = clients[at].clone();
            started
                .tasks
                .spawn(write_and_wait(at, client, ledger, stopped));
        }
        started
    }

    /// One writer for each client, at `rate` writes per second, as long as `is_up` says so of the client.
    pub fn paced(
        prefix: &str,
        clients: &[Client],
        rate: u32,
        is_up: impl Fn(usize) -> bool + Clone + Send + 'static,
    ) -> Self {
        let mut started = Self::new(prefix, u64::MAX);
        for (at, client) in clients.iter().cloned().enumerate() {
            let (ledger, stopped) = (started.ledger.clone(), started.stop.subscribe());
            let is_up = is_up.clone();
            let paced = write_at_rate(at, client, ledger, stopped, rate, move || is_up(at));
            started.tasks.spawn(paced);
        }
        started
    }

    fn new(prefix: &str, writes_max: u64) -> Self {
        Self {
            ledger: Ledger::new(prefix, writes_max),
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
        }
    }

    /// What they have been told so far.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Begins no more writes, and waits for those under way.
    pub async fn stop(self) -> History {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Begins no more writes, and waits at most so long for those under way.
    pub async fn stop_within(mut self, patience: Duration) -> History {
        self.stop.send_replace(true);
        // What is not there in time is given up with the tasks.
        let _ = timeout(patience, self.all_ended()).await;
        self.tasks.shutdown().await;
        self.ledger.close()
    }

    /// Waits until the writers have ended by themselves.
    pub async fn finish(mut self) -> History {
        self.all_ended().await;
        self.ledger.close()
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not panic");
        }
    }
}

/// Writes one key. Returns whether it was acknowledged.
async fn put(at: usize, client: &Client, ledger: &Ledger, write: Write) -> bool {
    let answer = client.put(write.key.clone(), write.value.clone()).await;
    let revision = answer.map(|answer| answer.header.map_or(0, |header| header.revision));
    ledger.end(at, write, revision)
}

async fn write_and_wait(
    at: usize,
    client: Client,
    ledger: Arc<Ledger>,
    stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let Some(write) = ledger.begin() else { return };
        if !put(at, &client, &ledger, write).await {
            sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}

async fn write_at_rate(
    at: usize,
    client: Client,
    ledger: Arc<Ledger>,
    mut stopped: watch::Receiver<bool>,
    rate: u32,
    is_up: impl Fn() -> bool,
) {
    // Missed ticks are made up for at once, so the rate holds although timers are coarse.
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut writes = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            _ = ticks.tick() => {}
            Some(_) = writes.join_next() => continue,
        }
        if !is_up() || writes.len() >= PACED_IN_FLIGHT_MAX {
            continue;
        }
        let Some(write) = ledger.begin() else { break };
        let (client, ledger) = (client.clone(), ledger.clone());
        writes.spawn(async move { put(at, &client, &ledger, write).await });
    }
    while writes.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_under_way_until_it_has_one_fate() {
        let ledger = Ledger::new("run/", 3);
        let begin = || ledger.begin().unwrap();
        let (first, second, third) = (begin(), begin(), begin());
        assert!(ledger.begin().is_none(), "three were asked for");
        let (key, again) = (second.key.clone(), ledger.write(second.number));
        assert_eq!((&*first.key, &*third.key), ("run/00000000", "run/00000002"));
        assert_ne!(first.value, third.value);
        assert!(ledger.end(1, second, Ok(12)));
        assert!(!ledger.end(1, again, Ok(13)), "it has its fate");
        assert!(ledger.end(0, third, Ok(11)));
        assert_eq!((ledger.acknowledged(), ledger.highest_revision()), (2, 12));
        assert_eq!([0, 1, 2].map(|at| ledger.acknowledged_to(at)), [1, 1, 0]);
        let history = ledger.close();
        assert_eq!(history.acknowledged[0].key, key);
        assert_eq!(history.acknowledged[0].revision, 12);
        assert_eq!(history.acknowledged.len(), 2);
        assert_eq!(history.unknown[0].key, first.key, "nobody answered it");
        assert_eq!(history.failures(), 1);
    }

    #[test]
    fn writes_flow_since_a_moment_once_one_that_began_after_it_is_acknowledged() {
        let ledger = Ledger::new("run/", u64::MAX);
        let before = ledger.begin().unwrap();
        let moment = Instant::now();
        let mut after = ledger.begin().unwrap();
        after.begun = moment + Duration::from_millis(1);
        ledger.end(0, before, Ok(2));
        assert!(!ledger.flows_since(moment));
        ledger.end(0, after, Ok(3));
        assert!(ledger.flows_since(moment));
    }
}
