//! The detector without its sockets: from messages and time to suspicions.
//!
//! ```text
//!   connections made, closed, refused ─┐              ┌─▶ Action: dial, send, close, tell the log
//!   messages ──────────────────────────┼─▶ Machine ───┤
//!   the time ── tick ──────────────────┘              └─▶ Views
//! ```
//!
//! Whoever runs it says that it woke, then gives it all that has come, and then a tick, which judges: a
//! detector that was late reads first what came meanwhile. It notices that it is late because it asked for
//! the tick at a certain time; what came meanwhile tells nothing of the time that it took.
//!
//! - No clock, no sockets and no randomness here.
//! - A peer is suspected and cleared in [`Machine::tick`] only.

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use super::{
    message::{Kind, Message, Told},
    patience::Lateness,
    peer::{Attempt, Connection, ConnectionId, Failure, Peer, Suspected, same_stall},
    report::Measured,
    time::Time,
    views::{Evidence, Stall, Suspicion, Views},
    vitals::Part,
};
use crate::{limits, raft::NodeId};

/// What whoever runs the machine has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Connect to the peer; to be answered by [`Machine::connected`] or [`Machine::ended`].
    Dial {
        peer: NodeId,
        connection: ConnectionId,
    },
    /// Send it, or drop it if an earlier one still waits.
    Send {
        connection: ConnectionId,
        message: Message,
    },
    /// Close it. The machine has forgotten it already.
    Close { connection: ConnectionId },
    /// Tell the operator.
    Report { peer: NodeId, news: News },
}

/// What an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Its process does not exist any more.
    Gone,
    /// It said goodbye.
    Left,
    /// It is suspected after a silence of so long, where so long is borne.
    Silent {
        silence: Duration,
        patience: Duration,
    },
    /// It is not any more.
    Back { after: Duration },
}

/// The detector of one node.
pub(super) struct Machine {
    me: NodeId,
    session: u64,
    peers: BTreeMap<NodeId, Peer>,
    lateness: Lateness,
    stall: Option<(Part, Time)>,
    next_beat: Time,
    /// When the next tick was asked for.
    due: Time,
    /// It came much later.
    is_late: bool,
    connections: BTreeMap<ConnectionId, NodeId>,
    connections_made: u64,
    actions: Vec<Action>,
}

impl Machine {
    /// The detector of `me`, in its start `session`, which is not 0.
    pub fn new(
        me: NodeId,
        session: u64,
        peers: impl IntoIterator<Item = NodeId>,
        now: Time,
    ) -> Self {
        assert_ne!(session, 0, "0 is a node that was never met");
        let peers = peers.into_iter().filter(|peer| *peer != me);
        Self {
            me,
            session,
            peers: peers.map(|id| (id, Peer::new(id, now))).collect(),
            lateness: Lateness::default(),
            stall: None,
            next_beat: now,
            due: now,
            is_late: false,
            connections: BTreeMap::new(),
            connections_made: 0,
            actions: Vec::new(),
        }
    }

    /// The start of this node.
    #[cfg(test)]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// What is to be done, in order.
    pub fn actions(&mut self) -> Vec<Action> {
        mem::take(&mut self.actions)
    }

    /// When the next tick is due at the latest.
    pub fn due(&self) -> Time {
        self.due
    }

    // ---- what comes -------------------------------------------------------------------------------

    /// The thread runs. It may be late, and it still is as long as there is something left to read of before.
    pub fn woke(&mut self, has_unread: bool, now: Time) {
        self.is_late &= has_unread;
        if now < self.due {
            return;
        }
        let late = now.since(self.due);
        self.lateness.measured(late, now);
        if late >= limits::OWN_DELAY_MIN {
            self.is_late = true;
            for peer in self.peers.values_mut() {
                peer.excuse(late, now);
            }
        }
    }

    /// A peer has connected, in its start `session`. Nothing if it is none.
    pub fn accepted(&mut self, peer: NodeId, session: u64, now: Time) -> Option<ConnectionId> {
        let id = self.new_connection();
        let peer = self.peers.get_mut(&peer)?;
        let useless = peer.accepted(Connection::new(id, Some(session), now));
        self.connections.insert(id, peer.id);
        useless.into_iter().for_each(|id| self.close(id, now));
        Some(id)
    }

