//! A write that is sent again takes effect once and gets its first answer: at once, across a change
//! of the leader, across a restart of all nodes, across a snapshot. A client that is not known is
//! refused, however late its request arrives.

use holdfast_client::{CLIENT_ID, REQUEST_SEQ, RETRY};
use holdfast_proto::{
    etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RequestOp,
        TxnRequest, request_op,
    },
    metadata::{OUTCOME, outcome},
    v1::RegisterRequest,
};
use tonic::{Code, Request, Status};

use crate::harness::{Cluster, Node, PATIENCE, default_group, run, until, within};

/// Retry id of a request, and whether it was sent before.
#[derive(Clone)]
pub struct Sender {
    client_id: String,
    seq: u64,
    again: bool,
}

impl Sender {
    /// The first request of a client that this node makes known.
    pub async fn register(node: &Node) -> Self {
        let registered = until("a client is registered", PATIENCE, async || {
            let mut sessions = node.sessions();
            match within(PATIENCE, sessions.register(RegisterRequest {})).await {
                // The leader may change meanwhile. What was registered in vain is of no use to anybody.
                Err(status) if status.code() == Code::Unavailable => Err(status.to_string()),
                answer => Ok(answer.unwrap()),
            }
        })
        .await;
        Self::new(&registered.client_id, 1)
    }

    fn new(client_id: &str, seq: u64) -> Self {
        Self {
            client_id: client_id.to_string(),
            seq,
            again: false,
        }
    }

    /// The same request, sent once more.
    pub fn again(&self) -> Self {
        Self {
            again: true,
            ..self.clone()
        }
    }

    /// The next request of the same client.
    fn next(&self) -> Self {
        Self::new(&self.client_id, self.seq + 1)
    }

    pub fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(CLIENT_ID, self.client_id.parse().unwrap());
        metadata.insert(REQUEST_SEQ, self.seq.into());
        if self.again {
            metadata.insert(RETRY, "1".parse().unwrap());
        }
        request
    }
}

/// A put through one node, sent once.
pub async fn put(node: &Node, sender: &Sender, put: PutRequest) -> Result<PutResponse, Status> {
    within(PATIENCE, node.kv().put(sender.sign(put))).await
}

async fn delete(
    node: &Node,
    sender: &Sender,
    delete: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Status> {
    within(PATIENCE, node.kv().delete_range(sender.sign(delete))).await
}

fn put_of(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_string().into(),
        value: value.to_string().into(),
        prev_kv: true,
        ..Default::default()
    }
}

/// Three requests of which a second effect would show, and their first answers.
struct Repeated {
    cluster: Cluster,
    sender: [Sender; 3],
    put: (PutRequest, PutResponse),
    delete: (DeleteRangeRequest, DeleteRangeResponse),
    refused: (TxnRequest, String),
    /// Revision after all of them.
    revision: i64,
}

impl Repeated {
    async fn new(cluster: Cluster) -> Self {
        let node = cluster.node(cluster.leader().await);
        let first = Sender::register(node).await;
        let sender = [1, 2, 3].map(|seq| Sender::new(&first.client_id, seq));
        let prepared = Sender::register(node).await;
        put(node, &prepared, put_of("to-delete", "x"))
            .await
            .unwrap();
        let request = put_of("counted", "1");
        let answer = put(node, &sender[0], request.clone()).await.unwrap();
        let removal = DeleteRangeRequest {
            key: "to-delete".into(),
            ..Default::default()
        };
        let removed = delete(node, &sender[1], removal.clone()).await.unwrap();
        assert_eq!(removed.deleted, 1);
        // An error of a request is an answer too, and is kept. This reads one revision too far.
        let refused = TxnRequest {
            success: vec![
                RequestOp {
                    request: Some(request_op::Request::RequestRange(RangeRequest {
                        key: "counted".into(),
                        revision: removed.header.as_ref().unwrap().revision + 1,
                        ..Default::default()
                    })),
                },
                RequestOp {
                    request: Some(request_op::Request::RequestPut(put_of("refused", "x"))),
                },
            ],
            ..Default::default()
        };
        let status = within(PATIENCE, node.kv().txn(sender[2].sign(refused.clone()))).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        // A request of its own in between: applied anew, the refused one would now be carried out.
        let between = put(node, &prepared.next(), put_of("between", "x"))
            .await
            .unwrap();
        let revision = between.header.as_ref().unwrap().revision;
        Self {
            cluster,
            sender,
            put: (request, answer),
            delete: (removal, removed),
            refused: (refused, status.message().to_string()),
            revision,
        }
    }

