//! Whether an endpoint hangs: its process is stopped, or its machine is gone without a word.
//!
//! A request that takes long proves nothing, since the cluster may be electing. So an endpoint that has
//! answered nothing for a while, although requests wait for it, is asked something that every node answers
//! by itself at once. If neither that nor anything else is answered in as long again, it is left: requests
//! that wait there are tried elsewhere where that is safe, and others avoid it until a probe is answered.
//!
//! ```text
//!   request ──▶ nothing heard for `hang_after` ──▶ question ──▶ nothing heard for `hang_after` ──▶ Down,
//!                                                                                 all that wait are told
//! ```

use std::{
    pin::pin,
    sync::{Arc, Weak},
};

use tokio::time::{sleep, timeout};

use crate::{
    cluster::{Cluster, discover},
    endpoint::Endpoint,
};

impl Cluster {
    /// Waits, on behalf of a request that `endpoint` has got, until that is found to hang.
    pub(crate) async fn hangs(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let mut found = pin!(endpoint.hung.notified());
        let after = self.hang_after();
        loop {
            tokio::select! {
                () = &mut found => return,
                () = sleep(after) => {}
            }
            if !endpoint.was_heard_within(after) && endpoint.begins_examination() {
                tokio::spawn(examine(Arc::downgrade(self), endpoint.clone()));
            }
        }
    }
}

async fn examine(cluster: Weak<Cluster>, endpoint: Arc<Endpoint>) {
    let asked = cluster.upgrade().map(|cluster| {
        let question = discover(endpoint.channel(), cluster.kind());
        (cluster.hang_after(), question)
    });
    let Some((after, question)) = asked else {
        return;
    };
    let answer = timeout(after, question).await;
    endpoint.ends_examination();
    match answer {
        Ok(Ok(_)) => endpoint.heard(),
        // The connection is broken, which the requests on it find out too.
        Ok(Err(_)) => {}
        Err(_) => {
            if let Some(cluster) = cluster.upgrade()
                && !endpoint.was_heard_within(after)
            {
                tracing::debug!(url = %endpoint.url, "endpoint hangs");
                cluster.set_down(&endpoint);
                endpoint.hung.notify_waiters();
            }
        }
    }
}
