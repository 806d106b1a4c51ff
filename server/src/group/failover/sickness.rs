//! Leaders whose node is sick by its own word: its log does not sync, its state machine or its event loop
//! does not get on, or it does not hear a majority of the voters though it is heard itself.
//!
//! Such a leader hands over to the voter that has most of the log, if one is well. If it does not get
//! that done, the others stand against it as if it were dead, provided that a majority of the voters
//! besides it is well: on a disk that all share nobody moves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Failover, Watched};
use crate::{
    detector::Views,
    group::{Group, HandOverError},
    limits,
    raft::NodeId,
};

/// Whether a node gets on, as far as it is heard and says.
pub(in crate::group) fn is_well(views: &Views, node: NodeId) -> bool {
    views.suspicion(views.me(), node).is_none()
        && views
            .stall(node)
            .is_none_or(|stall| stall < limits::WELL_STALL_MAX)
}

/// Whether a leader on this node should have handed over by now, to voters that could take it.
pub(super) fn is_overdue(views: &Views, node: NodeId, voters: &[NodeId]) -> bool {
    let stall = views.stall(node);
    let others = voters.iter().filter(|voter| **voter != node);
    stall.is_some_and(|stall| stall >= limits::SICK_OVERDUE_AFTER)
        && others.filter(|voter| is_well(views, **voter)).count() > voters.len() / 2
}

/// Whether a node says itself that it hears no majority of these voters, and has not for a while. What it
/// sends arrives, and no answer gets back to it.
pub(super) fn hears_no_quorum(views: &Views, node: NodeId, voters: &[NodeId]) -> bool {
    let hears = |voter: &&NodeId| {
        let suspicion = views.suspicion(node, **voter);
        suspicion.is_none_or(|suspicion| suspicion.since.elapsed() < limits::POWERLESS_AFTER)
    };
    views.heard().any(|heard| heard == node)
        && voters.iter().filter(hears).count() <= voters.len() / 2
}

/// When stalls that go on, and suspicions that are young, are to be looked at again.
pub(super) fn next_look(views: &Views, now: Instant) -> Option<Instant> {
    let young = |observer: NodeId, subject: NodeId| {
        let suspicion = views.suspicion(observer, subject);
        suspicion.is_some_and(|suspicion| suspicion.since.elapsed() < 2 * limits::POWERLESS_AFTER)
    };
    let suspected: Vec<NodeId> = views.suspicions().map(|(node, _)| node).collect();
    let mut heard = views.heard();
    let changes = heard.any(|node| {
        let others = views.heard().chain(suspected.iter().copied());
        views.stall(node).is_some() || others.into_iter().any(|other| young(node, other))
    });
    changes.then(|| now + limits::SICK_LOOK_EVERY)
}

impl Failover {
    /// Hands the leadership of a group over if this node leads it and is sick.
    pub(super) fn hand_over_if_sick(
        self: &Arc<Self>,
        watched: &mut Watched,
        group: &Arc<Group>,
        views: &Views,
        now: Instant,
    ) {
        let Some(stalled) = views.stalled(self.me) else {
            return;
        };
        let sick = now.duration_since(stalled.since) >= limits::SICK_AFTER;
        let tried = watched.handed_over_at.map(|at| now.duration_since(at));
        let again = tried.is_none_or(|age| age >= limits::SICK_HAND_OVER_EVERY);
        if !sick || !again || group.leadership().borrow().leader != Some(self.me) {
            return;
        }
        let status = group.status();
        let well = |node: NodeId| status.voters.contains(&node) && is_well(views, node);
        let matched = status.matched.iter();
        let target = matched
            .filter(|(node, _)| **node != self.me && well(**node))
            .max_by_key(|(_, matched)| **matched);
        let Some((&target, _)) = target else {
            return;
        };
        watched.handed_over_at = Some(now);
        let (failover, group) = (self.clone(), group.clone());
        tokio::spawn(async move {
            let Ok(_place) = failover.hand_overs.acquire().await else {
                return;
            };
            let deadline = Instant::now() + limits::SICK_OVERDUE_AFTER - limits::SICK_AFTER;
            tell(
                &group,
                stalled.part,
                group.hand_over(Some(target), deadline).await,
            );
        });
    }
}

fn tell(group: &Group, part: crate::detector::Part, done: Result<NodeId, HandOverError>) {
    let group = group.id();
    match done {
        Ok(leader) => tracing::warn!(
            group,
            leader,
            ?part,
            "leadership handed over, because a part of this node does not get on"
        ),
        Err(HandOverError::NotLeader(_)) => {}
        Err(error) => tracing::warn!(
            group,
            ?part,
            %error,
            "a part of this node does not get on, and the leadership was not handed over"
        ),
    }
}

/// Checked by the compiler: a stall is told before it counts, and there is time to hand over.
const _: () = {
    assert!(limits::WELL_STALL_MAX.as_millis() < limits::SICK_AFTER.as_millis());
    assert!(limits::SICK_AFTER.as_millis() < limits::SICK_OVERDUE_AFTER.as_millis());
    assert!(Duration::ZERO.as_millis() < limits::SICK_LOOK_EVERY.as_millis());
};
