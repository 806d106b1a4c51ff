//! Loads the state store with version-like records through `write` and `mark_applied`, the flusher
//! running, and prints the rate, read latencies from the table and from the engine, and the time to
//! open again: `cargo run --release --example state_load -- [records] [directory]`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_mvcc::{Reader as _, Write};
use holdfast_server::storage::state::{StateOptions, StateStore};

const VALUE_BYTES: usize = 256;
/// Records between two marks: what one batch of applied entries writes.
const RECORDS_PER_MARK: u64 = 64;
const READS: usize = 20_000;

/// 60 bytes: family, a user key in no order, and the revision.
fn key(n: u64) -> Bytes {
    let scattered = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut key = format!("\x20user/{scattered:016x}/profile/settings/v1").into_bytes();
    key.resize(44, b'.');
    key.extend_from_slice(&(!n).to_be_bytes());
    key.extend_from_slice(&u64::MAX.to_be_bytes());
    key.into()
}

fn percentiles(mut samples: Vec<Duration>) -> String {
    samples.sort();
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100))
}

fn reads(store: &StateStore, from: u64, to: u64) -> anyhow::Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(READS);
    let mut random = from;
    for _ in 0..READS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        let n = from + (random >> 20) % (to - from);
        let key = key(n);
        let started = Instant::now();
        let found = store.view().get(&key)?;
        samples.push(started.elapsed());
        anyhow::ensure!(found.is_some(), "record {n} is missing");
    }
    Ok(samples)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let records: u64 = args.next().map_or(Ok(1_000_000), |n| n.parse())?;
    let dir: PathBuf = args.next().map_or_else(
        || std::env::temp_dir().join(format!("state-load-{}", std::process::id())),
        PathBuf::from,
    );
    let value = Bytes::from(vec![0x5a; VALUE_BYTES]);

    let store = StateStore::open(&dir, StateOptions::default())?.store;
    let started = Instant::now();
    let (mut waited, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut during = Vec::new();
    let mut n = 0;
    while n < records {
        let step = Instant::now();
        let to = (n + RECORDS_PER_MARK).min(records);
        let writes = (n..to).map(|n| Write {
            key: key(n),
            value: Some(value.clone()),
        });
        store.write(writes.collect())?;
        n = to;
        store.mark_applied(n, Bytes::from_static(b"mark"))?;
        longest = longest.max(step.elapsed());
        let wait = Instant::now();
        store.wait_for_room().await?;
        waited += wait.elapsed();
        // A read of something that is in the engine by now, beside the flusher.
        let durable = *store.durable_applied().borrow();
        if durable > 0 {
            let key = key(n.wrapping_mul(31) % durable);
            let read = Instant::now();
            store.view().get(&key)?;
            during.push(read.elapsed());
        }
    }
    let loaded = started.elapsed();
    let rate = records as f64 / loaded.as_secs_f64();
    println!("{records} records in {loaded:.2?}: {rate:.0}/s, of which waiting {waited:.2?}");
    println!("longest write and mark of {RECORDS_PER_MARK}: {longest:?}");
    if !during.is_empty() {
        println!("get beside the flusher: {}", percentiles(during));
    }
    let flushing = Instant::now();
    store.flush().await?;
    println!("last flush {:.2?}", flushing.elapsed());
    println!(
        "disk {} MiB for {} MiB",
        store.disk_bytes()? >> 20,
        (records * (60 + 256)) >> 20
    );
    println!(
        "get from the engine: {}",
        percentiles(reads(&store, 0, records)?)
    );
    let fresh = records + 20_000;
    for n in records..fresh {
        store.write(vec![Write {
            key: key(n),
            value: Some(value.clone()),
        }])?;
    }
    println!(
        "get from the table: {}",
        percentiles(reads(&store, records, fresh)?)
    );
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "memory {}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or("?")
    );
    drop(store);
    let opening = Instant::now();
    let store = StateStore::open(&dir, StateOptions::default())?.store;
    println!(
        "open {:.2?} at index {}",
        opening.elapsed(),
        store.applied_index()
    );
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
