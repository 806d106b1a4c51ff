//! Whether a busy machine and a busy disk cost an election or a request.
//!
//! Start a cluster with `holdfast dev`, then:
//!
//! ```sh
//! cargo run --release -p holdfast --example steadiness -- holdfast-data/cluster.json 300
//! ```
//!
//! 256 writers fill the keyspace `default`, spread over the nodes and each with one connection that is not
//! changed and one attempt per write, as a stock client has; meanwhile four threads do nothing but
//! compute, and one writes 200 MB beside `cluster.json` and syncs them, again and again. Told are the
//! elections of every group and the writes that failed. Both are to be none.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cluster_file::ClusterFile;
use holdfast_proto::{
    etcdserverpb::{PutRequest, kv_client::KvClient},
    v1::{GroupsRequest, admin_client::AdminClient},
};
use tonic::transport::{Channel, Endpoint};

#[path = "../src/dev/cluster_file.rs"]
#[allow(
    dead_code,
    reason = "it is shared with the program, which also writes the file"
)]
mod cluster_file;

const WRITERS: usize = 256;
const BUSY_LOOPS: usize = 4;
const FILE_BYTES: usize = 200_000_000;
const VALUE_BYTES: usize = 256;
/// Keys that the writers go round in.
const KEYS: u64 = 1_000_000;
/// Time that a stock client gives a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    /// Longest time of one write, in milliseconds.
    longest_ms: AtomicU64,
    files: AtomicU64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: steadiness CLUSTER_JSON [SECONDS]";
    let file = PathBuf::from(args.next().context(usage)?);
    let seconds: u64 = args.next().map_or(Ok(300), |n| n.parse())?;
    let cluster: ClusterFile = serde_json::from_slice(&std::fs::read(&file)?)?;
    let urls: Vec<String> = cluster.nodes.iter().map(|n| n.client_url.clone()).collect();
    let channels: Vec<Channel> = urls
        .iter()
        .map(|url| connect(url))
        .collect::<Result<_, _>>()?;
    let before = terms(&channels).await?;
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for _ in 0..BUSY_LOOPS {
        let stop = stop.clone();
        threads.push(std::thread::spawn(move || compute(&stop)));
    }
    {
        let dir = file.parent().unwrap_or(Path::new(".")).to_owned();
        let (stop, counts) = (stop.clone(), counts.clone());
        threads.push(std::thread::spawn(move || {
            write_files(&dir, &stop, &counts)
        }));
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        // A connection of its own.
        let channel = connect(&urls[writer % urls.len()])?;
        writers.spawn(write(channel, writer as u64, stop.clone(), counts.clone()));
    }
    let begun = Instant::now();
    let mut elections: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = before.clone();
    let mut told = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(POLL_INTERVAL).await;
        if let Ok(now) = terms(&channels).await {
            for (group, term) in now {
                let known = seen.entry(group.clone()).or_insert(term);
                if term > *known {
                    println!("{:?}: {group} is in term {term}", begun.elapsed());
                    *elections.entry(group).or_default() += term - *known;
                    *known = term;
                }
            }
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            println!(
                "{:?}: {} acknowledged, {} failed",
                begun.elapsed(),
                counts.acknowledged.load(Ordering::Relaxed),
                counts.failed.load(Ordering::Relaxed)
            );
        }
    }
    stop.store(true, Ordering::Relaxed);
    while writers.join_next().await.is_some() {}
    for thread in threads {
        let _ = thread.join();
    }
    println!(
        "{seconds} s, {WRITERS} writers, {BUSY_LOOPS} busy loops, {} files of {FILE_BYTES} bytes synced: {} \
         acknowledged, {} failed, longest {} ms; terms passed: {elections:?} of {} groups",
        counts.files.load(Ordering::Relaxed),
        counts.acknowledged.load(Ordering::Relaxed),
        counts.failed.load(Ordering::Relaxed),
        counts.longest_ms.load(Ordering::Relaxed),
        before.len(),
    );
    if !elections.is_empty() || counts.failed.load(Ordering::Relaxed) > 0 {
        bail!("elections or failures without cause");
    }
    Ok(())
}

fn connect(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(2))
        .connect_lazy())
}

/// The latest term of each group.
async fn terms(channels: &[Channel]) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut terms = BTreeMap::new();
    for channel in channels {
        let mut admin = AdminClient::new(channel.clone());
        let told = tokio::time::timeout(REQUEST_TIMEOUT, admin.groups(GroupsRequest {})).await??;
        for group in told.into_inner().groups {
            let term: &mut u64 = terms.entry(group.keyspace).or_default();
            *term = group.term.max(*term);
        }
    }
    Ok(terms)
}

async fn write(channel: Channel, writer: u64, stop: Arc<AtomicBool>, counts: Arc<Counts>) {
    let mut kv = KvClient::new(channel);
    let mut n = writer;
    while !stop.load(Ordering::Relaxed) {
        let mut request = tonic::Request::new(PutRequest {
            key: format!("steadiness/{:09}", n % KEYS).into(),
            value: vec![b'v'; VALUE_BYTES].into(),
            ..Default::default()
        });
        request.set_timeout(REQUEST_TIMEOUT);
        let begun = Instant::now();
        match kv.put(request).await {
            Ok(_) => counts.acknowledged.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                println!(
                    "a write of {writer} failed after {:?}: {status}",
                    begun.elapsed()
                );
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        counts.longest_ms.fetch_max(took, Ordering::Relaxed);
        n += WRITERS as u64;
    }
}

fn compute(stop: &AtomicBool) {
    let mut number = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..10_000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

fn write_files(dir: &Path, stop: &AtomicBool, counts: &Counts) {
    let path = dir.join("steadiness.file");
    let block = vec![7_u8; 1_000_000];
    while !stop.load(Ordering::Relaxed) {
        let written = File::create(&path).and_then(|mut file| {
            for _ in 0..FILE_BYTES / block.len() {
                file.write_all(&block)?;
            }
            file.sync_all()
        });
        match written {
            Ok(()) => counts.files.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                println!("{}: {error}", path.display());
                break;
            }
        };
    }
    // It is gone already, or goes with the directory.
    let _ = std::fs::remove_file(&path);
}
