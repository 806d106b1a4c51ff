//! The connections with a peer: which are there, and when this node makes another one.
//!
//! - While nothing is open, a closed port is asked again and again: that it refuses is evidence.
//! - What does not answer is asked seldom: each attempt stays in the queue of a process that is stopped. But
//!   if the peer is known to live, the connection is at fault, and another one is made soon.
//! - A connection that is doubted goes only when another one is answered.

use std::time::Duration;

use super::{Connection, ConnectionId, Failure, Peer};
use crate::{detector::time::Time, limits};

impl Peer {
    /// The peer has made a connection. Returns one that has to go for it.
    pub fn accepted(&mut self, connection: Connection) -> Option<ConnectionId> {
        let full = self.incoming.len() >= limits::DETECTOR_INCOMING_PER_PEER_MAX;
        let oldest = full.then(|| self.incoming.remove(0).id);
        self.incoming.push(connection);
        oldest
    }

    /// A connection is made.
    pub fn connected(&mut self, id: ConnectionId, now: Time) {
        if let Some(attempt) = &mut self.attempt
            && attempt.connection.id == id
        {
            attempt.connected = true;
            attempt.connection.since = now;
            self.refused = false;
        }
    }

    /// A connection is closed, or could not be made.
    pub fn ended(&mut self, id: ConnectionId, failure: Failure, now: Time) {
        let was_open = self.is_open();
        let mut lived = false;
        if let Some(attempt) = self.attempt.take_if(|attempt| attempt.connection.id == id) {
            self.refused |= failure == Failure::Refused && !attempt.connected;
            self.failed(failure, now);
        } else if let Some(outgoing) = self.outgoing.take_if(|outgoing| outgoing.id == id) {
            lived = now.since(outgoing.since) > limits::DIAL_LASTS_MIN;
            self.failed(failure, now);
        } else if let Some(at) = self.incoming.iter().position(|open| open.id == id) {
            lived = self.incoming.remove(at).echoed.is_some();
        }
        if lived {
            self.failures = 0;
            self.dial_at = now;
        }
        if was_open && !self.is_open() {
            // What was refused before says nothing of now.
            self.refused = false;
        }
    }

    pub(super) fn is_open(&self) -> bool {
        let attempt = self
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.connected);
        attempt || self.outgoing.is_some() || !self.incoming.is_empty()
    }

    fn failed(&mut self, failure: Failure, now: Time) {
        let longest = match failure {
            Failure::Refused | Failure::Other => limits::DIAL_PAUSE_REFUSED_MAX,
            Failure::Unanswered => limits::DIAL_PAUSE_SILENT_MAX,
        };
        // At once the first time: the port of a process that ends may be closed last.
        let doubled = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(before) => limits::DIAL_PAUSE_MIN * (1 << before.min(16)),
        };
        self.failures += 1;
        self.dial_at = now + doubled.min(longest);
    }

    /// The attempt that has taken too long, and what is wrong with it.
    pub fn overdue(&self, patience: Duration, now: Time) -> Option<(ConnectionId, Failure)> {
        let attempt = self.attempt.as_ref()?;
        let (longest, failure) = if !attempt.connected {
            (limits::DIAL_MAX, Failure::Other)
        } else if self.lives(patience, now) {
            let longest = limits::DIAL_ANSWER_MAX.min(2 * patience);
            (longest, Failure::Other)
        } else {
            (limits::DIAL_ANSWER_MAX, Failure::Unanswered)
        };
        let is_over = now.since(attempt.connection.since) > longest;
        is_over.then_some((attempt.connection.id, failure))
    }

    /// Whether another connection is to be made now.
    pub fn wants_to_dial(&mut self, patience: Duration, now: Time) -> bool {
        if self.lives(patience, now) {
            self.dial_at = self.dial_at.min(now + limits::DIAL_PAUSE_REFUSED_MAX);
        }
        self.attempt.is_none() && now >= self.dial_at && self.doubts_outgoing(patience, now)
    }

    /// Whether the outgoing connection does not answer though the peer may live: another one could.
    fn doubts_outgoing(&self, patience: Duration, now: Time) -> bool {
        self.outgoing.as_ref().is_none_or(|outgoing| {
            let answered = outgoing
                .echoed
                .unwrap_or(outgoing.since)
                .max(outgoing.since);
            now.since(answered.max(self.counts_from)) > 2 * patience
        })
    }

    fn lives(&self, patience: Duration, now: Time) -> bool {
        self.silence(now).is_some_and(|silence| silence <= patience)
    }
}
