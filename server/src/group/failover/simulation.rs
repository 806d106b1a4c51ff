//! Small clusters in simulated time: leaders die, restart and are slandered, messages are slow and get
//! lost, and the voters decide with the real [`Doubt`] and [`Answers`].
//!
//! Elections are simulated as openraft holds them: a campaign asks for votes in spite of leases, and
//! votes compare terms and logs. What is claimed, for every seed:
//!
//! - a group whose leader died has one again soon, if a majority lives;
//! - two voters whose logs differ do not stand at the same time, as long as no message is lost;
//! - nobody stands against a leader whom a minority holds for dead.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    doubt::{Doubt, Known, Look, Pace},
    verdict::Answers,
};
use crate::{
    limits,
    raft::{Ballot, LogEnd, NodeId, Standing, Surroundings},
};

const HEARTBEAT: Duration = Duration::from_secs(1);
const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Debug)]
enum Event {
    Look(NodeId),
    Survey {
        from: NodeId,
        to: NodeId,
        number: u64,
        standing: Standing,
    },
    Answer {
        from: NodeId,
        to: NodeId,
        number: u64,
        standing: Standing,
        suspects: BTreeSet<NodeId>,
    },
    SurveyEnds(NodeId, u64),
    VoteAsked {
        from: NodeId,
        to: NodeId,
        term: u64,
        log_end: LogEnd,
    },
    VoteGiven {
        from: NodeId,
        to: NodeId,
        term: u64,
    },
    VoteRefused {
        to: NodeId,
        ballot: Ballot,
    },
    Heartbeat {
        from: NodeId,
        to: NodeId,
        term: u64,
    },
    HeartbeatAnswered {
        to: NodeId,
        term: u64,
    },
    /// A leader sends heartbeats.
    Beat(NodeId, u64),
    /// A node begins to suspect another.
    Suspects(NodeId, NodeId),
    /// The first learns that the second suspects the third.
    Heard(NodeId, NodeId, NodeId),
    Start(NodeId),
}

struct Survey {
    number: u64,
    standing: Standing,
    missing: usize,
    standings: BTreeMap<NodeId, Standing>,
    suspects: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

struct Node {
    alive: bool,
    ballot: Ballot,
    cast_at: Instant,
    log_end: LogEnd,
    /// Votes for this node in the term of its ballot.
    votes: BTreeSet<NodeId>,
    leads: bool,
    followed_at: Instant,
    heard_at: Option<Instant>,
    resigned: bool,
    /// Who suspects whom, as far as this node knows.
    suspicions: BTreeMap<NodeId, BTreeSet<NodeId>>,
    doubt: Doubt,
    survey: Option<Survey>,
}

#[derive(Debug)]
struct Campaign {
    node: NodeId,
    log_end: LogEnd,
    at: Instant,
    /// When somebody led a later term.
    decided: Option<Instant>,
}

struct World {
    rng: StdRng,
    now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<(Instant, u64), Event>,
    next: u64,
    nodes: BTreeMap<NodeId, Node>,
    voters: Vec<NodeId>,
    campaigns: Vec<Campaign>,
    /// Messages lost of a thousand.
    lost: u32,
    delay_ms_max: u64,
}

impl World {
    fn new(seed: u64, size: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Instant::now() + Duration::from_secs(3_600);
        let voters: Vec<NodeId> = (1..=size).collect();
        let leader = rng.random_range(1..=size);
        let nodes = voters.iter().map(|id| {
            let ballot = Ballot {
                term: 5,
                node: leader,
                committed: true,
            };
            // Followers are a little behind each other, or not.
            let index = 100 - rng.random_range(0..3) * u64::from(*id != leader);
            (*id, Node::new(now, ballot, LogEnd { term: 5, index }))
        });
        let nodes = nodes.collect();
        let delay_ms_max = rng.random_range(1..20);
        let mut world = Self {
            rng,
            now,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            nodes,
            voters,
            campaigns: Vec::new(),
            lost: 0,
            delay_ms_max,
        };
        for id in world.voters.clone() {
            world.at(Duration::ZERO, Event::Look(id));
        }
        world
    }

    /// The leader has led for a while.
    fn led(mut self) -> Self {
        let leader = self.nodes[&1].ballot.node;
        for node in self.nodes.values_mut() {
            node.heard_at = Some(self.now);
        }
        let node = self.node(leader);
        (node.leads, node.heard_at) = (true, None);
        self.at(Duration::ZERO, Event::Beat(leader, 5));
        self
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a voter")
    }

