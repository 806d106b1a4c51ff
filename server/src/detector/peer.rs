//! What a detector knows of one peer, and its connections with it.
//!
//! ```text
//!   this node ── outgoing (and an attempt at a better one) ──▶ peer      beats, answered at once
//!   this node ◀── incoming, dialed by the peer ──────────────── peer     beats, answered at once
//! ```
//!
//! A sign of life is a message that echoes one of this node's, and it is as old as that one: bytes that
//! were held up on the way, or a process that died meanwhile, prove nothing of now. That also tells
//! starts of a node apart, without numbers that must grow: what a dead one sent cannot echo what came
//! after it.
//!
//! On a connection of its own a peer proves besides that it reaches this node, as a leader must. So a peer
//! that only answers is suspected too, though later.

use std::time::Duration;

use super::{
    message::{Kind, Message, Told},
    patience::{RoundTrip, patience},
    time::Time,
    views::Evidence,
    vitals::Part,
};
use crate::{limits, raft::NodeId};

mod dialing;

/// A connection, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(pub u64);

/// A connection that is open.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    /// The start of the peer at its other end, once it is known.
    pub session: Option<u64>,
    /// When it was made.
    pub since: Time,
    /// When the latest message was sent on it.
    pub sent_at: Option<Time>,
    /// The latest of this node's messages that was echoed on it.
    pub echoed: Option<Time>,
    /// `sent_at` of the latest message that came, and when it came; nobody knows when if this detector
    /// was late to read it.
    pub heard: Option<(Time, Option<Time>)>,
    /// A beat came that is not answered yet.
    pub owes_answer: bool,
}

impl Connection {
    pub fn new(id: ConnectionId, session: Option<u64>, since: Time) -> Self {
        Self {
            id,
            session,
            since,
            sent_at: None,
            echoed: None,
            heard: None,
            owes_answer: false,
        }
    }
}

/// A connection that is being made, and whether it is made already and waits for its first echo.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub connection: Connection,
    pub connected: bool,
}

/// The word of a peer, as it was last told.
#[derive(Clone, Debug)]
pub(super) struct Word {
    sent_at: Time,
    lateness: Duration,
    pub stall: Option<(Part, Time)>,
    pub suspicions: Vec<Suspected>,
}

/// A suspicion, on the clock of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspected {
    pub subject: NodeId,
    pub evidence: Evidence,
    pub session: u64,
    pub since: Time,
}

/// How an attempt to connect went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens there.
    Refused,
    /// Anything else that says nothing of the process: no way there, closed at once.
    Other,
    /// It was made, and nobody answers on it.
    Unanswered,
}

/// One peer.
///
/// - `session` is the start that gave the newest sign of life, `proved_at` the time of that sign; both are
///   there or neither.
/// - `word` is there only while the peer is not suspected.
/// - `refused` is of an attempt that was made when no connection was open any more, and none is since.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub id: NodeId,
    session: Option<u64>,
    proved_at: Option<Time>,
    /// The same on a connection of the peer's own; the start of the session if there was none in it.
    proved_incoming_at: Time,
    /// Silence counts from here at the earliest, and silence on incoming connections.
    counts_from: Time,
    incoming_counts_from: Time,
    restarts: u32,
    /// Since when it has been alive without a break, once it was heard.
    alive_since: Option<Time>,
    /// The start that said goodbye.
    left: Option<u64>,
    pub round_trip: RoundTrip,
    /// When this detector was late last: an answer to what it sent before was held up here.
    excused_at: Time,
    pub word: Option<Word>,
    pub suspicion: Option<Suspected>,

    pub outgoing: Option<Connection>,
    pub attempt: Option<Attempt>,
    pub incoming: Vec<Connection>,
    refused: bool,
    pub dial_at: Time,
    failures: u32,
}

