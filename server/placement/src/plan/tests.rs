use std::collections::BTreeSet;

use super::*;
use crate::{
    Health, Home, Survive, Wish,
    sketch::{World, millis, secs, wish},
};

const THREE: &str = "a: 1, b: 2, c: 3";
const NINE: &str = "a: 1 2 3, b: 4 5 6, c: 7 8 9";

fn none() -> Vec<String> {
    Vec::new()
}

/// A keyspace at home in a, with failover b and c, led by node 1 in a.
fn three() -> World {
    let mut world = World::new(THREE);
    world.keyspace(7, wish(Survive::Zone, "a, b, c"), &[1, 2, 3]);
    world
}

#[test]
fn what_is_where_it_should_be_is_left_alone() {
    assert_eq!(three().run(secs(600)), none());
}

#[test]
fn leadership_returns_when_home_was_healthy_and_caught_up_for_ten_seconds() {
    let mut world = three();
    world.run(secs(30));
    world.down(1);
    world.seen(7).leader = Some(2);
    assert_eq!(world.run(secs(60)), none());
    world.health(1, Health::Healthy);
    let taken = world.run(secs(30));
    assert_eq!(taken, ["100 s: 7: transfer leadership from 2 to 1"]);
}

#[test]
fn a_home_that_lags_gets_no_leadership_until_ten_seconds_after_it_has_caught_up() {
    let mut world = three();
    world.run(secs(30));
    world.seen(7).leader = Some(2);
    world.seen(7).lag.insert(1, 5_000);
    assert_eq!(world.run(secs(60)), none());
    world.seen(7).lag.remove(&1);
    assert_eq!(world.run(secs(60)), none(), "nobody knows how far it lags");
    world.seen(7).lag.insert(1, 900);
    let taken = world.run(secs(30));
    assert_eq!(taken, ["160 s: 7: transfer leadership from 2 to 1"]);
}

#[test]
fn a_sick_home_gets_no_leadership() {
    let mut world = three();
    world.seen(7).leader = Some(2);
    world.health(1, Health::Sick);
    assert_eq!(world.run(secs(600)), none());
}

#[test]
fn a_home_that_flaps_waits_twice_as_long_each_time_and_is_forgiven_in_the_end() {
    let mut world = three();
    world.run(secs(30));
    let mut flap = |quiet: Duration| {
        world.run(quiet);
        world.down(1);
        world.seen(7).leader = Some(2);
        world.run(secs(2));
        world.health(1, Health::Healthy);
        let back = world.now();
        while world.seen(7).leader == Some(2) {
            world.run(millis(250));
        }
        (world.now() - back).as_secs()
    };
    let waits: Vec<u64> = (0..8).map(|_| flap(secs(5))).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
    assert_eq!(flap(secs(3_000)), 20);
}

#[test]
fn groups_come_home_one_after_the_other() {
    let mut world = World::new(THREE);
    for id in 1..=100 {
        let seen = world.keyspace(id, wish(Survive::Zone, "a"), &[1, 2, 3]);
        seen.leader = Some(2);
    }
    world.at(secs(1));
    let mut homes = 0;
    let mut now = secs(11);
    while homes < 100 {
        let steps = world.take(now);
        assert!(steps.len() <= 1, "{steps:?}");
        homes += steps.len();
        now += millis(50);
    }
    let took = now - secs(11);
    assert!(took >= secs(19) && took <= secs(60), "{took:?}");
}

#[test]
fn the_next_group_waits_until_the_last_one_has_arrived() {
    let mut world = World::new(THREE);
    for id in 1..=2 {
        world
            .keyspace(id, wish(Survive::Zone, "a"), &[1, 2, 3])
            .leader = Some(2);
    }
    world.at(secs(1));
    assert_eq!(world.at(secs(12)).len(), 1);
    assert_eq!(world.at(secs(15)), []);
    world.seen(1).leader = Some(1);
    assert_eq!(world.at(secs(16)).len(), 1);
}

#[test]
fn leadership_moves_along_the_failover_order_while_home_is_away() {
    let mut world = three();
    world.run(secs(30));
    world.down(1);
    world.seen(7).leader = Some(3);
    let taken = world.run(secs(60));
    assert_eq!(taken, ["40 s: 7: transfer leadership from 3 to 2"]);
}

#[test]
fn leadership_does_not_move_between_zones_that_the_order_does_not_tell_apart() {
    let mut world = World::new(THREE);
    world
        .keyspace(7, wish(Survive::Zone, "a"), &[1, 2, 3])
        .leader = Some(3);
    world.down(1);
    assert_eq!(world.run(secs(120)), none());
}

#[test]
fn a_home_that_only_needs_time_is_waited_for() {
    let mut world = three();
    world.run(secs(30));
    world.down(1);
    world.seen(7).leader = Some(3);
    world.run(secs(5));
    world.health(1, Health::Healthy);
    let taken = world.run(secs(60));
    assert_eq!(taken, ["45 s: 7: transfer leadership from 3 to 1"]);
}

#[test]
fn nothing_is_done_for_a_group_that_something_else_changes() {
    let mut world = three();
    world.seen(7).leader = Some(2);
    world.seen(7).changing = true;
    assert_eq!(world.run(secs(60)), none());
}