    /// Sends all again through every node: the first answers, and no effect.
    async fn check(&self, when: &str) {
        for node in &self.cluster.nodes {
            let answer = put(node, &self.sender[0].again(), self.put.0.clone())
                .await
                .unwrap();
            let first = &self.put.1;
            let revision = |header: &Option<_>| {
                let header: &holdfast_proto::etcdserverpb::ResponseHeader =
                    header.as_ref().unwrap();
                header.revision
            };
            assert_eq!(revision(&answer.header), revision(&first.header), "{when}");
            assert_eq!(answer.prev_kv, first.prev_kv, "{when}");
            let removal = self.delete.0.clone();
            let answer = delete(node, &self.sender[1].again(), removal)
                .await
                .unwrap();
            let first = &self.delete.1;
            assert_eq!(answer.deleted, 1, "{when}: deleted the first time");
            assert_eq!(revision(&answer.header), revision(&first.header), "{when}");
            let txn = self.sender[2].again().sign(self.refused.0.clone());
            let status = within(PATIENCE, node.kv().txn(txn)).await.unwrap_err();
            assert_eq!(status.message(), self.refused.1, "{when}");
            let read = RangeRequest {
                key: "counted".into(),
                ..Default::default()
            };
            let read = within(PATIENCE, node.kv().range(read)).await.unwrap();
            assert_eq!(read.kvs[0].version, 1, "{when}: written once");
            assert_eq!(
                revision(&read.header),
                self.revision,
                "{when}: nothing was done"
            );
        }
    }
}

#[test]
fn a_request_sent_twice_takes_effect_once() {
    run(async |rng| {
        let repeated = Repeated::new(Cluster::start(rng).await).await;
        repeated.check("at once").await;
        let leader = repeated.cluster.leader().await;
        let next = repeated.cluster.others(leader)[0];
        repeated.cluster.make_leader(next).await;
        repeated.check("after a transfer of the leadership").await;
    });
}

#[test]
fn the_retry_table_survives_the_death_of_the_leader() {
    run(async |rng| {
        let mut repeated = Repeated::new(Cluster::start(rng).await).await;
        let leader = repeated.cluster.leader().await;
        repeated.cluster.node_mut(leader).kill9();
        let others = repeated.cluster.others(leader);
        repeated.cluster.leader_among(&others).await;
        repeated.cluster.node_mut(leader).start();
        repeated.cluster.until_leaders().await;
        repeated.check("after the leader was killed").await;
    });
}

#[test]
fn the_retry_table_survives_a_restart_of_all_nodes() {
    run(async |rng| {
        let mut repeated = Repeated::new(Cluster::start(rng).await).await;
        for node in &mut repeated.cluster.nodes {
            node.kill9();
        }
        for node in &mut repeated.cluster.nodes {
            node.start();
        }
        repeated.cluster.until_leaders().await;
        repeated.check("after all were killed").await;
        for node in &mut repeated.cluster.nodes {
            assert!(node.term().await.success());
        }
        for node in &mut repeated.cluster.nodes {
            node.start();
        }
        repeated.cluster.until_leaders().await;
        repeated.check("after all were asked to go").await;
    });
}

#[test]
fn the_retry_table_is_in_the_snapshot() {
    run(async |rng| {
        let cluster = Cluster::start_with(rng, |config| config.raft.log_entries_max = 50).await;
        let mut repeated = Repeated::new(cluster).await;
        let leader = repeated.cluster.leader().await;
        let away = repeated.cluster.others(leader)[0];
        let told = repeated.cluster.node(leader).groups().await.unwrap();
        let known = default_group(&told).unwrap().last_log_index;
        repeated.cluster.node_mut(away).kill9();
        // The log moves on while the table does not: the repeats are entries without effect.
        let mut sent = 0;
        until("the log is purged", PATIENCE, async || {
            let repeat = put_of("counted", "1");
            let leader = repeated.cluster.leader().await;
            put(
                repeated.cluster.node(leader),
                &repeated.sender[0].again(),
                repeat,
            )
            .await
            .map_err(|status| status.to_string())?;
            sent += 1;
            for id in repeated.cluster.up() {
                let told = repeated.cluster.node(id).groups().await?;
                let group = default_group(&told)?;
                if group.first_log_index <= known + 1 {
                    return Err(format!("node {id}, {sent} sent: {group:?}"));
                }
            }
            Ok(())
        })
        .await;
        repeated.cluster.node_mut(away).start();
        repeated.cluster.until_leaders().await;
        repeated.cluster.until_caught_up(&[1, 2, 3]).await;
        let told = repeated.cluster.node(away).groups().await.unwrap();
        assert!(
            default_group(&told).unwrap().snapshots_installed >= 1,
            "{told:?}"
        );
        repeated.cluster.make_leader(away).await;
        repeated
            .check("on a leader that came from a snapshot")
            .await;
    });
}

