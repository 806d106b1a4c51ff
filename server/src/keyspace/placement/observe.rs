//! What the controller sees: every node is asked at the same time what it leads, and one that does not answer
//! in time tells nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use futures_util::future::join_all;
use holdfast_placement::{Cluster, Observation, Observed};
use holdfast_proto::{peer, v1::Keyspace};

use super::{PlacementPeers, is_placed, placed_here};
use crate::{
    config::Config,
    detector::Reporter,
    keyspace::{Keyspaces, registry::Contents, wish},
    raft::NodeId,
};

/// Looks at the cluster from one node.
pub struct Observer {
    /// Who the members are.
    pub config: Arc<Config>,
    /// What the failure detector of this node sees of them.
    pub reporter: Reporter,
    /// When time begins for what is observed.
    pub epoch: Instant,
}

impl Observer {
    /// What is seen now.
    pub async fn observe(
        &self,
        registry: &Contents,
        keyspaces: &Keyspaces,
        peers: &dyn PlacementPeers,
    ) -> Observed {
        let me = self.config.node.id;
        let members = self.config.cluster.members.iter().map(|member| member.id);
        let asked = members.map(|node| async move {
            match node == me {
                true => (node, Some(placed_here(keyspaces))),
                false => (node, peers.placed(node).await.ok()),
            }
        });
        let told = join_all(asked).await;
        let reports = self.reporter.report();
        let cluster = wish::cluster(&self.config, &reports, self.epoch.elapsed());
        let told = told
            .into_iter()
            .filter_map(|(node, told)| Some((node, told?)));
        put_together(registry, cluster, &told.collect())
    }
}

/// What the nodes told, by keyspace.
fn put_together(
    registry: &Contents,
    cluster: Cluster,
    told: &BTreeMap<NodeId, peer::PlacedResponse>,
) -> Observed {
    let mut by_group: BTreeMap<u64, Vec<(NodeId, &peer::PlacedGroup)>> = BTreeMap::new();
    for (node, placed) in told {
        for group in &placed.groups {
            by_group
                .entry(group.group_id)
                .or_default()
                .push((*node, group));
        }
    }
    let none = Vec::new();
    let placed = registry
        .keyspaces
        .values()
        .filter(|keyspace| is_placed(keyspace));
    let observations = placed.map(|keyspace| {
        let of_group = by_group.get(&keyspace.group_id).unwrap_or(&none);
        (keyspace.group_id, observation(keyspace, &cluster, of_group))
    });
    Observed {
        keyspaces: observations.collect(),
        cluster,
    }
}

fn observation(
    keyspace: &Keyspace,
    cluster: &Cluster,
    told: &[(NodeId, &peer::PlacedGroup)],
) -> Observation {
    let settings = keyspace.settings.clone().unwrap_or_default();
    let wish = wish::of(&keyspace.name, &settings, cluster);
    let mut seen = Observation::new(wish, keyspace.voters.iter().copied());
    seen.objectives = wish::objectives(&settings);
    for (node, group) in told {
        if let Some(zone) = cluster.nodes.get(node).map(|node| &node.zone) {
            *seen.writes_by_zone.entry(zone.clone()).or_default() += group.writes;
        }
    }
    let leaders: Vec<_> = told.iter().filter(|(_, group)| group.leads).collect();
    // Two that say so are an election just over: the next look knows more.
    let [(leader, group)] = leaders[..] else {
        return seen;
    };
    seen.leader = Some(*leader);
    seen.voters = group.voters.iter().copied().collect();
    seen.learners = group.learners.iter().copied().collect();
    seen.changing = group.changing;
    let listed: BTreeSet<NodeId> = seen.voters.union(&seen.learners).copied().collect();
    let lags = group.lags.iter().map(|lag| (lag.node_id, lag.entries));
    seen.lag = lags.filter(|(node, _)| listed.contains(node)).collect();
    seen
}

#[cfg(test)]
mod tests {
    use holdfast_placement::{Health, Node};

    use super::*;

    fn placed(groups: Vec<peer::PlacedGroup>) -> peer::PlacedResponse {
        peer::PlacedResponse { groups }
    }

    fn follows(group_id: u64, writes: u64) -> peer::PlacedGroup {
        peer::PlacedGroup {
            group_id,
            writes,
            ..Default::default()
        }
    }

    fn leads(group_id: u64, lags: &[(NodeId, u64)]) -> peer::PlacedGroup {
        let lags = lags.iter().map(|(node_id, entries)| peer::Lag {
            node_id: *node_id,
            entries: *entries,
        });
        peer::PlacedGroup {
            leads: true,
            voters: vec![1, 2, 3],
            lags: lags.collect(),
            ..follows(group_id, 10)
        }
    }

    fn observed(told: &[(NodeId, peer::PlacedResponse)]) -> Observation {
        let nodes = (1..=3).map(|id| {
            let node = Node {
                zone: format!("zone-{id}"),
                health: Health::Healthy,
            };
            (id, node)
        });
        let cluster = Cluster {
            nodes: nodes.collect(),
            ..Default::default()
        };
        let keyspace = Keyspace {
            name: "orders".into(),
            group_id: 7,
            voters: vec![1, 2, 3],
            mod_revision: 3,
            ..Default::default()
        };
        let default = Keyspace {
            name: "default".into(),
            group_id: 2,
            mod_revision: 0,
            ..keyspace.clone()
        };
        let mut registry = Contents::default();
        registry.keyspaces.insert("orders".into(), keyspace);
        registry.keyspaces.insert("default".into(), default);
        let told = told.iter().cloned().collect();
        let mut seen = put_together(&registry, cluster, &told);
        let orders = seen.keyspaces.remove(&7).expect("it is in the registry");
        assert!(
            seen.keyspaces.is_empty(),
            "nobody asked for anything of `default`"
        );
        orders
    }

    #[test]
    fn leader_and_lags_are_those_that_the_leader_tells_and_writes_those_of_all() {
        let seen = observed(&[
            (1, placed(vec![follows(7, 5), leads(8, &[])])),
            (2, placed(vec![leads(7, &[(1, 0), (3, 40), (9, 1)])])),
        ]);
        assert_eq!(seen.leader, Some(2));
        assert_eq!(seen.lag, [(1, 0), (3, 40)].into());
        let writes = [("zone-1".to_owned(), 5), ("zone-2".to_owned(), 10)];
        assert_eq!(seen.writes_by_zone, writes.into());
    }

    #[test]
    fn nobody_leads_whom_two_say_of_themselves_or_nobody() {
        let none = observed(&[(1, placed(vec![follows(7, 5)]))]);
        assert_eq!((none.leader, none.voters.len()), (None, 3));
        let two = observed(&[
            (1, placed(vec![leads(7, &[(2, 0)])])),
            (2, placed(vec![leads(7, &[(1, 0)])])),
        ]);
        assert_eq!(two.leader, None);
        assert!(two.lag.is_empty(), "a lag that is not known is no lag of 0");
    }
}
