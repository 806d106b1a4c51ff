//! The state of a node is damaged on disk. It is moved aside, never deleted, and rebuilt from the
//! log, or from a peer when the log no longer reaches back; nobody has to help.

use std::{
    fs,
    path::{Path, PathBuf},
};

use holdfast_proto::etcdserverpb::HashKvRequest;
use holdfast_server::{
    config::{Config, EngineName},
    exit::EXIT_DISK,
};
use rand::{Rng, rngs::StdRng};

use crate::harness::{Cluster, History, PATIENCE, default_group, run, until, within};

/// The file with the records of a node's database, which sled made.
fn databases(data_dir: &Path) -> Vec<PathBuf> {
    let databases = fs::read_dir(data_dir.join("state")).unwrap();
    let paths = databases.map(|entry| entry.unwrap().path().join("db"));
    paths.filter(|path| path.is_file()).collect()
}

fn overwrite_with_garbage(path: &Path, rng: &mut StdRng) {
    let length = fs::metadata(path).unwrap().len();
    let mut garbage = vec![0; usize::try_from(length).unwrap()];
    rng.fill_bytes(&mut garbage);
    fs::write(path, garbage).unwrap();
}

/// Two loads with a checkpoint between them: what the second one leaves on disk beside the database
/// is not enough to make up for it.
async fn two_checkpoints(cluster: &mut Cluster, writes: u64) -> History {
    let mut history = cluster.load_of(64, writes / 2).await.finish().await;
    cluster.until_caught_up(&[1, 2, 3]).await;
    for id in 1..=3 {
        until("a checkpoint", PATIENCE, async || {
            let told = cluster.node(id).groups().await?;
            let group = default_group(&told)?;
            match group.durable_applied_index >= group.applied_index {
                true => Ok(()),
                false => Err(format!("{group:?}")),
            }
        })
        .await;
    }
    history.extend(cluster.load_of(64, writes / 2).await.finish().await);
    history.assert_no_failures();
    history
}

/// Checkpoints follow quickly, so that there have been several.
fn settings(config: &mut Config) {
    config.storage.engine = EngineName::Sled;
    config.storage.flush_interval_ms = 300;
}

/// Stops a follower, damages its database, starts it again, and waits until it has all.
async fn damage_a_follower(cluster: &mut Cluster, rng: &mut StdRng) -> u64 {
    let leader = cluster.leader().await;
    let id = cluster.others(leader)[0];
    let status = cluster.node_mut(id).term().await;
    assert!(status.success(), "{status}");
    let damaged = databases(cluster.node(id).data_dir());
    assert!(!damaged.is_empty(), "there is a database");
    for database in &damaged {
        overwrite_with_garbage(database, rng);
    }
    cluster.node_mut(id).start();
    cluster.until_leaders().await;
    cluster.until_caught_up(&[1, 2, 3]).await;
    id
}

/// What could not be used was moved aside, and the log tells where it is.
fn assert_moved_aside(cluster: &Cluster, id: u64) {
    let node = cluster.node(id);
    let log = node.log();
    assert!(
        log.contains("was moved aside"),
        "the log of node {id} does not tell"
    );
    let aside = fs::read_dir(node.data_dir().join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("broken-"));
    let aside = aside.expect("the broken database is kept");
    assert!(
        log.contains(&aside),
        "the log of node {id} does not name {aside}"
    );
}

#[test]
fn a_damaged_state_is_rebuilt_from_the_log() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, settings).await;
        let mut history = two_checkpoints(&mut cluster, 3_000).await;
        let id = damage_a_follower(&mut cluster, rng).await;
        assert_moved_aside(&cluster, id);
        cluster.verify(&history).await;
        let told = cluster.node(id).groups().await.unwrap();
        let group = default_group(&told).unwrap();
        assert_eq!(
            group.snapshots_installed, 0,
            "the log had everything: {group:?}"
        );
        history.extend(cluster.load_of(64, 500).await.finish().await);
        cluster.verify(&history).await;
    });
}

