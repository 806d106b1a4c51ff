use super::*;
use crate::{
    Health,
    sketch::{World, secs, wish},
};

fn texts(world: &World) -> Vec<String> {
    let risks = risks(&world.observed).into_iter();
    risks
        .map(|risk| format!("{}: {}", risk.keyspace, risk.what))
        .collect()
}

#[test]
fn a_goal_that_is_met_is_no_risk() {
    let mut world = World::new("a: 1 2, b: 3 4, c: 5");
    world.keyspace(7, wish(Survive::Zone, "a"), &[1, 2, 3, 4, 5]);
    assert_eq!(texts(&world), Vec::<String>::new());
    world.down(5);
    assert_eq!(
        texts(&world),
        [
            "7: survival goal zone: voters 1, 2, 3 and 4 of 5 remain; the loss of a or b would stop it"
        ]
    );
}

#[test]
fn the_loss_that_would_stop_a_keyspace_is_named() {
    let mut world = World::new("a: 1, b: 2, c: 3");
    world.keyspace(7, wish(Survive::Zone, "a"), &[1, 2, 3]);
    world.keyspace(8, wish(Survive::Node, "a"), &[1, 2, 3]);
    world.down(3);
    assert_eq!(
        texts(&world),
        [
            "7: survival goal zone: voters 1 and 2 of 3 remain; the loss of a or b would stop it",
            "8: survival goal node: voters 1 and 2 of 3 remain; the loss of node 1 or node 2 would stop it",
        ]
    );
}

#[test]
fn a_zone_that_holds_a_quorum_is_a_risk_while_all_are_well() {
    let mut world = World::new("a: 1 2, b: 3, c: 4");
    world.keyspace(7, wish(Survive::Zone, "a"), &[1, 2, 3]);
    assert_eq!(
        texts(&world),
        ["7: survival goal zone: all 3 voters are there; the loss of a would stop it"]
    );
}

#[test]
fn a_lost_quorum_a_sick_voter_and_a_goal_that_cannot_be_met_are_told() {
    let mut world = World::new("a: 1, b: 2, c: 3");
    world.keyspace(7, wish(Survive::Zone, "a"), &[1, 2, 3]);
    world.down(2);
    world.down(3);
    world.health(1, Health::Sick);
    world.observed.cluster.now = secs(400);
    let texts = texts(&world);
    assert_eq!(
        texts[0],
        "7: no quorum: 1 of 3 voters answer and 2 are needed; down: 2 and 3"
    );
    assert!(texts[1].contains("needs 3 zones with nodes"), "{texts:?}");
    assert_eq!(texts[2], "7: sick voters: 1");
}
