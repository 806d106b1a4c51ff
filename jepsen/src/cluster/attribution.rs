//! Which node opened a connection.
//!
//! A node has one address that all others know, so a proxy in front of it sees connections from
//! everybody at one listener, and loopback connections look alike but for their ports. The kernel
//! knows more: it tells the inode of the opener's socket, and `/proc/PID/fd` the process that holds it.
//!
//! What holds here:
//!
//! - A connection is attributed to a node only if a process of that node holds the other end of it now. Nothing
//!   is guessed.
//! - What a look costs does not grow with the connections of the machine, open or ended, as far as the kernel
//!   answers for one socket ([`sock_diag`]). An opener gives up after a while and comes back: if looks took
//!   longer the more often that happens, it would never end.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::sock_diag;
use crate::history::NodeId;

/// Looks before a connection counts as a stranger's: a node is known a moment after its process runs, and the
/// kernel's table of all sockets may lack a row while it changes.
const LOOKS_MAX: u32 = 3;
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why a connection belongs to no node.
#[derive(Debug, thiserror::Error)]
pub enum Unattributed {
    /// Only IPv4 sockets are looked up.
    #[error("it is not an IPv4 connection")]
    NotIpv4,
    /// The other end is closed already, or was never on this machine.
    #[error("its other end is no open socket of this machine")]
    Gone,
    /// A process that is none of the nodes holds it.
    #[error("no process of the cluster holds its other end")]
    NotOurs,
    /// The tables cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(&'static str, io::Error),
}

impl Unattributed {
    /// Whether the next look may find what this one did not.
    fn may_change(&self) -> bool {
        match self {
            Self::NotOurs => true,
            Self::Gone => !sock_diag::is_answered(),
            Self::NotIpv4 | Self::Unreadable(..) => false,
        }
    }
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

    /// Who opened a connection that was accepted at `accepted_at` and comes from `from`. Blocks: about a
    /// millisecond where a node did.
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
                Err(reason) if looks < LOOKS_MAX && reason.may_change() => {
                    looks += 1;
                    std::thread::sleep(POLL_INTERVAL);
                }
                outcome => return outcome,
            }
        }
    }

    fn look(&self, from: SocketAddrV4, to: SocketAddrV4) -> Result<NodeId, Unattributed> {
        let inode = match sock_diag::is_answered() {
            true => sock_diag::inode(from, to)
                .map_err(|error| Unattributed::Unreadable("the kernel's answer", error))?,
            false => inode(&table()?, from, to),
        };
        let inode = inode.ok_or(Unattributed::Gone)?;
        let owners = self.0.lock().clone();
        owners
            .into_iter()
            .find(|(_, process)| holds(*process, inode))
            .map(|(node, _)| node)
            .ok_or(Unattributed::NotOurs)
    }
}

/// The kernel's table of all sockets.
fn table() -> Result<String, Unattributed> {
    const TABLE: &str = "/proc/net/tcp";
    fs::read_to_string(TABLE).map_err(|error| Unattributed::Unreadable(TABLE, error))
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

    /// Processor time of this thread, whatever else the machine does.
    fn processor_time() -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the call writes one structure of ours.
        let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(done, 0);
        let seconds = u64::try_from(time.tv_sec).unwrap();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap())
    }

    /// What a suite leaves behind: connections that have ended, each of which the kernel remembers for a minute.
    #[test]
    fn a_look_costs_far_less_than_the_table_of_all_connections() {
        const ENDED: usize = 4_000;
        const LOOKS: u32 = 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let near = TcpStream::connect(here).unwrap();
        let _far = listener.accept().unwrap();
        let from = near.local_addr().unwrap();
        for _ in 0..ENDED {
            drop(TcpStream::connect(here).unwrap());
            drop(listener.accept().unwrap());
        }
        let owners = Owners::default();
        owners.insert(1, std::process::id());
        let cost = |work: &dyn Fn()| {
            let before = processor_time();
            (0..LOOKS).for_each(|_| work());
            processor_time() - before
        };
        let tables = cost(&|| assert!(table().unwrap().lines().count() > ENDED / 2));
        let looks = cost(&|| assert_eq!(owners.opener(from, here).unwrap(), 1));
        assert!(4 * looks < tables, "{looks:?}, {tables:?}");
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
        assert!(matches!(refusal, Unattributed::Gone), "{refusal}");
    }
}
