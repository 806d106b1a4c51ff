//! How voters are replaced, changed and evened out, step by step.

use std::time::Duration;

use crate::{
    Health, Node, NodeId, Survive,
    sketch::{World, secs, wish},
};

const NINE: &str = "a: 1 2 3, b: 4 5 6, c: 7 8 9";

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_replica_that_is_dead_for_good_is_replaced_in_one_change() {
    let mut world = World::new(NINE);
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 4, 5, 7]);
    world.run(secs(10));
    world.down(5);
    assert_eq!(world.run(secs(299)), none());
    let taken = world.run(secs(5));
    assert_eq!(
        taken,
        [
            "310 s: 7: add learner 6",
            "310 s: 7: change voters to 1, 2, 4, 6 and 7"
        ]
    );
    world.health(5, Health::Healthy);
    assert_eq!(world.run(secs(600)), none());
}

#[test]
fn a_learner_votes_only_when_it_has_caught_up() {
    let mut world = World::new(NINE);
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 4, 5, 7]);
    world.run(secs(10));
    world.health(
        5,
        Health::Down {
            since: Duration::ZERO,
        },
    );
    assert_eq!(world.take(secs(400)), ["7: add learner 6"]);
    world.seen(7).lag.insert(6, 50_000);
    assert_eq!(world.take(secs(401)), none());
    world.seen(7).lag.remove(&6);
    assert_eq!(world.take(secs(402)), none());
    world.seen(7).lag.insert(6, 1_000);
    assert_eq!(
        world.take(secs(403)),
        ["7: change voters to 1, 2, 4, 6 and 7"]
    );
}

#[test]
fn a_learner_that_fails_is_given_up_for_another() {
    let mut world = World::new("a: 1 2 3, b: 4 5 6 10, c: 7 8 9");
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 4, 5, 7]);
    world.run(secs(10));
    world.health(
        5,
        Health::Down {
            since: Duration::ZERO,
        },
    );
    let added = world.take(secs(400));
    let first = if added == ["7: add learner 6"] { 6 } else { 10 };
    let second = 16 - first;
    world.down(first);
    assert_eq!(
        world.take(secs(401)),
        [format!("7: remove learner {first}")]
    );
    assert_eq!(world.take(secs(402)), [format!("7: add learner {second}")]);
}

#[test]
fn voters_do_not_change_while_a_quorum_of_them_is_behind() {
    let mut world = World::new(NINE);
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 4, 5, 7]);
    world.run(secs(10));
    world.health(
        5,
        Health::Down {
            since: Duration::ZERO,
        },
    );
    assert_eq!(world.take(secs(400)), ["7: add learner 6"]);
    world.seen(7).lag.insert(4, 90_000);
    world.seen(7).lag.insert(7, 90_000);
    assert_eq!(world.take(secs(401)), none());
    world.seen(7).lag.insert(7, 0);
    assert_eq!(
        world.take(secs(402)),
        ["7: change voters to 1, 2, 4, 6 and 7"]
    );
}

#[test]
fn without_a_quorum_nothing_is_changed() {
    let mut world = World::new(NINE);
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 4, 5, 7]);
    world.run(secs(10));
    for node in [4, 5, 7] {
        world.down(node);
    }
    assert_eq!(world.run(secs(900)), none());
}

#[test]
fn a_zone_that_is_gone_for_good_costs_the_goal_but_not_the_next_node() {
    let mut world = World::new("a: 1 2, b: 3 4, c: 5 6");
    world.keyspace(7, wish(Survive::Zone, "a, b, c"), &[1, 2, 3, 4, 5]);
    world.run(secs(10));
    world.seen(7).leader = Some(3);
    world.down(1);
    world.down(2);
    let taken = world.run(secs(310));
    assert_eq!(taken, ["310 s: 7: change voters to 3, 4 and 5"]);
    world.health(1, Health::Healthy);
    world.health(2, Health::Healthy);
    let taken = world.run(secs(60));
    assert_eq!(
        taken[..3],
        [
            "320 s: 7: add learner 1",
            "320 s: 7: add learner 2",
            "320 s: 7: change voters to 1, 2, 3, 4 and 5",
        ]
    );
    assert!(
        taken[3].starts_with("331 s: 7: transfer leadership from 3 to "),
        "{taken:?}"
    );
    assert_eq!(taken.len(), 4);
}

