//! How fast the log appends, beside a plain append and `fdatasync` of the same bytes.
//!
//! `cargo bench -p holdfast-server --features internals --bench log`
//!
//! - `batches`: one caller, who waits for each batch; criterion's throughput counts entries.
//! - `groups`: one entry of each of many groups at once, which share a write and a sync.
//!
//! Criterion keeps what it measured below the target directory and says what has changed since. A disk is
//! noisy: compare the log with the plain file of the same run.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use holdfast_server::internals::{DiskFiles, Entry, GroupLog, Log, LogOptions, LogPos};
use tokio::runtime::Runtime;

const PAYLOAD_BYTES: usize = 256;
/// What an entry takes beside its payload.
const OVERHEAD_BYTES: usize = 34;
const BATCHES: [usize; 3] = [1, 16, 128];
const GROUPS: [usize; 2] = [16, 128];
/// Entries of a group that stay in the log.
const KEPT_ENTRIES: u64 = 50_000;

fn open(path: &Path) -> Log {
    let files = Arc::new(DiskFiles);
    Log::open(path, LogOptions::default(), files)
        .expect("log")
        .0
}

/// A group that is appended to, and purged now and then.
struct Appended {
    log: GroupLog,
    next: u64,
    purged: u64,
}

impl Appended {
    fn new(log: &Log, id: u64) -> Self {
        Self {
            log: log.group(id).expect("a new group"),
            next: 0,
            purged: 0,
        }
    }

    /// Appends so many entries and does not wait for the disk.
    fn append(&mut self, runtime: &Runtime, payload: &Bytes, entries: usize) -> Durable {
        let new = self.next..self.next + entries as u64;
        self.next = new.end;
        let new = new.map(|index| Entry {
            term: 1,
            index,
            kind: 0,
            payload: payload.clone(),
        });
        let (tell, told) = mpsc::channel();
        let done = Box::new(move |result| tell.send(result).expect("the caller waits"));
        let appended = runtime.block_on(self.log.append(new.collect(), done));
        appended.expect("append");
        if self.next - self.purged > 2 * KEPT_ENTRIES {
            self.purged = self.next - KEPT_ENTRIES;
            let (term, index) = (1, self.purged);
            let purge = self.log.purge(LogPos { term, index }, Box::new(drop));
            runtime.block_on(purge).expect("purge");
        }
        Durable(told)
    }

    fn check(&self) {
        let last = self.log.state().last.map(|last| last.index + 1);
        assert_eq!(last, Some(self.next), "everything was appended");
    }
}

/// An append that is under way.
struct Durable(mpsc::Receiver<std::io::Result<()>>);

impl Durable {
    fn wait(self) {
        self.0.recv().expect("an answer").expect("durable");
    }
}

fn batches(criterion: &mut Criterion, runtime: &Runtime, dir: &Path) {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let mut benches = criterion.benchmark_group("batches");
    for batch in BATCHES {
        benches.throughput(Throughput::Elements(batch as u64));
        let mut plain = File::create(dir.join(format!("plain-{batch}"))).expect("file");
        let bytes = vec![7; batch * (PAYLOAD_BYTES + OVERHEAD_BYTES)];
        benches.bench_function(BenchmarkId::new("plain", batch), |bencher| {
            bencher.iter(|| {
                plain.write_all(&bytes).expect("write");
                plain.sync_data().expect("sync");
            });
        });
        let log = open(&dir.join(format!("log-{batch}")));
        let mut group = Appended::new(&log, 1);
        benches.bench_function(BenchmarkId::new("log", batch), |bencher| {
            bencher.iter(|| group.append(runtime, &payload, batch).wait());
        });
        group.check();
    }
    benches.finish();
}

fn groups(criterion: &mut Criterion, runtime: &Runtime, dir: &Path) {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let mut benches = criterion.benchmark_group("groups");
    for count in GROUPS {
        benches.throughput(Throughput::Elements(count as u64));
        let log = open(&dir.join(format!("groups-{count}")));
        let mut appended: Vec<Appended> = (1..=count as u64)
            .map(|id| Appended::new(&log, id))
            .collect();
        benches.bench_function(BenchmarkId::new("log", count), |bencher| {
            bencher.iter(|| {
                let all = appended.iter_mut();
                let under_way: Vec<Durable> = all
                    .map(|group| group.append(runtime, &payload, 1))
                    .collect();
                under_way.into_iter().for_each(Durable::wait);
            });
        });
        appended.iter().for_each(Appended::check);
    }
    benches.finish();
}

fn main() {
    // Eight measurements of five seconds and what surrounds them: a minute or so.
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    batches(&mut criterion, &runtime, dir.path());
    groups(&mut criterion, &runtime, dir.path());
    criterion.final_summary();
}
