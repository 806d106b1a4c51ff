//! A data directory, or a part of it, is put back from a copy. The node does not know any more what
//! it had promised since, so it must not count; the others do, and go on without it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_server::{config::Config, limits};
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, PATIENCE, copy_dir, default_group, run, until};

/// Longer than two elections with [`patient`] settings.
const WATCHED: Duration = Duration::from_secs(12);

/// Elections that a starved machine does not bring about.
fn patient(config: &mut Config) {
    config.raft.heartbeat_interval_ms = 200;
    config.raft.election_timeout_min_ms = 1_500;
    config.raft.election_timeout_max_ms = 2_500;
}

/// Puts `copy` in the place of a directory, and returns where the real one is now.
fn replace(real: &Path, copy: &Path) -> PathBuf {
    let aside = real.with_extension("real");
    fs::rename(real, &aside).unwrap();
    copy_dir(copy, real);
    aside
}

/// Puts the real directory back.
fn put_back(real: &Path, aside: &Path) {
    fs::remove_dir_all(real).unwrap();
    fs::rename(aside, real).unwrap();
}

async fn terms(cluster: &Cluster, id: u64) -> Vec<u64> {
    let told = until("an answer", PATIENCE, async || {
        cluster.node(id).groups().await
    })
    .await;
    told.groups.iter().map(|group| group.term).collect()
}

/// The node says why it stays out, the other two serve without an election, and once it is stopped
/// and its real directory is back it takes part again.
async fn stays_out_until_the_real_directory_is_back(
    cluster: &mut Cluster,
    id: u64,
    why: &str,
    aside: &Path,
    mut history: crate::harness::History,
) {
    cluster.until_stays_out(id, why).await;
    let told = ["stays out of the cluster"];
    cluster.until_logged(id, 0, &told).await;
    let others = cluster.others(id);
    let leader = cluster.leader_among(&others).await;
    let before = terms(cluster, leader).await;
    history.extend(cluster.load_of(8, 200).await.finish().await);
    history.assert_no_failures();
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        let now = terms(cluster, leader).await;
        assert_eq!(now, before, "an election");
        sleep(Duration::from_millis(100)).await;
    }
    cluster.verify_on(&others, &history).await;

    cluster.node_mut(id).kill9();
    let dir = cluster.node(id).data_dir().to_path_buf();
    put_back(&dir, aside);
    cluster.node_mut(id).start();
    cluster.until_leaders().await;
    cluster.verify_on(&[1, 2, 3], &history).await;
}

#[test]
fn a_follower_put_back_from_a_copy_of_the_stopped_node_stays_out() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, patient).await;
        let mut history = cluster.load_of(8, 100).await.finish().await;
        let leader = cluster.leader().await;
        let id = cluster.others(leader)[0];
        let dir = cluster.node(id).data_dir().to_path_buf();
        let copy = cluster.dir().join("copy");
        cluster.node_mut(id).term().await;
        copy_dir(&dir, &copy);
        cluster.node_mut(id).start();
        cluster.until_leaders().await;
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        cluster.node_mut(id).term().await;
        let aside = replace(&dir, &copy);
        cluster.node_mut(id).start();
        let why = "it is an old copy";
        stays_out_until_the_real_directory_is_back(&mut cluster, id, why, &aside, history).await;
    });
}

#[test]
fn a_follower_put_back_from_a_copy_of_the_running_node_stays_out() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, patient).await;
        let mut history = cluster.load_of(8, 100).await.finish().await;
        let leader = cluster.leader().await;
        let id = cluster.others(leader)[1];
        let dir = cluster.node(id).data_dir().to_path_buf();
        let copy = cluster.dir().join("copy");
        copy_dir(&dir, &copy);
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        // It has acknowledged all of it.
        cluster.until_caught_up(&[1, 2, 3]).await;
        cluster.node_mut(id).kill9();
        let aside = replace(&dir, &copy);
        cluster.node_mut(id).start();
        cluster.until_stays_out(id, "more of group").await;
        // The others remember across their own restarts.
        for node in &mut cluster.nodes {
            node.term().await;
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        let why = "more of group";
        stays_out_until_the_real_directory_is_back(&mut cluster, id, why, &aside, history).await;
    });
}

