//! What the nodes see of each other, as far as this node knows it at a moment.
//!
//! A suspicion of one node proves little: its own link may be cut. So every node tells its peers whom
//! it suspects, and [`Views::is_suspected`] asks for a majority of the voters.
//!
//! Invariants of a published [`Views`]:
//!
//! - It holds the word of this node, and of those that this node hears now: who falls silent has no say.
//! - Two that are equal say the same to whoever acts on them; only ages grow in between.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::raft::NodeId;

/// What speaks against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// No sign of life for longer than the round trip, its variance and the delays of both ends explain.
    Silent,
    /// Its process does not exist any more: its connections were closed and a new one is refused, or
    /// it said goodbye.
    Gone,
}

/// That a node holds another for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// What speaks against it.
    pub evidence: Evidence,
    /// The start of the node that is meant; 0 if whoever suspects it has never met it.
    pub session: u64,
    /// Since when, by the clock of this node.
    pub since: Instant,
}

impl Suspicion {
    /// Whether both are of one start of the subject, as far as can be told.
    fn means(&self, other: &Self) -> bool {
        self.session == other.session || self.session == 0 || other.session == 0
    }
}

/// A part of a node that does not get on, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Which one.
    pub part: super::Part,
    /// Since when, by the clock of this node.
    pub since: Instant,
}

/// The word of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word {
    /// Its start.
    session: u64,
    suspicions: BTreeMap<NodeId, Suspicion>,
    stall: Option<Stall>,
}

/// Who suspects whom, and who is sick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Views {
    me: NodeId,
    words: BTreeMap<NodeId, Word>,
}

