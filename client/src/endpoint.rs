//! One node as the client sees it: its connections, and whether to trust it with a request.
//!
//! ```text
//!            transport failure, "server stopped", too slow, hangs
//!        ┌──────────────────────────────────────────────────┐
//!        │                                                  ▼
//!       Up ◀──────────── a probe was answered ──────────── Down     (one probing task while Down)
//!        │
//!        └─ "no leader", overloaded: avoided for a moment, still Up
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_proto::gathering::connect_lazy;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tonic::transport::{Channel, Uri};

use crate::error::{Effect, Error, ErrorKind};

/// How long an endpoint that cannot serve at the moment comes last.
const AVOID: Duration = Duration::from_millis(250);
/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2 flow-control window of a stream; large answers arrive without waiting for updates.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2 flow-control window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What answers at the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerKind {
    /// Nothing has answered yet.
    Unknown,
    /// Holdfast: it knows retry ids.
    Holdfast,
    /// Another server of the etcd v3 API: it does not.
    Etcd,
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) connections_per_endpoint: usize,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
}

pub(crate) struct Endpoint {
    /// `http://host:port`
    pub(crate) url: Arc<str>,
    /// Given by the user, so it is kept whatever the cluster says.
    pub(crate) seed: bool,
    channels: RwLock<Arc<[Channel]>>,
    next_channel: AtomicUsize,
    down: AtomicBool,
    /// Belongs to another cluster: never used.
    foreign: AtomicBool,
    /// Milliseconds after `epoch` until which the endpoint comes last.
    avoid_until_ms: AtomicU64,
    epoch: Instant,
    /// Milliseconds after `epoch` at which it last answered anything.
    heard_ms: AtomicU64,
    /// Somebody asks it whether it lives.
    examined: AtomicBool,
    /// Tells those who wait for an answer that it hangs.
    pub(crate) hung: Notify,
    /// 0 while unknown.
    pub(crate) node_id: AtomicU64,
    /// Lies in the zone the user prefers.
    pub(crate) preferred: AtomicBool,
}

impl Endpoint {
    /// `url` must have passed [`normalize`]. An endpoint that is not a seed starts Down: it is used
    /// once a probe has shown that it is what the cluster says it is.
    pub(crate) fn new(
        url: Arc<str>,
        seed: bool,
        node_id: u64,
        kind: ServerKind,
        transport: &Transport,
    ) -> Result<Self, Error> {
        let channels = connect(&url, kind, transport)?;
        Ok(Self {
            url,
            seed,
            channels: RwLock::new(channels),
            next_channel: AtomicUsize::new(0),
            down: AtomicBool::new(!seed),
            foreign: AtomicBool::new(false),
            avoid_until_ms: AtomicU64::new(0),
            epoch: Instant::now(),
            heard_ms: AtomicU64::new(0),
            examined: AtomicBool::new(false),
            hung: Notify::new(),
            node_id: AtomicU64::new(node_id),
            preferred: AtomicBool::new(false),
        })
    }

    /// Makes new connections, with the settings that suit the kind of server.
    pub(crate) fn reconnect(&self, kind: ServerKind, transport: &Transport) {
        match connect(&self.url, kind, transport) {
            Ok(channels) => *self.channels.write() = channels,
            Err(error) => tracing::warn!(url = %self.url, %error, "cannot reconnect"),
        }
    }

    /// One of the connections, in turn.
    pub(crate) fn channel(&self) -> Channel {
        let channels = self.channels.read();
        let at = match channels.len() {
            1 => 0,
            n => self.next_channel.fetch_add(1, Ordering::Relaxed) % n,
        };
        channels[at].clone()
    }

    /// True if it was Up until now: the caller starts the probe.
    #[must_use]
    pub(crate) fn set_down(&self) -> bool {
        !self.down.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn set_up(&self) {
        self.down.store(false, Ordering::Release);
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    pub(crate) fn avoid(&self) {
        let until = (self.epoch.elapsed() + AVOID).as_millis() as u64;
        self.avoid_until_ms.store(until, Ordering::Relaxed);
    }

    /// It has answered something.
    pub(crate) fn heard(&self) {
        let now = self.epoch.elapsed().as_millis() as u64;
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Whether it has answered anything within this time.
    pub(crate) fn was_heard_within(&self, time: Duration) -> bool {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(heard) < time
    }

    /// True for the one who asks it; everybody else waits for what that finds out.
    #[must_use]
    pub(crate) fn begins_examination(&self) -> bool {
        !self.examined.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn ends_examination(&self) {
        self.examined.store(false, Ordering::Release);
    }

    pub(crate) fn set_foreign(&self) {
        self.foreign.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed)
    }

    /// Up, and not asked to be avoided.
    pub(crate) fn is_healthy(&self) -> bool {
        if self.is_down() {
            return false;
        }
        let until = self.avoid_until_ms.load(Ordering::Relaxed);
        until == 0 || self.epoch.elapsed().as_millis() as u64 >= until
    }
}

fn connect(url: &str, kind: ServerKind, transport: &Transport) -> Result<Arc<[Channel]>, Error> {
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned())
        .map_err(|e| invalid(url, &e.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let endpoint = match kind {
        ServerKind::Holdfast => endpoint
            .http2_keep_alive_interval(transport.keepalive_interval)
            .keep_alive_timeout(transport.keepalive_timeout)
            .keep_alive_while_idle(true),
        // A gRPC server in Go hangs up on clients that ping more often than every 5 s, or at all
        // without a request under way.
        ServerKind::Etcd | ServerKind::Unknown => endpoint
            .http2_keep_alive_interval(transport.keepalive_interval.max(Duration::from_secs(6)))
            .keep_alive_timeout(transport.keepalive_timeout.max(Duration::from_secs(2))),
    };
    Ok((0..transport.connections_per_endpoint.max(1))
        .map(|_| connect_lazy(&endpoint))
        .collect())
}

fn invalid(endpoint: &str, reason: &str) -> Error {
    let kind = ErrorKind::InvalidEndpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    Error::new(kind, Effect::None)
}

/// `host:port` or `http://host:port[/]` as `http://host:port`; the port defaults to 2379.
pub(crate) fn normalize(endpoint: &str) -> Result<Arc<str>, Error> {
    let given = endpoint.trim();
    let with_scheme = if given.contains("://") {
        given.to_owned()
    } else {
        format!("http://{given}")
    };
    let uri: Uri = with_scheme
        .parse()
        .map_err(|_| invalid(endpoint, "it is not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(invalid(endpoint, "TLS is not supported yet; use http://")),
        _ => return Err(invalid(endpoint, "the scheme must be http")),
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(invalid(endpoint, "it must end after the port"));
    }
    let host = uri
        .host()
        .filter(|h| !h.is_empty())
        .ok_or_else(|| invalid(endpoint, "no host"))?;
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    if authority.contains('@') {
        return Err(invalid(endpoint, "user names are not supported"));
    }
    // The parser takes a port that is not a number, or too large, for none.
    let port = match authority[host.len()..].strip_prefix(':') {
        None => 2379,
        Some(text) => text
            .parse::<u16>()
            .map_err(|_| invalid(endpoint, "the port is not valid"))?,
    };
    Ok(format!("http://{}:{port}", host.to_ascii_lowercase()).into())
}

/// False for addresses that a node can listen on but nobody can connect to.
pub(crate) fn is_reachable_address(url: &str) -> bool {
    !(url.starts_with("http://0.0.0.0:") || url.starts_with("http://[::]:"))
}

#[cfg(test)]
mod tests;
