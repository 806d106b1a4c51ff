//! Faults of links.

use std::time::Duration;

use rand::{
    RngExt,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{
    ActiveFaults, Fault,
    injected::{Healing, Injected},
    process::named,
    target::Target,
};
use crate::{
    cluster::{End, FaultError, Link, LinkFault},
    history::NodeId,
};

const CUT: LinkFault = LinkFault {
    cut: true,
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    bytes_per_second: 0,
    loss: 0.0,
    reset: false,
};

/// How long answers are held back before they are lost: less than a follower waits for its leader, so
/// that requests go on being sent to it.
const ANSWERS_HELD_BACK: Duration = Duration::from_millis(150);

/// The directions between a node and an end that a fault hits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
    Both,
}

pub(super) async fn inject(
    fault: Fault,
    active: &ActiveFaults,
    id: u64,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let all = active.ids();
    if all.len() < 2 && fault != Fault::PartitionClients {
        return Err(FaultError::Skipped("there is one node only".into()));
    }
    let target = match fault {
        Fault::PartitionLeader
        | Fault::PartitionDirection
        | Fault::DirectionFollowers
        | Fault::DirectionFromLeader
        | Fault::DirectionToLeader => Target::Leader,
        _ => Target::One,
    };
    let node = match fault {
        Fault::PartitionHalves | Fault::PartitionRing => 0,
        _ => active.choose(target, rng).await?[0],
    };
    let others = all.iter().copied().filter(|other| *other != node);
    let peers: Vec<End> = others.map(End::Node).collect();
    let with_clients: Vec<End> = peers.iter().copied().chain([End::Clients]).collect();
    let (nodes, links, detail) = match fault {
        Fault::IsolateOne => (
            vec![node],
            links(node, &with_clients, Direction::Both, CUT),
            format!("node {node} cut off from nodes and clients"),
        ),
        Fault::PartitionOne | Fault::PartitionLeader => (
            vec![node],
            links(node, &peers, Direction::Both, CUT),
            format!("node {node} cut off from the other nodes"),
        ),
        Fault::PartitionClients => (
            vec![node],
            links(node, &[End::Clients], Direction::Both, CUT),
            format!("node {node} cut off from its clients"),
        ),
        Fault::PartitionOneWay => {
            let (direction, words) = if rng.random_bool(0.5) {
                (Direction::Out, "hears the others and is not heard")
            } else {
                (Direction::In, "is heard and does not hear the others")
            };
            let links = links(node, &peers, direction, CUT);
            (vec![node], links, format!("node {node} {words}"))
        }
        Fault::PartitionDirection => {
            let End::Node(other) = *peers.choose(rng).expect("there is another node") else {
                unreachable!("peers are nodes");
            };
            let (from, to) = match rng.random_bool(0.5) {
                true => (node, other),
                false => (other, node),
            };
            let links = links(from, &[End::Node(to)], Direction::Out, CUT);
            let detail = format!("node {to} does not hear node {from}; node {node} leads");
            (vec![node, other], links, detail)
        }
        Fault::DirectionFollowers | Fault::DirectionFromLeader | Fault::DirectionToLeader => {
            let (from, to) = one_direction(fault, node, all, rng)?;
            let links = links(from, &[End::Node(to)], Direction::Out, CUT);
            let detail = format!("node {to} does not hear node {from}; node {node} leads");
            (vec![from, to], links, detail)
        }
        Fault::PartitionHalves => halves(all, rng),
        Fault::PartitionRing => ring(all, rng),
        Fault::SlowLink => {
            let fault = LinkFault {
                delay: Duration::from_millis(rng.random_range(5..=80)),
                jitter: Duration::from_millis(rng.random_range(0..=40)),
                ..Default::default()
            };
            (
                vec![node],
                links(node, &with_clients, Direction::Both, fault),
                format!(
                    "links of node {node}: {} ms more, up to {} ms of jitter",
                    fault.delay.as_millis(),
                    fault.jitter.as_millis()
                ),
            )
        }
        Fault::SlowBandwidth => {
            let fault = LinkFault {
                bytes_per_second: rng.random_range(16..=256) * 1024,
                ..Default::default()
            };
            (
                vec![node],
                links(node, &peers, Direction::Both, fault),
                format!(
                    "peer links of node {node}: {} KiB/s",
                    fault.bytes_per_second / 1024
                ),
            )
        }
        Fault::Loss => {
            let fault = LinkFault {
                loss: f64::from(rng.random_range(2..=20)) / 100.0,
                ..Default::default()
            };
            (
                vec![node],
                links(node, &with_clients, Direction::Both, fault),
                format!(
                    "links of node {node}: {:.0} % of the packets lost",
                    fault.loss * 100.0
                ),
            )
        }
        Fault::Reset => {
            let fault = LinkFault {
                reset: true,
                ..Default::default()
            };
            (
                vec![node],
                links(node, &with_clients, Direction::Both, fault),
                format!("connections of node {node} reset"),
            )
        }
        _ => {
            return Err(FaultError::Failed(format!(
                "{} is no fault of links",
                fault.name()
            )));
        }
    };
    active.break_links(id, links).await?;
    Ok(Injected::new(nodes, detail, Healing::Links))
}

