//! The rules a configuration must keep.
//!
//! A rule names the field, the value it has and what would be right, so that the operator can put
//! it right without reading the source. Rules do not stop at the first problem.

mod membership;

use std::{collections::BTreeMap, num::NonZero};

use super::error::{ConfigError, Problem};
use super::quantity::{format_bytes, format_ms};
use super::sections::{Config, Member};
use crate::limits;

impl Config {
    /// Fills in what follows from other values, then checks every rule. All problems are reported
    /// together.
    pub fn resolve(mut self) -> Result<Config, ConfigError> {
        complete(&mut self);
        let problems = problems(&self);
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError::Invalid(problems))
        }
    }

    /// What is allowed but probably not meant, as sentences for the operator.
    pub fn warnings(&self) -> Vec<String> {
        warnings(self)
    }
}

/// Fills in what follows from other values.
fn complete(config: &mut Config) {
    let node = &mut config.node;
    for (url, addr) in [
        (&mut node.advertise_client_url, node.client_addr),
        (&mut node.advertise_peer_url, node.peer_addr),
    ] {
        // A wildcard is nothing that others can connect to: the rule about URLs then asks for one.
        if url.is_empty() && !addr.ip().is_unspecified() && addr.port() != 0 {
            *url = format!("http://{addr}");
        }
        trim_slash(url);
    }
    for member in &mut config.cluster.members {
        trim_slash(&mut member.peer_url);
        trim_slash(&mut member.client_url);
    }
    if node.worker_threads == 0 {
        node.worker_threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    }
    if config.cluster.members.is_empty() {
        config.cluster.members.push(Member {
            id: config.node.id,
            zone: config.node.zone.clone(),
            peer_url: config.node.advertise_peer_url.clone(),
            client_url: config.node.advertise_client_url.clone(),
        });
    }
    if config.raft.quorum_loss_probe_interval_ms == 0 {
        config.raft.quorum_loss_probe_interval_ms =
            config.raft.election_timeout_max_ms.saturating_mul(2);
    }
    if config.storage.log_bytes_max == 0 {
        let slack = limits::LOG_BUDGET_SLACK_SEGMENTS;
        let slack = config.storage.log_segment_bytes.saturating_mul(slack);
        config.storage.log_bytes_max = config.raft.log_bytes_max.saturating_mul(2);
        config.storage.log_bytes_max = config.storage.log_bytes_max.saturating_add(slack);
    }
}

fn trim_slash(url: &mut String) {
    url.truncate(url.trim_end_matches('/').len());
}

/// Checks every rule on a completed configuration.
fn problems(config: &Config) -> Vec<Problem> {
    let mut rules = Rules {
        problems: Vec::new(),
    };
    rules.node(config);
    rules.cluster(config);
    rules.raft(config);
    rules.limits(config);
    rules.storage(config);
    rules.log(config);
    rules.problems
}

/// What is allowed but probably not meant.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let members = &config.cluster.members;
    if members.len().is_multiple_of(2) {
        warnings.push(format!(
            "cluster.members has {} nodes: an even number survives no more losses than one node fewer; \
             use {} or {}",
            members.len(),
            members.len() - 1,
            members.len() + 1
        ));
    }
    let mut per_zone: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        *per_zone.entry(&member.zone).or_default() += 1;
    }
    for (zone, count) in per_zone {
        if members.len() > 1 && count * 2 >= members.len() {
            warnings.push(format!(
                "zone {zone} has {count} of {} nodes: losing it loses the quorum; spread the nodes over \
                 at least three zones",
                members.len()
            ));
        }
    }
    warnings
}

struct Rules {
    problems: Vec<Problem>,
}

impl Rules {
    fn refuse(
        &mut self,
        field: impl Into<String>,
        value: impl ToString,
        remedy: impl Into<String>,
    ) {
        let field = field.into();
        // The first problem of a field is its cause; more would only repeat it.
        if self.problems.iter().any(|problem| problem.field == field) {
            return;
        }
        self.problems.push(Problem {
            field,
            value: value.to_string(),
            remedy: remedy.into(),
            origin: None,
        });
    }

