//! Addresses of a peer. A name is looked up on a thread of its own, as that may take its time.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use parking_lot::Mutex;

use super::Bell;
use crate::{
    detector::{peer::Failure, time::Time},
    limits,
};

/// The addresses of a peer that have not been tried yet, and what became of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    left: Vec<SocketAddr>,
    tried: usize,
    refused: usize,
}

impl Addresses {
    pub fn next(&mut self) -> Option<SocketAddr> {
        self.left.pop()
    }

    /// The address that was taken last was not reached.
    pub fn failed(&mut self, error: &io::Error) {
        self.tried += 1;
        self.refused += usize::from(error.kind() == io::ErrorKind::ConnectionRefused);
    }

    /// What that says of the peer: a process that is gone refuses at all of its addresses.
    pub fn failure(&self) -> Failure {
        if self.tried > 0 && self.refused == self.tried {
            Failure::Refused
        } else {
            Failure::Other
        }
    }
}

/// What is looked up, and by whom.
#[derive(Default)]
struct Lookup {
    /// A thread is at it.
    under_way: bool,
    found: Vec<SocketAddr>,
}

/// The addresses of one peer.
pub(super) struct Resolver {
    host: String,
    port: u16,
    fixed: Option<SocketAddr>,
    lookup: Arc<Mutex<Lookup>>,
    looked_up_at: Option<Time>,
    /// The one that was reached last.
    works: Option<SocketAddr>,
}

impl Resolver {
    /// For a peer with this URL, if it is one.
    pub fn new(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_string();
        let port = uri.port_u16().unwrap_or(80);
        let fixed = host.parse::<IpAddr>().ok();
        Some(Self {
            fixed: fixed.map(|ip| SocketAddr::new(ip, port)),
            host,
            port,
            lookup: Arc::default(),
            looked_up_at: None,
            works: None,
        })
    }

    /// What is known, the address that was reached last first. Looks a name up for the next time.
    pub fn addresses(&mut self, now: Time, bell: &Arc<Bell>) -> Addresses {
        let mut left = match self.fixed {
            Some(address) => vec![address],
            None => {
                self.look_up(now, bell);
                let found = &self.lookup.lock().found;
                found
                    .iter()
                    .take(limits::ADDRESSES_PER_PEER_MAX)
                    .copied()
                    .collect()
            }
        };
        // Taken from the end.
        left.sort_by_key(|address| Some(*address) == self.works);
        Addresses {
            left,
            ..Addresses::default()
        }
    }

    /// It was reached at this address.
    pub fn works(&mut self, address: Option<SocketAddr>) {
        self.works = address;
    }

    fn look_up(&mut self, now: Time, bell: &Arc<Bell>) {
        let is_recent = self
            .looked_up_at
            .is_some_and(|at| now.since(at) < limits::LOOKUP_INTERVAL_MIN);
        let mut lookup = self.lookup.lock();
        if is_recent || lookup.under_way {
            return;
        }
        self.looked_up_at = Some(now);
        let (name, shared, bell) = (
            (self.host.clone(), self.port),
            self.lookup.clone(),
            bell.clone(),
        );
        let thread = std::thread::Builder::new().name("detector-names".to_string());
        let spawned = thread.spawn(move || {
            let found = name.to_socket_addrs();
            let mut lookup = shared.lock();
            lookup.under_way = false;
            match found {
                Ok(found) => lookup.found = found.collect(),
                // The addresses from before are as good as any.
                Err(error) => {
                    tracing::debug!(host = name.0, %error, "the name of a peer is not known");
                }
            }
            drop(lookup);
            bell.ring();
        });
        lookup.under_way = spawned.is_ok();
    }
}