    fn at(&mut self, delay: Duration, event: Event) {
        let key = (self.now + delay, self.next);
        self.next += 1;
        self.queue.push(Reverse(key));
        self.events.insert(key, event);
    }

    /// A message, which takes its time or is lost.
    fn send(&mut self, event: Event) {
        if self.rng.random_range(0..1_000) >= self.lost {
            let delay =
                Duration::from_micros(self.rng.random_range(100..self.delay_ms_max * 1_000));
            self.at(delay, event);
        }
    }

    fn others(&self, id: NodeId) -> Vec<NodeId> {
        let others = self.voters.iter().filter(|other| **other != id);
        others.copied().collect()
    }

    /// The node stops, and the others notice after `notice`, each in its own time.
    fn kill(&mut self, id: NodeId, notice: Duration) {
        self.node(id).alive = false;
        for other in self.others(id) {
            let late = millis(self.rng.random_range(0..5));
            self.at(notice + late, Event::Suspects(other, id));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse(key)) = self.queue.peek().copied()
            && key.0 <= end
        {
            self.queue.pop();
            let event = self.events.remove(&key).expect("queued together");
            self.now = key.0;
            self.happen(event);
        }
        self.now = end;
    }

    fn is_dead(&self, me: NodeId, node: NodeId) -> bool {
        let suspicions = &self.nodes[&me].suspicions;
        let suspect = |by: &&NodeId| suspicions.get(by).is_some_and(|s| s.contains(&node));
        let others = self.voters.iter().filter(|by| **by != node);
        suspect(&&me) && others.filter(suspect).count() > self.voters.len() / 2
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look(id) => self.look(id),
            Event::Suspects(id, whom) => {
                self.node(id).suspicions.entry(id).or_default().insert(whom);
                for other in self.others(id) {
                    self.send(Event::Heard(other, id, whom));
                }
                self.stir(id);
            }
            Event::Heard(id, by, whom) => {
                self.node(id).suspicions.entry(by).or_default().insert(whom);
                self.stir(id);
            }
            Event::Start(id) => {
                let now = self.now;
                let node = self.node(id);
                let fresh = Node::new(now, node.ballot, node.log_end);
                *node = fresh;
                for other in self.others(id) {
                    for suspicions in self.node(other).suspicions.values_mut() {
                        suspicions.remove(&id);
                    }
                }
                self.look(id);
            }
            Event::Survey {
                from,
                to,
                number,
                standing,
            } => {
                if !self.nodes[&to].alive {
                    return;
                }
                let now = self.now;
                let node = self.node(to);
                let mine = node.standing(now);
                if let Some(survey) = &mut node.survey {
                    survey.standings.entry(from).or_insert(standing);
                }
                let follows = mine.ballot.committed && mine.ballot.node == from;
                node.resigned |=
                    follows && !standing.leads && standing.ballot.term >= mine.ballot.term;
                let suspects = node.suspicions.get(&to).cloned().unwrap_or_default();
                self.send(Event::Answer {
                    from: to,
                    to: from,
                    number,
                    standing: mine,
                    suspects,
                });
                self.look(to);
            }
            Event::Answer {
                from,
                to,
                number,
                standing,
                suspects,
            } => {
                let Some(survey) = self.node(to).survey.as_mut().filter(|s| s.number == number)
                else {
                    return;
                };
                survey.missing -= 1;
                survey.standings.insert(from, standing);
                survey.suspects.insert(from, suspects);
                if survey.missing == 0 {
                    self.conclude(to);
                }
            }
            Event::SurveyEnds(id, number) => {
                if self.nodes[&id]
                    .survey
                    .as_ref()
                    .is_some_and(|s| s.number == number)
                {
                    self.conclude(id);
                }
            }
            Event::VoteAsked {
                from,
                to,
                term,
                log_end,
            } => {
                let now = self.now;
                let node = self.node(to);
                let known = node.ballot;
                let new = term > known.term || (term == known.term && known.node == from);
                if node.alive && new && log_end >= node.log_end {
                    node.cast(now, from, term, false);
                    let synced = millis(self.rng.random_range(1..8));
                    self.at(
                        synced,
                        Event::VoteGiven {
                            from: to,
                            to: from,
                            term,
                        },
                    );
                    self.look(to);
                } else if node.alive {
                    let ballot = known;
                    self.send(Event::VoteRefused { to: from, ballot });
                }
            }
            Event::VoteRefused { to, ballot } => {
                let now = self.now;
                let node = self.node(to);
                if node.alive && !node.leads && ballot.term > node.ballot.term {
                    node.cast(now, ballot.node, ballot.term, false);
                    self.look(to);
                }
            }
            Event::VoteGiven { from, to, term } => self.vote_given(from, to, term),
            Event::Heartbeat { from, to, term } => {
                let now = self.now;
                let node = self.node(to);
                if !node.alive || term < node.ballot.term {
                    return;
                }
                node.cast(now, from, term, true);
                node.heard_at = Some(now);
                node.resigned = false;
                self.send(Event::HeartbeatAnswered { to: from, term });
                self.look(to);
            }
            Event::HeartbeatAnswered { to, term } => {
                let now = self.now;
                let node = self.node(to);
                if node.leads && node.ballot.term == term {
                    node.followed_at = now;
                }
            }
            Event::Beat(id, term) => {
                let node = &self.nodes[&id];
                if !node.alive || !node.leads || node.ballot.term != term {
                    return;
                }
                for to in self.others(id) {
                    self.send(Event::Heartbeat { from: id, to, term });
                }
                self.at(HEARTBEAT, Event::Beat(id, term));
            }
        }
    }

