use proptest::prelude::*;

use super::*;
use crate::{
    Health, Home,
    sketch::{cluster, millis, secs, wish},
};

fn chosen(wish: &Wish, cluster: &Cluster) -> Result<Choice, Unmet> {
    choose_voters(1, wish, None, cluster, &BTreeMap::new())
}

fn per_zone(choice: &Choice) -> BTreeMap<&str, usize> {
    let mut zones = BTreeMap::new();
    for voter in &choice.voters {
        *zones.entry(voter.zone.as_str()).or_default() += 1;
    }
    zones
}

fn refusal(wish: &Wish, drawn: &str) -> String {
    chosen(wish, &cluster(drawn)).unwrap_err().to_string()
}

#[test]
fn goal_zone_with_four_nodes_gets_a_voter_in_each_of_three_zones() {
    let choice = chosen(&wish(Survive::Zone, "a, b"), &cluster("a: 1 4, b: 2, c: 3")).unwrap();
    assert_eq!(
        per_zone(&choice),
        BTreeMap::from([("a", 1), ("b", 1), ("c", 1)])
    );
    let reasons: Vec<&str> = choice.voters.iter().map(|v| v.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "home a",
            "failover 1: b",
            "c, so that no zone holds a quorum"
        ]
    );
}

#[test]
fn goal_zone_with_five_nodes_gives_home_two_of_five_voters() {
    let choice = chosen(
        &wish(Survive::Zone, "a, b"),
        &cluster("a: 1 4, b: 2 5, c: 3"),
    )
    .unwrap();
    assert_eq!(
        per_zone(&choice),
        BTreeMap::from([("a", 2), ("b", 2), ("c", 1)])
    );
    assert!(
        choice.voters[1].reason.contains("the loss of one node"),
        "{choice:?}"
    );
}

#[test]
fn home_gets_two_and_four_zones_share_the_rest() {
    let drawn = "a: 1 2 3, b: 4 5 6, c: 7 8 9, d: 10 11 12";
    let choice = chosen(&wish(Survive::Zone, "d"), &cluster(drawn)).unwrap();
    assert_eq!(
        per_zone(&choice),
        BTreeMap::from([("a", 1), ("b", 1), ("c", 1), ("d", 2)])
    );
}

#[test]
fn five_nodes_that_cannot_share_five_voters_hold_three() {
    let choice = chosen(&wish(Survive::Zone, "a"), &cluster("a: 1 2 3, b: 4, c: 5")).unwrap();
    assert_eq!(choice.voters.len(), 3);
}

#[test]
fn goal_node_puts_voters_at_home_then_in_failover_zones_then_nearby() {
    let at_home = chosen(&wish(Survive::Node, "b"), &cluster("a: 1, b: 2 3 4, c: 5")).unwrap();
    assert_eq!(at_home.nodes(), [2, 3, 4].into());

    let failover = chosen(
        &wish(Survive::Node, "b, c"),
        &cluster("a: 1, b: 2, c: 5 6, d: 7"),
    )
    .unwrap();
    assert_eq!(failover.nodes(), [2, 5, 6].into());

    let mut cluster = cluster("a: 1, b: 2, c: 5, d: 7");
    cluster.round_trips.set("b", "a", millis(80));
    cluster.round_trips.set("b", "c", millis(20));
    cluster.round_trips.set("b", "d", millis(10));
    let nearest = chosen(&wish(Survive::Node, "b"), &cluster).unwrap();
    assert_eq!(nearest.nodes(), [2, 5, 7].into());
}

#[test]
fn goal_zone_with_two_zones_is_refused_and_says_what_would_do() {
    let text = refusal(&wish(Survive::Zone, "a"), "a: 1 2 3, b: 4 5");
    assert_eq!(
        text,
        "survival goal zone needs 3 zones with nodes that are not dead for good, and there are 2: a, b; add a \
         node in another zone, or ask for survival goal node"
    );
}

#[test]
fn goal_node_with_two_nodes_is_refused() {
    let text = refusal(&wish(Survive::Node, "a"), "a: 1, b: 2");
    assert!(text.ends_with("there are 2; add 1"), "{text}");
    let text = refusal(&wish(Survive::Node, "a"), "a: 1");
    assert!(text.ends_with("there are 1; add 2"), "{text}");
}

