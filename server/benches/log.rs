//! How fast the log appends, beside a plain append and `fdatasync` of the same bytes.
//!
//! `cargo bench -p holdfast-server --features internals --bench log`
//!
//! Both take turns in short rounds on the same disk, and medians of the rounds are compared, so that
//! noise of the machine hits both alike. One caller waits for each batch; group commit is not measured.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_server::internals::{DiskFiles, Entry, GroupLog, Log, LogOptions, LogPos};

const PAYLOAD_BYTES: usize = 256;
const ROUND: Duration = Duration::from_millis(250);
const ROUNDS: usize = 15;

/// Calls `batch` for one round; returns batches per second.
fn round(mut batch: impl FnMut()) -> f64 {
    let started = Instant::now();
    let mut batches = 0;
    while started.elapsed() < ROUND {
        batch();
        batches += 1;
    }
    f64::from(batches) / started.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn append(log: &GroupLog, runtime: &tokio::runtime::Runtime, entries: Vec<Entry>) {
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result| tell.send(result).expect("the caller waits"));
    runtime.block_on(log.append(entries, done)).expect("append");
    told.recv().expect("an answer").expect("durable");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    for batch in [1, 16, 128] {
        let path = dir.path().join(format!("log-{batch}"));
        let (log, _) = Log::open(&path, LogOptions::default(), Arc::new(DiskFiles)).expect("log");
        let group = log.group(1).expect("a new group");
        let mut plain = File::create(dir.path().join(format!("plain-{batch}"))).expect("file");
        let bytes = vec![7; batch * (PAYLOAD_BYTES + 34)];
        let (mut next, mut purged) = (0, 0);
        let (mut plain_rates, mut log_rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain_rates.push(round(|| {
                plain.write_all(&bytes).expect("write");
                plain.sync_data().expect("sync");
            }));
            log_rates.push(round(|| {
                let entries = (next..next + batch as u64).map(|index| Entry {
                    term: 1,
                    index,
                    kind: 0,
                    payload: payload.clone(),
                });
                append(&group, &runtime, entries.collect());
                next += batch as u64;
                if next - purged > 100_000 {
                    purged = next - 50_000;
                    let pos = LogPos {
                        term: 1,
                        index: purged,
                    };
                    runtime
                        .block_on(group.purge(pos, Box::new(drop)))
                        .expect("purge");
                }
            }));
        }
        let (plain, ours) = (median(plain_rates), median(log_rates));
        println!(
            "{batch:>3} entries a batch: plain {plain:>6.0} batches/s, log {ours:>6.0}, ratio of times {:.2}",
            plain / ours,
        );
        assert_eq!(group.state().last.map(|last| last.index + 1), Some(next));
    }
}
