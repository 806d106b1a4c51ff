//! What hundreds of groups cost three nodes of one machine when nobody uses them: processor time, memory,
//! the start of a node, and the time until a killed node's groups are led again.
//!
//! ```text
//!   cargo bench -p holdfast --bench idle_groups -- [--groups 300] [--seconds 60]
//!       [--heartbeat-ms 500] [--election-ms 3000]      timers of groups; without: the node's defaults
//!       [--kills 1]                                    how often a node is killed
//!       [--busy 0]                                     threads that keep the machine busy during kills
//! ```
//!
//! It prints one line a figure. Memory is what the nodes have resident, against the same nodes before the
//! groups were created; a node that started with its groups is measured beside one that made them.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "the harness is made for tests, and this measures what they would assert"
)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Cluster, run};
use holdfast_proto::v1::{DebugCreateGroupsRequest, NewGroup};
use tokio::time::sleep;

/// Time for the nodes to come to rest after a change: tables go down, elections end.
const SETTLE: Duration = Duration::from_secs(12);

struct Options {
    groups: u64,
    seconds: u64,
    heartbeat_ms: Option<u64>,
    election_ms: Option<u64>,
    kills: u64,
    busy: u64,
}

fn options() -> Options {
    let mut options = Options {
        groups: 300,
        seconds: 60,
        heartbeat_ms: None,
        election_ms: None,
        kills: 1,
        busy: 0,
    };
    // Cargo adds `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(name) = args.next() {
        let value = args.next().and_then(|value| value.parse().ok());
        let value: u64 = value.unwrap_or_else(|| panic!("{name} needs a number"));
        match name.as_str() {
            "--groups" => options.groups = value,
            "--seconds" => options.seconds = value,
            "--heartbeat-ms" => options.heartbeat_ms = Some(value),
            "--election-ms" => options.election_ms = Some(value),
            "--kills" => options.kills = value,
            "--busy" => options.busy = value,
            other => panic!("{other} is no option"),
        }
    }
    options
}

fn main() {
    let options = options();
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, |config| {
            if let Some(ms) = options.heartbeat_ms {
                config.raft.heartbeat_interval_ms = ms;
            }
            if let Some(ms) = options.election_ms {
                config.raft.election_timeout_min_ms = ms;
                config.raft.election_timeout_max_ms = ms * 4 / 3;
            }
        })
        .await;
        for node in &cluster.nodes {
            std::fs::write(node.data_dir().join("debug-groups"), "").unwrap();
        }
        sleep(SETTLE).await;
        let before = memory(&cluster);
        let cpu = cpu_over(&cluster, Duration::from_secs(options.seconds.min(20))).await;
        println!(
            "2 groups: cpu of three nodes {:.1} % of a core",
            100.0 * cpu
        );
        println!("2 groups: resident MiB {}", mebibytes(&before));

        let began = Instant::now();
        create(&cluster, options.groups).await;
        println!("created on all nodes after {:.2?}", began.elapsed());
        cluster.groups += options.groups as usize;
        cluster.until_leaders().await;
        println!("all led after {:.2?}", began.elapsed());
        sleep(SETTLE).await;
        let after = memory(&cluster);
        let per_group = per_group(&before, &after, options.groups);
        println!(
            "{} groups: resident MiB {}",
            options.groups,
            mebibytes(&after)
        );
        println!(
            "{} groups: resident KiB a group and node {per_group:?}",
            options.groups
        );
        let cpu = cpu_over(&cluster, Duration::from_secs(options.seconds)).await;
        println!(
            "{} groups, idle for {} s: cpu of three nodes {:.1} % of a core",
            options.groups,
            options.seconds,
            100.0 * cpu
        );

        // A node that finds its groups on its disk.
        assert!(cluster.node_mut(3).term().await.success());
        let began = Instant::now();
        cluster.node_mut(3).start();
        until_serving(&cluster, 3).await;
        println!(
            "start of a node until it serves all groups {:.2?}",
            began.elapsed()
        );
        cluster.until_leaders().await;
        sleep(SETTLE).await;
        let restarted = memory(&cluster);
        println!("after it: resident MiB {}", mebibytes(&restarted));

        let busy = Busy::start(options.busy);
        for kill in 0..options.kills {
            kill_and_measure(&mut cluster, [1, 2, 3][kill as usize % 3]).await;
        }
        drop(busy);
    });
}

