//! Who leads which group, and whether a quorum follows: asked once for all groups of a peer, so that groups
//! which nobody uses cost nothing of their own.
//!
//! ```text
//!   every peer ── which do you lead? ──▶ groups, with the age of their quorum's last answer
//!   this node's own groups ─────────────▶ the same, without a question
//!                                          └─▶ Group::led: health, `holdfastctl status`, the log
//! ```
//!
//! The heartbeats of a leader are what keeps the proof fresh; nobody else has to ask its followers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_proto::peer;
use tokio::time::{MissedTickBehavior, interval};

use super::{GrpcTransport, client::PeerAddress};
use crate::{keyspace::Keyspaces, limits, raft::NodeId};

/// The groups that this node leads, for a peer that asks.
pub(super) fn led_here(keyspaces: &Keyspaces) -> peer::LeadingResponse {
    let groups = keyspaces.all().into_iter().filter_map(|group| {
        let age = group.raft().quorum_age()?.as_millis();
        Some(peer::Led {
            group_id: group.id(),
            quorum_age_ms: u32::try_from(age).unwrap_or(u32::MAX),
            committed_index: group.raft().committed_index(),
        })
    });
    peer::LeadingResponse {
        groups: groups.collect(),
    }
}

/// Keeps all groups told who leads them, for as long as it is polled.
pub async fn follow(
    me: NodeId,
    transport: Arc<GrpcTransport>,
    peers: Vec<PeerAddress>,
    keyspaces: Arc<Keyspaces>,
) {
    let others = peers
        .iter()
        .map(|peer| follow_one(peer.id, &transport, &keyspaces));
    tokio::join!(
        look_here(me, &keyspaces),
        futures_util::future::join_all(others)
    );
}

async fn look_here(me: NodeId, keyspaces: &Keyspaces) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        for group in keyspaces.all() {
            group.looked_at();
            if let Some(age) = group.raft().quorum_age()
                && let Some(acked) = Instant::now().checked_sub(age)
            {
                group.led(me, acked, group.raft().committed_index());
            }
        }
    }
}

/// A peer that does not answer holds up nobody but itself.
async fn follow_one(peer: NodeId, transport: &GrpcTransport, keyspaces: &Keyspaces) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        // Why it does not answer is told by whoever watches its reachability.
        let Ok(answer) = transport.leading(peer).await else {
            continue;
        };
        for led in answer.groups {
            let age = Duration::from_millis(led.quorum_age_ms.into());
            if let Some(group) = keyspaces.by_id(led.group_id)
                && let Some(acked) = asked.checked_sub(age)
            {
                group.led(peer, acked, led.committed_index);
            }
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(limits::LEADERS_ASKED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
