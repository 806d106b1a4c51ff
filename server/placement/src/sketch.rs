//! Small clusters for tests, drawn in a line: `"a: 1 2, b: 3, c: 4"`, and one keyspace or more on them.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Action, Cluster, Health, Home, KeyspaceId, Memory, Node, NodeId, Observation, Observed, Step,
    Survive, Wish, plan,
};

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cluster of healthy nodes.
pub(crate) fn cluster(drawn: &str) -> Cluster {
    let mut cluster = Cluster::default();
    for zone in drawn.split(", ") {
        let (zone, nodes) = zone.split_once(": ").unwrap();
        for node in nodes.split(' ') {
            let node: NodeId = node.parse().unwrap();
            let zone = zone.to_owned();
            let health = Health::Healthy;
            cluster.nodes.insert(node, Node { zone, health });
        }
    }
    cluster
}

/// A wish for a home and failover zones: `"a, b, c"`.
pub(crate) fn wish(survive: Survive, zones: &str) -> Wish {
    let mut zones = zones.split(", ").map(str::to_owned);
    let mut wish = Wish::new("orders", Home::Zone(zones.next().unwrap()));
    wish.failover = zones.collect();
    wish.survive = survive;
    wish
}

/// A cluster, its planner, and whoever takes the steps.
pub(crate) struct World {
    pub(crate) observed: Observed,
    pub(crate) memory: Memory,
}

impl World {
    pub(crate) fn new(drawn: &str) -> Self {
        Self {
            observed: Observed {
                cluster: cluster(drawn),
                keyspaces: BTreeMap::new(),
            },
            memory: Memory::new(),
        }
    }

    /// Adds a keyspace that is led by its first voter and caught up.
    pub(crate) fn keyspace(
        &mut self,
        id: KeyspaceId,
        wish: Wish,
        voters: &[NodeId],
    ) -> &mut Observation {
        let mut observation = Observation::new(wish, voters.iter().copied());
        observation.leader = voters.first().copied();
        observation.lag = voters.iter().map(|node| (*node, 0)).collect();
        self.observed.keyspaces.insert(id, observation);
        self.seen(id)
    }

    pub(crate) fn seen(&mut self, id: KeyspaceId) -> &mut Observation {
        self.observed.keyspaces.get_mut(&id).unwrap()
    }

    pub(crate) fn health(&mut self, node: NodeId, health: Health) {
        self.observed.cluster.nodes.get_mut(&node).unwrap().health = health;
    }

    pub(crate) fn down(&mut self, node: NodeId) {
        let since = self.observed.cluster.now;
        self.health(node, Health::Down { since });
    }

    pub(crate) fn now(&self) -> Duration {
        self.observed.cluster.now
    }

    /// Plans at this moment.
    pub(crate) fn at(&mut self, now: Duration) -> Vec<Step> {
        assert!(now >= self.now());
        self.observed.cluster.now = now;
        plan(&self.observed, &mut self.memory)
    }

    /// Plans now and takes the steps, which all succeed at once. In words.
    pub(crate) fn take(&mut self, now: Duration) -> Vec<String> {
        let steps = self.at(now);
        for step in &steps {
            self.perform(step);
        }
        let texts = steps.iter();
        texts
            .map(|step| format!("{}: {}", step.keyspace, step.action))
            .collect()
    }

    /// Takes all steps of a time, which begins a quarter of a second from now. In words, each with its second.
    pub(crate) fn run(&mut self, time: Duration) -> Vec<String> {
        let end = self.now() + time;
        let mut taken = Vec::new();
        while self.now() < end {
            let now = self.now() + millis(250);
            let steps = self.take(now).into_iter();
            taken.extend(steps.map(|step| format!("{} s: {step}", now.as_secs())));
        }
        taken
    }

    fn perform(&mut self, step: &Step) {
        let seen = self.seen(step.keyspace);
        match &step.action {
            Action::AddLearner(node) => {
                seen.learners.insert(*node);
                seen.lag.insert(*node, 0);
            }
            Action::RemoveLearner(node) => {
                seen.learners.remove(node);
            }
            Action::ChangeVoters(new) => {
                seen.learners.retain(|node| !new.contains(node));
                seen.voters.clone_from(new);
            }
            Action::TransferLeader { to, .. } => seen.leader = Some(*to),
        }
    }
}
