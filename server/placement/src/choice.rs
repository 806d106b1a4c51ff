//! Which nodes vote for a keyspace: first how many voters each zone gets, then which nodes of it.
//!
//! ```text
//!   wish ─▶ zones in order: home, failover as listed, the others (those with voters first, then the nearest)
//!        ─▶ how many voters each: goal zone  one each in turn, home two of five, never a quorum in a zone
//!                                 goal node  as many as fit, zone after zone: a quorum near home
//!        ─▶ which nodes of a zone: those that vote already, then the fittest with the fewest replicas
//! ```
//!
//! - What is chosen stays chosen: asked again with its own answer as the present voters, the choice is the same.
//! - A voter is given up only when it is dead for good or its zone has too many, not because it is down.
//! - A strict choice meets the goal or says why it cannot. A lenient one, for keyspaces that exist already,
//!   then does the best it can, and tells what is not met.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Cluster, KeyspaceId, NodeId, Survive, Unmet, Wish,
    index::{Index, State},
    order::lot,
};

/// A voter and why it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The node.
    pub node: NodeId,
    /// Its zone; empty for a node that is no member any more.
    pub zone: String,
    /// Why, in words: "home zone-a", "failover 1: zone-b".
    pub reason: String,
}

/// How many replicas a node has. Those of keyspaces that are at home in its zone are told apart: it may
/// have to lead them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// All of them.
    pub replicas: usize,
    /// Those that are at home in the zone of the node.
    pub home: usize,
}

impl Load {
    /// The replicas that are at home there, or those that are not.
    pub(crate) fn alike(self, is_home: bool) -> usize {
        if is_home {
            self.home
        } else {
            self.replicas.saturating_sub(self.home)
        }
    }
}

/// Voters that meet a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The home zone: the wished one, the one that was found, or for an automatic home that is new, one by lot.
    pub home: String,
    /// The voters, in the order of their zones.
    pub voters: Vec<Placed>,
}

impl Choice {
    /// The nodes of the voters.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.voters.iter().map(|voter| voter.node).collect()
    }
}

/// Chooses the voters of a new keyspace, or checks what an altered wish would lead to.
///
/// `load` tells what each node has (nothing if it is missing); among equal nodes of a zone the one with the fewest
/// replicas of that kind is chosen. `auto_home` is the home found so far for [`Home::Auto`](crate::Home::Auto).
///
/// # Errors
///
/// [`Unmet`] when the nodes that are not dead for good cannot do what the wish asks.
pub fn choose_voters(
    keyspace: KeyspaceId,
    wish: &Wish,
    auto_home: Option<&str>,
    cluster: &Cluster,
    load: &BTreeMap<NodeId, Load>,
) -> Result<Choice, Unmet> {
    let index = Index::new(cluster);
    let none = BTreeSet::new();
    let question = Question {
        keyspace,
        wish,
        home: wish.home_zone(auto_home),
        voters: &none,
        learners: &none,
        leader: None,
    };
    let picked = question.strict(&index, &|node| load.get(&node).copied().unwrap_or_default())?;
    let home = question.home_or_lot(&index).unwrap_or_default();
    let voters = picked.iter().map(|(node, why)| {
        let zone = index.zone_of(*node);
        Placed {
            node: *node,
            zone: zone.to_owned(),
            reason: why.text(zone),
        }
    });
    Ok(Choice {
        home: home.to_owned(),
        voters: voters.collect(),
    })
}

/// Why a node is a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Home,
    /// The second voter of the home zone.
    HomeAgain,
    Failover(usize),
    /// One more in a zone, where no quorum comes of it.
    Again,
    /// A further zone, so that none holds a quorum.
    Spread,
    /// Near to home, for a goal that zones do not matter to.
    Near,
}

impl Why {
    pub(crate) fn text(self, zone: &str) -> String {
        match self {
            Self::Home => format!("home {zone}"),
            Self::HomeAgain => format!(
                "home {zone} once more, so that the loss of one node does not move leadership out of home"
            ),
            Self::Failover(place) => format!("failover {place}: {zone}"),
            Self::Again => format!("{zone} once more, which gives it no quorum"),
            Self::Spread => format!("{zone}, so that no zone holds a quorum"),
            Self::Near => format!("{zone}, the nearest to home that is left"),
        }
    }
}

/// What a zone is to a keyspace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Home,
    Failover(usize),
    Other,
}

/// A keyspace whose voters are to be chosen, and what it has.
pub(crate) struct Question<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) wish: &'a Wish,
    pub(crate) home: Option<&'a str>,
    pub(crate) voters: &'a BTreeSet<NodeId>,
    pub(crate) learners: &'a BTreeSet<NodeId>,
    pub(crate) leader: Option<NodeId>,
}

