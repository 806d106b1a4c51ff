//! Linearizable reads by ReadIndex (Raft thesis, section 6.4), served where they arrive.

use std::time::{Duration, Instant};

use holdfast_proto::peer::{self, forward, forward_error::Kind, forward_reply};

use super::{Group, GroupError, chase::Asked, left, rounds::JoinError};
use crate::{
    limits,
    planted::planted,
    raft::{NodeId, ReadIndexError, TransportError},
};

/// Why a leader gave no read index.
pub(crate) enum NoIndex {
    /// Ask again, the node named if one is.
    Ask(Option<NodeId>),
    /// A queue on the way is full.
    Overloaded,
}

/// What this node knows of the leader's quorum. A leader that gives a read index has just heard from one,
/// and one that is asked says when it last did.
///
/// - `in_vain_since` is older than every question that was asked after the last index came.
#[derive(Debug, Default)]
pub(super) struct Confirmation {
    /// The latest time at which a quorum is known to have followed the leader.
    given: Option<Instant>,
    /// Since when every question of a read has been in vain.
    in_vain_since: Option<Instant>,
    /// Since when leaders are asked without any read.
    looked_at_since: Option<Instant>,
    /// An index that was committed and is not applied here yet, and since when that is known.
    behind: Option<(u64, Instant)>,
}

impl Confirmation {
    fn asked(&mut self, at: Instant) {
        self.in_vain_since.get_or_insert(at);
    }

    fn given(&mut self, asked: Instant) {
        self.given = self.given.max(Some(asked));
        self.in_vain_since = None;
    }

    fn led(&mut self, acked: Instant, committed: u64, applied: u64) {
        self.given = self.given.max(Some(acked));
        if self.in_vain_since.is_some_and(|since| since <= acked) {
            self.in_vain_since = None;
        }
        if self.behind.is_none_or(|(index, _)| index <= applied) {
            self.behind = (committed > applied).then(|| (committed, Instant::now()));
        }
    }

    /// For how long nothing has shown a quorum, as far as anybody asked. A proof that no read asked for is
    /// as old as `proof_age_max` when all is well.
    fn in_vain(&self, proof_age_max: Duration) -> Duration {
        let asked = self.in_vain_since.map(|at| at.elapsed());
        let looks = self
            .looked_at_since
            .max(self.looked_at_since.and(self.given));
        let looked = looks.map(|at| at.elapsed().saturating_sub(proof_age_max));
        asked.max(looked).unwrap_or_default()
    }
}

impl Group {
    /// Whether a leader showed not longer than `age_max` ago that a quorum follows it, and nothing has
    /// shown since that it is lost.
    pub fn led_within(&self, age_max: Duration) -> bool {
        let given = self.confirmation.lock().given;
        given.is_some_and(|at| at.elapsed() <= age_max) && !self.leader_is_lost()
    }

    /// Whether nothing has shown that a leader has a quorum for longer than electing one takes.
    pub fn leader_is_lost(&self) -> bool {
        let in_vain = self.confirmation.lock().in_vain(self.proof_age_max);
        in_vain > self.leader_silence_max
            || (self.seems_leaderless()
                && (in_vain > limits::LEADER_LOSS_SHOWN_AFTER || self.sees_no_quorum()))
    }

    /// Whether this node holds so many voters for dead that those it hears are no quorum.
    fn sees_no_quorum(&self) -> bool {
        let voters = self.status().voters;
        let views = self.views.borrow();
        let heard = |node: &&NodeId| views.suspicion(self.node_id, **node).is_none();
        voters.iter().filter(heard).count() <= voters.len() / 2
    }

    /// Whether something else than reads in vain speaks against the leader.
    fn seems_leaderless(&self) -> bool {
        let leader = self.leadership().borrow().leader;
        leader.is_none_or(|leader| match self.leads(leader) {
            true => self.is_powerless(),
            false => self
                .views
                .borrow()
                .suspicion(self.node_id, leader)
                .is_some(),
        })
    }

    /// Waits until the leader is lost. A leader that was lost has a moment to be found again.
    pub async fn leader_lost(&self) {
        loop {
            tokio::time::sleep(limits::LEADER_LOSS_LOOK_EVERY).await;
            if self.leader_is_lost() {
                return;
            }
        }
    }