    fn within(&mut self, field: &str, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            self.refuse(field, value, format!("must be from {min} to {max}"));
        }
    }

    fn bytes_within(&mut self, field: &str, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            let (min, max) = (format_bytes(min), format_bytes(max));
            self.refuse(
                field,
                format_bytes(value),
                format!("must be from {min} to {max}"),
            );
        }
    }

    fn name(&mut self, field: &str, name: &str, example: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            self.refuse(
                field,
                name,
                format!("must be 1 to 64 letters, digits, '-', '_' or '.', such as {example}"),
            );
        }
    }

    fn raft(&mut self, config: &Config) {
        let raft = &config.raft;
        let (min, max) = (raft.election_timeout_min_ms, raft.election_timeout_max_ms);
        if raft.heartbeat_interval_ms == 0 {
            self.refuse(
                "raft.heartbeat_interval_ms",
                "0ms",
                "must be at least 1ms; 1s suits any cluster",
            );
        }
        if raft.heartbeat_interval_ms.saturating_mul(2) >= min {
            self.refuse(
                "raft.heartbeat_interval_ms",
                format_ms(raft.heartbeat_interval_ms),
                format!(
                    "must be less than half of raft.election_timeout_min_ms ({}), so that one late heartbeat \
                     does not cost an election: lower it, or raise the timeout above {}",
                    format_ms(min),
                    format_ms(raft.heartbeat_interval_ms.saturating_mul(2))
                ),
            );
        }
        if min >= max {
            self.refuse(
                "raft.election_timeout_min_ms",
                format_ms(min),
                format!(
                    "must be less than raft.election_timeout_max_ms ({}), so that voters do not stand at the \
                     same moment; twice as long is usual",
                    format_ms(max)
                ),
            );
        }
        let rtt = raft.worst_voter_rtt_ms;
        if rtt == 0 {
            self.refuse(
                "raft.worst_voter_rtt_ms",
                "0ms",
                "must be at least 1ms; round a shorter round trip up",
            );
        }
        if min < rtt.saturating_mul(10) {
            self.refuse(
                "raft.election_timeout_min_ms",
                format_ms(min),
                format!(
                    "must be at least ten times raft.worst_voter_rtt_ms ({}): give {} or more",
                    format_ms(rtt),
                    format_ms(rtt.saturating_mul(10))
                ),
            );
        }
        let probe = raft.quorum_loss_probe_interval_ms;
        if probe < max.saturating_mul(2) {
            self.refuse(
                "raft.quorum_loss_probe_interval_ms",
                format_ms(probe),
                format!(
                    "must be at least twice raft.election_timeout_max_ms ({}): give {} or more, or leave it out",
                    format_ms(max),
                    format_ms(max.saturating_mul(2))
                ),
            );
        }
        const DAY_MS: u64 = 24 * 3_600_000;
        for (field, value) in [
            ("raft.election_timeout_max_ms", max),
            ("raft.quorum_loss_probe_interval_ms", probe),
        ] {
            if value > DAY_MS {
                self.refuse(field, format_ms(value), "must be at most 24h");
            }
        }
        self.within(
            "raft.max_payload_entries",
            raft.max_payload_entries,
            1,
            limits::APPEND_ENTRIES_CEILING,
        );
        if raft.log_entries_max == 0 {
            self.refuse(
                "raft.log_entries_max",
                0,
                format!(
                    "must be at least 1; {} lets a follower miss as many writes",
                    limits::LOG_ENTRIES_DEFAULT
                ),
            );
        }
        let segments = config.storage.log_segment_bytes.saturating_mul(2);
        if raft.log_bytes_max < segments {
            self.refuse(
                "raft.log_bytes_max",
                format_bytes(raft.log_bytes_max),
                format!(
                    "must be at least two segments of the log (storage.log_segment_bytes is {}): give {} or more",
                    format_bytes(config.storage.log_segment_bytes),
                    format_bytes(segments)
                ),
            );
        }
    }

    fn limits(&mut self, config: &Config) {
        let given = &config.limits;
        self.bytes_within(
            "limits.request_bytes_max",
            given.request_bytes_max as u64,
            limits::REQUEST_BYTES_MIN,
            limits::REQUEST_BYTES_CEILING,
        );
        self.within(
            "limits.txn_ops_max",
            given.txn_ops_max as u64,
            1,
            limits::TXN_OPS_CEILING as u64,
        );
        let proposals = limits::PROPOSALS_IN_FLIGHT_CEILING as u64;
        self.within(
            "limits.proposals_in_flight_max",
            given.proposals_in_flight_max as u64,
            1,
            proposals,
        );
        self.within(
            "limits.reads_waiting_max",
            given.reads_waiting_max as u64,
            1,
            proposals,
        );
        self.within(
            "limits.forward_queue_requests_max",
            given.forward_queue_requests_max as u64,
            1,
            proposals,
        );
        self.within(
            "limits.retry_clients_max",
            given.retry_clients_max as u64,
            1,
            limits::RETRY_CLIENTS_CEILING as u64,
        );
        self.bytes_within(
            "limits.retry_bytes_max",
            given.retry_bytes_max,
            limits::RETRY_BYTES_MIN,
            limits::RETRY_BYTES_CEILING,
        );
        if given.proposals_in_flight_bytes_max < given.request_bytes_max {
            self.refuse(
                "limits.proposals_in_flight_bytes_max",
                format_bytes(given.proposals_in_flight_bytes_max as u64),
                format!(
                    "must hold one request of the largest size (limits.request_bytes_max is {})",
                    format_bytes(given.request_bytes_max as u64)
                ),
            );
        }
        if given.snapshot_bytes_per_second_max < limits::SNAPSHOT_CHUNK_BYTES {
            self.refuse(
                "limits.snapshot_bytes_per_second_max",
                format_bytes(given.snapshot_bytes_per_second_max),
                format!(
                    "must be at least one chunk per second, {}",
                    format_bytes(limits::SNAPSHOT_CHUNK_BYTES)
                ),
            );
        }
    }

    fn storage(&mut self, config: &Config) {
        let storage = &config.storage;
        self.bytes_within(
            "storage.log_segment_bytes",
            storage.log_segment_bytes,
            limits::LOG_SEGMENT_BYTES_MIN,
            limits::LOG_SEGMENT_BYTES_CEILING,
        );
        let segments = limits::LOG_BUDGET_SLACK_SEGMENTS;
        let segments = storage.log_segment_bytes.saturating_mul(segments);
        if storage.log_bytes_max < segments {
            self.refuse(
                "storage.log_bytes_max",
                format_bytes(storage.log_bytes_max),
                format!(
                    "must be at least {} segments of the log (storage.log_segment_bytes is {}): give {} or more",
                    limits::LOG_BUDGET_SLACK_SEGMENTS,
                    format_bytes(storage.log_segment_bytes),
                    format_bytes(segments)
                ),
            );
        }
        let two_requests = 2 * config.limits.request_bytes_max as u64;
        for (field, value, min) in [
            (
                "storage.log_segment_bytes",
                storage.log_segment_bytes,
                limits::LOG_SEGMENT_BYTES_MIN,
            ),
            (
                "storage.table_bytes_max",
                storage.table_bytes_max,
                limits::TABLE_BYTES_MIN,
            ),
        ] {
            if value >= min && value < two_requests {
                self.refuse(
                    field,
                    format_bytes(value),
                    format!(
                        "must hold two requests of the largest size (limits.request_bytes_max is {}): give {} or more",
                        format_bytes(config.limits.request_bytes_max as u64),
                        format_bytes(two_requests)
                    ),
                );
            }
        }
        for (field, value, min) in [
            (
                "storage.table_bytes_max",
                storage.table_bytes_max,
                limits::TABLE_BYTES_MIN,
            ),
            (
                "storage.cache_bytes",
                storage.cache_bytes,
                limits::CACHE_BYTES_MIN,
            ),
        ] {
            if value < min {
                self.refuse(
                    field,
                    format_bytes(value),
                    format!("must be at least {}", format_bytes(min)),
                );
            }
        }
        if !(10..=3_600_000).contains(&storage.flush_interval_ms) {
            self.refuse(
                "storage.flush_interval_ms",
                format_ms(storage.flush_interval_ms),
                "must be from 10ms to 1h: shorter costs the disk, longer costs time after a crash",
            );
        }
    }

    fn log(&mut self, config: &Config) {
        let is_level = |word: &str| {
            ["error", "warn", "info", "debug", "trace", "off"]
                .contains(&word.to_lowercase().as_str())
        };
        // The log library would take a misspelt level for the name of a module, and log nothing.
        let level = &config.log.level;
        let directive = |part: &str| match part.split_once('=') {
            Some((target, level)) => !target.trim().is_empty() && is_level(level.trim()),
            None => is_level(part.trim()),
        };
        if !level.split(',').all(directive) {
            self.refuse(
                "log.level",
                level,
                "must be error, warn, info, debug, trace or off, or such directives as \
                 info,holdfast_server::raft=debug",
            );
        }
    }
}