type Picked = Vec<(NodeId, Why)>;
type Loads<'a> = &'a dyn Fn(NodeId) -> Load;

/// How many voters each zone gets, with the zones in order.
struct Shares {
    order: Vec<(usize, Role)>,
    counts: Vec<usize>,
}

impl Question<'_> {
    /// The home, or for one that is not known yet a zone by lot.
    pub(crate) fn home_or_lot<'b>(&'b self, index: &Index<'b>) -> Option<&'b str> {
        self.home.or_else(|| lot_home(index, self.keyspace))
    }

    /// Voters that meet the wish.
    pub(crate) fn strict(&self, index: &Index<'_>, load: Loads<'_>) -> Result<Picked, Unmet> {
        self.check_zones(index)?;
        let order = self.order(index);
        let replicas = self.replicas(index, &order);
        let usable = index.usable();
        let survive = self.wish.survive;
        if replicas < 3 {
            return Err(Unmet::TooFewReplicas { survive, replicas });
        }
        if replicas.is_multiple_of(2) {
            return Err(Unmet::EvenReplicas { replicas });
        }
        let zones: Vec<&str> = index.usable_zones().collect();
        if survive == Survive::Zone && zones.len() < 3 {
            let zones = zones.into_iter().map(str::to_owned).collect();
            return Err(Unmet::TooFewZones { zones });
        }
        if usable < replicas {
            return Err(Unmet::TooFewNodes {
                survive,
                replicas,
                usable,
            });
        }
        let counts = match survive {
            Survive::Node => fill(index, &order, replicas),
            Survive::Zone => {
                let minority = (replicas - 1) / 2;
                spread(index, &order, replicas, minority).ok_or_else(|| Unmet::ZonesTooSmall {
                    replicas,
                    room: room(index, minority),
                })?
            }
        };
        Ok(self.pick(index, &Shares { order, counts }, load))
    }

    /// The best that can be done when the goal cannot be met: as many voters as there are nodes for, spread
    /// as evenly as possible. `None` when fewer than three nodes are left, and nothing should change.
    pub(crate) fn lenient(&self, index: &Index<'_>, load: Loads<'_>) -> Option<Picked> {
        let order = self.order(index);
        let usable = index.usable();
        let mut replicas = self.replicas(index, &order).max(3);
        replicas -= 1 - replicas % 2;
        if usable < 3 {
            return None;
        }
        while replicas > usable {
            replicas -= 2;
        }
        let counts = match self.wish.survive {
            Survive::Node => fill(index, &order, replicas),
            Survive::Zone => spread(index, &order, replicas, (replicas - 1) / 2)
                .or_else(|| spread(index, &order, replicas, replicas))?,
        };
        Some(self.pick(index, &Shares { order, counts }, load))
    }

    fn check_zones(&self, index: &Index<'_>) -> Result<(), Unmet> {
        let known = || {
            index
                .zones
                .iter()
                .map(|zone| zone.name.to_owned())
                .collect()
        };
        let home = self.home.into_iter().map(|zone| ("home", zone));
        let failover = self.wish.failover.iter();
        let named = home.chain(failover.map(|zone| ("failover", zone.as_str())));
        let mut seen = Vec::new();
        for (role, zone) in named {
            let zone = zone.to_owned();
            // An automatic home is not named by the owner, and may be in the failover order.
            let is_found = role == "home" && self.wish.home == crate::Home::Auto;
            if !is_found && seen.contains(&zone) {
                return Err(Unmet::RepeatedZone { zone });
            }
            if index.zone(&zone).is_none() {
                let known = known();
                return Err(Unmet::UnknownZone { role, zone, known });
            }
            if !is_found {
                seen.push(zone);
            }
        }
        Ok(())
    }

    /// All zones that have usable nodes: home, failover, the others with present voters first and then the
    /// nearest.
    fn order(&self, index: &Index<'_>) -> Vec<(usize, Role)> {
        let mut order: Vec<(usize, Role)> = Vec::with_capacity(index.zones.len());
        let home = self.home_or_lot(index);
        let named = home.map(|zone| (zone, Role::Home)).into_iter();
        let failover = self.wish.failover.iter().enumerate();
        let named = named.chain(failover.map(|(at, zone)| (&**zone, Role::Failover(at + 1))));
        for (name, role) in named {
            if let Some(zone) = index.zone(name)
                && order.iter().all(|(listed, _)| *listed != zone)
            {
                order.push((zone, role));
            }
        }
        let listed = order.len();
        for (zone, indexed) in index.zones.iter().enumerate() {
            if order[..listed].iter().all(|(listed, _)| *listed != zone)
                && !indexed.usable.is_empty()
            {
                order.push((zone, Role::Other));
            }
        }
        order.retain(|(zone, _)| !index.zones[*zone].usable.is_empty());
        let listed = order
            .iter()
            .filter(|(_, role)| *role != Role::Other)
            .count();
        let round_trips = &index.cluster.round_trips;
        order[listed..].sort_by_cached_key(|(zone, _)| {
            let nodes = index.zones[*zone].usable.iter();
            let present = nodes.filter(|at| self.voters.contains(&index.nodes[**at].id));
            let away = home.and_then(|home| round_trips.between(home, index.zones[*zone].name));
            let away = away.map_or(u128::MAX, |away| away.as_nanos());
            // Where zones share voters out in turn, the one with more keeps them; where they are filled up one
            // after the other, having some is enough, or the order would follow from its own outcome.
            let present = match self.wish.survive {
                Survive::Zone => present.count(),
                Survive::Node => present.count().min(1),
            };
            (std::cmp::Reverse(present), away, *zone)
        });
        order
    }

    /// How many voters are wished for.
    fn replicas(&self, index: &Index<'_>, order: &[(usize, Role)]) -> usize {
        if let Some(replicas) = self.wish.replicas {
            return replicas;
        }
        let five = self.wish.survive == Survive::Zone
            && index.usable() >= 5
            && spread(index, order, 5, 2).is_some();
        if five { 5 } else { 3 }
    }

    /// The fittest nodes of each zone.
    fn pick(&self, index: &Index<'_>, shares: &Shares, load: Loads<'_>) -> Picked {
        let mut picked = Vec::with_capacity(shares.counts.iter().sum());
        for ((zone, role), count) in shares.order.iter().zip(&shares.counts) {
            if *count == 0 {
                continue;
            }
            let nodes = index.zones[*zone].usable.iter().map(|at| index.nodes[*at]);
            let fitness = |node: NodeId, state: State| {
                (
                    !self.voters.contains(&node),
                    state,
                    self.leader != Some(node),
                    !self.learners.contains(&node),
                    load(node).alike(*role == Role::Home),
                    load(node).replicas,
                    lot(self.keyspace, node),
                )
            };
            let mut nodes: Vec<_> = nodes
                .map(|node| (fitness(node.id, node.state), node.id))
                .collect();
            nodes.sort_unstable();
            let nodes = nodes.into_iter().take(*count).enumerate();
            picked.extend(nodes.map(|(place, (_, node))| (node, self.why(*role, place))));
        }
        picked
    }

    fn why(&self, role: Role, place: usize) -> Why {
        match (self.wish.survive, role, place) {
            (Survive::Node, Role::Home, _) | (_, Role::Home, 0) => Why::Home,
            (_, Role::Home, 1) => Why::HomeAgain,
            (Survive::Node, Role::Failover(n), _) | (_, Role::Failover(n), 0) => Why::Failover(n),
            (Survive::Node, Role::Other, _) => Why::Near,
            (Survive::Zone, Role::Other, 0) => Why::Spread,
            (Survive::Zone, ..) => Why::Again,
        }
    }
}

