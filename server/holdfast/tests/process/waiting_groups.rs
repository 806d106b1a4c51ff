//! A group has lost its state, its log no longer reaches back, and no node can give the state to another:
//! it waits. The other group of the same nodes serves meanwhile, and its nodes keep house as ever.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_proto::etcdserverpb::RangeRequest;
use holdfast_server::{
    DEFAULT_KEYSPACE, SYSTEM_GROUP, SYSTEM_KEYSPACE,
    config::Config,
    internals::{Database, StateOptions},
    limits,
};
use rand::rngs::StdRng;

use crate::harness::{Cluster, History, PATIENCE, copy_dir, default_group, run, until, within};

const SEGMENT_BYTES: u64 = limits::LOG_SEGMENT_BYTES_MIN;
const BUDGET_BYTES: u64 = limits::LOG_BUDGET_SLACK_SEGMENTS * SEGMENT_BYTES;
const VALUE_BYTES: usize = 128 << 10;

/// Where a node that is down keeps its states.
fn state(data_dir: &Path) -> PathBuf {
    data_dir.join("state")
}

/// A copy of them from before one was lost.
fn aside(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("whole-state")
}

/// A node that is down loses the state of the group `system`, the first that it starts.
fn lose_the_state_of_system(data_dir: &Path) {
    copy_dir(&state(data_dir), &aside(data_dir));
    let (database, moved_aside) =
        Database::open(&state(data_dir), StateOptions::default()).unwrap();
    assert_eq!(moved_aside, None);
    let system = database.group(SYSTEM_GROUP).unwrap();
    assert!(system.applied_index() > 0, "there is a state to lose");
    database.drop_group(system).unwrap();
}

/// Three nodes that have each lost the state of the group `system`, with a log in which that is not to
/// be found either.
async fn without_the_state_of_system(rng: &mut StdRng) -> (Cluster, History) {
    let mut cluster = Cluster::start_with(rng, |config| {
        config.storage.log_segment_bytes = SEGMENT_BYTES;
        config.limits.request_bytes_max = 2 * VALUE_BYTES;
        // As few as there can be: even `system` is purged.
        config.raft.log_entries_max = 1;
    })
    .await;
    let history = cluster.load_of(8, 100).await.finish().await;
    history.assert_no_failures();
    for id in 1..=3 {
        until("the log of `system` is purged", PATIENCE, async || {
            let told = cluster.node(id).groups().await?;
            let system = told
                .groups
                .iter()
                .find(|group| group.keyspace == SYSTEM_KEYSPACE);
            match system.is_some_and(|system| system.first_log_index > 1) {
                true => Ok(()),
                false => Err(format!("node {id}: {told:?}")),
            }
        })
        .await;
    }
    for node in &mut cluster.nodes {
        let status = node.term().await;
        assert!(status.success(), "{status}");
        lose_the_state_of_system(node.data_dir());
    }
    (cluster, history)
}

