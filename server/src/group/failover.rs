//! Who leads next when a leader is dead, sick, or unknown: for all groups of a node at once.
//!
//! ```text
//!   detector ─ Views ─┐
//!   groups ─ standing ┼─▶ [Doubt] per group ─ asks ─▶ survey: one message per peer, for all groups
//!   peers ─ surveys ──┘        ▲                             │ answers
//!                              └──────── [verdict] ◀─────────┘
//!                                            │ this voter is best placed
//!                                            ▼
//!                                        campaign, without waiting for leases
//! ```
//!
//! The timers of openraft are long and only a backstop: what elects within milliseconds is here. A
//! voter whose leader is in doubt asks the others where they stand; one round trip later each knows
//! whether the group is led and who has the longest log, and only the best placed stands.
//!
//! What holds here:
//!
//! - A leader is replaced only if a majority of the voters holds it for dead, if it says itself that it
//!   does not lead or hears no quorum, or if its process is known to have started anew. One broken link
//!   deposes nobody.
//! - Votes compare logs, and reads rest on no lease, so a mistake costs an election and nothing else.
//! - All that is in flight is bounded: one message per peer and survey, a number of campaigns at a time.
//!
//! Beside that, a leader that hears no quorum refuses requests instead of letting them wait
//! ([`Group::is_powerless`]), and a leader whose disk hangs hands over ([`sickness`]).

mod doubt;
mod sickness;
#[cfg(test)]
mod simulation;
mod survey;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

pub(super) use self::sickness::is_well;
use self::{
    doubt::{Cause, Doubt, Known, Look, Pace},
    survey::Asked,
};
use super::Group;
use crate::{
    detector::Views,
    limits,
    raft::{GroupId, NodeId, PeerTransport, Standing, Surroundings},
};

/// Watches over the leaders of all groups of a node.
pub struct Failover {
    me: NodeId,
    transport: Arc<dyn PeerTransport>,
    views: watch::Receiver<Arc<Views>>,
    /// Never held across a wait.
    groups: Mutex<BTreeMap<GroupId, Watched>>,
    /// Never locked before `groups`.
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Woken when there is something to look at.
    stirred: Notify,
    campaigns: Semaphore,
    hand_overs: Semaphore,
}

/// A group and what is thought of its leader.
struct Watched {
    group: Weak<Group>,
    doubt: Doubt,
    /// Where peers said that they stand when they asked, since this node asked last.
    told: BTreeMap<NodeId, Standing>,
    /// The term in which its leader said that it does not lead, and when.
    resigned: Option<(u64, Instant)>,
    /// Since when this leader has heard no quorum, and its connections neither.
    unheard_since: Option<Instant>,
    /// When this leader last tried to hand over because it is sick.
    handed_over_at: Option<Instant>,
}

/// What is known of a peer beside the views.
#[derive(Default)]
struct Peer {
    session: Option<u64>,
    /// When it was first seen in another start than before.
    restarted_at: Option<Instant>,
    /// The last round trip of a survey.
    round_trip: Duration,
    /// Surveys in a row that it did not answer in time.
    missed: u32,
    suspected: bool,
}

