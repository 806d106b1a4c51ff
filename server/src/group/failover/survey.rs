//! The survey: the voters of all groups in doubt are asked at once, and the best placed of them stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use holdfast_proto::peer;

use super::{Cause, Failover, is_dead, sickness, verdict};
use crate::{
    detector::Views,
    group::Group,
    limits,
    raft::{GroupId, NodeId, Standing},
};

/// A group that is in doubt.
pub(super) struct Asked {
    pub(super) id: GroupId,
    pub(super) group: Arc<Group>,
    pub(super) standing: Standing,
    pub(super) voters: Vec<NodeId>,
    pub(super) cause: Cause,
}

/// What the voters said.
#[derive(Default)]
struct Told {
    standings: BTreeMap<GroupId, BTreeMap<NodeId, Standing>>,
    /// Whom each of those that answered holds for dead.
    suspects: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Those that stay out of the cluster, and lead nothing.
    out: BTreeSet<NodeId>,
}

impl Failover {
    /// Where this node stands in the groups that a peer asks about, as far as it votes in them.
    pub fn answer(&self, from: NodeId, request: &peer::SurveyMessage) -> peer::SurveyMessage {
        let views = self.views.borrow().clone();
        let mut standings = Vec::new();
        {
            let mut groups = self.groups.lock();
            for asked in request.standings.iter().take(limits::SURVEY_GROUPS_MAX) {
                let Some(watched) = groups.get_mut(&asked.group_id) else {
                    continue;
                };
                let Some(group) = watched.group.upgrade() else {
                    continue;
                };
                let (mine, _) = group.raft().standing();
                standings.push(mine.to_wire(asked.group_id));
                let Ok(theirs) = Standing::from_wire(asked) else {
                    continue;
                };
                watched.told.insert(from, theirs);
                let follows = mine.ballot.committed && mine.ballot.node == from;
                if follows && !theirs.leads && theirs.ballot.term >= mine.ballot.term {
                    watched.resigned = Some((mine.ballot.term, Instant::now()));
                }
            }
        }
        // Whoever asks has a reason, which may be one for this node too.
        self.stirred.notify_one();
        peer::SurveyMessage {
            standings,
            suspects: suspects(&views),
            stays_out: false,
        }
    }

    /// Asks all voters of these groups that are not held for dead, then has the best placed stand.
    pub(super) async fn survey(self: Arc<Self>, asked: Vec<Asked>) {
        let views = self.views.borrow().clone();
        let mut peers: BTreeMap<NodeId, Vec<peer::Standing>> = BTreeMap::new();
        for group in &asked {
            let others = group.voters.iter().filter(|node| **node != self.me);
            for node in others.filter(|node| views.suspicion(self.me, **node).is_none()) {
                let standing = group.standing.to_wire(group.id);
                peers.entry(*node).or_default().push(standing);
            }
        }
        let suspects = suspects(&views);
        let answers = peers.into_iter().map(|(node, standings)| {
            let (failover, suspects) = (&self, &suspects);
            async move { (node, failover.ask(node, standings, suspects).await) }
        });
        let answers = join_all(answers).await;
        let mut told = Told::default();
        for (node, messages) in answers {
            for message in messages {
                if message.stays_out {
                    told.out.insert(node);
                    continue;
                }
                told.suspects
                    .insert(node, message.suspects.into_iter().collect());
                for wire in &message.standings {
                    if let Ok(standing) = Standing::from_wire(wire) {
                        let of_group = told.standings.entry(wire.group_id).or_default();
                        of_group.insert(node, standing);
                    }
                }
            }
        }
        let standing = self.conclude(asked, &mut told);
        for group in standing {
            tokio::spawn(self.clone().stand(group));
        }
        self.stirred.notify_one();
    }

    /// Asks one peer about all groups in which it votes.
    async fn ask(
        &self,
        node: NodeId,
        standings: Vec<peer::Standing>,
        suspects: &[NodeId],
    ) -> Vec<peer::SurveyMessage> {
        let patience = {
            let peers = self.peers.lock();
            let peer = peers.get(&node);
            let (round_trip, missed) =
                peer.map_or((Duration::ZERO, 0), |p| (p.round_trip, p.missed));
            let patience = limits::SURVEY_WAIT_MIN + 4 * round_trip;
            (patience * 2_u32.pow(missed.min(6))).min(limits::SURVEY_WAIT_MAX)
        };
        let begun = Instant::now();
        let parts = standings.chunks(limits::SURVEY_GROUPS_MAX).map(|part| {
            let message = peer::SurveyMessage {
                standings: part.to_vec(),
                suspects: suspects.to_vec(),
                stays_out: false,
            };
            self.transport.survey(node, message, patience)
        });
        let answers: Vec<_> = join_all(parts).await.into_iter().flatten().collect();
        let mut peers = self.peers.lock();
        let peer = peers.entry(node).or_default();
        if answers.is_empty() {
            peer.missed = peer.missed.saturating_add(1);
        } else {
            peer.missed = 0;
            peer.round_trip = begun.elapsed();
        }
        answers
    }

