//! Without a quorum nothing is acknowledged, and nobody waits longer than he said.

use std::time::{Duration, Instant};

use holdfast_proto::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest, StatusRequest};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{Cluster, Node, PATIENCE, Wire, channel, run, until, within};

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

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const MEMBERS: &str = "/etcdserverpb.Cluster/MemberList";
const HAS_LEADER: (&str, &str) = ("hasleader", "true");

fn read(serializable: bool) -> RangeRequest {
    RangeRequest {
        key: "load-1/00000000".into(),
        serializable,
        ..Default::default()
    }
}

#[track_caller]
fn assert_refused(answer: Result<(), tonic::Status>, code: Code, message: &str) {
    let status = answer.expect_err("it is refused");
    assert_eq!((status.code(), status.message()), (code, message));
}

/// What a node tells of its health.
async fn health(node: &Node, service: &str) -> Result<ServingStatus, String> {
    let mut client = HealthClient::new(channel(&node.client_url()));
    let request = HealthCheckRequest {
        service: service.to_string(),
    };
    let answer = within(PATIENCE, client.check(request)).await;
    Ok(answer.map_err(|status| status.to_string())?.status())
}

/// Services that etcd tells the health of too, and one of a keyspace.
const SERVICES: [&str; 3] = ["", "etcdserverpb.KV", "holdfast.keyspace.default"];

async fn until_healthy(node: &Node, services: &[&str], healthy: bool) {
    let wanted = match healthy {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    until("the health tells it", PATIENCE, async || {
        for service in services {
            let told = health(node, service).await?;
            if told != wanted {
                return Err(format!("{service:?} is {told:?}"));
            }
        }
        Ok(())
    })
    .await;
}

/// The leader that a node names; 0 for none.
async fn named_leader(node: &Node) -> Result<u64, String> {
    let answer = within(PATIENCE, node.maintenance().status(StatusRequest {})).await;
    Ok(answer.map_err(|status| status.to_string())?.leader)
}

/// Many readers come and give up while no quorum is there. Each of the two nodes is asked that may
/// be left: the one that led, which still believes so, and one that followed.
#[test]
fn readers_that_gave_up_do_not_make_a_node_lie_about_its_quorum() {
    run(async |rng| {
        const PLACES: usize = 64;
        let mut cluster = Cluster::start_with(rng, |config| {
            config.limits.reads_waiting_max = PLACES;
        })
        .await;
        let history = cluster.load_of(8, 50).await.finish().await;
        history.assert_no_failures();
        for led in [true, false] {
            let leader = cluster.leader().await;
            let left = match led {
                true => leader,
                false => cluster.others(leader)[0],
            };
            until_healthy(cluster.node(left), &SERVICES[..2], true).await;
            for id in cluster.others(left) {
                cluster.node_mut(id).kill9();
            }
            let node = cluster.node(left);
            until(
                "no leader is named",
                PATIENCE,
                async || match named_leader(node).await? {
                    0 => Ok(()),
                    leader => Err(format!("node {left} names {leader}")),
                },
            )
            .await;
            let wire = Wire::connect(node).await;
            let mut readers = JoinSet::new();
            for _ in 0..10 * PLACES {
                let wire = wire.clone();
                readers.spawn(async move {
                    wire.ask(RANGE, &read(false), &[("grpc-timeout", "300m")])
                        .await
                });
            }
            while let Some(answer) = readers.join_next().await {
                let status = answer.unwrap().expect_err("a read needs a quorum");
                // Its own deadline, unless there was no room to wait for it.
                match status.code() {
                    Code::DeadlineExceeded => {}
                    Code::Unavailable => assert_eq!(status.message(), "etcdserver: no leader"),
                    _ => panic!("{status}"),
                }
            }
            // All have gone: whoever comes is not one too many, and the node does not pretend.
            let exceeded = "etcdserver: context deadline exceeded";
            let soon = ("grpc-timeout", "300m");
            let late = ("grpc-timeout", "20S");
            let answer = wire.ask(RANGE, &read(false), &[soon]).await;
            assert_refused(answer, Code::DeadlineExceeded, exceeded);
            let answer = wire.ask(RANGE, &read(true), &[HAS_LEADER, late]).await;
            assert_refused(answer, Code::Unavailable, "etcdserver: no leader");
            let listed = MemberListRequest {
                linearizable: false,
            };
            let answer = wire.ask(MEMBERS, &listed, &[HAS_LEADER, late]).await;
            assert_refused(answer, Code::Unavailable, "etcdserver: no leader");
            let newest = MemberListRequest { linearizable: true };
            let answer = wire.ask(MEMBERS, &newest, &[soon]).await;
            assert_refused(answer, Code::DeadlineExceeded, exceeded);
            let not_asked = [("hasleader", "false"), late];
            wire.ask(RANGE, &read(true), &not_asked).await.unwrap();
            wire.ask(MEMBERS, &listed, &not_asked).await.unwrap();
            let put = PutRequest {
                key: "in-vain".into(),
                ..Default::default()
            };
            let answer = wire.ask(PUT, &put, &[soon]).await;
            assert_refused(answer, Code::DeadlineExceeded, exceeded);
            assert_eq!(named_leader(node).await, Ok(0));
            let told = node.groups().await.unwrap();
            assert!(told.groups.iter().all(|g| g.leader == 0), "{told:?}");
            until_healthy(node, &SERVICES, false).await;

            for id in cluster.others(left) {
                cluster.node_mut(id).start();
            }
            cluster.until_leaders().await;
            until_healthy(cluster.node(left), &SERVICES, true).await;
            let wire = Wire::connect(cluster.node(left)).await;
            let answer = wire.ask(RANGE, &read(false), &[HAS_LEADER, late]).await;
            answer.unwrap();
        }
    });
}
