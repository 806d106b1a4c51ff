//! Groups of a whole node, alone in its cluster, that are stopped and started under writes.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use holdfast_mvcc as mvcc;
use holdfast_proto::{
    command::{Command, answer, command::Op},
    etcdserverpb::{PutRequest, RangeRequest},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use super::*;
use crate::{
    config::Config,
    group::{Group, GroupError},
    keyspace::Keyspaces,
    node::Node,
    raft::scripted::{until, within_a_minute},
};

/// Of the groups that are written to.
const STOPPED: GroupId = 3;
const UNDISTURBED: GroupId = 4;

async fn start(dir: &TempDir) -> Node {
    let mut config = Config::default();
    config.node.id = 1;
    config.node.zone = "zone-a".into();
    config.node.data_dir = dir.path().to_path_buf();
    config.raft.heartbeat_interval_ms = 50;
    config.raft.election_timeout_min_ms = 150;
    config.raft.election_timeout_max_ms = 300;
    let mut config = config.resolve().unwrap();
    // Nobody connects.
    config.node.client_addr.set_port(0);
    config.node.peer_addr.set_port(0);
    // Tables go down again and again.
    config.storage.table_bytes_max = 200 << 10;
    let node = Node::start(config).await.unwrap();
    let keyspaces = keyspaces(&node);
    until("the node runs its groups", || keyspaces.all().len() >= 2).await;
    node
}

fn keyspaces(node: &Node) -> Arc<Keyspaces> {
    node.context.keyspaces.clone()
}

fn assignment(id: GroupId) -> Assignment {
    Assignment {
        id,
        keyspace: format!("extra-{id}"),
        voters: vec![1],
    }
}

async fn put(group: &Group, key: String) -> Result<(), GroupError> {
    let command = Command {
        op: Some(Op::Put(PutRequest {
            key: key.into(),
            value: vec![b'v'; 8 << 10].into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let answer = group.propose(command, deadline).await?.answer;
    assert!(
        matches!(answer.result, Some(answer::Result::Put(_))),
        "{answer:?}"
    );
    Ok(())
}

/// The keys of a group, read as a client would.
async fn keys(group: &Group) -> BTreeSet<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    group.linearizable(deadline).await.unwrap();
    let (published, view) = group.read();
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        keys_only: true,
        ..Default::default()
    };
    let found = mvcc::range(&view, published.revisions, &all).unwrap();
    let keys = found.kvs.into_iter();
    keys.map(|kv| String::from_utf8(kv.key.to_vec()).unwrap())
        .collect()
}

/// Writes one key after the other to whichever start of a group runs, until it is told to end. Gives the
/// keys that were acknowledged, and why others were not; nothing where the group did not run.
async fn write(
    keyspaces: Arc<Keyspaces>,
    id: GroupId,
    ends: Arc<AtomicBool>,
) -> (BTreeSet<String>, Vec<Option<GroupError>>) {
    let (mut acknowledged, mut refused) = (BTreeSet::new(), Vec::new());
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("key-{number:06}");
        let put = match keyspaces.by_id(id) {
            Some(group) => put(&group, key.clone()).await.map_err(Some),
            None => Err(None),
        };
        match put {
            Ok(()) => {
                acknowledged.insert(key);
            }
            Err(why) => {
                refused.push(why);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    (acknowledged, refused)
}

/// Ends a node with all that it has left running, as the end of its process does.
fn run<T>(node: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(node)
}

async fn shut_down(node: Node) {
    let steps = watch::Sender::new(crate::stop::Step::HandOver);
    node.shutdown(&steps).await;
}

#[test]
fn a_group_stopped_and_started_under_writes_serves_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = run(stopped_and_started_under_writes(&dir, 7));
    // Stopped in the end, it starts with the node again.
    run(async {
        let node = start(&dir).await;
        let keyspaces = keyspaces(&node);
        until("it runs", || keyspaces.by_id(STOPPED).is_some()).await;
        let found = keys(&keyspaces.by_id(STOPPED).unwrap()).await;
        assert_eq!(acknowledged.difference(&found).next(), None);
        shut_down(node).await;
    });
}

async fn stopped_and_started_under_writes(dir: &TempDir, seed: u64) -> BTreeSet<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let node = start(dir).await;
    let (inner, keyspaces) = (node.inner.clone(), keyspaces(&node));
    let groups = [STOPPED, UNDISTURBED].map(assignment).to_vec();
    inner.create_groups(groups).await.unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let writers = [STOPPED, UNDISTURBED].map(|id| {
        let writing = write(keyspaces.clone(), id, ends.clone());
        tokio::spawn(writing)
    });
    let undisturbed = keyspaces.by_id(UNDISTURBED).unwrap();
    let mut leadership = undisturbed.leadership();
    let led = leadership.wait_for(|now| now.leader == Some(1));
    let term = within_a_minute("a leader", led).await.unwrap().term;
    for _ in 0..12 {
        let before = undisturbed.read().0.index;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
        let old = keyspaces.by_id(STOPPED).unwrap();
        inner.stop_assigned(vec![STOPPED]).await.unwrap();
        assert!(keyspaces.by_id(STOPPED).is_none() && keyspaces.is_stopped("extra-3"));
        let store = inner.states.lock()[&STOPPED].store.clone();
        assert!(store.is_closed());
        // What it had promised is what peers would be told.
        let log = inner.log.lock().clone().unwrap().group(STOPPED).unwrap();
        let last = log.state().last.unwrap();
        let reach = crate::raft::reach_of(&log, &store).unwrap();
        // It may have been stopped while it stood for election: its vote is of a later term than its entries.
        assert!(
            reach.index == last.index && reach.term >= last.term,
            "{reach} beside {last:?}"
        );
        assert_eq!(store.applied_index(), *store.durable_applied().borrow());
        // Whoever still holds the first start gets nothing from it.
        let refused = put(&old, "late".into()).await;
        assert!(
            matches!(refused, Err(GroupError::Stopped(_))),
            "{refused:?}"
        );
        let (_, view) = old.read();
        assert!(mvcc::Reader::get(&view, b"x").is_err());
        drop((old, view));
        until("the other group goes on", || {
            undisturbed.read().0.index > before
        })
        .await;
        inner.start_assigned(vec![STOPPED]).await.unwrap();
        assert!(!keyspaces.is_stopped("extra-3"));
    }
    // However little the writer got done between the stops.
    let restarted = keyspaces.by_id(STOPPED).unwrap();
    let before = restarted.read().0.index;
    until("the group that was stopped takes writes again", || {
        restarted.read().0.index > before.map(|index| index + 20)
    })
    .await;
    drop(restarted);
    ends.store(true, Ordering::Relaxed);
    let [stopped, other] = writers;
    let (acknowledged, _) = stopped.await.unwrap();
    let (all, refused) = other.await.unwrap();
    assert!(acknowledged.len() > 12, "{}", acknowledged.len());
    assert!(
        refused.is_empty(),
        "the other group was disturbed: {refused:?}"
    );
    assert_eq!(undisturbed.leadership().borrow().term, term);
    let found = keys(&keyspaces.by_id(STOPPED).unwrap()).await;
    assert_eq!(acknowledged.difference(&found).next(), None, "seed {seed}");
    assert_eq!(keys(&undisturbed).await, all);
    drop(undisturbed);

    inner.stop_assigned(vec![STOPPED]).await.unwrap();
    drop(inner);
    shut_down(node).await;
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_and_starting_can_be_asked_for_again_and_a_stopped_group_can_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(&dir).await;
    let (inner, keyspaces) = (node.inner.clone(), keyspaces(&node));
    let groups = [STOPPED, UNDISTURBED].map(assignment).to_vec();
    inner.create_groups(groups.clone()).await.unwrap();
    put(&keyspaces.by_id(STOPPED).unwrap(), "key".into())
        .await
        .unwrap();
    for unknown in [2, 5] {
        let refused = inner.stop_assigned(vec![STOPPED, unknown]).await;
        assert!(matches!(refused, Err(LifecycleError::Unknown(id)) if id == unknown));
        let refused = inner.start_assigned(vec![unknown]).await;
        assert!(matches!(refused, Err(LifecycleError::Unknown(id)) if id == unknown));
    }
    for _ in 0..2 {
        inner.start_assigned(vec![STOPPED]).await.unwrap();
    }
    assert_eq!(keys(&keyspaces.by_id(STOPPED).unwrap()).await.len(), 1);
    for _ in 0..2 {
        inner
            .stop_assigned(vec![STOPPED, UNDISTURBED])
            .await
            .unwrap();
    }
    // Created again, it stays as it is.
    inner.create_groups(groups).await.unwrap();
    assert!(keyspaces.by_id(STOPPED).is_none());
    inner.drop_groups(vec![STOPPED]).await.unwrap();
    assert!(!keyspaces.is_stopped("extra-3"));
    let refused = inner.start_assigned(vec![STOPPED]).await;
    assert!(matches!(refused, Err(LifecycleError::Unknown(STOPPED))));
    inner.start_assigned(vec![UNDISTURBED]).await.unwrap();
    assert!(
        keys(&keyspaces.by_id(UNDISTURBED).unwrap())
            .await
            .is_empty()
    );
    drop(inner);
    shut_down(node).await;
}

#[tokio::test]
async fn a_stop_that_takes_long_goes_on_and_whoever_asked_is_told_what_it_waits_for() {
    let (steps, step) = watch::channel(Step::HandOver);
    let (end, ended) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move { ended.await.unwrap() });
    let mut stops = Stops::default();
    let stop = Stop {
        step,
        task: Some(task),
    };
    stops.0.insert(STOPPED, stop);
    for (step, told) in [
        (Step::Consensus, "its consensus"),
        (Step::State, "its memory table"),
    ] {
        steps.send_replace(step);
        let late = stops.until_done(STOPPED, Instant::now()).await.unwrap_err();
        assert!(matches!(late, LifecycleError::Stopping { .. }), "{late}");
        assert!(late.to_string().contains(told), "{late}");
    }
    end.send(Err("the disk".into())).unwrap();
    let late = Instant::now() + Duration::from_secs(60);
    let failed = stops.until_done(STOPPED, late).await.unwrap_err();
    assert!(matches!(failed, LifecycleError::Failed(_)), "{failed}");
    stops.until_done(STOPPED, late).await.unwrap();

    // Nobody knows what is left of one that panicked.
    let task = tokio::spawn(async { panic!("a bug") });
    let stop = Stop {
        step: steps.subscribe(),
        task: Some(task),
    };
    stops.0.insert(STOPPED, stop);
    for _ in 0..2 {
        let failed = stops.until_done(STOPPED, late).await.unwrap_err();
        assert!(matches!(failed, LifecycleError::Failed(_)), "{failed}");
    }
}