    fn vote_given(&mut self, from: NodeId, to: NodeId, term: u64) {
        let (now, majority) = (self.now, self.voters.len() / 2 + 1);
        let node = self.node(to);
        let mine = Ballot {
            term,
            node: to,
            committed: false,
        };
        if !node.alive || node.ballot != mine {
            return;
        }
        node.votes.insert(from);
        if node.votes.len() < majority {
            return;
        }
        node.cast(now, to, term, true);
        (node.leads, node.followed_at) = (true, now);
        let open = self.campaigns.iter_mut().filter(|c| c.decided.is_none());
        for campaign in open {
            campaign.decided = Some(now);
        }
        self.at(Duration::ZERO, Event::Beat(to, term));
    }

    fn stir(&mut self, id: NodeId) {
        let now = self.now;
        self.node(id).doubt.stir(now);
        self.look(id);
    }

    fn look(&mut self, id: NodeId) {
        let now = self.now;
        if !self.nodes[&id].alive {
            return;
        }
        let mut doubt = std::mem::take(&mut self.node(id).doubt);
        let node = &self.nodes[&id];
        let (standing, surroundings) = (node.standing(now), node.surroundings(now, &self.voters));
        let known = Known {
            me: id,
            standing: &standing,
            surroundings: &surroundings,
            is_dead: &|other| self.is_dead(id, other),
            resigned: node.resigned,
        };
        let look = doubt.look(&known, now);
        self.node(id).doubt = doubt;
        match look {
            Look::Settled => self.at(limits::FAILOVER_LOOK_EVERY, Event::Look(id)),
            Look::Wait(until) => {
                self.at(until.duration_since(now).max(millis(1)), Event::Look(id));
            }
            Look::Ask(_) => self.ask(id, standing),
        }
    }

    fn ask(&mut self, id: NodeId, standing: Standing) {
        let suspected = self.nodes[&id].suspicions.get(&id).cloned();
        let suspected = suspected.unwrap_or_default();
        let mut asked = self.others(id);
        asked.retain(|other| !suspected.contains(other));
        let number = self.next;
        self.next += 1;
        let mine = self.nodes[&id].suspicions.get(&id).cloned();
        self.node(id).survey = Some(Survey {
            number,
            standing,
            missing: asked.len(),
            standings: BTreeMap::from([(id, standing)]),
            suspects: BTreeMap::from([(id, mine.unwrap_or_default())]),
        });
        for to in &asked {
            self.send(Event::Survey {
                from: id,
                to: *to,
                number,
                standing,
            });
        }
        let patience = limits::SURVEY_WAIT_MIN;
        self.at(patience, Event::SurveyEnds(id, number));
        if asked.is_empty() {
            self.conclude(id);
        }
    }

