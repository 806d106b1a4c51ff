//! Whole clusters in simulated time, many of them, each by a seed.
//!
//! What is claimed for every seed: the steps end; a leadership moves no more often than something happened to
//! its keyspace; no step is emitted that could cost a quorum or goes to a node that is not fit; and when all
//! nodes are well again, every leader is at home and the nodes of a zone share leaderships and replicas evenly.
//!
//! A failure names its seed; `HOLDFAST_PLACEMENT_SEED=7 cargo test -p holdfast-placement --test simulation` runs
//! that one alone in each test.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cluster::{Becomes, Event, Sim, millis};
use holdfast_placement::{
    Cluster, Health, Home, KeyspaceId, Load, Node, NodeId, Observation, Observed, Policy, Survive,
    Wish, choose_voters, risks,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// The difference between the nodes of a zone that is allowed in the end, in replicas: one for those that are at
/// home there, one for the others.
const REPLICAS_APART_MAX: usize = 2;
/// The same in leaderships. Two nodes that share a keyspace differ by one at most; along a chain of such
/// pairs it adds up.
const LEADERS_APART_MAX: usize = 3;

/// A shape of cluster and what is done to it.
struct Scale {
    zones: u64,
    nodes: u64,
    keyspaces: u64,
    policy: Policy,
    has_auto: bool,
    /// How often the planner looks while nothing is under way.
    idle_tick: Duration,
}

fn cluster(rng: &mut StdRng, scale: &Scale) -> Cluster {
    let nodes = (1..=scale.nodes).map(|id| {
        let node = Node {
            zone: format!("zone-{}", id % scale.zones),
            health: Health::Healthy,
        };
        (id, node)
    });
    let mut cluster = Cluster {
        policy: scale.policy.clone(),
        nodes: nodes.collect(),
        ..Cluster::default()
    };
    for one in 0..scale.zones {
        for other in one..scale.zones {
            let away = if one == other {
                1
            } else {
                rng.random_range(5..100)
            };
            let (one, other) = (format!("zone-{one}"), format!("zone-{other}"));
            cluster.round_trips.set(&one, &other, millis(away));
        }
    }
    cluster
}

fn wish(rng: &mut StdRng, scale: &Scale, id: KeyspaceId) -> Wish {
    let zone = |n: u64| format!("zone-{}", n % scale.zones);
    let home = rng.random_range(0..scale.zones);
    let is_auto = scale.has_auto && id.is_multiple_of(8);
    let mut wish = Wish::new(format!("k{id}"), Home::Zone(zone(home)));
    if is_auto {
        wish.home = Home::Auto;
    }
    for next in 1..=rng.random_range(0..3) {
        wish.failover.push(zone(home + next));
    }
    if rng.random_range(0..4) == 0 {
        wish.survive = Survive::Node;
    }
    wish
}

fn start(seed: u64, scale: &Scale) -> Sim {
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = cluster(&mut rng, scale);
    let mut load: BTreeMap<NodeId, Load> = BTreeMap::new();
    let mut observed = Observed {
        cluster,
        keyspaces: BTreeMap::new(),
    };
    let mut writers = BTreeMap::new();
    for id in 1..=scale.keyspaces {
        let wish = wish(&mut rng, scale, id);
        let choice = choose_voters(id, &wish, None, &observed.cluster, &load);
        let choice = choice.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let voters = choice.nodes();
        for voter in &choice.voters {
            let load = load.entry(voter.node).or_default();
            load.replicas += 1;
            load.home += usize::from(voter.zone == choice.home);
        }
        let mut observation = Observation::new(wish, voters.clone());
        let leader = rng.random_range(0..voters.len());
        observation.leader = voters.iter().nth(leader).copied();
        observation.lag = voters.iter().map(|node| (*node, 0)).collect();
        if observation.wish.home == Home::Auto {
            let zones = observed.cluster.zones();
            observation.writes_by_zone = zones.iter().map(|zone| ((*zone).to_owned(), 0)).collect();
            writers.insert(id, format!("zone-{}", rng.random_range(0..scale.zones)));
        }
        observed.keyspaces.insert(id, observation);
    }
    let events = events(&mut rng, scale);
    let mut sim = Sim::new(seed, observed, events);
    sim.writers = writers;
    sim.idle_tick = scale.idle_tick;
    if rng.random_range(0..4) == 0 {
        sim.planner_dies = Some(millis(rng.random_range(10_000..200_000)));
    }
    sim
}

/// A few failures of nodes and zones in the first minutes, each of which ends.
fn events(rng: &mut StdRng, scale: &Scale) -> Vec<Event> {
    let mut events = Vec::new();
    let dead_after = scale.policy.dead_after.as_millis() as u64;
    for _ in 0..rng.random_range(1..=4) {
        let mut at = millis(rng.random_range(0..90_000));
        let all = 1..=scale.nodes;
        let nodes: Vec<NodeId> = if rng.random_range(0..3) == 0 {
            let zone = rng.random_range(0..scale.zones);
            all.filter(|node| node % scale.zones == zone).collect()
        } else {
            vec![rng.random_range(all)]
        };
        let becomes = if rng.random_range(0..4) == 0 {
            Becomes::Sick
        } else {
            Becomes::Down
        };
        let (times, away) = match rng.random_range(0..5) {
            0 => (1, 500..3_000),
            1 => (rng.random_range(2..6), 500..8_000),
            2 => (1, dead_after..dead_after * 3),
            _ => (1, 5_000..60_000),
        };
        for _ in 0..times {
            events.push(Event {
                at,
                nodes: nodes.clone(),
                becomes,
            });
            at += millis(rng.random_range(away.clone()));
            events.push(Event {
                at,
                nodes: nodes.clone(),
                becomes: Becomes::Healthy,
            });
            at += millis(rng.random_range(1_000..15_000));
        }
    }
    // Events of one node may overlap: in the end all are well.
    let end = events
        .iter()
        .map(|event| event.at)
        .max()
        .unwrap_or_default();
    events.push(Event {
        at: end + millis(1),
        nodes: (1..=scale.nodes).collect(),
        becomes: Becomes::Healthy,
    });
    events
}

/// Runs until nothing happens for as long as the longest wait, then checks that all is as it should be.
fn run(seed: u64, scale: &Scale, patience: Duration) -> Sim {
    let mut sim = start(seed, scale);
    let quiet = sim.observed.cluster.policy.home_wait_max + Duration::from_secs(70);
    let mut last_busy = Duration::ZERO;
    let mut now = Duration::ZERO;
    while now < last_busy + quiet {
        let planned = sim.tick(now);
        if planned > 0 || sim.is_busy() {
            last_busy = now;
        }
        assert!(
            now < patience,
            "seed {seed}: still at work after {patience:?}"
        );
        now = sim.next_tick(planned);
        if planned == 0 && !sim.is_busy() {
            now = now.max(sim.now() + millis(5_000));
        }
    }
    check_end(&sim);
    check_moves(&sim);
    sim
}

fn check_end(sim: &Sim) {
    let seed = sim.seed;
    for (id, observation) in &sim.observed.keyspaces {
        let context = || format!("seed {seed}, keyspace {id}: {observation:?}");
        let leader = observation
            .leader
            .unwrap_or_else(|| panic!("no leader: {}", context()));
        let home = sim.home(*id, observation);
        assert_eq!(sim.zone(leader), home, "not at home: {}", context());
        if let Some(writer) = sim.writers.get(id) {
            assert_eq!(
                home,
                writer,
                "home is not where writes come from: {}",
                context()
            );
        }
        assert!(
            observation.learners.is_empty(),
            "learners left: {}",
            context()
        );
        let zones = observation.voters.iter().map(|node| sim.zone(*node));
        let mut per_zone: BTreeMap<&str, usize> = BTreeMap::new();
        zones.for_each(|zone| *per_zone.entry(zone).or_default() += 1);
        let voters = observation.voters.len();
        assert_eq!(voters % 2, 1, "{}", context());
        if observation.wish.survive == Survive::Zone {
            let most = per_zone.values().max().unwrap();
            assert!(*most <= voters / 2, "a zone holds a quorum: {}", context());
            let nodes = sim.observed.cluster.nodes.values();
            let at_home = nodes.filter(|node| node.zone == home).count();
            let expected = if voters >= 5 { at_home.min(2) } else { 1 };
            assert!(
                per_zone[home] >= expected,
                "home has too few: {}",
                context()
            );
        }
    }
    let risks = risks(&sim.observed);
    assert!(risks.is_empty(), "seed {seed}: {risks:?}");
    check_balance(sim);
}

fn check_balance(sim: &Sim) {
    let seed = sim.seed;
    let mut replicas: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut leaders: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in sim.observed.cluster.nodes.keys() {
        replicas.insert(*node, 0);
        leaders.insert(*node, 0);
    }
    for observation in sim.observed.keyspaces.values() {
        for node in &observation.voters {
            *replicas.get_mut(node).unwrap() += 1;
        }
        *leaders.get_mut(&observation.leader.unwrap()).unwrap() += 1;
    }
    for zone in sim.observed.cluster.zones() {
        for (what, counts, most) in [
            ("replicas", &replicas, REPLICAS_APART_MAX),
            ("leaders", &leaders, LEADERS_APART_MAX),
        ] {
            let counts = counts.iter().filter(|(node, _)| sim.zone(**node) == zone);
            let counts: Vec<usize> = counts.map(|(_, count)| *count).collect();
            let apart = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(apart <= most, "seed {seed}: {what} in {zone}: {counts:?}");
        }
    }
    for (id, observation) in &sim.observed.keyspaces {
        let leader = observation.leader.unwrap();
        for peer in observation
            .voters
            .iter()
            .filter(|node| sim.zone(**node) == sim.zone(leader))
        {
            let (more, less) = (leaders[&leader], leaders[peer]);
            assert!(
                more <= less + 1,
                "seed {seed}, keyspace {id}: node {leader} leads {more}, {peer} {less}"
            );
        }
    }
}

/// Leaderships move because something happened, and for balance no more than that needs.
fn check_moves(sim: &Sim) {
    let seed = sim.seed;
    let (mut balance, mut causes) = (0, 0);
    for (id, tally) in &sim.tallies {
        // One move at the start, from wherever it was led, and one more if a home is found.
        let allowed = 1 + usize::from(sim.writers.contains_key(id)) + tally.disturbances;
        assert!(
            tally.moves <= allowed,
            "seed {seed}, keyspace {id}: {tally:?}"
        );
        balance += tally.balance;
        causes += 1 + tally.moves + tally.elections + tally.disturbances;
    }
    assert!(
        balance <= causes,
        "seed {seed}: {balance} moves for balance after {causes} causes"
    );
}

/// Names its seed if the run panics, wherever that is.
struct NamesSeed(u64);

impl Drop for NamesSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with HOLDFAST_PLACEMENT_SEED={}", self.0);
        }
    }
}

