//! Groups that are started and dropped while the nodes run.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast_client::Client;
use holdfast_proto::etcdserverpb::{PutRequest, kv_client::KvClient};
use holdfast_proto::v1::{
    DebugCreateGroupsRequest, DebugDropGroupsRequest, DebugStartGroupsRequest,
    DebugStopGroupsRequest, GroupsResponse, NewGroup,
};
use holdfast_server::{
    config::Config,
    internals::{Database, DiskFiles, Log, LogOptions, StateOptions},
};
use rand::rngs::StdRng;
use tonic::{Code, Status};

use crate::harness::{Cluster, Node, PATIENCE, run, until};

/// Time for a change of all groups.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

/// Timers of groups are long: many groups with short ones are more than a small machine carries.
fn long_timers(config: &mut Config) {
    config.raft.heartbeat_interval_ms = 300;
    config.raft.election_timeout_min_ms = 1500;
    config.raft.election_timeout_max_ms = 2500;
}

async fn cluster(rng: &mut StdRng) -> Cluster {
    let cluster = Cluster::start_with(rng, long_timers).await;
    for node in &cluster.nodes {
        std::fs::write(node.data_dir().join("debug-groups"), "").unwrap();
    }
    cluster
}

fn name(id: u64) -> String {
    format!("extra-{id}")
}

async fn create_on(node: &Node, ids: &[u64]) -> Result<(), Status> {
    let groups = ids.iter().map(|&id| NewGroup {
        id,
        keyspace: name(id),
        voters: Vec::new(),
    });
    let mut request = tonic::Request::new(DebugCreateGroupsRequest {
        groups: groups.collect(),
    });
    request.set_timeout(CHANGE_WITHIN);
    node.admin().debug_create_groups(request).await.map(drop)
}

async fn drop_on(node: &Node, ids: &[u64]) -> Result<(), Status> {
    let mut request = tonic::Request::new(DebugDropGroupsRequest { ids: ids.to_vec() });
    request.set_timeout(CHANGE_WITHIN);
    node.admin().debug_drop_groups(request).await.map(drop)
}

async fn stop_on(node: &Node, ids: &[u64]) -> Result<(), Status> {
    let mut request = tonic::Request::new(DebugStopGroupsRequest { ids: ids.to_vec() });
    request.set_timeout(CHANGE_WITHIN);
    node.admin().debug_stop_groups(request).await.map(drop)
}

async fn start_on(node: &Node, ids: &[u64]) -> Result<(), Status> {
    let mut request = tonic::Request::new(DebugStartGroupsRequest { ids: ids.to_vec() });
    request.set_timeout(CHANGE_WITHIN);
    node.admin().debug_start_groups(request).await.map(drop)
}

async fn create(cluster: &mut Cluster, ids: &[u64]) {
    for node in &cluster.nodes {
        create_on(node, ids).await.unwrap();
    }
    cluster.groups += ids.len();
    cluster.until_leaders().await;
}

async fn drop_groups(cluster: &mut Cluster, ids: &[u64]) {
    for node in &cluster.nodes {
        drop_on(node, ids).await.unwrap();
    }
    cluster.groups -= ids.len();
    cluster.until_leaders().await;
}

fn next_id(told: &GroupsResponse) -> u64 {
    told.next_group_id
}

/// Writes a key to each of the keyspaces.
async fn write(client: &Client, ids: &[u64], value: &str) {
    for &id in ids {
        let client = client.keyspace(&name(id)).unwrap();
        client.put("key", format!("{value} {id}")).await.unwrap();
    }
}

async fn read(client: &Client, ids: &[u64], value: &str) {
    for &id in ids {
        let client = client.keyspace(&name(id)).unwrap();
        let found = client.get("key").await.unwrap();
        let values: Vec<_> = found.kvs.iter().map(|kv| kv.value.clone()).collect();
        assert_eq!(values, [format!("{value} {id}").into_bytes()], "{id}");
    }
}

