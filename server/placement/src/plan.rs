//! From what is observed to what is to be done now: a few steps at a time, the most urgent first.
//!
//! ```text
//!   each keyspace: nothing changed since it was quiet? ─▶ skip
//!                  otherwise decide (decide.rs) ─▶ proposals for voters, proposals for leaders
//!   all keyspaces: repair, then changes, then homecoming, then balance of leaders, then of replicas,
//!                  as far as there is room in flight and the pace allows ─▶ steps
//! ```
//!
//! - A keyspace has at most one step under way, and no step while something else changes it.
//! - A step that does not show within [`Policy::step_patience`](crate::Policy::step_patience) has failed, and is
//!   tried again later each time.
//! - Balance comes last: leaders are evened out when none is on its way home, replicas when no voters change.
//! - Looking at a keyspace where nothing changed costs a few comparisons.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Action, Cluster, KeyspaceId, Memory, NodeId, Observation, Observed, Step,
    decide::{Class, Proposal, Subject, View},
    index::{Index, State},
    memory::{Issued, NodeRecord, Record, Swap},
    quorum::guard_present,
};

/// What is to be done now. Call it again when something observed has changed, and at least as often as leaders may move
/// ([`Policy::leader_move_interval`](crate::Policy::leader_move_interval)) while it returns steps.
///
/// The same observations with the same memory give the same steps, in the order of their urgency.
pub fn plan(observed: &Observed, memory: &mut Memory) -> Vec<Step> {
    let index = Index::new(&observed.cluster);
    memory.see(observed, &index);
    let Memory {
        nodes,
        keyspaces,
        changes,
        last_leader_move,
        ..
    } = memory;
    for node in nodes.values_mut() {
        node.in_transit = 0;
    }
    let mut planner = Planner {
        observed,
        index: &index,
        nodes,
        flight: Flight::default(),
        steps: Vec::new(),
    };
    let mut for_voters = Vec::new();
    let mut for_leaders = Vec::new();
    let looks = observed.keyspaces.iter().zip(keyspaces.values_mut());
    for ((keyspace, observation), record) in looks {
        if record.stays_at_rest(observation, *changes, observed.cluster.now) {
            continue;
        }
        record.refresh(*keyspace, observation, &index, *changes, planner.nodes);
        planner.count(observation, record);
        let decision = planner.subject(*keyspace, observation, record).decide();
        record.rest(observation, *changes, decision.is_up_to_nodes());
        if let Some(proposal) = decision.voters {
            for_voters.push((proposal.class, *keyspace, proposal));
        }
        if decision.leader.is_some() {
            for_leaders.push(*keyspace);
        }
    }
    let is_crowded = planner.change_voters(for_voters, keyspaces);
    let moves = planner.leader_moves_due(*last_leader_move);
    let moved = if for_leaders.is_empty() {
        planner.balance_leaders(moves, keyspaces)
    } else {
        planner.bring_home(moves, &for_leaders, keyspaces)
    };
    if moved > 0 {
        *last_leader_move = Some(observed.cluster.now);
    }
    if !is_crowded {
        planner.balance_replicas(keyspaces);
    }
    planner.steps
}

/// What is under way.
#[derive(Default)]
struct Flight {
    voter_changes: usize,
    replica_moves: usize,
    leader_moves: usize,
}

type Records = BTreeMap<KeyspaceId, Record>;

