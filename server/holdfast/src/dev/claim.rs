//! What `holdfast dev` needs for itself before it starts anything: the data directory and the ports.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, bail};

use super::layout::NodePlan;

/// Makes the data directory usable for a supervisor.
pub fn create_directory(data_dir: &Path) -> anyhow::Result<()> {
    if data_dir.exists() && !data_dir.is_dir() {
        bail!(
            "{} is not a directory: choose another --data-dir",
            data_dir.display()
        );
    }
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot create {}", data_dir.display()))
}

/// The right to run nodes in a data directory. Ends when it is dropped, or with the process however
/// it ends, because the kernel holds it (`flock`).
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says who has it.
    pub fn take(data_dir: &Path) -> anyhow::Result<DirectoryLock> {
        let path = data_dir.join("dev.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: flock takes an open descriptor and two flags and touches no memory of ours.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            bail!(
                "another `holdfast dev`{holder} runs in {}: stop it, or choose another --data-dir",
                data_dir.display()
            );
        }
        // Only for the message above; the lock itself is the kernel's.
        file.rewind()?;
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(DirectoryLock { _file: file })
    }
}

/// Fails if a port is taken, naming the port and, when it can be found, who has it. A node would
/// fail with less to say.
pub fn check_ports(nodes: &[NodePlan]) -> anyhow::Result<()> {
    for node in nodes {
        for (what, port) in [("client", node.client_port), ("peer", node.peer_port)] {
            let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else {
                continue;
            };
            if error.kind() != io::ErrorKind::AddrInUse {
                return Err(error).with_context(|| {
                    format!(
                        "cannot listen on 127.0.0.1:{port}, the {what} port of {}",
                        node.name()
                    )
                });
            }
            let holder = listener_of(port)
                .map(|holder| format!(" by {holder}"))
                .unwrap_or_default();
            bail!(
                "port {port}, the {what} port of {}, is in use{holder}: stop that, or move all ports with --base-port",
                node.name()
            );
        }
    }
    Ok(())
}

/// Who listens on a port, from /proc; `None` where that does not tell.
fn listener_of(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let is_process = |name: &std::ffi::OsStr| {
        name.to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok())
    };
    for process in std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter(|entry| is_process(&entry.file_name()))
    {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            if inodes
                .iter()
                .any(|inode| target == format!("socket:[{inode}]"))
            {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!(
                    "process {} ({})",
                    process.file_name().to_string_lossy(),
                    name.trim()
                ));
            }
        }
    }
    None
}

/// Inodes of the listening sockets on a port, from the text of /proc/net/tcp (proc(5)): field 1 is
/// the local address, field 3 the state (0A: listening), field 9 the inode.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A")
                .then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout::plan;

    #[test]
    fn a_directory_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(dir.path()).unwrap();
        let message = DirectoryLock::take(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(&format!(
                "another `holdfast dev` (process {})",
                std::process::id()
            )),
            "{message}"
        );
        assert!(message.contains("--data-dir"), "{message}");
        drop(lock);
        DirectoryLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut nodes = plan(Path::new("data"), 2379);
        nodes.truncate(1);
        nodes[0].client_port = port;
        let message = check_ports(&nodes).unwrap_err().to_string();
        assert!(
            message.contains(&format!(
                "port {port}, the client port of node-1 (zone-a), is in use"
            )),
            "{message}"
        );
        assert!(message.contains("--base-port"), "{message}");
        if cfg!(target_os = "linux") {
            assert!(
                message.contains(&format!("by process {}", std::process::id())),
                "{message}"
            );
        }
    }

    #[test]
    fn the_table_of_sockets_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1\n\
                     1: 0100007F:094B 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 12346 1\n\
                     2: 0100007F:094C 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12347 1\n";
        assert_eq!(listening_inodes(table, 2379), ["12345"]);
        assert_eq!(listening_inodes(table, 2381), Vec::<String>::new());
    }
}
