//! Whether the leader of a group is in doubt, when the voters are asked, and when this one stands.
//!
//! ```text
//!   settled ── cause ──▶ in doubt ── ask ──▶ verdict ──┬─ led, held, no quorum, … ──▶ ask again, later
//!      ▲                                               └─ stand ── my turn? ──▶ campaign
//!      └──────────── a leader is heard, or this node leads ◀───────────────────────┘
//! ```
//!
//! A pure state machine over what is known here, the verdicts, and the time.
//!
//! - Asking is cheap and may be needless. Standing follows only a verdict that says so.
//! - The n-th best voter stands n turns after it first heard that it may: an election in which its vote
//!   is asked for begins its count anew, and so does a leader.
//! - Who stood in vain waits for a turn too, and takes a turn for twice as long each time.

use std::time::{Duration, Instant};

use super::verdict::Verdict;
use crate::{
    limits,
    raft::{Ballot, NodeId, Standing, Surroundings},
};

/// Why the leader of a group is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A majority of the voters, this one among them, holds the leader for dead.
    Dead(NodeId),
    /// It said itself that it does not lead, or has started anew since it was heard.
    Resigned(NodeId),
    /// Nothing was heard of it for long, or ever.
    Unheard(NodeId),
    /// An election found no winner, or this node knows of no leader.
    Leaderless,
    /// This node leads, and no quorum follows it, or it could not hand over.
    Powerless,
}

/// What this node knows of a group, when it looks.
pub(super) struct Known<'a> {
    pub(super) me: NodeId,
    pub(super) standing: &'a Standing,
    pub(super) surroundings: &'a Surroundings,
    /// Whether a majority of the voters holds a node for dead, or so sick that it lost its say.
    pub(super) is_dead: &'a dyn Fn(NodeId) -> bool,
    /// Whether the leader has said, or shown by a new start, that it does not lead, since it was heard.
    pub(super) resigned: bool,
}

impl Known<'_> {
    /// The cause for doubt, if there is one, and for how much longer it is to be borne.
    fn cause(&self) -> Option<(Cause, Duration)> {
        let Self {
            standing,
            surroundings,
            ..
        } = self;
        let ballot = standing.ballot;
        let voters = &surroundings.voters;
        if !voters.contains(&self.me) || standing.leads {
            return None;
        }
        if voters.len() == 1 {
            return Some((Cause::Leaderless, Duration::ZERO));
        }
        if surroundings.quorum_age.is_some() {
            // A leader of a moment ago hears from its followers soon.
            let wait = limits::ELECTION_SETTLES_WITHIN.saturating_sub(surroundings.ballot_age);
            return Some((Cause::Powerless, wait));
        }
        let leader = ballot.node;
        if !ballot.committed || leader == self.me {
            let settling = limits::ELECTION_SETTLES_WITHIN.saturating_sub(surroundings.ballot_age);
            // What was found on disk is no election under way.
            let wait = if ballot.committed {
                Duration::ZERO
            } else {
                settling
            };
            return Some((Cause::Leaderless, wait));
        }
        if (self.is_dead)(leader) {
            return Some((Cause::Dead(leader), Duration::ZERO));
        }
        if self.resigned {
            return Some((Cause::Resigned(leader), Duration::ZERO));
        }
        match surroundings.heard_age {
            Some(age) if age <= surroundings.heard_age_max => None,
            _ => Some((Cause::Unheard(leader), Duration::ZERO)),
        }
    }
}

/// What is to be done about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: it is led.
    Settled,
    /// Nothing before this time.
    Wait(Instant),
    /// The voters are to be asked; [`Doubt::judge`] waits for what they say.
    Ask(Cause),
}

/// How long things take between the voters of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest round trip to one of them that was measured lately.
    pub(super) round_trip: Duration,
}

impl Pace {
    /// How long a voter that is better placed may take before the next one stands.
    fn turn(self, campaigns: u32) -> Duration {
        let turn = limits::CAMPAIGN_TURN_MIN * 2_u32.pow(campaigns.min(8));
        turn.min(limits::CAMPAIGN_TURN_MAX) + 4 * self.round_trip
    }