struct Planner<'a> {
    observed: &'a Observed,
    index: &'a Index<'a>,
    nodes: &'a mut BTreeMap<NodeId, NodeRecord>,
    flight: Flight,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn cluster(&self) -> &Cluster {
        &self.observed.cluster
    }

    fn subject<'b>(
        &'b self,
        keyspace: KeyspaceId,
        observation: &'b Observation,
        record: &'b Record,
    ) -> Subject<'b> {
        Subject {
            view: View {
                index: self.index,
                nodes: self.nodes,
            },
            keyspace,
            observation,
            record,
        }
    }

    /// Counts what a keyspace has under way.
    fn count(&mut self, observation: &Observation, record: &Record) {
        let Cluster { now, policy, .. } = self.cluster();
        let is_held_up = observation.leader.is_none()
            || record
                .moving_since
                .is_none_or(|since| now.saturating_sub(since) >= policy.catch_up_patience);
        if !is_held_up {
            self.flight.voter_changes += 1;
            self.flight.replica_moves += usize::from(record.swap.is_some());
        }
        if let Some(issued) = &record.issued {
            self.flight.leader_moves += usize::from(issued.is_paced);
            if let Action::TransferLeader { from, to } = issued.action {
                self.in_transit(record, from, to);
            }
        }
    }

    fn in_transit(&mut self, record: &Record, from: NodeId, to: NodeId) {
        self.nodes.entry(to).or_default().in_transit += 1;
        if record.settled == Some(from) {
            self.nodes.entry(from).or_default().in_transit -= 1;
        }
    }

    fn emit(
        &mut self,
        keyspace: KeyspaceId,
        record: &mut Record,
        proposal: Proposal,
        is_paced: bool,
    ) {
        let observation = &self.observed.keyspaces[&keyspace];
        let reason = self
            .subject(keyspace, observation, record)
            .reason(&proposal.reason);
        self.issue(keyspace, record, proposal.action, reason, is_paced);
    }

    fn issue(
        &mut self,
        keyspace: KeyspaceId,
        record: &mut Record,
        action: Action,
        reason: String,
        is_paced: bool,
    ) {
        if let Action::TransferLeader { from, to } = action {
            self.in_transit(record, from, to);
        }
        record.issued = Some(Issued {
            action: action.clone(),
            at: self.cluster().now,
            is_paced,
        });
        record.is_quiet = false;
        self.steps.push(Step {
            keyspace,
            action,
            reason,
        });
    }

    /// Emits steps that change voters, as far as there is room. Whether some had to wait.
    fn change_voters(
        &mut self,
        mut proposals: Vec<(Class, KeyspaceId, Proposal)>,
        keyspaces: &mut Records,
    ) -> bool {
        proposals.sort_by_key(|(class, keyspace, _)| (*class, *keyspace));
        let mut is_crowded = false;
        for (_, keyspace, proposal) in proposals {
            let record = keyspaces.get_mut(&keyspace).expect("it was looked at");
            if record.moving_since.is_none() {
                if self.flight.voter_changes >= self.cluster().policy.voter_changes_in_flight_max {
                    is_crowded = true;
                    continue;
                }
                self.flight.voter_changes += 1;
                record.moving_since = Some(self.cluster().now);
            }
            self.emit(keyspace, record, proposal, false);
        }
        is_crowded
    }

    /// How many leaderships may begin to move now.
    fn leader_moves_due(&self, last: Option<Duration>) -> usize {
        let Cluster { now, policy, .. } = self.cluster();
        let room = policy
            .leader_moves_in_flight_max
            .saturating_sub(self.flight.leader_moves);
        let interval = policy.leader_move_interval.as_nanos();
        let Some(last) = last else {
            return room;
        };
        let passed = now.saturating_sub(last).as_nanos();
        let due = passed.checked_div(interval).unwrap_or(u128::MAX);
        room.min(usize::try_from(due).unwrap_or(usize::MAX))
    }

    /// Emits transfers to better zones. How many.
    fn bring_home(
        &mut self,
        moves: usize,
        wanting: &[KeyspaceId],
        keyspaces: &mut Records,
    ) -> usize {
        let mut moved = 0;
        for keyspace in wanting {
            if moved == moves {
                break;
            }
            let record = keyspaces.get_mut(keyspace).expect("it was looked at");
            let observation = &self.observed.keyspaces[keyspace];
            let Some(leader) = observation.leader.filter(|_| record.issued.is_none()) else {
                continue;
            };
            // Decided again, because the moves before it count.
            let subject = self.subject(*keyspace, observation, record);
            if let Some(proposal) = subject.leader(leader, &mut Vec::new()) {
                self.emit(*keyspace, record, proposal, true);
                moved += 1;
            }
        }
        moved
    }

    /// Emits transfers between the nodes of a zone where one leads two keyspaces more than another. How many.
    fn balance_leaders(&mut self, moves: usize, keyspaces: &mut Records) -> usize {
        let mut moved = 0;
        if moves == 0 || !self.is_uneven(NodeRecord::leaders_expected) {
            return 0;
        }
        let observed = self.observed;
        for (record, (keyspace, observation)) in keyspaces.values_mut().zip(&observed.keyspaces) {
            let Some(from) = record.settled.filter(|_| record.is_quiet) else {
                continue;
            };
            if self.index.state(from) != State::Healthy {
                continue;
            }
            let subject = self.subject(*keyspace, observation, record);
            let Some(to) = subject.less_loaded_peer(from) else {
                continue;
            };
            let zone = self.index.zone_of(to);
            let leaders = |node: NodeId| self.nodes[&node].leaders_expected();
            let (more, less) = (leaders(from), leaders(to));
            let reason =
                format!("node {from} leads {more} keyspaces, node {to} {less}, both in {zone}");
            let action = Action::TransferLeader { from, to };
            self.issue(*keyspace, record, action, reason, true);
            moved += 1;
            if moved == moves {
                break;
            }
        }
        moved
    }

    /// Whether some zone has a node that could take something over and another that has two more.
    fn is_uneven(&self, count: impl Fn(&NodeRecord) -> i64) -> bool {
        let count = |node: NodeId| self.nodes.get(&node).map_or(0, &count);
        self.index.zones.iter().any(|zone| {
            let nodes = zone.usable.iter().map(|at| self.index.nodes[*at].id);
            let steady = nodes.clone().filter(|node| self.is_steady(*node));
            let least = steady.map(count).min();
            let most = nodes.map(count).max();
            least
                .zip(most)
                .is_some_and(|(least, most)| most - least >= 2)
        })
    }

    /// Whether a node has been healthy for long enough to take something over.
    fn is_steady(&self, node: NodeId) -> bool {
        let Cluster { now, policy, .. } = self.cluster();
        let record = self.nodes.get(&node);
        self.index.state(node) == State::Healthy
            && record.is_some_and(|record| record.healthy_for(*now) >= record.wait(policy))
    }

    /// Begins to move replicas from the fullest node of a zone to the emptiest, where they differ by two or more:
    /// those of keyspaces that are at home there, and those of others, each for themselves.
    fn balance_replicas(&mut self, keyspaces: &mut Records) {
        for is_home in [true, false] {
            if !self.is_uneven(|node| node.seats.alike(is_home) as i64) {
                continue;
            }
            for zone in 0..self.index.zones.len() {
                loop {
                    let policy = &self.cluster().policy;
                    if self.flight.voter_changes >= policy.voter_changes_in_flight_max
                        || self.flight.replica_moves >= policy.replica_moves_in_flight_max
                    {
                        return;
                    }
                    if !self.balance_zone(zone, is_home, keyspaces) {
                        break;
                    }
                }
            }
        }
    }

    /// The fullest node of a zone and the emptiest that is steady, if they differ by two or more.
    fn uneven_pair(&self, zone: usize, is_home: bool) -> Option<Swap> {
        let seats = |node: NodeId| {
            let record = self.nodes.get(&node);
            record.map_or(0, |node| node.seats.alike(is_home))
        };
        let nodes = self.index.zones[zone].usable.iter();
        let nodes = nodes.map(|at| self.index.nodes[*at].id);
        let from = nodes.clone().max_by_key(|node| (seats(*node), *node))?;
        let to = nodes
            .filter(|node| self.is_steady(*node))
            .min_by_key(|node| (seats(*node), *node))?;
        (seats(from) >= seats(to) + 2).then_some(Swap { from, to })
    }

    /// Begins to move one replica within a zone. Whether it did.
    fn balance_zone(&mut self, zone: usize, is_home: bool, keyspaces: &mut Records) -> bool {
        let Some(swap) = self.uneven_pair(zone, is_home) else {
            return false;
        };
        let Swap { from, to } = swap;
        let (index, observed) = (self.index, self.observed);
        let movable = |(record, (_, observation)): &(&mut Record, (_, &Observation))| {
            record.is_quiet
                && record.has_seat(from, is_home)
                && !observation.voters.contains(&to)
                && observation
                    .leader
                    .is_some_and(|leader| index.state(leader) == State::Healthy)
                && guard_present(index, observation).is_ok()
        };
        let looks = keyspaces.values_mut().zip(&observed.keyspaces);
        // A leader that moves stalls writes: better one that only follows.
        let chosen = looks
            .filter(movable)
            .min_by_key(|(_, (_, observation))| observation.leader == Some(from));
        let Some((record, (keyspace, observation))) = chosen else {
            return false;
        };
        let mut target = observation.voters.clone();
        target.remove(&from);
        target.insert(to);
        let seats = record.seats_of(&target, &observation.wish, index);
        record.retarget(target, seats, self.nodes);
        record.swap = Some(swap);
        record.is_quiet = false;
        let decision = self.subject(*keyspace, observation, record).decide();
        if let Some(proposal) = decision.voters {
            self.flight.voter_changes += 1;
            self.flight.replica_moves += 1;
            record.moving_since = Some(self.cluster().now);
            self.emit(*keyspace, record, proposal, false);
        }
        true
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod voters_tests;
