//! The clients of a run: each asks one thing after the other and tells what it saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_client::{Client, Error};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    cluster::Node,
    history::{ClientEvent, Kind, NodeId, Op, What, jsonl::Recorder},
    workload::{Generator, Settings, store::Store},
};

/// Pause after a request that reached nobody, so that a dead node is not asked in a busy loop.
const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(200);

/// Numbers of processes. One that does not know its outcome is done, and its worker goes on as
/// another.
pub struct Processes(AtomicU64);

impl Processes {
    /// Numbers after those of the first workers.
    pub fn after(workers: u64) -> Self {
        Self(AtomicU64::new(workers))
    }

    /// A number that nobody has.
    pub fn fresh(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// One client with its place in the history.
pub struct Worker {
    /// Its present process.
    pub process: u64,
    /// Node that it talks to; 0 for any.
    pub node: NodeId,
    /// Carries operations out.
    pub store: Store,
    /// Where events go.
    pub recorder: Arc<Recorder>,
    /// Where its next process number comes from.
    pub processes: Arc<Processes>,
}

impl Worker {
    /// Asks one thing and records both events. Returns the completion.
    pub async fn ask(&mut self, op: &Op, last: bool) -> ClientEvent {
        self.asked(op, last).await.0
    }

    async fn asked(&mut self, op: &Op, last: bool) -> (ClientEvent, bool) {
        let event = |kind| ClientEvent {
            process: self.process,
            node: self.node,
            kind,
            op: op.clone(),
            reply: None,
            error: None,
            last,
        };
        self.recorder.record(What::Client(event(Kind::Invoke)));
        let done = self.store.execute(op).await;
        let completion = ClientEvent {
            reply: done.reply,
            error: done.error,
            ..event(done.kind)
        };
        self.recorder.record(What::Client(completion.clone()));
        if done.kind == Kind::Info {
            self.process = self.processes.fresh();
        }
        (completion, done.unavailable)
    }

    /// Works until `stop` says so. `every` is the time between the beginnings of two operations;
    /// zero for as fast as answers come.
    pub async fn work(
        mut self,
        mut generator: Generator,
        every: Duration,
        mut stop: watch::Receiver<bool>,
    ) {
        // Workers do not all begin at once.
        let mut next = Instant::now() + every.mul_f64((self.process % 16) as f64 / 16.0);
        while !*stop.borrow() {
            if !every.is_zero() {
                tokio::select! {
                    () = sleep_until(next) => {}
                    _ = stop.wait_for(|stopped| *stopped) => return,
                }
                // After a stall the rate goes on; what was missed is not made up for.
                next = (next + every).max(Instant::now());
            }
            let op = generator.draw();
            let (completion, unavailable) = self.asked(&op, false).await;
            match (&completion.kind, &completion.reply) {
                (Kind::Ok | Kind::Fail, Some(reply)) => {
                    generator.observe(&op, completion.kind, reply)
                }
                _ if unavailable => sleep(UNAVAILABLE_PAUSE).await,
                _ => {}
            }
        }
    }
}

/// The client of a worker.
///
/// One that is bound to a node makes each request once, so that the history shows what a request
/// did; one that is not goes to any node and repeats what is safe to repeat. `stock` clients send
/// no retry ids, as those of etcd.
pub fn client(
    nodes: &[Node],
    node: Option<&Node>,
    settings: &Settings,
    stock: bool,
) -> Result<Client, Error> {
    let builder = Client::builder()
        .discover(false)
        .retry_ids(!stock)
        .timeout(settings.timeout);
    match node {
        Some(node) => builder.endpoints([&node.endpoint]).max_attempts(1),
        None => builder.endpoints(nodes.iter().map(|node| &node.endpoint)),
    }
    .connect_lazy()
}
