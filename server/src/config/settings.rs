//! The one list of what can be configured.
//!
//! From it come the flags of `holdfast start`, their help with default and unit, the names of the
//! environment variables, and the places of the values in the TOML file. A test holds the list and
//! [`Config`](super::Config) against each other, so neither can have a value the other lacks.

use std::net::SocketAddr;

use super::quantity::{BYTES_FORM, MS_FORM, parse_bytes, parse_ms};

/// What kind of value a setting takes on the command line and in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number of 0 or more.
    Integer,
    /// A size; bare numbers are bytes.
    Bytes,
    /// A time; bare numbers are milliseconds.
    Millis,
    /// IP address and port.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `ID=ZONE=PEER_URL=CLIENT_URL`, separated by commas.
    Members,
    /// Names of domains, separated by commas.
    Domains,
}

impl Kind {
    /// Name of the value in the usage.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Text => "TEXT",
            Kind::Integer => "N",
            Kind::Bytes => "SIZE",
            Kind::Millis => "TIME",
            Kind::Address => "IP:PORT",
            Kind::Choice(_) => "WORD",
            Kind::Members => "ID=ZONE=PEER_URL=CLIENT_URL,...",
            Kind::Domains => "DOMAIN,...",
        }
    }

    /// Reads a value; the error says what would be right.
    pub fn parse(self, text: &str) -> Result<toml::Value, String> {
        let integer = |value: Option<u64>, form: &str| {
            value
                .and_then(|value| i64::try_from(value).ok())
                .map(toml::Value::Integer)
                .ok_or_else(|| format!("must be {form}"))
        };
        match self {
            Kind::Text => Ok(toml::Value::String(text.to_owned())),
            Kind::Integer => integer(text.trim().parse().ok(), "a whole number of 0 or more"),
            Kind::Bytes => integer(parse_bytes(text), BYTES_FORM),
            Kind::Millis => integer(parse_ms(text), MS_FORM),
            Kind::Address => match text.trim().parse::<SocketAddr>() {
                Ok(addr) => Ok(toml::Value::String(addr.to_string())),
                Err(_) => Err(
                    "must be an IP address and a port, such as 127.0.0.1:2379 or [::]:2379"
                        .to_owned(),
                ),
            },
            Kind::Choice(words) if words.contains(&text.trim()) => {
                Ok(toml::Value::String(text.trim().to_owned()))
            }
            Kind::Choice(words) => Err(format!("must be {}", words.join(" or "))),
            Kind::Members => parse_members(text),
            Kind::Domains => {
                let domains = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty());
                let domains = domains.map(|part| toml::Value::String(part.to_owned()));
                Ok(toml::Value::Array(domains.collect()))
            }
        }
    }
}

fn parse_members(text: &str) -> Result<toml::Value, String> {
    let members = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
        let form = || format!("`{part}` must be ID=ZONE=PEER_URL=CLIENT_URL, such as 1=zone-a=http://10.0.0.1:2380=http://10.0.0.1:2379");
        let fields: Vec<&str> = part.split('=').collect();
        let [id, zone, peer_url, client_url] = fields[..] else {
            return Err(form());
        };
        let id: i64 = id.parse().map_err(|_| form())?;
        Ok(toml::Value::Table(toml::Table::from_iter([
            ("id".to_owned(), toml::Value::Integer(id)),
            ("zone".to_owned(), toml::Value::String(zone.to_owned())),
            ("peer_url".to_owned(), toml::Value::String(peer_url.to_owned())),
            ("client_url".to_owned(), toml::Value::String(client_url.to_owned())),
        ])))
    });
    Ok(toml::Value::Array(members.collect::<Result<_, _>>()?))
}

/// One value of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Section of the TOML file.
    pub section: &'static str,
    /// Name in the section.
    pub name: &'static str,
    /// Flag of `holdfast start`, without the dashes.
    pub flag: &'static str,
    /// Kind of the value.
    pub kind: Kind,
    /// What the default is, when it is not simply a value; empty when there is none.
    pub default: Option<&'static str>,
    /// What it does, with the behaviour at the bound if it is one.
    pub help: &'static str,
}

impl Setting {
    /// Path of the field, such as `raft.heartbeat_interval_ms`.
    pub fn field(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Name of the environment variable, such as `HOLDFAST_RAFT_HEARTBEAT_INTERVAL_MS`.
    pub fn variable(&self) -> String {
        format!("HOLDFAST_{}_{}", self.section, self.name).to_uppercase()
    }
}

const fn setting(
    section: &'static str,
    name: &'static str,
    flag: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        section,
        name,
        flag,
        kind,
        default,
        help,
    }
}