fn assert_unknown(status: &Status) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let said = status.metadata().get(OUTCOME);
    assert_eq!(said.unwrap(), outcome::CLIENT_UNKNOWN, "{status:?}");
    assert!(status.message().contains("Sessions/Register"), "{status:?}");
}

#[test]
fn a_client_that_did_not_register_is_refused_and_told_how_to() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let stranger = Sender::new("0123456789abcdef0123456789abcdef", 1);
        for node in &cluster.nodes {
            // The state is raised to the version of registration by then.
            let known = Sender::register(node).await;
            put(node, &known, put_of("known", "1")).await.unwrap();
            for sender in [stranger.clone(), stranger.again(), stranger.next()] {
                let refused = put(node, &sender, put_of("unknown", "1")).await;
                assert_unknown(&refused.unwrap_err());
            }
        }
    });
}

/// The first sending is held up in a paused node while the second takes effect, another client takes
/// the place in the table, and the value is written over. Then it arrives, just as it was first sent.
#[test]
fn a_sending_that_was_held_up_until_its_client_was_forgotten_takes_no_effect() {
    run(async |rng| {
        let cluster = Cluster::start_with(rng, |config| config.limits.retry_clients_max = 1).await;
        let leader = cluster.leader().await;
        let held = cluster.others(leader)[0];
        let (leader, held) = (cluster.node(leader), cluster.node(held));
        // The connection exists before the node is paused, so that the request gets into it.
        let sender = Sender::register(held).await;
        held.pause();
        let mut late = held.kv();
        let message = sender.sign(put_of("k", "old"));
        let late = tokio::spawn(async move { late.put(message).await });
        let first = put(leader, &sender.again(), put_of("k", "old")).await;
        assert_eq!(first.unwrap().prev_kv, None);
        let other = Sender::register(leader).await;
        let over = put(leader, &other, put_of("k", "new")).await.unwrap();
        assert_eq!(over.prev_kv.unwrap().version, 1, "written once");
        held.resume();
        let refused = within(PATIENCE, async {
            late.await.expect("the task of the request does not panic")
        });
        assert_unknown(&refused.await.unwrap_err());
        let read = RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        let read = within(PATIENCE, leader.kv().range(read)).await.unwrap();
        let found = (&read.kvs[0].value[..], read.kvs[0].version);
        assert_eq!(found, (&b"new"[..], 2));
        // Its client registers again, under an id that nothing old is under way with.
        let again = Sender::register(held).await;
        assert_ne!(again.client_id, sender.client_id);
        put(held, &again, put_of("k", "newer")).await.unwrap();
    });
}

/// The bounds of the table are part of the state: what a node is configured with later changes
/// nothing, so replicas that are configured differently stay equal.
#[test]
fn the_bounds_of_the_table_are_those_that_the_keyspace_was_founded_with() {
    run(async |rng| {
        let mut cluster =
            Cluster::start_with(rng, |config| config.limits.retry_clients_max = 2).await;
        for node in &mut cluster.nodes {
            assert!(node.term().await.success());
            node.configure(|config| config.limits.retry_clients_max = 100);
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.until_leaders().await;
        let node = cluster.node(1);
        let first = Sender::register(node).await;
        put(node, &first, put_of("k", "1")).await.unwrap();
        for _ in 0..2 {
            Sender::register(node).await;
        }
        let refused = put(node, &first.again(), put_of("k", "1")).await;
        assert_unknown(&refused.unwrap_err());
    });
}
