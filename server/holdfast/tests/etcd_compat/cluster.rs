//! Members, state, hashes, leadership; and what a node says that sees no leader.

use std::collections::BTreeSet;

use holdfast_proto::etcdserverpb::{
    AlarmRequest, HashKvRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, RangeRequest, StatusRequest,
};
use tonic::{Code, Request};

use crate::{get, node::Nodes, put, refused};

fn has_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    request
}

#[tokio::test]
async fn three_nodes_tell_the_same_of_themselves_until_the_leader_is_lost() {
    let mut nodes = Nodes::start(3).await;
    let written = nodes.kv(1).put(put("a", "1")).await.unwrap().into_inner();
    assert_eq!(written.header.as_ref().unwrap().revision, 2);

    let mut headers = BTreeSet::new();
    for node in 0..3 {
        // Every node answers linearizable reads, and so has applied what was written.
        let read = nodes
            .kv(node)
            .range(has_leader(get("a")))
            .await
            .unwrap()
            .into_inner();
        let header = read.header.unwrap();
        assert_eq!((header.revision, header.member_id), (2, node as u64 + 1));
        headers.insert(header.cluster_id);

        let mut cluster = nodes.cluster(node);
        for linearizable in [false, true] {
            let list = cluster
                .member_list(MemberListRequest { linearizable })
                .await;
            let list = list.unwrap().into_inner();
            assert_eq!(list.header.unwrap().revision, 0, "members have no revision");
            for (member, at) in list.members.iter().zip(0..) {
                assert_eq!((member.id, member.is_learner), (at as u64 + 1, false));
                assert_eq!(member.name, format!("node-{}", member.id));
                assert_eq!(
                    member.client_ur_ls,
                    [format!("http://127.0.0.1:{}", nodes.port(at))]
                );
                assert_eq!(member.peer_ur_ls.len(), 1);
            }
            assert_eq!(list.members.len(), 3);
        }
        let unsupported = "holdfast: adding a member is not supported";
        let answer = cluster.member_add(MemberAddRequest::default()).await;
        refused(answer, Code::Unimplemented, unsupported);
        let answer = cluster.member_remove(MemberRemoveRequest { id: 1 }).await;
        refused(
            answer,
            Code::Unimplemented,
            "holdfast: removing a member is not supported",
        );
        let answer = cluster.member_update(MemberUpdateRequest::default()).await;
        refused(
            answer,
            Code::Unimplemented,
            "holdfast: updating a member is not supported",
        );
        let answer = cluster.member_promote(MemberPromoteRequest { id: 1 }).await;
        refused(
            answer,
            Code::Unimplemented,
            "holdfast: promoting a member is not supported",
        );
        let alarms = nodes
            .maintenance(node)
            .alarm(AlarmRequest::default())
            .await
            .unwrap();
        assert!(alarms.into_inner().alarms.is_empty());
    }
    assert_eq!(headers.len(), 1, "one cluster id");

    let mut hashes = BTreeSet::new();
    for node in 0..3 {
        let mut maintenance = nodes.maintenance(node);
        let answer = maintenance
            .hash_kv(HashKvRequest { revision: 2 })
            .await
            .unwrap();
        let answer = answer.into_inner();
        assert_eq!(answer.hash_revision, 2);
        hashes.insert((answer.hash, answer.compact_revision));
        refused(
            maintenance.hash_kv(HashKvRequest { revision: 3 }).await,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        );
    }
    assert_eq!(hashes.len(), 1, "one hash");

    the_leadership_moves_when_asked(&nodes).await;
    lost_leaders_are_told(&mut nodes).await;
}

async fn the_leadership_moves_when_asked(nodes: &Nodes) {
    let status = nodes.maintenance(0).status(StatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert!(status.raft_applied_index <= status.raft_index && status.db_size > 0);
    assert_eq!(
        (status.version.as_str(), status.errors.len()),
        (env!("CARGO_PKG_VERSION"), 0)
    );
    let leader = status.leader as usize - 1;
    let follower = (leader + 1) % 3;
    let to = |target_id: u64| MoveLeaderRequest { target_id };
    refused(
        nodes
            .maintenance(follower)
            .move_leader(to(follower as u64 + 1))
            .await,
        Code::FailedPrecondition,
        "etcdserver: not leader",
    );
    refused(
        nodes.maintenance(leader).move_leader(to(77)).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
    nodes
        .maintenance(leader)
        .move_leader(to(follower as u64 + 1))
        .await
        .unwrap();
    for node in 0..3 {
        let moved = nodes
            .until(node, "knows the new leader", |status| {
                status.leader == follower as u64 + 1
            })
            .await;
        assert!(moved.raft_term > status.raft_term);
    }
}

async fn lost_leaders_are_told(nodes: &mut Nodes) {
    nodes.kill(0);
    nodes.kill(1);
    let left = nodes
        .until(2, "sees no leader", |status| status.leader == 0)
        .await;
    assert_eq!(left.errors, ["etcdserver: no leader"]);
    let mut kv = nodes.kv(2);
    let no_leader = "etcdserver: no leader";
    let serializable = || RangeRequest {
        serializable: true,
        ..get("a")
    };
    // Local state is still served, unless the client asks not to be.
    let read = kv.range(serializable()).await.unwrap().into_inner();
    assert_eq!(read.kvs[0].value, "1");
    refused(
        kv.range(has_leader(serializable())).await,
        Code::Unavailable,
        no_leader,
    );
    refused(
        kv.range(has_leader(get("a"))).await,
        Code::Unavailable,
        no_leader,
    );
    refused(
        kv.put(has_leader(put("a", "2"))).await,
        Code::Unavailable,
        no_leader,
    );
    let mut maintenance = nodes.maintenance(2);
    let answer = maintenance.alarm(has_leader(AlarmRequest::default())).await;
    refused(answer, Code::Unavailable, no_leader);
    // The list of members needs no leader either.
    let request = MemberListRequest {
        linearizable: false,
    };
    let list = nodes.cluster(2).member_list(request).await.unwrap();
    assert_eq!(list.into_inner().members.len(), 3);
}
