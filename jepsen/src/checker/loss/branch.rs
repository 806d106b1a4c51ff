//! Which writes can be in one history of the store.
//!
//! Two acknowledged writes exclude each other if both claim the same revision, or if one was over
//! before the other began and has the larger revision all the same: between them the store was put
//! back. Of the two at most one is left.

use std::collections::BTreeSet;

use super::{Acknowledged, Proof, evidence::Evidence};

/// A write that is in the store in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    /// Its operation.
    pub at: usize,
    pub revision: i64,
    pub invoked: u64,
    /// `u64::MAX` if its outcome was never told.
    pub completed: u64,
}

/// Marks the writes that cannot be beside those that are there in the end. False if those that are
/// there exclude each other: the nodes hold different histories, and nothing follows.
pub(super) fn exclude(
    writes: &[Acknowledged],
    evidence: &Evidence<'_, '_>,
    gone: &mut [Option<Proof>],
) -> bool {
    let mut anchors = evidence.anchors(writes);
    anchors.sort_by_key(|anchor| (anchor.revision, anchor.at));
    anchors.dedup_by_key(|anchor| anchor.at);
    // By position: who began last at or below, and who ended first at or above.
    let mut began_last: Vec<Anchor> = Vec::with_capacity(anchors.len());
    for &anchor in &anchors {
        let before = began_last.last().copied();
        let latest = before.filter(|before| before.invoked > anchor.invoked);
        began_last.push(latest.unwrap_or(anchor));
    }
    let mut ended_first = anchors.clone();
    for at in (1..anchors.len()).rev() {
        if ended_first[at].completed < ended_first[at - 1].completed {
            ended_first[at - 1] = ended_first[at];
        }
    }
    let clash = |at: usize, revision: i64, invoked: u64, completed: u64| {
        let from = anchors.partition_point(|anchor| anchor.revision < revision);
        let to = anchors.partition_point(|anchor| anchor.revision <= revision);
        let same = anchors[from..to].iter().find(|anchor| anchor.at != at);
        let later_below = (from > 0)
            .then(|| began_last[from - 1])
            .filter(|below| completed < below.invoked);
        let earlier_above = ended_first
            .get(to)
            .filter(|above| above.completed < invoked);
        let clash = same.or(later_below.as_ref()).or(earlier_above);
        clash.map(|anchor| anchor.at)
    };
    let differ = anchors.iter().any(|anchor| {
        clash(anchor.at, anchor.revision, anchor.invoked, anchor.completed).is_some()
    });
    if differ || !evidence.agrees {
        return false;
    }
    for (n, write) in writes.iter().enumerate() {
        if gone[n].is_none() && !evidence.is_there(n) {
            let by = clash(write.at, write.revision, write.invoked, write.completed)
                .or_else(|| evidence.taken_by(write));
            gone[n] = by.map(Proof::Answer);
        }
    }
    true
}

/// How many of these writes must be gone at least, and two of them, by position, that exclude each
/// other.
///
/// That is all of them without the largest set in which no two exclude each other. Such a set, in the
/// order of revisions, has one write for a revision, and none that ended before an earlier one began.
/// So the largest set is found in one pass over the revisions, which keeps, for each moment at which
/// the latest of its writes may have begun, how large a set can be by now.
pub(super) fn fewest_gone(writes: &[Acknowledged]) -> (u64, Option<(usize, usize)>) {
    let mut order: Vec<usize> = (0..writes.len()).collect();
    order.sort_by_key(|&n| (writes[n].revision, writes[n].invoked));
    let Some(example) = exclusive_pair(writes, &order) else {
        return (0, None);
    };
    // Invocations by rank, counted from 1; rank 0 is the empty set's.
    let invocations: BTreeSet<u64> = writes.iter().map(|write| write.invoked).collect();
    let invocations: Vec<u64> = invocations.into_iter().collect();
    let rank = |event: u64| invocations.partition_point(|&invoked| invoked <= event);
    let mut sizes = Sizes::new(invocations.len() + 1);
    for same in order.chunk_by(|&a, &b| writes[a].revision == writes[b].revision) {
        // All of one revision start from the sets before it, since they exclude each other.
        let begun: Vec<(usize, i64)> = same
            .iter()
            .map(|&n| {
                let own = rank(writes[n].invoked);
                (own, sizes.largest(own) + 1)
            })
            .collect();
        let mut ranges: Vec<(usize, usize)> = same
            .iter()
            .map(|&n| (rank(writes[n].invoked) + 1, rank(writes[n].completed)))
            .filter(|(from, to)| from <= to)
            .collect();
        ranges.sort_unstable();
        let mut grown = 0;
        for (from, to) in ranges {
            let from = from.max(grown + 1);
            if from <= to {
                sizes.grow(from, to);
                grown = to;
            }
        }
        for (own, size) in begun {
            sizes.raise(own, size);
        }
    }
    let kept = sizes.largest(invocations.len());
    (writes.len() as u64 - kept.cast_unsigned(), Some(example))
}