#[test]
fn a_zone_that_nobody_knows_is_refused_with_those_that_are_known() {
    let known = "a: 1, b: 2, c: 3";
    let text = refusal(&wish(Survive::Zone, "x"), known);
    assert_eq!(
        text,
        "home names zone x, which has no node; zones with nodes: a, b, c"
    );
    let text = refusal(&wish(Survive::Zone, "a, x"), known);
    assert!(text.starts_with("failover names zone x"), "{text}");
    let text = refusal(&wish(Survive::Zone, "a, b, b"), known);
    assert!(text.starts_with("zone b is named twice"), "{text}");
}

#[test]
fn an_even_number_of_replicas_or_a_single_one_is_refused() {
    let mut asked = wish(Survive::Node, "a");
    asked.replicas = Some(4);
    let text = refusal(&asked, "a: 1 2 3 4 5");
    assert_eq!(
        text,
        "4 replicas survive no more than 3 would; ask for 3 or 5"
    );
    asked.replicas = Some(1);
    let text = refusal(&asked, "a: 1 2 3 4 5");
    assert!(text.ends_with("it would survive nothing"), "{text}");
}

#[test]
fn more_replicas_than_nodes_or_room_in_the_zones_are_refused() {
    let mut asked = wish(Survive::Zone, "a");
    asked.replicas = Some(5);
    let text = refusal(&asked, "a: 1, b: 2, c: 3");
    assert!(
        text.ends_with("there are 3; add 2 or ask for 3 replicas"),
        "{text}"
    );
    let text = refusal(&asked, "a: 1 2 3, b: 4, c: 5");
    assert!(text.contains("none holds 3: there is room for 4"), "{text}");
}

#[test]
fn a_node_that_is_dead_for_good_counts_for_nothing() {
    let mut cluster = cluster("a: 1, b: 2, c: 3");
    cluster.now = secs(1_000);
    let node = cluster.nodes.get_mut(&3).unwrap();
    node.health = Health::Down { since: secs(800) };
    let asked = wish(Survive::Zone, "a");
    assert!(chosen(&asked, &cluster).is_ok(), "down is not dead");
    cluster.now = secs(1_100);
    let unmet = chosen(&asked, &cluster).unwrap_err();
    assert_eq!(
        unmet,
        Unmet::TooFewZones {
            zones: vec!["a".to_owned(), "b".to_owned()]
        }
    );
}

#[test]
fn the_emptiest_of_equal_nodes_is_chosen_and_a_lot_decides_among_those() {
    let cluster = cluster("a: 1 2 3, b: 4, c: 5");
    let mut asked = wish(Survive::Zone, "a");
    asked.replicas = Some(3);
    let load = [(1, 7, 3), (2, 9, 2), (3, 7, 3)];
    let load = load.map(|(node, replicas, home)| (node, Load { replicas, home }));
    let load = BTreeMap::from(load);
    let choice = choose_voters(1, &asked, None, &cluster, &load).unwrap();
    assert_eq!(choice.nodes(), [2, 4, 5].into());

    let homes = (1..100).map(|keyspace| {
        let choice = choose_voters(keyspace, &asked, None, &cluster, &BTreeMap::new());
        choice.unwrap().voters[0].node
    });
    assert_eq!(homes.collect::<BTreeSet<_>>(), [1, 2, 3].into());
}

#[test]
fn an_automatic_home_that_is_new_is_drawn_by_lot() {
    let cluster = cluster("a: 1 2 3, b: 4 5, c: 6");
    let mut asked = wish(Survive::Zone, "a");
    asked.home = Home::Auto;
    let homes = (1..50).map(|keyspace| {
        let choice = choose_voters(keyspace, &asked, None, &cluster, &BTreeMap::new());
        choice.unwrap().home
    });
    assert_eq!(homes.collect::<BTreeSet<_>>().len(), 3);
    let known = choose_voters(1, &asked, Some("c"), &cluster, &BTreeMap::new()).unwrap();
    assert_eq!((known.home.as_str(), known.voters[0].node), ("c", 6));
}

