//! What is remembered of one keyspace: the voters it should have, the step under way, where it belongs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Changes, NodeRecord};
use crate::{
    Action, Cluster, Home, KeyspaceId, Load, NodeId, Observation, Policy, Wish,
    auto_home::AutoHome,
    choice::{Question, lot_home},
    index::{Index, State},
    order::rank,
    quorum::is_fit,
};

/// A step that was given out and does not show yet.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) action: Action,
    pub(crate) at: Duration,
    /// Whether it is one of the moves that have a pace.
    pub(crate) is_paced: bool,
}

/// A voter that another one of its zone takes the place of, for balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
}

/// What voters were chosen for. The choice holds until nodes die or come; while voters are being changed, until any
/// of this changes.
#[derive(Clone, Debug, Default)]
struct Basis {
    changes: Changes,
    home: Option<String>,
    voters: BTreeSet<NodeId>,
}

/// What is remembered of a keyspace.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    wish: Wish,
    /// What `target` was chosen for, besides the wish.
    basis: Basis,
    /// The voters that it should have.
    pub(crate) target: BTreeSet<NodeId>,
    /// The same as they were counted at the nodes, each with whether it is in the home zone.
    seats: Vec<(NodeId, bool)>,
    pub(crate) swap: Option<Swap>,
    /// Since when its voters are being changed.
    pub(crate) moving_since: Option<Duration>,
    pub(crate) issued: Option<Issued>,
    failures: u32,
    pub(crate) not_before: Duration,
    /// Its leader, if that is where it belongs.
    pub(crate) settled: Option<NodeId>,
    /// Since when which voter is healthy and caught up, while something is to be done.
    fit_since: Vec<(NodeId, Duration)>,
    pub(crate) auto: Option<AutoHome>,
    /// Whether nothing was left to do at the last look.
    pub(crate) is_quiet: bool,
    /// The changes and the leader that were seen when it began to wait for nodes alone.
    asleep: Option<(Changes, Option<NodeId>)>,
}

impl Record {
    pub(super) fn new(wish: Wish) -> Self {
        Self {
            wish,
            basis: Basis::default(),
            target: BTreeSet::new(),
            seats: Vec::new(),
            swap: None,
            moving_since: None,
            issued: None,
            failures: 0,
            not_before: Duration::ZERO,
            settled: None,
            fit_since: Vec::new(),
            auto: None,
            is_quiet: false,
            asleep: None,
        }
    }

    /// Whether there is still nothing to do, because nothing has changed since there was nothing to do.
    pub(crate) fn stays_at_rest(
        &self,
        observation: &Observation,
        changes: Changes,
        now: Duration,
    ) -> bool {
        let is_at_rest = match self.asleep {
            Some(asleep) => asleep == (changes, observation.leader),
            None => {
                self.is_quiet
                    && self.basis.changes.usable == changes.usable
                    && observation.leader == self.settled
            }
        };
        is_at_rest
            && !observation.changing
            && observation.learners.is_empty()
            && observation.voters == self.target
            && observation.wish == self.wish
            && self.auto.as_ref().is_none_or(|auto| now < auto.window_ends)
    }

    /// Takes note of whether there is anything to do. `is_up_to_nodes` tells that nothing will be, until a node or
    /// the leader changes.
    pub(crate) fn rest(
        &mut self,
        observation: &Observation,
        changes: Changes,
        is_up_to_nodes: bool,
    ) {
        let has_all = self.target == observation.voters
            && observation.learners.is_empty()
            && self.issued.is_none()
            && !observation.changing;
        self.is_quiet = has_all && self.settled.is_some();
        let is_asleep = has_all && self.settled.is_none() && is_up_to_nodes;
        self.asleep = is_asleep.then_some((changes, observation.leader));
    }

    /// The home zone, as far as it is known.
    pub(crate) fn home<'a>(&'a self, wish: &'a Wish) -> Option<&'a str> {
        wish.home_zone(self.auto.as_ref().map(|auto| auto.home.as_str()))
    }

