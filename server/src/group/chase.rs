//! The chase after the leader: whom a request asks next, and when the asking ends.
//!
//! ```text
//!   ask ─▶ who was named as the leader, or is known ─▶ answer ─▶ done, or another is named ─┐
//!    ▲                 │ leads no longer, out of time                                       │
//!    └──── again: at once if one is named, else when the leadership changes or after a moment ◀┘
//! ```
//!
//! Writes and reads chase in the same way. What an attempt that was broken off means is theirs to say: a
//! read asks anew, a write may have been appended.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Group, left};
use crate::raft::{Leadership, NodeId};

/// How long after a leader was replaced its answer may still arrive, if it lives and the request may be sent
/// to the next one as well.
const GRACE: Duration = Duration::from_millis(50);
/// Whoever was asked in vain may simply not know yet: how long until it is asked again.
const PAUSE: Duration = Duration::from_millis(10);

/// One request after the leader.
pub(super) struct Chase<'a> {
    group: &'a Group,
    /// What was seen of the leadership when the last attempt began.
    leadership: watch::Receiver<Leadership>,
    /// Who leads, according to whoever was asked last.
    hint: Option<NodeId>,
    deadline: Instant,
    /// The request must not be sent twice: whoever was asked is waited for as long as it lives.
    asks_once: bool,
}

/// How one attempt ended.
pub(super) enum Asked<T> {
    /// What the node that was asked answered.
    Answered(T),
    /// Another leads now, and nothing was answered.
    Deposed,
    /// Nobody is known to lead, so nobody was asked.
    NoLeader,
    /// The deadline passed, and nothing was answered.
    OutOfTime,
    /// The group does not run here any more, so nobody was asked.
    Stopped(String),
}

impl Group {
    /// A chase that ends by `deadline`.
    pub(super) fn chase(&self, deadline: Instant) -> Chase<'_> {
        Chase {
            group: self,
            leadership: self.leadership(),
            hint: None,
            deadline,
            asks_once: false,
        }
    }
}

impl Chase<'_> {
    /// A leader that was replaced and lives is waited for, instead of leaving open what became of the
    /// request: it answers once its disk goes on, or once it learns that the entry is gone.
    #[must_use]
    pub(super) fn asking_once(mut self, asks_once: bool) -> Self {
        self.asks_once = asks_once;
        self
    }

    /// Asks whoever is to be asked, until it answers, is replaced, or the time is up.
    pub(super) async fn ask<F: Future>(
        &mut self,
        ask: impl FnOnce(NodeId) -> F,
    ) -> Asked<F::Output> {
        let (known, stopped) = {
            let now = self.leadership.borrow_and_update();
            (now.leader, now.stopped.clone())
        };
        if let Some(why) = stopped {
            return Asked::Stopped(why);
        }
        let Some(leader) = self.hint.take().or(known) else {
            return Asked::NoLeader;
        };
        tokio::select! {
            answer = ask(leader) => Asked::Answered(answer),
            () = self.deposed(leader) => Asked::Deposed,
            () = tokio::time::sleep(left(self.deadline)) => Asked::OutOfTime,
        }
    }

    /// Who is to be asked next, if the node that was asked named one.
    pub(super) fn hint(&mut self, other: Option<NodeId>) {
        self.hint = other;
    }

    /// Whether there is time to ask again; if so, once there is a reason to.
    pub(super) async fn again(&mut self) -> bool {
        if left(self.deadline).is_zero() {
            return false;
        }
        if self.hint.is_none() {
            // Both ends of the pause lead to the same next step.
            let _ = tokio::time::timeout(PAUSE, self.leadership.changed()).await;
        }
        true
    }

    /// Waits until the leadership has moved to another node than `leader`, and longer if it lives: a little,
    /// for an answer that is on its way may still arrive, or as long as it does, if nobody else may be asked.
    /// A leader that hangs answers nothing and breaks no connection.
    async fn deposed(&self, leader: NodeId) {
        let mut seen = self.leadership.clone();
        loop {
            if seen.changed().await.is_err() {
                // The group stops; whoever waits learns it from its own attempt.
                std::future::pending::<()>().await;
            }
            let now = seen.borrow_and_update().leader;
            if now.is_some_and(|node| node != leader) {
                break;
            }
        }
        let mut views = self.group.views.clone();
        while !self.group.is_dead(leader) {
            if !self.asks_once {
                return tokio::time::sleep(GRACE).await;
            }
            if views.changed().await.is_err() {
                // The node stops, and the connection to the leader with it.
                std::future::pending::<()>().await;
            }
        }
    }
}
