//! What gRPC asks of every answer, whatever the service, where the library does otherwise.
//!
//! - Metadata beyond [`limits::METADATA_BYTES_MAX`] is refused with `RESOURCE_EXHAUSTED`. The library
//!   would answer with HTTP's 431, which is no status of gRPC, so it is given a larger bound.
//! - An answer is compressed as its request was, as etcd's is. The library compresses whenever a client
//!   says that it could read it, which many say with every request and few have asked for.
//! - `UNIMPLEMENTED` names what is not served.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response, header::HeaderName};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::limits;

/// How the messages of a request are compressed.
pub(super) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// Which compressions the client can read.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Status of an answer, and what is said about it.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What each field of a list of headers costs beside its name and value (RFC 9113, 6.5.2).
const FIELD_OVERHEAD_BYTES: usize = 32;

/// Services that this port serves, by their full names.
pub(super) type Served = &'static [&'static str];

/// Puts requests and answers right.
#[derive(Clone)]
pub(super) struct Protocol<S> {
    inner: S,
    served: Served,
}

impl<S> Protocol<S> {
    pub(super) fn new(inner: S, served: Served) -> Self {
        Self { inner, served }
    }
}

impl<S> Service<Request<Body>> for Protocol<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Err(status) = check_metadata(request.headers()) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        answer_alike(request.headers_mut());
        let path = request.uri().path().to_owned();
        let served = self.served;
        let work = self.inner.call(request);
        Box::pin(async move {
            let answer = work.await?;
            Ok(match names_nothing(answer.headers()) {
                false => answer,
                true => unimplemented(&path, served).into_http(),
            })
        })
    }
}

/// Whether the metadata of a request is within its bound.
pub(super) fn check_metadata(headers: &HeaderMap) -> Result<(), Status> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES)
        .sum();
    if bytes <= limits::METADATA_BYTES_MAX {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "holdfast: the metadata of the request has {bytes} bytes, {} are the most",
        limits::METADATA_BYTES_MAX
    )))
}

/// The answer may be compressed as the request is, and not otherwise.
fn answer_alike(headers: &mut HeaderMap) {
    match headers.get(ENCODING).cloned() {
        Some(encoding) => headers.insert(ACCEPT_ENCODING, encoding),
        None => headers.remove(ACCEPT_ENCODING),
    };
}

/// Whether an answer is `UNIMPLEMENTED` without a word.
fn names_nothing(headers: &HeaderMap) -> bool {
    let code = headers.get(GRPC_STATUS).map(HeaderValue::as_bytes);
    let message = headers.get(GRPC_MESSAGE);
    code.is_some_and(|code| Code::from_bytes(code) == Code::Unimplemented)
        && message.is_none_or(HeaderValue::is_empty)
}

fn unimplemented(path: &str, served: Served) -> Status {
    let (service, method) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .unwrap_or((path, ""));
    Status::unimplemented(match served.contains(&service) {
        true => format!("holdfast: unknown method {method} of service {service}"),
        false => format!("holdfast: service {service} is not served"),
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;

    const SERVED: Served = &["a.Served"];

    /// What a service behind sees of a request, and what a client sees of its answer.
    async fn exchange(
        path: &str,
        headers: &[(&str, &str)],
        answer: Option<Status>,
    ) -> (Option<HeaderMap>, Status) {
        let (seen, saw) = std::sync::mpsc::channel();
        let mut service = Protocol::new(
            service_fn(move |request: Request<Body>| {
                seen.send(request.headers().clone()).unwrap();
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(answer.unwrap_or(Status::ok("")).into_http()) }
            }),
            SERVED,
        );
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let answer = service.call(request).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        (saw.try_recv().ok(), status)
    }

    #[tokio::test]
    async fn large_metadata_is_refused_with_a_status_before_anybody_sees_it() {
        let half = "x".repeat(limits::METADATA_BYTES_MAX / 2 - 64);
        let two = [("a", half.as_str()), ("b", half.as_str())];
        let (seen, status) = exchange("/a.Served/Do", &two, None).await;
        assert!(seen.is_some());
        assert_eq!(status.code(), Code::Ok);
        let three = [
            ("a", half.as_str()),
            ("a", half.as_str()),
            ("b", half.as_str()),
        ];
        let (seen, status) = exchange("/a.Served/Do", &three, None).await;
        assert!(seen.is_none());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("16384 are the most"), "{status}");
    }

    #[tokio::test]
    async fn an_answer_is_compressed_as_its_request_is() {
        let can = ("grpc-accept-encoding", "identity, deflate, gzip");
        let (seen, _) = exchange("/a.Served/Do", &[can], None).await;
        assert_eq!(seen.unwrap().get(ACCEPT_ENCODING), None);
        let does = ("grpc-encoding", "zstd");
        let (seen, _) = exchange("/a.Served/Do", &[can, does], None).await;
        assert_eq!(seen.unwrap().get(ACCEPT_ENCODING).unwrap(), "zstd");
        let (seen, _) = exchange("/a.Served/Do", &[does], None).await;
        assert_eq!(seen.unwrap().get(ACCEPT_ENCODING).unwrap(), "zstd");
    }

    #[tokio::test]
    async fn what_is_not_served_is_named_and_what_a_service_says_stays() {
        let nothing = Some(Status::unimplemented(""));
        let (_, status) = exchange("/a.Served/Undo", &[], nothing.clone()).await;
        assert_eq!(
            status.message(),
            "holdfast: unknown method Undo of service a.Served"
        );
        let (_, status) = exchange("/etcdserverpb.Watch/Watch", &[], nothing.clone()).await;
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(
            status.message(),
            "holdfast: service etcdserverpb.Watch is not served"
        );
        let (_, status) = exchange("/", &[], nothing).await;
        assert_eq!(status.code(), Code::Unimplemented);
        let own = Some(Status::unimplemented("not yet"));
        let (_, status) = exchange("/a.Served/Do", &[], own).await;
        assert_eq!(status.message(), "not yet");
        let other = Some(Status::not_found(""));
        let (_, status) = exchange("/a.Served/Do", &[], other).await;
        assert_eq!(status.code(), Code::NotFound);
    }
}
