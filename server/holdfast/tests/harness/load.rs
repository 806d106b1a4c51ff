//! Writers of a test, and how far they have come.

use holdfast::unique_writes::{History, Writers};
use holdfast_client::Client;

use super::{PATIENCE, until};

/// Concurrent writers, each waiting for its answer before it writes again.
pub struct Load(Writers);

impl Load {
    pub(super) fn start(name: &str, clients: &[Client], writers: usize, writes_max: u64) -> Self {
        let prefix = format!("{name}/");
        Self(Writers::waiting(&prefix, clients, writers, writes_max))
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.0.ledger().acknowledged()
    }

    /// Waits for this many acknowledgements from now on.
    pub async fn until_more(&self, writes: u64) {
        let goal = self.acknowledged() + writes;
        until("writes are acknowledged", PATIENCE, async || {
            let now = self.acknowledged();
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        })
        .await;
    }

    /// Begins no more writes, and waits for those under way.
    pub async fn stop(self) -> History {
        self.0.stop().await
    }

    /// Waits until the load has ended by itself.
    pub async fn finish(self) -> History {
        self.0.finish().await
    }
}