/// Runs the seeds on all cores.
fn for_seeds(seeds: u64, run: impl Fn(u64) + Sync) {
    if let Ok(seed) = std::env::var("HOLDFAST_PLACEMENT_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let _named = NamesSeed(seed);
                    run(seed);
                }
            });
        }
    });
}

fn small(seed: u64) -> Scale {
    let zones = 3 + seed % 3;
    Scale {
        zones,
        nodes: zones * (1 + seed / 3 % 4),
        keyspaces: 8 + seed % 30,
        policy: Policy {
            dead_after: Duration::from_secs(40),
            home_wait_max: Duration::from_secs(120),
            auto_window: Duration::from_secs(20),
            ..Policy::default()
        },
        has_auto: seed.is_multiple_of(2),
        idle_tick: millis(1_000),
    }
}

#[test]
fn small_clusters_come_to_rest_at_home() {
    for_seeds(3_000, |seed| {
        run(seed, &small(seed), Duration::from_secs(3_600));
    });
}

/// One leadership at a time, as by default.
#[test]
fn a_thousand_keyspaces_come_to_rest_at_the_pace_of_every_day() {
    for_seeds(8, |seed| {
        let scale = Scale {
            zones: 3 + seed % 3,
            nodes: 15,
            keyspaces: 1_000,
            policy: Policy {
                home_wait_max: Duration::from_secs(120),
                auto_window: Duration::from_secs(60),
                ..Policy::default()
            },
            has_auto: true,
            idle_tick: millis(1_000),
        };
        run(seed, &scale, Duration::from_secs(6 * 3_600));
    });
}

