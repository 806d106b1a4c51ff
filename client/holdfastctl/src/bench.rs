//! bench: load on the cluster, and what came of it.
//!
//! Closed loop: each of N workers sends its next request when the last is answered. Requests are
//! spread over the endpoints given, through plain gRPC connections with no retries, so that the figures
//! are the server's; anything that speaks the etcd v3 API can be measured, and compared, alike.
//!
//! ```text
//!  worker 0..N ─▶ wire (each in turn) ─▶ endpoint                  warm-up │ measured │ end
//!       └─ histogram of its own ─── merged at the end ─▶ ops/s, p50, p99, p99.9, errors
//!                         CPU time of --pids, read at the start and end of the measured part
//! ```

mod cpu;
mod report;
mod wire;

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use holdfast_client::{
    Bytes, Compare, Get, Put, Txn,
    proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest},
};
use http::{HeaderValue, uri::InvalidUri};
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Code as GrpcCode, Status};

use crate::{
    args::{BenchArgs, Consistency, Global, Workload},
    exit::{Code, Failure},
    output::Screen,
};
use report::Run;
use wire::Wire;

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Writers that put the keys in place before gets are measured.
const PRELOAD_CONCURRENCY: usize = 64;
/// Time between two looks at whether all workers are done.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Pause of a worker after a failed request, so that errors do not make a busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(2);

/// How long a worker of `fill` offers a key before the run ends without it.
const OFFERED_MAX: Duration = Duration::from_secs(60);

/// What the workers of all runs share.
struct Target {
    wires: Vec<Wire>,
    keys: u64,
    value: Bytes,
    serializable: bool,
    read_percent: u8,
    prev_kv: bool,
}

/// How far a run is; its workers share it.
struct Progress {
    begun: Instant,
    is_measured: AtomicBool,
    stop: AtomicBool,
    /// The next key that `fill` puts.
    next_key: AtomicU64,
    /// When the last answer came that counts, in microseconds after the beginning.
    last_us: AtomicU64,
    /// Longest time between two such answers.
    stall_us: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Progress {
            begun: Instant::now(),
            is_measured: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            next_key: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            stall_us: AtomicU64::new(0),
        }
    }

    fn now_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn measure(&self) {
        self.last_us.store(self.now_us(), Ordering::Relaxed);
        self.is_measured.store(true, Ordering::Relaxed);
    }

    /// An answer came, or the run ends.
    fn answered(&self) {
        let now = self.now_us();
        let last = self.last_us.swap(now, Ordering::Relaxed);
        let gap = now.saturating_sub(last);
        if gap > self.stall_us.load(Ordering::Relaxed) {
            self.stall_us.fetch_max(gap, Ordering::Relaxed);
        }
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn counts(&self) -> bool {
        self.is_measured.load(Ordering::Relaxed) && !self.stops()
    }
}

/// What one worker saw in the measured part.
struct Tally {
    latencies_us: Histogram<u64>,
    errors: u64,
    first_error: Option<Status>,
}

/// Threads for the load. Two that share a connection wait for each other more often than they help.
pub fn threads(args: &BenchArgs) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    args.threads
        .map_or_else(|| (processors() / 4).max(1), usize::from)
}

pub async fn run(global: &Global, args: &BenchArgs, screen: &mut Screen) -> Result<Code, Failure> {
    if args.concurrency.is_empty() || args.concurrency.contains(&0) {
        return Err(Failure::usage("--concurrency must be above zero"));
    }
    let target = Arc::new(Target::new(global, args)?);
    // One request tells whether there is a cluster at all.
    let first = timeout(global.timeout, target.send(0, Op::Get, 0)).await;
    if let Err(status) = first.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
        eprintln!("holdfastctl: {}: {}", global.endpoints[0], status.message());
        return Ok(match status.code() {
            GrpcCode::Unavailable | GrpcCode::DeadlineExceeded => Code::Unreachable,
            _ => Code::Failed,
        });
    }
    if matches!(args.workload, Workload::Get | Workload::Mixed) {
        preload(&target).await?;
    }
    let mut runs = Vec::new();
    let mut failed = false;
    for &concurrency in &args.concurrency {
        let run = measure(&target, args, concurrency).await?;
        if let Some(error) = &run.first_error {
            eprintln!("holdfastctl: first error: {error}");
        }
        failed |= run.operations == 0;
        if args.workload == Workload::Fill && run.operations < args.keys {
            let (done, keys) = (run.operations, args.keys);
            eprintln!("holdfastctl: {done} of {keys} keys were put; the run was given up");
            failed = true;
        }
        runs.push(run);
    }
    report::show(&runs, !args.pids.is_empty(), screen)?;
    Ok(if failed { Code::Failed } else { Code::Ok })
}

