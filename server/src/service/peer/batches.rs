//! Streams on which many requests share a message, and so do their answers.

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use holdfast_proto::peer::{self, forward_error::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::server::{Replies, UNSURE};
use crate::{keyspace::Keyspaces, limits};

/// Hands a heartbeat to its group, if it `lets` the sender.
pub(super) async fn answer_heartbeat(
    lets: bool,
    keyspaces: Arc<Keyspaces>,
    heartbeat: peer::Heartbeat,
) -> peer::HeartbeatResponse {
    let id = heartbeat.id;
    let answer = match heartbeat.request {
        Some(_) if !lets => Err(UNSURE.to_string()),
        Some(request) => match keyspaces.by_id(request.group_id) {
            Some(group) => group
                .raft()
                .handle_heartbeat(request)
                .await
                .map_err(|e| e.to_string()),
            None => Err(format!("group {} does not run here", request.group_id)),
        },
        None => Err("the heartbeat is empty".to_string()),
    };
    match answer {
        Ok(response) => peer::HeartbeatResponse {
            id,
            response: Some(response),
            unavailable: String::new(),
        },
        Err(unavailable) => peer::HeartbeatResponse {
            id,
            response: None,
            unavailable,
        },
    }
}

/// Hands a forwarded request to its group.
pub(super) async fn answer_forward(
    keyspaces: Arc<Keyspaces>,
    request: peer::Forward,
) -> peer::ForwardReply {
    match keyspaces.by_id(request.group_id) {
        Some(group) => group.handle_forward(request).await,
        None => peer::ForwardReply {
            id: request.id,
            reply: Some(crate::group::forward_error(
                Kind::Stopped,
                None,
                "the group does not run on this node",
            )),
        },
    }
}

/// Serves a multiplexed stream: requests are answered as they are done, and answers that are
/// ready together share a message.
pub(super) fn serve_batches<Req, Rep, Batch, F, Fut>(
    requests: impl Stream<Item = Vec<Req>> + Send + 'static,
    answer: F,
    pack: fn(Vec<Rep>) -> Batch,
) -> Replies<Batch>
where
    Req: Send + 'static,
    Rep: Send + 'static,
    Batch: Send + 'static,
    F: Fn(Req) -> Fut + Send + 'static,
    Fut: Future<Output = Rep> + Send + 'static,
{
    let (tx, rx) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut requests = Box::pin(requests);
        let mut working = FuturesUnordered::new();
        let mut open = true;
        while open || !working.is_empty() {
            tokio::select! {
                batch = requests.next(), if open && working.len() < limits::FORWARDS_WORKING_MAX => match batch {
                    Some(batch) => working.extend(batch.into_iter().map(&answer)),
                    None => open = false,
                },
                Some(first) = working.next() => {
                    let mut done = vec![first];
                    while let Some(Some(more)) = futures_util::FutureExt::now_or_never(working.next()) {
                        done.push(more);
                        if done.len() >= limits::FORWARD_BATCH_REQUESTS_MAX {
                            break;
                        }
                    }
                    if tx.send(Ok(pack(done))).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(rx))
}