    fn conclude(&mut self, id: NodeId) {
        let now = self.now;
        let survey = self.node(id).survey.take().expect("checked by the caller");
        let agree = |whom: NodeId| {
            let by = survey.suspects.iter().filter(|(by, _)| **by != whom);
            by.filter(|(_, s)| s.contains(&whom)).count() > self.voters.len() / 2
        };
        let answers = Answers {
            group: 0,
            me: id,
            voters: &self.voters,
            order: &[],
            standings: &survey.standings,
            is_dead: &|node, _| node != id && self.is_dead(id, node) && agree(node),
            is_sick: &|_| false,
        };
        let verdict = answers.verdict();
        let pace = Pace {
            round_trip: millis(self.delay_ms_max),
        };
        let ballot = survey.standing.ballot;
        let alive = self.nodes[&id].alive;
        if self.node(id).doubt.judge(ballot, verdict, pace, now) && alive {
            self.campaign(id, ballot);
            self.node(id).doubt.stood(ballot, pace, now);
        }
        self.look(id);
    }

    fn campaign(&mut self, id: NodeId, ballot: Ballot) {
        let now = self.now;
        let node = self.node(id);
        if node.ballot != ballot {
            return;
        }
        let term = ballot.term + 1;
        node.cast(now, id, term, false);
        node.votes = BTreeSet::from([id]);
        let log_end = node.log_end;
        self.campaigns.push(Campaign {
            node: id,
            log_end,
            at: now,
            decided: None,
        });
        for to in self.others(id) {
            self.send(Event::VoteAsked {
                from: id,
                to,
                term,
                log_end,
            });
        }
    }

    /// The node that leads with a majority behind it.
    fn leader(&self) -> Option<NodeId> {
        let nodes = self.nodes.iter();
        let leaders = nodes.filter(|(_, node)| node.alive && node.leads);
        let leader = leaders.max_by_key(|(_, node)| node.ballot.term)?;
        let followers = self.nodes.values().filter(|node| {
            node.alive && node.ballot.node == *leader.0 && node.ballot.term == leader.1.ballot.term
        });
        (followers.count() > self.voters.len() / 2).then_some(*leader.0)
    }

    fn assert_led(&mut self, seed: u64) {
        self.run(Duration::from_secs(4));
        assert!(
            self.leader().is_some(),
            "seed {seed}: nobody leads after {:?}",
            self.campaigns
        );
        let campaigns = self.campaigns.len();
        self.run(Duration::from_secs(5));
        assert_eq!(
            self.campaigns.len(),
            campaigns,
            "seed {seed}: it is settled"
        );
    }

    /// Two that stand at the same time have logs of the same length.
    fn assert_no_race(&self, seed: u64) {
        for (n, campaign) in self.campaigns.iter().enumerate() {
            let until = campaign.decided.unwrap_or(campaign.at + millis(50));
            let meanwhile = self.campaigns[n + 1..].iter().filter(|c| c.at < until);
            for other in meanwhile {
                assert!(
                    other.node == campaign.node || other.log_end == campaign.log_end,
                    "seed {seed}: {campaign:?} and {other:?}"
                );
            }
        }
    }
}

impl Node {
    fn new(now: Instant, ballot: Ballot, log_end: LogEnd) -> Self {
        Self {
            alive: true,
            ballot,
            cast_at: now,
            log_end,
            votes: BTreeSet::new(),
            leads: false,
            followed_at: now,
            heard_at: None,
            resigned: false,
            suspicions: BTreeMap::new(),
            doubt: Doubt::default(),
            survey: None,
        }
    }

    fn cast(&mut self, now: Instant, node: NodeId, term: u64, committed: bool) {
        let ballot = Ballot {
            term,
            node,
            committed,
        };
        if ballot == self.ballot {
            return;
        }
        if (ballot.term, ballot.node) != (self.ballot.term, self.ballot.node) {
            self.leads = false;
            self.heard_at = None;
        }
        self.ballot = ballot;
        self.cast_at = now;
    }

    fn standing(&self, now: Instant) -> Standing {
        let age = now.duration_since(self.cast_at);
        Standing {
            ballot: self.ballot,
            log_end: self.log_end,
            leads: self.leads && now.duration_since(self.followed_at) < Duration::from_secs(5),
            settling: !self.ballot.committed && age < limits::ELECTION_SETTLES_WITHIN,
        }
    }