#[test]
fn nothing_is_done_for_a_leader_that_is_down() {
    let mut world = three();
    world.seen(7).leader = Some(2);
    world.down(2);
    assert_eq!(world.run(secs(60)), none());
    world.seen(7).leader = None;
    assert_eq!(world.run(secs(60)), none());
}

#[test]
fn leaders_of_a_zone_are_evened_out_from_a_difference_of_two() {
    let mut world = World::new("a: 1 2 3, b: 4, c: 5");
    world.keyspace(1, wish(Survive::Node, "a"), &[1, 2, 3]);
    assert_eq!(world.run(secs(60)), none());
    world.keyspace(2, wish(Survive::Node, "a"), &[1, 2, 3]);
    world.keyspace(3, wish(Survive::Node, "a"), &[1, 2, 3]);
    let taken = world.run(secs(60));
    assert_eq!(taken.len(), 2, "{taken:?}");
    let leaders: BTreeSet<_> = (1..=3).map(|id| world.seen(id).leader).collect();
    assert_eq!(leaders.len(), 3);
}

#[test]
fn leaders_are_not_evened_out_with_a_node_that_is_not_fit() {
    let mut world = World::new("a: 1 2 3, b: 4, c: 5");
    for id in 1..=4 {
        world.keyspace(id, wish(Survive::Node, "a"), &[1, 2, 3]);
        world.seen(id).lag.insert(2, 9_000);
    }
    world.health(3, Health::Sick);
    assert_eq!(world.run(secs(60)), none());
}

#[test]
fn a_step_that_does_not_show_is_tried_again_later_and_later() {
    let mut world = three();
    world.seen(7).leader = Some(2);
    let mut tries = Vec::new();
    for second in 1..=120 {
        if !world.at(secs(second)).is_empty() {
            tries.push(second);
        }
    }
    assert_eq!(tries, [11, 22, 34, 48, 66, 92]);
}

#[test]
fn a_step_that_is_known_to_have_failed_is_tried_again_sooner() {
    let mut world = three();
    world.seen(7).leader = Some(2);
    world.at(secs(1));
    assert_eq!(world.at(secs(11)).len(), 1);
    let Observed { cluster, .. } = &world.observed;
    world.memory.step_failed(7, cluster);
    assert_eq!(world.at(secs(12)).len(), 1);
}

#[test]
fn an_automatic_home_follows_the_writes() {
    let mut world = World::new(NINE);
    let asked = Wish::new("orders", Home::Auto);
    world.keyspace(7, asked, &[1, 2, 4, 5, 7]);
    assert_eq!(world.run(secs(60)), none());
    assert_eq!(world.memory.auto_home(7), Some("a"));
    for _ in 0..4 {
        *world
            .seen(7)
            .writes_by_zone
            .entry("c".to_owned())
            .or_default() += 9_000;
        world.run(secs(600));
    }
    assert_eq!(world.memory.auto_home(7), Some("c"));
    let leader = world.seen(7).leader.unwrap();
    assert!((7..=9).contains(&leader), "{leader}");
    let at_home = world
        .seen(7)
        .voters
        .iter()
        .filter(|node| **node >= 7)
        .count();
    assert_eq!(at_home, 2);
}

#[test]
fn an_automatic_home_that_was_found_survives_the_planner() {
    let mut world = World::new(NINE);
    world.keyspace(7, Wish::new("orders", Home::Auto), &[1, 2, 4, 5, 7]);
    world.memory.restore_auto_home(7, "b", &world.observed);
    world.run(secs(60));
    assert_eq!(world.memory.auto_home(7), Some("b"));
    assert!([4, 5].contains(&world.seen(7).leader.unwrap()));
}

#[test]
fn a_keyspace_that_is_gone_is_forgotten() {
    let mut world = World::new(NINE);
    world.keyspace(7, wish(Survive::Node, "a"), &[1, 2, 3]);
    world.keyspace(8, wish(Survive::Node, "a"), &[1, 2, 3]);
    world.run(secs(60));
    world.observed.keyspaces.remove(&7);
    world.run(secs(1));
    assert!(world.memory.keyspaces.keys().eq([&8]));
    assert_eq!(world.memory.nodes[&1].seats.replicas, 1);
}

#[test]
fn a_new_planner_waits_as_long_as_for_nodes_that_have_just_come_back() {
    let mut world = three();
    world.run(secs(600));
    world.seen(7).leader = Some(2);
    world.memory = Memory::new();
    let taken = world.run(secs(30));
    assert_eq!(taken, ["610 s: 7: transfer leadership from 2 to 1"]);
}

#[test]
fn the_same_observations_give_the_same_steps() {
    let mut world = World::new(NINE);
    for id in 1..=50 {
        let seen = world.keyspace(id, wish(Survive::Zone, "a, b, c"), &[1, 2, 4, 5, 7]);
        seen.leader = Some(7);
    }
    world.at(secs(1));
    world.health(
        5,
        Health::Down {
            since: Duration::ZERO,
        },
    );
    world.observed.cluster.now = secs(500);
    let mut other = world.memory.clone();
    let steps = plan(&world.observed, &mut world.memory);
    assert!(!steps.is_empty());
    assert_eq!(steps, plan(&world.observed, &mut other));
}
