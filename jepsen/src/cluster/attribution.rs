//! Which node opened a connection.
//!
//! A node has one address that all others know, so a proxy in front of it sees connections from
//! everybody at one listener, and loopback connections look alike but for their ports. The kernel
//! knows more: `/proc/net/tcp` names the inode of the opener's socket, and `/proc/PID/fd` the
//! process that holds it.
//!
//! What holds here: a connection is attributed to a node only if a process of that node holds the
//! other end of it now. Nothing is guessed.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::history::NodeId;

/// Looks before a connection counts as nobody's: the kernel's table may lack a row while it changes.
const LOOKS_MAX: u32 = 3;
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why a connection belongs to no node.
#[derive(Debug, thiserror::Error)]
pub enum Unattributed {
    /// Only IPv4 sockets are looked up.
    #[error("it is not an IPv4 connection")]
    NotIpv4,
    /// The other end is closed, or was never on this machine.
    #[error("its other end is no open socket of this machine")]
    NoSocket,
    /// A process that is none of the nodes holds it.
    #[error("no process of the cluster holds its other end")]
    NotOurs,
    /// The tables cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(&'static str, io::Error),
}

/// The processes of the nodes that run. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Owners(Arc<Mutex<BTreeMap<NodeId, u32>>>);

impl Owners {
    /// From now on this process is the node's.
    pub fn insert(&self, node: NodeId, process: u32) {
        self.0.lock().insert(node, process);
    }

    /// From now on the node has no process.
    pub fn remove(&self, node: NodeId) {
        self.0.lock().remove(&node);
    }

    /// Who opened a connection that was accepted at `accepted_at` and comes from `from`. Blocks for
    /// some milliseconds.
    pub fn opener(
        &self,
        from: SocketAddr,
        accepted_at: SocketAddr,
    ) -> Result<NodeId, Unattributed> {
        let (SocketAddr::V4(from), SocketAddr::V4(accepted_at)) = (from, accepted_at) else {
            return Err(Unattributed::NotIpv4);
        };
        let mut looks = 1;
        loop {
            match self.look(from, accepted_at) {
                Err(Unattributed::NoSocket | Unattributed::NotOurs) if looks < LOOKS_MAX => {
                    looks += 1;
                    std::thread::sleep(POLL_INTERVAL);
                }
                outcome => return outcome,
            }
        }
    }

    fn look(&self, from: SocketAddrV4, to: SocketAddrV4) -> Result<NodeId, Unattributed> {
        const TABLE: &str = "/proc/net/tcp";
        let table =
            fs::read_to_string(TABLE).map_err(|error| Unattributed::Unreadable(TABLE, error))?;
        let inode = inode(&table, from, to).ok_or(Unattributed::NoSocket)?;
        let owners = self.0.lock().clone();
        owners
            .into_iter()
            .find(|(_, process)| holds(*process, inode))
            .map(|(node, _)| node)
            .ok_or(Unattributed::NotOurs)
    }
}

/// The inode of the socket at `local` that is connected to `remote`, in the kernel's table.
fn inode(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let (local, remote) = (spelled(local), spelled(remote));
    table.lines().find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
        let mut words = line.split_whitespace().skip(1);
        if words.next()? != local || words.next()? != remote {
            return None;
        }
        // A socket that no process holds any more has the inode 0.
        words.nth(6)?.parse().ok().filter(|inode| *inode != 0)
    })
}

/// An address as the kernel's table spells it: the four bytes as one number of this machine.
fn spelled(addr: SocketAddrV4) -> String {
    let ip = u32::from_ne_bytes(addr.ip().octets());
    format!("{ip:08X}:{:04X}", addr.port())
}

/// Whether a process has a socket open. A process that has ended has none.
fn holds(process: u32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::cluster::process::{Launch, Process};

    #[test]
    fn rows_are_found_by_both_ends() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:2710 0100007F:8000 01 00000000:00000000 00:00000000 00000000  0 0 11 1 0000 20 4\n\
            \x20  1: 0100007F:8000 0100007F:2710 01 00000000:00000000 00:00000000 00000000  0 0 12 1 0000 20 4\n\
            \x20  2: 0100007F:8001 0100007F:2710 06 00000000:00000000 03:00000000 00000000  0 0 0 3 0000\n";
        let addr = |port| SocketAddrV4::new([127, 0, 0, 1].into(), port);
        assert_eq!(inode(table, addr(0x8000), addr(0x2710)), Some(12));
        assert_eq!(inode(table, addr(0x2710), addr(0x8000)), Some(11));
        assert_eq!(inode(table, addr(0x8001), addr(0x2710)), None);
        assert_eq!(inode(table, addr(0x8002), addr(0x2710)), None);
    }

    #[test]
    fn a_connection_belongs_to_the_process_that_opened_it() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let open = || {
            let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -u 3", here.port());
            let launch = Launch {
                program: "/bin/bash".into(),
                args: vec!["-c".into(), script.into()],
                withheld: Vec::new(),
                env: Vec::new(),
                log: dir.path().join("log"),
                descriptors_max: None,
            };
            let process = Process::spawn(&launch).unwrap();
            let (_stream, from) = listener.accept().unwrap();
            (process, _stream, from)
        };
        let (first, _one, from_first) = open();
        let (second, _two, from_second) = open();
        let owners = Owners::default();
        owners.insert(1, first.id());
        owners.insert(2, second.id());
        assert_eq!(owners.opener(from_first, here).unwrap(), 1);
        assert_eq!(owners.opener(from_second, here).unwrap(), 2);
        owners.remove(1);
        let refusal = owners.opener(from_first, here).unwrap_err();
        assert!(matches!(refusal, Unattributed::NotOurs), "{refusal}");

        // Ours, but not a node's; then nobody's.
        let stream = TcpStream::connect(here).unwrap();
        let from = stream.local_addr().unwrap();
        let refusal = owners.opener(from, here).unwrap_err();
        assert!(matches!(refusal, Unattributed::NotOurs), "{refusal}");
        drop((stream, listener.accept().unwrap()));
        let refusal = owners.opener(from, here).unwrap_err();
        assert!(matches!(refusal, Unattributed::NoSocket), "{refusal}");
    }
}
