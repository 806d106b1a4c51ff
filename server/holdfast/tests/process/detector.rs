//! What nodes see of one that is killed, that hangs, that is asked to go: the failure detector, as far as it
//! shows in the log, and in what they tell operators.

use std::time::Instant;

use holdfast_proto::v1::{PeerState, PeersRequest};

use crate::harness::{Cluster, PATIENCE, run, until};

/// Waits until every other node has logged `line` of `subject` after the bytes of its log in `skip`.
async fn all_say(cluster: &Cluster, skip: &[(u64, usize)], subject: u64, line: &str) {
    let peer = format!("peer={subject}");
    for (id, skip) in skip {
        let what = format!("node {id} says {line:?} of {subject}");
        until(&what, PATIENCE, async || {
            let log = cluster.node(*id).log().split_off(*skip);
            let says = |said: &str| {
                said.contains(line) && said.split_whitespace().any(|word| word == peer)
            };
            if log.lines().any(says) {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
    }
}

/// Waits until every other node tells operators that `subject` is in this state.
async fn all_tell(cluster: &Cluster, subject: u64, state: PeerState) {
    for id in cluster.others(subject) {
        let what = format!("node {id} tells that node {subject} is {state:?}");
        until(&what, PATIENCE, async || {
            let mut admin = cluster.node(id).admin();
            let told = admin.peers(PeersRequest {}).await;
            let told = told.map_err(|status| status.to_string())?.into_inner();
            let peer = told.peers.iter().find(|peer| peer.node_id == subject);
            match peer {
                Some(peer)
                    if told.node_id == id && peer.state() == state && peer.patience_ms > 0 =>
                {
                    Ok(())
                }
                _ => Err(format!("{told:?}")),
            }
        })
        .await;
    }
}

fn lengths(cluster: &Cluster, ids: &[u64]) -> Vec<(u64, usize)> {
    let ids = ids.iter();
    ids.map(|id| (*id, cluster.node(*id).log().len())).collect()
}

#[test]
fn who_is_killed_is_gone_who_hangs_is_silent_and_who_is_asked_to_go_says_so() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;

        let killed = cluster.leader().await;
        let others = cluster.others(killed);
        let skip = lengths(&cluster, &others);
        cluster.node_mut(killed).kill9();
        let since = Instant::now();
        all_say(&cluster, &skip, killed, "the process of a peer is gone").await;
        println!("killed: all others know after {:?}", since.elapsed());
        all_tell(&cluster, killed, PeerState::Gone).await;
        cluster.node_mut(killed).start();
        all_say(&cluster, &skip, killed, "a peer gives signs of life again").await;
        cluster.until_leaders().await;

        let hung = cluster.leader().await;
        let others = cluster.others(hung);
        let skip = lengths(&cluster, &others);
        cluster.node(hung).pause();
        let since = Instant::now();
        all_say(&cluster, &skip, hung, "a peer is silent").await;
        println!("stopped: all others know after {:?}", since.elapsed());
        all_tell(&cluster, hung, PeerState::Silent).await;
        let own = lengths(&cluster, &[hung]);
        cluster.node(hung).resume();
        all_say(&cluster, &skip, hung, "a peer gives signs of life again").await;
        cluster.until_leaders().await;
        all_tell(&cluster, hung, PeerState::Alive).await;
        let log = cluster.node(hung).log().split_off(own[0].1);
        assert!(
            !log.contains("a peer is silent"),
            "who did not run accuses nobody: {log}"
        );

        let leaves = cluster.leader().await;
        let skip = lengths(&cluster, &cluster.others(leaves));
        assert!(cluster.node_mut(leaves).term().await.success());
        all_say(&cluster, &skip, leaves, "a peer has stopped").await;
    });
}
