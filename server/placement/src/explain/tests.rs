use super::*;
use crate::{
    Health, Home, Survive, Wish,
    sketch::{World, secs, wish},
};

fn lines(world: &World) -> Vec<String> {
    let explanation = explain(&world.observed, &world.memory, 7).unwrap();
    assert_eq!(explanation.to_string(), explanation.lines().join("\n"));
    explanation.lines()
}

fn three() -> World {
    let mut world = World::new("a: 1, b: 2, c: 3");
    world.keyspace(7, wish(Survive::Zone, "a, b"), &[1, 2, 3]);
    world.run(secs(30));
    world
}

#[test]
fn a_keyspace_at_rest_tells_why_it_is_there() {
    assert_eq!(
        lines(&three()),
        [
            "keyspace orders (7)",
            "home: a",
            "leader: 1: it leads where it belongs: home a (node 1)",
            "voter 1: home a",
            "voter 2: failover 1: b",
            "voter 3: c, so that no zone holds a quorum",
        ]
    );
}

#[test]
fn what_leadership_waits_for_is_told_with_its_figures() {
    let mut world = three();
    world.down(1);
    world.seen(7).leader = Some(2);
    world.run(secs(5));
    let text = lines(&world);
    assert!(
        text.contains(&"waits for: home a (node 1) is down".to_owned()),
        "{text:?}"
    );
    assert_eq!(
        text[2],
        "leader: 2, wanted is 1: home a (node 1) comes before failover 1: b (node 2)"
    );
    world.health(1, Health::Healthy);
    world.seen(7).lag.insert(1, 1_500);
    world.run(secs(1));
    let lags = "waits for: home a (node 1) lags 1500 entries, at most 1000 are allowed";
    assert!(
        lines(&world).contains(&lags.to_owned()),
        "{:?}",
        lines(&world)
    );
    world.seen(7).lag.insert(1, 0);
    world.run(secs(3));
    let steady = "waits for: home a (node 1) healthy and caught up for 2.8 s of 10.0 s";
    assert!(
        lines(&world).contains(&steady.to_owned()),
        "{:?}",
        lines(&world)
    );
}

#[test]
fn a_voter_that_is_replaced_and_the_one_that_takes_its_place_are_told() {
    let mut world = World::new("a: 1 2, b: 3 4, c: 5 6");
    let mut asked = wish(Survive::Zone, "a, b, c");
    asked.replicas = Some(3);
    world.keyspace(7, asked, &[1, 3, 5]);
    world.run(secs(30));
    world.health(5, Health::Down { since: secs(0) });
    world.observed.cluster.now = secs(600);
    let text = lines(&world);
    let expected = [
        "voter 5: leaves: dead for good",
        "to become a voter 6: failover 2: c; in place of 5, dead for good",
        "next: add learner 6: failover 2: c; in place of 5, dead for good",
        "at risk: survival goal zone: voters 1 and 3 of 3 remain; the loss of a or b would stop it",
    ];
    for line in expected {
        assert!(text.contains(&line.to_owned()), "{line}: {text:#?}");
    }
}

#[test]
fn an_automatic_home_tells_what_it_saw() {
    let mut world = World::new("a: 1, b: 2, c: 3");
    world.keyspace(7, Wish::new("orders", Home::Auto), &[1, 2, 3]);
    world.run(secs(10));
    world.seen(7).writes_by_zone = [("b".to_owned(), 9_000), ("a".to_owned(), 1_000)].into();
    world.run(secs(600));
    let saw = "home: a, found by its writes: of 10000 writes in 600 s: b 90 %, a 10 %; \
               1 of 3 windows in a row speak for b";
    assert_eq!(lines(&world)[1], saw);
}

#[test]
fn a_keyspace_that_no_plan_has_looked_at_is_explained_too() {
    let mut world = World::new("a: 1, b: 2, c: 3");
    world
        .keyspace(7, wish(Survive::Zone, "a"), &[1, 2, 3])
        .leader = Some(2);
    let text = lines(&world);
    let steady = "waits for: home a (node 1) healthy and caught up for 0.0 s of 10.0 s";
    assert!(text.contains(&steady.to_owned()), "{text:?}");
    assert!(explain(&world.observed, &world.memory, 8).is_none());
}