    /// Leaders are asked now whether a quorum follows them, and will be again.
    pub fn looked_at(&self) {
        let mut confirmation = self.confirmation.lock();
        confirmation
            .looked_at_since
            .get_or_insert_with(Instant::now);
    }

    /// A node says that it leads, that a quorum followed it at `acked`, and what is committed.
    pub fn led(&self, by: NodeId, acked: Instant, committed: u64) {
        // Who has not heard of a new leader goes on with what it knows.
        if self.leadership().borrow().leader == Some(by) {
            let applied = self.raft.shared().applied_index().unwrap_or(0);
            self.confirmation.lock().led(acked, committed, applied);
        }
    }

    /// The leader, unless it is known that no quorum follows it.
    pub fn proven_leader(&self) -> Option<NodeId> {
        let leader = self.leadership().borrow().leader;
        leader.filter(|_| !self.leader_is_lost())
    }

    /// The leader, if a quorum follows it and this node has applied what was committed: then a
    /// linearizable read is served here.
    pub fn serving_leader(&self) -> Option<NodeId> {
        let leader = self.leadership().borrow().leader?;
        if self.leader_is_lost() {
            return None;
        }
        let confirmation = self.confirmation.lock();
        let late = |at: Instant| at.elapsed() > self.leader_silence_max;
        let serves = confirmation.given.is_some()
            && !confirmation.behind.is_some_and(|(_, since)| late(since));
        serves.then_some(leader)
    }

    /// Waits until local state holds everything that was acknowledged before this call.
    ///
    /// A queue on the way that is full because no leader answers is the lack of a leader, not of
    /// room: whoever asks later, or elsewhere, may well be served.
    pub async fn linearizable(&self, deadline: Instant) -> Result<(), GroupError> {
        if let Some(why) = self.leadership().borrow().stopped.clone() {
            return Err(GroupError::Stopped(why));
        }
        let done = match tokio::time::timeout(left(deadline), self.read_rounds.join()).await {
            Ok(Ok(done)) => done,
            Ok(Err(JoinError::Full)) => Err(GroupError::Overloaded),
            Ok(Err(JoinError::Ended)) => Err(GroupError::Stopped("its reads have ended".into())),
            Err(_) => Err(GroupError::TimedOut),
        };
        match done {
            Err(GroupError::Overloaded) if self.leader_is_lost() => Err(GroupError::NoLeader),
            done => done,
        }
    }

    /// One round of reads: an index from the leader, then that index applied here. It goes on
    /// until it succeeds, finds a queue on its way full, or has gone on for longer than any of
    /// its callers waits.
    pub(super) async fn read_round(&self) -> Result<(), GroupError> {
        let deadline = Instant::now() + limits::READ_ROUND_MAX;
        let mut chase = self.chase(deadline);
        loop {
            let asked = Instant::now();
            self.confirmation.lock().asked(asked);
            let ask = |leader| {
                let answer = self.ask_index(leader);
                #[cfg(feature = "planted-bugs")]
                let answer = crate::planted::reads::index_or_the_last(self.id(), answer);
                answer
            };
            match chase.ask(ask).await {
                Asked::Answered(Ok(index)) => {
                    planted!(ReadIndexNotAwaited => return Ok(()));
                    self.confirmation.lock().given(asked);
                    let mut published = self.raft.shared().watch();
                    let applied = published.wait_for(|p| p.index >= Some(index));
                    return match tokio::time::timeout(left(deadline), applied).await {
                        // The sender lives as long as the group's state.
                        Ok(_) => Ok(()),
                        Err(_) => Err(GroupError::NoLeader),
                    };
                }
                Asked::Answered(Err(NoIndex::Overloaded)) => return Err(GroupError::Overloaded),
                Asked::Answered(Err(NoIndex::Ask(other))) => chase.hint(other),
                Asked::Deposed | Asked::NoLeader => {}
                Asked::OutOfTime => return Err(GroupError::NoLeader),
                Asked::Stopped(why) => return Err(GroupError::Stopped(why)),
            }
            if !chase.again().await {
                return Err(GroupError::NoLeader);
            }
        }
    }

