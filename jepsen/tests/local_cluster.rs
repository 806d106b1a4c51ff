//! Real clusters of processes behind proxies: what the harness breaks is broken, what it heals is
//! healed, and nothing is left behind.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod nodes;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_jepsen::{
    cluster::{
        ClockFault, Cluster, End, FaultError, Link, LinkFault, Node, SyncFault,
        existing::ExistingCluster,
        local::{LocalCluster, LocalOptions},
        target::Target,
    },
    history::NodeId,
    journal::Journal,
};
use nodes::{PATIENCE, client, expect_value, holdfast, plain, put, put_soon, until};

/// How long a request may take that is expected to fail.
const GIVE_UP_AFTER: Duration = Duration::from_secs(4);

/// Who leads, as soon as all these nodes say the same and it is one of them.
async fn leader(nodes: &[&Node]) -> NodeId {
    until("a leader", async || {
        let mut told = Vec::new();
        for node in nodes {
            let client = client(&node.direct, GIVE_UP_AFTER);
            let status = client.status(&node.direct).await;
            let status = status.map_err(|error| error.to_string())?;
            let header = status.header.ok_or("no header")?;
            told.push((node.id, header.member_id, status.leader));
        }
        let leads = told.iter().find(|(_, member, leader)| member == leader);
        match leads {
            Some((id, member, _)) if told.iter().all(|(_, _, leader)| leader == member) => Ok(*id),
            _ => Err(format!("node, member, leader: {told:?}")),
        }
    })
    .await
}

async fn leader_and_others(nodes: &[Node]) -> (&Node, Vec<&Node>) {
    let leads = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let (leaders, others): (Vec<&Node>, Vec<&Node>) =
        nodes.iter().partition(|node| node.id == leads);
    (leaders[0], others)
}

async fn expect_refusals(node: &Node) {
    let client = client(&node.endpoint, GIVE_UP_AFTER);
    let begun = Instant::now();
    let (put, get) = tokio::join!(
        client.put("refused", "refused"),
        client.get("before").first()
    );
    put.expect_err("it cannot commit");
    get.expect_err("it cannot know");
    println!("node {} refused after {:?}", node.id, begun.elapsed());
}

/// The faults between one node and all others, in both directions.
fn isolation(node: NodeId, nodes: &[Node]) -> Vec<(Link, LinkFault)> {
    let cut = LinkFault {
        cut: true,
        ..LinkFault::default()
    };
    let others = nodes.iter().filter(|other| other.id != node);
    let ends = others.map(|other| (End::Node(node), End::Node(other.id)));
    ends.flat_map(|(a, b)| [(a, b), (b, a)])
        .map(|(from, to)| (Link { from, to }, cut))
        .collect()
}

/// Writes although a leader may just be lost.
///
/// One request is enough for Holdfast, which carries it through an election; etcd may answer that it
/// timed out, "possibly due to previous leader failure".
async fn write(target: Target, node: &Node, key: &str) {
    match target {
        Target::Holdfast => put(node, key).await,
        Target::Etcd => put_soon(node, key).await,
    }
}

