//! A voter comes back without its data. It may have voted and acknowledged what it no longer knows
//! of, so it must not count again: it says so and stays out.

use std::time::Duration;

use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request};

use crate::harness::{Cluster, PATIENCE, default_group, run, until, within};

/// Many elections long.
const WATCHED: Duration = Duration::from_secs(3);

#[test]
fn a_voter_that_lost_its_data_stays_out_and_does_not_count() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let mut history = cluster.load_of(64, 1_000).await.finish().await;
        let leader = cluster.leader().await;
        // The one that is wiped may have acknowledged what the leader has counted on.
        let [wiped, other] = cluster.others(leader)[..] else {
            unreachable!("three nodes");
        };
        cluster.node_mut(wiped).kill9();
        let data_dir = cluster.node(wiped).data_dir().to_path_buf();
        std::fs::remove_dir_all(data_dir).unwrap();
        let before = cluster.node(wiped).log().len();
        cluster.node_mut(wiped).start();
        until("the wiped node stays out", PATIENCE, async || {
            let told = cluster.node(wiped).groups().await?;
            match told.stays_out_because.contains("must not vote again") {
                true if told.groups.is_empty() => Ok(()),
                _ => Err(format!("{told:?}")),
            }
        })
        .await;
        let log = cluster.node(wiped).log().split_off(before);
        for what in [
            "stays out of the cluster",
            "another data directory",
            "give the node a new id",
        ] {
            assert!(log.contains(what), "{what:?} is not in its log: {log}");
        }
        // It tells clients so, and they find the others.
        let read = RangeRequest {
            key: "x".into(),
            ..Default::default()
        };
        let status = within(PATIENCE, cluster.node(wiped).kv().range(read))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("stays out"), "{status}");
        let real = [leader, other];
        history.extend(cluster.load_of(64, 500).await.finish().await);
        history.assert_no_failures();
        cluster.verify_on(&real, &history).await;

        // With one real voter and one without memory there is no quorum.
        cluster.node_mut(other).kill9();
        let term = term(&cluster, leader).await;
        let begun = Instant::now();
        let mut attempts = 0;
        while begun.elapsed() < WATCHED {
            let key = format!("without-a-quorum-{attempts}");
            let mut request = Request::new(PutRequest {
                key: key.clone().into(),
                value: key.clone().into(),
                ..Default::default()
            });
            request.set_timeout(Duration::from_millis(500));
            let answer = within(PATIENCE, cluster.node(leader).kv().put(request)).await;
            let status = answer.expect_err("one real voter of three acknowledges nothing");
            history.unknown(&key, &key, &status.to_string());
            attempts += 1;
            let told = cluster.node(wiped).groups().await.unwrap();
            assert!(
                !told.stays_out_because.is_empty() && told.groups.is_empty(),
                "{told:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
        assert!(attempts > 0);
        let now = self::term(&cluster, leader).await;
        assert_eq!(
            now, term,
            "nobody has won an election, and pre-votes move no term"
        );

        cluster.node_mut(other).start();
        cluster.leader_among(&real).await;
        history.extend(cluster.load_of(64, 500).await.finish().await);
        cluster.verify_on(&real, &history).await;

        // Neither does a restart help it.
        cluster.node_mut(wiped).kill9();
        cluster.node_mut(wiped).start();
        until("the wiped node still stays out", PATIENCE, async || {
            let told = cluster.node(wiped).groups().await?;
            match told.stays_out_because.is_empty() {
                false => Ok(()),
                true => Err(format!("{told:?}")),
            }
        })
        .await;
    });
}

async fn term(cluster: &Cluster, id: u64) -> u64 {
    let told = until("an answer", PATIENCE, async || {
        cluster.node(id).groups().await
    })
    .await;
    default_group(&told).unwrap().term
}

/// An old copy of a data directory is a lost memory too, unless it is the same directory: then its
/// log is a prefix, and the incarnation the same. What the peers can tell apart is the incarnation.
#[test]
fn a_directory_made_anew_is_told_from_the_old_one_after_a_restart_of_the_others() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let history = cluster.load_of(64, 500).await.finish().await;
        let leader = cluster.leader().await;
        let wiped = cluster.others(leader)[0];
        for node in &mut cluster.nodes {
            node.kill9();
        }
        std::fs::remove_dir_all(cluster.node(wiped).data_dir()).unwrap();
        for node in &mut cluster.nodes {
            node.start();
        }
        until("the wiped node stays out", PATIENCE, async || {
            let told = cluster.node(wiped).groups().await?;
            match told.stays_out_because.is_empty() {
                false => Ok(()),
                true => Err(format!("{told:?}")),
            }
        })
        .await;
        let real = cluster.others(wiped);
        cluster.verify_on(&real, &history).await;
    });
}
