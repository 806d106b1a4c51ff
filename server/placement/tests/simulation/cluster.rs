//! A cluster in simulated time: nodes that fail and come back, replicas that lag and catch up, elections by
//! the longest log and then the order of placement, and steps that take time and sometimes fail.
//!
//! ```text
//!   Event ─▶ health ─▶ elections ─┐
//!   time  ─▶ lags shrink ─────────┼─▶ Observed ─▶ plan ─▶ steps ─▶ checked when emitted ─▶ done, or failed, later
//!                                 └──────────────────────────────────────────────┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_placement::{
    Action, Health, Home, KeyspaceId, Memory, NodeId, Observation, Observed, Step, election_order,
    plan,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

pub const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Something that happens to nodes.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Duration,
    pub nodes: Vec<NodeId>,
    pub becomes: Becomes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    Healthy,
    Sick,
    Down,
}

/// A step that is being taken.
struct Running {
    step: Step,
    ends: Duration,
    fails: bool,
}

/// What became of a keyspace.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Changes of health of one of its voters, and of its voters.
    pub disturbances: usize,
    /// Transfers to another zone that succeeded.
    pub moves: usize,
    /// Transfers within a zone that succeeded.
    pub balance: usize,
    pub elections: usize,
}

/// The simulated cluster. What `plan` sees is kept true by every event, except for lags just after an
/// election, which nobody knows for a moment.
pub struct Sim {
    pub seed: u64,
    pub observed: Observed,
    pub memory: Memory,
    pub tallies: BTreeMap<KeyspaceId, Tally>,
    pub steps: usize,
    rng: StdRng,
    events: Vec<Event>,
    running: Vec<Running>,
    /// How far replicas really are behind; those that are not here are not behind.
    lag: BTreeMap<(KeyspaceId, NodeId), u64>,
    /// Keyspaces whose leader does not know yet how far the others are, and until when.
    unknown_until: BTreeMap<KeyspaceId, Duration>,
    /// Elections and hand-overs to come.
    elections: BTreeMap<KeyspaceId, Duration>,
    pub fail_percent: u32,
    /// How often the planner looks while nothing is under way.
    pub idle_tick: Duration,
    /// When the planner forgets everything but the homes it found.
    pub planner_dies: Option<Duration>,
    last_tick: Duration,
    /// Zone that automatic keyspaces are written from.
    pub writers: BTreeMap<KeyspaceId, String>,
}

const CATCH_UP_PER_MS: u64 = 30;
const STATE_ENTRIES: u64 = 40_000;

