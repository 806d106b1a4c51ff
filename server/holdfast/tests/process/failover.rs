//! Leaders that die, hang or are started again are replaced long before any timer of a group runs out, and
//! without need nobody is.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::harness::{Cluster, PATIENCE, default_group, run, until};

const WRITERS: usize = 16;
const SOME: u64 = 200;
/// Before this no timer elects: the lease of a leader is longer, and an election timeout comes on top.
const TIMERS: Duration = Duration::from_secs(5);

async fn term(cluster: &Cluster, id: u64) -> u64 {
    until("a term", PATIENCE, async || {
        let told = cluster.node(id).groups().await?;
        Ok(default_group(&told)?.term)
    })
    .await
}

#[test]
fn a_leader_that_is_killed_is_replaced_at_once() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(WRITERS).await;
        load.until_more(SOME).await;
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        let before = term(&cluster, others[0]).await;
        let killed = Instant::now();
        cluster.node_mut(leader).kill9();
        let next = cluster.leader_among(&others).await;
        let took = killed.elapsed();
        println!("node {leader} killed: node {next} leads after {took:?}");
        assert!(took < TIMERS, "{took:?}");
        assert_eq!(term(&cluster, next).await, before + 1, "one election");
        load.until_more(SOME).await;
        let history = load.stop().await;
        history.assert_no_failures();
        cluster.verify_on(&others, &history).await;
    });
}

#[test]
fn a_leader_that_hangs_is_replaced_soon_and_leads_no_more_when_it_comes_back() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(WRITERS).await;
        load.until_more(SOME).await;
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        let hung = Instant::now();
        cluster.node(leader).pause();
        let next = cluster.leader_among(&others).await;
        let took = hung.elapsed();
        println!("node {leader} hangs: node {next} leads after {took:?}");
        assert!(took < TIMERS, "{took:?}");
        load.until_more(SOME).await;
        let back = Instant::now();
        cluster.node(leader).resume();
        until("the old leader follows", TIMERS, async || {
            let told = cluster.node(leader).groups().await?;
            match default_group(&told)?.leader {
                again if again == next => Ok(()),
                other => Err(format!("it sees node {other}")),
            }
        })
        .await;
        println!("it follows after {:?}", back.elapsed());
        load.until_more(SOME).await;
        let history = load.stop().await;
        history.assert_no_failures();
        cluster.verify(&history).await;
    });
}

/// Each comes back with a vote for a leader that leads no longer.
#[test]
fn a_cluster_that_starts_again_elects_before_any_timer_does() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let history = cluster.load_of(WRITERS, SOME).await.finish().await;
        for node in &mut cluster.nodes {
            node.kill9();
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        let up = cluster.up();
        until("all nodes run their groups", PATIENCE, async || {
            for id in &up {
                default_group(&cluster.node(*id).groups().await?)?;
            }
            Ok(())
        })
        .await;
        let running = Instant::now();
        cluster.until_leaders().await;
        let took = running.elapsed();
        println!("all run, and {took:?} later all groups are led");
        assert!(took < TIMERS, "{took:?}");
        cluster.verify(&history).await;
    });
}

/// The leader and the others rest; nothing happens, and the first write after that is served.
#[test]
fn a_quiet_group_keeps_its_leader_and_serves_its_first_write() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let leader = cluster.leader().await;
        let before = term(&cluster, leader).await;
        sleep(2 * TIMERS).await;
        let begun = Instant::now();
        let history = cluster.load_of(1, 1).await.finish().await;
        println!("the first write took {:?} at most", begun.elapsed());
        history.assert_no_failures();
        assert_eq!(cluster.leader().await, leader);
        assert_eq!(term(&cluster, leader).await, before);
        cluster.verify(&history).await;
    });
}
