use super::*;
use crate::{
    Objectives, Survive,
    sketch::{World, millis, wish},
};

fn far_apart() -> World {
    let mut world = World::new("a: 1 2, b: 3 4, c: 5");
    let round_trips = &mut world.observed.cluster.round_trips;
    round_trips.set("a", "a", millis(1));
    round_trips.set("b", "b", millis(1));
    round_trips.set("a", "b", millis(20));
    round_trips.set("a", "c", millis(70));
    round_trips.set("b", "c", millis(50));
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 3, 4, 5]);
    world
}

fn lost(world: &World, zones: &[&str], nodes: &[NodeId]) -> Outlook {
    let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
    let nodes = nodes.iter().copied().collect();
    what_if(&world.observed, &zones, &nodes).keyspaces[&7].clone()
}

#[test]
fn a_write_costs_the_way_to_the_leader_and_on_to_the_nearest_quorum() {
    let world = far_apart();
    let outlook = lost(&world, &[], &[]);
    assert_eq!(outlook.leader_then, Some(1));
    // Node 2 answers after 1 ms, node 3 after 20 ms: three of five.
    assert_eq!(outlook.write_latency["a"].now, Some(millis(1 + 20)));
    assert_eq!(outlook.write_latency["b"].now, Some(millis(20 + 20)));
    assert_eq!(outlook.write_latency["c"].then, Some(millis(70 + 20)));
    assert_eq!(outlook.broken, []);
}

#[test]
fn the_loss_of_home_moves_leadership_along_the_order_and_writes_become_slower() {
    let mut world = far_apart();
    world.seen(7).objectives.rto = Some(millis(500));
    world.seen(7).objectives.rpo = Some(Duration::ZERO);
    let outlook = lost(&world, &["a"], &[]);
    assert!(
        [Some(3), Some(4)].contains(&outlook.leader_then),
        "{outlook:?}"
    );
    assert_eq!(outlook.voters_left, [3, 4, 5].into());
    assert_eq!(outlook.write_latency["b"].then, Some(millis(1 + 50)));
    let expected = Some(Duration::from_secs(1));
    let objective = millis(500);
    assert_eq!(
        outlook.broken,
        [Broken::Rto {
            objective,
            expected
        }]
    );
}

#[test]
fn the_loss_of_one_home_node_keeps_leadership_at_home() {
    let world = far_apart();
    assert_eq!(lost(&world, &[], &[1]).leader_then, Some(2));
    assert_eq!(lost(&world, &[], &[2]).leader_then, Some(1));
}

#[test]
fn a_voter_that_lags_does_not_take_over_while_another_has_everything() {
    let mut world = far_apart();
    world.seen(7).lag.insert(2, 80_000);
    let then = lost(&world, &[], &[1]).leader_then;
    assert!([Some(3), Some(4)].contains(&then), "{then:?}");
}

#[test]
fn without_a_quorum_nobody_leads_and_every_objective_breaks() {
    let mut world = far_apart();
    world.seen(7).objectives = Objectives {
        rto: Some(Duration::from_secs(60)),
        rpo: Some(Duration::ZERO),
    };
    let outlook = lost(&world, &["a"], &[5]);
    assert!(!outlook.has_quorum());
    assert_eq!(outlook.leader_then, None);
    assert_eq!(outlook.write_latency["b"].then, None);
    let texts: Vec<String> = outlook.broken.iter().map(Broken::to_string).collect();
    assert_eq!(
        texts,
        [
            "RTO 60s: no quorum, unavailable until a lost voter is back",
            "RPO 0ns: no quorum, the last writes are unavailable",
        ]
    );
}

#[test]
fn nodes_that_are_down_already_are_counted_as_lost() {
    let mut world = far_apart();
    world.down(5);
    let outlook = lost(&world, &["a"], &[]);
    assert!(!outlook.has_quorum(), "{outlook:?}");
}

#[test]
fn what_was_never_measured_is_not_predicted() {
    let mut world = far_apart();
    world.observed.cluster.round_trips = RoundTrips::default();
    world.observed.cluster.round_trips.set("a", "b", millis(20));
    let outlook = lost(&world, &[], &[]);
    assert_eq!(outlook.write_latency["a"].now, None);
    assert_eq!(outlook.write_latency["b"].now, Some(millis(20 + 20)));
}
