//! Nodes are killed, hang, and are asked to go, under load. Nothing acknowledged is lost, nothing
//! takes effect twice.

use std::time::{Duration, Instant};

use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::harness::{Cluster, run};

const WRITERS: usize = 64;
/// Writes before and after a blow, so that there is something to lose.
const SOME: u64 = 500;

#[test]
fn the_leader_is_killed_under_load() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(WRITERS).await;
        load.until_more(SOME).await;
        let leader = cluster.leader().await;
        let killed = Instant::now();
        cluster.node_mut(leader).kill9();
        load.until_more(SOME).await;
        cluster.node_mut(leader).start();
        cluster.until_leaders().await;
        load.until_more(SOME).await;
        let history = load.stop().await;
        let recovery = history.recovery(killed);
        let (first, longest) = recovery.expect("a write was acknowledged since");
        println!(
            "leader killed: first acknowledgement after {first:?}, longest time without {longest:?}, \
             {} writes acknowledged",
            history.acknowledged.len()
        );
        history.assert_no_failures();
        cluster.verify(&history).await;
    });
}

#[test]
fn all_nodes_are_killed_at_once_under_load() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(WRITERS / 2).await;
        let giving_up = cluster.load_that_gives_up(WRITERS / 2).await;
        load.until_more(SOME).await;
        for node in &mut cluster.nodes {
            node.kill9();
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.until_leaders().await;
        load.until_more(SOME).await;
        giving_up.until_more(SOME).await;
        let mut history = load.stop().await;
        history.assert_no_failures();
        history.extend(giving_up.stop().await);
        println!(
            "all killed: {} writes acknowledged, {} of unknown effect, {} refused",
            history.acknowledged.len(),
            history.unknown.len(),
            history.refused.len()
        );
        assert!(
            !history.unknown.is_empty(),
            "the blow fell on writes under way"
        );
        cluster.verify(&history).await;
    });
}

#[test]
fn the_leader_hangs_and_comes_back_under_load() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(WRITERS).await;
        load.until_more(SOME).await;
        let leader = cluster.leader().await;
        let hung = Instant::now();
        cluster.node(leader).pause();
        let others = cluster.others(leader);
        let next = cluster.leader_among(&others).await;
        assert_ne!(next, leader, "a hanging node does not lead");
        load.until_more(SOME).await;
        println!("leader hangs: {SOME} writes after {:?}", hung.elapsed());
        sleep(Duration::from_secs(5).saturating_sub(hung.elapsed())).await;
        cluster.node(leader).resume();
        cluster.until_leaders().await;
        load.until_more(SOME).await;
        let history = load.stop().await;
        history.assert_no_failures();
        cluster.verify(&history).await;
    });
}

#[test]
fn the_leader_is_asked_to_go_under_load() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(WRITERS).await;
        load.until_more(SOME).await;
        let leader = cluster.leader().await;
        let asked = Instant::now();
        let status = cluster.node_mut(leader).term().await;
        println!("leader asked to go: it ended after {:?}", asked.elapsed());
        assert!(
            status.success(),
            "a node that is asked to go ends well: {status}"
        );
        load.until_more(SOME).await;
        cluster.node_mut(leader).start();
        cluster.until_leaders().await;
        load.until_more(SOME).await;
        let history = load.stop().await;
        let recovery = history.recovery(asked);
        let (first, longest) = recovery.expect("a write was acknowledged since");
        println!(
            "leader asked to go: first acknowledgement after {first:?}, longest time without {longest:?}"
        );
        history.assert_no_failures();
        cluster.verify(&history).await;
    });
}

/// A leader must not spend its time on knocking where nobody answers.
#[test]
fn a_node_that_is_away_is_asked_for_at_a_measured_pace() {
    const WATCHED: Duration = Duration::from_secs(3);
    /// Both groups replicate and send heartbeats; the shortest pause of either is 50 ms.
    const KNOCKS_A_SECOND_MAX: u32 = 4 * 20;
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let leader = cluster.leader().await;
        let away = cluster.others(leader)[0];
        cluster.node_mut(away).kill9();
        let load = cluster.load(WRITERS).await;
        load.until_more(SOME).await;
        // Somebody answers the door, and shuts it.
        let door = TcpListener::bind(cluster.node(away).config.node.peer_addr)
            .await
            .unwrap();
        let mut knocks = 0;
        let begun = Instant::now();
        while begun.elapsed() < WATCHED {
            let left = WATCHED.saturating_sub(begun.elapsed());
            if let Ok(visitor) = timeout(left, door.accept()).await {
                drop(visitor.unwrap());
                knocks += 1;
            }
        }
        drop(door);
        let history = load.stop().await;
        history.assert_no_failures();
        println!("node {away} was asked for {knocks} times in {WATCHED:?}");
        assert!(knocks > 0, "it would not be found when it came back");
        assert!(
            knocks <= KNOCKS_A_SECOND_MAX * WATCHED.as_secs() as u32,
            "{knocks} knocks"
        );
        cluster.node_mut(away).start();
        cluster.until_leaders().await;
        cluster.verify(&history).await;
    });
}
