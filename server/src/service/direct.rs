//! Calls of the KV service that need nothing of the gRPC library: answered beside it.
//!
//! Most requests are alike: one message, not compressed, that has arrived whole. For those the layers of a
//! general server (routing, streams of messages, boxes around each of them) cost more than the work itself.
//!
//! ```text
//!                       ┌ Put, Range, Txn, DeleteRange
//!   request ─ plain? ───┤  one frame with one message ─▶ KvService ─▶ one frame, trailers
//!                       └ anything else ─▶ the layers and services of the library, as if it came here first
//! ```
//!
//! - What a client sees does not depend on the way that its request took. Whatever is wrong with a request
//!   is found by the library: it gets the bytes that were looked at again.
//! - A read that may be large takes the way of the library, because its answer is bounded there.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use holdfast_mvcc as mvcc;
use holdfast_proto::{
    etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, kv_server},
    framing::{PREFIX_BYTES, framed},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use prost::Message;
use tonic::{Status, body::Body, codegen::StdError};
use tower::Service;

use super::{
    context, deadline,
    kv::{KvService, ReadShape},
    protocol,
};

static GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The calls that are answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Put,
    Range,
    Txn,
    DeleteRange,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        let method = path.strip_prefix('/')?;
        let method = method.strip_prefix(kv_server::SERVICE_NAME)?;
        match method {
            "/Put" => Some(Call::Put),
            "/Range" => Some(Call::Range),
            "/Txn" => Some(Call::Txn),
            "/DeleteRange" => Some(Call::DeleteRange),
            _ => None,
        }
    }
}

/// Answers calls, or has `library` answer them.
pub(super) struct Direct<S> {
    kv: Arc<KvService>,
    library: S,
    message_max: usize,
}

impl<S> Direct<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    /// Calls with messages of at most `message_max` bytes are for `kv`.
    pub(super) fn new(kv: Arc<KvService>, library: S, message_max: usize) -> Self {
        Direct {
            kv,
            library,
            message_max,
        }
    }

    /// The answer to a request, whatever it asks for.
    pub(super) async fn answer<B>(
        &self,
        mut request: Request<B>,
    ) -> Result<Response<Answer>, Infallible>
    where
        B: http_body::Body<Data = Bytes, Error: Into<StdError> + Send + Unpin>
            + Send
            + Unpin
            + 'static,
    {
        if let Some(authority) = context::Authority::of(request.uri()) {
            request.extensions_mut().insert(authority);
        }
        let deadline = deadline::of(request.headers());
        let plain = !request.headers().contains_key(protocol::ENCODING)
            && protocol::check_metadata(request.headers()).is_ok();
        let call = Call::of(request.uri().path()).filter(|_| plain);
        // Pinned where it is made: it is the larger part of what each request takes of memory.
        let work = std::pin::pin!(async {
            match call {
                Some(call) => self.plain(call, request).await,
                None => self.by_library(request).await,
            }
        });
        match deadline {
            Some(deadline) => deadline::until(deadline, work).await,
            None => work.await,
        }
    }

    async fn by_library<B>(&self, request: Request<B>) -> Result<Response<Answer>, Infallible>
    where
        B: http_body::Body<Data = Bytes, Error: Into<StdError>> + Send + 'static,
    {
        let mut library = self.library.clone();
        std::future::poll_fn(|cx| library.poll_ready(cx)).await?;
        let answer = library.call(request.map(Body::new)).await?;
        Ok(answer.map(Answer::Library))
    }

    async fn plain<B>(
        &self,
        call: Call,
        mut request: Request<B>,
    ) -> Result<Response<Answer>, Infallible>
    where
        B: http_body::Body<Data = Bytes, Error: Into<StdError> + Send + Unpin>
            + Send
            + Unpin
            + 'static,
    {
        let mut seen = Seen::default();
        if let Some(message) = seen.message(request.body_mut(), self.message_max).await {
            let kv = &self.kv;
            let parts = |request: Request<B>| request.into_parts().0;
            match call {
                Call::Put => {
                    if let Ok(put) = PutRequest::decode(message) {
                        return Ok(answer(kv.answer_put(asked(parts(request), put)).await));
                    }
                }
                Call::DeleteRange => {
                    if let Ok(delete) = DeleteRangeRequest::decode(message) {
                        return Ok(answer(
                            kv.answer_delete_range(asked(parts(request), delete)).await,
                        ));
                    }
                }
                Call::Range => {
                    if let Ok(range) = RangeRequest::decode(message)
                        && ReadShape::of_range(&range).is_small()
                    {
                        return Ok(answer(kv.answer_range(asked(parts(request), range)).await));
                    }
                }
                Call::Txn => {
                    if let Ok(txn) = TxnRequest::decode(message)
                        && (!mvcc::is_read_only(&txn) || ReadShape::of_txn(&txn).is_small())
                    {
                        return Ok(answer(kv.answer_txn(asked(parts(request), txn)).await));
                    }
                }
            }
        }
        self.by_library(request.map(|rest| Replayed { seen, rest }))
            .await
    }
}