/// A home for a keyspace of which nothing is known: one of the zones that can be used, by lot.
pub(crate) fn lot_home<'a>(index: &Index<'a>, keyspace: KeyspaceId) -> Option<&'a str> {
    let count = index.usable_zones().count();
    let at = lot(keyspace, 0).checked_rem(count as u64)?;
    index.usable_zones().nth(at as usize)
}

/// As many voters as fit, zone after zone.
fn fill(index: &Index<'_>, order: &[(usize, Role)], replicas: usize) -> Vec<usize> {
    let mut left = replicas;
    let zones = order.iter().map(|(zone, _)| {
        let count = left.min(index.zones[*zone].usable.len());
        left -= count;
        count
    });
    zones.collect()
}

/// One voter for each zone in turn until all are placed, at most `cap` in a zone; with five or more, home
/// begins with two. `None` if there is no room.
fn spread(
    index: &Index<'_>,
    order: &[(usize, Role)],
    replicas: usize,
    cap: usize,
) -> Option<Vec<usize>> {
    let room = |at: usize| cap.min(index.zones[order[at].0].usable.len());
    let mut counts = vec![0; order.len()];
    let mut left = replicas;
    if replicas >= 5 && order.first().is_some_and(|(_, role)| *role == Role::Home) {
        counts[0] = room(0).min(2);
        left -= counts[0];
    }
    for level in 1..=cap {
        for (at, count) in counts.iter_mut().enumerate() {
            if left > 0 && *count < level && level <= room(at) {
                *count += 1;
                left -= 1;
            }
        }
    }
    (left == 0).then_some(counts)
}

/// For how many voters there is room with at most `cap` in a zone.
fn room(index: &Index<'_>, cap: usize) -> usize {
    let zones = index.zones.iter();
    zones.map(|zone| zone.usable.len().min(cap)).sum()
}

#[cfg(test)]
mod tests;
