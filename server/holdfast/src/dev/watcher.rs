//! Follows one node's `holdfast.v1.Admin/WatchGroups`.

use std::time::Duration;

use holdfast_proto::v1::WatchGroupsRequest;
use holdfast_proto::v1::admin_client::AdminClient;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use super::view::Observation;

/// Time between attempts to reach a node that does not answer. Short, because it is also how late
/// the start of a node is noticed.
const RETRY: Duration = Duration::from_millis(25);
/// A node that has not answered a ping for this long is taken for silent.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Time from the end of a stream until the node counts as silent. Most streams end because their
/// process does, which is then reported by itself and says more.
const SETTLE: Duration = Duration::from_millis(200);

/// A channel to a node of this machine, connected on first use and again after it broke.
pub fn channel(client_url: &str) -> Result<Channel, tonic::transport::Error> {
    Ok(Endpoint::from_shared(client_url.to_owned())?
        .connect_timeout(Duration::from_millis(500))
        .http2_keep_alive_interval(PING_TIMEOUT)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect_lazy())
}

/// Reports what a node says of its groups, and when it stops saying it. Ends only with the receiver
/// or when it is aborted.
pub async fn follow<T>(
    node: u64,
    channel: Channel,
    tell: mpsc::Sender<T>,
    event: impl Fn(Observation) -> T + Send + 'static,
) {
    loop {
        let mut client = AdminClient::new(channel.clone());
        if let Ok(response) = client.watch_groups(WatchGroupsRequest {}).await {
            let mut reports = response.into_inner();
            while let Ok(Some(report)) = reports.message().await {
                if tell
                    .send(event(Observation::Report(node, report)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            tokio::time::sleep(SETTLE).await;
            if tell.send(event(Observation::Silent(node))).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = tell.closed() => return,
        }
    }
}