/// What was seen of a body, in order: the frame of the message, and one that may end the stream after it.
struct Seen<B: http_body::Body>([Option<FrameOf<B>>; 2]);

type FrameOf<B> = Result<Frame<<B as http_body::Body>::Data>, <B as http_body::Body>::Error>;

impl<B: http_body::Body> Default for Seen<B> {
    fn default() -> Self {
        Seen([None, None])
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Seen<B> {
    /// The message of a body, if it is one that came in one frame and there is nothing more.
    async fn message(&mut self, body: &mut B, message_max: usize) -> Option<Bytes> {
        let Seen([first, second]) = self;
        *first = next_frame(body).await;
        let frame = first.as_ref()?.as_ref().ok()?;
        let message = whole_message(frame.data_ref()?, message_max)?;
        if !body.is_end_stream() {
            // Some clients end a stream with a frame of its own.
            *second = next_frame(body).await;
            let ends = match second {
                None => true,
                Some(Ok(frame)) => {
                    frame.data_ref().is_some_and(Bytes::is_empty) && body.is_end_stream()
                }
                Some(Err(_)) => false,
            };
            if !ends {
                return None;
            }
        }
        Some(message)
    }
}

async fn next_frame<B: http_body::Body + Unpin>(body: &mut B) -> Option<FrameOf<B>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// The message that a frame consists of, if that is all.
fn whole_message(frame: &Bytes, message_max: usize) -> Option<Bytes> {
    let (prefix, message) = frame.split_at_checked(PREFIX_BYTES)?;
    let (flag, mut length) = prefix.split_first()?;
    let is_whole = *flag == 0 && length.get_u32() as usize == message.len();
    (is_whole && message.len() <= message_max).then(|| frame.slice(PREFIX_BYTES..))
}

/// A message with what stands beside it, as the services want it.
fn asked<T>(parts: http::request::Parts, message: T) -> tonic::Request<T> {
    tonic::Request::from_parts(
        tonic::metadata::MetadataMap::from_headers(parts.headers),
        parts.extensions,
        message,
    )
}

fn answer<T: Message>(answered: Result<tonic::Response<T>, Status>) -> Response<Answer> {
    let answered = match answered {
        Ok(answered) => answered,
        Err(status) => return status.into_http().map(Answer::Library),
    };
    let (metadata, message, extensions) = answered.into_parts();
    let Some(frame) = framed(&message) else {
        let status = Status::resource_exhausted("holdfast: the answer is larger than 4 GiB");
        return status.into_http().map(Answer::Library);
    };
    let mut response = Response::new(Answer::Message(frame));
    *response.headers_mut() = metadata.into_headers();
    *response.extensions_mut() = extensions;
    response.headers_mut().insert(CONTENT_TYPE, GRPC.clone());
    response
}

/// The body of an answer.
pub(super) enum Answer {
    /// One message with what stands before it, still to be sent, and the status after it.
    Message(Bytes),
    /// The status that all is well, still to be sent.
    Status,
    Done,
    /// As the library makes it.
    Library(Body),
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Answer::Library(body)
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = match this {
            Answer::Library(body) => return Pin::new(body).poll_frame(cx),
            Answer::Done => return Poll::Ready(None),
            Answer::Message(message) => {
                let message = std::mem::take(message);
                *this = Answer::Status;
                Frame::data(message)
            }
            Answer::Status => {
                *this = Answer::Done;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Library(body) => body.is_end_stream(),
            Answer::Done => true,
            Answer::Message(_) | Answer::Status => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Library(body) => body.size_hint(),
            // Not exact: a length among the headers would say the same twice.
            _ => SizeHint::default(),
        }
    }
}

/// A body of which something was looked at.
struct Replayed<B: http_body::Body> {
    seen: Seen<B>,
    rest: B,
}

impl<B> http_body::Body for Replayed<B>
where
    B: http_body::Body<Data: Unpin, Error: Unpin> + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let seen = this.seen.0.iter_mut().find_map(Option::take);
        match seen {
            Some(seen) => Poll::Ready(Some(seen)),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.seen.0.iter().all(Option::is_none) && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