    fn surroundings(&self, now: Instant, voters: &[NodeId]) -> Surroundings {
        Surroundings {
            voters: voters.to_vec(),
            ballot_age: now.duration_since(self.cast_at),
            heard_age: self.heard_at.map(|at| now.duration_since(at)),
            quorum_age: self.leads.then(|| now.duration_since(self.followed_at)),
            heard_age_max: HEARTBEAT * limits::HEARTBEATS_MISSED_MAX + limits::HEARTBEAT_DELAY_MAX,
        }
    }
}

const SEEDS: std::ops::Range<u64> = 0..400;

fn size(seed: u64) -> u64 {
    3 + 2 * (seed % 2)
}

#[test]
fn a_dead_leader_is_replaced_by_one_campaign() {
    for seed in SEEDS {
        let mut world = World::new(seed, size(seed)).led();
        world.run(Duration::from_secs(2));
        assert!(
            world.campaigns.is_empty(),
            "seed {seed}: {:?}",
            world.campaigns
        );
        let leader = world.leader().expect("it leads");
        world.kill(leader, millis(1 + seed % 3 * 100));
        world.assert_led(seed);
        world.assert_no_race(seed);
        assert_eq!(
            world.campaigns.len(),
            1,
            "seed {seed}: {:?}",
            world.campaigns
        );
    }
}

#[test]
fn a_dead_leader_is_replaced_though_messages_are_lost() {
    for seed in SEEDS {
        let mut world = World::new(seed, size(seed)).led();
        world.run(Duration::from_secs(2));
        let leader = world.leader().expect("it leads");
        world.lost = 100;
        world.kill(leader, millis(1));
        // Suspicions that were not heard of are heard of later.
        for id in world.others(leader) {
            for by in world.others(leader) {
                world.at(millis(100), Event::Heard(id, by, leader));
            }
        }
        world.run(Duration::from_secs(6));
        world.lost = 0;
        world.assert_led(seed);
    }
}

#[test]
fn a_cluster_that_starts_again_elects_at_once() {
    for seed in SEEDS {
        let mut world = World::new(seed, size(seed));
        for id in world.voters.clone() {
            let late = millis(world.rng.random_range(0..300));
            world.node(id).alive = false;
            world.at(late, Event::Start(id));
        }
        world.run(millis(900));
        assert!(
            world.leader().is_some(),
            "seed {seed}: {:?}",
            world.campaigns
        );
        world.assert_led(seed);
        world.assert_no_race(seed);
    }
}

#[test]
fn voters_that_all_voted_for_themselves_agree_on_one() {
    for seed in SEEDS {
        let mut world = World::new(seed, size(seed));
        let now = world.now;
        for id in world.voters.clone() {
            let late = millis(world.rng.random_range(0..100));
            world.node(id).cast(now + late, id, 6, false);
        }
        world.run(millis(900));
        assert!(
            world.leader().is_some(),
            "seed {seed}: {:?}",
            world.campaigns
        );
        world.assert_led(seed);
        world.assert_no_race(seed);
    }
}

#[test]
fn a_leader_that_starts_anew_before_anybody_missed_it_is_replaced() {
    for seed in SEEDS {
        let mut world = World::new(seed, size(seed)).led();
        world.run(Duration::from_secs(2));
        let leader = world.leader().expect("it leads");
        world.node(leader).alive = false;
        world.at(millis(50), Event::Start(leader));
        world.run(millis(900));
        assert!(
            world.leader().is_some(),
            "seed {seed}: {:?}",
            world.campaigns
        );
        world.assert_led(seed);
        world.assert_no_race(seed);
    }
}

#[test]
fn nobody_stands_against_a_leader_whom_a_minority_suspects() {
    for seed in SEEDS {
        let mut world = World::new(seed, size(seed)).led();
        let leader = world.leader().expect("it leads");
        // Those behind a broken link hear nothing of it any more, and followers come and go.
        let minority = usize::try_from(size(seed) / 2).expect("small");
        let slanderers = world.others(leader)[..minority].to_vec();
        for id in slanderers {
            world.at(millis(seed % 50), Event::Suspects(id, leader));
        }
        let restarted = *world.others(leader).last().expect("somebody follows");
        for n in 1..5 {
            world.at(Duration::from_secs(n), Event::Start(restarted));
        }
        world.run(Duration::from_secs(30));
        assert!(
            world.campaigns.is_empty(),
            "seed {seed}: {:?}",
            world.campaigns
        );
        assert_eq!(world.leader(), Some(leader), "seed {seed}");
    }
}