    /// Brings everything up to date but what is to be done.
    pub(crate) fn refresh(
        &mut self,
        keyspace: KeyspaceId,
        observation: &Observation,
        index: &Index<'_>,
        changes: Changes,
        nodes: &mut BTreeMap<NodeId, NodeRecord>,
    ) {
        let Cluster { now, policy, .. } = index.cluster;
        if self.asleep.take().is_some() {
            // Nobody looked whether those that were fit stayed it; none of them could have taken over.
            self.fit_since.clear();
        }
        self.conclude_issued(observation, *now, policy);
        self.look_for_home(keyspace, observation, index);
        let basis = &self.basis;
        let is_chosen = basis.changes.usable == changes.usable
            && basis.home.as_deref() == self.home(&observation.wish)
            && self.wish == observation.wish
            && (self.target == observation.voters
                || (basis.changes == changes && basis.voters == observation.voters));
        if !is_chosen {
            let load = |node: NodeId| {
                nodes
                    .get(&node)
                    .map_or(Load::default(), |record| record.seats)
            };
            let (target, swap) = self.choose(keyspace, observation, index, &load);
            self.swap = swap;
            let seats = self.seats_of(&target, &observation.wish, index);
            self.retarget(target, seats, nodes);
            self.basis = Basis {
                changes,
                home: self.home(&observation.wish).map(str::to_owned),
                voters: observation.voters.clone(),
            };
            if self.wish != observation.wish {
                self.wish = observation.wish.clone();
            }
        }
        if self.target == observation.voters {
            self.swap = None;
            if observation.learners.is_empty() {
                self.moving_since = None;
            }
        }
        let settled = self.settled_leader(observation, index);
        self.settle_on(settled, nodes);
        if settled.is_some() && self.target == observation.voters {
            self.fit_since.clear();
        } else {
            let is_fit = |node: NodeId| is_fit(index, observation, policy, node);
            self.fit_since
                .retain(|(node, _)| observation.voters.contains(node) && is_fit(*node));
            for node in &observation.voters {
                if is_fit(*node) && self.fit_for(*node, *now).is_none() {
                    self.fit_since.push((*node, *now));
                }
            }
        }
    }

    /// The voters that a keyspace should have, and what is left of a swap.
    fn choose(
        &self,
        keyspace: KeyspaceId,
        observation: &Observation,
        index: &Index<'_>,
        load: &dyn Fn(NodeId) -> Load,
    ) -> (BTreeSet<NodeId>, Option<Swap>) {
        let chosen = |voters: &BTreeSet<NodeId>| {
            let question = self.question(keyspace, observation, voters);
            let picked = question.strict(index, load).ok();
            let picked = picked.or_else(|| question.lenient(index, load));
            picked.map_or_else(
                || observation.voters.clone(),
                |picked| picked.into_iter().map(|(node, _)| node).collect(),
            )
        };
        if let Some(Swap { from, to }) = self.swap
            && observation.voters.contains(&from)
            && index.state(to) == State::Healthy
        {
            let mut without = observation.voters.clone();
            without.remove(&to);
            if chosen(&without) == without {
                without.remove(&from);
                without.insert(to);
                return (without, self.swap);
            }
        }
        (chosen(&observation.voters), None)
    }

