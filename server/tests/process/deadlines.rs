//! Without a quorum nothing is acknowledged, and nobody waits longer than he said.

use std::time::{Duration, Instant};

use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::harness::{Cluster, PATIENCE, run, within};

const DEADLINE: Duration = Duration::from_millis(500);
/// What a slow machine may add before the answer arrives.
const SLACK: Duration = Duration::from_millis(1_500);

#[test]
fn without_a_quorum_requests_end_by_their_deadline() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let mut history = cluster.load_of(64, 500).await.finish().await;
        history.assert_no_failures();
        let left = cluster.leader().await;
        for id in cluster.others(left) {
            cluster.node_mut(id).kill9();
        }
        let mut requests = JoinSet::new();
        for n in 0..20 {
            let key = format!("in-vain-{n:02}");
            let mut kv = cluster.node(left).kv();
            requests.spawn(async move {
                let mut request = Request::new(PutRequest {
                    key: key.clone().into(),
                    value: key.clone().into(),
                    ..Default::default()
                });
                request.set_timeout(DEADLINE);
                let begun = Instant::now();
                let answer = within(PATIENCE, kv.put(request)).await;
                (key, answer, begun.elapsed())
            });
        }
        while let Some(ended) = requests.join_next().await {
            let (key, answer, elapsed) = ended.unwrap();
            let status = answer.expect_err("one of three acknowledges nothing");
            assert_ended(&status, elapsed);
            history.unknown(&key, &key, &status.to_string());
        }
        let mut read = Request::new(RangeRequest {
            key: "in-vain-00".into(),
            ..Default::default()
        });
        read.set_timeout(DEADLINE);
        let begun = Instant::now();
        let status = within(PATIENCE, cluster.node(left).kv().range(read)).await;
        let status = status.expect_err("a linearizable read needs a quorum");
        assert_ended(&status, begun.elapsed());
        // A serializable one does not.
        let read = RangeRequest {
            key: "load-1/00000000".into(),
            serializable: true,
            ..Default::default()
        };
        let local = within(PATIENCE, cluster.node(left).kv().range(read))
            .await
            .unwrap();
        assert_eq!(local.kvs.len(), 1);

        for id in cluster.others(left) {
            cluster.node_mut(id).start();
        }
        cluster.until_leaders().await;
        cluster.verify(&history).await;
        history.extend(cluster.load_of(64, 200).await.finish().await);
        cluster.verify(&history).await;
    });
}

fn assert_ended(status: &tonic::Status, elapsed: Duration) {
    // The client's own timer says Cancelled, the node Unavailable or DeadlineExceeded.
    let codes = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];
    assert!(codes.contains(&status.code()), "{status}");
    assert!(elapsed < DEADLINE + SLACK, "{elapsed:?}: {status}");
}