#[derive(Clone, Copy)]
enum Op {
    Put,
    Get,
    Txn,
}

impl Target {
    fn new(global: &Global, args: &BenchArgs) -> Result<Self, Failure> {
        let keyspace = match &global.keyspace {
            Some(name) => Some(name.parse::<HeaderValue>().map_err(|_| {
                Failure::usage(format!("keyspace name {name:?} must be visible ASCII"))
            })?),
            None => None,
        };
        let mut wires = Vec::new();
        for _ in 0..args.connections {
            for endpoint in &global.endpoints {
                let url = match endpoint.contains("://") {
                    true => endpoint.clone(),
                    false => format!("http://{endpoint}"),
                };
                let refused = |why| Failure::usage(format!("endpoint {endpoint:?}: {why}"));
                let uri = url
                    .parse()
                    .map_err(|e: InvalidUri| refused(e.to_string()))?;
                let wire = Wire::new(&uri, keyspace.clone(), global.timeout);
                wires.push(wire.map_err(|why| refused(why.to_string()))?);
            }
        }
        let mut value = vec![0; args.value_size];
        SmallRng::seed_from_u64(args.seed).fill_bytes(&mut value);
        Ok(Self {
            wires,
            keys: args.keys,
            value: value.into(),
            serializable: args.consistency == Consistency::S,
            read_percent: args.read_percent,
            prev_kv: args.prev_kv,
        })
    }

    fn key(&self, number: u64) -> Bytes {
        format!("bench/{number:010}").into()
    }

    async fn send(&self, wire: usize, op: Op, key: u64) -> Result<(), Status> {
        let wire = &self.wires[wire % self.wires.len()];
        let key = self.key(key);
        match op {
            Op::Put => {
                let put = PutRequest {
                    key,
                    value: self.value.clone(),
                    prev_kv: self.prev_kv,
                    ..Default::default()
                };
                wire.call("/etcdserverpb.KV/Put", &put).await
            }
            Op::Get => {
                let serializable = self.serializable;
                let get = RangeRequest {
                    key,
                    serializable,
                    ..Default::default()
                };
                wire.call("/etcdserverpb.KV/Range", &get).await
            }
            Op::Txn => wire.call("/etcdserverpb.KV/Txn", &self.txn(key)).await,
        }
    }

    /// Writes the key if it is there, else reads it after writing: a write either way.
    fn txn(&self, key: Bytes) -> TxnRequest {
        let put = || Put::new(key.clone(), self.value.clone());
        Txn::new()
            .when([Compare::version(key.clone()).greater(0)])
            .and_then([put()])
            .or_else::<holdfast_client::Op>([put().into(), Get::new("bench").into()])
            .into_request()
    }
}

