//! What this node sees of the others, for whoever operates it.
//!
//! [`Views`] is made to be acted on and says only what matters for that; this adds what was measured.
//! Measurements change with every beat, so nobody is told of them: who wants to know looks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Evidence, Part, Views};
use crate::raft::NodeId;

/// What was measured of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    /// The mean of the round trip of late.
    pub round_trip: Option<Duration>,
    /// How long it may be silent.
    pub patience: Duration,
    /// When it gave its newest sign of life.
    pub heard: Option<Instant>,
    /// Since when it has been alive without a break.
    pub alive_since: Option<Instant>,
}

/// What is measured of all peers.
pub(super) type Measurements = Arc<Mutex<BTreeMap<NodeId, Measured>>>;

/// Notes what was measured. Who reads at this moment gets what was measured a beat ago: the thread of a
/// detector does not wait.
pub(super) fn note(all: &Measurements, measured: impl Iterator<Item = (NodeId, Measured)>) {
    if let Some(mut all) = all.try_lock() {
        all.extend(measured);
    }
}

/// In which state a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was never heard of, and is not suspected yet.
    NotMet,
    /// It lives, and complains of nothing.
    Alive,
    /// This part of it does not get on, by its own word.
    Sick(Part),
    /// It is held for dead.
    Suspected(Evidence),
}

/// What this node sees of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The node.
    pub node: NodeId,
    /// In which state it is.
    pub state: State,
    /// For how long; nothing of one that was never met.
    pub since: Option<Duration>,
    /// The mean of the round trip of late.
    pub round_trip: Option<Duration>,
    /// How long it may be silent; nothing of this node.
    pub patience: Option<Duration>,
    /// Age of its newest sign of life; nothing of this node.
    pub heard: Option<Duration>,
}

/// Tells what a detector sees. Clones look at the same one.
#[derive(Clone)]
pub struct Reporter {
    pub(super) start: Instant,
    pub(super) views: watch::Receiver<Arc<Views>>,
    pub(super) measured: Measurements,
}

impl Reporter {
    /// Each node, by id, this one among them.
    pub fn report(&self) -> Vec<Report> {
        let views = self.views.borrow().clone();
        let measured = self.measured.lock().clone();
        let now = Instant::now();
        let mut reports: Vec<Report> = measured
            .iter()
            .map(|(node, measured)| of_peer(&views, *node, measured, now))
            .collect();
        reports.push(self.of_this_node(&views, now));
        reports.sort_by_key(|report| report.node);
        reports
    }

    fn of_this_node(&self, views: &Views, now: Instant) -> Report {
        let (state, since) = match views.stalled(views.me()) {
            Some(stall) => (State::Sick(stall.part), stall.since),
            None => (State::Alive, self.start),
        };
        Report {
            node: views.me(),
            state,
            since: Some(now.saturating_duration_since(since)),
            round_trip: None,
            patience: None,
            heard: None,
        }
    }
}

fn of_peer(views: &Views, node: NodeId, measured: &Measured, now: Instant) -> Report {
    let suspicion = views.suspicion(views.me(), node);
    let (state, since) = match (suspicion, views.stalled(node), measured.heard) {
        (Some(suspicion), _, _) => (State::Suspected(suspicion.evidence), Some(suspicion.since)),
        (None, Some(stall), _) => (State::Sick(stall.part), Some(stall.since)),
        (None, None, Some(_)) => (State::Alive, measured.alive_since),
        (None, None, None) => (State::NotMet, None),
    };
    let age = |at: Instant| now.saturating_duration_since(at);
    Report {
        node,
        state,
        since: since.map(age),
        round_trip: measured.round_trip,
        patience: Some(measured.patience),
        heard: measured.heard.map(age),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Stall, Suspicion},
        *,
    };

    fn reporter(views: Views, measured: Measured) -> Reporter {
        Reporter {
            start: Instant::now() - Duration::from_secs(60),
            views: watch::channel(Arc::new(views)).1,
            measured: Arc::new(Mutex::new(BTreeMap::from([(2, measured)]))),
        }
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now() - Duration::from_secs(seconds)
    }

    fn measured() -> Measured {
        Measured {
            round_trip: Some(Duration::from_micros(300)),
            patience: Duration::from_millis(200),
            heard: Some(ago(4)),
            alive_since: Some(ago(30)),
        }
    }

    /// State of node 2, and for how many seconds.
    fn seen(views: Views, measured: Measured) -> (State, Option<u64>) {
        let reports = reporter(views, measured).report();
        assert_eq!(reports.len(), 2);
        let report = reports[1];
        assert_eq!((report.node, report.patience), (2, Some(measured.patience)));
        (report.state, report.since.map(|since| since.as_secs()))
    }

    #[test]
    fn a_peer_is_alive_sick_or_suspected_since_a_moment() {
        assert_eq!(seen(Views::new(1), measured()), (State::Alive, Some(30)));
        let stall = Stall {
            part: Part::LogSync,
            since: ago(3),
        };
        let sick = Views::new(1).with_word(2, 7).with_stall(2, stall);
        assert_eq!(
            seen(sick.clone(), measured()),
            (State::Sick(Part::LogSync), Some(3))
        );
        for evidence in [Evidence::Silent, Evidence::Gone] {
            let suspicion = Suspicion {
                evidence,
                session: 7,
                since: ago(2),
            };
            let suspected = sick.clone().with_suspicion(1, 2, suspicion);
            let expected = (State::Suspected(evidence), Some(2));
            assert_eq!(seen(suspected, measured()), expected);
        }
        // What others think of it is not what this node sees.
        let suspicion = Suspicion {
            evidence: Evidence::Gone,
            session: 7,
            since: ago(2),
        };
        let elsewhere = Views::new(1).with_suspicion(3, 2, suspicion);
        assert_eq!(seen(elsewhere, measured()), (State::Alive, Some(30)));
    }

    #[test]
    fn who_was_never_heard_was_not_met() {
        let never = Measured {
            round_trip: None,
            heard: None,
            alive_since: None,
            ..measured()
        };
        assert_eq!(seen(Views::new(1), never), (State::NotMet, None));
    }

    #[test]
    fn a_node_tells_of_itself_too() {
        let stall = Stall {
            part: Part::Apply,
            since: ago(3),
        };
        let sick = Views::new(1).with_stall(1, stall);
        let reports = reporter(sick, measured()).report();
        assert_eq!(
            (reports[0].node, reports[0].state, reports[0].patience),
            (1, State::Sick(Part::Apply), None)
        );
        let well = reporter(Views::new(1), measured()).report();
        assert_eq!(well[0].state, State::Alive);
        assert!(well[0].since >= Some(Duration::from_secs(60)));
    }
}
