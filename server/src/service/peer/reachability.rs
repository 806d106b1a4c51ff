//! Which peers can be reached, for the log: once when one is lost, once when it is back.
//!
//! A follower of a quiet group sends nothing to most of its peers, and would notice the loss of one
//! only when it needs it. So each peer is asked once a second for something that costs nothing.
//!
//! That a peer speaks to this node while it cannot be reached tells more: its process runs, so it
//! listens somewhere else, or something between the two lets only one side through.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{GrpcTransport, client::PeerAddress};
use crate::{
    limits,
    raft::{NodeId, TransportError},
};

/// When each peer last spoke to this node.
#[derive(Default)]
pub struct Heard(Mutex<BTreeMap<NodeId, Instant>>);

impl Heard {
    /// A call of a peer has come.
    pub(super) fn from(&self, peer: NodeId) {
        self.0.lock().insert(peer, Instant::now());
    }

    fn within(&self, peer: NodeId, time: Duration) -> bool {
        let heard = self.0.lock().get(&peer).copied();
        heard.is_some_and(|at| at.elapsed() <= time)
    }
}

/// Why a peer does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It does not want to speak to this node.
    Refuses,
    /// Nothing is heard of it.
    Silent,
    /// It speaks to this node, and does not answer at its address.
    OneWay,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    /// It answers, for the first time.
    Reached,
    Lost(Trouble),
    Back {
        after: Duration,
    },
}

/// What is known and was told of one peer.
///
/// - `failing_since` is there exactly while it does not answer.
/// - `told` is there while its loss has been told and its return has not.
#[derive(Default)]
struct Reachability {
    reached: bool,
    failing_since: Option<Instant>,
    told: Option<Trouble>,
}

impl Reachability {
    fn seen(&mut self, trouble: Option<Trouble>, now: Instant) -> Option<News> {
        let Some(trouble) = trouble else {
            let first = !std::mem::replace(&mut self.reached, true);
            let since = self.failing_since.take();
            return match (self.told.take(), since) {
                (Some(_), Some(since)) => Some(News::Back {
                    after: now.duration_since(since),
                }),
                _ => first.then_some(News::Reached),
            };
        };
        let since = *self.failing_since.get_or_insert(now);
        let patient = now.duration_since(since) < limits::PEER_LOST_AFTER;
        if patient || self.told == Some(trouble) {
            return None;
        }
        self.told = Some(trouble);
        Some(News::Lost(trouble))
    }
}

/// Tells the log which of these peers can be reached, for as long as it is polled.
pub async fn watch(transport: Arc<GrpcTransport>, peers: Vec<PeerAddress>, heard: Arc<Heard>) {
    let watches = peers
        .iter()
        .map(|peer| watch_one(&transport, peer, heard.as_ref()));
    futures_util::future::join_all(watches).await;
}

async fn watch_one(transport: &GrpcTransport, peer: &PeerAddress, heard: &Heard) {
    let mut reachability = Reachability::default();
    let mut ticks = tokio::time::interval(limits::PEER_PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = transport.probe(peer.id).await;
        let trouble = match &answer {
            Ok(()) => None,
            Err(TransportError::Refused { .. }) => Some(Trouble::Refuses),
            Err(_) if heard.within(peer.id, 2 * limits::PEER_PROBE_INTERVAL) => {
                Some(Trouble::OneWay)
            }
            Err(_) => Some(Trouble::Silent),
        };
        if let Some(news) = reachability.seen(trouble, Instant::now()) {
            tell(peer, news, answer.err());
        }
    }
}

fn tell(peer: &PeerAddress, news: News, error: Option<TransportError>) {
    let (id, url) = (peer.id, peer.url.as_str());
    let error = error.map_or_else(String::new, |error| error.to_string());
    match news {
        News::Reached => tracing::info!(peer = id, url, "a peer is reached"),
        News::Back { after } => {
            tracing::info!(peer = id, url, ?after, "a peer can be reached again");
        }
        News::Lost(Trouble::Silent) => tracing::warn!(
            peer = id,
            url,
            error,
            "a peer cannot be reached: see whether its process runs, and whether the network lets this \
             node through to that address"
        ),
        News::Lost(Trouble::OneWay) => tracing::warn!(
            peer = id,
            url,
            error,
            "a peer speaks to this node and cannot be reached at its address: it may listen on another \
             port than the list of members says, or the network lets only one side through"
        ),
        News::Lost(Trouble::Refuses) => tracing::warn!(
            peer = id,
            url,
            error,
            "a peer refuses this node: compare the names and the members of the cluster in both \
             configurations"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_loss_and_a_return_are_told_once_each() {
        let start = Instant::now();
        let mut reachability = Reachability::default();
        assert_eq!(reachability.seen(None, start), Some(News::Reached));
        let mut told = Vec::new();
        for second in 1..=100 {
            let trouble = (10..60).contains(&second).then_some(Trouble::Silent);
            let news = reachability.seen(trouble, start + SECOND * second);
            told.extend(news.map(|news| (second, news)));
        }
        let lost_at = 10 + limits::PEER_LOST_AFTER.as_secs() as u32;
        assert_eq!(
            told,
            [
                (lost_at, News::Lost(Trouble::Silent)),
                (60, News::Back { after: 50 * SECOND })
            ]
        );
    }

    #[test]
    fn a_short_absence_is_no_news() {
        let start = Instant::now();
        let mut reachability = Reachability::default();
        assert_eq!(reachability.seen(Some(Trouble::Silent), start), None);
        assert_eq!(reachability.seen(None, start + SECOND), Some(News::Reached));
        assert_eq!(
            reachability.seen(Some(Trouble::Silent), start + 2 * SECOND),
            None
        );
        assert_eq!(reachability.seen(None, start + 3 * SECOND), None);
    }

    #[test]
    fn another_reason_is_told_too() {
        let start = Instant::now();
        let late = start + limits::PEER_LOST_AFTER;
        let mut reachability = Reachability::default();
        assert_eq!(reachability.seen(Some(Trouble::Silent), start), None);
        for (trouble, at) in [(Trouble::Silent, late), (Trouble::OneWay, late + SECOND)] {
            let news = reachability.seen(Some(trouble), at);
            assert_eq!(news, Some(News::Lost(trouble)));
            assert_eq!(reachability.seen(Some(trouble), at), None);
        }
        let back = reachability.seen(None, late + 2 * SECOND);
        assert!(matches!(back, Some(News::Back { .. })), "{back:?}");
    }
}
