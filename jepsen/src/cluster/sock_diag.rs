//! One socket of this machine, asked of the kernel by both its ends.
//!
//! `/proc/net/tcp` tells the same of all sockets at once, at a price that grows with them: the kernel walks its
//! whole hash table and spells every row, those of connections that ended within the last minute among them.
//! Here it looks one row up (sock_diag(7)), so that what a look costs does not depend on what else there is.
//!
//! The request and the answer are datagrams of a netlink socket; the kernel puts the answer there before it
//! returns from the request.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    os::fd::{FromRawFd, OwnedFd},
    sync::LazyLock,
};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`: the request, and the answer to it.
const BY_FAMILY: u16 = 20;
/// Bytes of a netlink header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// Bytes of a question (`struct inet_diag_req_v2`): eight, then the ends.
const QUESTION: usize = 56;
/// Bytes of an answer (`struct inet_diag_msg`): four, then the ends, then numbers of which the last is the inode.
const ANSWER: usize = 72;
/// Bytes of the ports and addresses of both ends (at the beginning of `struct inet_diag_sockid`).
const ENDS: usize = 36;
/// Room for an answer with more attributes than are asked for.
const DATAGRAM_MAX: usize = 4096;

/// Whether the kernel answers such questions: it may be built without, and then it says of every socket that
/// there is none.
pub(super) fn is_answered() -> bool {
    static ANSWERED: LazyLock<bool> = LazyLock::new(|| {
        let connected = || -> io::Result<bool> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            match (near.local_addr()?, near.peer_addr()?) {
                (local, remote) if local == remote => Ok(false),
                (std::net::SocketAddr::V4(local), std::net::SocketAddr::V4(remote)) => {
                    Ok(inode(local, remote)?.is_some())
                }
                _ => Ok(false),
            }
        };
        connected().unwrap_or(false)
    });
    *ANSWERED
}

/// The inode of the TCP socket at `local` that is connected to `remote`. `None` if there is no such socket, or
/// no process holds it any more.
pub(super) fn inode(local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<Option<u64>> {
    let mut socket = open()?;
    let ends = ends(local, remote);
    socket.write_all(&question(&ends))?;
    let mut datagram = [0; DATAGRAM_MAX];
    let length = socket.read(&mut datagram)?;
    answer(&datagram[..length], &ends)
}

/// A netlink socket for questions about sockets, whose reads do not wait.
fn open() -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes numbers and touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now and is nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Both ends as the kernel spells them: ports, then addresses with room for IPv6, all in network order.
fn ends(local: SocketAddrV4, remote: SocketAddrV4) -> [u8; ENDS] {
    let mut ends = [0; ENDS];
    ends[0..2].copy_from_slice(&local.port().to_be_bytes());
    ends[2..4].copy_from_slice(&remote.port().to_be_bytes());
    ends[4..8].copy_from_slice(&local.ip().octets());
    ends[20..24].copy_from_slice(&remote.ip().octets());
    ends
}

fn question(ends: &[u8; ENDS]) -> [u8; HEADER + QUESTION] {
    let mut bytes = [0; HEADER + QUESTION];
    let length = u32::try_from(bytes.len()).expect("it is short");
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    let flags = u16::try_from(libc::NLM_F_REQUEST).expect("it is one of sixteen bits");
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    let body = &mut bytes[HEADER..];
    body[0] = u8::try_from(libc::AF_INET).expect("families are small numbers");
    body[1] = u8::try_from(libc::IPPROTO_TCP).expect("protocols are small numbers");
    // In every state. Then the ends, any interface, and no cookie of an earlier answer.
    body[4..8].fill(0xff);
    body[8..8 + ENDS].copy_from_slice(ends);
    body[8 + ENDS + 4..].fill(0xff);
    bytes
}

/// What the kernel says of a socket with these ends. Where there is none it tells of one that listens at the
/// local end, which is another.
fn answer(datagram: &[u8], ends: &[u8; ENDS]) -> io::Result<Option<u64>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "no answer of sock_diag");
    let (header, body) = datagram.split_at_checked(HEADER).ok_or_else(broken)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let number = |at: usize| -> io::Result<[u8; 4]> {
        let bytes = body.get(at..at + 4).ok_or_else(broken)?;
        Ok(bytes.try_into().expect("four bytes"))
    };
    if i32::from(kind) == libc::NLMSG_ERROR {
        return match -i32::from_ne_bytes(number(0)?) {
            libc::ENOENT => Ok(None),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    if kind != BY_FAMILY || body.len() < ANSWER {
        return Err(broken());
    }
    let inode = u32::from_ne_bytes(number(ANSWER - 4)?);
    let same = body[4..4 + ENDS] == *ends;
    Ok((same && inode != 0).then_some(u64::from(inode)))
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, os::fd::AsRawFd};

    use super::*;

    fn v4(addr: io::Result<SocketAddr>) -> SocketAddrV4 {
        match addr.unwrap() {
            SocketAddr::V4(addr) => addr,
            SocketAddr::V6(addr) => panic!("{addr}"),
        }
    }

    /// The inode that the kernel gives the same socket elsewhere.
    fn held(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let name = link.to_str().unwrap();
        let inode = name.strip_prefix("socket:[").unwrap().strip_suffix(']');
        inode.unwrap().parse().unwrap()
    }

    #[test]
    fn a_socket_is_found_by_both_ends_for_as_long_as_a_process_holds_it() {
        assert!(is_answered());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let (local, remote) = (v4(near.local_addr()), v4(near.peer_addr()));
        assert_eq!(inode(local, remote).unwrap(), Some(held(&near)));
        assert_eq!(inode(remote, local).unwrap(), Some(held(&far)));
        // It waits for the far end to close, and nobody holds it.
        drop(near);
        assert_eq!(inode(local, remote).unwrap(), None);
        drop(far);
        assert_eq!(inode(local, remote).unwrap(), None);
    }

    #[test]
    fn a_socket_that_listens_at_the_local_end_is_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = v4(listener.local_addr());
        let nobody = SocketAddrV4::new(*here.ip(), 1);
        assert_eq!(inode(here, nobody).unwrap(), None);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let ends = [0; ENDS];
        assert!(answer(&[], &ends).is_err());
        let mut bytes = [0; HEADER + ANSWER];
        assert!(answer(&bytes, &ends).is_err(), "of no kind");
        bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        assert!(answer(&bytes[..HEADER + ANSWER - 1], &ends).is_err());
        assert_eq!(answer(&bytes, &ends).unwrap(), None, "nobody holds it");
        bytes[HEADER + ANSWER - 4..].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(answer(&bytes, &ends).unwrap(), Some(7));
        let mut refusal = [0; HEADER + 4];
        let kind = u16::try_from(libc::NLMSG_ERROR).unwrap();
        refusal[4..6].copy_from_slice(&kind.to_ne_bytes());
        refusal[HEADER..].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        let error = answer(&refusal, &ends).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