/// Waits until every node runs the group `default` and nothing else, and knows its leader.
async fn default_alone(cluster: &Cluster) {
    until("`default` is led, and alone", PATIENCE, async || {
        for id in 1..=3 {
            let told = cluster.node(id).groups().await?;
            match &told.groups[..] {
                [group] if group.keyspace == DEFAULT_KEYSPACE && group.leader != 0 => {}
                _ => return Err(format!("node {id}: {told:?}")),
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until a node reads, in agreement with a quorum, what was written last.
async fn until_it_serves_what_was_written(cluster: &Cluster, id: u64, history: &History) {
    let written = history.acknowledged.last().expect("a write");
    until("a read", PATIENCE, async || {
        let request = RangeRequest {
            key: written.key.clone().into(),
            ..Default::default()
        };
        let mut kv = cluster.node(id).kv();
        let read = within(Duration::from_secs(5), kv.range(request)).await;
        let read = read.map_err(|status| format!("node {id}: {status}"))?;
        assert_eq!(read.kvs[0].value, written.value);
        Ok(())
    })
    .await;
}

#[test]
fn a_group_that_waits_for_its_state_keeps_no_other_from_serving() {
    run(async |rng| {
        let (mut cluster, mut history) = without_the_state_of_system(rng).await;
        for node in &mut cluster.nodes {
            node.start();
        }
        default_alone(&cluster).await;
        for id in 1..=3 {
            let waits = ["the state is behind the log; fetching it from a peer group=1"];
            cluster.until_logged(id, 0, &waits).await;
        }
        // Each node serves, leads and follows.
        for id in 1..=3 {
            cluster.node_mut(id).kill9();
            history.extend(cluster.load_of(8, 100).await.finish().await);
            cluster.node_mut(id).start();
            default_alone(&cluster).await;
        }
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        for id in 1..=3 {
            until_it_serves_what_was_written(&cluster, id, &history).await;
        }
        default_alone(&cluster).await;

        // As soon as one node has the state again, all have.
        cluster.node_mut(2).kill9();
        let data_dir = cluster.node(2).data_dir();
        fs::remove_dir_all(state(data_dir)).unwrap();
        fs::rename(aside(data_dir), state(data_dir)).unwrap();
        cluster.node_mut(2).start();
        cluster.until_leaders().await;
        for id in [1, 3] {
            cluster
                .until_logged(id, 0, &["state restored from a peer"])
                .await;
        }
        history.extend(cluster.load_of(8, 100).await.finish().await);
        history.assert_no_failures();
        cluster.verify(&history).await;
    });
}

/// Bytes of the segments of a node's log.
fn log_bytes(data_dir: &Path) -> u64 {
    let files = fs::read_dir(data_dir.join("log")).unwrap();
    let files = files.filter(|file| {
        let path = file.as_ref().map(|file| file.path());
        path.is_ok_and(|path| path.extension().is_some_and(|it| it == "log"))
    });
    // A file may go between the listing and the look at it.
    let lengths = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    lengths.sum()
}

/// Waits until a node has on its disk what the leader of `default`, or as leader each follower, has
/// promised it: all that the log holds. Nothing is written meanwhile.
async fn until_promises_are_written_down(cluster: &Cluster, id: u64) {
    until("promises are on the disk", PATIENCE, async || {
        let told = cluster.node(id).groups().await?;
        let group = default_group(&told)?;
        let text = fs::read(cluster.node(id).data_dir().join("peers.json")).unwrap();
        let peers: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let promisers = match group.leader == id {
            true => cluster.others(id),
            false => vec![group.leader],
        };
        for peer in promisers {
            let promised = peers[peer.to_string()]["promised"].as_array().cloned();
            let mut promised = promised.unwrap_or_default().into_iter();
            let reach = promised.find(|reach| reach["group"] == group.id);
            if reach.is_none_or(|reach| reach["index"].as_u64() < Some(group.last_log_index)) {
                return Err(format!("node {id} of node {peer}: {peers}; {group:?}"));
            }
        }
        Ok(())
    })
    .await;
}

#[test]
fn a_node_keeps_house_while_a_group_waits_for_its_state() {
    run(async |rng| {
        let (mut cluster, _) = without_the_state_of_system(rng).await;
        for node in &mut cluster.nodes {
            // Nothing else purges what is written here.
            node.configure(|config: &mut Config| {
                config.raft.log_entries_max = limits::LOG_ENTRIES_DEFAULT;
                config.raft.log_bytes_max = limits::LOG_BYTES_DEFAULT;
                config.storage.log_bytes_max = BUDGET_BYTES;
            });
            node.start();
        }
        default_alone(&cluster).await;
        let client = cluster.client(1).await;
        for number in 0..3 * BUDGET_BYTES / VALUE_BYTES as u64 {
            let value = vec![number as u8; VALUE_BYTES];
            let key = format!("large-{}", number % 8);
            client.put(key, value).await.unwrap();
        }
        for id in 1..=3 {
            until(
                "the log is within its budget",
                PATIENCE,
                async || match log_bytes(cluster.node(id).data_dir()) {
                    bytes if bytes <= BUDGET_BYTES => Ok(()),
                    bytes => Err(format!("node {id}: {bytes} bytes of {BUDGET_BYTES}")),
                },
            )
            .await;
        }
        default_alone(&cluster).await;
        for id in 1..=3 {
            until_promises_are_written_down(&cluster, id).await;
        }
    });
}