/// At a pace that lets a zone of a thousand keyspaces come home within seconds, so that many seeds can be tried.
#[test]
fn a_thousand_keyspaces_on_fifteen_nodes_come_to_rest_at_home_for_a_thousand_seeds() {
    for_seeds(1_000, |seed| {
        let scale = Scale {
            zones: 3 + seed % 3,
            nodes: 15,
            keyspaces: 1_000,
            policy: Policy {
                dead_after: Duration::from_secs(40),
                home_wait_max: Duration::from_secs(40),
                leader_move_interval: millis(2),
                leader_moves_in_flight_max: 400,
                voter_changes_in_flight_max: 200,
                replica_moves_in_flight_max: 200,
                ..Policy::default()
            },
            has_auto: false,
            idle_tick: millis(3_000),
        };
        run(seed, &scale, Duration::from_secs(3_600));
    });
}

#[test]
fn a_hundred_groups_come_home_within_a_minute_by_default() {
    let scale = Scale {
        zones: 3,
        nodes: 6,
        keyspaces: 100,
        policy: Policy::default(),
        has_auto: false,
        idle_tick: millis(1_000),
    };
    for_seeds(20, |seed| {
        let mut sim = start(seed, &scale);
        sim.fail_percent = 0;
        for observation in sim.observed.keyspaces.values_mut() {
            observation.wish.home = Home::Zone("zone-0".to_owned());
            observation.wish.failover.clear();
            observation.wish.survive = Survive::Zone;
            let none = BTreeMap::new();
            let cluster = &sim.observed.cluster;
            let choice = choose_voters(1, &observation.wish, None, cluster, &none).unwrap();
            observation.voters = choice.nodes();
            let away = observation.voters.iter();
            let mut away = away.filter(|node| cluster.nodes[*node].zone != "zone-0");
            observation.leader = away.next().copied();
            observation.lag = observation.voters.iter().map(|node| (*node, 0)).collect();
        }
        sim = Sim::new(seed, sim.observed, Vec::new());
        sim.fail_percent = 0;
        let homes = |sim: &Sim| {
            let leaders = sim.observed.keyspaces.values();
            leaders
                .filter(|k| sim.zone(k.leader.unwrap()) == "zone-0")
                .count()
        };
        let mut now = Duration::ZERO;
        let mut before = 0;
        while homes(&sim) < 100 {
            sim.tick(now);
            let home = homes(&sim);
            assert!(
                home <= before + 1,
                "seed {seed}: {} came home at once",
                home - before
            );
            before = home;
            assert!(
                now < Duration::from_secs(70),
                "seed {seed}: {home} are home after {now:?}"
            );
            now += millis(100);
        }
        let at_home: BTreeSet<KeyspaceId> = sim.observed.keyspaces.keys().copied().collect();
        assert_eq!(at_home.len(), 100);
    });
}