impl Sim {
    pub fn new(seed: u64, observed: Observed, mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| std::cmp::Reverse(event.at));
        let keyspaces = observed.keyspaces.keys();
        Self {
            seed,
            memory: Memory::new(),
            tallies: keyspaces.map(|id| (*id, Tally::default())).collect(),
            steps: 0,
            rng: StdRng::seed_from_u64(seed ^ 0x51E9),
            events,
            running: Vec::new(),
            lag: BTreeMap::new(),
            unknown_until: BTreeMap::new(),
            elections: BTreeMap::new(),
            fail_percent: 5,
            idle_tick: millis(1_000),
            planner_dies: None,
            last_tick: Duration::ZERO,
            writers: BTreeMap::new(),
            observed,
        }
    }

    pub fn now(&self) -> Duration {
        self.observed.cluster.now
    }

    pub fn health(&self, node: NodeId) -> Health {
        self.observed.cluster.nodes[&node].health
    }

    pub fn zone(&self, node: NodeId) -> &str {
        &self.observed.cluster.nodes[&node].zone
    }

    fn is_up(&self, node: NodeId) -> bool {
        !matches!(self.health(node), Health::Down { .. })
    }

    /// Whether anything is still to happen by itself.
    pub fn is_busy(&self) -> bool {
        !self.events.is_empty()
            || !self.running.is_empty()
            || !self.elections.is_empty()
            || !self.lag.is_empty()
            || !self.unknown_until.is_empty()
    }

    /// Lets time pass until `now`, then plans, and begins the steps. How many there were.
    pub fn tick(&mut self, now: Duration) -> usize {
        let passed = now - self.last_tick;
        self.last_tick = now;
        self.observed.cluster.now = now;
        while self.events.last().is_some_and(|event| event.at <= now) {
            let event = self.events.pop().unwrap();
            self.happen(&event);
        }
        self.catch_up(passed);
        self.count_writes(passed);
        self.finish_steps();
        self.elect();
        if self.planner_dies.take_if(|at| *at <= now).is_some() {
            let before = std::mem::take(&mut self.memory);
            for id in self.writers.keys() {
                if let Some(home) = before.auto_home(*id) {
                    self.memory.restore_auto_home(*id, home, &self.observed);
                }
            }
        }
        let steps = plan(&self.observed, &mut self.memory);
        let count = steps.len();
        self.steps += count;
        for step in steps {
            self.begin(step);
        }
        count
    }

    /// When it is worth looking next.
    pub fn next_tick(&self, planned: usize) -> Duration {
        let now = self.now();
        let is_moving = planned > 0 || !self.running.is_empty() || !self.elections.is_empty();
        let mut next = now
            + if is_moving {
                millis(200)
            } else {
                self.idle_tick
            };
        if let Some(event) = self.events.last() {
            next = next.min(event.at.max(now + millis(1)));
        }
        next
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now();
        for node in &event.nodes {
            let before = self.health(*node);
            let after = match event.becomes {
                Becomes::Healthy => Health::Healthy,
                Becomes::Sick => Health::Sick,
                Becomes::Down => match before {
                    Health::Down { since } => Health::Down { since },
                    _ => Health::Down { since: now },
                },
            };
            if after == before {
                continue;
            }
            let known = self.observed.cluster.nodes.get_mut(node).unwrap();
            known.health = after;
            for (id, observation) in &mut self.observed.keyspaces {
                let is_learner = observation.learners.contains(node);
                if !observation.voters.contains(node) && !is_learner {
                    continue;
                }
                self.tallies.get_mut(id).unwrap().disturbances += 1;
                if let Health::Down { since } = before {
                    let missed = (now - since).as_millis() as u64 * (id % 4);
                    let lag = self.lag.get(&(*id, *node)).copied().unwrap_or(0);
                    let lag = (lag + missed).min(STATE_ENTRIES);
                    if lag > 0 {
                        self.lag.insert((*id, *node), lag);
                        observation.lag.insert(*node, lag);
                    }
                }
                if observation.leader == Some(*node) && after != Health::Healthy {
                    if event.becomes == Becomes::Down {
                        observation.leader = None;
                    }
                    self.elections.entry(*id).or_insert(now + millis(700));
                }
                if observation.leader.is_none() {
                    self.elections.entry(*id).or_insert(now + millis(700));
                }
            }
        }
    }

    fn catch_up(&mut self, passed: Duration) {
        let done = passed.as_millis() as u64 * CATCH_UP_PER_MS;
        let nodes = &self.observed.cluster.nodes;
        let keyspaces = &mut self.observed.keyspaces;
        let unknown = &mut self.unknown_until;
        let now = self.observed.cluster.now;
        let lags = &self.lag;
        unknown.retain(|id, until| {
            let observation = keyspaces.get_mut(id).unwrap();
            if now >= *until && observation.leader.is_some() {
                let replicas = observation.voters.union(&observation.learners);
                let lag = |node: &NodeId| (*node, lags.get(&(*id, *node)).copied().unwrap_or(0));
                observation.lag = replicas.map(lag).collect();
                return false;
            }
            observation.leader.is_some()
        });
        self.lag.retain(|(id, node), lag| {
            let observation = keyspaces.get_mut(id).unwrap();
            if !observation.voters.contains(node) && !observation.learners.contains(node) {
                return false;
            }
            let is_up = !matches!(nodes[node].health, Health::Down { .. });
            if is_up && observation.leader.is_some() {
                *lag = lag.saturating_sub(done);
                if let Some(seen) = observation.lag.get_mut(node) {
                    *seen = *lag;
                }
            }
            *lag > 0
        });
    }

    fn count_writes(&mut self, passed: Duration) {
        for (id, zone) in &self.writers {
            let observation = self.observed.keyspaces.get_mut(id).unwrap();
            let writes = passed.as_millis() as u64;
            for (other, count) in &mut observation.writes_by_zone {
                *count += if other == zone { writes * 9 } else { writes };
            }
        }
    }

    fn elect(&mut self) {
        let now = self.now();
        let due = self.elections.iter().filter(|(_, at)| **at <= now);
        let due: Vec<KeyspaceId> = due.map(|(id, _)| *id).collect();
        for id in due {
            let observation = &self.observed.keyspaces[&id];
            let up = |node: &NodeId| self.is_up(*node);
            let is_well = |node: NodeId| self.health(node) == Health::Healthy;
            if observation.leader.is_some_and(is_well) {
                self.elections.remove(&id);
                continue;
            }
            if observation.changing {
                continue;
            }
            let alive: Vec<NodeId> = observation.voters.iter().copied().filter(up).collect();
            if alive.len() <= observation.voters.len() / 2 {
                continue;
            }
            let zones = observation.voters.iter();
            let zones = zones.map(|node| (*node, self.zone(*node).to_owned()));
            let auto = self.memory.auto_home(id);
            let order = election_order(&observation.wish, auto, &zones.collect(), id);
            let lag = |node: NodeId| self.lag.get(&(id, node)).copied().unwrap_or(0);
            let order = order.into_iter().filter(|node| alive.contains(node));
            let winner = order
                .min_by_key(|node| (!is_well(*node), lag(*node)))
                .unwrap();
            self.elections.remove(&id);
            if observation.leader != Some(winner) {
                let ahead = lag(winner);
                for (_, lag) in self.lag.range_mut((id, 0)..=(id, NodeId::MAX)) {
                    *lag = lag.saturating_sub(ahead);
                }
                self.tallies.get_mut(&id).unwrap().elections += 1;
                self.lead(id, winner);
            }
        }
    }

    /// Makes a node the leader; how far the others are, it learns soon.
    fn lead(&mut self, id: KeyspaceId, leader: NodeId) {
        let wait = millis(self.rng.random_range(0..1_500));
        self.unknown_until.insert(id, self.now() + wait);
        let observation = self.observed.keyspaces.get_mut(&id).unwrap();
        observation.leader = Some(leader);
        observation.lag.clear();
    }

    fn begin(&mut self, step: Step) {
        self.check(&step);
        let takes = millis(self.rng.random_range(20..400));
        let fails = self.rng.random_range(0..100) < self.fail_percent;
        let observation = self.observed.keyspaces.get_mut(&step.keyspace).unwrap();
        observation.changing = true;
        self.running.push(Running {
            step,
            ends: self.observed.cluster.now + takes,
            fails,
        });
    }

    fn finish_steps(&mut self) {
        let now = self.now();
        let running = std::mem::take(&mut self.running);
        let (done, running) = running.into_iter().partition(|step| step.ends <= now);
        self.running = running;
        for Running { step, fails, .. } in done {
            let observation = self.observed.keyspaces.get_mut(&step.keyspace).unwrap();
            observation.changing = false;
            let is_taken = !fails && self.take(&step);
            // Sometimes nobody tells that a step has failed.
            if !is_taken && self.rng.random_range(0..2) == 0 {
                self.memory
                    .step_failed(step.keyspace, &self.observed.cluster);
            }
        }
    }

    /// Does what a step says, if that can be done. Whether it could.
    fn take(&mut self, step: &Step) -> bool {
        let id = step.keyspace;
        let observation = &self.observed.keyspaces[&id];
        let Some(leader) = observation.leader else {
            return false;
        };
        let has_quorum = |voters: &BTreeSet<NodeId>| {
            let up = voters.iter().filter(|node| self.is_up(**node));
            up.count() > voters.len() / 2
        };
        if !has_quorum(&observation.voters) {
            return false;
        }
        match &step.action {
            Action::AddLearner(node) => {
                let node = *node;
                self.lag.insert((id, node), STATE_ENTRIES);
                let observation = self.observed.keyspaces.get_mut(&id).unwrap();
                observation.learners.insert(node);
                observation.lag.insert(node, STATE_ENTRIES);
            }
            Action::RemoveLearner(node) => {
                let observation = self.observed.keyspaces.get_mut(&id).unwrap();
                observation.learners.remove(node);
                observation.lag.remove(node);
            }
            Action::ChangeVoters(new) => {
                if !has_quorum(new) {
                    return false;
                }
                self.tallies.get_mut(&id).unwrap().disturbances += 1;
                let observation = self.observed.keyspaces.get_mut(&id).unwrap();
                observation.voters = new.clone();
                observation.learners.retain(|node| !new.contains(node));
                observation.lag.retain(|node, _| new.contains(node));
            }
            Action::TransferLeader { from, to } => {
                if leader != *from || !self.is_up(*to) || self.lag.contains_key(&(id, *to)) {
                    return false;
                }
                let is_balance = self.zone(*from) == self.zone(*to);
                let tally = self.tallies.get_mut(&id).unwrap();
                if is_balance {
                    tally.balance += 1;
                } else {
                    tally.moves += 1;
                }
                self.lead(id, *to);
            }
        }
        true
    }

    /// What must hold of every step at the moment when it is emitted, reckoned apart from the planner.
    fn check(&self, step: &Step) {
        let seed = self.seed;
        let observation = &self.observed.keyspaces[&step.keyspace];
        let context = || format!("seed {seed}: {step}: {observation:?}");
        let is_caught_up = |node: NodeId| {
            let lag = observation.lag.get(&node).copied();
            let lag = if observation.leader == Some(node) {
                Some(0)
            } else {
                lag
            };
            let most = self.observed.cluster.policy.lag_entries_max;
            self.health(node) == Health::Healthy && lag.is_some_and(|lag| lag <= most)
        };
        assert!(!observation.changing, "one at a time: {}", context());
        assert!(!step.reason.is_empty(), "a reason: {}", context());
        match &step.action {
            Action::AddLearner(node) => {
                assert_eq!(self.health(*node), Health::Healthy, "{}", context());
                assert!(!observation.voters.contains(node), "{}", context());
            }
            Action::RemoveLearner(node) => {
                assert!(observation.learners.contains(node), "{}", context());
            }
            Action::ChangeVoters(new) => {
                for voters in [&observation.voters, new] {
                    let fit = voters.iter().filter(|node| is_caught_up(**node)).count();
                    assert!(fit > voters.len() / 2, "no quorum: {}", context());
                }
                for node in new.difference(&observation.voters) {
                    assert!(is_caught_up(*node), "joins behind: {}", context());
                }
                let leader = observation.leader.unwrap();
                assert!(new.contains(&leader), "without its leader: {}", context());
            }
            Action::TransferLeader { from, to } => {
                assert_eq!(observation.leader, Some(*from), "{}", context());
                assert!(observation.voters.contains(to), "no voter: {}", context());
                assert!(is_caught_up(*to), "to one that is not fit: {}", context());
            }
        }
    }

    /// The home zone of a keyspace.
    pub fn home<'a>(&'a self, id: KeyspaceId, observation: &'a Observation) -> &'a str {
        match &observation.wish.home {
            Home::Zone(zone) => zone,
            Home::Auto => self.memory.auto_home(id).unwrap(),
        }
    }
}