/// Kills a node, waits until its groups are led by others, and starts it again.
async fn kill_and_measure(cluster: &mut Cluster, id: u64) {
    let led = led_by(cluster, id).await;
    let began = Instant::now();
    cluster.node_mut(id).kill9();
    let times = until_led_elsewhere(cluster, id, &led, began).await;
    let worst = times.iter().max().copied().unwrap_or_default();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!(
        "kill -9 of a node that led {}: led again after {median:.2?} (median), {worst:.2?} (all)",
        led.len()
    );
    let began = Instant::now();
    cluster.node_mut(id).start();
    until_serving(cluster, id).await;
    println!(
        "start after the kill until it serves all groups {:.2?}",
        began.elapsed()
    );
    sleep(SETTLE).await;
}

/// Threads that do nothing but run, until this is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start(threads: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn create(cluster: &Cluster, groups: u64) {
    let nodes = cluster.nodes.iter().map(|node| async {
        let groups = (3..3 + groups).map(|id| NewGroup {
            id,
            keyspace: format!("idle-{id}"),
            voters: Vec::new(),
        });
        let request = DebugCreateGroupsRequest {
            groups: groups.collect(),
        };
        node.admin().debug_create_groups(request).await.unwrap();
    });
    for node in nodes {
        node.await;
    }
}

/// Share of one core that all nodes took together.
async fn cpu_over(cluster: &Cluster, time: Duration) -> f64 {
    let taken = || -> Duration { cluster.nodes.iter().map(harness::Node::cpu).sum() };
    let (before, began) = (taken(), Instant::now());
    sleep(time).await;
    (taken() - before).as_secs_f64() / began.elapsed().as_secs_f64()
}

fn memory(cluster: &Cluster) -> Vec<u64> {
    let nodes = cluster.nodes.iter();
    nodes.map(|node| node.memory_kib("VmRSS")).collect()
}

fn mebibytes(kib: &[u64]) -> String {
    let nodes: Vec<_> = kib.iter().map(|kib| (kib / 1024).to_string()).collect();
    nodes.join(", ")
}

fn per_group(before: &[u64], after: &[u64], groups: u64) -> Vec<u64> {
    let nodes = before.iter().zip(after);
    nodes
        .map(|(before, after)| after.saturating_sub(*before) / groups)
        .collect()
}

/// Waits until a node runs all its groups and knows a leader of each.
async fn until_serving(cluster: &Cluster, id: u64) {
    harness::until(
        "all groups are served",
        Duration::from_secs(120),
        async || {
            let told = cluster.node(id).groups().await?;
            let led = told.groups.iter().filter(|group| group.leader != 0).count();
            match led == cluster.groups {
                true => Ok(()),
                false => Err(format!("{led} of {}", cluster.groups)),
            }
        },
    )
    .await;
}

/// The groups that a node leads.
async fn led_by(cluster: &Cluster, id: u64) -> Vec<u64> {
    let told = cluster.node(id).groups().await.unwrap();
    let led = told.groups.iter().filter(|group| group.leader == id);
    led.map(|group| group.id).collect()
}

/// How long each of these groups was without a leader that both other nodes know, ascending.
async fn until_led_elsewhere(
    cluster: &Cluster,
    gone: u64,
    groups: &[u64],
    began: Instant,
) -> Vec<Duration> {
    let others: Vec<u64> = (1..=3).filter(|id| *id != gone).collect();
    let mut led: BTreeMap<u64, Duration> = BTreeMap::new();
    while led.len() < groups.len() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{led:?} of {groups:?}"
        );
        let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for &id in &others {
            let told = cluster.node(id).groups().await.unwrap();
            for group in told.groups {
                seen.entry(group.id).or_default().push(group.leader);
            }
        }
        let now = began.elapsed();
        for group in groups {
            let leaders = &seen[group];
            let settled = others.contains(&leaders[0]) && leaders.iter().all(|l| *l == leaders[0]);
            if settled {
                led.entry(*group).or_insert(now);
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    let mut times: Vec<_> = led.into_values().collect();
    times.sort_unstable();
    times
}