impl Views {
    /// What `me` knows who suspects nobody and has heard of nobody.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            words: BTreeMap::from([(me, Word::default())]),
        }
    }

    /// With the word of `observer`, that this node hears, in its start `session`: no suspicions and no
    /// stall yet.
    #[must_use]
    pub fn with_word(mut self, observer: NodeId, session: u64) -> Self {
        self.words.entry(observer).or_default().session = session;
        self
    }

    /// With the word of `observer` that it suspects `subject`.
    #[must_use]
    pub fn with_suspicion(
        mut self,
        observer: NodeId,
        subject: NodeId,
        suspicion: Suspicion,
    ) -> Self {
        let word = self.words.entry(observer).or_default();
        word.suspicions.insert(subject, suspicion);
        self
    }

    /// With the word of `node` that a part of it does not get on.
    #[must_use]
    pub fn with_stall(mut self, node: NodeId, stall: Stall) -> Self {
        self.words.entry(node).or_default().stall = Some(stall);
        self
    }

    /// The node whose knowledge this is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Whether a majority of `voters`, this node among them, holds `subject` for gone or silent.
    ///
    /// A voter that holds another start of the subject for dead than this node does not count: one of
    /// the two has not heard yet that the subject restarted. With a joint configuration, ask for each of
    /// its parts.
    pub fn is_suspected(&self, subject: NodeId, voters: impl IntoIterator<Item = NodeId>) -> bool {
        let Some(mine) = self.suspicion(self.me, subject) else {
            return false;
        };
        let (mut count, mut agree, mut may_vote) = (0, 0, false);
        for voter in voters {
            count += 1;
            may_vote |= voter == self.me;
            let theirs = self.suspicion(voter, subject);
            let agrees = voter != subject && theirs.is_some_and(|theirs| theirs.means(mine));
            agree += usize::from(agrees);
        }
        may_vote && agree > count / 2
    }

    /// Whether and why `observer` suspects `subject`. Nothing if `observer` is not heard.
    pub fn suspicion(&self, observer: NodeId, subject: NodeId) -> Option<&Suspicion> {
        self.words.get(&observer)?.suspicions.get(&subject)
    }

    /// Whom this node suspects itself, and why.
    pub fn suspicions(&self) -> impl Iterator<Item = (NodeId, &Suspicion)> {
        let mine = self.words.get(&self.me);
        mine.into_iter()
            .flat_map(|word| word.suspicions.iter().map(|(id, s)| (*id, s)))
    }

    /// How long a part of `node` has not got on, by the node's own word; the part that is worst off.
    /// Nothing below [`STALL_TOLD_MIN`](crate::limits::STALL_TOLD_MIN), or if the node is not heard.
    pub fn stall(&self, node: NodeId) -> Option<Duration> {
        Some(self.stalled(node)?.since.elapsed())
    }

    /// The same with the part, and since when.
    pub fn stalled(&self, node: NodeId) -> Option<Stall> {
        self.words.get(&node)?.stall
    }

    /// Whether this node hears `node` now.
    #[cfg(test)]
    pub fn hears(&self, node: NodeId) -> bool {
        self.words.contains_key(&node)
    }

    /// The nodes that this node hears now, itself among them.
    pub fn heard(&self) -> impl Iterator<Item = NodeId> {
        self.words.keys().copied()
    }

    /// The start in which `node` is heard: a random number that differs from one start of a process to
    /// the next. A node that is heard in another start than before leads nothing of what it led.
    pub fn session(&self, node: NodeId) -> Option<u64> {
        Some(self.words.get(&node)?.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(session: u64) -> Suspicion {
        Suspicion {
            evidence: Evidence::Gone,
            session,
            since: Instant::now(),
        }
    }

    #[test]
    fn a_majority_of_the_voters_with_this_node_among_them_suspects() {
        let one = Views::new(1).with_suspicion(1, 3, gone(7));
        assert!(!one.is_suspected(3, [1, 2, 3]), "this node alone");
        let both = one.clone().with_suspicion(2, 3, gone(7));
        assert!(both.is_suspected(3, [1, 2, 3]));
        assert!(!both.is_suspected(3, [1, 2, 3, 4, 5]), "two of five");
        assert!(!both.is_suspected(3, [2, 3, 4]), "this node has no vote");
        assert!(!both.is_suspected(2, [1, 2, 3]));
        let others = Views::new(1)
            .with_suspicion(2, 3, gone(7))
            .with_suspicion(4, 3, gone(7));
        assert!(!others.is_suspected(3, [1, 2, 3, 4]), "not this node");
    }

    #[test]
    fn the_subject_itself_has_no_say_and_counts_as_a_voter() {
        let views = Views::new(1)
            .with_suspicion(1, 2, gone(7))
            .with_suspicion(2, 2, gone(7));
        assert!(!views.is_suspected(2, [1, 2]));
        assert!(!views.is_suspected(2, [1, 2, 3]));
    }

    #[test]
    fn who_means_another_start_does_not_count_and_who_never_met_the_node_does() {
        let mine = Views::new(1).with_suspicion(1, 3, gone(7));
        let other = mine.clone().with_suspicion(2, 3, gone(6));
        assert!(!other.is_suspected(3, [1, 2, 3]));
        let stranger = mine.with_suspicion(2, 3, gone(0));
        assert!(stranger.is_suspected(3, [1, 2, 3]));
        let never_met = Views::new(1)
            .with_suspicion(1, 3, gone(0))
            .with_suspicion(2, 3, gone(6));
        assert!(never_met.is_suspected(3, [1, 2, 3]));
    }

    #[test]
    fn stalls_are_told_of_those_that_are_heard() {
        let since = Instant::now() - Duration::from_secs(3);
        let stall = Stall {
            part: super::super::Part::LogSync,
            since,
        };
        let views = Views::new(1).with_word(2, 9).with_stall(2, stall);
        assert!(views.stall(2).unwrap() >= Duration::from_secs(3));
        assert_eq!((views.session(2), views.hears(2)), (Some(9), true));
        assert_eq!((views.stall(1), views.stall(3)), (None, None));
        assert!(!views.hears(3));
    }
}