async fn smoke(options: LocalOptions) {
    let target = options.target;
    let begun = Instant::now();
    let cluster = LocalCluster::start(options).await.unwrap();
    println!("{:?}: serving, {:?}", begun.elapsed(), cluster.describe());
    let nodes = cluster.nodes().to_vec();
    assert_eq!(nodes.len(), 3);
    for node in &nodes {
        assert_ne!(node.endpoint, node.direct);
        write(target, node, &format!("by-{}", node.id)).await;
    }
    write(target, &nodes[0], "before").await;

    // Nothing but the links between the nodes: the clients still reach the old leader.
    let (old, rest) = leader_and_others(&nodes).await;
    cluster.set_links(&isolation(old.id, &nodes)).await.unwrap();
    let cut = Instant::now();
    let new = leader(&rest).await;
    println!(
        "node {new} leads {:?} after the cut of {}",
        cut.elapsed(),
        old.id
    );
    assert_ne!(new, old.id);
    for node in &rest {
        let key = format!("without-the-old-leader-{}", node.id);
        write(target, node, &key).await;
    }
    expect_refusals(old).await;
    cluster.heal_links().await.unwrap();
    let healed = Instant::now();
    expect_value(old, &format!("without-the-old-leader-{new}")).await;
    write(target, old, "healed").await;
    println!(
        "node {} serves {:?} after it is healed",
        old.id,
        healed.elapsed()
    );

    // The leader is killed, and started with its data.
    let (victim, others) = leader_and_others(&nodes).await;
    cluster.kill(victim.id).await.unwrap();
    cluster.kill(victim.id).await.unwrap();
    assert!(!cluster.is_running(victim.id).await);
    expect_refusals(victim).await;
    write(target, others[0], "without-the-killed").await;
    assert!(matches!(
        cluster.pause(victim.id).await,
        Err(FaultError::Skipped(_))
    ));
    cluster.start(victim.id).await.unwrap();
    cluster.start(victim.id).await.unwrap();
    for key in ["before", "healed", "without-the-killed"] {
        expect_value(victim, key).await;
    }

    // The next leader is paused while the others go on, then stopped although it is paused.
    let (paused, others) = leader_and_others(&nodes).await;
    cluster.pause(paused.id).await.unwrap();
    assert!(cluster.is_running(paused.id).await);
    write(target, others[1], "without-the-paused").await;
    expect_refusals(paused).await;
    cluster.resume(paused.id).await.unwrap();
    expect_value(paused, "without-the-paused").await;
    cluster.pause(paused.id).await.unwrap();
    cluster.stop(paused.id).await.unwrap();
    assert!(!cluster.is_running(paused.id).await);
    cluster.start(paused.id).await.unwrap();
    expect_value(paused, "without-the-paused").await;

    // Clients that are cut off from a node that is well.
    let cut = |from, to| {
        let fault = LinkFault {
            cut: true,
            ..LinkFault::default()
        };
        (Link { from, to }, fault)
    };
    let link = cut(End::Clients, End::Node(3));
    cluster.set_links(&[link]).await.unwrap();
    expect_refusals(&nodes[2]).await;
    let direct = client(&nodes[2].direct, PATIENCE);
    direct.get("before").first().await.unwrap();
    cluster.heal_links().await.unwrap();
    expect_value(&nodes[2], "before").await;

    for skipped in [
        cluster.set_syncs(1, SyncFault::default()).await,
        cluster.set_clock(1, ClockFault::default()).await,
        cluster.cut_power(&[1, 2]).await,
    ] {
        assert!(
            matches!(skipped, Err(FaultError::Skipped(_))),
            "{skipped:?}"
        );
    }
    assert!(cluster.is_running(1).await);
    assert!(cluster.kill(9).await.is_err());
    assert_eq!(cluster.ended_by_themselves(), []);
    println!(
        "{:?}: {} connections could not be attributed",
        begun.elapsed(),
        cluster.unattributed()
    );
    let logs: Vec<PathBuf> = nodes
        .iter()
        .filter_map(|n| cluster.log_file(n.id))
        .collect();
    cluster.shut_down().await;
    expect_nothing_left(&logs, &nodes);
    assert!(cluster.data_dir(1).unwrap().is_dir());
}

