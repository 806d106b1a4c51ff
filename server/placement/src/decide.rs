//! What one keyspace needs next, or what it waits for: one decision, which planning acts on and explaining tells.
//!
//! ```text
//!   voters    a learner nobody wants ─▶ remove it
//!             a wanted voter missing ─▶ add it as learner ─▶ caught up? ─▶ one joint change to the wanted voters
//!                                                             (a leader that is to leave hands over first)
//!   leader    a voter in a better zone, healthy and caught up for long enough ─▶ transfer
//! ```
//!
//! It depends on the keyspace alone. How many keyspaces may move at once is decided by [`plan`](crate::plan()).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    Action, KeyspaceId, Load, NodeId, Observation, Policy,
    index::{Index, State},
    memory::{NodeRecord, Record, Swap},
    order::{lot, rank},
    quorum::{Shortage, guard, guard_present, is_fit},
    step::nodes as list,
};

/// What decisions look at besides the keyspace.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) index: &'a Index<'a>,
    pub(crate) nodes: &'a BTreeMap<NodeId, NodeRecord>,
}

/// How urgent a change of voters is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A voter is dead for good.
    Repair,
    /// The wish or the nodes have changed.
    Change,
    /// Replicas are evened out.
    Balance,
}

/// Why a step is taken, before it is put into words.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    Join(NodeId),
    NotWanted,
    Promote,
    BesideLeader,
    LeaderLeaves,
    BetterZone(NodeId),
}

/// A step that may be taken.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) class: Class,
    pub(crate) action: Action,
    pub(crate) reason: Reason,
}

/// What keeps a keyspace from its next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Changing,
    StepUnderWay(Action),
    NoLeader,
    LeaderUnwell(NodeId, State),
    AfterFailure(Duration),
    Unwell(NodeId, State),
    LagUnknown(NodeId),
    Lags(NodeId, u64),
    Steady {
        node: NodeId,
        since: Duration,
        needed: Duration,
    },
    Quorum(Shortage),
}

/// What a keyspace needs next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    pub(crate) voters: Option<Proposal>,
    pub(crate) leader: Option<Proposal>,
    pub(crate) waits: Vec<Wait>,
}

impl Decision {
    /// Whether nothing can be done until a node or the leader changes, whatever time passes.
    pub(crate) fn is_up_to_nodes(&self) -> bool {
        let is_node = |wait: &Wait| {
            matches!(
                wait,
                Wait::NoLeader | Wait::LeaderUnwell(..) | Wait::Unwell(..)
            )
        };
        self.voters.is_none() && self.leader.is_none() && self.waits.iter().all(is_node)
    }
}

/// A keyspace under decision.
pub(crate) struct Subject<'a> {
    pub(crate) view: View<'a>,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) observation: &'a Observation,
    pub(crate) record: &'a Record,
}

