//! Strangers at the ports, messages that are meant for somebody else, and directories of others:
//! refused with a reason, while the cluster goes on serving.

use std::time::Duration;

use holdfast_proto::peer::{
    AppendRequest, Forward, ForwardBatch, HelloRequest, ReadIndex, VoteRequest, forward,
    peer_client::PeerClient,
};
use holdfast_server::config::Config;
use rand::{Rng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request};

use crate::harness::{Cluster, Node, PATIENCE, channel, free_ports, run, until, within};

/// What begins every HTTP/2 connection (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn garbage_on_the_ports_does_not_disturb_a_node() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let load = cluster.load(8).await;
        load.until_more(100).await;
        for node in &cluster.nodes {
            for port in [node.config.node.client_addr, node.config.node.peer_addr] {
                for begins in [b"".as_slice(), HTTP2_PREFACE, b"GET / HTTP/1.1\r\n\r\n"] {
                    let mut garbage = vec![0; 64 * 1024];
                    rng.fill_bytes(&mut garbage);
                    let mut stranger = TcpStream::connect(port).await.unwrap();
                    // The node may hang up at any moment: that is what is expected of it.
                    let _ = stranger.write_all(begins).await;
                    let _ = stranger.write_all(&garbage).await;
                    let _ = stranger.shutdown().await;
                    let mut answer = Vec::new();
                    let hung_up = stranger.read_to_end(&mut answer);
                    let hung_up = tokio::time::timeout(PATIENCE, hung_up).await;
                    assert!(hung_up.is_ok(), "{port} keeps a stranger waiting");
                }
            }
        }
        load.until_more(100).await;
        let history = load.stop().await;
        history.assert_no_failures();
        for node in &mut cluster.nodes {
            node.check_alive().unwrap();
            assert!(
                !node.log().contains("panicked"),
                "node {} panicked",
                node.id
            );
        }
        cluster.verify(&history).await;
    });
}

/// Metadata of a message between nodes.
#[derive(Clone, Copy)]
struct Signature {
    cluster: u64,
    from: u64,
    incarnation: u64,
    to: u64,
}

impl Signature {
    fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("holdfast-cluster-id", self.cluster.into());
        metadata.insert("holdfast-node-id", self.from.into());
        metadata.insert("holdfast-incarnation", self.incarnation.into());
        metadata.insert("holdfast-to-node", self.to.into());
        request
    }
}

/// What a node has written down about itself.
fn identity(node: &Node, field: &str) -> u64 {
    let text = std::fs::read(node.data_dir().join("identity.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_slice(&text).unwrap();
    identity[field].as_u64().unwrap()
}

#[test]
fn messages_of_strangers_and_for_others_are_refused() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let history = cluster.load_of(8, 100).await.finish().await;
        let term = cluster.node(1).groups().await.unwrap().groups[1].term;
        let right = Signature {
            cluster: identity(cluster.node(1), "cluster_id"),
            from: 2,
            incarnation: identity(cluster.node(2), "incarnation"),
            to: 1,
        };
        let at = channel(&cluster.node(1).peer_url());
        let stranger = Signature {
            cluster: right.cluster ^ 1,
            ..right
        };
        let misled = Signature { to: 3, ..right };
        let unknown = Signature { from: 4, ..right };
        let impostor = Signature { from: 1, ..right };
        let amnesiac = Signature {
            incarnation: right.incarnation ^ 1,
            ..right
        };
        for (who, code, reason) in [
            (stranger, Code::FailedPrecondition, "cluster ID mismatch"),
            (
                misled,
                Code::FailedPrecondition,
                "is for node 3, this is node 1",
            ),
            (unknown, Code::PermissionDenied, "node 4 is not a peer"),
            (impostor, Code::PermissionDenied, "node 1 is not a peer"),
            (amnesiac, Code::FailedPrecondition, "has lost its data"),
        ] {
            let mut peer = PeerClient::new(at.clone());
            // A vote that would be granted to a peer: it is refused before it is looked at.
            let vote = who.sign(VoteRequest {
                group_id: 2,
                vote: Some(holdfast_proto::peer::Vote {
                    term: term + 1_000,
                    voted_for: 2,
                    committed: false,
                }),
                ..Default::default()
            });
            let append = who.sign(tokio_stream::iter([AppendRequest {
                group_id: 2,
                ..Default::default()
            }]));
            let forward = who.sign(tokio_stream::iter([ForwardBatch {
                requests: vec![Forward {
                    id: 1,
                    group_id: 2,
                    request: Some(forward::Request::ReadIndex(ReadIndex {})),
                }],
            }]));
            let refusals = [
                within(PATIENCE, peer.vote(vote))
                    .await
                    .map(drop)
                    .unwrap_err(),
                within(PATIENCE, peer.append(append))
                    .await
                    .map(drop)
                    .unwrap_err(),
                within(PATIENCE, peer.forward(forward))
                    .await
                    .map(drop)
                    .unwrap_err(),
            ];
            for status in refusals {
                assert_eq!(status.code(), code, "{status}");
                assert!(status.message().contains(reason), "{reason}: {status}");
            }
        }
        let mut peer = PeerClient::new(at);
        let unsigned = within(PATIENCE, peer.vote(VoteRequest::default()))
            .await
            .unwrap_err();
        assert_eq!(unsigned.code(), Code::InvalidArgument, "{unsigned}");
        // An introduction is how a node with another memory finds out: it is answered, not refused.
        let hello = amnesiac.sign(HelloRequest {
            cluster_id: amnesiac.cluster,
            node_id: 2,
            incarnation: amnesiac.incarnation,
            fresh: true,
            ..Default::default()
        });
        let told = within(PATIENCE, peer.hello(hello)).await.unwrap();
        assert_eq!(
            told.recorded_incarnation, right.incarnation,
            "the first stays on record"
        );
        let now = cluster.node(1).groups().await.unwrap().groups[1].term;
        assert!(now < term + 1_000, "a refused vote moves no term");
        cluster.verify(&history).await;
    });
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let history = cluster.load_of(8, 100).await.finish().await;
        let config = stranger(&cluster, rng);
        let mut other = Node::new(config);
        other.start();
        until(
            "the stranger learns that it is refused",
            PATIENCE,
            async || {
                other.check_alive()?;
                let log = other.log();
                match log.contains("refuses this node") && log.contains("cluster ID mismatch") {
                    true => Ok(()),
                    false => Err(log),
                }
            },
        )
        .await;
        let told = other.groups().await.unwrap();
        assert!(told.groups.is_empty(), "it takes part in nothing: {told:?}");
        for node in &cluster.nodes {
            until("the members tell of it", PATIENCE, async || {
                match node.log().contains("refused a peer of another cluster") {
                    true => Ok(()),
                    false => Err(format!("node {}", node.id)),
                }
            })
            .await;
        }
        assert!(other.term().await.success());
        cluster.verify(&history).await;
    });
}