    /// A connection that was dialed is made.
    pub fn connected(&mut self, id: ConnectionId, now: Time) {
        if let Some(peer) = self.peer_of(id) {
            peer.connected(id, now);
            let peer = peer.id;
            // At once, so that it is answered soon.
            self.beat(peer, id, now);
        }
    }

    /// A connection is closed, or could not be made.
    pub fn ended(&mut self, id: ConnectionId, failure: Failure, now: Time) {
        if let Some(peer) = self.peer_of(id) {
            peer.ended(id, failure, now);
            self.connections.remove(&id);
        }
    }

    /// A message has come.
    pub fn received(&mut self, id: ConnectionId, message: &Message, now: Time) {
        let is_late = self.is_late;
        if let Some(peer) = self.peer_of(id) {
            let useless = peer.received(id, message, is_late, now);
            useless.into_iter().for_each(|id| self.close(id, now));
        }
    }

    fn peer_of(&mut self, id: ConnectionId) -> Option<&mut Peer> {
        self.peers.get_mut(self.connections.get(&id)?)
    }

    fn new_connection(&mut self) -> ConnectionId {
        self.connections_made += 1;
        ConnectionId(self.connections_made)
    }

    fn close(&mut self, id: ConnectionId, now: Time) {
        if self.connections.contains_key(&id) {
            self.ended(id, Failure::Other, now);
            self.actions.push(Action::Close { connection: id });
        }
    }

    // ---- time -------------------------------------------------------------------------------------

    /// Judges, dials and beats, as far as it is due. All that has come is known already. `stall` is the
    /// part of this node that has not got on for longest.
    pub fn tick(&mut self, stall: Option<(Part, Duration)>, now: Time) {
        self.stall = stall
            .filter(|(_, age)| *age >= limits::STALL_TOLD_MIN)
            .map(|(part, age)| same_stall(self.stall, (part, now.before(age))));
        let accepts = !matches!(self.stall, Some((Part::EventLoop, _)));
        let own_lateness = self.lateness.bound();
        let mut changed = false;
        let mut to_dial = Vec::new();
        let mut overdue = Vec::new();
        for peer in self.peers.values_mut() {
            if !accepts {
                peer.excuse_incoming(now);
            }
            let patience = peer.patience(own_lateness);
            let before = peer.suspicion;
            if peer.judge(patience, now) {
                changed = true;
                let news = news(before, peer, patience, now);
                self.actions.extend(news.map(|news| Action::Report {
                    peer: peer.id,
                    news,
                }));
            }
            overdue.extend(peer.overdue(patience, now));
            if peer.wants_to_dial(patience, now) {
                to_dial.push(peer.id);
            }
        }
        for (id, failure) in overdue {
            self.ended(id, failure, now);
            self.actions.push(Action::Close { connection: id });
        }
        to_dial.into_iter().for_each(|peer| self.dial(peer, now));
        self.send(changed, now);
        self.due = self.next_tick(now);
    }

    fn dial(&mut self, peer: NodeId, now: Time) {
        let id = self.new_connection();
        let Some(peer) = self.peers.get_mut(&peer) else {
            return;
        };
        peer.attempt = Some(Attempt {
            connection: Connection::new(id, None, now),
            connected: false,
        });
        self.connections.insert(id, peer.id);
        self.actions.push(Action::Dial {
            peer: peer.id,
            connection: id,
        });
    }

