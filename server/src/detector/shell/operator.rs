//! What the detector tells the operator, and what it asks of the system.

use crate::{detector::machine::News, limits, raft::NodeId};

/// Lets the scheduler prefer this thread: it does little, and what it does is in a hurry.
pub(super) fn raise_priority() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call takes no pointers; 0 is the calling thread.
        let refused =
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, limits::DETECTOR_NICE) } != 0;
        if refused {
            tracing::debug!("the failure detector runs without a better priority");
        }
    }
}

/// Once when a peer is suspected, once when it is back.
pub(super) fn report(peer: NodeId, news: News) {
    match news {
        News::Gone => tracing::warn!(
            peer,
            "the process of a peer is gone: its connections were closed, and its port refuses"
        ),
        News::Left => tracing::info!(peer, "a peer has stopped"),
        News::Silent { silence, patience } => tracing::warn!(
            peer,
            ?silence,
            ?patience,
            "a peer is silent for longer than its link and the load of both machines explain"
        ),
        News::Back { after } => tracing::info!(peer, ?after, "a peer gives signs of life again"),
    }
}