/// Everything that can be configured, in the order of `--help`.
pub const SETTINGS: &[Setting] = &[
    setting(
        "node",
        "id",
        "id",
        Kind::Integer,
        Some(""),
        "Number of this node, 1 or more. A number is never used for another node again",
    ),
    setting(
        "node",
        "zone",
        "zone",
        Kind::Text,
        Some(""),
        "Failure domain of this node, such as its data centre",
    ),
    setting(
        "node",
        "data_dir",
        "data-dir",
        Kind::Text,
        Some(""),
        "Directory that the node keeps everything in. One node per directory",
    ),
    setting(
        "node",
        "client_addr",
        "client-addr",
        Kind::Address,
        None,
        "Where to listen for clients",
    ),
    setting(
        "node",
        "advertise_client_url",
        "advertise-client-url",
        Kind::Text,
        Some("http:// and the client address"),
        "How clients reach this node. Needed when the client address is a wildcard",
    ),
    setting(
        "node",
        "peer_addr",
        "peer-addr",
        Kind::Address,
        None,
        "Where to listen for other nodes",
    ),
    setting(
        "node",
        "advertise_peer_url",
        "advertise-peer-url",
        Kind::Text,
        Some("http:// and the peer address"),
        "How other nodes reach this node. Needed when the peer address is a wildcard",
    ),
    setting(
        "node",
        "worker_threads",
        "worker-threads",
        Kind::Integer,
        Some("one for each core"),
        "Threads that serve requests and replicate. Where several nodes share a machine, its cores divided by them",
    ),
    setting(
        "node",
        "keyspace_domains",
        "keyspace-domains",
        Kind::Domains,
        Some("localhost"),
        "Domains below which the name of a host names a keyspace: with example.com, orders.example.com is `orders`. Hosts elsewhere, and addresses, name none",
    ),
    setting(
        "cluster",
        "name",
        "cluster-name",
        Kind::Text,
        None,
        "Name of the cluster. Nodes of another name or other first members are refused",
    ),
    setting(
        "cluster",
        "members",
        "initial-cluster",
        Kind::Members,
        Some("this node alone"),
        "The first nodes of the cluster, this one among them; the same on all of them. May be given several times. Counts only while the data directory is new",
    ),
    setting(
        "raft",
        "heartbeat_interval_ms",
        "heartbeat-interval-ms",
        Kind::Millis,
        None,
        "Time between the heartbeats of a leader. Less than half of the shortest election timeout",
    ),
    setting(
        "raft",
        "election_timeout_min_ms",
        "election-timeout-min-ms",
        Kind::Millis,
        None,
        "Shortest time before a node stands for election though the failure detector sees nothing, counted from the end of the leader's lease. At least ten times the worst round trip between voters",
    ),
    setting(
        "raft",
        "election_timeout_max_ms",
        "election-timeout-max-ms",
        Kind::Millis,
        None,
        "Longest such time, and the length of the leader's lease. A backstop: a leader that the failure detector holds for dead is replaced at once",
    ),
    setting(
        "raft",
        "quorum_loss_probe_interval_ms",
        "quorum-loss-probe-interval-ms",
        Kind::Millis,
        Some("twice the longest election timeout"),
        "How often a leader that has lost its quorum looks for one. At least twice the longest election timeout",
    ),
    setting(
        "raft",
        "worst_voter_rtt_ms",
        "worst-voter-rtt-ms",
        Kind::Millis,
        None,
        "Round trip to the farthest voter, as you measured it; the election timeout is checked against it",
    ),
    setting(
        "raft",
        "max_payload_entries",
        "max-payload-entries",
        Kind::Integer,
        None,
        "Most log entries in one message to a follower; the rest goes in the next",
    ),
    setting(
        "raft",
        "log_entries_max",
        "log-entries-max",
        Kind::Integer,
        None,
        "Entries of a keyspace that stay in the log behind its checkpoint. A follower that missed more gets a snapshot",
    ),
    setting(
        "raft",
        "log_bytes_max",
        "log-bytes-max",
        Kind::Bytes,
        None,
        "Bytes of a keyspace that stay in the log behind its checkpoint. A follower that missed more gets a snapshot",
    ),
    setting(
        "limits",
        "request_bytes_max",
        "request-bytes-max",
        Kind::Bytes,
        None,
        "Largest request of a client. A larger one is refused (InvalidArgument, etcd's message)",
    ),
    setting(
        "limits",
        "txn_ops_max",
        "txn-ops-max",
        Kind::Integer,
        None,
        "Most operations in one list of a transaction. More are refused (InvalidArgument, etcd's message)",
    ),
    setting(
        "limits",
        "proposals_in_flight_max",
        "proposals-in-flight-max",
        Kind::Integer,
        None,
        "Most writes of a keyspace under way on this node. More are refused at once (ResourceExhausted), with nothing done",
    ),
    setting(
        "limits",
        "proposals_in_flight_bytes_max",
        "proposals-in-flight-bytes-max",
        Kind::Bytes,
        None,
        "Most bytes of writes of a keyspace under way on this node. More are refused at once (ResourceExhausted), with nothing done",
    ),
    setting(
        "limits",
        "reads_waiting_max",
        "reads-waiting-max",
        Kind::Integer,
        None,
        "Most linearizable reads of a keyspace waiting on this node. More are refused at once (ResourceExhausted)",
    ),
    setting(
        "limits",
        "forward_queue_requests_max",
        "forward-queue-requests-max",
        Kind::Integer,
        None,
        "Most requests queued on their way to one other node. More are refused at once (ResourceExhausted), with nothing done",
    ),
    setting(
        "limits",
        "snapshot_bytes_per_second_max",
        "snapshot-bytes-per-second-max",
        Kind::Bytes,
        None,
        "Most bytes of snapshots that this node sends per second. A transfer at the bound waits",
    ),
    setting(
        "limits",
        "retry_clients_max",
        "retry-clients-max",
        Kind::Integer,
        None,
        "Clients whose writes a keyspace remembers, so that they may be sent again; the one idle for longest gives way and must register again. Counts when a keyspace is founded; then it is part of the replicated state",
    ),
    setting(
        "limits",
        "retry_bytes_max",
        "retry-bytes-max",
        Kind::Bytes,
        None,
        "Bytes of the answers that a keyspace remembers; the clients idle for longest give way. Counts when a keyspace is founded; then it is part of the replicated state",
    ),
    setting(
        "storage",
        "engine",
        "storage-engine",
        Kind::Choice(&["sled", "lsm-tree"]),
        None,
        "What keeps the state on disk: sled or lsm-tree. A state made by the other is copied at the next start",
    ),
    setting(
        "storage",
        "log_segment_bytes",
        "log-segment-bytes",
        Kind::Bytes,
        None,
        "Size of the preallocated files of the log. Two requests of the largest size must fit",
    ),
    setting(
        "storage",
        "log_bytes_max",
        "node-log-bytes-max",
        Kind::Bytes,
        Some("twice raft.log_bytes_max and eight segments"),
        "Size of all files of the log of this node. Beyond it, old entries are moved together or purged; a follower that still needs them gets a snapshot",
    ),
    setting(
        "storage",
        "table_bytes_max",
        "table-bytes-max",
        Kind::Bytes,
        None,
        "Memory for the newest writes of all keyspaces together; as much again is on its way to the disk. When both are full, writes wait",
    ),
    setting(
        "storage",
        "cache_bytes",
        "cache-bytes",
        Kind::Bytes,
        None,
        "Memory for pages of the database of the node",
    ),
    setting(
        "storage",
        "reserve_bytes",
        "reserve-bytes",
        Kind::Bytes,
        None,
        "Space that stays free on the disk, at most a quarter of it. Below it, writes that grow the data are refused (ResourceExhausted, etcd's message) until there is room again; deletions and compactions pass",
    ),
    setting(
        "storage",
        "flush_interval_ms",
        "flush-interval-ms",
        Kind::Millis,
        None,
        "Longest time until applied writes reach the checkpoint. They are durable in the log before they are acknowledged",
    ),
    setting(
        "log",
        "level",
        "log-level",
        Kind::Text,
        None,
        "What to log to standard error: error, warn, info, debug, trace, off, or such directives as info,holdfast_server::raft=debug",
    ),
    setting(
        "log",
        "format",
        "log-format",
        Kind::Choice(&["plain", "json"]),
        None,
        "Form of the log lines: plain or json",
    ),
];
