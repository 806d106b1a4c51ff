//! Writes of one connection that go out together, for servers and clients.
//!
//! An answer that becomes ready wakes the task of its connection, and the runtime polls a task that was
//! just woken before all others. So when a hundred answers become ready at once, the connection would write
//! each by itself: a system call, a packet and a wake-up of the client for every answer.
//!
//! ```text
//!   write ─▶ held          flush, the first time: back of the queue of tasks ─▶ more answers, more writes
//!                          flush, the second time: all that is held, in one system call
//! ```
//!
//! Where nothing else is ready the connection is polled again at once, so waiting costs a poll and no time.
//! What is large goes out as it comes. Requests of a client are written in the same way.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint, server::Connected};
use tower::util::MapResponse;

/// Bytes that a connection holds back at most. At the bound: they go out.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// Room for some answers.
const HELD_BYTES_FIRST: usize = 2048;

/// A connection whose small writes wait for each other.
///
/// - Bytes go out in the order in which they were written: nothing is written beside what is held.
/// - No memory is held while nothing is.
pub struct Gathering<S> {
    inner: S,
    held: Vec<u8>,
    /// How much of `held` has gone out.
    sent: usize,
    /// Whether what is held has waited for others.
    has_waited: bool,
}

impl<S> Gathering<S> {
    /// Wraps a connection.
    pub fn new(inner: S) -> Self {
        Gathering {
            inner,
            held: Vec::new(),
            sent: 0,
            has_waited: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Writes out what is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.held[self.sent..]);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.held = Vec::new();
        self.sent = 0;
        self.has_waited = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.held.len() + bytes > GATHERED_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        if bytes > GATHERED_BYTES_MAX {
            return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        }
        if this.held.is_empty() {
            this.held.reserve(bytes.max(HELD_BYTES_FIRST));
        }
        for buf in bufs {
            this.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.held.is_empty() {
            if !this.has_waited {
                this.has_waited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(this.poll_send(cx))?;
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Gathering<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

/// A channel to an endpoint whose requests are gathered. It connects when it is first used.
///
/// What `endpoint` says of TCP is handed on, which it does not do by itself with a connector that is not its
/// own. The time to connect is shared by the addresses of a name: one that swallows everything does not keep
/// the next from being tried.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(endpoint.get_tcp_nodelay());
    http.set_keepalive(endpoint.get_tcp_keepalive());
    http.set_keepalive_interval(endpoint.get_tcp_keepalive_interval());
    http.set_keepalive_retries(endpoint.get_tcp_keepalive_retries());
    http.set_connect_timeout(endpoint.get_connect_timeout());
    let gathered = |socket: TokioIo<TcpStream>| TokioIo::new(Gathering::new(socket.into_inner()));
    endpoint.connect_with_connector_lazy(MapResponse::new(http, gathered))
}

#[cfg(test)]
mod tests;
