//! User-space TCP proxies between nodes, and between clients and nodes, that can break links.
//!
//! ```text
//!   node 1 ─┐                                              ┌─ fault of 1 → 2 ─▶
//!   node 3 ─┼─▶ peer proxy of node 2: who opened it? ─▶ connection                node 2
//!           │                                              └─ fault of 2 → 1 ◀─
//!   clients ──▶ client proxy of node 2 ─▶ connection: clients → 2, 2 → clients ─▶ node 2
//! ```
//!
//! What holds here:
//!
//! - A fault applies to the bytes that one end sends to the other, whoever opened the connection.
//! - Faults take effect at once on existing connections, and end at once.
//! - A cut does not end a connection. A new connection while either direction is cut is accepted,
//!   as the kernel does that before anybody is asked, and goes no further until both are healed.
//! - A node that is down refuses: the connection to its proxy is reset at once.
//! - A peer connection that belongs to no node of the cluster is reset, counted and logged, since
//!   no fault could be applied to it. One whose opener has gone already is closed, and that is all: nobody
//!   waits for it.

mod links;
mod pump;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{sleep, sleep_until, timeout},
};

pub use self::links::{LinkState, Links};
use self::{
    links::is_cut,
    pump::{Ended, Pump},
};
use super::{
    End, LinkFault,
    attribution::{Owners, Unattributed},
    machine::ClusterLog,
};
use crate::history::NodeId;

/// How long a node may take to accept a connection. A paused one whose queue is full takes forever.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Most that is read from a new connection while it is held.
const HELD_BYTES_MAX: usize = 64 << 10;
/// Time until a reset link resets a connection that was made meanwhile: a few times a second.
const RESET_AFTER: std::ops::Range<Duration> =
    Duration::from_millis(50)..Duration::from_millis(500);
/// Time until the next connection is accepted after the system refused to.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Who opens the connections that a proxy accepts.
#[derive(Clone, Debug)]
pub enum Openers {
    /// Clients of the workload.
    Clients,
    /// The other nodes, told apart by their processes.
    Nodes(Owners),
}

/// What a proxy stands in front of.
#[derive(Clone, Debug)]
pub struct Front {
    /// The node behind.
    pub node: NodeId,
    /// Where that listens.
    pub addr: SocketAddr,
    /// Who connects.
    pub openers: Openers,
    /// The links of the cluster.
    pub links: Arc<Links>,
    /// Where refusals are told.
    pub log: Arc<ClusterLog>,
    /// Seed of what is random in the faults.
    pub seed: u64,
}

/// A listener in front of one node, with the connections it accepted. All are closed when this is
/// dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    turned_away: Arc<TurnedAway>,
    accepting: JoinHandle<()>,
}

/// Connections that went no further, by the reason.
#[derive(Debug, Default)]
struct TurnedAway {
    unattributed: AtomicU64,
    gone: AtomicU64,
}