    /// Judges each group by what the voters said. Those in which this node stands now.
    fn conclude(&self, asked: Vec<Asked>, told: &mut Told) -> Vec<Asked> {
        let views = self.views.borrow().clone();
        let now = Instant::now();
        let mut standing = Vec::new();
        for group in asked {
            let mut standings = told.standings.remove(&group.id).unwrap_or_default();
            if let Some(watched) = self.groups.lock().get_mut(&group.id) {
                // What peers said of themselves when they asked is newer than an answer that is missing.
                for (node, standing) in std::mem::take(&mut watched.told) {
                    standings.entry(node).or_insert(standing);
                }
            }
            standings.insert(self.me, group.standing);
            let is_dead = |node, term| {
                let suspects = Some(&told.suspects);
                told.out.contains(&node) || self.is_void(&views, &group, node, term, suspects)
            };
            let answers = verdict::Answers {
                group: group.id,
                me: self.me,
                voters: &group.voters,
                order: &group.group.election_order(),
                standings: &standings,
                is_dead: &is_dead,
                is_sick: &|node| !sickness::is_well(&views, node),
            };
            let verdict = answers.verdict();
            let pace = self.pace(&group.voters);
            tracing::debug!(group = group.id, cause = ?group.cause, ?verdict, ?standings, "survey");
            let mut groups = self.groups.lock();
            let Some(watched) = groups.get_mut(&group.id) else {
                continue;
            };
            if watched
                .doubt
                .judge(group.standing.ballot, verdict, pace, now)
            {
                group.group.raft().queue_campaign(&group.standing);
                drop(groups);
                standing.push(group);
            }
        }
        standing
    }

    /// Whether the leadership of a node in a term binds nobody any more, as far as others can tell.
    fn is_void(
        &self,
        views: &Views,
        group: &Asked,
        node: NodeId,
        term: u64,
        suspects: Option<&BTreeMap<NodeId, BTreeSet<NodeId>>>,
    ) -> bool {
        if node == self.me {
            return false;
        }
        // Its process of that term is gone, whatever became of it since.
        let (standing, surroundings) = group.group.raft().standing();
        let heard = surroundings
            .heard_age
            .and_then(|age| Instant::now().checked_sub(age));
        if term <= standing.ballot.term && heard.is_some_and(|at| self.restarted_since(node, at)) {
            return true;
        }
        if sickness::is_overdue(views, node, &group.voters)
            || sickness::hears_no_quorum(views, node, &group.voters)
        {
            return true;
        }
        // Those that answered just now know better than the views, which may be older.
        let agree = |suspects: &BTreeMap<NodeId, BTreeSet<NodeId>>| {
            let others = group.voters.iter().filter(|voter| **voter != node);
            let agree = others.filter(|voter| match **voter == self.me {
                true => views.suspicion(self.me, node).is_some(),
                false => suspects
                    .get(voter)
                    .is_some_and(|theirs| theirs.contains(&node)),
            });
            agree.count() > group.voters.len() / 2
        };
        is_dead(views, node, &group.voters, self.me) && suspects.is_none_or(agree)
    }

    /// Stands for election in a group, unless its leader has come back to life meanwhile.
    async fn stand(self: Arc<Self>, group: Asked) {
        let Ok(_place) = self.campaigns.acquire().await else {
            return;
        };
        self.campaign(&group).await;
        let pace = self.pace(&group.voters);
        if let Some(watched) = self.groups.lock().get_mut(&group.id) {
            let ballot = group.standing.ballot;
            watched.doubt.stood(ballot, pace, Instant::now());
        }
        self.stirred.notify_one();
    }

    async fn campaign(&self, asked: &Asked) {
        let (raft, standing) = (asked.group.raft(), &asked.standing);
        let (group, term) = (asked.id, standing.ballot.term);
        if let Cause::Dead(leader) = asked.cause {
            let views = self.views.borrow().clone();
            if !self.is_void(&views, asked, leader, term, None) {
                raft.give_campaign_up();
                return;
            }
        }
        let cause = asked.cause;
        tracing::info!(group, ?cause, term = term + 1, "standing for election");
        let mut leadership = asked.group.leadership();
        if let Err(error) = raft.campaign(standing).await {
            tracing::debug!(group, %error, "no campaign");
            return;
        }
        // The place is kept until it is decided, so that not all groups campaign at once.
        let decided = leadership.wait_for(|now| now.leader.is_some() && now.term > term);
        // Whether it was won in time is for the next look to see.
        let _ = tokio::time::timeout(limits::ELECTION_SETTLES_WITHIN, decided).await;
    }
}

fn suspects(views: &Views) -> Vec<NodeId> {
    views.suspicions().map(|(node, _)| node).collect()
}