    /// The read index of the leader.
    async fn ask_index(&self, leader: NodeId) -> Result<u64, NoIndex> {
        if self.leads(leader) {
            return match self.leader_index().await {
                Ok(index) => Ok(index),
                Err(ReadIndexError::NotLeader(other)) => {
                    Err(NoIndex::Ask(other.filter(|n| !self.leads(*n))))
                }
                Err(ReadIndexError::Overloaded) => Err(NoIndex::Overloaded),
                Err(ReadIndexError::NoQuorum | ReadIndexError::Stopped(_)) => {
                    Err(NoIndex::Ask(None))
                }
            };
        }
        if self.is_dead(leader) {
            return Err(NoIndex::Ask(None));
        }
        let question = peer::Forward {
            id: 0,
            group_id: self.id(),
            request: Some(forward::Request::ReadIndex(peer::ReadIndex {})),
        };
        match self.transport.forward(leader, question).await {
            Ok(peer::ForwardReply {
                reply: Some(forward_reply::Reply::ReadIndex(reply)),
                ..
            }) => Ok(reply.index),
            Ok(peer::ForwardReply {
                reply: Some(forward_reply::Reply::Error(error)),
                ..
            }) => Err(match error.kind() {
                Kind::Overloaded => NoIndex::Overloaded,
                _ => {
                    let other = Some(error.leader);
                    NoIndex::Ask(other.filter(|node| *node != 0 && *node != leader))
                }
            }),
            Err(TransportError::Overloaded { .. }) => Err(NoIndex::Overloaded),
            Ok(_) | Err(_) => Err(NoIndex::Ask(None)),
        }
    }

    /// The read index, if this node leads; shared with all who ask at the same time.
    pub(super) async fn leader_index(&self) -> Result<u64, ReadIndexError> {
        if self.is_powerless() {
            return Err(ReadIndexError::NoQuorum);
        }
        match self.index_rounds.join().await {
            Ok(index) => index,
            Err(JoinError::Full) => Err(ReadIndexError::Overloaded),
            Err(JoinError::Ended) => Err(ReadIndexError::NoQuorum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(1);

    fn ago(time: Duration) -> Instant {
        Instant::now()
            .checked_sub(time)
            .expect("the clock began long ago")
    }

    #[test]
    fn a_leader_is_lost_when_neither_reads_nor_looks_find_its_quorum() {
        let mut quiet = Confirmation::default();
        assert!(quiet.in_vain(Duration::ZERO) <= SILENCE, "nobody has asked");
        quiet.given(ago(60 * SILENCE));
        assert!(
            quiet.in_vain(Duration::ZERO) <= SILENCE,
            "nor since the last read"
        );
        quiet.looked_at_since = Some(ago(SILENCE / 2));
        assert!(
            quiet.in_vain(Duration::ZERO) <= SILENCE,
            "the looks have just begun"
        );
        quiet.looked_at_since = Some(ago(60 * SILENCE));
        assert!(quiet.in_vain(60 * SILENCE) <= SILENCE, "proofs are old");
        assert!(
            quiet.in_vain(Duration::ZERO) > SILENCE,
            "and have found nothing"
        );
        quiet.led(ago(SILENCE / 2), 0, 0);
        assert!(quiet.in_vain(Duration::ZERO) <= SILENCE);

        let mut read = Confirmation::default();
        read.asked(ago(2 * SILENCE));
        assert!(read.in_vain(Duration::ZERO) > SILENCE);
        read.led(ago(3 * SILENCE), 0, 0);
        assert!(
            read.in_vain(Duration::ZERO) > SILENCE,
            "the quorum is older than the question"
        );
        read.led(ago(SILENCE / 2), 0, 0);
        assert!(read.in_vain(Duration::ZERO) <= SILENCE);
    }

    #[test]
    fn a_node_is_behind_until_it_has_applied_what_was_committed_when_it_fell_behind() {
        let mut confirmation = Confirmation::default();
        confirmation.led(Instant::now(), 5, 5);
        assert_eq!(confirmation.behind, None);
        confirmation.led(Instant::now(), 9, 5);
        let since = confirmation.behind;
        assert_eq!(since.map(|(index, _)| index), Some(9));
        confirmation.led(Instant::now(), 20, 8);
        assert_eq!(confirmation.behind, since, "it stays as old as it is");
        confirmation.led(Instant::now(), 20, 9);
        assert_eq!(confirmation.behind.map(|(index, _)| index), Some(20));
        confirmation.led(Instant::now(), 20, 20);
        assert_eq!(confirmation.behind, None);
    }
}
