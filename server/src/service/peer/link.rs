//! Many requests over one stream: numbered, packed into batches, answered in any order.
//!
//! ```text
//!   request ─▶ queue ─▶ writer task ─ batch ─▶ ┐ bidirectional
//!   answer  ◀─ pending[id] ◀─ reader task ◀────┘ stream
//! ```
//!
//! The writer packs whatever has queued up while the last batch was on its way: one request alone
//! goes at once, a crowd shares a message. Reader and writer are tasks of their own, so that a
//! full send buffer never keeps answers from being read. When the stream breaks, requests that
//! were sent fail as *lost* (they may have arrived) and those still queued as *unreachable*.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    limits,
    raft::{NodeId, TransportError, transport::BoxFuture},
};

/// Messages that a link carries.
pub(super) trait Carried: Send + Sync + 'static {
    type Request: Send + 'static;
    type Reply: Send + 'static;
    type RequestBatch: Send + 'static;
    type ReplyBatch: Send + 'static;

    /// Most requests in one batch.
    const BATCH_MAX: usize;

    /// Gives a request its number.
    fn number(request: &mut Self::Request, id: u64);
    fn bytes(request: &Self::Request) -> usize;
    fn pack(requests: Vec<Self::Request>) -> Self::RequestBatch;
    fn unpack(batch: Self::ReplyBatch) -> Vec<(u64, Self::Reply)>;
    fn open(
        &self,
        requests: Pin<Box<dyn Stream<Item = Self::RequestBatch> + Send>>,
    ) -> BoxFuture<Result<Streaming<Self::ReplyBatch>, Status>>;
}

struct Waiting<C: Carried> {
    request: C::Request,
    reply: oneshot::Sender<Result<C::Reply, TransportError>>,
}

type Pending<C> = HashMap<u64, oneshot::Sender<Result<<C as Carried>::Reply, TransportError>>>;

/// A multiplexed stream to one peer, opened on demand and again after it broke.
pub(super) struct Link<C: Carried> {
    to: NodeId,
    queue: mpsc::Sender<Waiting<C>>,
}

impl<C: Carried> Link<C> {
    /// A link to node `to` with at most `queue_max` requests waiting to be sent.
    pub(super) fn new(
        to: NodeId,
        carried: C,
        queue_max: usize,
        batch_bytes_max: usize,
        open_timeout: Duration,
    ) -> Self {
        let (queue, arrivals) = mpsc::channel(queue_max);
        tokio::spawn(run(to, carried, arrivals, batch_bytes_max, open_timeout));
        Self { to, queue }
    }

    /// Queues a request; the future waits for its answer. A request whose future is dropped
    /// before it was sent is not sent.
    pub(super) fn send(
        &self,
        request: C::Request,
    ) -> impl Future<Output = Result<C::Reply, TransportError>> + Send + 'static {
        let to = self.to;
        let (reply, answer) = oneshot::channel();
        let queued = self
            .queue
            .try_send(Waiting { request, reply })
            .map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => TransportError::Overloaded { to },
                mpsc::error::TrySendError::Closed(_) => TransportError::Unreachable {
                    to,
                    why: "the link is closed".into(),
                },
            });
        async move {
            queued?;
            answer.await.unwrap_or_else(|_| {
                Err(TransportError::Lost {
                    to,
                    why: "the link was closed".into(),
                })
            })
        }
    }
}

async fn run<C: Carried>(
    to: NodeId,
    carried: C,
    mut arrivals: mpsc::Receiver<Waiting<C>>,
    batch_bytes_max: usize,
    open_timeout: Duration,
) {
    let mut next_id = 1_u64;
    while let Some(first) = arrivals.recv().await {
        let (batches, stream) = mpsc::channel(limits::PEER_BATCHES_QUEUED_MAX);
        let opening = carried.open(Box::pin(ReceiverStream::new(stream)));
        let replies = match tokio::time::timeout(open_timeout, opening).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(status)) => {
                refuse(to, &status.to_string(), first, &mut arrivals);
                continue;
            }
            Err(_) => {
                refuse(to, "no answer in time", first, &mut arrivals);
                continue;
            }
        };
        let pending: Arc<Mutex<Pending<C>>> = Arc::default();
        let mut reader = tokio::spawn(read::<C>(to, replies, pending.clone()));
        let mut batch = vec![first];
        loop {
            let message = number::<C>(&mut next_id, &mut batch, &pending);
            if let Some(message) = message
                && batches.send(message).await.is_err()
            {
                break;
            }
            tokio::select! {
                next = arrivals.recv() => match next {
                    Some(next) => batch.push(next),
                    None => {
                        reader.abort();
                        return;
                    }
                },
                _ = &mut reader => break,
            }
            let mut bytes = batch.iter().map(|w| C::bytes(&w.request)).sum::<usize>();
            while batch.len() < C::BATCH_MAX && bytes < batch_bytes_max {
                let Ok(next) = arrivals.try_recv() else {
                    break;
                };
                bytes += C::bytes(&next.request);
                batch.push(next);
            }
        }
        reader.abort();
        fail_all::<C>(to, &pending, "the stream broke");
    }
}