/// What a node asks of the leader gets there and is carried out; the answers are held back, then lost
/// with the connections. Nobody on the node's side knows what became of the requests.
pub(super) async fn lose_answers(
    active: &ActiveFaults,
    id: u64,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let leader = active.choose(Target::Leader, rng).await?[0];
    let mut others = active.ids();
    others.retain(|other| *other != leader);
    let Some(&node) = others.choose(rng) else {
        return Err(FaultError::Skipped("there is one node only".into()));
    };
    let answers = answers(leader, node);
    active.break_links(id, answers[..1].to_vec()).await?;
    tokio::time::sleep(ANSWERS_HELD_BACK).await;
    if let Err(error) = active.break_links(id, answers.to_vec()).await {
        active.heal_links(id).await?;
        return Err(error);
    }
    let detail = format!("node {node} gets no answers of node {leader} (leader)");
    Ok(Injected::new(vec![node, leader], detail, Healing::Links))
}

/// The faults that lose what a leader answers a node: first its words, then the connections.
fn answers(leader: NodeId, node: NodeId) -> [(Link, LinkFault); 2] {
    let (leader, node) = (End::Node(leader), End::Node(node));
    let reset = LinkFault {
        reset: true,
        ..Default::default()
    };
    let link = |from, to| Link { from, to };
    [(link(leader, node), CUT), (link(node, leader), reset)]
}

/// Everything between a node and all others, clients among them, is lost; connections stay open.
pub(super) fn silence(node: NodeId, all: &[NodeId]) -> Vec<(Link, LinkFault)> {
    let others = all.iter().copied().filter(|other| *other != node);
    let ends: Vec<End> = others.map(End::Node).chain([End::Clients]).collect();
    links(node, &ends, Direction::Both, CUT)
}

/// Everything between a node and some others is lost; connections stay open.
pub(super) fn apart(node: NodeId, others: &[NodeId]) -> Vec<(Link, LinkFault)> {
    let others: Vec<End> = others.iter().copied().map(End::Node).collect();
    links(node, &others, Direction::Both, CUT)
}

fn links(
    node: NodeId,
    ends: &[End],
    direction: Direction,
    fault: LinkFault,
) -> Vec<(Link, LinkFault)> {
    let node = End::Node(node);
    let mut links = Vec::new();
    for end in ends {
        if direction != Direction::In {
            links.push((
                Link {
                    from: node,
                    to: *end,
                },
                fault,
            ));
        }
        if direction != Direction::Out {
            links.push((
                Link {
                    from: *end,
                    to: node,
                },
                fault,
            ));
        }
    }
    links
}

/// Who is not heard any more, and by whom.
fn one_direction(
    fault: Fault,
    leader: NodeId,
    mut all: Vec<NodeId>,
    rng: &mut StdRng,
) -> Result<(NodeId, NodeId), FaultError> {
    all.retain(|node| *node != leader);
    all.shuffle(rng);
    match (fault, all.as_slice()) {
        (Fault::DirectionFromLeader, [follower, ..]) => Ok((leader, *follower)),
        (Fault::DirectionToLeader, [follower, ..]) => Ok((*follower, leader)),
        (_, [from, to, ..]) => Ok((*from, *to)),
        _ => Err(FaultError::Skipped("there are no two followers".into())),
    }
}

fn cut_pairs(pairs: impl Iterator<Item = (NodeId, NodeId)>) -> Vec<(Link, LinkFault)> {
    pairs
        .flat_map(|(a, b)| links(a, &[End::Node(b)], Direction::Both, CUT))
        .collect()
}

fn halves(mut all: Vec<NodeId>, rng: &mut StdRng) -> (Vec<NodeId>, Vec<(Link, LinkFault)>, String) {
    all.shuffle(rng);
    let (minority, majority) = all.split_at((all.len() - 1) / 2);
    let pairs = minority
        .iter()
        .flat_map(|a| majority.iter().map(move |b| (*a, *b)));
    let links = cut_pairs(pairs);
    let detail = format!("{} cut off from {}", named(minority), named(majority));
    (minority.to_vec(), links, detail)
}

