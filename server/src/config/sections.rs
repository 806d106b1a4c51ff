//! The sections of the configuration: every value with its type, its unit and its default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::quantity;
use crate::limits;

/// The configuration of a node. After [`Config::resolve`]:
///
/// - every rule of [`Config::resolve`] holds;
/// - `cluster.members` contains this node, with the zone and the URLs of `node`;
/// - no advertised URL is empty, and none ends with a slash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this node is and where it listens.
    pub node: NodeConfig,
    /// The cluster as it is first created.
    pub cluster: ClusterConfig,
    /// Timing and retention of the Raft groups.
    pub raft: RaftConfig,
    /// Bounds that an operator may move.
    pub limits: LimitsConfig,
    /// Log segments, memory tables and the engine.
    pub storage: StorageConfig,
    /// What the process writes to standard error.
    pub log: LogConfig,
}

/// Who this node is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Number of the node, 1 or more, never used for another node again. 0 until it is given.
    pub id: u64,
    /// Failure domain of the node. Empty until it is given.
    pub zone: String,
    /// Directory of everything the node keeps. Empty until it is given.
    pub data_dir: PathBuf,
    /// Where clients are listened for.
    pub client_addr: SocketAddr,
    /// How clients reach this node. Empty before `resolve` means `http://client_addr`.
    pub advertise_client_url: String,
    /// Where other nodes are listened for.
    pub peer_addr: SocketAddr,
    /// How other nodes reach this node. Empty before `resolve` means `http://peer_addr`.
    pub advertise_peer_url: String,
    /// Threads that serve requests and replicate. 0 before `resolve` means one for each core.
    pub worker_threads: usize,
    /// Domains right below which the name of a host names a keyspace.
    pub keyspace_domains: Vec<String>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            id: 0,
            zone: String::new(),
            data_dir: PathBuf::new(),
            client_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 2379)),
            advertise_client_url: String::new(),
            peer_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 2380)),
            advertise_peer_url: String::new(),
            worker_threads: 0,
            keyspace_domains: vec!["localhost".to_owned()],
        }
    }
}

/// The cluster as it is first created. All its first nodes must be given the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Name of the cluster; with the members it makes the cluster id.
    pub name: String,
    /// The first nodes. Empty before `resolve` means this node alone.
    pub members: Vec<Member>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            name: "holdfast".to_owned(),
            members: Vec::new(),
        }
    }
}

/// One of the first nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Number of the node.
    pub id: u64,
    /// Failure domain of the node.
    pub zone: String,
    /// How other nodes reach it.
    pub peer_url: String,
    /// How clients reach it.
    pub client_url: String,
}

/// Timing and retention of the Raft groups.
///
/// The times are a backstop: a leader that is dead, silent or sick is replaced by what the detector sees,
/// long before they run out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// Time between heartbeats of a leader, in milliseconds.
    #[serde(with = "quantity::ms")]
    pub heartbeat_interval_ms: u64,
    /// Shortest time before a voter stands for election, counted from the end of the leader's
    /// lease, in milliseconds. The lease is `election_timeout_max_ms` long: a leader that the detector
    /// does not find dead is replaced between (max + min) and 2 × max after its last sign of life.
    #[serde(with = "quantity::ms")]
    pub election_timeout_min_ms: u64,
    /// Longest time before a voter stands for election after the leader's lease, and the length of
    /// that lease, in milliseconds.
    #[serde(with = "quantity::ms")]
    pub election_timeout_max_ms: u64,
    /// How often a leader without a quorum looks for one, in milliseconds. 0 before `resolve`
    /// means twice `election_timeout_max_ms`.
    #[serde(with = "quantity::ms")]
    pub quorum_loss_probe_interval_ms: u64,
    /// Declared round trip to the farthest voter, in milliseconds.
    #[serde(with = "quantity::ms")]
    pub worst_voter_rtt_ms: u64,
    /// Most entries in one append message.
    pub max_payload_entries: u64,
    /// Entries of a group kept in the log behind its checkpoint. Commands that arrive together share one.
    pub log_entries_max: u64,
    /// Bytes of a group kept in the log behind its checkpoint.
    #[serde(with = "quantity::bytes")]
    pub log_bytes_max: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        RaftConfig {
            heartbeat_interval_ms: 1_000,
            election_timeout_min_ms: 3_000,
            election_timeout_max_ms: 5_000,
            quorum_loss_probe_interval_ms: 0,
            worst_voter_rtt_ms: 1,
            max_payload_entries: limits::APPEND_ENTRIES_DEFAULT,
            log_entries_max: limits::LOG_ENTRIES_DEFAULT,
            log_bytes_max: limits::LOG_BYTES_DEFAULT,
        }
    }
}

impl RaftConfig {
    /// `heartbeat_interval_ms` as a duration.
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    /// `election_timeout_min_ms` as a duration.
    pub fn election_timeout_min(&self) -> Duration {
        Duration::from_millis(self.election_timeout_min_ms)
    }

