//! How many files and connections the process may open, and who gets how many of them.
//!
//! A file that cannot be opened ends the node: the log must be able to begin a segment, the state a
//! generation. Connections come from outside, in any number. So each port has a bound that leaves
//! enough for the files, and strangers at one port take nothing from the other.

use crate::{config::Config, limits};

/// Most connections of each port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Of clients.
    pub clients_max: usize,
    /// Of peers, and of strangers who take the port for something else.
    pub peers_max: usize,
    /// Descriptors that the node wants and does not have, before it is content.
    pub lacking: u64,
}

/// Raises the number of files that this process may open as far as it may, and divides them for a
/// node with so many groups. Says so if they are few.
pub fn take(config: &Config, groups: usize) -> Shares {
    let open_max = raise();
    let shares = shares(config, groups, open_max);
    if shares.lacking > 0 {
        tracing::warn!(
            open_max,
            wanted = open_max + shares.lacking,
            clients_max = shares.clients_max,
            "the limit of open files is low: connections of clients are bounded by it; raise it to what \
             is wanted (ulimit -n, LimitNOFILE=)"
        );
    }
    shares
}

/// Raises the number of files that this process may open to what the system allows it, and tells it.
pub fn raise() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the argument is a valid place for the answer.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    assert!(known, "the limit of a resource that exists can be read");
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the argument is valid, and the call keeps no reference to it.
    if before < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        // What there was before is still there.
        return before;
    }
    limit.rlim_cur
}

/// Divides `open_max` descriptors of a node with so many groups.
///
/// - Files come first, then peers, then clients.
/// - Each port has a few connections at least: the node must stay within reach of its operator even
///   where the limit is absurd.
fn shares(config: &Config, groups: usize, open_max: u64) -> Shares {
    let others = config.cluster.members.len().saturating_sub(1) as u64;
    let groups = (groups as u64).min(limits::DESCRIPTORS_GROUPS_MAX);
    // The groups share one log and its budget, however many they are.
    let log_bytes = (2 * config.raft.log_bytes_max).max(config.storage.log_bytes_max);
    let segments =
        log_bytes / config.storage.log_segment_bytes + limits::LOG_FREE_SEGMENTS_MAX as u64;
    let peers = limits::PEER_PORT_STRANGERS_MAX + others * limits::CONNECTIONS_PER_PEER_MAX;
    let outgoing = others * limits::CONNECTIONS_PER_PEER_MAX;
    // To each peer one connection, and one that may be better.
    let detector =
        limits::DETECTOR_DESCRIPTORS + others * (limits::DETECTOR_INCOMING_PER_PEER_MAX as u64 + 2);
    // The log may grow past its bound while a checkpoint is late.
    let taken = limits::DESCRIPTORS_RESERVED
        + limits::DESCRIPTORS_OF_STATE
        + groups * limits::DESCRIPTORS_PER_GROUP
        + 2 * segments
        + outgoing
        + detector
        + peers;
    let clients = open_max.saturating_sub(taken).clamp(
        limits::CLIENT_CONNECTIONS_MIN,
        limits::CLIENT_CONNECTIONS_MAX,
    );
    let wanted = taken + limits::CLIENT_CONNECTIONS_FEW;
    Shares {
        clients_max: clients as usize,
        peers_max: peers as usize,
        lacking: wanted.saturating_sub(open_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_first_and_each_port_stays_within_reach() {
        let config = Config::default();
        let plenty = shares(&config, 2, 1 << 20);
        assert_eq!(plenty.clients_max as u64, limits::CLIENT_CONNECTIONS_MAX);
        assert_eq!(plenty.lacking, 0);
        let usual = shares(&config, 2, 1024);
        assert!(usual.lacking == 0, "{usual:?}");
        let low = shares(&config, 2, 256);
        assert!(low.lacking > 0);
        assert!(low.clients_max as u64 > limits::CLIENT_CONNECTIONS_MIN);
        let absurd = shares(&config, 2, 16);
        assert_eq!(absurd.clients_max as u64, limits::CLIENT_CONNECTIONS_MIN);
        assert_eq!(absurd.peers_max, low.peers_max);
    }

    #[test]
    fn hundreds_of_groups_need_few_files_more() {
        let config = Config::default();
        let (two, hundreds) = (shares(&config, 2, 2048), shares(&config, 302, 2048));
        assert_eq!(hundreds.lacking, 0, "{hundreds:?}");
        assert!(hundreds.clients_max < two.clients_max);
    }

    #[test]
    fn small_segments_are_many_files() {
        let mut config = Config::default();
        let before = shares(&config, 2, 4096);
        config.storage.log_segment_bytes /= 4;
        assert!(shares(&config, 2, 4096).clients_max < before.clients_max);
    }

    #[test]
    fn the_limit_can_be_had_and_is_never_lowered() {
        let first = raise();
        assert!(first > 0);
        assert_eq!(raise(), first);
    }
}