#[test]
fn more_replicas_and_another_goal_are_reached_step_by_step() {
    let mut world = World::new(NINE);
    let mut asked = wish(Survive::Node, "a");
    world.keyspace(7, asked.clone(), &[1, 2, 3]);
    assert_eq!(world.run(secs(60)), none());
    asked.survive = Survive::Zone;
    asked.failover = vec!["b".to_owned(), "c".to_owned()];
    world.seen(7).wish = asked.clone();
    let taken = world.run(secs(60));
    assert_eq!(taken.len(), 4, "{taken:?}");
    assert!(taken[3].contains("change voters to 1, "), "{taken:?}");
    assert_eq!(world.seen(7).voters.len(), 5);
    asked.replicas = Some(3);
    world.seen(7).wish = asked;
    let taken = world.run(secs(60));
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!(world.seen(7).leader, Some(1));
}

#[test]
fn a_leader_that_is_to_leave_hands_over_first() {
    let mut world = World::new(NINE);
    world.keyspace(7, wish(Survive::Node, "a"), &[1, 2, 3]);
    world.run(secs(20));
    world.seen(7).wish = wish(Survive::Node, "b");
    let taken = world.run(secs(60));
    let actions: Vec<&str> = taken
        .iter()
        .map(|step| &step[step.find("7: ").unwrap() + 3..])
        .collect();
    assert_eq!(
        actions[..3],
        ["add learner 4", "add learner 5", "add learner 6"]
    );
    assert_eq!(actions[3], "change voters to 1, 4, 5 and 6");
    assert!(
        actions[4].starts_with("transfer leadership from 1 to "),
        "{taken:?}"
    );
    assert_eq!(actions[5..], ["change voters to 4, 5 and 6"]);
}

#[test]
fn a_learner_that_nobody_wants_is_removed() {
    let mut world = World::new(NINE);
    let seen = world.keyspace(7, wish(Survive::Node, "a"), &[1, 2, 3]);
    seen.learners.insert(9);
    assert_eq!(world.run(secs(60)), ["0 s: 7: remove learner 9"]);
}

#[test]
fn only_so_many_keyspaces_change_their_voters_at_once() {
    let mut world = World::new(NINE);
    for id in 1..=20 {
        world.keyspace(id, wish(Survive::Zone, "a, b, c"), &[1, 2, 4, 5, 7]);
    }
    world.at(secs(1));
    world.health(
        1,
        Health::Down {
            since: Duration::ZERO,
        },
    );
    for id in 1..=20 {
        world.seen(id).leader = Some(2);
    }
    let begun = world.at(secs(400));
    assert_eq!(begun.len(), 4, "{begun:?}");
    assert_eq!(world.at(secs(401)), []);
}

#[test]
fn replicas_of_a_zone_are_evened_out_one_at_a_time() {
    let mut world = World::new("a: 1 2 3, b: 4, c: 5");
    for id in 1..=6 {
        world.keyspace(id, wish(Survive::Node, "a"), &[1, 2, 3]);
    }
    let seats = |world: &World, node: NodeId| {
        let keyspaces = world.observed.keyspaces.values();
        keyspaces.filter(|seen| seen.voters.contains(&node)).count()
    };
    world.run(secs(60));
    let joined = Node {
        zone: "a".to_owned(),
        health: Health::Healthy,
    };
    world.observed.cluster.nodes.insert(10, joined);
    let taken = world.run(secs(9));
    assert_eq!(taken, none(), "a node that is new proves itself first");
    world.run(secs(60));
    let counts: Vec<usize> = [1, 2, 3, 10].map(|node| seats(&world, node)).into();
    assert_eq!(counts.iter().sum::<usize>(), 18);
    assert!(
        counts.iter().all(|count| (4..=5).contains(count)),
        "{counts:?}"
    );
    assert_eq!(world.run(secs(600)), none());
}