fn expect_nothing_left(logs: &[PathBuf], nodes: &[Node]) {
    let log = std::fs::read_to_string(logs[0].with_file_name("cluster.log")).unwrap();
    let started = log
        .lines()
        .filter_map(|line| line.rsplit_once(" is process "));
    let pids: Vec<&str> = started.map(|(_, pid)| pid).collect();
    assert!(pids.len() >= nodes.len(), "{log}");
    for pid in pids {
        assert!(
            !Path::new("/proc").join(pid).exists(),
            "process {pid} is left"
        );
    }
    for node in nodes {
        for addr in [&node.endpoint, &node.direct] {
            std::net::TcpListener::bind(addr.as_str())
                .unwrap_or_else(|error| panic!("{addr} is still held: {error}"));
        }
    }
    for log in logs {
        assert!(log.metadata().unwrap().len() > 0, "{log:?} is empty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holdfast_is_broken_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    smoke(plain(Target::Holdfast, holdfast(), dir.path())).await;
}

mod needs_etcd {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs etcd in PATH"]
    async fn etcd_is_broken_and_healed() {
        let bin = Target::Etcd.find(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        smoke(plain(Target::Etcd, bin, dir.path())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_in_three_zones_die_with_their_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = plain(Target::Holdfast, holdfast(), dir.path());
    (options.nodes, options.zones) = (5, Some(3));
    let cluster = LocalCluster::start(options).await.unwrap();
    let nodes = cluster.nodes().to_vec();
    let zones: Vec<&str> = nodes.iter().map(|node| node.zone.as_str()).collect();
    assert_eq!(zones, ["zone-a", "zone-b", "zone-c", "zone-a", "zone-b"]);
    put(&nodes[4], "by-5").await;
    cluster.pause(2).await.unwrap();
    let logs: Vec<PathBuf> = nodes
        .iter()
        .filter_map(|n| cluster.log_file(n.id))
        .collect();
    drop(cluster);
    // The proxies are closed by the runtime as soon as it comes to them.
    until("the proxies are closed", async || {
        for node in &nodes {
            let bound = std::net::TcpListener::bind(node.endpoint.as_str());
            bound.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
    .await;
    expect_nothing_left(&logs, &nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_commands_drives_nodes_that_run_already() {
    let dir = tempfile::tempdir().unwrap();
    let owner = LocalCluster::start(plain(Target::Holdfast, holdfast(), dir.path()));
    let owner = owner.await.unwrap();
    let pids = nodes::processes(dir.path());
    let text = nodes::existing(&owner, |node| {
        let pid = pids[usize::try_from(node.id).unwrap() - 1];
        format!(
            "pause = 'kill -STOP {pid}; while grep -qvh \") T \" /proc/{pid}/task/*/stat; do sleep \
             0.05; done'\nresume = 'kill -CONT {pid}'\n\
             stop = 'kill {pid}; while kill -0 {pid} && ! grep -q \") Z\" /proc/{pid}/stat; do \
             sleep 0.05; done'\nstart = 'false'"
        )
    });
    let file = dir.path().join("existing.toml");
    std::fs::write(&file, text).unwrap();
    let notes = tempfile::tempdir().unwrap();
    let journal = Journal::open(notes.path()).unwrap();
    let cluster = ExistingCluster::connect(&file, journal).await.unwrap();
    println!("{:?}", cluster.describe());
    assert_eq!(cluster.nodes(), owner.nodes());
    assert!(!cluster.describe().version.is_empty());
    let node = &cluster.nodes()[1];
    put(node, "before").await;
    cluster.pause(2).await.unwrap();
    assert!(cluster.is_running(2).await);
    expect_refusals(node).await;
    // Whoever gives the cluster back resumes the node.
    cluster.shut_down().await;
    expect_value(node, "before").await;
    cluster.stop(2).await.unwrap();
    assert!(!cluster.is_running(2).await);
    // It has ended for whoever looks; its parent may learn of it a moment later.
    let reaped = async {
        loop {
            match owner.ended_by_themselves().first() {
                Some(ended) => return *ended,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let reaped = tokio::time::timeout(Duration::from_secs(20), reaped).await;
    let (id, status) = reaped.expect("the parent learns that its child has ended");
    assert!(id == 2 && status.success(), "node {id}: {status}");
    let failure = cluster.start(2).await.unwrap_err().to_string();
    assert!(failure.contains("`start` of node 2"), "{failure}");
    owner.start(2).await.unwrap();
    expect_value(node, "before").await;
    let logs: Vec<PathBuf> = owner
        .nodes()
        .iter()
        .filter_map(|n| owner.log_file(n.id))
        .collect();
    owner.shut_down().await;
    expect_nothing_left(&logs, owner.nodes());
}
