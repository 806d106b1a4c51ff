//! How far the memory of other nodes had come, as they said themselves.
//!
//! A vote that was granted and an entry that was acknowledged are promises. A node that comes back
//! and knows less than it had promised has lost memory: an old copy of its directory, a log cut at
//! its end. Who received the promise can tell, so it keeps it:
//!
//! ```text
//!   leader    ── append ──▶ follower     the leader keeps what the follower acknowledged
//!             ◀── matched ──
//!   leader    ── append + its own flushed index ──▶ the follower keeps that of the leader
//!   candidate ◀── vote granted ──                   the candidate keeps that of the voter
//! ```
//!
//! A [`Reach`] is the term of the vote that a node has on disk, then the last index of its log.
//! It never falls while the node keeps its memory: votes only rise, and within the term of one
//! leader a follower's log, once it matched up to an index, never ends before it again, because
//! only a leader of another term could cut it. A leader cuts nothing in its own term.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    state_machine::decode_applied,
    type_config::{GroupId, NodeId},
};
use crate::storage::{log::GroupLog, state::StateStore};

/// How far a node's memory of a group goes. Ordered by term, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reach {
    /// Term of the last vote.
    pub term: u64,
    /// Index up to which there are entries.
    pub index: u64,
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "term {}, index {}", self.term, self.index)
    }
}

/// How far the memory on this node's disk goes. A state that was loaded from a snapshot stands for
/// the entries up to it, and for the term of the last: what the log held of an earlier term behind
/// that was not committed, and is cut off.
pub fn reach_of(log: &GroupLog, store: &StateStore) -> std::io::Result<Reach> {
    let applied = match store.applied_record() {
        Some(record) => decode_applied(&record)?.applied,
        None => None,
    };
    let (applied_term, applied) = applied.map_or((0, 0), |id| (id.leader_id.term, id.index));
    let state = log.state();
    let vote = state
        .vote
        .map(|bytes| super::codec::vote_from_bytes(&bytes));
    Ok(Reach {
        term: vote
            .transpose()?
            .map_or(0, |vote| vote.leader_id.term)
            .max(applied_term),
        index: state.last.map_or(0, |last| last.index).max(applied),
    })
}

/// A follower's log conflicts at an index that the follower had confirmed to the same leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The follower.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
    /// What it had confirmed.
    pub promised: Reach,
    /// Where its log does not match any more.
    pub conflict: u64,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            node,
            group,
            promised,
            conflict,
        } = self;
        write!(
            f,
            "the log of node {node} lost entries of group {group}: it had confirmed {promised}, and \
             does not match at index {conflict}"
        )
    }
}

/// Whether the node of this log has promised nothing to any other in this group: it has voted for
/// nobody but itself, won no election, and knows of nothing that is committed.
pub fn has_promised_nothing(log: &GroupLog, me: NodeId) -> Result<bool, super::DecodeError> {
    let state = log.state();
    let vote = state
        .vote
        .map(|bytes| super::codec::vote_from_bytes(&bytes));
    let own = vote.transpose()?.is_none_or(|vote| {
        vote.leader_id.term == 0 || (vote.leader_id.voted_for == me && !vote.committed)
    });
    // The first membership is the only entry that a node writes by itself.
    let empty = state.last.is_none_or(|last| last.term == 0);
    Ok(own && empty && state.purged.is_none())
}

/// What other nodes have promised to this one, by node and group.
///
/// - A promise that was seen to be broken is known as such until the node has made good on it.
#[derive(Debug, Default)]
pub struct Promises {
    kept: Mutex<BTreeMap<(NodeId, GroupId), Reach>>,
    broken: Mutex<BTreeMap<(NodeId, GroupId), Broken>>,
}

impl Promises {
    /// Keeps a promise. An earlier one of more stays.
    pub fn keep(&self, node: NodeId, group: GroupId, reach: Reach) {
        let mut kept = self.kept.lock();
        let known = kept.entry((node, group)).or_default();
        if reach < *known {
            return;
        }
        *known = reach;
        let mut broken = self.broken.lock();
        if broken.is_empty() {
            return;
        }
        broken.retain(|at, broken| *at != (node, group) || reach.index < broken.promised.index);
    }

    /// Notes that a follower's log conflicts at `index` with that of the leader of `term`, who had
    /// its confirmation up to there. Raises the alarm the first time.
    pub fn conflict(&self, node: NodeId, group: GroupId, term: u64, index: u64) {
        let Some(promised) = self.get(node, group) else {
            return;
        };
        if promised.term != term || promised.index < index {
            return;
        }
        let found = Broken {
            node,
            group,
            promised,
            conflict: index,
        };
        if self.broken.lock().insert((node, group), found).is_none() {
            tracing::error!(
                "{found}. It must not vote again, and what it acknowledged may be held by fewer \
                 nodes than is needed; stop it, and put its data directory back as it last was"
            );
        }
    }

    /// Promises in a group that were broken and not made good on.
    pub fn broken(&self, group: GroupId) -> Vec<Broken> {
        let broken = self.broken.lock();
        let of_group = broken.values().filter(|broken| broken.group == group);
        of_group.copied().collect()
    }

    /// Forgets a group that is no more.
    pub fn forget(&self, group: GroupId) {
        self.kept.lock().retain(|(_, of), _| *of != group);
        self.broken.lock().retain(|(_, of), _| *of != group);
    }

    /// What one node has promised in one group.
    pub fn get(&self, node: NodeId, group: GroupId) -> Option<Reach> {
        self.kept.lock().get(&(node, group)).copied()
    }

    /// What one node has promised, by group.
    pub fn of(&self, node: NodeId) -> Vec<(GroupId, Reach)> {
        let kept = self.kept.lock();
        kept.range((node, GroupId::MIN)..=(node, GroupId::MAX))
            .map(|((_, group), reach)| (*group, *reach))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_never_falls() {
        let promises = Promises::default();
        let at = |term, index| Reach { term, index };
        promises.keep(2, 1, at(3, 10));
        promises.keep(2, 1, at(3, 9));
        promises.keep(2, 1, at(2, 99));
        promises.keep(3, 1, at(9, 9));
        assert_eq!(promises.of(2), [(1, at(3, 10))]);
        promises.keep(2, 1, at(4, 1));
        promises.keep(2, 2, at(1, 1));
        assert_eq!(promises.of(2), [(1, at(4, 1)), (2, at(1, 1))]);
        assert_eq!(promises.get(3, 1), Some(at(9, 9)));
        assert_eq!(promises.of(4), []);
    }

    #[test]
    fn a_conflict_below_what_was_confirmed_in_the_term_is_known_until_it_is_made_good() {
        let promises = Promises::default();
        let at = |term, index| Reach { term, index };
        promises.keep(2, 1, at(3, 10));
        promises.conflict(2, 1, 3, 11);
        promises.conflict(2, 1, 4, 5);
        promises.conflict(3, 1, 3, 5);
        assert_eq!(
            promises.broken(1),
            [],
            "none of these was confirmed in the term"
        );
        promises.conflict(2, 1, 3, 10);
        let broken = promises.broken(1);
        assert_eq!(
            (broken.len(), broken[0].node, broken[0].conflict),
            (1, 2, 10)
        );
        assert_eq!(promises.broken(2), []);
        // It is not by a smaller promise that it is made good.
        promises.keep(2, 1, at(4, 9));
        assert_eq!(promises.broken(1).len(), 1);
        promises.keep(2, 1, at(4, 10));
        assert_eq!(promises.broken(1), []);
    }
}