    /// Answers, beats if it is time, and tells everybody at once if this node has changed its mind.
    fn send(&mut self, changed: bool, now: Time) {
        let beats = now >= self.next_beat;
        if beats {
            self.next_beat = now + limits::BEAT_INTERVAL;
        }
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            let mut to: Vec<_> = peer
                .connections()
                .filter(|connection| connection.owes_answer || changed)
                .map(|connection| connection.id)
                .collect();
            if beats && !changed {
                to.extend(peer.dialed().map(|connection| connection.id));
            }
            for connection in to {
                self.beat(id, connection, now);
            }
        }
    }

    /// Says goodbye to everybody: this node stops, and leads nothing any more.
    pub fn goodbye(&mut self, now: Time) {
        let mut messages = Vec::new();
        let message = self.message(Kind::Goodbye, now);
        for peer in self.peers.values_mut() {
            messages.extend(peer.connections().map(|connection| Action::Send {
                connection: connection.id,
                message: message.clone(),
            }));
        }
        self.actions.append(&mut messages);
    }

    fn beat(&mut self, peer: NodeId, on: ConnectionId, now: Time) {
        let mut message = self.message(Kind::Beat, now);
        let peer = self.peers.get_mut(&peer);
        let connection = peer.and_then(|peer| peer.connections().find(|open| open.id == on));
        let Some(connection) = connection else {
            return;
        };
        connection.owes_answer = false;
        connection.sent_at = Some(now);
        if let Some((sent_at, came_at)) = connection.heard {
            message.echo = Some(sent_at);
            message.held = came_at.map(|came_at| now.since(came_at));
        }
        self.actions.push(Action::Send {
            connection: on,
            message,
        });
    }

    fn message(&self, kind: Kind, now: Time) -> Message {
        let suspicions = self.peers.values().filter_map(|peer| peer.suspicion);
        Message {
            kind,
            session: self.session,
            sent_at: now,
            echo: None,
            held: None,
            lateness: self.lateness.bound(),
            stall: self.stall.map(|(part, since)| (part, now.since(since))),
            suspicions: suspicions
                .map(|suspected| Told {
                    subject: suspected.subject,
                    evidence: suspected.evidence,
                    session: suspected.session,
                    age: now.since(suspected.since),
                })
                .collect(),
        }
    }

    /// When something is due next: a beat, a dial, a verdict.
    fn next_tick(&self, now: Time) -> Time {
        let own_lateness = self.lateness.bound();
        let mut next = self.next_beat;
        for peer in self.peers.values() {
            if peer.suspicion.is_none() {
                let verdict = peer.silent_at(peer.patience(own_lateness));
                next = next.min(verdict + Duration::from_micros(1));
            }
            if peer.attempt.is_none() && peer.outgoing.is_none() {
                next = next.min(peer.dial_at);
            }
        }
        next.max(now)
    }

    // ---- what is known ----------------------------------------------------------------------------

    /// What this node knows, for a detector that started at `start`.
    pub fn views(&self, start: Instant) -> Views {
        let mut views = Views::new(self.me).with_word(self.me, self.session);
        let mine = self.peers.values().filter_map(|peer| peer.suspicion);
        for suspected in mine {
            let suspicion = suspicion(&suspected, start);
            views = views.with_suspicion(self.me, suspected.subject, suspicion);
        }
        if let Some(stall) = self.stall {
            views = views.with_stall(self.me, on_clock(stall, start));
        }
        for peer in self.peers.values() {
            let (Some(session), Some(word)) = (peer.session(), &peer.word) else {
                continue;
            };
            views = views.with_word(peer.id, session);
            for suspected in &word.suspicions {
                let suspicion = suspicion(suspected, start);
                views = views.with_suspicion(peer.id, suspected.subject, suspicion);
            }
            if let Some(stall) = word.stall {
                views = views.with_stall(peer.id, on_clock(stall, start));
            }
        }
        views
    }

    /// What was measured of the peers, for a detector that started at `start`.
    pub fn measured(&self, start: Instant) -> impl Iterator<Item = (NodeId, Measured)> {
        let own_lateness = self.lateness.bound();
        self.peers.values().map(move |peer| {
            let measured = Measured {
                round_trip: peer.round_trip.mean(),
                patience: peer.patience(own_lateness),
                heard: peer.proved_at().map(|at| at.on(start)),
                alive_since: peer.alive_since().map(|at| at.on(start)),
            };
            (peer.id, measured)
        })
    }
}

fn suspicion(suspected: &Suspected, start: Instant) -> Suspicion {
    Suspicion {
        evidence: suspected.evidence,
        session: suspected.session,
        since: suspected.since.on(start),
    }
}

fn on_clock((part, since): (Part, Time), start: Instant) -> Stall {
    Stall {
        part,
        since: since.on(start),
    }
}

/// What is new for an operator. A peer that was never met is none: it has not been started yet. Nor is it
/// that one who is suspected for its silence turns out to be gone.
fn news(before: Option<Suspected>, peer: &Peer, patience: Duration, now: Time) -> Option<News> {
    match (before, peer.suspicion) {
        (None, Some(suspected)) => {
            let silence = peer.silence(now)?;
            Some(match suspected.evidence {
                Evidence::Gone if peer.has_left() => News::Left,
                Evidence::Gone => News::Gone,
                Evidence::Silent => News::Silent { silence, patience },
            })
        }
        (Some(suspected), None) => (suspected.session != 0).then(|| News::Back {
            after: now.since(suspected.since),
        }),
        _ => None,
    }
}