    /// The pause before the voters are asked once more.
    fn pause(self, asked: u32) -> Duration {
        let pause = limits::SURVEY_PAUSE_MIN + self.round_trip;
        (pause * 2_u32.pow(asked.min(8))).min(limits::SURVEY_PAUSE_MAX)
    }
}

/// The doubt about one group.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    episode: Option<Episode>,
    /// How often this node stood since it last saw a leader.
    campaigns: u32,
}

/// - It is of one vote of this node: another vote is another episode.
#[derive(Debug)]
struct Episode {
    ballot: Ballot,
    /// The voters were asked and have not been judged yet, or this node is to stand and has not yet.
    asking: bool,
    /// How often they were asked.
    asked: u32,
    ask_at: Instant,
    /// When this node first learned that it could stand.
    could_stand: Option<Instant>,
}

impl Doubt {
    /// Looks at what is known now.
    pub(super) fn look(&mut self, known: &Known<'_>, now: Instant) -> Look {
        let Some((cause, wait)) = known.cause() else {
            *self = Self::default();
            return Look::Settled;
        };
        let ballot = known.standing.ballot;
        if self.episode.as_ref().is_none_or(|e| e.ballot != ballot) {
            self.episode = Some(Episode {
                ballot,
                asking: false,
                asked: 0,
                ask_at: now + wait,
                could_stand: None,
            });
        }
        let episode = self.episode.as_mut().expect("made above");
        if episode.asking {
            return Look::Wait(now + limits::SURVEY_PAUSE_MAX);
        }
        if now < episode.ask_at {
            return Look::Wait(episode.ask_at);
        }
        episode.asking = true;
        episode.asked += 1;
        Look::Ask(cause)
    }

    /// Something has changed that a verdict may depend on: the next question need not wait.
    pub(super) fn stir(&mut self, now: Instant) {
        if let Some(episode) = &mut self.episode
            && episode.could_stand.is_none()
            && !episode.ballot_is_fresh()
        {
            episode.ask_at = episode.ask_at.min(now);
        }
    }

    /// Takes what the voters said when this node's vote was `ballot`. Whether to stand now; the voters are
    /// not asked again before [`Self::stood`].
    pub(super) fn judge(
        &mut self,
        ballot: Ballot,
        verdict: Verdict,
        pace: Pace,
        now: Instant,
    ) -> bool {
        let campaigns = self.campaigns;
        let Some(episode) = self.episode.as_mut().filter(|e| e.ballot == ballot) else {
            return false;
        };
        episode.asking = false;
        let Verdict::Stand { rank } = verdict else {
            episode.could_stand = None;
            episode.ask_at = now
                + match verdict {
                    Verdict::Led(_) => limits::SURVEY_PAUSE_MAX,
                    Verdict::ElectionUnderWay => limits::ELECTION_SETTLES_WITHIN,
                    _ => pace.pause(episode.asked),
                };
            return false;
        };
        let since = *episode.could_stand.get_or_insert(now);
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        let turns = rank.saturating_add(campaigns.min(1));
        let due = since + pace.turn(campaigns) * turns.min(limits::CAMPAIGN_TURNS_MAX);
        if now < due {
            // Logs may still grow by what was under way, and the order of the voters with them.
            episode.ask_at = due.min(now + pace.pause(episode.asked));
            return false;
        }
        self.campaigns += 1;
        episode.could_stand = None;
        episode.asking = true;
        true
    }

    /// This node has stood, or has given up to, when its vote was `ballot`.
    pub(super) fn stood(&mut self, ballot: Ballot, pace: Pace, now: Instant) {
        // The campaign changes the vote, which is another episode. If it does not, it is tried again.
        if let Some(episode) = self.episode.as_mut().filter(|e| e.ballot == ballot) {
            episode.asking = false;
            let turn = pace.turn(self.campaigns.saturating_sub(1));
            episode.ask_at = now + limits::ELECTION_SETTLES_WITHIN + turn;
        }
    }
}

impl Episode {
    /// Nobody was asked yet because the vote is so new.
    fn ballot_is_fresh(&self) -> bool {
        self.asked == 0
    }
}