/// A cluster of up to six zones with up to four nodes each, and loads.
fn any_cluster() -> impl Strategy<Value = (Cluster, BTreeMap<NodeId, Load>)> {
    let zones = proptest::collection::vec((1..5_usize, 0..50_u64), 1..6);
    (zones, proptest::collection::vec(0..9_usize, 30)).prop_map(|(zones, loads)| {
        let mut cluster = Cluster::default();
        for (at, (nodes, away)) in zones.iter().enumerate() {
            let zone = format!("z{at}");
            cluster.round_trips.set("z0", &zone, millis(*away));
            for _ in 0..*nodes {
                let id = cluster.nodes.len() as NodeId + 1;
                let health = Health::Healthy;
                let zone = zone.clone();
                cluster.nodes.insert(id, crate::Node { zone, health });
            }
        }
        let loads = loads.into_iter().enumerate();
        let load = |replicas| Load {
            replicas,
            home: replicas / 2,
        };
        (
            cluster,
            loads
                .map(|(at, replicas)| (at as NodeId + 1, load(replicas)))
                .collect(),
        )
    })
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let replicas = prop_oneof![3 => Just(None), 1 => (0..9_usize).prop_map(Some)];
    let failover = proptest::sample::subsequence(vec!["z0", "z1", "z2", "z3"], 0..4);
    (0..4_u8, failover.prop_shuffle(), any::<bool>(), replicas).prop_map(
        |(home, failover, is_zone, replicas)| {
            let home = format!("z{home}");
            let failover = failover.into_iter().filter(|zone| *zone != home);
            let failover = failover.map(str::to_owned).collect();
            let mut wish = Wish::new("k", Home::Zone(home));
            wish.failover = failover;
            wish.survive = if is_zone {
                Survive::Zone
            } else {
                Survive::Node
            };
            wish.replicas = replicas;
            wish
        },
    )
}

proptest! {
    #[test]
    fn what_is_chosen_meets_the_goal((cluster, load) in any_cluster(), wish in any_wish(), keyspace in 0..99_u64) {
        let Ok(choice) = choose_voters(keyspace, &wish, None, &cluster, &load) else {
            return Ok(());
        };
        let nodes = choice.nodes();
        prop_assert_eq!(nodes.len(), choice.voters.len(), "nobody votes twice");
        prop_assert!(nodes.len() >= 3 && nodes.len() % 2 == 1);
        if let Some(replicas) = wish.replicas {
            prop_assert_eq!(nodes.len(), replicas);
        }
        let zones = per_zone(&choice);
        let home = zones.get(choice.home.as_str()).copied().unwrap_or(0);
        prop_assert!(home >= 1, "home has a voter: {:?}", choice);
        if wish.survive == Survive::Zone {
            let most = zones.values().max().copied().unwrap_or(0);
            prop_assert!(most <= nodes.len() / 2, "a zone holds a quorum: {:?}", choice);
        }
    }

    #[test]
    fn what_is_chosen_stays_chosen((cluster, load) in any_cluster(), wish in any_wish(), keyspace in 0..99_u64) {
        let Ok(choice) = choose_voters(keyspace, &wish, None, &cluster, &load) else {
            return Ok(());
        };
        let voters = choice.nodes();
        let index = Index::new(&cluster);
        let question = Question {
            keyspace,
            wish: &wish,
            home: wish.home_zone(None),
            voters: &voters,
            learners: &BTreeSet::new(),
            leader: None,
        };
        let again = question.strict(&index, &|_| Load::default()).unwrap();
        prop_assert_eq!(again.into_iter().map(|(node, _)| node).collect::<BTreeSet<_>>(), voters);
    }

    #[test]
    fn as_much_as_possible_is_done_for_a_goal_that_cannot_be_met(
        (cluster, load) in any_cluster(), wish in any_wish(), keyspace in 0..99_u64,
    ) {
        let index = Index::new(&cluster);
        let none = BTreeSet::new();
        let load = |node| load.get(&node).copied().unwrap_or_default();
        let mut question = Question {
            keyspace,
            wish: &wish,
            home: wish.home_zone(None),
            voters: &none,
            learners: &none,
            leader: None,
        };
        let Some(picked) = question.lenient(&index, &load) else {
            prop_assert!(cluster.nodes.len() < 3);
            return Ok(());
        };
        prop_assert!(picked.len() >= 3 && picked.len() % 2 == 1);
        let voters: BTreeSet<NodeId> = picked.iter().map(|(node, _)| *node).collect();
        question.voters = &voters;
        let again = question.lenient(&index, &load).unwrap();
        prop_assert_eq!(again.into_iter().map(|(node, _)| node).collect::<BTreeSet<_>>(), voters.clone());
    }
}
