//! The connections of clients: HTTP/2 with the bounds of this node, and one service behind all of them.
//!
//! ```text
//!   incoming ─▶ task of the connection ─ request ─▶ service ─▶ answer
//!                   ▲ told to stop: takes no new requests, answers those under way, closes
//! ```

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn::http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::StdError;

use crate::limits;

/// Runs each request as a task of its own.
#[derive(Clone)]
struct Tasks;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, request: F) {
        // Boxed, so that what is large is moved once: a task is moved several times until it runs.
        tokio::spawn(Box::pin(request));
    }
}

/// Serves connections until `stopped`, and then what is under way on them.
pub(super) async fn serve<I, S, F, B>(
    incoming: impl Stream<Item = io::Result<I>>,
    stopped: impl Future<Output = ()>,
    service: S,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, std::convert::Infallible>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + Sync,
{
    let mut http = http2::Builder::new(Tasks);
    http.timer(TokioTimer::new())
        .keep_alive_interval(Some(limits::CLIENT_KEEPALIVE_INTERVAL))
        .keep_alive_timeout(limits::CLIENT_KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(limits::METADATA_WIRE_BYTES_MAX)
        .max_pending_accept_reset_streams(Some(limits::STREAMS_GIVEN_UP_MAX))
        // No client of gRPC reads it.
        .auto_date_header(false);
    let connections = GracefulShutdown::new();
    {
        // Dropped as soon as nothing is accepted any more, and the port with it.
        let mut incoming = std::pin::pin!(incoming);
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let connection = tokio::select! {
                () = &mut stopped => break,
                connection = incoming.next() => match connection {
                    Some(Ok(connection)) => connection,
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a connection was not accepted");
                        continue;
                    }
                    None => break,
                },
            };
            let service = hyper::service::service_fn(service.clone());
            let served = http.serve_connection(TokioIo::new(connection), service);
            let served = connections.watch(served);
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a connection of a client ended");
                }
            });
        }
    }
    connections.shutdown().await;
}