/// Two writes that exclude each other, the one with the smaller revision last; `None` if there are
/// none.
fn exclusive_pair(writes: &[Acknowledged], order: &[usize]) -> Option<(usize, usize)> {
    let mut began_last: Option<usize> = None;
    for (position, &n) in order.iter().enumerate() {
        let before = position.checked_sub(1).map(|before| order[before]);
        if let Some(same) = before.filter(|&m| writes[m].revision == writes[n].revision) {
            return Some((same, n));
        }
        if let Some(below) = began_last.filter(|&m| writes[m].invoked > writes[n].completed) {
            return Some((n, below));
        }
        if began_last.is_none_or(|m| writes[m].invoked < writes[n].invoked) {
            began_last = Some(n);
        }
    }
    None
}

/// Sizes of sets by the rank of the latest invocation in them: a tree of maxima to which ranges can
/// be added.
struct Sizes {
    leaves: usize,
    largest: Vec<i64>,
    added: Vec<i64>,
}

/// No set.
const NONE: i64 = i64::MIN / 2;

impl Sizes {
    /// The empty set alone, at rank 0.
    fn new(ranks: usize) -> Self {
        let leaves = ranks.next_power_of_two();
        let mut sizes = Self {
            leaves,
            largest: vec![NONE; 2 * leaves],
            added: vec![0; 2 * leaves],
        };
        sizes.raise(0, 0);
        sizes
    }

    /// The largest set whose rank is not above this one.
    fn largest(&self, rank: usize) -> i64 {
        self.largest_in(1, (0, self.leaves - 1), rank)
    }

    fn largest_in(&self, node: usize, (from, to): (usize, usize), rank: usize) -> i64 {
        if to <= rank {
            return self.largest[node];
        }
        if from > rank {
            return NONE;
        }
        let middle = usize::midpoint(from, to);
        let left = self.largest_in(2 * node, (from, middle), rank);
        let right = self.largest_in(2 * node + 1, (middle + 1, to), rank);
        self.added[node] + left.max(right)
    }

    /// Sets of these ranks have one write more.
    fn grow(&mut self, first: usize, last: usize) {
        self.grow_in(1, (0, self.leaves - 1), (first, last));
    }

    fn grow_in(&mut self, node: usize, (from, to): (usize, usize), range: (usize, usize)) {
        if range.0 <= from && to <= range.1 {
            self.largest[node] += 1;
            self.added[node] += 1;
        } else if range.0 <= to && from <= range.1 {
            let middle = usize::midpoint(from, to);
            self.grow_in(2 * node, (from, middle), range);
            self.grow_in(2 * node + 1, (middle + 1, to), range);
            self.gather(node);
        }
    }

    /// There is a set of this size at a rank.
    fn raise(&mut self, rank: usize, size: i64) {
        let leaf = self.leaves + rank;
        let mut above = 0;
        let mut node = leaf;
        while node > 1 {
            node /= 2;
            above += self.added[node];
        }
        self.largest[leaf] = self.largest[leaf].max(size - above);
        let mut node = leaf;
        while node > 1 {
            node /= 2;
            self.gather(node);
        }
    }

    fn gather(&mut self, node: usize) {
        let below = self.largest[2 * node].max(self.largest[2 * node + 1]);
        self.largest[node] = below + self.added[node];
    }
}
