//! One stream of append requests to a peer, given up when the peer stops confirming.
//!
//! A node whose disk hangs still answers the pings of its connections, so its append stream stays open
//! and nothing is confirmed on it. openraft keeps what a stream may still have to send: for as long as
//! such a stream is open the leader purges nothing, and its log would grow until its own disk is full.
//!
//! ```text
//!   openraft ─ requests ─▶ [Requests] ─▶ transport ─▶ peer
//!        ▲                    │ counts      │
//!        └─── answers ◀── [Answers] ◀───────┘     silent for too long: first the requests end, then
//!                                                 the answers do, with an error
//! ```
//!
//! - **Silence** is the time in which a request waited for its answer and no answer came. Every answer
//!   begins it anew, whatever the number of requests that wait: a slow peer is not a silent one.
//! - After a silence openraft begins again, with a snapshot when the log has gone past what the peer
//!   has. Each silence in a row is allowed to be twice as long as the one before, up to
//!   [`limits::APPEND_SILENCES_DOUBLED_MAX`] times, so that a peer behind a narrow link, which needs long
//!   for one large request, gets it in the end.
//! - **No request is read once the answers have ended.** openraft purges as soon as it learns of the
//!   end, and a request read after that could find its entries gone.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::Stream;
use holdfast_proto::peer;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::{
    transport::{BoxStream, PeerTransport, TransportError},
    type_config::{GroupId, NodeId},
};
use crate::limits;

/// The silences of one peer of one group, over all the streams to it.
#[derive(Clone)]
pub(super) struct Silences {
    group_id: GroupId,
    to: NodeId,
    first: Duration,
    in_a_row: Arc<AtomicU32>,
}

impl Silences {
    /// Of a peer whose first silence may last `first`.
    pub(super) fn new(group_id: GroupId, to: NodeId, first: Duration) -> Self {
        Self {
            group_id,
            to,
            first,
            in_a_row: Arc::default(),
        }
    }

    /// How long the present silence may last.
    fn allowed(&self) -> Duration {
        let doubled = self.in_a_row.load(Ordering::Relaxed);
        self.first * 2_u32.pow(doubled.min(limits::APPEND_SILENCES_DOUBLED_MAX))
    }

    fn end(&self) {
        let silences = self.in_a_row.swap(0, Ordering::Relaxed);
        if silences > 0 {
            let (group, node) = (self.group_id, self.to);
            tracing::info!(group, node, silences, "the node confirms entries again");
        }
    }

    /// The silence lasted too long. Told once for all that follow each other.
    fn give_up(&self) -> TransportError {
        let silent = self.allowed();
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                group = self.group_id,
                node = self.to,
                ?silent,
                "the node answers but confirms no entries: look at its disk and at its log. Others go \
                 on, the log here is purged without it, and it gets a snapshot if it needs one"
            );
        }
        TransportError::Lost {
            to: self.to,
            why: format!("nothing was confirmed for {silent:?}"),
        }
    }
}

/// Opens a stream that is given up when the peer is silent for too long.
pub(super) async fn open(
    transport: &dyn PeerTransport,
    silences: Silences,
    requests: BoxStream<peer::AppendRequest>,
) -> Result<Answers, TransportError> {
    let flow = Arc::new(Flow {
        requests: Mutex::new(Some(requests)),
        waiting: Mutex::new(Waiting {
            unanswered: 0,
            since: Instant::now(),
            answers: None,
        }),
    });
    let opening = transport.append(silences.to, Box::pin(Requests(flow.clone())));
    let opened = match tokio::time::timeout(silences.allowed(), opening).await {
        Ok(opened) => opened,
        Err(_) => Err(silences.give_up()),
    };
    match opened {
        Ok(answers) => Ok(Answers {
            answers,
            timer: Box::pin(tokio::time::sleep(silences.allowed())),
            silences,
            flow,
        }),
        Err(e) => {
            flow.end_requests();
            Err(e)
        }
    }
}

/// What requests and answers share.
struct Flow {
    /// Empty once the answers have ended. A request is read under the lock, so none is being read then.
    requests: Mutex<Option<BoxStream<peer::AppendRequest>>>,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    /// Requests that the transport took and that have no answer yet.
    unanswered: u64,
    /// When the last answer came or, if none waited, the first request after it was taken.
    since: Instant,
    /// Wakes the stream of answers when there is something to wait for.
    answers: Option<Waker>,
}

impl Flow {
    fn end_requests(&self) {
        // Dropped outside the lock: it may wake others.
        let requests = self.requests.lock().take();
        drop(requests);
    }

    fn requested(&self) {
        let mut waiting = self.waiting.lock();
        waiting.unanswered += 1;
        if waiting.unanswered == 1 {
            waiting.since = Instant::now();
            if let Some(answers) = waiting.answers.take() {
                answers.wake();
            }
        }
    }

    fn answered(&self) {
        let mut waiting = self.waiting.lock();
        waiting.unanswered = waiting.unanswered.saturating_sub(1);
        waiting.since = Instant::now();
    }

    /// Since when an answer is awaited, if one is. `waker` is woken when one is.
    fn waits_since(&self, waker: &Waker) -> Option<Instant> {
        let mut waiting = self.waiting.lock();
        waiting.answers = Some(waker.clone());
        (waiting.unanswered > 0).then_some(waiting.since)
    }
}

struct Requests(Arc<Flow>);

impl Stream for Requests {
    type Item = peer::AppendRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut requests = self.0.requests.lock();
        let Some(requests) = requests.as_mut() else {
            return Poll::Ready(None);
        };
        let request = std::task::ready!(requests.as_mut().poll_next(context));
        if request.is_some() {
            self.0.requested();
        }
        Poll::Ready(request)
    }
}

/// The answers, in the order of the requests.
pub(super) struct Answers {
    answers: BoxStream<Result<peer::AppendResponse, TransportError>>,
    silences: Silences,
    flow: Arc<Flow>,
    timer: Pin<Box<Sleep>>,
}

impl Stream for Answers {
    type Item = Result<peer::AppendResponse, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(answer) = self.answers.as_mut().poll_next(context) {
            match &answer {
                Some(Ok(_)) => {
                    self.flow.answered();
                    self.silences.end();
                }
                Some(Err(_)) | None => self.flow.end_requests(),
            }
            return Poll::Ready(answer);
        }
        let Some(since) = self.flow.waits_since(context.waker()) else {
            return Poll::Pending;
        };
        let due = since + self.silences.allowed();
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        std::task::ready!(self.timer.as_mut().poll(context));
        self.flow.end_requests();
        Poll::Ready(Some(Err(self.silences.give_up())))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.flow.end_requests();
    }
}

#[cfg(test)]
mod tests;