impl Proxy {
    /// Serves the connections of a listener. Must be called within a tokio runtime.
    pub fn start(listener: std::net::TcpListener, front: Front) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let turned_away = Arc::<TurnedAway>::default();
        let accepting = tokio::spawn(accept(listener, addr, front, turned_away.clone()));
        Ok(Self {
            addr,
            turned_away,
            accepting,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that were refused because somebody else than a node holds their other end.
    pub fn unattributed(&self) -> u64 {
        self.turned_away.unattributed.load(Ordering::Relaxed)
    }

    /// Connections whose openers had gone before the proxy looked.
    pub fn gone(&self) -> u64 {
        self.turned_away.gone.load(Ordering::Relaxed)
    }

    /// Closes the listener and all connections, and waits until that is done.
    pub async fn shut_down(mut self) {
        self.accepting.abort();
        // Its only error is that it was aborted.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    here: SocketAddr,
    front: Front,
    turned_away: Arc<TurnedAway>,
) {
    let mut rng = StdRng::seed_from_u64(front.seed);
    // Dropped with this task, which ends the connections.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let rng = StdRng::seed_from_u64(rng.random());
                let (front, turned_away) = (front.clone(), turned_away.clone());
                connections.spawn(serve(stream, from, here, front, turned_away, rng));
            }
            Err(error) => {
                let node = front.node;
                front.log.tell(&format!(
                    "the proxy {here} of node {node} cannot accept: {error}"
                ));
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn serve(
    opener: TcpStream,
    from: SocketAddr,
    here: SocketAddr,
    front: Front,
    turned_away: Arc<TurnedAway>,
    rng: StdRng,
) {
    let end = match &front.openers {
        Openers::Clients => End::Clients,
        Openers::Nodes(owners) => {
            let owners = owners.clone();
            let found = spawn_blocking(move || owners.opener(from, here)).await;
            match found.expect("the look-up does not panic") {
                Ok(node) => End::Node(node),
                Err(Unattributed::Gone) => {
                    turned_away.gone.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(reason) => {
                    turned_away.unattributed.fetch_add(1, Ordering::Relaxed);
                    let node = front.node;
                    front.log.tell(&format!(
                        "the peer proxy {here} of node {node} refused a connection from {from}: \
                         {reason}"
                    ));
                    reset(&opener);
                    return;
                }
            }
        }
    };
    let node = End::Node(front.node);
    let forth = front.links.state(end, node);
    let back = front.links.state(node, end);
    connect(opener, front.addr, &forth, &back, rng).await;
}

/// Serves one connection from its acceptance to its end.
async fn connect(
    mut opener: TcpStream,
    addr: SocketAddr,
    forth: &LinkState,
    back: &LinkState,
    mut rng: StdRng,
) {
    let Some(begun) = hold(&opener, forth.watch(), back.watch()).await else {
        return;
    };
    let mut target = match timeout(CONNECT_WITHIN, TcpStream::connect(addr)).await {
        Ok(Ok(target)) => target,
        Ok(Err(_)) | Err(_) => return reset(&opener),
    };
    for stream in [&opener, &target] {
        // Fails only if the connection has ended, which the pumps find out.
        let _ = stream.set_nodelay(true);
    }
    let mut fork = || StdRng::seed_from_u64(rng.random());
    let resets = resetting(forth.watch(), back.watch(), fork());
    let (opener_broken, target_broken) = (AtomicBool::new(false), AtomicBool::new(false));
    let ended = {
        let (from_opener, to_opener) = opener.split();
        let (from_target, to_target) = target.split();
        let forth = Pump::new(
            (from_opener, &opener_broken),
            (to_target, &target_broken),
            forth,
            fork(),
            begun,
        );
        let back = Pump::new(
            (from_target, &target_broken),
            (to_opener, &opener_broken),
            back,
            fork(),
            Bytes::new(),
        );
        tokio::select! {
            ended = async { tokio::try_join!(forth.run(), back.run()) } => ended,
            () = resets => Err(pump::Reset),
        }
    };
    if !matches!(ended, Ok((Ended::Closed, Ended::Closed))) {
        reset(&opener);
        reset(&target);
    }
}

/// Keeps a new connection until neither direction is cut. Returns what has come in meanwhile, or
/// `None` if the opener gave up.
async fn hold(
    opener: &TcpStream,
    mut forth: watch::Receiver<LinkFault>,
    mut back: watch::Receiver<LinkFault>,
) -> Option<Bytes> {
    let mut begun = BytesMut::new();
    loop {
        if !is_cut(&forth.borrow_and_update()) && !is_cut(&back.borrow_and_update()) {
            return Some(begun.freeze());
        }
        tokio::select! {
            changed = forth.changed() => changed.ok()?,
            changed = back.changed() => changed.ok()?,
            _ = opener.readable(), if begun.len() < HELD_BYTES_MAX => {
                match opener.try_read_buf(&mut begun) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        }
    }
}

/// Ends when the connection is to be reset by a fault: at once when the fault comes up, and after
/// a random time if it was there before the connection.
async fn resetting(
    mut forth: watch::Receiver<LinkFault>,
    mut back: watch::Receiver<LinkFault>,
    mut rng: StdRng,
) {
    let pause = RESET_AFTER.end - RESET_AFTER.start;
    let patience = RESET_AFTER.start + pause.mul_f64(rng.random());
    let mut due = tokio::time::Instant::now() + patience;
    loop {
        let resets = forth.borrow_and_update().reset | back.borrow_and_update().reset;
        if !resets {
            due = tokio::time::Instant::now();
        }
        let changed = tokio::select! {
            () = sleep_until(due), if resets => return,
            changed = forth.changed() => changed,
            changed = back.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Makes the end of this stream a reset, once it is dropped.
fn reset(stream: &TcpStream) {
    // Fails only if the connection has ended.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests;