#[test]
fn a_damaged_state_behind_a_purged_log_is_fetched_from_a_peer() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, |config| {
            settings(config);
            config.raft.log_entries_max = 5;
        })
        .await;
        let mut history = two_checkpoints(&mut cluster, 2_000).await;
        for id in 1..=3 {
            until("the log is purged", PATIENCE, async || {
                let told = cluster.node(id).groups().await?;
                match default_group(&told)?.first_log_index {
                    0..=1 => Err(format!("{told:?}")),
                    _ => Ok(()),
                }
            })
            .await;
        }
        let id = damage_a_follower(&mut cluster, rng).await;
        assert_moved_aside(&cluster, id);
        let log = cluster.node(id).log();
        assert!(
            log.contains("state restored from a peer"),
            "node {id} does not tell"
        );
        cluster.verify(&history).await;
        history.extend(cluster.load_of(64, 500).await.finish().await);
        cluster.verify(&history).await;
        // The rebuilt state is as good as another: it survives a crash, and its node may lead.
        cluster.node_mut(id).kill9();
        cluster.node_mut(id).start();
        cluster.until_leaders().await;
        cluster.make_leader(id).await;
        history.extend(cluster.load_of(64, 500).await.finish().await);
        cluster.verify(&history).await;
    });
}

/// All states are gone, the logs are there: nothing is lost.
#[test]
fn the_states_of_all_nodes_are_rebuilt_from_their_logs() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, settings).await;
        let history = two_checkpoints(&mut cluster, 2_000).await;
        for node in &mut cluster.nodes {
            node.kill9();
            for database in databases(node.data_dir()) {
                overwrite_with_garbage(&database, rng);
            }
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.until_leaders().await;
        cluster.verify(&history).await;
    });
}

/// Damage that shows only when a record is read: the node ends, and is whole again when it is started.
#[test]
fn damage_that_a_read_meets_is_mended_at_the_next_start() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, |config| {
            settings(config);
            config.storage.engine = EngineName::LsmTree;
        })
        .await;
        let mut history = two_checkpoints(&mut cluster, 3_000).await;
        let leader = cluster.leader().await;
        let id = cluster.others(leader)[0];
        let status = cluster.node_mut(id).term().await;
        assert!(status.success(), "{status}");
        let state = cluster.node(id).data_dir().join("state");
        let tables = fs::read_dir(state.join("db-1").join("tables")).unwrap();
        let largest = tables
            .map(|table| table.unwrap().path())
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .expect("there is a table");
        let mut bytes = fs::read(&largest).unwrap();
        // What is read at once is at the beginning, the marks, and at the end.
        let records = bytes.len() / 4..bytes.len() / 2;
        rng.fill_bytes(&mut bytes[records]);
        fs::write(&largest, bytes).unwrap();
        cluster.node_mut(id).start();
        cluster.until_caught_up(&[id]).await;
        // Reads all there is.
        let mut maintenance = cluster.node(id).maintenance();
        let _ = within(PATIENCE, maintenance.hash_kv(HashKvRequest { revision: 0 })).await;
        let status = cluster.node_mut(id).exit(PATIENCE).await;
        assert_eq!(status.code(), Some(i32::from(EXIT_DISK)), "{status}");
        cluster.node_mut(id).start();
        cluster.until_leaders().await;
        cluster.until_caught_up(&[1, 2, 3]).await;
        assert_moved_aside(&cluster, id);
        history.extend(cluster.load_of(64, 500).await.finish().await);
        cluster.verify(&history).await;
    });
}

/// The files of the state vanish under a node. Its groups stop and say so; what peers go on asking it
/// does not fill its log.
#[test]
fn a_group_that_has_stopped_is_quiet_about_it() {
    run(async |rng| {
        let mut cluster = Cluster::start_with(rng, settings).await;
        let mut history = cluster.load_of(16, 200).await.finish().await;
        let leader = cluster.leader().await;
        let id = cluster.others(leader)[0];
        let state = cluster.node(id).data_dir().join("state");
        fs::remove_dir_all(state).unwrap();
        let load = cluster.load_of(16, 2_000).await;
        until("the group stops", PATIENCE, async || {
            let told = cluster.node(id).groups().await?;
            match default_group(&told)?.stopped_because.is_empty() {
                true => Err(format!("{told:?}")),
                false => Ok(()),
            }
        })
        .await;
        let errors = |cluster: &Cluster| cluster.node(id).log().matches(" ERROR ").count();
        let at_first = errors(&cluster);
        assert!(at_first > 0, "it does not say that it has stopped");
        history.extend(load.finish().await);
        history.extend(cluster.load_of(16, 2_000).await.finish().await);
        let later = errors(&cluster);
        assert!(
            later < at_first + 20,
            "{at_first} errors when it stopped, {later} later"
        );
    });
}