/// Puts every key once.
async fn preload(target: &Arc<Target>) -> Result<(), Failure> {
    let workers = (0..PRELOAD_CONCURRENCY as u64).map(|worker| {
        let target = target.clone();
        tokio::spawn(async move {
            for key in (worker..target.keys).step_by(PRELOAD_CONCURRENCY) {
                target.send(worker as usize, Op::Put, key).await?;
            }
            Ok::<(), Status>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        let result = worker.await.map_err(std::io::Error::other)?;
        result.map_err(|status| {
            let message = format!("the keys could not be put in place: {}", status.message());
            std::io::Error::other(message)
        })?;
    }
    Ok(())
}

async fn measure(
    target: &Arc<Target>,
    args: &BenchArgs,
    concurrency: usize,
) -> Result<Run, Failure> {
    let progress = Arc::new(Progress::new());
    let workload = args.workload;
    let fills = workload == Workload::Fill;
    let mut cpu_before = cpu::used(&args.pids)?;
    if fills {
        progress.measure();
    }
    let workers: Vec<_> = (0..concurrency)
        .map(|worker| {
            let (target, progress) = (target.clone(), progress.clone());
            let rng = SmallRng::seed_from_u64(args.seed ^ (worker as u64) << 32);
            tokio::spawn(async move {
                match fills {
                    true => fill(target, worker, progress).await,
                    false => work(target, workload, worker, rng, progress).await,
                }
            })
        })
        .collect();
    let mut begun = progress.begun;
    if fills {
        while !workers.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    } else {
        tokio::time::sleep(args.warmup).await;
        cpu_before = cpu::used(&args.pids)?;
        begun = Instant::now();
        progress.measure();
        tokio::time::sleep(args.duration).await;
        progress.stop.store(true, Ordering::Relaxed);
        progress.answered();
    }
    let took = begun.elapsed();
    let cpu_after = cpu::used(&args.pids)?;
    let mut total = Tally::new();
    for worker in workers {
        let tally = worker.await.map_err(std::io::Error::other)?;
        total
            .latencies_us
            .add(&tally.latencies_us)
            .map_err(std::io::Error::other)?;
        total.errors += tally.errors;
        total.first_error = total.first_error.or(tally.first_error);
    }
    Ok(Run {
        workload,
        concurrency,
        took,
        operations: total.latencies_us.len(),
        latencies_us: total.latencies_us,
        stall: Duration::from_micros(progress.stall_us.load(Ordering::Relaxed)),
        errors: total.errors,
        first_error: total.first_error.map(|status| status.to_string()),
        cpu: cpu_after.saturating_sub(cpu_before),
    })
}

impl Tally {
    fn new() -> Self {
        let latencies_us =
            Histogram::new_with_max(LATENCY_MAX_US, 3).expect("three digits up to the bound");
        Self {
            latencies_us,
            errors: 0,
            first_error: None,
        }
    }

    fn answered(&mut self, begun: Instant) {
        let took_us = begun.elapsed().as_micros() as u64;
        self.latencies_us.saturating_record(took_us.max(1));
    }

    fn failed(&mut self, status: Status) {
        self.errors += 1;
        self.first_error.get_or_insert(status);
    }
}

async fn work(
    target: Arc<Target>,
    workload: Workload,
    worker: usize,
    mut rng: SmallRng,
    progress: Arc<Progress>,
) -> Tally {
    let mut tally = Tally::new();
    // Every worker visits all endpoints in turn, so that one alone measures all of them too.
    for wire in worker.. {
        if progress.stops() {
            break;
        }
        let op = match workload {
            Workload::Put | Workload::Fill => Op::Put,
            Workload::Get => Op::Get,
            Workload::Txn => Op::Txn,
            Workload::Mixed if rng.random_range(0..100) < target.read_percent => Op::Get,
            Workload::Mixed => Op::Put,
        };
        let key = rng.random_range(0..target.keys);
        let begun = Instant::now();
        let result = target.send(wire, op, key).await;
        // Counted where it ends: what began in the warm-up and ended after it counts, what was
        // under way at the end does not.
        let counted = progress.counts();
        match result {
            Ok(()) if counted => {
                tally.answered(begun);
                progress.answered();
            }
            Ok(()) => {}
            Err(status) => {
                if counted {
                    tally.failed(status);
                }
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
    tally
}

/// Puts the keys that nobody has put yet, until there are none.
async fn fill(target: Arc<Target>, worker: usize, progress: Arc<Progress>) -> Tally {
    let mut tally = Tally::new();
    let mut wire = worker;
    while !progress.stops() {
        let key = progress.next_key.fetch_add(1, Ordering::Relaxed);
        if key >= target.keys {
            break;
        }
        let first = Instant::now();
        loop {
            let begun = Instant::now();
            let result = target.send(wire, Op::Put, key).await;
            wire += 1;
            match result {
                Ok(()) => {
                    tally.answered(begun);
                    progress.answered();
                    break;
                }
                Err(status) => {
                    tally.failed(status);
                    if first.elapsed() > OFFERED_MAX {
                        progress.stop.store(true, Ordering::Relaxed);
                    }
                    if progress.stops() {
                        return tally;
                    }
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
    tally
}
