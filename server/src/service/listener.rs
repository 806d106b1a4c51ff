//! A port with a bound on its connections.
//!
//! ```text
//!   accept ─▶ room?       ─▶ stranger ── shows that it belongs here ──▶ settled
//!              no: the oldest stranger goes, or if there is none the newcomer
//!                                    └─ not within limits::CONNECTION_SETTLES_MAX: closed
//! ```
//!
//! Anybody can open connections, in any number, and say nothing. So a connection is a stranger until
//! it has shown that somebody is there who speaks the protocol: on the port of clients by finishing
//! the handshake of HTTP/2 ([`handshake`]), on the port of peers by a call that a member has signed
//! ([`Guest::settle`]).
//!
//! The port of peers is that of two protocols. The first byte of a connection tells which: those of failure
//! detectors leave through their [`Doorway`], and give their places back.
//!
//! Promises:
//!
//! - no more than `connections_max` connections are open, and [`limits::EVICTIONS_MAX`] that were told
//!   to go and are on their way;
//! - strangers never keep somebody else out: a newcomer takes the place of the oldest of them;
//! - a settled connection is never closed for a newcomer;
//! - a port goes on accepting whatever `accept` says, and does not spin.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::Sleep,
};
use tonic::transport::server::Connected;

use self::handshake::Handshake;
use crate::{
    detector::{self, Doorway},
    limits,
};

mod handshake;

/// Pause after `accept` has failed for want of something: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When a connection is no stranger any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settles {
    /// Once it has finished the handshake of HTTP/2.
    ByHandshake,
    /// Once [`Guest::settle`] is called.
    BySignature,
}

/// Takes connections as long as it is polled.
pub(super) fn accept(
    socket: TcpListener,
    name: &'static str,
    connections_max: usize,
    settles: Settles,
    doorway: Option<Doorway>,
) -> impl Stream<Item = io::Result<Connection<TcpStream>>> + Send {
    let entrance = Entrance {
        socket,
        door: Arc::new(Door::new(name, connections_max, settles)),
        doorway,
        silent: FuturesUnordered::new(),
    };
    futures_util::stream::unfold(entrance, async move |mut entrance| {
        let connection = entrance.next().await;
        Some((Ok(connection), entrance))
    })
}

/// Where connections come in.
///
/// - `silent` are those that have not said their first byte, where that decides. They have their places
///   already, so the bound of the door is theirs.
struct Entrance {
    socket: TcpListener,
    door: Arc<Door>,
    doorway: Option<Doorway>,
    silent: FuturesUnordered<BoxFuture<'static, Option<Connection<TcpStream>>>>,
}