/// Every node sees itself and its neighbours on a ring, just enough to be a majority. With three
/// nodes the neighbours are all, so one pair is cut: the third node sees both.
fn ring(mut all: Vec<NodeId>, rng: &mut StdRng) -> (Vec<NodeId>, Vec<(Link, LinkFault)>, String) {
    all.shuffle(rng);
    let count = all.len();
    let reach = (count / 2).div_ceil(2);
    let mut pairs = Vec::new();
    for a in 0..count {
        for b in a + 1..count {
            let apart = (b - a).min(count - (b - a));
            if apart > reach {
                pairs.push((all[a], all[b]));
            }
        }
    }
    if pairs.is_empty() {
        pairs.push((all[0], all[1]));
    }
    let apart: Vec<String> = pairs
        .iter()
        .map(|(a, b)| format!("nodes {a} and {b}"))
        .collect();
    let detail = format!("no link between {}", apart.join(", between "));
    (all, cut_pairs(pairs.into_iter()), detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn reachable(all: &[NodeId], links: &[(Link, LinkFault)], node: NodeId) -> BTreeSet<NodeId> {
        let cut = |from, to| {
            let link = Link {
                from: End::Node(from),
                to: End::Node(to),
            };
            links.iter().any(|(cut, fault)| *cut == link && fault.cut)
        };
        let sees = all.iter().filter(|other| !cut(node, **other));
        sees.copied().collect()
    }

    #[test]
    fn a_ring_leaves_every_node_a_majority_and_no_two_the_same() {
        for count in [3_u64, 5, 7] {
            let all: Vec<NodeId> = (1..=count).collect();
            let (_, links, _) = ring(all.clone(), &mut StdRng::seed_from_u64(count));
            let views: Vec<_> = all
                .iter()
                .map(|node| reachable(&all, &links, *node))
                .collect();
            for view in &views {
                assert!(view.len() as u64 > count / 2, "{view:?}");
            }
            let distinct: BTreeSet<_> = views.iter().collect();
            assert_eq!(distinct.len(), views.len(), "{views:?}");
        }
    }

    #[test]
    fn halves_are_a_majority_and_a_minority_that_do_not_see_each_other() {
        for count in [3_u64, 5] {
            let all: Vec<NodeId> = (1..=count).collect();
            let (minority, links, _) = halves(all.clone(), &mut StdRng::seed_from_u64(1));
            assert_eq!(minority.len() as u64, (count - 1) / 2);
            for node in all.iter() {
                let view = reachable(&all, &links, *node);
                let inside = minority.contains(node);
                assert!(view.iter().all(|other| minority.contains(other) == inside));
            }
        }
    }

    #[test]
    fn requests_arrive_when_answers_are_lost() {
        let [held_back, lost] = answers(1, 2);
        assert_eq!(reachable(&[1, 2], &[held_back], 1), [1].into());
        assert_eq!(reachable(&[1, 2], &[held_back], 2), [1, 2].into());
        let requests = Link {
            from: End::Node(2),
            to: End::Node(1),
        };
        assert_eq!(lost.0, requests);
        assert!(lost.1.reset && !lost.1.cut);
    }

    #[test]
    fn one_direction_is_the_one_that_is_asked_for() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut draw = |fault, count| one_direction(fault, 2, (1..=count).collect(), &mut rng);
        for _ in 0..20 {
            let (from, to) = draw(Fault::DirectionFollowers, 3).unwrap();
            assert!(from != 2 && to != 2 && from != to);
            assert_eq!(draw(Fault::DirectionFromLeader, 3).unwrap().0, 2);
            assert_eq!(draw(Fault::DirectionToLeader, 3).unwrap().1, 2);
        }
        let skipped = draw(Fault::DirectionFollowers, 2);
        assert!(matches!(skipped, Err(FaultError::Skipped(_))));
    }

    #[test]
    fn who_is_silent_reaches_nobody_and_is_reached_by_nobody() {
        let silent = silence(2, &[1, 2, 3]);
        assert_eq!(reachable(&[1, 2, 3], &silent, 2), [2].into());
        assert_eq!(reachable(&[1, 2, 3], &silent, 1), [1, 3].into());
        let clients = Link {
            from: End::Clients,
            to: End::Node(2),
        };
        assert!(silent.iter().any(|(link, _)| *link == clients));
    }

    #[test]
    fn one_way_cuts_one_direction() {
        let out = links(1, &[End::Node(2)], Direction::Out, CUT);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].0.from, End::Node(1));
        assert_eq!(links(1, &[End::Node(2)], Direction::Both, CUT).len(), 2);
    }
}
