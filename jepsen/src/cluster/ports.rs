//! Ports for the listeners of a cluster on this machine.

use std::{io, net::TcpListener};

use rand::RngExt;

/// Ports come from here: below what the system hands out for outgoing connections, so that a node
/// which is down for a while does not lose its port to one of those.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Draws for each port before the search is given up.
const DRAWS_MAX: usize = 1000;

/// Listeners at 127.0.0.1 on ports that nobody has. Whoever needs only the number drops the
/// listener, and may lose the port to somebody else before it is used.
pub fn free(wanted: usize) -> io::Result<Vec<TcpListener>> {
    // Not seeded by the run: two runs with one seed may share a machine.
    let mut rng = rand::rng();
    let mut held = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..DRAWS_MAX * wanted {
        if held.len() == wanted {
            break;
        }
        match TcpListener::bind(("127.0.0.1", rng.random_range(PORTS))) {
            Ok(listener) => held.push(listener),
            Err(error) => last = error,
        }
    }
    if held.len() == wanted {
        Ok(held)
    } else {
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_differ_and_are_in_the_range() {
        let held = free(40).unwrap();
        let ports: BTreeSet<u16> = held
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 40);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