/// Moves a batch from waiting to pending. Requests whose caller has gone are left out.
fn number<C: Carried>(
    next_id: &mut u64,
    batch: &mut Vec<Waiting<C>>,
    pending: &Mutex<Pending<C>>,
) -> Option<C::RequestBatch> {
    let mut requests = Vec::with_capacity(batch.len());
    let mut pending = pending.lock();
    for mut waiting in batch.drain(..) {
        if waiting.reply.is_closed() {
            continue;
        }
        C::number(&mut waiting.request, *next_id);
        pending.insert(*next_id, waiting.reply);
        requests.push(waiting.request);
        *next_id += 1;
    }
    (!requests.is_empty()).then(|| C::pack(requests))
}

async fn read<C: Carried>(
    to: NodeId,
    mut replies: Streaming<C::ReplyBatch>,
    pending: Arc<Mutex<Pending<C>>>,
) {
    let why = loop {
        match replies.message().await {
            Ok(Some(batch)) => {
                let mut pending = pending.lock();
                for (id, reply) in C::unpack(batch) {
                    if let Some(caller) = pending.remove(&id) {
                        // A caller that has gone needs no answer.
                        let _ = caller.send(Ok(reply));
                    }
                }
            }
            Ok(None) => break "the peer closed the stream".to_string(),
            Err(status) => break status.to_string(),
        }
    };
    fail_all::<C>(to, &pending, &why);
}

fn fail_all<C: Carried>(to: NodeId, pending: &Mutex<Pending<C>>, why: &str) {
    for (_, caller) in pending.lock().drain() {
        let _ = caller.send(Err(TransportError::Lost {
            to,
            why: why.to_string(),
        }));
    }
}

/// Nothing of what is queued was sent.
fn refuse<C: Carried>(
    to: NodeId,
    why: &str,
    first: Waiting<C>,
    arrivals: &mut mpsc::Receiver<Waiting<C>>,
) {
    let mut next = Some(first);
    while let Some(waiting) = next {
        let _ = waiting.reply.send(Err(TransportError::Unreachable {
            to,
            why: why.to_string(),
        }));
        next = arrivals.try_recv().ok();
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::peer;

    use super::*;

    /// Forwards to a peer that never answers the opening of the stream.
    struct Silent;

    impl Carried for Silent {
        type Request = peer::Forward;
        type Reply = peer::ForwardReply;
        type RequestBatch = peer::ForwardBatch;
        type ReplyBatch = peer::ForwardReplyBatch;

        const BATCH_MAX: usize = 1;

        fn number(request: &mut peer::Forward, id: u64) {
            request.id = id;
        }

        fn bytes(_: &peer::Forward) -> usize {
            0
        }

        fn pack(requests: Vec<peer::Forward>) -> peer::ForwardBatch {
            peer::ForwardBatch { requests }
        }

        fn unpack(batch: peer::ForwardReplyBatch) -> Vec<(u64, peer::ForwardReply)> {
            batch.replies.into_iter().map(|r| (r.id, r)).collect()
        }

        fn open(
            &self,
            _: Pin<Box<dyn Stream<Item = peer::ForwardBatch> + Send>>,
        ) -> BoxFuture<Result<Streaming<peer::ForwardReplyBatch>, Status>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_as_what_it_is() {
        let link = Link::new(2, Silent, 1, 1, Duration::from_secs(3600));
        // One that the writer has taken, and one that waits.
        let _taken = link.send(peer::Forward::default());
        while link.queue.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        let _waiting = link.send(peer::Forward::default());
        let refused = link.send(peer::Forward::default()).await;
        assert!(
            matches!(refused, Err(TransportError::Overloaded { to: 2 })),
            "{refused:?}"
        );
    }
}