    /// `election_timeout_max_ms` as a duration.
    pub fn election_timeout_max(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms)
    }

    /// `quorum_loss_probe_interval_ms` as a duration.
    pub fn quorum_loss_probe_interval(&self) -> Duration {
        Duration::from_millis(self.quorum_loss_probe_interval_ms)
    }
}

/// Bounds that an operator may move; the rest are constants in [`crate::limits`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Largest request of a client, in bytes.
    #[serde(with = "quantity::bytes")]
    pub request_bytes_max: usize,
    /// Most operations in a list of a transaction.
    pub txn_ops_max: usize,
    /// Most proposals of a group under way on this node.
    pub proposals_in_flight_max: usize,
    /// Most bytes of proposals of a group under way on this node.
    #[serde(with = "quantity::bytes")]
    pub proposals_in_flight_bytes_max: usize,
    /// Most linearizable reads of a group waiting for their read index on this node.
    pub reads_waiting_max: usize,
    /// Most requests queued for one peer.
    pub forward_queue_requests_max: usize,
    /// Most bytes of snapshots sent per second, all receivers together.
    #[serde(with = "quantity::bytes")]
    pub snapshot_bytes_per_second_max: u64,
    /// Clients whose writes a new keyspace remembers.
    pub retry_clients_max: usize,
    /// Bytes of answers that a new keyspace remembers.
    #[serde(with = "quantity::bytes")]
    pub retry_bytes_max: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            request_bytes_max: limits::REQUEST_BYTES_DEFAULT as usize,
            txn_ops_max: limits::TXN_OPS_DEFAULT,
            proposals_in_flight_max: limits::PROPOSALS_IN_FLIGHT_DEFAULT,
            proposals_in_flight_bytes_max: limits::PROPOSALS_IN_FLIGHT_BYTES_DEFAULT as usize,
            reads_waiting_max: limits::READS_WAITING_DEFAULT,
            forward_queue_requests_max: limits::FORWARD_QUEUE_REQUESTS_DEFAULT,
            snapshot_bytes_per_second_max: limits::SNAPSHOT_BYTES_PER_SECOND_DEFAULT,
            retry_clients_max: limits::RETRY_CLIENTS_DEFAULT,
            retry_bytes_max: limits::RETRY_BYTES_DEFAULT,
        }
    }
}

/// Log segments, memory tables and the engine. There is no switch that turns fsync off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// What keeps the state on disk.
    pub engine: EngineName,
    /// Size of a segment of the log, in bytes.
    #[serde(with = "quantity::bytes")]
    pub log_segment_bytes: u64,
    /// Bytes of all files of the log of this node. 0 before `resolve` means twice
    /// `raft.log_bytes_max` and eight segments.
    #[serde(with = "quantity::bytes")]
    pub log_bytes_max: u64,
    /// Bytes of the memory tables of all groups; as much again is on its way to the disk.
    #[serde(with = "quantity::bytes")]
    pub table_bytes_max: u64,
    /// Memory for pages of the database of the node, in bytes.
    #[serde(with = "quantity::bytes")]
    pub cache_bytes: u64,
    /// Bytes that stay free on the disk, at most a quarter of it: below, what grows the data is refused.
    #[serde(with = "quantity::bytes")]
    pub reserve_bytes: u64,
    /// Longest time before applied entries are made durable in the checkpoint, in milliseconds.
    #[serde(with = "quantity::ms")]
    pub flush_interval_ms: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        StorageConfig {
            engine: EngineName::LsmTree,
            log_segment_bytes: limits::LOG_SEGMENT_BYTES_DEFAULT,
            log_bytes_max: 0,
            table_bytes_max: limits::TABLE_BYTES_DEFAULT,
            cache_bytes: limits::CACHE_BYTES_DEFAULT,
            reserve_bytes: limits::RESERVE_BYTES_DEFAULT,
            flush_interval_ms: 5_000,
        }
    }
}

/// A checkpoint engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// sled 0.34.
    Sled,
    /// lsm-tree 3, the tree under fjall.
    LsmTree,
}

impl StorageConfig {
    /// `flush_interval_ms` as a duration.
    pub fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.flush_interval_ms)
    }
}

/// What the process writes to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Which events: a level, or directives such as `info,holdfast_server::raft=debug`.
    pub level: String,
    /// In which form.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            // openraft tells every failed message to a peer that is away, hundreds in a second.
            level: "info,openraft=error,lsm_tree=warn".to_owned(),
            format: LogFormat::Plain,
        }
    }
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text per event.
    Plain,
    /// One JSON object per event.
    Json,
}

impl Config {
    /// Reads a configuration from the text of a TOML file, without checking the rules.
    pub fn from_toml(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    /// Writes the configuration as the text of a TOML file that [`Config::from_toml`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("numbers, strings and addresses have a form in TOML")
    }

    /// The member of the initial cluster that is this node.
    pub fn this_member(&self) -> Option<&Member> {
        self.cluster
            .members
            .iter()
            .find(|member| member.id == self.node.id)
    }
}
