//! Reads of many keys: given up with their callers, bounded in memory together, which comes back; and a
//! compaction that is waited for.

use std::time::{Duration, Instant};

use holdfast_proto::etcdserverpb::{
    CompactionRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request::SortOrder,
    range_request::SortTarget, request_op,
};
use holdfast_server::config::Config;
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::harness::{Cluster, Node, PATIENCE, Wire, default_group, run, until, within};

const RANGE: &str = "/etcdserverpb.KV/Range";
const KEYS: usize = 20_000;
const OPS_IN_TXN: usize = 100;
const READERS: usize = 100;

/// A busy machine changes no leader meanwhile.
fn calm(config: &mut Config) {
    config.raft.heartbeat_interval_ms = 200;
    config.raft.election_timeout_min_ms = 3_000;
    config.raft.election_timeout_max_ms = 6_000;
}

/// Writes keys of 300 bytes each.
async fn fill(node: &Node) {
    for first in (0..KEYS).step_by(OPS_IN_TXN) {
        let puts = (first..first + OPS_IN_TXN).map(|n| RequestOp {
            request: Some(request_op::Request::RequestPut(PutRequest {
                key: format!("key-{:06}", n * 7919 % KEYS).into(),
                value: vec![b'v'; 300].into(),
                ..Default::default()
            })),
        });
        let txn = TxnRequest {
            success: puts.collect(),
            ..Default::default()
        };
        until("a part is written", PATIENCE, async || {
            let written = within(PATIENCE, node.kv().txn(txn.clone())).await;
            written.map(drop).map_err(|status| status.to_string())
        })
        .await;
    }
}

/// Everything, by the time of its last change.
fn sorted() -> RangeRequest {
    RangeRequest {
        key: "key".into(),
        range_end: "kez".into(),
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Mod.into(),
        serializable: true,
        ..Default::default()
    }
}

/// Waits until a node does next to nothing, and tells what it has used by then.
async fn until_idle(node: &Node) -> Duration {
    const LOOK: Duration = Duration::from_millis(500);
    until("the node has nothing to do", 3 * PATIENCE, async || {
        let before = node.cpu();
        tokio::time::sleep(LOOK).await;
        let used = node.cpu() - before;
        match used < LOOK / 3 {
            true => Ok(node.cpu()),
            false => Err(format!("it used {used:?} in {LOOK:?}")),
        }
    })
    .await
}

#[test]
fn reads_that_were_given_up_cost_little_and_memory_comes_back() {
    run(async |rng| {
        let cluster = Cluster::start_with(rng, calm).await;
        let node = cluster.node(cluster.leader().await);
        fill(node).await;
        let wire = Wire::connect(node).await;
        let resident = || {
            (
                node.memory_kib("VmRSS") / 1024,
                node.memory_kib("VmHWM") / 1024,
            )
        };
        until_idle(node).await;
        let before = node.cpu();
        wire.ask(RANGE, &sorted(), &[]).await.unwrap();
        let of_one = until_idle(node).await - before;

        let before = node.cpu();
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let wire = wire.clone();
            readers
                .spawn(async move { wire.ask(RANGE, &sorted(), &[("grpc-timeout", "50m")]).await });
        }
        let mut given_up = Vec::new();
        while let Some(answer) = readers.join_next().await {
            given_up.extend(answer.unwrap().err());
        }
        let of_all = until_idle(node).await - before;
        let number = given_up.len();
        println!("one read: {of_one:?}; {READERS}, of which {number} given up: {of_all:?}");
        assert!(number > READERS / 2, "{number} of {READERS} were given up");
        let all_worked_out = of_one * READERS as u32;
        assert!(
            of_all < all_worked_out / 4,
            "{of_all:?} of {all_worked_out:?}"
        );
        for status in given_up {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        }

        // All are answered when they have time, a few at once.
        let (quiet, _) = resident();
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let wire = Wire::connect(node).await;
            readers.spawn(async move { wire.ask(RANGE, &sorted(), &[]).await });
        }
        while let Some(answer) = readers.join_next().await {
            answer.unwrap().unwrap();
        }
        println!(
            "MiB resident now, and at most: {:?}; before {quiet}",
            resident()
        );
        until("memory comes back", PATIENCE, async || {
            let (now, most) = resident();
            // The reads together may keep 256 MiB.
            assert!(most < quiet + 400, "{most} MiB at most, {quiet} before");
            match now < quiet + 100 {
                true => Ok(()),
                false => Err(format!("{now} MiB, {quiet} before")),
            }
        })
        .await;
    });
}

/// A snapshot on its way to a node that was away holds the removal back for longer than a node works on
/// a request whose client sets no deadline.
#[test]
fn a_physical_compaction_is_waited_for_as_long_as_the_client_waits() {
    run(async |rng| {
        const VALUE_BYTES: usize = 100_000;
        const VALUES: usize = 300;
        const SNAPSHOT_BYTES_PER_SECOND: u64 = 1 << 20;
        let mut cluster = Cluster::start_with(rng, |config| {
            calm(config);
            config.raft.log_entries_max = 100;
            config.limits.snapshot_bytes_per_second_max = SNAPSHOT_BYTES_PER_SECOND;
        })
        .await;
        let leader = cluster.leader().await;
        let away = cluster.others(leader)[0];
        let told = cluster.node(away).groups().await.unwrap();
        let known = default_group(&told).unwrap().last_log_index;
        cluster.node_mut(away).kill9();
        let mut kv = cluster.node(leader).kv();
        for n in 0..VALUES {
            let put = PutRequest {
                key: format!("key-{n:03}").into(),
                value: vec![n as u8; VALUE_BYTES].into(),
                ..Default::default()
            };
            within(PATIENCE, kv.put(put)).await.unwrap();
        }
        until("the log is purged", PATIENCE, async || {
            let told = cluster.node(leader).groups().await?;
            match default_group(&told)?.first_log_index > known + 1 {
                true => Ok(()),
                false => Err(format!("{told:?}")),
            }
        })
        .await;
        cluster.node_mut(away).start();
        let incoming = cluster.node(away).data_dir().join("incoming");
        until("a snapshot is on its way", PATIENCE, async || {
            let files = std::fs::read_dir(&incoming).map_err(|e| e.to_string())?;
            let bytes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
            match bytes.sum::<u64>() {
                0 => Err("nothing has come".to_string()),
                _ => Ok(()),
            }
        })
        .await;
        let put = PutRequest {
            key: "key-000".into(),
            ..Default::default()
        };
        let written = within(PATIENCE, kv.put(put)).await.unwrap();
        let mut request = Request::new(CompactionRequest {
            revision: written.header.unwrap().revision,
            physical: true,
        });
        request.set_timeout(PATIENCE);
        let begun = Instant::now();
        let answer = within(2 * PATIENCE, kv.compact(request)).await;
        let waited = begun.elapsed();
        println!("held back for {waited:?}");
        answer.expect("the client waits long enough");
        assert!(
            waited > Duration::from_millis(7_500),
            "nothing held it back"
        );
        cluster.until_leaders().await;
        cluster.until_caught_up(&[1, 2, 3]).await;
        cluster.same_hash(&[1, 2, 3]).await;
    });
}
