//! Where this node stands in a group, and how it stands for election out of turn.
//!
//! A voter that holds the leader for dead has no need to wait for the leader's lease: openraft grants
//! the votes of a leadership transfer in spite of leases, and [`RaftGroup::campaign`] asks for such
//! votes. **No read rests on a lease** here ([`RaftGroup::read_index`] asks a quorum each time), and
//! votes compare logs as ever, so a campaign against a leader that is alive costs an election and
//! breaks nothing. Who may campaign is decided in `group/failover/`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_proto::peer;
use openraft::{Instant as _, async_runtime::WatchReceiver, raft::TransferLeaderRequest};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    DecodeError, Leadership, ProposeError, Raft, RaftGroup, codec,
    type_config::{GroupId, NodeId, Vote},
};
use crate::{limits, storage::log::GroupLog};

/// A vote: the highest term that a node has seen, and for whom it voted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// The candidate, or the leader.
    pub node: NodeId,
    /// A quorum voted for it: it is, or was, the leader of the term.
    pub committed: bool,
}

/// The end of a log. Votes go to those whose log ends at least there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Where a node stands in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its vote.
    pub ballot: Ballot,
    /// The end of its log.
    pub log_end: LogEnd,
    /// It leads in the term of its vote, and a quorum followed it a lease ago at most.
    pub leads: bool,
    /// Its vote is one for a candidate and was cast a moment ago, or it is about to cast one for itself:
    /// an election may be under way.
    pub settling: bool,
}

/// What a node knows of a group beside its standing, and tells nobody.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The voters of the present membership.
    pub voters: Vec<NodeId>,
    /// How long ago the vote was cast. A vote that was found on disk is as old as the start.
    pub ballot_age: Duration,
    /// How long ago the leader of the vote's term was heard, if it was since the start.
    pub heard_age: Option<Duration>,
    /// On a leader: how long ago it sent what a quorum has answered, or that it leads since then.
    pub quorum_age: Option<Duration>,
    /// The longest time between two signs of life of a leader that is well.
    pub heard_age_max: Duration,
}

/// What a group remembers for its standing.
///
/// - Times are nanoseconds since `epoch`.
pub(super) struct Memory {
    epoch: Instant,
    log: GroupLog,
    lease: Duration,
    heard_age_max: Duration,
    /// Term of the leader that was heard last, plus one; 0 while none was.
    heard_term: AtomicU64,
    heard_at: AtomicU64,
    /// The last vote that was seen.
    cast: Mutex<Option<Cast>>,
    /// The term in which this leader began to hand its leadership over, and when.
    handing_over: Mutex<Option<(u64, Instant)>>,
    /// The last campaign of this node.
    campaign: Mutex<Option<Campaign>>,
}

/// A vote and when it was first seen: 0 if it was found on disk.
#[derive(Clone, Copy)]
struct Cast {
    term: u64,
    committed: bool,
    at: u64,
}

/// A campaign whose vote is not cast yet, as far as is known.
#[derive(Clone, Copy)]
struct Campaign {
    /// The term out of which it leads.
    out_of: u64,
    /// It waits for others of this node; else its vote is on the way to the disk.
    queued: bool,
    since: Instant,
}

impl Memory {
    pub(super) fn new(log: GroupLog, heartbeat_interval: Duration, lease: Duration) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            log,
            lease,
            heard_age_max: heartbeat_interval * limits::HEARTBEATS_MISSED_MAX
                + limits::HEARTBEAT_DELAY_MAX,
            heard_term: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            cast: Mutex::new(None),
            handing_over: Mutex::new(None),
            campaign: Mutex::new(None),
        })
    }

    fn time(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn age(&self, at: u64) -> Duration {
        Duration::from_nanos(self.time().saturating_sub(at))
    }

    /// How long ago a vote was cast that is seen now. Whoever sees it first begins the count: a vote may be
    /// looked at before the task that follows the votes has run.
    fn ballot_age(&self, ballot: Ballot) -> Duration {
        let mut cast = self.cast.lock();
        let known = Cast::seen(*cast, ballot, self.time());
        *cast = Some(known);
        self.age(known.at)
    }

    /// A message of a leader has come.
    pub(super) fn heard(&self, vote: Option<&peer::Vote>) {
        let Some(vote) = vote.filter(|vote| vote.committed) else {
            return;
        };
        let term = vote.term.saturating_add(1);
        // A leader of an earlier term is refused.
        if self.heard_term.fetch_max(term, Ordering::Relaxed) <= term {
            self.heard_at.store(self.time(), Ordering::Relaxed);
        }
    }

    fn heard_age(&self, term: u64) -> Option<Duration> {
        let heard = self.heard_term.load(Ordering::Relaxed) == term.saturating_add(1);
        heard.then(|| self.age(self.heard_at.load(Ordering::Relaxed)))
    }

    pub(super) fn hands_over(&self, term: u64) {
        let mut handing_over = self.handing_over.lock();
        if handing_over.is_none_or(|(began_in, _)| began_in != term) {
            *handing_over = Some((term, Instant::now()));
        }
    }

    fn campaign(&self, out_of: u64, queued: bool) {
        *self.campaign.lock() = Some(Campaign {
            out_of,
            queued,
            since: Instant::now(),
        });
    }

    fn ends_campaign(&self) {
        *self.campaign.lock() = None;
    }

    /// Whether this node is about to vote for itself.
    fn campaigns(&self, term: u64) -> bool {
        let campaign = *self.campaign.lock();
        campaign.is_some_and(|campaign| {
            let age_max = match campaign.queued {
                true => limits::CAMPAIGN_QUEUED_MAX,
                false => limits::CAMPAIGN_SYNC_MAX,
            };
            campaign.out_of == term && campaign.since.elapsed() < age_max
        })
    }

    /// Whether a leader's attempt to hand over in this term took too long: until somebody else is
    /// elected it takes no writes.
    fn is_stuck(&self, term: u64) -> bool {
        let handing_over = *self.handing_over.lock();
        handing_over.is_some_and(|(began_in, at)| {
            began_in == term && at.elapsed() > limits::HAND_OVER_STUCK_AFTER
        })
    }
}

