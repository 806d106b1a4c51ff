//! What a voter concludes from the answers of a survey: whether the group is led, and if not, whether
//! this voter is the one to stand for election.
//!
//! A vote for a leader is a lease that others must respect, unless it is *void*:
//!
//! - a majority of the voters holds the leader for dead, or
//! - the leader itself says that it does not lead in that term, or that it stays out of the cluster.
//!
//! When every lease that the answers tell of is void, the voter with the longest log stands, and the
//! others wait for their turn. All voters that have the same answers find the same order.

use std::collections::BTreeMap;

use crate::raft::{GroupId, NodeId, Standing};

/// What a survey says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This node leads, with a quorum, or says so.
    Led(NodeId),
    /// Too few voters answered.
    NoQuorum,
    /// Voters follow this node, and nothing proves that it does not lead.
    Held(NodeId),
    /// A voter cast its vote for a candidate a moment ago.
    ElectionUnderWay,
    /// The votes would go to others, whose logs are longer.
    Behind,
    /// This voter can win, after as many others have had their turn.
    Stand {
        /// Voters that are better placed.
        rank: usize,
    },
}

/// The answers to a survey of one group, that of this voter among them.
pub(super) struct Answers<'a> {
    pub(super) group: GroupId,
    pub(super) me: NodeId,
    pub(super) voters: &'a [NodeId],
    /// Who should lead first, by placement; empty where placement does not know.
    pub(super) order: &'a [NodeId],
    pub(super) standings: &'a BTreeMap<NodeId, Standing>,
    /// Whether a leadership binds nobody any more: that of a node in a term.
    pub(super) is_dead: &'a dyn Fn(NodeId, u64) -> bool,
    /// Whether a node is so sick that others should lead.
    pub(super) is_sick: &'a dyn Fn(NodeId) -> bool,
}

impl Answers<'_> {
    fn of_voters(&self) -> impl Iterator<Item = (NodeId, &Standing)> {
        let answered = self.standings.iter().map(|(node, s)| (*node, s));
        answered.filter(|(node, _)| self.voters.contains(node))
    }

    /// Whether the lease that a vote for `leader` in `term` stands for binds nobody.
    fn is_void(&self, leader: NodeId, term: u64) -> Result<bool, Verdict> {
        if (self.is_dead)(leader, term) {
            return Ok(true);
        }
        let Some(own) = self.standings.get(&leader) else {
            return Ok(false);
        };
        // Its answer may be older than its victory.
        if own.settling && own.ballot.term == term {
            return Err(Verdict::ElectionUnderWay);
        }
        Ok(!own.leads && own.ballot.term >= term)
    }

    pub(super) fn verdict(&self) -> Verdict {
        let majority = self.voters.len() / 2 + 1;
        let Some(mine) = self.standings.get(&self.me) else {
            return Verdict::NoQuorum;
        };
        if self.of_voters().count() < majority {
            return Verdict::NoQuorum;
        }
        for (node, standing) in self.of_voters() {
            if standing.leads && !(self.is_dead)(node, standing.ballot.term) {
                return Verdict::Led(node);
            }
        }
        for (_, standing) in self.of_voters() {
            let ballot = standing.ballot;
            if ballot.committed {
                match self.is_void(ballot.node, ballot.term) {
                    Ok(true) => {}
                    Ok(false) => return Verdict::Held(ballot.node),
                    Err(verdict) => return verdict,
                }
            }
        }
        if self.of_voters().any(|(_, standing)| standing.settling) {
            return Verdict::ElectionUnderWay;
        }
        let votes = self.of_voters().filter(|(_, s)| s.log_end <= mine.log_end);
        if votes.count() < majority {
            return Verdict::Behind;
        }
        // The longest log first; then whoever knows the latest term, for its campaign is refused by none;
        // then the order of placement; then each group another voter, so that all lead some and those of a
        // dead node spread.
        let place = |node: NodeId, standing: &Standing| {
            use std::cmp::Reverse;
            (
                (self.is_sick)(node),
                Reverse(standing.log_end),
                Reverse(standing.ballot.term),
                self.order
                    .iter()
                    .position(|n| *n == node)
                    .unwrap_or(usize::MAX),
                lot(self.group, node),
                node,
            )
        };
        let mine = place(self.me, mine);
        let better = self.of_voters().filter(|(node, standing)| {
            let dead = (self.is_dead)(*node, standing.ballot.term);
            *node != self.me && !dead && place(*node, standing) < mine
        });
        Verdict::Stand {
            rank: better.count(),
        }
    }
}