/// The configuration of a fourth node that counts the members of a cluster among its own.
fn stranger(cluster: &Cluster, rng: &mut StdRng) -> Config {
    let ports = free_ports(rng, 2);
    let mut config = cluster.node(1).config.clone();
    config.cluster.name = "another".to_string();
    config.node.id = 4;
    config.node.zone = "zone-d".to_string();
    config.node.data_dir = cluster.dir().join("stranger");
    config.node.client_addr = ([127, 0, 0, 1], ports[0]).into();
    config.node.peer_addr = ([127, 0, 0, 1], ports[1]).into();
    let mut member = config.cluster.members[0].clone();
    member.id = 4;
    member.zone = "zone-d".to_string();
    member.client_url = format!("http://127.0.0.1:{}", ports[0]);
    member.peer_url = format!("http://127.0.0.1:{}", ports[1]);
    config.cluster.members.push(member);
    config
}

#[test]
fn a_data_directory_of_somebody_else_is_refused() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let history = cluster.load_of(8, 100).await.finish().await;
        let own = cluster.node(2).config.clone();

        // In use: by the very node that owns it.
        let ports = free_ports(rng, 2);
        let mut second = Node::new(Config {
            node: holdfast_server::config::NodeConfig {
                client_addr: ([127, 0, 0, 1], ports[0]).into(),
                peer_addr: ([127, 0, 0, 1], ports[1]).into(),
                advertise_client_url: own.cluster.members[1].client_url.clone(),
                advertise_peer_url: own.cluster.members[1].peer_url.clone(),
                ..own.node.clone()
            },
            ..own.clone()
        });
        refuses_to_start(&mut second, &["in use", "node.data_dir"]).await;

        cluster.node_mut(2).kill9();
        let mut other_node = cluster.node(3).config.clone();
        cluster.node_mut(3).kill9();
        other_node.node.data_dir = own.node.data_dir.clone();
        let mut other = Node::new(other_node);
        let says = [
            "belongs to node 2",
            "node.id is 3",
            "choose another node.data_dir",
        ];
        refuses_to_start(&mut other, &says).await;

        let mut other_cluster = own.clone();
        other_cluster.cluster.name = "another".to_string();
        let mut other = Node::new(other_cluster);
        let says = [
            "belongs to cluster \"holdfast\"",
            "cluster.name is \"another\"",
        ];
        refuses_to_start(&mut other, &says).await;

        // Nothing was harmed by the attempts.
        cluster.node_mut(2).start();
        cluster.node_mut(3).start();
        cluster.until_leaders().await;
        cluster.verify(&history).await;
    });
}

/// The process ends with an error that says all this.
async fn refuses_to_start(node: &mut Node, says: &[&str]) {
    let before = node.log().len();
    node.start();
    let status = node.exit(Duration::from_secs(30)).await;
    let log = node.log().split_off(before);
    assert!(!status.success(), "it must not run: {log}");
    for what in says {
        assert!(log.contains(what), "{what:?} is not in: {log}");
    }
}
