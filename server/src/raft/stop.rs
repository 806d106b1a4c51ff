//! How a group stops on this node, so that it may start again in the same process.
//!
//! openraft ends its core, and lets everything else end by itself: the state machine does what it was given, streams
//! to peers break off when they notice. Whoever starts the group again waits for what still could touch its
//! state or its log, and takes away what remains.

use std::sync::atomic::Ordering;

use super::RaftGroup;

impl RaftGroup {
    /// Stops the consensus of the group on this node. What it gave to the state machine before is done
    /// still, see [`Self::machine_ended`].
    pub async fn shutdown(&self) {
        if let Err(e) = self.raft.shutdown().await {
            tracing::error!(group = self.id, error = %e, "the group did not stop cleanly");
        }
    }

    /// Waits until the state machine is gone. It ends by itself once the group was shut down and what it had
    /// been given is done; sooner when the state is closed.
    pub async fn machine_ended(&self) {
        let mut machine = self.machine.clone();
        while machine.changed().await.is_ok() {}
    }

    /// Waits until no snapshot is being received any more. One that is breaks off when the group is shut
    /// down.
    pub async fn receives_nothing(&self) {
        drop(self.receiving.lock().await);
    }

    /// From now on nothing of this group reads the log, which may soon be that of another start of it. The
    /// group was shut down before.
    pub fn leave_log(&self) {
        self.log_left.store(true, Ordering::Release);
    }

    /// Resolves with the reason when the group has stopped on this node.
    pub(super) async fn has_stopped(&self) -> String {
        let mut leadership = self.leadership();
        let stopped = leadership.wait_for(|now| now.stopped.is_some()).await;
        let why = stopped.ok().and_then(|now| now.stopped.clone());
        why.unwrap_or_else(|| "shut down".to_owned())
    }
}
