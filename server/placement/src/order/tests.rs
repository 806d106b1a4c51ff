use std::collections::BTreeSet;

use super::*;
use crate::{
    Home, Survive,
    sketch::{cluster, wish},
};

fn voters(drawn: &str) -> BTreeMap<NodeId, String> {
    let nodes = cluster(drawn).nodes.into_iter();
    nodes.map(|(id, node)| (id, node.zone)).collect()
}

#[test]
fn home_stands_first_then_failover_zones_then_the_others() {
    let asked = wish(Survive::Zone, "c, b");
    let order = election_order(&asked, None, &voters("a: 1, b: 2, c: 3 4"), 1);
    assert_eq!(BTreeSet::from([order[0], order[1]]), BTreeSet::from([3, 4]));
    assert_eq!(order[2..], [2, 1]);
}

#[test]
fn a_lot_decides_within_a_zone_and_among_zones_that_are_not_named() {
    let asked = wish(Survive::Zone, "a");
    let firsts = (0..50).map(|keyspace| {
        let order = election_order(&asked, None, &voters("a: 1 2, b: 3, c: 4"), keyspace);
        (order[0], order[2])
    });
    let firsts: BTreeSet<_> = firsts.collect();
    assert_eq!(firsts, [(1, 3), (1, 4), (2, 3), (2, 4)].into());
}

#[test]
fn an_automatic_home_stands_first_once_it_is_known() {
    let mut asked = wish(Survive::Zone, "a");
    asked.home = Home::Auto;
    let order = election_order(&asked, Some("b"), &voters("a: 1, b: 2, c: 3"), 1);
    assert_eq!(order[0], 2);
}
