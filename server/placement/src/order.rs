//! The order in which zones and nodes come into question as leaders of a keyspace.
//!
//! Home first, then the failover zones as listed, then all others, which are equals: an order among them by
//! measured round trips would change with the measurements, and leaders with it. Within a zone a fixed lot
//! of keyspace and node decides, so that not the same node is first for every keyspace.

use std::collections::BTreeMap;

use crate::{KeyspaceId, NodeId, Wish};

/// A fixed number for a keyspace and a node, well spread (the finalizer of SplitMix64).
pub(crate) fn lot(keyspace: KeyspaceId, node: NodeId) -> u64 {
    let mut z = keyspace
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(node.wrapping_mul(0xD1B5_4A32_D192_ED03))
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The place of a zone in the order of a keyspace: 0 is home; all zones that the wish does not name
/// share the last one.
pub(crate) fn rank(wish: &Wish, home: Option<&str>, zone: &str) -> usize {
    if home == Some(zone) {
        return 0;
    }
    let listed = wish.failover.iter().position(|listed| listed == zone);
    1 + listed.unwrap_or(wish.failover.len())
}

/// The order in which voters stand for election when the leader of a keyspace is lost: those of the
/// home zone, those of the failover zones as listed, then the others; a lot within each.
///
/// `voters` tells the zone of each voter. With [`Home::Auto`](crate::Home::Auto), `auto_home` is the home that
/// [`Memory::auto_home`](crate::Memory::auto_home) knows. Longer logs come before any of this: only the voters
/// with the longest log can win.
pub fn election_order(
    wish: &Wish,
    auto_home: Option<&str>,
    voters: &BTreeMap<NodeId, String>,
    keyspace: KeyspaceId,
) -> Vec<NodeId> {
    let home = wish.home_zone(auto_home);
    let mut order: Vec<NodeId> = voters.keys().copied().collect();
    order.sort_by_cached_key(|node| (rank(wish, home, &voters[node]), lot(keyspace, *node), *node));
    order
}

#[cfg(test)]
mod tests;
