//! A node that was away gets what it missed: from the log while the log holds it, else as a
//! snapshot.

use std::time::{Duration, Instant};

use holdfast_proto::etcdserverpb::PutRequest;

use crate::{
    harness::{Cluster, PATIENCE, default_group, run, until},
    retry_table::{Sender, put},
};

const REQUESTS: usize = 256;
/// Writes that a node misses and gets from the log.
const MISSED: u64 = 50_000;
/// Entries that the log keeps in the test of snapshots, and writes that a node misses there. Many share an entry, but
/// never more than a hundred or so.
const KEPT_ENTRIES: u64 = 10;
const MISSED_AND_PURGED: u64 = 6_000;

#[test]
fn a_node_catches_up_from_the_log() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let leader = cluster.leader().await;
        let away = cluster.others(leader)[0];
        let mut history = cluster.load_of(REQUESTS, 1_000).await.finish().await;
        cluster.node_mut(away).kill9();
        let begun = Instant::now();
        history.extend(cluster.load_of(REQUESTS, MISSED).await.finish().await);
        let elapsed = begun.elapsed();
        let rate = MISSED as f64 / elapsed.as_secs_f64();
        println!("{MISSED} writes on two nodes in {elapsed:?}: {rate:.0} a second");
        history.assert_no_failures();
        let begun = Instant::now();
        cluster.node_mut(away).start();
        cluster.until_leaders().await;
        cluster.until_caught_up(&[1, 2, 3]).await;
        println!("caught up from the log in {:?}", begun.elapsed());
        let told = cluster.node(away).groups().await.unwrap();
        let group = default_group(&told).unwrap();
        assert_eq!(
            group.snapshots_installed, 0,
            "the log had everything: {group:?}"
        );
        cluster.verify(&history).await;
    });
}

#[test]
fn a_node_catches_up_by_a_snapshot_and_has_the_retry_table() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, |config| {
            config.raft.log_entries_max = KEPT_ENTRIES;
        })
        .await;
        let leader = cluster.leader().await;
        let away = cluster.others(leader)[0];
        let mut history = cluster.load_of(REQUESTS, 500).await.finish().await;
        cluster.until_caught_up(&[1, 2, 3]).await;
        let told = cluster.node(away).groups().await.unwrap();
        let known = default_group(&told).unwrap().last_log_index;
        cluster.node_mut(away).kill9();

        let sender = Sender::register(cluster.node(leader)).await;
        let request = PutRequest {
            key: "retried".into(),
            value: "once".into(),
            ..Default::default()
        };
        let first = put(cluster.node(leader), &sender, request.clone())
            .await
            .unwrap();
        let revision = first.header.unwrap().revision;
        history.acknowledge("retried", "once", revision);
        let load = cluster.load_of(REQUESTS, MISSED_AND_PURGED).await;
        history.extend(load.finish().await);
        history.assert_no_failures();
        for id in cluster.up() {
            until("the log is purged", PATIENCE, async || {
                let told = cluster.node(id).groups().await?;
                let group = default_group(&told)?;
                // An entry beyond the node's last would still be enough for it.
                if group.first_log_index > known + 1 {
                    return Ok(());
                }
                Err(format!(
                    "node {away} has up to {known}, node {id} says {group:?}"
                ))
            })
            .await;
        }

        let begun = Instant::now();
        cluster.node_mut(away).start();
        cluster.until_leaders().await;
        cluster.until_caught_up(&[1, 2, 3]).await;
        println!("caught up by a snapshot in {:?}", begun.elapsed());
        let told = cluster.node(away).groups().await.unwrap();
        let group = default_group(&told).unwrap();
        assert!(
            group.snapshots_installed >= 1,
            "the log lacked entries: {group:?}"
        );
        cluster.verify(&history).await;

        cluster.make_leader(away).await;
        let again = put(cluster.node(away), &sender.again(), request)
            .await
            .unwrap();
        assert_eq!(
            again.header.unwrap().revision,
            revision,
            "the first answer again"
        );
        // More work for the node that came from a snapshot, and a restart on top of it.
        history.extend(cluster.load_of(REQUESTS, 500).await.finish().await);
        history.assert_no_failures();
        cluster.node_mut(away).kill9();
        cluster.node_mut(away).start();
        cluster.until_leaders().await;
        cluster.verify(&history).await;
    });
}

/// A node that is away again and again, each time for a little longer than the log reaches back.
#[test]
fn snapshots_follow_one_another() {
    run(async |rng| {
        let mut cluster =
            Cluster::start_with(rng, |config| config.raft.log_entries_max = 100).await;
        let away = cluster.others(cluster.leader().await)[0];
        let mut history = cluster.load_of(64, 300).await.finish().await;
        for _ in 0..3 {
            cluster.node_mut(away).kill9();
            let told = cluster
                .node(cluster.others(away)[0])
                .groups()
                .await
                .unwrap();
            let known = default_group(&told).unwrap().last_log_index;
            // Writes share entries, so it is not known how many fill the log.
            until("the log is purged", PATIENCE, async || {
                history.extend(cluster.load_of(64, 400).await.finish().await);
                for id in cluster.up() {
                    let told = cluster.node(id).groups().await?;
                    let group = default_group(&told)?;
                    if group.first_log_index <= known + 1 {
                        return Err(format!("node {id}: {group:?}"));
                    }
                }
                Ok(())
            })
            .await;
            // It comes back under load: the snapshot is taken while writes go on.
            let load = cluster.load(64).await;
            cluster.node_mut(away).start();
            until(
                "a snapshot is installed",
                Duration::from_secs(60),
                async || {
                    let told = cluster.node(away).groups().await?;
                    match default_group(&told)?.snapshots_installed {
                        0 => Err(format!("{told:?}")),
                        _ => Ok(()),
                    }
                },
            )
            .await;
            load.until_more(100).await;
            history.extend(load.stop().await);
            history.assert_no_failures();
            cluster.until_leaders().await;
            cluster.verify(&history).await;
        }
    });
}