impl Failover {
    /// Of the node `me`, with what its detector publishes.
    pub fn new(
        me: NodeId,
        transport: Arc<dyn PeerTransport>,
        views: watch::Receiver<Arc<Views>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            me,
            transport,
            views,
            groups: Mutex::default(),
            peers: Mutex::default(),
            stirred: Notify::new(),
            campaigns: Semaphore::new(limits::CAMPAIGNS_MAX),
            hand_overs: Semaphore::new(limits::HAND_OVERS_MAX),
        })
    }

    /// Watches over a group, for as long as it runs.
    pub fn watch(self: &Arc<Self>, group: &Arc<Group>) {
        let watched = Watched {
            group: Arc::downgrade(group),
            doubt: Doubt::default(),
            told: BTreeMap::new(),
            resigned: None,
            unheard_since: None,
            handed_over_at: None,
        };
        self.groups.lock().insert(group.id(), watched);
        self.stirred.notify_one();
        let failover = Arc::downgrade(self);
        let mut leadership = group.leadership();
        tokio::spawn(async move {
            while leadership.changed().await.is_ok() {
                let stopped = leadership.borrow_and_update().stopped.is_some();
                let Some(failover) = failover.upgrade() else {
                    return;
                };
                failover.stirred.notify_one();
                if stopped {
                    return;
                }
            }
        });
    }

    /// Looks at all groups whenever something happens, for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut views = self.views.clone();
        loop {
            let next = self.look();
            tokio::select! {
                changed = views.changed() => {
                    if changed.is_err() {
                        tracing::error!(
                            "the failure detector of this node has ended: until the node is started again, only \
                             the timers of the groups find a leader that is dead, some seconds later"
                        );
                        return;
                    }
                    views.borrow_and_update();
                    self.views_changed();
                }
                () = self.stirred.notified() => {}
                () = tokio::time::sleep_until(next.into()) => {
                    if next.elapsed() > limits::FAILOVER_OVERSLEPT_MIN {
                        // Others may have been elected while this node did not run.
                        self.beat_all();
                    }
                }
            }
        }
    }

    /// Takes in what the views say anew.
    fn views_changed(self: &Arc<Self>) {
        let views = self.views.borrow().clone();
        let now = Instant::now();
        let mut returned = false;
        {
            let mut groups = self.groups.lock();
            for watched in groups.values_mut() {
                watched.doubt.stir(now);
            }
            let mut peers = self.peers.lock();
            let suspected: BTreeSet<NodeId> = views.suspicions().map(|(node, _)| node).collect();
            for node in &suspected {
                peers.entry(*node).or_default().suspected = true;
            }
            for (node, peer) in peers.iter_mut() {
                returned |= peer.suspected && !suspected.contains(node);
                peer.suspected = suspected.contains(node);
            }
            for node in views.heard() {
                let peer = peers.entry(node).or_default();
                let session = views.session(node);
                if peer.session.is_some() && peer.session != session {
                    peer.restarted_at = Some(now);
                }
                peer.session = session;
            }
        }
        if returned {
            // A leader is followed again, or learns that another was elected.
            self.beat_all();
        }
    }

    fn beat_all(&self) {
        for group in self.led() {
            tokio::spawn(async move { group.raft().beat().await });
        }
    }

    fn led(&self) -> Vec<Arc<Group>> {
        let groups = self.groups.lock();
        let running = groups.values().filter_map(|w| w.group.upgrade());
        let led = |group: &Arc<Group>| group.leadership().borrow().leader == Some(self.me);
        running.filter(led).collect()
    }

    /// Looks at every group, asks about those in doubt, and tells when to look again.
    fn look(self: &Arc<Self>) -> Instant {
        let views = self.views.borrow().clone();
        let now = Instant::now();
        let mut next = now + limits::FAILOVER_LOOK_EVERY;
        let mut asked = Vec::new();
        {
            let mut groups = self.groups.lock();
            groups.retain(|_, watched| watched.group.strong_count() > 0);
            for (id, watched) in groups.iter_mut() {
                let Some(group) = watched.group.upgrade() else {
                    continue;
                };
                let (standing, surroundings) = group.raft().standing();
                let known = Known {
                    me: self.me,
                    standing: &standing,
                    surroundings: &surroundings,
                    is_dead: &|node| is_dead(&views, node, &surroundings.voters, self.me),
                    resigned: self.has_resigned(watched, &standing, &surroundings, now),
                };
                match watched.doubt.look(&known, now) {
                    Look::Settled => {}
                    Look::Wait(until) => next = next.min(until),
                    Look::Ask(cause) => {
                        watched.told.clear();
                        asked.push(Asked {
                            id: *id,
                            group: group.clone(),
                            standing,
                            voters: surroundings.voters.clone(),
                            cause,
                        });
                    }
                }
                let check = self.check_power(watched, &group, &views, &surroundings, now);
                next = next.min(check.unwrap_or(next));
                self.hand_over_if_sick(watched, &group, &views, now);
            }
        }
        if let Some(at) = sickness::next_look(&views, now) {
            next = next.min(at);
        }
        if !asked.is_empty() {
            tokio::spawn(self.clone().survey(asked));
        }
        next
    }

    /// Whether the leader that this node follows has said that it does not lead, or was started anew,
    /// since it was heard.
    fn has_resigned(
        &self,
        watched: &Watched,
        standing: &Standing,
        surroundings: &Surroundings,
        now: Instant,
    ) -> bool {
        let Some(heard_at) = surroundings.heard_age.and_then(|age| now.checked_sub(age)) else {
            return false;
        };
        let term = standing.ballot.term;
        let said = watched
            .resigned
            .is_some_and(|(resigned_in, at)| resigned_in == term && at > heard_at);
        said || self.restarted_since(standing.ballot.node, heard_at)
    }

    fn restarted_since(&self, node: NodeId, at: Instant) -> bool {
        let peers = self.peers.lock();
        let restarted_at = peers.get(&node).and_then(|peer| peer.restarted_at);
        restarted_at.is_some_and(|restarted| restarted > at)
    }

    /// A leader that hears no quorum of voters, neither by the detector nor by its own messages, has no
    /// power: requests are refused instead of waiting. Tells when to look again.
    fn check_power(
        &self,
        watched: &mut Watched,
        group: &Arc<Group>,
        views: &Views,
        surroundings: &Surroundings,
        now: Instant,
    ) -> Option<Instant> {
        let voters = &surroundings.voters;
        let reached = |node: &&NodeId| views.suspicion(self.me, **node).is_none();
        let visible = voters.iter().filter(reached).count() > voters.len() / 2;
        let quorum_age = surroundings.quorum_age.filter(|_| !visible);
        let Some(quorum_age) = quorum_age else {
            watched.unheard_since = None;
            group.set_powerless(false);
            return None;
        };
        let since = *watched.unheard_since.get_or_insert(now);
        let silent = now.duration_since(since).min(quorum_age);
        let powerless = silent >= limits::POWERLESS_AFTER;
        group.set_powerless(powerless);
        // The detector may be cut off where the groups are not.
        let probed = group.clone();
        tokio::spawn(async move { probed.raft().beat().await });
        (!powerless).then(|| now + limits::POWERLESS_AFTER / 2)
    }

    fn pace(&self, voters: &[NodeId]) -> Pace {
        let peers = self.peers.lock();
        let of_voters = voters.iter().filter_map(|voter| peers.get(voter));
        Pace {
            round_trip: of_voters
                .filter(|peer| !peer.suspected)
                .map(|peer| peer.round_trip)
                .max()
                .unwrap_or_default(),
        }
    }
}

/// Whether others may stand against a node: a majority of the voters holds it for dead, or it says itself
/// that it hears no majority, or is so sick that it should have handed over.
fn is_dead(views: &Views, node: NodeId, voters: &[NodeId], me: NodeId) -> bool {
    node != me
        && (views.is_suspected(node, voters.iter().copied())
            || sickness::is_overdue(views, node, voters)
            || sickness::hears_no_quorum(views, node, voters))
}