impl Subject<'_> {
    pub(crate) fn decide(&self) -> Decision {
        let mut decision = Decision::default();
        match self.may_act() {
            Ok(leader) => {
                decision.voters = self.voters(leader, &mut decision.waits);
                decision.leader = self.leader(leader, &mut decision.waits);
            }
            Err(wait) => decision.waits.push(wait),
        }
        decision
    }

    fn policy(&self) -> &Policy {
        &self.view.index.cluster.policy
    }

    fn now(&self) -> Duration {
        self.view.index.cluster.now
    }

    fn rank(&self, node: NodeId) -> usize {
        let wish = &self.observation.wish;
        rank(wish, self.record.home(wish), self.view.index.zone_of(node))
    }

    fn is_fit(&self, node: NodeId) -> bool {
        is_fit(self.view.index, self.observation, self.policy(), node)
    }

    /// The leader, if anything can be done now.
    fn may_act(&self) -> Result<NodeId, Wait> {
        if self.observation.changing {
            return Err(Wait::Changing);
        }
        if let Some(issued) = &self.record.issued {
            return Err(Wait::StepUnderWay(issued.action.clone()));
        }
        let leader = self.observation.leader.ok_or(Wait::NoLeader)?;
        match self.view.index.state(leader) {
            State::Healthy => {}
            state => return Err(Wait::LeaderUnwell(leader, state)),
        }
        let wait = self.record.not_before.saturating_sub(self.now());
        if wait > Duration::ZERO {
            return Err(Wait::AfterFailure(wait));
        }
        Ok(leader)
    }

    fn voters(&self, leader: NodeId, waits: &mut Vec<Wait>) -> Option<Proposal> {
        let target = &self.record.target;
        let Observation {
            voters, learners, ..
        } = self.observation;
        if voters == target && learners.is_empty() {
            return None;
        }
        let class = self.class();
        if let Err(shortage) = guard_present(self.view.index, self.observation) {
            waits.push(Wait::Quorum(shortage));
            return None;
        }
        if let Some(stale) = learners.difference(target).next() {
            return Some(Proposal {
                class,
                action: Action::RemoveLearner(*stale),
                reason: Reason::NotWanted,
            });
        }
        let mut is_ready = true;
        for joining in target.difference(voters) {
            let state = self.view.index.state(*joining);
            let is_learner = learners.contains(joining);
            let wait = match self.observation.lag_of(*joining) {
                _ if state != State::Healthy => Wait::Unwell(*joining, state),
                _ if !is_learner => {
                    return Some(Proposal {
                        class,
                        action: Action::AddLearner(*joining),
                        reason: Reason::Join(*joining),
                    });
                }
                None => Wait::LagUnknown(*joining),
                Some(lag) if lag > self.policy().lag_entries_max => Wait::Lags(*joining, lag),
                Some(_) => continue,
            };
            waits.push(wait);
            is_ready = false;
        }
        if !is_ready {
            return None;
        }
        let mut new = target.clone();
        let mut reason = Reason::Promote;
        if voters.contains(&leader) && !target.contains(&leader) {
            let heirs = target.iter().filter(|node| self.is_fit(**node));
            let heir = heirs.min_by_key(|node| self.preference(**node))?;
            if voters.contains(heir) {
                return Some(Proposal {
                    class,
                    action: Action::TransferLeader {
                        from: leader,
                        to: *heir,
                    },
                    reason: Reason::LeaderLeaves,
                });
            }
            new.insert(leader);
            reason = Reason::BesideLeader;
        }
        if new == *voters {
            return None;
        }
        let guarded = guard(self.view.index, self.observation, self.policy(), &new);
        if let Err(shortage) = guarded {
            waits.push(Wait::Quorum(shortage));
            return None;
        }
        Some(Proposal {
            class,
            action: Action::ChangeVoters(new),
            reason,
        })
    }

    fn class(&self) -> Class {
        let mut leaving = self.leaving();
        if leaving.any(|node| self.view.index.state(node) == State::Dead) {
            Class::Repair
        } else if self.record.swap.is_some() {
            Class::Balance
        } else {
            Class::Change
        }
    }

    fn leaving(&self) -> impl Iterator<Item = NodeId> {
        let voters = &self.observation.voters;
        voters.difference(&self.record.target).copied()
    }

    /// Which of several voters should lead: zone, then the fewest leaderships, then the lot.
    fn preference(&self, node: NodeId) -> (usize, i64, u64) {
        let leaders = self.view.nodes.get(&node);
        let leaders = leaders.map_or(0, NodeRecord::leaders_expected);
        (self.rank(node), leaders, lot(self.keyspace, node))
    }

    /// A transfer to a better zone.
    pub(crate) fn leader(&self, leader: NodeId, waits: &mut Vec<Wait>) -> Option<Proposal> {
        if self.record.settled.is_some() {
            return None;
        }
        let own = self.rank(leader);
        let wanted: BTreeSet<NodeId> = &self.observation.voters & &self.record.target;
        let mut best: Option<(usize, i64, u64, NodeId)> = None;
        let mut first_steadying = usize::MAX;
        for node in wanted {
            let (rank, leaders, lot) = self.preference(node);
            if rank >= own || self.view.index.state(node) == State::Dead {
                continue;
            }
            match self.obstacle(node) {
                None => {
                    let candidate = (rank, leaders, lot, node);
                    best = Some(best.map_or(candidate, |best| best.min(candidate)));
                }
                Some(wait) => {
                    if matches!(wait, Wait::Steady { .. }) {
                        first_steadying = first_steadying.min(rank);
                    }
                    waits.push(wait);
                }
            }
        }
        // A better zone that only needs time is worth waiting for: one move instead of two.
        let (_, _, _, to) = best.filter(|(rank, ..)| *rank <= first_steadying)?;
        if let Err(shortage) = guard_present(self.view.index, self.observation) {
            waits.push(Wait::Quorum(shortage));
            return None;
        }
        Some(Proposal {
            class: Class::Change,
            action: Action::TransferLeader { from: leader, to },
            reason: Reason::BetterZone(to),
        })
    }

    /// The voter that should lead, whether it can now or not.
    pub(crate) fn first_choice(&self) -> Option<NodeId> {
        let voters = self.observation.voters.iter().copied();
        let alive = voters.filter(|node| self.view.index.state(*node) != State::Dead);
        alive.min_by_key(|node| (self.preference(*node), *node))
    }

    /// What speaks against a voter as the next leader.
    fn obstacle(&self, node: NodeId) -> Option<Wait> {
        let state = self.view.index.state(node);
        if state != State::Healthy {
            return Some(Wait::Unwell(node, state));
        }
        let Some(lag) = self.observation.lag_of(node) else {
            return Some(Wait::LagUnknown(node));
        };
        if lag > self.policy().lag_entries_max {
            return Some(Wait::Lags(node, lag));
        }
        let (healthy_for, needed) = self.steadiness(node);
        let fit_for = self.record.fit_for(node, self.now());
        let since = healthy_for.min(fit_for.unwrap_or(Duration::ZERO));
        (since < needed).then_some(Wait::Steady {
            node,
            since,
            needed,
        })
    }

    /// For how long a node has been healthy, and for how long it must have been.
    fn steadiness(&self, node: NodeId) -> (Duration, Duration) {
        let unknown = NodeRecord::default();
        let node = self.view.nodes.get(&node).unwrap_or(&unknown);
        (node.healthy_for(self.now()), node.wait(self.policy()))
    }

    fn is_steady(&self, node: NodeId) -> bool {
        let (healthy_for, needed) = self.steadiness(node);
        healthy_for >= needed
    }

    /// A voter in the zone of the leader that leads two keyspaces less, or even fewer.
    pub(crate) fn less_loaded_peer(&self, leader: NodeId) -> Option<NodeId> {
        let index = self.view.index;
        let zone = index.node(leader)?.zone;
        let leaders = |node: NodeId| {
            self.view
                .nodes
                .get(&node)
                .map_or(0, NodeRecord::leaders_expected)
        };
        let own = leaders(leader);
        let peers = self.observation.voters.iter().copied();
        let peers = peers.filter(|node| {
            *node != leader
                && index.node(*node).is_some_and(|node| node.zone == zone)
                && own - leaders(*node) >= 2
                && self.is_fit(*node)
                && self.is_steady(*node)
        });
        let peer = peers.min_by_key(|node| self.preference(*node))?;
        guard_present(index, self.observation)
            .is_ok()
            .then_some(peer)
    }

    /// A proposal's reason in words.
    pub(crate) fn reason(&self, reason: &Reason) -> String {
        match reason {
            Reason::Join(node) => self.why_wanted(*node),
            Reason::NotWanted => "it is not among the wanted voters (any more)".to_owned(),
            Reason::Promote | Reason::BesideLeader => {
                let leaving: Vec<NodeId> = self.leaving().collect();
                let joining = self.record.target.difference(&self.observation.voters);
                let joining: Vec<NodeId> = joining.copied().collect();
                let mut text = match (joining.is_empty(), leaving.is_empty()) {
                    (false, false) => {
                        format!(
                            "{} caught up and take over from {}",
                            list(&joining),
                            list(&leaving)
                        )
                    }
                    (false, true) => format!("{} caught up", list(&joining)),
                    (true, _) => format!("{} is not wanted any more", list(&leaving)),
                };
                if matches!(reason, Reason::BesideLeader) {
                    text.push_str("; the leader leaves later, once it has handed over");
                }
                text
            }
            Reason::LeaderLeaves => "the leader is to leave the voters".to_owned(),
            Reason::BetterZone(to) => {
                let (_, needed) = self.steadiness(*to);
                let place = self.place(*to);
                let needed = needed.as_secs_f64();
                format!("{place} has been healthy and caught up for {needed} s")
            }
        }
    }

    /// Why a node is among the wanted voters.
    pub(crate) fn why_wanted(&self, node: NodeId) -> String {
        if let Some(Swap { from, .. }) = self.record.swap.filter(|swap| swap.to == node) {
            let zone = self.view.index.zone_of(node);
            return format!("it has fewer replicas than node {from}, both in {zone}");
        }
        let target = &self.record.target;
        let question = self
            .record
            .question(self.keyspace, self.observation, target);
        let picked = question.strict(self.view.index, &|_| Load::default()).ok();
        let picked = picked.or_else(|| question.lenient(self.view.index, &|_| Load::default()));
        let why = picked.and_then(|picked| picked.into_iter().find(|(picked, _)| *picked == node));
        let zone = self.view.index.zone_of(node);
        let mut text = why.map_or_else(|| zone.to_owned(), |(_, why)| why.text(zone));
        if self.observation.voters.contains(&node) {
            return text;
        }
        let dead = self
            .leaving()
            .filter(|node| self.view.index.state(*node) == State::Dead);
        let dead: Vec<NodeId> = dead.collect();
        if !dead.is_empty() {
            text.push_str(&format!("; in place of {}, dead for good", list(&dead)));
        }
        text
    }

    /// A node by its place in the order: "home zone-a (node 1)".
    pub(crate) fn place(&self, node: NodeId) -> String {
        let zone = self.view.index.zone_of(node);
        match self.rank(node) {
            0 => format!("home {zone} (node {node})"),
            n if n <= self.observation.wish.failover.len() => {
                format!("failover {n}: {zone} (node {node})")
            }
            _ => format!("{zone} (node {node})"),
        }
    }

    /// What is waited for, in words.
    pub(crate) fn wait(&self, wait: &Wait) -> String {
        match wait {
            Wait::Changing => "a change or transfer that is under way".to_owned(),
            Wait::StepUnderWay(action) => format!("a step under way: {action}"),
            Wait::NoLeader => "an election: nobody leads".to_owned(),
            Wait::LeaderUnwell(leader, state) => {
                format!("a leader that is well: node {leader} is {}", state.text())
            }
            Wait::AfterFailure(wait) => {
                format!("{:.1} s after a step that failed", wait.as_secs_f64())
            }
            Wait::Unwell(node, state) => format!("{} is {}", self.place(*node), state.text()),
            Wait::LagUnknown(node) => {
                format!("{}: nobody knows how far it lags", self.place(*node))
            }
            Wait::Lags(node, lag) => {
                let most = self.policy().lag_entries_max;
                format!(
                    "{} lags {lag} entries, at most {most} are allowed",
                    self.place(*node)
                )
            }
            Wait::Steady {
                node,
                since,
                needed,
            } => format!(
                "{} healthy and caught up for {:.1} s of {:.1} s",
                self.place(*node),
                since.as_secs_f64(),
                needed.as_secs_f64()
            ),
            Wait::Quorum(shortage) => shortage.text(),
        }
    }
}
