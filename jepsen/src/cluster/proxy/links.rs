//! What is wrong with each direction between two ends, as the proxies of a cluster share it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::{End, FaultError, Link, LinkFault},
    history::NodeId,
};

/// Unused time of a link of bounded rate that may be made up for: as long as a timer may be late.
const CREDIT: Duration = Duration::from_millis(20);

/// The links of a cluster, in both directions between every two nodes and between every node and
/// the clients. Which there are never changes; what is wrong with them takes effect at once, on
/// existing connections too.
#[derive(Debug)]
pub struct Links {
    states: BTreeMap<Link, Arc<LinkState>>,
}

impl Links {
    /// Healthy links between these nodes and the clients.
    pub fn new(nodes: &[NodeId]) -> Self {
        let nodes = nodes.iter().map(|node| End::Node(*node));
        let ends: Vec<End> = nodes.chain([End::Clients]).collect();
        let pairs = ends.iter().flat_map(|from| {
            ends.iter().map(|to| Link {
                from: *from,
                to: *to,
            })
        });
        Self {
            states: pairs.map(|link| (link, Arc::default())).collect(),
        }
    }

    /// Sets what is wrong with these links: all of them, or none if one is refused.
    pub fn set(&self, links: &[(Link, LinkFault)]) -> Result<(), FaultError> {
        for (link, fault) in links {
            if link.from == link.to || !self.states.contains_key(link) {
                return Err(FaultError::Failed(format!("there is no {link:?}")));
            }
            if !(0.0..=1.0).contains(&fault.loss) {
                let text = format!("a loss of {} is none; it must be 0 to 1", fault.loss);
                return Err(FaultError::Failed(text));
            }
        }
        for (link, fault) in links {
            self.states[link].set(*fault);
        }
        Ok(())
    }

    /// Heals all links.
    pub fn heal(&self) {
        for state in self.states.values() {
            state.set(LinkFault::default());
        }
    }

    /// One direction. The link of a node to itself is always healthy.
    ///
    /// # Panics
    ///
    /// If an end is not of this cluster.
    pub fn state(&self, from: End, to: End) -> Arc<LinkState> {
        let state = self.states.get(&Link { from, to });
        state.expect("both ends are of this cluster").clone()
    }
}

/// One direction between two ends.
#[derive(Debug)]
pub struct LinkState {
    fault: watch::Sender<LinkFault>,
    /// When the bytes that were let through so far have passed, while the rate is bounded.
    passed: Mutex<Instant>,
}

impl Default for LinkState {
    fn default() -> Self {
        Self {
            fault: watch::Sender::default(),
            passed: Mutex::new(Instant::now()),
        }
    }
}

impl LinkState {
    fn set(&self, new: LinkFault) {
        self.fault.send_if_modified(|fault| {
            if fault.bytes_per_second != new.bytes_per_second {
                *self.passed.lock() = Instant::now();
            }
            std::mem::replace(fault, new) != new
        });
    }

    /// What is wrong, now and later.
    pub fn watch(&self) -> watch::Receiver<LinkFault> {
        self.fault.subscribe()
    }

    /// Books so many bytes at this rate, after all that was booked before by any connection.
    /// Returns when they have passed.
    pub fn book(&self, bytes: usize, bytes_per_second: u64) -> Instant {
        let taken = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        let mut passed = self.passed.lock();
        let begin = (Instant::now() - CREDIT).max(*passed);
        *passed = begin + taken;
        *passed
    }
}

/// Whether nothing gets through.
pub fn is_cut(fault: &LinkFault) -> bool {
    fault.cut || fault.loss >= 1.0
}
