//! A voter comes back without its data. It may have voted and acknowledged what it no longer knows
//! of, so it must not count again: it says so and stays out.

use std::time::Duration;

use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request};

use crate::harness::{Cluster, PATIENCE, copy_dir, default_group, run, until, within};

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
        let told = [
            "stays out of the cluster",
            "another data directory",
            "give the node a new id",
        ];
        cluster.until_logged(wiped, before, &told).await;
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

/// Node 2 comes back without the log in which it promised what only node 1 knows besides, and node
/// 3 was not there.
#[test]
fn a_node_that_lost_its_log_stays_out_until_the_log_is_back() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        cluster.node_mut(3).kill9();
        cluster.leader_among(&[1, 2]).await;
        let mut history = cluster.load_of(8, 200).await.finish().await;
        history.assert_no_failures();
        cluster.node_mut(1).kill9();
        cluster.node_mut(2).kill9();
        let log = cluster.node(2).data_dir().join("log");
        let away = cluster.node(2).data_dir().join("log-unmounted");
        std::fs::rename(&log, &away).unwrap();
        let before = cluster.node(2).log().len();
        cluster.node_mut(2).start();
        cluster.node_mut(3).start();
        cluster.until_stays_out(2, "its log is gone").await;
        assert!(
            std::fs::read_dir(&log).map_or(0, Iterator::count) == 0,
            "no new log in the place of the old one"
        );
        let told = ["stays out of the cluster"];
        cluster.until_logged(2, before, &told).await;
        // What the tools of etcd and our own show of it.
        let status = within(
            PATIENCE,
            cluster
                .node(2)
                .maintenance()
                .status(holdfast_proto::etcdserverpb::StatusRequest {}),
        )
        .await
        .unwrap();
        assert_eq!(status.leader, 0);
        let errors = status.errors.join("\n");
        assert!(errors.contains("stays out"), "{errors:?}");
        // One real voter of two elects nobody.
        let begun = Instant::now();
        while begun.elapsed() < WATCHED {
            let told = until("an answer", PATIENCE, async || {
                cluster.node(3).groups().await
            })
            .await;
            assert!(
                told.groups.iter().all(|group| group.leader != 3),
                "{told:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
        cluster.node_mut(1).start();
        cluster.leader_among(&[1, 3]).await;
        cluster.verify_on(&[1, 3], &history).await;
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();

        // The disk is mounted after all.
        cluster.node_mut(2).kill9();
        let _ = std::fs::remove_dir_all(&log);
        std::fs::rename(&away, &log).unwrap();
        cluster.node_mut(2).start();
        cluster.until_leaders().await;
        cluster.verify_on(&[1, 2, 3], &history).await;
    });
}

/// A log that is whole, but another node's.
#[test]
fn a_node_with_the_log_of_another_stays_out() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let mut history = cluster.load_of(8, 100).await.finish().await;
        for node in &mut cluster.nodes {
            node.kill9();
        }
        let log = |id: u64| cluster.node(id).data_dir().join("log");
        let aside = cluster.dir().join("log-of-node-2");
        std::fs::rename(log(2), &aside).unwrap();
        copy_dir(&log(3), &log(2));
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.until_stays_out(2, "another log").await;
        cluster.leader_among(&[1, 3]).await;
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        cluster.verify_on(&[1, 3], &history).await;
    });
}