#[test]
fn groups_come_and_go_while_the_nodes_run_and_their_ids_never_come_back() {
    run(async |rng| {
        let mut cluster = cluster(rng).await;
        assert_eq!(next_id(&cluster.node(1).groups().await.unwrap()), 3);
        create(&mut cluster, &[3, 4, 5, 6]).await;
        // Again, as by a caller that has no answer.
        create_on(cluster.node(2), &[3, 4]).await.unwrap();
        let client = cluster.client(1).await;
        write(&client, &[3, 4, 5, 6], "first").await;

        drop_groups(&mut cluster, &[4, 6]).await;
        let gone = client.keyspace(&name(4)).unwrap().get("key").await;
        assert!(gone.unwrap_err().to_string().contains("extra-4"));
        for id in 1..=3 {
            let refused = create_on(cluster.node(id), &[4]).await.unwrap_err();
            assert!(refused.message().contains("never used again"), "{refused}");
            let refused = drop_on(cluster.node(id), &[6]).await.unwrap_err();
            assert_eq!(refused.code(), Code::NotFound, "{refused}");
        }

        // All at once, as when the power goes; then in good order.
        for node in &mut cluster.nodes {
            node.kill9();
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.until_leaders().await;
        read(&client, &[3, 5], "first").await;
        create(&mut cluster, &[7]).await;
        for id in 1..=3 {
            assert!(cluster.node_mut(id).term().await.success());
            cluster.node_mut(id).start();
            cluster.until_leaders().await;
        }
        write(&client, &[7], "second").await;
        read(&client, &[7], "second").await;
        read(&client, &[3, 5], "first").await;
        for id in 1..=3 {
            let told = cluster.node(id).groups().await.unwrap();
            let ids: Vec<u64> = told.groups.iter().map(|group| group.id).collect();
            assert_eq!((ids, next_id(&told)), (vec![1, 2, 3, 5, 7], 8));
            let refused = create_on(cluster.node(id), &[6]).await.unwrap_err();
            assert!(refused.message().contains("never used again"), "{refused}");
        }
    });
}

#[test]
fn groups_are_changed_from_outside_only_where_a_file_allows_it() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        for refused in [
            create_on(cluster.node(1), &[3]).await,
            drop_on(cluster.node(1), &[2]).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains("debug-groups"), "{refused}");
        }
        std::fs::write(cluster.node(1).data_dir().join("debug-groups"), "").unwrap();
        let refused = drop_on(cluster.node(1), &[2]).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "every node runs it");
    });
}

/// Others know what the node had promised in the group, and the node knows nothing of it any more.
#[test]
fn a_node_that_dropped_a_group_which_others_have_comes_back_and_takes_part() {
    run(async |rng| {
        let mut cluster = cluster(rng).await;
        create(&mut cluster, &[3, 4]).await;
        let client = cluster.client(2).await;
        write(&client, &[3, 4], "first").await;
        drop_on(cluster.node(1), &[3]).await.unwrap();
        for round in 0..2 {
            match round {
                0 => cluster.node_mut(1).kill9(),
                _ => assert!(cluster.node_mut(1).term().await.success()),
            }
            cluster.node_mut(1).start();
            until("the node takes part", PATIENCE, async || {
                let told = cluster.node(1).groups().await?;
                let led = told.groups.len() == 3 && told.groups.iter().all(|g| g.leader != 0);
                match led {
                    true => Ok(()),
                    false => Err(format!("{told:?}")),
                }
            })
            .await;
            // The rest of the voters goes on with it.
            write(&client, &[3, 4], "later").await;
        }
        for id in [2, 3] {
            drop_on(cluster.node(id), &[3]).await.unwrap();
        }
        cluster.groups -= 1;
        cluster.until_leaders().await;
        read(&client, &[4], "later").await;
    });
}

/// Writes keys one after the other until told to end; gives those that were acknowledged.
async fn write_until(client: Client, id: u64, ends: Arc<AtomicBool>) -> Vec<String> {
    let client = client.keyspace(&name(id)).unwrap();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("written-{number:06}");
        if client.put(key.clone(), "value").await.is_ok() {
            acknowledged.push(key);
        }
    }
    acknowledged
}

/// Peers know what each had promised, whatever runs on it at the moment.
#[test]
fn a_group_is_stopped_and_started_on_one_node_after_the_other_under_writes() {
    run(async |rng| {
        let mut cluster = cluster(rng).await;
        create(&mut cluster, &[3, 4]).await;
        let refused = stop_on(cluster.node(1), &[2]).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "every node runs it");
        let ends = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for id in [3, 4] {
            let client = cluster.client(1).await;
            writers.push(tokio::spawn(write_until(client, id, ends.clone())));
        }
        let near = cluster.client(2).await.keyspace(&name(3)).unwrap();
        for round in 0..6u64 {
            let id = round % 3 + 1;
            stop_on(cluster.node(id), &[3]).await.unwrap();
            // The others go on without it, and one that comes back meanwhile takes part.
            near.put(format!("round-{round}"), "value").await.unwrap();
            let other = id % 3 + 1;
            if round % 2 == 0 {
                cluster.node_mut(other).kill9();
                cluster.node_mut(other).start();
            }
            until("the other takes part", PATIENCE, async || {
                let told = cluster.node(other).groups().await?;
                let led = told.groups.len() == 4 && told.groups.iter().all(|g| g.leader != 0);
                match led {
                    true => Ok(()),
                    false => Err(format!("{told:?}")),
                }
            })
            .await;
            let told = cluster.node(id).groups().await.unwrap();
            let ids: Vec<u64> = told.groups.iter().map(|group| group.id).collect();
            assert_eq!((ids, next_id(&told)), (vec![1, 2, 4], 5));
            // By whatever name it is asked for, it is not taken for unknown, or for another.
            let endpoint = tonic::transport::Endpoint::from_shared(cluster.node(id).client_url());
            let origin = format!("http://{}.localhost", name(3)).parse().unwrap();
            let mut named = KvClient::new(endpoint.unwrap().origin(origin).connect_lazy());
            let put = PutRequest {
                key: "astray".into(),
                ..Default::default()
            };
            let refused = named.put(put).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            assert!(refused.message().contains("is stopped"), "{refused}");
            start_on(cluster.node(id), &[3]).await.unwrap();
            cluster.until_leaders().await;
        }
        ends.store(true, Ordering::Relaxed);
        let client = cluster.client(3).await;
        assert!(client.get("astray").await.unwrap().kvs.is_empty());
        for (id, writer) in [3, 4].into_iter().zip(writers) {
            let acknowledged = writer.await.unwrap();
            assert!(!acknowledged.is_empty());
            let client = client.keyspace(&name(id)).unwrap();
            for key in acknowledged {
                let found = client.get(key.clone()).await.unwrap();
                assert_eq!(found.kvs.len(), 1, "{key} of group {id} was acknowledged");
            }
        }
    });
}

