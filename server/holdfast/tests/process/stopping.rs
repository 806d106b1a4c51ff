//! A node that is asked to stop ends: in good order, whatever it did last, or by force.

use std::time::{Duration, Instant};

use holdfast_proto::etcdserverpb::{CompactionRequest, PutRequest};
use holdfast_server::{exit::EXIT_FORCED, limits};
use tonic::Request;

use crate::harness::{Cluster, Node, PATIENCE, run, until, within};

/// Longer than a stop may take that ends by itself, on a slow machine.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_node_stops_though_a_compaction_was_the_last_entry() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let leader = cluster.leader().await;
        let mut history = cluster.load_of(8, 500).await.finish().await;
        history.assert_no_failures();
        let followers = cluster.others(leader);
        let mut kv = cluster.node(followers[0]).kv();
        let mut revision = 0;
        for n in 0..2 {
            let key = format!("compacted-{n}");
            let put = PutRequest {
                key: key.clone().into(),
                value: key.clone().into(),
                ..Default::default()
            };
            let put = within(PATIENCE, kv.put(put)).await.unwrap();
            revision = put.header.unwrap().revision;
            history.acknowledge(&key, &key, revision);
        }
        // Answered when the node that is asked has scrubbed: what it wrote follows the last entry.
        let compaction = CompactionRequest {
            revision,
            physical: true,
        };
        within(PATIENCE, kv.compact(compaction)).await.unwrap();
        // The leader goes last: handing its leadership over would append another entry.
        for id in followers.iter().copied().chain([leader]) {
            let status = cluster.node_mut(id).term().await;
            assert_eq!(status.code(), Some(0), "node {id}: {status}");
        }
        for id in 1..=3 {
            cluster.node_mut(id).start();
        }
        cluster.until_leaders().await;
        cluster.verify(&history).await;

        // After a scrub a kill takes nothing with it.
        let killed = followers[0];
        cluster.node_mut(killed).kill9();
        cluster.node_mut(killed).start();
        cluster.until_leaders().await;
        cluster.verify(&history).await;
        for id in 1..=3 {
            let status = cluster.node_mut(id).term().await;
            assert_eq!(status.code(), Some(0), "node {id}: {status}");
        }
    });
}

/// A write that waits for a quorum which does not exist is one thing that a stop waits for.
#[test]
fn a_second_signal_ends_a_stop_that_waits() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let left = cluster.leader().await;
        for id in cluster.others(left) {
            cluster.node_mut(id).kill9();
        }
        let mut kv = cluster.node(left).kv();
        let waiting = tokio::spawn(async move {
            let mut request = Request::new(PutRequest {
                key: "in-vain".into(),
                ..Default::default()
            });
            request.set_timeout(Duration::from_secs(60));
            kv.put(request).await
        });
        let node = cluster.node_mut(left);
        node.signal(libc::SIGTERM);
        until_logged(node, "hands its leaderships over and stops").await;
        node.signal(libc::SIGTERM);
        let begun = Instant::now();
        let status = node.exit(STOPS_WITHIN).await;
        assert_eq!(status.code(), Some(i32::from(EXIT_FORCED)), "{status}");
        assert!(begun.elapsed() < Duration::from_millis(limits::STOP_MS_MAX));
        let log = node.log();
        assert!(
            log.contains("a second signal came (SIGTERM)") && log.contains("while it waited for"),
            "it says why it ended:\n{log}"
        );
        assert!(waiting.await.unwrap().is_err(), "nothing was acknowledged");
        for id in 1..=3 {
            cluster.node_mut(id).start();
        }
        cluster.until_leaders().await;
    });
}

async fn until_logged(node: &Node, line: &str) {
    until(line, PATIENCE, async || match node.log().contains(line) {
        true => Ok(()),
        false => Err(format!("node {} has not said so", node.id)),
    })
    .await;
}
