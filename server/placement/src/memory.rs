//! What planning remembers from one look to the next: since when, how often, and what it has begun.
//!
//! A memory may be lost at any time: a new one begins with what is observed, waits as long as it would for
//! nodes that have just come back, and goes on. Only homes that were found for
//! [`Home::Auto`](crate::Home::Auto) are worth keeping elsewhere; without them a keyspace is at home where it is led.

mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub(crate) use record::{Issued, Record, Swap};

use crate::{
    Cluster, KeyspaceId, Load, NodeId, Observation, Observed, Policy,
    auto_home::AutoHome,
    index::{Index, State},
};

/// What planning remembers. It belongs to one planner, and every [`plan`](crate::plan()) brings it up to date.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(crate) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(crate) keyspaces: BTreeMap<KeyspaceId, Record>,
    /// The nodes at the last look, with their zones and how they were.
    known: Vec<(NodeId, String, State)>,
    pub(crate) changes: Changes,
    /// When a leadership was last moved without hurry.
    pub(crate) last_leader_move: Option<Duration>,
}

impl Memory {
    /// A memory of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The home that was found for a keyspace with [`Home::Auto`](crate::Home::Auto).
    pub fn auto_home(&self, keyspace: KeyspaceId) -> Option<&str> {
        let auto = self.keyspaces.get(&keyspace)?.auto.as_ref()?;
        Some(&auto.home)
    }

    /// What the last window of writes showed for such a keyspace, in words.
    pub fn auto_saw(&self, keyspace: KeyspaceId) -> Option<&str> {
        let auto = self.keyspaces.get(&keyspace)?.auto.as_ref()?;
        Some(&auto.saw)
    }

    /// Tells the home of a keyspace with [`Home::Auto`](crate::Home::Auto): [`Choice::home`](crate::Choice::home) of a new one, or what
    /// [`auto_home`](Self::auto_home) told to a memory that is lost. Without it, home is where the keyspace is led.
    pub fn restore_auto_home(&mut self, keyspace: KeyspaceId, home: &str, observed: &Observed) {
        let Some(observation) = observed.keyspaces.get(&keyspace) else {
            return;
        };
        let Cluster { now, policy, .. } = &observed.cluster;
        let writes = &observation.writes_by_zone;
        let auto = AutoHome::new(home.to_owned(), writes, *now, policy);
        let index = Index::new(&observed.cluster);
        self.record(keyspace, observation, &index).auto = Some(auto);
    }

    /// Takes note that the step under way for a keyspace did not work out, before its time is up. It is tried again
    /// after a while.
    pub fn step_failed(&mut self, keyspace: KeyspaceId, cluster: &Cluster) {
        if let Some(record) = self.keyspaces.get_mut(&keyspace)
            && record.issued.is_some()
        {
            record.fail(cluster.now, &cluster.policy);
        }
    }

    /// Brings nodes and the list of keyspaces up to date.
    pub(crate) fn see(&mut self, observed: &Observed, index: &Index<'_>) {
        let Cluster { now, policy, .. } = &observed.cluster;
        for node in &index.nodes {
            let record = self.nodes.entry(node.id).or_default();
            record.see(node.state, *now, policy);
        }
        self.nodes.retain(|node, record| {
            let is_member = index.node(*node).is_some();
            if !is_member {
                record.see(State::Dead, *now, policy);
            }
            is_member || record.seats != Load::default() || record.leaders > 0
        });
        self.changes.see(&mut self.known, index);
        if self.keyspaces.keys().eq(observed.keyspaces.keys()) {
            return;
        }
        let gone = self.keyspaces.keys();
        let gone = gone.filter(|id| !observed.keyspaces.contains_key(id));
        for id in gone.copied().collect::<Vec<_>>() {
            if let Some(mut record) = self.keyspaces.remove(&id) {
                record.retarget(BTreeSet::new(), Vec::new(), &mut self.nodes);
                record.settle_on(None, &mut self.nodes);
            }
        }
        for (id, observation) in &observed.keyspaces {
            self.record(*id, observation, index);
        }
    }

    fn record(
        &mut self,
        keyspace: KeyspaceId,
        observation: &Observation,
        index: &Index<'_>,
    ) -> &mut Record {
        let nodes = &mut self.nodes;
        self.keyspaces.entry(keyspace).or_insert_with(|| {
            let mut record = Record::new(observation.wish.clone());
            let target = observation.voters.clone();
            let seats = record.seats_of(&target, &observation.wish, index);
            record.retarget(target, seats, nodes);
            record
        })
    }
}

/// How often the nodes have changed: whoever remembers a number knows whether its conclusions still hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Nodes came, went, died for good, or came back from that.
    pub(crate) usable: u64,
    /// Any change of a node.
    pub(crate) health: u64,
}

impl Changes {
    fn see(&mut self, known: &mut Vec<(NodeId, String, State)>, index: &Index<'_>) {
        let now = index.nodes.iter();
        let now = now.map(|node| (node.id, index.zones[node.zone].name, node.state));
        let before = known
            .iter()
            .map(|(id, zone, state)| (*id, zone.as_str(), *state));
        if now.clone().eq(before.clone()) {
            return;
        }
        self.health += 1;
        let is_usable = |(_, _, state): &(NodeId, &str, State)| *state != State::Dead;
        let place = |(id, zone, _): (NodeId, &str, State)| (id, zone.to_owned());
        let usable = now.clone().filter(is_usable).map(place);
        if !usable.eq(before.filter(is_usable).map(place)) {
            self.usable += 1;
        }
        *known = now
            .map(|(id, zone, state)| (id, zone.to_owned(), state))
            .collect();
    }
}

/// What is remembered of a node.
///
/// - `seats` counts the keyspaces that have it among their wanted voters,
/// - `leaders` is how many keyspaces it leads that belong there.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeRecord {
    healthy_since: Option<Duration>,
    /// How often it was lost lately.
    flaps: u32,
    /// When it was last lost, found again, or forgiven for a loss.
    reckoned_at: Duration,
    pub(crate) seats: Load,
    pub(crate) leaders: usize,
    /// Leaderships on their way to it, less those on their way from it; counted anew at each look.
    pub(crate) in_transit: i64,
}

impl NodeRecord {
    /// How many leaderships it has when those under way have arrived.
    pub(crate) fn leaders_expected(&self) -> i64 {
        self.leaders as i64 + self.in_transit
    }

    fn see(&mut self, state: State, now: Duration, policy: &Policy) {
        match (state == State::Healthy, self.healthy_since) {
            (true, None) => {
                self.healthy_since = Some(now);
                self.reckoned_at = now;
            }
            (false, Some(_)) => {
                self.healthy_since = None;
                self.reckoned_at = now;
                if self.flaps == 0 || self.wait(policy) < policy.home_wait_max {
                    self.flaps += 1;
                }
            }
            (true, Some(_)) => {
                while self.flaps > 0
                    && now.saturating_sub(self.reckoned_at) >= policy.flap_forgiven_after
                {
                    self.flaps -= 1;
                    self.reckoned_at += policy.flap_forgiven_after;
                }
            }
            (false, None) => {}
        }
    }

    /// How long it must have been well before a leadership moves to it.
    pub(crate) fn wait(&self, policy: &Policy) -> Duration {
        let doublings = self.flaps.saturating_sub(1).min(31);
        let wait = policy.home_wait.saturating_mul(1 << doublings);
        wait.min(policy.home_wait_max.max(policy.home_wait))
    }

    /// For how long it has been healthy; zero if it is not.
    pub(crate) fn healthy_for(&self, now: Duration) -> Duration {
        let since = self.healthy_since;
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}