impl Peer {
    pub fn new(id: NodeId, now: Time) -> Self {
        Self {
            id,
            session: None,
            proved_at: None,
            proved_incoming_at: now,
            counts_from: now + limits::MEETING_GRACE,
            incoming_counts_from: now,
            restarts: 0,
            alive_since: None,
            left: None,
            round_trip: RoundTrip::default(),
            excused_at: Time::default(),
            word: None,
            suspicion: None,
            outgoing: None,
            attempt: None,
            incoming: Vec::new(),
            refused: false,
            dial_at: now,
            failures: 0,
        }
    }

    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// Connections on which messages may be sent.
    pub fn connections(&mut self) -> impl Iterator<Item = &mut Connection> {
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.connected);
        let attempt = attempt.map(|attempt| &mut attempt.connection);
        let outgoing = self.outgoing.iter_mut().chain(attempt);
        outgoing.chain(self.incoming.iter_mut())
    }

    /// Those of them that this node dialed.
    pub fn dialed(&mut self) -> impl Iterator<Item = &mut Connection> {
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.connected);
        let attempt = attempt.map(|attempt| &mut attempt.connection);
        self.outgoing.iter_mut().chain(attempt)
    }

    // ---- what comes -------------------------------------------------------------------------------

    /// A message has come, some time before now if this detector is late. Returns the connections that have
    /// no use any more: of another start of the peer, or worse than the one it came on.
    pub fn received(
        &mut self,
        id: ConnectionId,
        message: &Message,
        is_late: bool,
        now: Time,
    ) -> Vec<ConnectionId> {
        let is_incoming = self.incoming.iter().any(|incoming| incoming.id == id);
        let Some(connection) = self.connections().find(|connection| connection.id == id) else {
            return Vec::new();
        };
        if *connection.session.get_or_insert(message.session) != message.session {
            return vec![id];
        }
        connection.heard = Some((message.sent_at, (!is_late).then_some(now)));
        connection.owes_answer = is_incoming && message.kind == Kind::Beat;
        let sent_at = connection.sent_at;
        let echo = message
            .echo
            .filter(|echo| Some(*echo) > connection.echoed && Some(*echo) <= sent_at);
        connection.echoed = echo.or(connection.echoed);
        if self.left == Some(message.session) {
            return Vec::new();
        }
        let mut useless = Vec::new();
        if let Some(echo) = echo {
            if let Some(held) = message.held
                && !is_late
                && echo > self.excused_at
            {
                let round_trip = now.since(echo).saturating_sub(held);
                self.round_trip.measured(round_trip, now);
            }
            useless = self.proved(message.session, echo, is_incoming, now);
            useless.extend(self.promote(id));
        }
        if self.session == Some(message.session) {
            match message.kind {
                Kind::Goodbye => self.left = self.session,
                Kind::Beat => self.told(message, now),
            }
        }
        useless
    }

    /// The start `session` lived when this node sent what it echoes.
    fn proved(
        &mut self,
        session: u64,
        at: Time,
        on_incoming: bool,
        now: Time,
    ) -> Vec<ConnectionId> {
        let mut of_other_starts = Vec::new();
        if self.session != Some(session) {
            if self.proved_at.is_some_and(|proved_at| proved_at >= at) {
                return Vec::new();
            }
            self.session = Some(session);
            self.alive_since = Some(now);
            self.proved_at = None;
            self.word = None;
            self.proved_incoming_at = now;
            let others = self.connections().filter(|other| match other.session {
                Some(other) => other != session,
                // An attempt at the process before.
                None => true,
            });
            of_other_starts = others.map(|connection| connection.id).collect();
            self.failures = 0;
        }
        self.proved_at = self.proved_at.max(Some(at));
        // The grace of a peer that was never met is over.
        self.counts_from = self.counts_from.min(now);
        if on_incoming {
            self.proved_incoming_at = self.proved_incoming_at.max(at);
        }
        if at > self.counts_from {
            self.restarts = 0;
        }
        of_other_starts
    }

    /// An attempt that is answered takes the place of the outgoing connection.
    fn promote(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        let attempt = self
            .attempt
            .take_if(|attempt| attempt.connection.id == id)?;
        let before = self.outgoing.replace(attempt.connection);
        before.map(|before| before.id)
    }

    fn told(&mut self, message: &Message, now: Time) {
        if self.suspicion.is_some()
            || self
                .word
                .as_ref()
                .is_some_and(|w| w.sent_at >= message.sent_at)
        {
            return;
        }
        let before = self.word.take();
        let known = |told: &Told| {
            let before = before.as_ref()?.suspicions.iter();
            before.copied().find(|s| {
                (s.subject, s.evidence, s.session) == (told.subject, told.evidence, told.session)
            })
        };
        let suspicions = message.suspicions.iter().map(|told| {
            known(told).unwrap_or(Suspected {
                subject: told.subject,
                evidence: told.evidence,
                session: told.session,
                since: now.before(told.age),
            })
        });
        let suspicions = suspicions.collect();
        let stall = message.stall.map(|(part, age)| {
            let known = before.as_ref().and_then(|word| word.stall);
            same_stall(known, (part, now.before(age)))
        });
        self.word = Some(Word {
            sent_at: message.sent_at,
            lateness: message.lateness,
            stall,
            suspicions,
        });
    }

    // ---- judgement --------------------------------------------------------------------------------

    /// How long the peer may be silent.
    pub fn patience(&self, own_lateness: Duration) -> Duration {
        let theirs = self
            .word
            .as_ref()
            .map_or(Duration::ZERO, |word| word.lateness);
        patience(&self.round_trip, own_lateness, theirs)
    }

    /// This detector was not scheduled: what it did not hear meanwhile speaks against nobody.
    pub fn excuse(&mut self, delay: Duration, now: Time) {
        self.excused_at = now;
        if self.restarts < limits::SILENCE_RESTARTS_MAX {
            self.restarts += 1;
            self.counts_from = self.counts_from.max(now);
        } else {
            let counted = self.counts_from.max(self.proved_at.unwrap_or_default());
            self.counts_from = (counted + delay).min(now);
        }
    }

    /// This node does not accept connections: that the peer's own do not come speaks against nobody.
    pub fn excuse_incoming(&mut self, now: Time) {
        self.incoming_counts_from = now;
    }

    /// How old the newest sign of life is.
    pub fn silence(&self, now: Time) -> Option<Duration> {
        Some(now.since(self.proved_at?))
    }

    /// When the newest sign of life was given.
    pub fn proved_at(&self) -> Option<Time> {
        self.proved_at
    }

    /// Since when it has been alive without a break, once it was heard.
    pub fn alive_since(&self) -> Option<Time> {
        self.alive_since
    }

    /// When the peer will be silent for too long, if nothing comes.
    pub fn silent_at(&self, patience: Duration) -> Time {
        let Some(proved_at) = self.proved_at else {
            return self.counts_from + patience;
        };
        let any = proved_at.max(self.counts_from) + patience;
        let incoming = self
            .proved_incoming_at
            .max(self.counts_from)
            .max(self.incoming_counts_from);
        any.min(incoming + one_way(patience))
    }

    /// Whether the start that was heard last has said goodbye.
    pub fn has_left(&self) -> bool {
        self.left.is_some() && self.left == self.session
    }

    fn is_gone(&self) -> bool {
        self.has_left() || (self.refused && !self.is_open())
    }

    /// Looks at the evidence. Returns whether the suspicion has changed.
    pub fn judge(&mut self, patience: Duration, now: Time) -> bool {
        let before = self.suspicion;
        let session = self.session.unwrap_or(0);
        let evidence = if self.is_gone() {
            Some(Evidence::Gone)
        } else {
            (now > self.silent_at(patience)).then_some(Evidence::Silent)
        };
        self.suspicion = match before {
            None => evidence.map(|evidence| Suspected {
                subject: self.id,
                evidence,
                session,
                since: now,
            }),
            Some(_) if self.is_back(patience, now) => None,
            Some(suspected) => Some(Suspected {
                evidence: suspected.evidence.max(evidence.unwrap_or(Evidence::Silent)),
                session,
                ..suspected
            }),
        };
        if self.suspicion.is_some() {
            self.word = None;
        } else if before.is_some() {
            self.alive_since = Some(now);
            // What it did not send while it was away does not count twice.
            self.incoming_counts_from = now;
            self.failures = 0;
            self.dial_at = now;
        }
        self.suspicion != before
    }

    /// Whether a peer that is suspected has given signs of life since, of the kinds that it lacked. To be
    /// excused is none.
    fn is_back(&self, patience: Duration, now: Time) -> bool {
        let (Some(suspected), Some(proved_at)) = (&self.suspicion, self.proved_at) else {
            return false;
        };
        let since_then = suspected.evidence != Evidence::Gone
            || self.session != Some(suspected.session)
            || proved_at >= suspected.since;
        let fresh = now.since(proved_at) <= patience;
        let reaches = now.since(self.proved_incoming_at) <= one_way(patience);
        !self.is_gone() && since_then && fresh && reaches
    }
}

/// The stall that is told, or the known one if it is the same: its age was measured by another clock.
pub(super) fn same_stall(known: Option<(Part, Time)>, told: (Part, Time)) -> (Part, Time) {
    let is_same = |known: &(Part, Time)| {
        let apart = told.1.since(known.1).max(known.1.since(told.1));
        known.0 == told.0 && apart < limits::STALL_TOLD_MIN
    };
    known.filter(is_same).unwrap_or(told)
}

fn one_way(patience: Duration) -> Duration {
    (4 * patience).max(limits::ONE_WAY_SILENCE_MIN)
}
