//! How long writes stop when the leader is killed, and whether anything acknowledged is lost.
//!
//! Start a cluster with `holdfast dev`, then:
//!
//! ```sh
//! cargo run --release -p holdfast --example failover_trials -- holdfast-data/cluster.json 10
//! ```
//!
//! In each trial 64 writers write unique keys through `holdfast-client`; the leader of `default` is
//! killed with SIGKILL; the time runs from the kill to the first acknowledgement of a write that was
//! *begun after it*, so that answers already under way do not count. `holdfast dev` starts the node
//! again. At the end every acknowledged write is looked for, with its revision, and its version must
//! be 1: applied once.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use holdfast_client::Client;

#[path = "../src/dev/cluster_file.rs"]
#[allow(dead_code, reason = "it only reads the file")]
mod cluster_file;

use cluster_file::ClusterFile;
use tokio::sync::mpsc;

const WRITERS: usize = 64;
/// Load before the kill.
const LEAD_IN: Duration = Duration::from_millis(1500);
/// A write that began this soon after the kill may have met a leader that was not dead yet.
const DYING: Duration = Duration::from_millis(2);

struct Acknowledged {
    key: String,
    revision: i64,
    begun: Instant,
    answered: Instant,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let file = args
        .next()
        .context("usage: failover_trials CLUSTER_JSON [TRIALS]")?;
    let trials: usize = args.next().map_or(Ok(10), |n| n.parse())?;
    let mut firsts = Vec::new();
    let (mut acknowledged, mut failed, mut lost, mut twice) = (0, 0, 0, 0);
    for trial in 1..=trials {
        let (first, longest, history, failures) = run(Path::new(&file), trial).await?;
        let (gone, again) = verify(Path::new(&file), trial, &history).await?;
        println!(
            "trial {trial:2}: first write after {:4} ms, longest gap {:4} ms, {} acknowledged, {failures} failed, {gone} lost, {again} twice",
            first.as_millis(),
            longest.as_millis(),
            history.len(),
        );
        firsts.push(first);
        acknowledged += history.len();
        failed += failures;
        lost += gone;
        twice += again;
    }
    firsts.sort_unstable();
    let (Some(median), Some(worst)) = (firsts.get(firsts.len() / 2), firsts.last()) else {
        bail!("no trials");
    };
    println!(
        "median {} ms, worst {} ms; {acknowledged} acknowledged, {failed} failed, {lost} lost, {twice} applied twice",
        median.as_millis(),
        worst.as_millis()
    );
    if lost + twice > 0 {
        bail!("acknowledged writes were lost or applied twice");
    }
    Ok(())
}

fn read_cluster(path: &Path) -> anyhow::Result<ClusterFile> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// One trial: load, kill, load until it flows again. Gives the time to the first write, the longest
/// gap between acknowledgements, what was acknowledged, and how many requests failed.
async fn run(
    file: &Path,
    trial: usize,
) -> anyhow::Result<(Duration, Duration, Vec<Acknowledged>, u64)> {
    let cluster = read_cluster(file)?;
    let urls: Vec<String> = cluster.nodes.iter().map(|n| n.client_url.clone()).collect();
    let client = Client::builder().endpoints(&urls).connect().await?;
    let leader = wait_for_all(&client, &urls).await?;
    let victim = cluster.nodes.iter().find(|n| n.id == leader);
    let pid = victim.context("the leader is not in the file")?.pid;
    let stop = Arc::new(AtomicBool::new(false));
    let failures = Arc::new(AtomicU64::new(0));
    let (tx, mut rx) = mpsc::unbounded_channel();
    for writer in 0..WRITERS {
        let (client, tx) = (client.clone(), tx.clone());
        let (stop, failures) = (stop.clone(), failures.clone());
        tokio::spawn(async move {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("failover/{trial}/{writer}/{n}");
                let begun = Instant::now();
                match client
                    .put(key.clone(), format!("{trial}-{writer}-{n}"))
                    .await
                {
                    Ok(answer) => {
                        let done = Acknowledged {
                            key,
                            revision: answer.header.map_or(0, |h| h.revision),
                            begun,
                            answered: Instant::now(),
                        };
                        if tx.send(done).is_err() {
                            return;
                        }
                    }
                    Err(e) => {
                        eprintln!("{key}: {e}");
                        failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
    }
    drop(tx);
    tokio::time::sleep(LEAD_IN).await;
    let killed = Instant::now();
    // SAFETY: kill takes two numbers and touches no memory of this process.
    if unsafe { libc::kill(i32::try_from(pid)?, libc::SIGKILL) } != 0 {
        bail!("kill {pid}: {}", std::io::Error::last_os_error());
    }
    let mut history = Vec::new();
    let mut first = None;
    while let Some(done) = rx.recv().await {
        if first.is_none() && done.begun > killed + DYING {
            first = Some(done.answered - killed);
        }
        if done.answered > killed + Duration::from_secs(2) {
            stop.store(true, Ordering::Relaxed);
        }
        history.push(done);
    }
    let mut times: Vec<Instant> = history.iter().map(|done| done.answered).collect();
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    Ok((
        first.context("no write after the kill")?,
        gaps.max().unwrap_or_default(),
        history,
        failures.load(Ordering::Relaxed),
    ))
}

/// Waits until every node answers and names the same leader.
async fn wait_for_all(client: &Client, urls: &[String]) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let mut leaders = Vec::new();
        for url in urls {
            if let Ok(status) = client.status(url).await {
                leaders.push(status.leader);
            }
        }
        leaders.dedup();
        if let [leader] = leaders[..]
            && leader != 0
        {
            return Ok(leader);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the cluster did not come together in 30 s")
}

/// Counts acknowledged writes that are not there as acknowledged, and those applied more than once.
async fn verify(
    file: &Path,
    trial: usize,
    history: &[Acknowledged],
) -> anyhow::Result<(usize, usize)> {
    let cluster = read_cluster(file)?;
    let urls = cluster.nodes.iter().map(|n| n.client_url.clone());
    let client = Client::builder().endpoints(urls).connect().await?;
    let prefix = format!("failover/{trial}/");
    let found = client
        .get(prefix)
        .prefix()
        .timeout(Duration::from_secs(30))
        .await?;
    let found: HashMap<_, _> = found
        .kvs
        .into_iter()
        .map(|kv| (kv.key.clone(), kv))
        .collect();
    let (mut lost, mut twice) = (0, 0);
    for done in history {
        match found.get(done.key.as_bytes()) {
            Some(kv) if kv.version != 1 => twice += 1,
            Some(kv) if kv.mod_revision == done.revision => {}
            _ => lost += 1,
        }
    }
    Ok((lost, twice))
}
