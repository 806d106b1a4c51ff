//! The thread that runs a [`Machine`]: sockets, the clock, and nothing of a runtime.
//!
//! ```text
//!   peer listener ── first byte is the detector's ──▶ Doorway ─┐
//!   sockets ── ready ──▶ poll ── woke, events, tick ──▶ Machine ├─▶ actions ──▶ sockets
//!   Vitals ───────────────────────────────────────────▶        ┘─▶ Views ──▶ watch
//! ```
//!
//! It shares neither thread nor socket with what serves requests, so a node that is busy still answers. It
//! asks for a better priority than the others, and does without where it is refused. It never waits but in
//! `poll`: names are resolved elsewhere, and a socket that takes no more loses messages.

use std::{
    collections::BTreeMap,
    io,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    operator::{raise_priority, report},
    resolve::{Addresses, Resolver},
    socket::{Read, Socket, Stage},
};
use super::{
    Views, Vitals,
    machine::{Action, Machine},
    message::{Greeting, MAGIC},
    peer::{ConnectionId, Failure},
    report::{Measurements, Reporter, note},
    time::Time,
};
use crate::{limits, raft::NodeId};

mod operator;
mod resolve;
mod socket;
#[cfg(test)]
mod tests;

const WAKER: Token = Token(0);

/// The first byte of a connection that is for the detector. No other protocol of the port begins so.
pub const FIRST_BYTE: u8 = MAGIC[0];

/// Whose detector it is, and whom it watches.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The cluster. Nobody of another one is let in.
    pub cluster_id: u64,
    /// This node.
    pub me: NodeId,
    /// The start of this node; not 0.
    pub session: u64,
    /// The peers, with the URLs where they listen to each other.
    pub peers: Vec<(NodeId, String)>,
}

/// Why a detector does not run.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// The system gives no thread, or nothing to wait for sockets with.
    #[error("failure detector: {0}")]
    System(#[from] io::Error),
    /// The URL of a peer does not parse.
    #[error("failure detector: the URL of node {peer}: {url}")]
    Url {
        /// The peer.
        peer: NodeId,
        /// Its URL.
        url: String,
    },
}

/// The detector of this node, running.
pub struct Detector {
    reporter: Reporter,
    doorway: Doorway,
    thread: Option<JoinHandle<()>>,
}

/// Where connections of other detectors are handed in.
#[derive(Clone)]
pub struct Doorway {
    accepted: SyncSender<TcpStream>,
    bell: Arc<Bell>,
}

/// What wakes the thread, and what it has to do then.
struct Bell {
    waker: Waker,
    stops: AtomicBool,
    /// Before it ends.
    says_goodbye: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // Fails only for want of memory in the kernel; the thread wakes by itself soon.
        let _ = self.waker.wake();
    }
}