impl Cast {
    fn seen(known: Option<Self>, ballot: Ballot, now: u64) -> Self {
        let Ballot {
            term, committed, ..
        } = ballot;
        match known {
            // An older vote comes from metrics that are older.
            Some(known) if (known.term, known.committed) >= (term, committed) => known,
            Some(_) => Self {
                term,
                committed,
                at: now,
            },
            None => Self {
                term,
                committed,
                at: 0,
            },
        }
    }
}

fn ballot(vote: &Vote) -> Ballot {
    Ballot {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

impl Standing {
    /// As it is told to other nodes.
    pub fn to_wire(self, group_id: GroupId) -> peer::Standing {
        peer::Standing {
            group_id,
            vote: Some(peer::Vote {
                term: self.ballot.term,
                voted_for: self.ballot.node,
                committed: self.ballot.committed,
            }),
            last_log_id: Some(peer::LogId {
                term: self.log_end.term,
                index: self.log_end.index,
            }),
            leads: self.leads,
            settling: self.settling,
        }
    }

    /// From what another node tells.
    pub fn from_wire(wire: &peer::Standing) -> Result<Self, DecodeError> {
        let vote = codec::vote_from_wire(wire.vote)?;
        let end = wire.last_log_id.unwrap_or_default();
        Ok(Self {
            ballot: ballot(&vote),
            log_end: LogEnd {
                term: end.term,
                index: end.index,
            },
            leads: wire.leads,
            settling: wire.settling,
        })
    }
}

impl RaftGroup {
    /// Where this node stands, and what it knows beside.
    pub fn standing(&self) -> (Standing, Surroundings) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let memory = &self.memory;
        let log = memory.log.state();
        let end = log.last.max(log.purged);
        let membership = metrics.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let ballot = ballot(&metrics.vote);
        let ballot_age = memory.ballot_age(ballot);
        let quorum_age = metrics.state.is_leader().then(|| {
            let acked = metrics.last_quorum_acked.as_ref();
            let acked = acked.map(|at| at.into_inner().elapsed());
            match voters.len() {
                0 | 1 => Duration::ZERO,
                _ => acked.unwrap_or(Duration::MAX).min(ballot_age),
            }
        });
        let standing = Standing {
            ballot,
            log_end: LogEnd {
                term: end.map_or(0, |end| end.term),
                index: end.map_or(0, |end| end.index),
            },
            leads: quorum_age.is_some_and(|age| age < memory.lease)
                && !memory.is_stuck(ballot.term),
            settling: memory.campaigns(ballot.term)
                || (!ballot.committed
                    && ballot.term > 0
                    && ballot_age < limits::ELECTION_SETTLES_WITHIN),
        };
        let surroundings = Surroundings {
            voters,
            ballot_age,
            heard_age: memory.heard_age(ballot.term),
            quorum_age,
            heard_age_max: memory.heard_age_max,
        };
        (standing, surroundings)
    }

    /// Time since this node, as the leader, last asked something that a quorum answered; none if it does
    /// not lead, or nothing was answered yet.
    pub fn quorum_age(&self) -> Option<Duration> {
        let leads = {
            let server = self.raft.server_metrics();
            let server = server.borrow_watched();
            let mut voters = server.membership_config.membership().voter_ids();
            let alone = voters.next() == Some(server.id) && voters.next().is_none();
            server.state.is_leader().then_some(alone)
        };
        match leads {
            None => None,
            Some(true) => Some(Duration::ZERO),
            Some(false) => {
                let data = self.raft.data_metrics();
                let acked = data.borrow_watched().last_quorum_acked?;
                Some(acked.into_inner().elapsed())
            }
        }
    }

    /// Last index that this node knows to be committed.
    pub fn committed_index(&self) -> u64 {
        let data = self.raft.data_metrics();
        let committed = data.borrow_watched().local_committed;
        committed.map_or(0, |id| id.index)
    }

    /// Says that a campaign out of this standing is to begin as soon as others of this node are decided:
    /// until it has, or is given up, others take an election for under way.
    pub fn queue_campaign(&self, standing: &Standing) {
        self.memory.campaign(standing.ballot.term, true);
    }

    /// Gives up a campaign that was queued.
    pub fn give_campaign_up(&self) {
        self.memory.ends_campaign();
    }

    /// Stands for election at once, with votes that are granted in spite of leases.
    ///
    /// Whoever calls this must know that no leader is to be disturbed. Nothing happens if this node's
    /// vote has changed since `standing` was looked at.
    pub async fn campaign(&self, standing: &Standing) -> Result<(), ProposeError> {
        let stopped = |why: &dyn std::fmt::Display| ProposeError::Stopped(why.to_string());
        let vote = self.raft.with_raft_state(|state| *state.vote_ref());
        let vote = vote.await.map_err(|e| stopped(&e))?;
        let seen = standing.ballot;
        if (vote.leader_id.term, vote.leader_id.voted_for) != (seen.term, seen.node) {
            self.give_campaign_up();
            return Ok(());
        }
        if vote.committed != seen.committed {
            // A leader that has restarted knows of its own leadership from its disk only, and there it
            // stays until the next vote is cast. That is cast here; leases are respected by it, and not by
            // the campaign after it.
            self.give_campaign_up();
            let elected = self.raft.trigger().elect(false).await;
            return elected.map_err(|e| stopped(&e));
        }
        self.memory.campaign(seen.term, false);
        let request = TransferLeaderRequest::new(vote, self.node_id, None);
        let transfer = self.raft.handle_transfer_leader(request);
        let begun = tokio::time::timeout(limits::CAMPAIGN_BEGINS_WITHIN, transfer).await;
        if !matches!(begun, Ok(Ok(Ok(())))) {
            self.give_campaign_up();
        }
        match begun {
            Ok(Ok(Ok(()))) => Ok(()),
            // The vote has changed, or is on its way to the disk.
            Ok(Ok(Err(_))) | Err(_) => Ok(()),
            Ok(Err(e)) => Err(stopped(&e)),
        }
    }

    /// Starts an election of the ordinary kind, with a pre-vote first.
    #[cfg(test)]
    pub(super) async fn elect(&self) -> Result<(), ProposeError> {
        let done = self.raft.trigger().elect(true).await;
        done.map_err(|e| ProposeError::Stopped(e.to_string()))
    }

    /// Sends a heartbeat at once, if this node leads.
    pub async fn beat(&self) {
        // A group that has stopped needs none.
        let _ = self.raft.trigger().heartbeat().await;
    }
}

/// Keeps a tokio watch of the leadership, which `group/` and `service/` wait on.
///
/// The metrics of the server change with the vote and the leadership only. Those of the whole core are sent
/// whenever it does anything, each tick of its timers among it, and hundreds of groups are not to wake for
/// that.
pub(super) fn follow_leadership(raft: &Raft, memory: Arc<Memory>) -> watch::Receiver<Leadership> {
    let (tx, rx) = watch::channel(Leadership::default());
    let (mut server, whole) = (raft.server_metrics(), raft.metrics());
    tokio::spawn(async move {
        loop {
            let now = {
                let m = server.borrow_and_update();
                memory.ballot_age(ballot(&m.vote));
                Leadership {
                    leader: m.current_leader,
                    term: m.vote.leader_id.term,
                    stopped: None,
                }
            };
            tx.send_if_modified(|seen| {
                let changed = *seen != now;
                if changed {
                    *seen = now;
                }
                changed
            });
            tokio::select! {
                changed = server.changed() => if changed.is_err() {
                    // The core has ended, and said why in the other metrics before.
                    let why = whole.borrow_watched().running_state.as_ref().err().map(ToString::to_string);
                    tx.send_modify(|seen| {
                        seen.leader = None;
                        seen.stopped = Some(why.unwrap_or_else(|| "shut down".to_string()));
                    });
                    return;
                },
                () = tx.closed() => return,
            }
        }
    });
    rx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_as_old_as_the_first_look_at_it() {
        let ballot = |term, committed| Ballot {
            term,
            node: 1,
            committed,
        };
        let found = Cast::seen(None, ballot(4, true), 100);
        assert_eq!(found.at, 0, "it was on the disk");
        let cast = Cast::seen(Some(found), ballot(5, false), 200);
        assert_eq!(cast.at, 200);
        let again = Cast::seen(Some(cast), ballot(5, false), 300);
        assert_eq!(again.at, 200);
        let stale = Cast::seen(Some(again), ballot(4, true), 400);
        assert_eq!((stale.term, stale.at), (5, 200));
        let led = Cast::seen(Some(stale), ballot(5, true), 500);
        assert_eq!((led.committed, led.at), (true, 500));
    }
}
