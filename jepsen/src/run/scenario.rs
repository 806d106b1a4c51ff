//! A run as it is asked for: on the command line, by a suite, or by the command that a report
//! prints to run it again.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::{
    cluster::target::Target,
    evidence::expected::Expected,
    nemesis::{BlastRadius, Nemesis},
    workload::Workload,
};

/// Longest time that a run or a part of it may be given.
const TIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// What kind of cluster is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClusterKind {
    /// Processes on this machine behind user-space proxies. Needs no root.
    Local,
    /// Processes in network namespaces of their own. Needs root, ip and nft.
    Netns,
    /// A cluster that is there already, described by --cluster-file.
    Existing,
}

impl ClusterKind {
    fn name(self) -> &'static str {
        match self {
            ClusterKind::Local => "local",
            ClusterKind::Netns => "netns",
            ClusterKind::Existing => "existing",
        }
    }
}

/// One run.
#[derive(Args, Clone, Debug)]
pub struct Scenario {
    /// What the clients ask; see `holdfast-jepsen list`
    #[arg(long, value_name = "NAME", default_value = "register")]
    pub workload: Workload,
    /// What is broken, separated by commas, or `none`; see `holdfast-jepsen list`
    #[arg(long, value_name = "NAMES", default_value = "none", value_parser = nemesis_list)]
    pub nemesis: String,
    /// How long the clients ask
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub time: Duration,
    /// Seed of all random choices; drawn and printed if it is not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Clients that ask at the same time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub concurrency: u64,
    /// Operations per second of all clients together; 0 for as many as are answered
    #[arg(long, value_name = "N", default_value_t = 500.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Keys (sets, lists, accounts, counters) in use at the same time; by default what fits the workload
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    pub keys: Option<u64>,
    /// Operations on a key after which it is given up for a new one; 0 for never
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub ops_per_key: u64,
    /// Bytes of a value, at least
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_value_bytes)]
    pub value_bytes: usize,
    /// How long a request may take before its outcome is unknown
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    pub timeout: Duration,
    /// Time between two faults of one nemesis, on average
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_time)]
    pub interval: Duration,
    /// Time for which a fault is held, on average
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_time)]
    pub hold: Duration,
    /// Most nodes that several nemeses may take together: minority, majority, all, or a number. One that takes more by
    /// its name, such as kill-all, takes that
    #[arg(long, value_name = "NODES", default_value_t = BlastRadius::Minority)]
    pub blast_radius: BlastRadius,
    /// How long a checker may search before its verdict is `unknown`
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub check_limit: Duration,
    /// Judge while it goes on, and end as soon as something is wrong
    #[arg(long)]
    pub stop_when_invalid: bool,
    /// What kind of cluster is driven
    #[arg(long, value_enum, default_value_t = ClusterKind::Local)]
    pub cluster: ClusterKind,
    /// The file that describes an existing cluster
    #[arg(long, value_name = "FILE", required_if_eq("cluster", "existing"))]
    pub cluster_file: Option<PathBuf>,
    /// What program a cluster of this machine is made of: holdfast, or etcd 3.4 or later
    #[arg(long, value_name = "NAME", default_value_t = Target::Holdfast)]
    pub target: Target,
    /// The program; by default `holdfast` beside this program or in PATH, `etcd` in PATH
    #[arg(long, value_name = "FILE")]
    pub bin: Option<PathBuf>,
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// Zones over which the nodes are spread; by default each node is its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    pub zones: Option<u64>,
    /// A further argument of every node, such as --server-arg=--log-entries-max=500; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// A variable of every node, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub server_env: Vec<(String, String)>,
    /// Size of each node's disk in MiB, for full disks (only with --cluster netns)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=65_536))]
    pub disk_mib: Option<u64>,
    /// Most descriptors that each node may have open, for idle connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    pub nofile: Option<u64>,
    /// Most MiB that the log of each node may take on its disk; more is no pass
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub log_mib_max: Option<u64>,
    /// What is expected besides a correct store, separated by commas: `steady` (no group elects unless a fault took its
    /// leader), `answered` (no request fails), `replaced-within=TIME` (a write begun after a fault took nodes succeeds by
    /// then)
    #[arg(long, value_name = "WHAT", default_value_t = Expected::default())]
    pub expected: Expected,
}

impl Default for Scenario {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            scenario: Scenario,
        }
        let alone: Alone = clap::Parser::parse_from(["run"]);
        alone.scenario
    }
}

impl Scenario {
    /// The nemeses by name.
    pub fn nemeses(&self) -> Vec<Nemesis> {
        Nemesis::parse_list(&self.nemesis).expect("the list was checked when it was given")
    }