impl Entrance {
    /// The next connection for the server.
    async fn next(&mut self) -> Connection<TcpStream> {
        loop {
            let accepted = tokio::select! {
                Some(sorted) = self.silent.next() => match sorted {
                    Some(connection) => return connection,
                    None => continue,
                },
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // One that is gone already fails at its first read.
                    let _ = stream.set_nodelay(true);
                    match (self.door.enter(stream), &self.doorway) {
                        (Some(connection), None) => return connection,
                        (Some(connection), Some(doorway)) => {
                            self.silent
                                .push(Box::pin(sort(connection, doorway.clone())));
                        }
                        (None, _) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(server = self.door.name, %error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Waits for the first byte of a connection, and hands it to the failure detector if it is for that.
async fn sort(
    mut connection: Connection<TcpStream>,
    doorway: Doorway,
) -> Option<Connection<TcpStream>> {
    let mut first = [0];
    let socket = &connection.socket;
    let stranger = connection.stranger.as_mut()?;
    let peeked = tokio::select! {
        Ok(()) = &mut stranger.told_to_go => return None,
        () = &mut stranger.patience => return None,
        peeked = socket.peek(&mut first) => peeked,
    };
    if !matches!(peeked, Ok(1)) || first[0] != detector::FIRST_BYTE {
        return Some(connection);
    }
    match socket.as_fd().try_clone_to_owned() {
        Ok(socket) => doorway.enter(socket.into()),
        Err(error) => tracing::warn!(%error, "a connection of a detector was not taken"),
    }
    None
}

/// Who is in.
struct Door {
    name: &'static str,
    connections_max: usize,
    settles: Settles,
    /// How long a connection may be a stranger.
    patience: Duration,
    inside: Mutex<Inside>,
}

/// - `open` counts every connection that is not closed, `leaving` those of them that were told to go.
/// - `strangers` are ordered by their arrival, and none of them is leaving.
#[derive(Default)]
struct Inside {
    open: usize,
    leaving: usize,
    arrivals: u64,
    strangers: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Door {
    fn new(name: &'static str, connections_max: usize, settles: Settles) -> Self {
        Self {
            name,
            connections_max,
            settles,
            patience: limits::CONNECTION_SETTLES_MAX,
            inside: Mutex::default(),
        }
    }

    /// Lets a connection in, if there is room or can be made. One that is not let in is closed.
    fn enter<S>(self: &Arc<Self>, socket: S) -> Option<Connection<S>> {
        let mut inside = self.inside.lock();
        let mut evicted = None;
        if inside.open - inside.leaving >= self.connections_max {
            if inside.leaving < limits::EVICTIONS_MAX {
                evicted = inside.strangers.pop_first();
            }
            if evicted.is_none() {
                drop(inside);
                tracing::warn!(
                    server = self.name,
                    connections_max = self.connections_max,
                    "too many connections: a new one was closed"
                );
                return None;
            }
            inside.leaving += 1;
        }
        inside.open += 1;
        inside.arrivals += 1;
        let number = inside.arrivals;
        let (evict, told_to_go) = oneshot::channel();
        inside.strangers.insert(number, evict);
        drop(inside);
        if let Some((_, evict)) = evicted {
            // One that has closed in this moment makes room as well.
            let _ = evict.send(());
            tracing::warn!(
                server = self.name,
                connections_max = self.connections_max,
                "too many connections: the oldest that has not shown who it is was closed"
            );
        }
        Some(Connection {
            socket,
            stranger: Some(Stranger {
                handshake: Handshake::default(),
                told_to_go,
                patience: Box::pin(tokio::time::sleep(self.patience)),
            }),
            guest: Guest(Arc::new(Place {
                door: self.clone(),
                number,
                settled: AtomicBool::new(false),
            })),
        })
    }
}

/// - `settled` is changed under the lock of the door, with the number among its strangers.
struct Place {
    door: Arc<Door>,
    number: u64,
    settled: AtomicBool,
}

/// The place of a connection, beside every request that comes through it.
#[derive(Clone)]
pub(super) struct Guest(Arc<Place>);

impl Guest {
    /// The connection is one that belongs here. It keeps its place.
    pub(super) fn settle(&self) {
        if !self.is_settled() {
            let mut inside = self.0.door.inside.lock();
            // One that was told to go meanwhile goes.
            if inside.strangers.remove(&self.0.number).is_some() {
                self.0.settled.store(true, Ordering::Relaxed);
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.0.settled.load(Ordering::Relaxed)
    }

    /// The connection is closed.
    fn leave(&self) {
        let inside = &mut *self.0.door.inside.lock();
        inside.open -= 1;
        let was_told_to_go =
            inside.strangers.remove(&self.0.number).is_none() && !self.is_settled();
        if was_told_to_go {
            inside.leaving -= 1;
        }
    }
}

/// What ends a stranger's visit.
struct Stranger {
    handshake: Handshake,
    told_to_go: oneshot::Receiver<()>,
    patience: Pin<Box<Sleep>>,
}

/// A connection that was let in.
pub(super) struct Connection<S> {
    socket: S,
    /// There until the connection is settled.
    stranger: Option<Stranger>,
    guest: Guest,
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.guest.leave();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.guest.is_settled() {
            this.stranger = None;
        }
        let Some(stranger) = &mut this.stranger else {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        };
        // A sender that is gone means that the connection is settled.
        if let Poll::Ready(Ok(())) = Pin::new(&mut stranger.told_to_go).poll(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if stranger.patience.as_mut().poll(cx).is_ready() {
            tracing::debug!(
                server = this.guest.0.door.name,
                "a connection did not finish its handshake in time"
            );
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.socket).poll_read(cx, buf);
        if this.guest.0.door.settles == Settles::ByHandshake
            && stranger.handshake.is_done_after(&buf.filled()[before..])
        {
            this.guest.settle();
            this.stranger = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

#[cfg(test)]
mod tests;
