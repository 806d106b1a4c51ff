//! A cluster whose first configuration was wrong. As long as nobody has promised anything, founding
//! it begins again with the corrected one; afterwards a node keeps the cluster that it has.

use holdfast_server::config::Config;

use crate::harness::{Cluster, PATIENCE, default_group, run, until};

/// An address of the members that nobody listens on.
fn misspell(config: &mut Config, id: u64) {
    let members = &mut config.cluster.members;
    let member = members.iter_mut().find(|member| member.id == id).unwrap();
    member.peer_url = "http://127.0.0.1:1".to_owned();
    if config.node.id == id {
        config.node.advertise_peer_url = member.peer_url.clone();
    }
}

async fn stop_and_correct(cluster: &mut Cluster, right: &[Config]) {
    for (node, right) in cluster.nodes.iter_mut().zip(right) {
        let status = node.term().await;
        assert!(status.success(), "{status}");
        node.config = right.clone();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.until_leaders().await;
}

/// One node was told another port of one of the others.
#[test]
fn a_cluster_forms_once_the_wrong_port_of_one_node_is_corrected() {
    run(async |rng| {
        let mut cluster = Cluster::down(rng, |_| {});
        let right: Vec<Config> = cluster.nodes.iter().map(|n| n.config.clone()).collect();
        misspell(&mut cluster.node_mut(3).config, 1);
        for node in &mut cluster.nodes {
            node.start();
        }
        until("the refusal names the remedy", PATIENCE, async || {
            let log = cluster.node(1).log() + &cluster.node(3).log();
            let remedy = "correct its list of members and start it again";
            match log.contains("refuses this node") && log.contains(remedy) {
                true => Ok(()),
                false => Err(log),
            }
        })
        .await;
        stop_and_correct(&mut cluster, &right).await;
        let history = cluster.load_of(8, 100).await.finish().await;
        history.assert_no_failures();
        cluster.verify(&history).await;
    });
}

/// All were told the same wrong port of one node: it reaches the others, they do not reach it. It
/// goes ahead alone, and can neither elect nor commit.
#[test]
fn a_node_that_went_ahead_alone_founds_again_with_the_corrected_list() {
    run(async |rng| {
        let mut cluster = Cluster::down(rng, |_| {});
        let right: Vec<Config> = cluster.nodes.iter().map(|n| n.config.clone()).collect();
        for node in &mut cluster.nodes {
            misspell(&mut node.config, 3);
            node.start();
        }
        until("node 3 goes ahead", PATIENCE, async || {
            let told = cluster.node(3).groups().await?;
            default_group(&told).map(|_| ())
        })
        .await;
        stop_and_correct(&mut cluster, &right).await;
        let mut history = cluster.load_of(8, 100).await.finish().await;
        history.assert_no_failures();
        cluster.verify(&history).await;

        // Now it has promised, and keeps what it has, whatever the list says.
        let node = cluster.node_mut(3);
        node.kill9();
        misspell(&mut node.config, 1);
        node.start();
        let others = [1, 2];
        history.extend(cluster.load_of(8, 100).await.finish().await);
        cluster.verify_on(&others, &history).await;
        let node = cluster.node_mut(3);
        node.kill9();
        node.config = right[2].clone();
        node.start();
        cluster.until_leaders().await;
        cluster.verify(&history).await;
    });
}