impl Doorway {
    /// Hands in a connection that began with [`FIRST_BYTE`], which has not been read. It is closed if
    /// too many wait.
    pub fn enter(&self, stream: TcpStream) {
        match self.accepted.try_send(stream) {
            Ok(()) => self.bell.ring(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Detector {
    /// Starts the thread.
    pub fn start(watched: Watched, vitals: Arc<Vitals>) -> Result<Self, DetectorError> {
        let start = Instant::now();
        let poll = Poll::new()?;
        let bell = Arc::new(Bell {
            waker: Waker::new(poll.registry(), WAKER)?,
            stops: AtomicBool::new(false),
            says_goodbye: AtomicBool::new(false),
        });
        let mut resolvers = BTreeMap::new();
        for (peer, url) in &watched.peers {
            let resolver = Resolver::new(url).ok_or_else(|| DetectorError::Url {
                peer: *peer,
                url: url.clone(),
            })?;
            resolvers.insert(*peer, resolver);
        }
        let (accepted, handed_in) = sync_channel(limits::DETECTOR_STRANGERS_MAX);
        let peers = watched.peers.iter().map(|(peer, _)| *peer);
        let machine = Machine::new(watched.me, watched.session, peers, Time::default());
        let (publish, views) = watch::channel(Arc::new(machine.views(start)));
        let reporter = Reporter {
            start,
            views,
            measured: Arc::new(Mutex::new(machine.measured(start).collect())),
        };
        let shell = Shell {
            watched,
            vitals,
            start,
            poll,
            bell: bell.clone(),
            handed_in,
            resolvers,
            machine,
            sockets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: WAKER.0 + 1,
            unread: Vec::new(),
            publish,
            measured: reporter.measured.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("detector".to_string())
            .spawn(move || shell.run())?;
        Ok(Self {
            reporter,
            doorway: Doorway { accepted, bell },
            thread: Some(thread),
        })
    }

    /// What is known, and every change of it.
    pub fn views(&self) -> watch::Receiver<Arc<Views>> {
        self.reporter.views.clone()
    }

    /// Tells what is seen of the peers, for whoever operates this node.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// Where connections of other detectors go.
    pub fn doorway(&self) -> Doorway {
        self.doorway.clone()
    }

    /// Says goodbye to all peers, which hold this node for gone from then on, and ends the thread.
    pub fn stop(mut self) {
        let bell = &self.doorway.bell;
        bell.says_goodbye.store(true, Ordering::Release);
        bell.stops.store(true, Ordering::Release);
        bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the failure detector had ended in a panic");
        }
    }
}

/// Without a goodbye, and without waiting for the thread.
impl Drop for Detector {
    fn drop(&mut self) {
        self.doorway.bell.stops.store(true, Ordering::Release);
        self.doorway.bell.ring();
    }
}

/// The thread.
///
/// - `tokens` has exactly the sockets of connections that the machine knows.
struct Shell {
    watched: Watched,
    vitals: Arc<Vitals>,
    start: Instant,
    poll: Poll,
    bell: Arc<Bell>,
    handed_in: Receiver<TcpStream>,
    resolvers: BTreeMap<NodeId, Resolver>,
    machine: Machine,
    sockets: BTreeMap<Token, Socket>,
    tokens: BTreeMap<ConnectionId, Token>,
    next_token: usize,
    /// Sockets with more to read than a turn may take.
    unread: Vec<Token>,
    publish: watch::Sender<Arc<Views>>,
    measured: Measurements,
}

impl Shell {
    fn run(mut self) {
        raise_priority();
        let mut events = Events::with_capacity(limits::DETECTOR_EVENTS_MAX);
        while !self.bell.stops.load(Ordering::Acquire) {
            let wait = if self.unread.is_empty() {
                self.machine.due().since(self.now())
            } else {
                Duration::ZERO
            };
            if let Err(error) = self.poll.poll(&mut events, Some(wait)) {
                if error.kind() == io::ErrorKind::Interrupted {
                    // A process that was stopped goes on here: what came meanwhile is read first.
                    continue;
                }
                tracing::error!(%error, "the failure detector cannot wait for its sockets");
                std::thread::sleep(limits::BEAT_INTERVAL);
            }
            let now = self.now();
            self.machine.woke(!self.unread.is_empty(), now);
            let mut ready = std::mem::take(&mut self.unread);
            ready.extend(events.iter().map(|event| event.token()));
            for token in ready {
                if token == WAKER {
                    self.take_in(now);
                } else if self.serve(token, now) {
                    self.unread.push(token);
                }
            }
            self.close_strangers(now);
            let stall = self.vitals.worst(Instant::now());
            self.machine.tick(stall, now);
            self.perform(now);
            self.publish_views();
        }
        if self.bell.says_goodbye.load(Ordering::Acquire) {
            self.machine.goodbye(self.now());
            self.perform(self.now());
        }
    }

    fn now(&self) -> Time {
        Time::of(Instant::now(), self.start)
    }

    fn publish_views(&self) {
        let views = self.machine.views(self.start);
        self.publish.send_if_modified(|published| {
            let changed = **published != views;
            if changed {
                *published = Arc::new(views);
            }
            changed
        });
        note(&self.measured, self.machine.measured(self.start));
    }

    // ---- connections ------------------------------------------------------------------------------

    /// Takes in what the listener has accepted.
    fn take_in(&mut self, now: Time) {
        while let Ok(stream) = self.handed_in.try_recv() {
            let strangers = self.sockets.values().filter(|socket| socket.is_stranger());
            if strangers.count() >= limits::DETECTOR_STRANGERS_MAX {
                continue;
            }
            let token = self.new_token();
            match Socket::accepted(stream, &self.poll, token, now) {
                Ok(socket) => {
                    self.sockets.insert(token, socket);
                    // What came before it was registered makes no event.
                    if self.serve(token, now) {
                        self.unread.push(token);
                    }
                }
                Err(error) => tracing::debug!(%error, "a connection of a detector is gone already"),
            }
        }
    }

    fn new_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        token
    }

    /// Reads and writes what can be. Returns whether there is more to read.
    fn serve(&mut self, token: Token, now: Time) -> bool {
        let Some(socket) = self.sockets.get_mut(&token) else {
            return false;
        };
        if let Stage::Dialing { id, peer } = socket.stage {
            match socket.is_connected() {
                Ok(false) => return false,
                Ok(true) => {
                    let greeting = Greeting {
                        cluster_id: self.watched.cluster_id,
                        from: self.watched.me,
                        to: peer,
                        session: self.watched.session,
                    };
                    socket.stage = Stage::Open { id };
                    socket.queue(&greeting.encode());
                    if let Some(resolver) = self.resolvers.get_mut(&peer) {
                        resolver.works(socket.address);
                    }
                    self.machine.connected(id, now);
                }
                Err(error) => {
                    self.sockets.remove(&token);
                    self.dial_failed(peer, id, &error, now);
                    return false;
                }
            }
        }
        if socket_write(&mut self.sockets, token).is_err() {
            self.lose(token, now);
            return false;
        }
        for _ in 0..limits::DETECTOR_READS_PER_TURN_MAX {
            let Some(socket) = self.sockets.get_mut(&token) else {
                return false;
            };
            match socket.read() {
                Ok(Read::Nothing) => return false,
                Ok(Read::Some) => {
                    if !self.understand(token, now) {
                        self.lose(token, now);
                        return false;
                    }
                }
                Ok(Read::End) | Err(_) => {
                    self.lose(token, now);
                    return false;
                }
            }
        }
        true
    }

    /// Works off what was read. False if it is nothing that a peer says.
    fn understand(&mut self, token: Token, now: Time) -> bool {
        loop {
            let Some(socket) = self.sockets.get_mut(&token) else {
                return true;
            };
            match socket.stage {
                Stage::Dialing { .. } => return true,
                Stage::Stranger { .. } => match socket.take_greeting() {
                    Ok(None) => return true,
                    Ok(Some(greeting)) => {
                        let known = greeting.cluster_id == self.watched.cluster_id
                            && greeting.to == self.watched.me
                            && greeting.session != 0;
                        let from = known.then_some(greeting.from);
                        let id = from
                            .and_then(|from| self.machine.accepted(from, greeting.session, now));
                        let Some(id) = id else {
                            return false;
                        };
                        socket.stage = Stage::Open { id };
                        self.tokens.insert(id, token);
                    }
                    Err(_) => return false,
                },
                Stage::Open { id } => match socket.take_message() {
                    Ok(None) => return true,
                    Ok(Some(message)) => self.machine.received(id, &message, now),
                    Err(_) => return false,
                },
            }
        }
    }

    /// A socket has ended, or has to.
    fn lose(&mut self, token: Token, now: Time) {
        if let Some(socket) = self.sockets.remove(&token)
            && let Stage::Open { id } = socket.stage
        {
            self.tokens.remove(&id);
            self.machine.ended(id, Failure::Other, now);
        }
    }

    fn close_strangers(&mut self, now: Time) {
        self.sockets.retain(|_, socket| match socket.stage {
            Stage::Stranger { since } => now.since(since) < limits::DETECTOR_GREETING_MAX,
            _ => true,
        });
    }

    // ---- actions ----------------------------------------------------------------------------------

    fn perform(&mut self, now: Time) {
        for action in self.machine.actions() {
            match action {
                Action::Dial { peer, connection } => self.dial(peer, connection, now),
                Action::Send {
                    connection,
                    message,
                } => {
                    let token = self.tokens.get(&connection).copied();
                    let Some(socket) = token.and_then(|token| self.sockets.get_mut(&token)) else {
                        continue;
                    };
                    socket.queue_message(&message);
                    if let Some(token) = token
                        && socket_write(&mut self.sockets, token).is_err()
                    {
                        self.lose(token, now);
                    }
                }
                Action::Close { connection } => {
                    if let Some(token) = self.tokens.remove(&connection) {
                        self.sockets.remove(&token);
                    }
                }
                Action::Report { peer, news } => report(peer, news),
            }
        }
    }

    fn dial(&mut self, peer: NodeId, id: ConnectionId, now: Time) {
        let addresses = match self.resolvers.get_mut(&peer) {
            Some(resolver) => resolver.addresses(now, &self.bell),
            None => Addresses::default(),
        };
        self.dial_next(peer, id, addresses, now);
    }

    /// Dials the next address of a peer that has not been tried.
    fn dial_next(&mut self, peer: NodeId, id: ConnectionId, mut left: Addresses, now: Time) {
        while let Some(address) = left.next() {
            let token = self.new_token();
            match Socket::dial(address, &self.poll, token, (id, peer), left.clone()) {
                Ok(socket) => {
                    self.sockets.insert(token, socket);
                    self.tokens.insert(id, token);
                    return;
                }
                Err(error) => left.failed(&error),
            }
        }
        self.tokens.remove(&id);
        self.machine.ended(id, left.failure(), now);
    }

    fn dial_failed(&mut self, peer: NodeId, id: ConnectionId, error: &Dialed, now: Time) {
        let mut left = error.left.clone();
        left.failed(&error.error);
        self.dial_next(peer, id, left, now);
    }
}

/// Why an address was not reached, and which are left.
struct Dialed {
    error: io::Error,
    left: Addresses,
}

fn socket_write(sockets: &mut BTreeMap<Token, Socket>, token: Token) -> io::Result<()> {
    sockets.get_mut(&token).map_or(Ok(()), Socket::write)
}