/// What all voters draw alike for a voter of a group (the mixer of SplitMix64).
fn lot(group: GroupId, node: NodeId) -> u64 {
    let mix = |z: u64| {
        let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(group) ^ node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Ballot, LogEnd};

    /// A group in which the lower ids draw the lower lots.
    const GROUP: GroupId = 101;

    const LEADER: NodeId = 3;

    /// A follower of [`LEADER`] in term 5.
    fn follower(index: u64) -> Standing {
        Standing {
            ballot: Ballot {
                term: 5,
                node: LEADER,
                committed: true,
            },
            log_end: LogEnd { term: 5, index },
            leads: false,
            settling: false,
        }
    }

    fn voted_for(node: NodeId, term: u64, index: u64) -> Standing {
        Standing {
            ballot: Ballot {
                term,
                node,
                committed: false,
            },
            ..follower(index)
        }
    }

    fn verdict_with(
        me: NodeId,
        voters: &[NodeId],
        standings: &[(NodeId, Standing)],
        dead: &[NodeId],
        sick: &[NodeId],
    ) -> Verdict {
        let answers = Answers {
            group: GROUP,
            me,
            voters,
            order: &[],
            standings: &standings.iter().copied().collect(),
            is_dead: &|node, _| dead.contains(&node),
            is_sick: &|node| sick.contains(&node),
        };
        answers.verdict()
    }

    fn verdict(me: NodeId, standings: &[(NodeId, Standing)], dead: &[NodeId]) -> Verdict {
        verdict_with(me, &[1, 2, 3], standings, dead, &[])
    }

    #[test]
    fn the_longest_log_stands_first_and_ties_are_drawn() {
        let answers = [(1, follower(7)), (2, follower(9))];
        assert_eq!(verdict(2, &answers, &[LEADER]), Verdict::Stand { rank: 0 });
        assert_eq!(verdict(1, &answers, &[LEADER]), Verdict::Behind);
        let answers = [(1, follower(9)), (2, follower(9))];
        assert_eq!(verdict(1, &answers, &[LEADER]), Verdict::Stand { rank: 0 });
        assert_eq!(verdict(2, &answers, &[LEADER]), Verdict::Stand { rank: 1 });
    }

    #[test]
    fn among_equal_logs_the_order_of_placement_decides_and_a_longer_log_goes_before_it() {
        let rank = |me: NodeId, answers: &[(NodeId, Standing)]| {
            let answers = Answers {
                group: GROUP,
                me,
                voters: &[1, 2, 3, 4],
                order: &[4, 2, 1, 3],
                standings: &answers.iter().copied().collect(),
                is_dead: &|node, _| node == LEADER,
                is_sick: &|_| false,
            };
            answers.verdict()
        };
        let equal = [(1, follower(9)), (2, follower(9)), (4, follower(9))];
        for (expected, node) in [4, 2, 1].into_iter().enumerate() {
            assert_eq!(rank(node, &equal), Verdict::Stand { rank: expected });
        }
        let longer = [(1, follower(10)), (2, follower(9)), (4, follower(9))];
        assert_eq!(rank(1, &longer), Verdict::Stand { rank: 0 });
    }

    #[test]
    fn groups_whose_logs_are_equal_are_shared_by_the_voters() {
        let answers: Vec<_> = (1..=5).map(|node| (node, follower(9))).collect();
        let voters: Vec<NodeId> = (1..=5).collect();
        let mut firsts = [0_u32; 6];
        for group in 1..=1_000 {
            let rank = |me: NodeId| {
                let answers = Answers {
                    group,
                    me,
                    voters: &voters,
                    order: &[],
                    standings: &answers.iter().copied().collect(),
                    is_dead: &|node, _| node == LEADER,
                    is_sick: &|_| false,
                };
                answers.verdict()
            };
            let first = voters.iter().filter(|node| **node != LEADER);
            let first = first.filter(|node| rank(**node) == Verdict::Stand { rank: 0 });
            let first: Vec<_> = first.collect();
            assert_eq!(first.len(), 1, "group {group}");
            firsts[usize::try_from(*first[0]).unwrap()] += 1;
        }
        for node in [1, 2, 4, 5] {
            assert!((200..300).contains(&firsts[node]), "{firsts:?}");
        }
    }

    #[test]
    fn in_five_a_log_that_a_majority_reaches_can_win_after_the_longer_ones() {
        let answers = [
            (1, follower(7)),
            (2, follower(8)),
            (4, follower(9)),
            (5, follower(7)),
        ];
        let of = |me| verdict_with(me, &[1, 2, 3, 4, 5], &answers, &[LEADER], &[]);
        assert_eq!(of(4), Verdict::Stand { rank: 0 });
        assert_eq!(of(2), Verdict::Stand { rank: 1 });
        assert_eq!(of(1), Verdict::Behind, "two votes of five");
    }

    #[test]
    fn a_leader_whom_no_majority_holds_for_dead_is_let_be() {
        let answers = [(1, follower(7)), (2, follower(7))];
        assert_eq!(verdict(1, &answers, &[]), Verdict::Held(LEADER));
        let leads = Standing {
            leads: true,
            ..follower(7)
        };
        let answers = [(1, follower(7)), (LEADER, leads)];
        assert_eq!(verdict(1, &answers, &[]), Verdict::Led(LEADER));
        // It hangs or its disk does, and it answers all the same.
        let answers = [(1, follower(7)), (2, follower(7)), (LEADER, leads)];
        assert_eq!(verdict(1, &answers, &[LEADER]), Verdict::Stand { rank: 0 });
    }

    #[test]
    fn a_leader_that_says_itself_that_it_does_not_lead_is_none() {
        let answers = [(1, follower(7)), (LEADER, follower(7))];
        assert_eq!(verdict(1, &answers, &[]), Verdict::Stand { rank: 0 });
        assert_eq!(verdict(LEADER, &answers, &[]), Verdict::Stand { rank: 1 });
        // Its answer is of an earlier term than the vote for it.
        let before = [(1, follower(7)), (LEADER, voted_for(1, 4, 7))];
        assert_eq!(verdict(1, &before, &[]), Verdict::Held(LEADER));
        // It may have won since it answered.
        let candidate = Standing {
            settling: true,
            ..voted_for(LEADER, 5, 7)
        };
        let answers = [(1, follower(7)), (LEADER, candidate)];
        assert_eq!(verdict(1, &answers, &[]), Verdict::ElectionUnderWay);
    }

    #[test]
    fn nobody_stands_without_a_majority_of_answers_or_amid_an_election() {
        assert_eq!(
            verdict(1, &[(1, follower(7))], &[LEADER]),
            Verdict::NoQuorum
        );
        let learner = [(1, follower(7)), (8, follower(7))];
        assert_eq!(verdict(1, &learner, &[LEADER]), Verdict::NoQuorum);
        let voting = Standing {
            settling: true,
            ..voted_for(2, 6, 7)
        };
        let answers = [(1, follower(7)), (2, voting)];
        assert_eq!(verdict(1, &answers, &[LEADER]), Verdict::ElectionUnderWay);
        let settled = [(1, follower(7)), (2, voted_for(2, 6, 7))];
        assert_eq!(
            verdict(1, &settled, &[LEADER]),
            Verdict::Stand { rank: 1 },
            "it knows the later term"
        );
        assert_eq!(verdict(2, &settled, &[LEADER]), Verdict::Stand { rank: 0 });
    }

    #[test]
    fn one_alone_stands_at_once() {
        let answers = [(1, voted_for(1, 0, 0))];
        assert_eq!(
            verdict_with(1, &[1], &answers, &[], &[]),
            Verdict::Stand { rank: 0 }
        );
    }

    #[test]
    fn whose_disk_hangs_stands_last() {
        let answers = [(1, follower(9)), (2, follower(9))];
        let of = |me, sick: &[NodeId]| verdict_with(me, &[1, 2, 3], &answers, &[LEADER], sick);
        assert_eq!(of(1, &[1]), Verdict::Stand { rank: 1 });
        assert_eq!(of(2, &[1]), Verdict::Stand { rank: 0 });
        assert_eq!(of(1, &[1, 2]), Verdict::Stand { rank: 0 }, "as all are");
    }
}