fn open_log(data_dir: &Path) -> Log {
    let files = Arc::new(DiskFiles);
    let opened = Log::open(&data_dir.join("log"), LogOptions::default(), files);
    opened.unwrap().0
}

fn open_state(data_dir: &Path) -> Database {
    let (database, aside) =
        Database::open(&data_dir.join("state"), StateOptions::default()).unwrap();
    assert_eq!(aside, None);
    database
}

#[test]
fn a_crash_between_two_steps_of_a_drop_is_made_good_at_the_next_start() {
    run(async |rng| {
        let mut cluster = cluster(rng).await;
        create(&mut cluster, &[3, 4, 5]).await;
        let client = cluster.client(1).await;
        write(&client, &[3, 4, 5], "first").await;
        for node in &mut cluster.nodes {
            assert!(node.term().await.success());
            // Of group 3 nothing but the record in the log was written; of group 4 the state has gone,
            // and nothing says that it was to go.
            let log = open_log(node.data_dir());
            log.drop_group(3).await.unwrap();
            log.close();
            let incoming = node.data_dir().join("incoming");
            std::fs::write(incoming.join("group-3.spool"), "left").unwrap();
            std::fs::write(incoming.join("group-30.spool"), "of another").unwrap();
            let database = open_state(node.data_dir());
            assert_eq!(database.groups(), [1, 2, 3, 4, 5]);
            database.drop_group(database.group(4).unwrap()).unwrap();
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.groups = 4;
        cluster.until_leaders().await;
        read(&client, &[4, 5], "first").await;
        for node in &mut cluster.nodes {
            assert!(node.term().await.success());
            assert_eq!(open_state(node.data_dir()).groups(), [1, 2, 4, 5]);
            let incoming = node.data_dir().join("incoming");
            assert!(!incoming.join("group-3.spool").exists());
            assert!(incoming.join("group-30.spool").exists());
            let listed = std::fs::read_to_string(node.data_dir().join("groups.json")).unwrap();
            assert!(!listed.contains("extra-3") && listed.contains("extra-4"));
            let peers = std::fs::read(node.data_dir().join("peers.json")).unwrap();
            let peers: serde_json::Value = serde_json::from_slice(&peers).unwrap();
            let peers = peers.as_object().unwrap().values();
            let promised = peers.flat_map(|peer| {
                let known = ["promised", "promised_before"];
                known.map(|known| peer[known].as_array().unwrap().clone())
            });
            assert!(promised.flatten().all(|promise| promise["group"] != 3));
        }
    });
}

#[test]
fn groups_under_load_share_the_syncs_of_the_log() {
    const GROUPS: u64 = 30;
    const WRITES_EACH: u64 = 40;
    run(async |rng| {
        let mut cluster = cluster(rng).await;
        let ids: Vec<u64> = (3..3 + GROUPS).collect();
        create(&mut cluster, &ids).await;
        let mut before = Vec::new();
        for node in &cluster.nodes {
            before.push(node.groups().await.unwrap().log_syncs);
        }
        let client = cluster.client(1).await;
        let writers = ids.iter().map(|&id| {
            let client = client.keyspace(&name(id)).unwrap();
            tokio::spawn(async move {
                for number in 0..WRITES_EACH {
                    client.put(format!("key-{number}"), "value").await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let acknowledged = GROUPS * WRITES_EACH;
        for (node, before) in cluster.nodes.iter().zip(before) {
            let syncs = node.groups().await.unwrap().log_syncs - before;
            println!("node {}: {syncs} syncs for {acknowledged} writes", node.id);
            // Each node logs every write, so without sharing each would take as many.
            assert!(syncs < acknowledged, "node {}: {syncs} syncs", node.id);
        }
    });
}