#[test]
fn a_leader_put_back_from_a_copy_of_the_running_node_stays_out() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, patient).await;
        let mut history = cluster.load_of(8, 100).await.finish().await;
        let id = cluster.leader().await;
        let dir = cluster.node(id).data_dir().to_path_buf();
        let copy = cluster.dir().join("copy");
        copy_dir(&dir, &copy);
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        // The followers know how far its log had come: the next heartbeat tells them.
        until("the followers know", PATIENCE, async || {
            let told = cluster.node(id).groups().await?;
            let group = default_group(&told)?;
            for other in cluster.others(id) {
                let text = fs::read(cluster.node(other).data_dir().join("peers.json")).unwrap();
                let peers: serde_json::Value = serde_json::from_slice(&text).unwrap();
                let promised = peers[id.to_string()]["promised"].as_array().cloned();
                let mut promised = promised.unwrap_or_default().into_iter();
                let reach = promised.rfind(|reach| reach["group"] == group.id);
                if reach.is_none_or(|reach| reach["index"].as_u64() < Some(group.last_log_index)) {
                    return Err(format!("node {other} does not; {peers}"));
                }
            }
            Ok(())
        })
        .await;
        cluster.node_mut(id).kill9();
        let aside = replace(&dir, &copy);
        cluster.node_mut(id).start();
        let why = "more of group";
        stays_out_until_the_real_directory_is_back(&mut cluster, id, why, &aside, history).await;
    });
}

/// Segments of a log, oldest first.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data_dir.join("log")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    segments
}

/// A log without its newest segments ends early, and looks whole; one without its oldest does not.
#[test]
fn a_node_whose_log_was_cut_takes_no_part() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, |config| {
            patient(config);
            config.storage.log_segment_bytes = limits::LOG_SEGMENT_BYTES_MIN;
            config.limits.request_bytes_max = 256 << 10;
        })
        .await;
        let mut history = cluster.load_of(64, 20_000).await.finish().await;
        history.assert_no_failures();
        cluster.until_caught_up(&[1, 2, 3]).await;
        let leader = cluster.leader().await;
        let [ended, begun] = cluster.others(leader)[..] else {
            unreachable!("three nodes");
        };
        cluster.node_mut(ended).kill9();
        let found = segments(cluster.node(ended).data_dir());
        assert!(found.len() >= 3, "{found:?}");
        // The newest may be one that was prepared and never written to.
        for path in &found[found.len() - 2..] {
            fs::remove_file(path).unwrap();
        }
        cluster.node_mut(ended).start();
        cluster.until_stays_out(ended, "its log was cut").await;
        let others = cluster.others(ended);
        cluster.leader_among(&others).await;
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        cluster.verify_on(&others, &history).await;

        cluster.node_mut(begun).kill9();
        let found = segments(cluster.node(begun).data_dir());
        fs::remove_file(&found[0]).unwrap();
        cluster.node_mut(begun).start();
        let status = cluster.node_mut(begun).exit(PATIENCE).await;
        assert!(!status.success(), "{status}");
        let told = cluster.node(begun).log();
        assert!(told.contains("the log:"), "{told}");
    });
}

/// A node of three that is gone for good keeps no other from coming back.
#[test]
fn two_of_three_come_back_without_the_third() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let mut history = cluster.load_of(8, 100).await.finish().await;
        for node in &mut cluster.nodes {
            node.kill9();
        }
        cluster.node_mut(1).start();
        cluster.node_mut(2).start();
        cluster.leader_among(&[1, 2]).await;
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        cluster.verify_on(&[1, 2], &history).await;
    });
}
