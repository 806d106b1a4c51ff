//! Who holds what: nodes that are down or paused, links that are bad.
//!
//! What is claimed twice is whole only when both claims are given back.

use std::collections::{BTreeMap, BTreeSet};

use super::radius;
use crate::{
    cluster::{Link, LinkFault},
    history::NodeId,
};

/// All claims on a cluster at a moment.
#[derive(Clone, Default)]
pub(super) struct Claims {
    pub(super) down: BTreeMap<NodeId, u32>,
    pub(super) paused: BTreeMap<NodeId, u32>,
    /// By the fault that claims them.
    pub(super) links: BTreeMap<u64, Vec<(Link, LinkFault)>>,
    /// Nodes that cannot take part any more in this run, and why.
    pub(super) out: BTreeMap<NodeId, String>,
    /// Nodes that may end by themselves, because a fault leaves them no other way.
    pub(super) may_end: BTreeSet<NodeId>,
    /// Those of them that are likely to.
    pub(super) at_risk: BTreeSet<NodeId>,
}

impl Claims {
    /// Claims that these nodes are down.
    pub(super) fn take_down(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            *self.down.entry(*node).or_default() += 1;
        }
    }

    /// The nodes that are taken; see [`radius`].
    pub(super) fn taken(&self, all: &[NodeId]) -> BTreeSet<NodeId> {
        let gone = self.down.keys().chain(self.paused.keys());
        let gone = gone.chain(self.out.keys()).chain(&self.at_risk);
        let cut: BTreeSet<Link> = self
            .links
            .values()
            .flatten()
            .filter(|(_, fault)| fault.cut)
            .map(|(link, _)| *link)
            .collect();
        radius::taken(all, &gone.copied().collect(), |from, to| {
            cut.contains(&Link { from, to })
        })
    }

    /// What is wrong with links, all claims together.
    pub(super) fn merged(&self, links: impl Iterator<Item = Link>) -> Vec<(Link, LinkFault)> {
        let links: BTreeSet<Link> = links.collect();
        let of = |link: Link| {
            let claims = self.links.values().flatten();
            let claims = claims.filter(|(claimed, _)| *claimed == link);
            claims.fold(LinkFault::default(), |all, (_, one)| together(all, *one))
        };
        links.into_iter().map(|link| (link, of(link))).collect()
    }
}

/// Two faults of one link at the same time.
fn together(a: LinkFault, b: LinkFault) -> LinkFault {
    LinkFault {
        cut: a.cut || b.cut,
        delay: a.delay + b.delay,
        jitter: a.jitter + b.jitter,
        bytes_per_second: match (a.bytes_per_second, b.bytes_per_second) {
            (0, only) | (only, 0) => only,
            (a, b) => a.min(b),
        },
        loss: 1.0 - (1.0 - a.loss) * (1.0 - b.loss),
        reset: a.reset || b.reset,
    }
}

/// Whether the last claim was given back.
pub(super) fn give_back(claims: &mut BTreeMap<NodeId, u32>, node: NodeId) -> bool {
    match claims.get_mut(&node) {
        None => false,
        Some(1) => claims.remove(&node).is_some(),
        Some(count) => {
            *count -= 1;
            false
        }
    }
}