    pub(crate) fn question<'a>(
        &'a self,
        keyspace: KeyspaceId,
        observation: &'a Observation,
        voters: &'a BTreeSet<NodeId>,
    ) -> Question<'a> {
        Question {
            keyspace,
            wish: &observation.wish,
            home: self.home(&observation.wish),
            voters,
            learners: &observation.learners,
            leader: observation.leader,
        }
    }

    /// What is remembered of a keyspace, brought up to date for whoever only looks. `known` is what a memory has.
    pub(crate) fn peek(
        known: Option<&Self>,
        keyspace: KeyspaceId,
        observation: &Observation,
        index: &Index<'_>,
        nodes: &BTreeMap<NodeId, NodeRecord>,
    ) -> Self {
        let known = known.cloned();
        let mut record = known.unwrap_or_else(|| Self::new(observation.wish.clone()));
        if record.auto.is_none() {
            record.look_for_home(keyspace, observation, index);
        }
        let load = |node: NodeId| {
            nodes
                .get(&node)
                .map_or(Load::default(), |record| record.seats)
        };
        (record.target, record.swap) = record.choose(keyspace, observation, index, &load);
        record.settled = record.settled_leader(observation, index);
        record
    }

    /// The leader, if no voter stands in a zone that comes before its own and may come back.
    fn settled_leader(&self, observation: &Observation, index: &Index<'_>) -> Option<NodeId> {
        let wish = &observation.wish;
        let home = self.home(wish);
        let rank = |node: NodeId| rank(wish, home, index.zone_of(node));
        let leader = observation.leader?;
        let own = rank(leader);
        let mut others = observation.voters.iter();
        let is_first = others.all(|node| own <= rank(*node) || index.state(*node) == State::Dead);
        (is_first && self.target.contains(&leader)).then_some(leader)
    }

    fn look_for_home(
        &mut self,
        keyspace: KeyspaceId,
        observation: &Observation,
        index: &Index<'_>,
    ) {
        let Cluster { now, policy, .. } = index.cluster;
        let writes = &observation.writes_by_zone;
        if observation.wish.home != Home::Auto {
            self.auto = None;
            return;
        }
        if let Some(auto) = &mut self.auto {
            let may_be_home = |zone: &str| index.usable_zones().any(|usable| usable == zone);
            auto.look(writes, *now, policy, may_be_home);
            return;
        }
        // A keyspace that is led stays where it is until its writes say otherwise.
        let led = observation.leader.map(|leader| index.zone_of(leader));
        let home = led.filter(|zone| !zone.is_empty());
        if let Some(home) = home.or_else(|| lot_home(index, keyspace)) {
            self.auto = Some(AutoHome::new(home.to_owned(), writes, *now, policy));
        }
    }

    /// Whether the step that was given out shows, or took too long.
    fn conclude_issued(&mut self, observation: &Observation, now: Duration, policy: &Policy) {
        let Some(issued) = &self.issued else {
            return;
        };
        let Observation {
            voters,
            learners,
            leader,
            ..
        } = observation;
        let is_done = match &issued.action {
            Action::AddLearner(node) => learners.contains(node) || voters.contains(node),
            Action::RemoveLearner(node) => !learners.contains(node),
            Action::ChangeVoters(new) => voters == new,
            Action::TransferLeader { to, .. } => *leader == Some(*to),
        };
        let is_void = matches!(&issued.action, Action::TransferLeader { from, .. }
            if leader.is_some_and(|leader| leader != *from));
        if is_done {
            self.failures = 0;
        }
        if is_done || is_void {
            self.issued = None;
        } else if now.saturating_sub(issued.at) >= policy.step_patience {
            self.fail(now, policy);
        }
    }

    pub(super) fn fail(&mut self, now: Duration, policy: &Policy) {
        self.issued = None;
        let wait = policy.retry_wait.saturating_mul(1 << self.failures.min(16));
        self.not_before = now.saturating_add(wait.min(policy.retry_wait_max));
        self.failures += 1;
    }

    /// For how long a voter has been healthy and caught up, as far as that was looked at.
    pub(crate) fn fit_for(&self, node: NodeId, now: Duration) -> Option<Duration> {
        let mut known = self.fit_since.iter();
        let (_, since) = known.find(|(known, _)| *known == node)?;
        Some(now.saturating_sub(*since))
    }

    /// The seats that these voters are, each with whether it is one in the home zone.
    pub(crate) fn seats_of(
        &self,
        voters: &BTreeSet<NodeId>,
        wish: &Wish,
        index: &Index<'_>,
    ) -> Vec<(NodeId, bool)> {
        let home = self.home(wish);
        let is_home = |node: NodeId| home == Some(index.zone_of(node));
        voters.iter().map(|node| (*node, is_home(*node))).collect()
    }

    pub(crate) fn has_seat(&self, node: NodeId, is_home: bool) -> bool {
        self.seats.contains(&(node, is_home))
    }

    pub(crate) fn retarget(
        &mut self,
        target: BTreeSet<NodeId>,
        seats: Vec<(NodeId, bool)>,
        nodes: &mut BTreeMap<NodeId, NodeRecord>,
    ) {
        debug_assert!(target.iter().eq(seats.iter().map(|(node, _)| node)));
        self.target = target;
        if seats == self.seats {
            return;
        }
        for (node, is_home) in &self.seats {
            let record = nodes.get_mut(node).expect("a node that counts is kept");
            record.seats.replicas -= 1;
            record.seats.home -= usize::from(*is_home);
        }
        for (node, is_home) in &seats {
            let record = nodes.entry(*node).or_default();
            record.seats.replicas += 1;
            record.seats.home += usize::from(*is_home);
        }
        self.seats = seats;
    }

    pub(super) fn settle_on(
        &mut self,
        leader: Option<NodeId>,
        nodes: &mut BTreeMap<NodeId, NodeRecord>,
    ) {
        if leader == self.settled {
            return;
        }
        if let Some(before) = self.settled {
            let record = nodes.get_mut(&before).expect("a node that counts is kept");
            record.leaders -= 1;
        }
        if let Some(leader) = leader {
            nodes.entry(leader).or_default().leaders += 1;
        }
        self.settled = leader;
    }
}
