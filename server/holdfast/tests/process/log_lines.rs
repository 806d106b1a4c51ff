//! What an operator finds in the log of a node, at the level that is the default.

use holdfast_server::config::{Config, NodeConfig};

use crate::harness::{Cluster, Node, PATIENCE, free_ports, run, until};

/// Waits for a line that says all this, after the first `skip` bytes of the log, and returns it.
async fn says(node: &Node, skip: usize, parts: &[&str]) -> String {
    let what = format!("node {} says {parts:?}", node.id);
    until(&what, PATIENCE, async || {
        let log = node.log().split_off(skip);
        let line = log
            .lines()
            .find(|line| parts.iter().all(|part| line.contains(part)));
        line.map(str::to_string).ok_or(log)
    })
    .await
}

#[test]
fn the_log_tells_of_addresses_peers_and_leaders_and_a_stop_is_no_error() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        for node in &cluster.nodes {
            let at = node.config.node.client_addr.to_string();
            let peers_at = node.config.node.peer_addr.to_string();
            says(node, 0, &["listening", &at, &peers_at]).await;
            says(node, 0, &["this node", "zone=", "cluster_id="]).await;
            for other in cluster.others(node.id) {
                let peer = format!("peer={other} ");
                says(node, 0, &["a peer is reached", &peer]).await;
            }
            for group in ["group=1 ", "group=2 "] {
                says(node, 0, &["the group has a leader", group, "term="]).await;
            }
        }

        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        let skip: Vec<usize> = others
            .iter()
            .map(|id| cluster.node(*id).log().len())
            .collect();
        cluster.node_mut(leader).kill9();
        let url = cluster.node(leader).peer_url();
        let (peer, before) = (format!("peer={leader} "), format!("before=Some({leader})"));
        for (id, skip) in others.iter().zip(&skip) {
            let node = cluster.node(*id);
            says(
                node,
                *skip,
                &["WARN", "a peer cannot be reached", &peer, &url],
            )
            .await;
            says(
                node,
                *skip,
                &["the group has a leader", "group=2 ", &before],
            )
            .await;
        }
        cluster.node_mut(leader).start();
        for (id, skip) in others.iter().zip(&skip) {
            let node = cluster.node(*id);
            says(
                node,
                *skip,
                &["a peer can be reached again", &peer, "after="],
            )
            .await;
            let log = node.log().split_off(*skip);
            let told = log.matches("a peer cannot be reached").count();
            assert_eq!(told, 1, "once: {log}");
        }
        cluster.until_leaders().await;

        for id in [1, 2, 3] {
            let status = cluster.node_mut(id).term().await;
            assert!(status.success(), "{status}");
        }
        for node in &cluster.nodes {
            let log = node.log();
            assert!(!log.contains(" ERROR "), "node {}: {log}", node.id);
        }
    });
}

#[test]
fn a_node_that_is_back_under_other_ports_is_told_of_on_both_sides() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let leader = cluster.leader().await;
        let moved = cluster.others(leader)[0];
        let own = cluster.node(moved).config.clone();
        cluster.node_mut(moved).term().await;
        // It lacks something, so it cannot even serve what it has.
        let written = cluster.load_of(4, 20).await.finish().await;
        written.assert_no_failures();
        let ports = free_ports(rng, 2);
        let member = own.this_member().unwrap();
        let mut elsewhere = Node::new(Config {
            node: NodeConfig {
                client_addr: ([127, 0, 0, 1], ports[0]).into(),
                peer_addr: ([127, 0, 0, 1], ports[1]).into(),
                advertise_client_url: member.client_url.clone(),
                advertise_peer_url: member.peer_url.clone(),
                ..own.node.clone()
            },
            ..own.clone()
        });
        let skip = elsewhere.log().len();
        elsewhere.start();
        let (peer, url) = (format!("peer={moved} "), member.peer_url.as_str());
        for id in cluster.others(moved) {
            let parts = [
                "a peer speaks to this node and cannot be reached",
                &peer,
                url,
            ];
            says(cluster.node(id), 0, &parts).await;
        }
        let listens_on = format!("listens_on={}", elsewhere.config.node.peer_addr);
        let parts = ["WARN", "the group has no leader", &listens_on, url];
        says(&elsewhere, skip, &parts).await;
    });
}