    /// Whether the power of a node may be cut: then what it writes and does not sync is recorded.
    pub fn cuts_power(&self) -> bool {
        let nemeses = self.nemeses();
        let mut faults = nemeses.iter().flat_map(|nemesis| &nemesis.faults);
        faults.any(|fault| fault.cuts_power())
    }

    /// Keys in use at the same time.
    pub fn keys(&self) -> u64 {
        self.keys.unwrap_or(self.workload.default_keys())
    }

    /// Arguments of `holdfast-jepsen` that run this again, the seed included.
    pub fn arguments(&self, seed: u64) -> Vec<String> {
        let mut args = vec!["run".to_owned()];
        let mut flag = |name: &str, value: String| args.push(format!("--{name}={value}"));
        flag("workload", self.workload.to_string());
        flag("nemesis", self.nemesis.clone());
        flag("time", spell_time(self.time));
        flag("seed", seed.to_string());
        flag("concurrency", self.concurrency.to_string());
        flag("rate", self.rate.to_string());
        flag("keys", self.keys().to_string());
        flag("ops-per-key", self.ops_per_key.to_string());
        flag("value-bytes", self.value_bytes.to_string());
        flag("timeout", spell_time(self.timeout));
        flag("interval", spell_time(self.interval));
        flag("hold", spell_time(self.hold));
        flag("blast-radius", self.blast_radius.to_string());
        flag("check-limit", spell_time(self.check_limit));
        flag("cluster", self.cluster.name().to_owned());
        match &self.cluster_file {
            Some(file) => flag("cluster-file", file.display().to_string()),
            None => {
                flag("target", self.target.to_string());
                flag("nodes", self.nodes.to_string());
            }
        }
        if let Some(bin) = &self.bin {
            flag("bin", bin.display().to_string());
        }
        if let Some(zones) = self.zones {
            flag("zones", zones.to_string());
        }
        for arg in &self.server_arg {
            flag("server-arg", arg.clone());
        }
        for (variable, value) in &self.server_env {
            flag("server-env", format!("{variable}={value}"));
        }
        if let Some(mib) = self.disk_mib {
            flag("disk-mib", mib.to_string());
        }
        if let Some(descriptors) = self.nofile {
            flag("nofile", descriptors.to_string());
        }
        if let Some(mib) = self.log_mib_max {
            flag("log-mib-max", mib.to_string());
        }
        if self.expected != Expected::default() {
            flag("expected", self.expected.to_string());
        }
        if self.stop_when_invalid {
            args.push("--stop-when-invalid".to_owned());
        }
        args
    }

    /// The command that runs this again, for a shell.
    pub fn command(&self, seed: u64) -> String {
        let words = self.arguments(seed).into_iter().map(|word| quote(&word));
        let words: Vec<String> = words.collect();
        format!("holdfast-jepsen {}", words.join(" "))
    }
}

/// A word as a POSIX shell reads it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A time with its unit, such as `500ms`, `60s` or `5m`: more than zero, a week at most.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() && time <= TIME_MAX => Ok(time),
        Ok(_) => Err(format!(
            "`{text}` must be more than zero and a week at most"
        )),
        Err(e) => Err(format!(
            "`{text}` must be a time such as 500ms, 60s or 5m: {e}"
        )),
    }
}

/// A time as the command line reads it.
pub fn spell_time(time: Duration) -> String {
    let spelled = humantime::format_duration(time).to_string();
    spelled.replace(' ', "")
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1e6).contains(&rate) => Ok(rate),
        _ => Err(format!(
            "`{text}` must be operations per second, 0 to 1000000"
        )),
    }
}

fn parse_value_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if bytes <= 1_000_000 => Ok(bytes),
        _ => Err(format!("`{text}` must be 0 to 1000000 bytes")),
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` must be NAME=VALUE")),
    }
}

fn nemesis_list(names: &str) -> Result<String, String> {
    Nemesis::parse_list(names).map(|_| names.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        scenario: Scenario,
    }

    #[test]
    fn the_printed_command_is_the_same_run() {
        let scenario = Scenario {
            workload: Workload::Bank,
            nemesis: "kill,partition-leader".into(),
            time: Duration::from_millis(1_500),
            server_arg: vec!["--log-entries-max=500".into()],
            server_env: vec![("A".into(), "it's".into())],
            zones: Some(3),
            nofile: Some(256),
            log_mib_max: Some(33),
            expected: "steady,replaced-within=2s".parse().unwrap(),
            ..Default::default()
        };
        let again = Line::try_parse_from(scenario.arguments(42))
            .unwrap()
            .scenario;
        assert_eq!(again.seed, Some(42));
        assert_eq!(again.arguments(42), scenario.arguments(42));
        let command = scenario.command(42);
        assert!(command.contains(r"'--server-env=A=it'\''s'"), "{command}");
    }

    #[test]
    fn times_have_units_and_nonsense_is_refused() {
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "0s", "-1s", "5weeks", "7", "s"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
