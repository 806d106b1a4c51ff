//! The command line.

mod values;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use holdfast_client::{Delete, Get, Put, SortOrder, SortTarget};

pub use self::values::{duration, number};
use crate::{
    commands::{debug::DebugCommand, keyspace::KeyspaceCommand, placement::PlacementCommand},
    encoding::Encoding,
    exit::{self, Failure},
    output::Format,
};

/// Reads and writes the keys of a Holdfast cluster, shows its state, and measures it.
#[derive(Debug, Parser)]
#[command(name = "holdfastctl", version, after_help = exit::HELP)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, ClapArgs)]
pub struct Global {
    /// Nodes to start from; the others are found through them
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_ENDPOINTS",
        value_delimiter = ',',
        default_value = holdfast_client::DEFAULT_ENDPOINT,
        value_name = "HOST:PORT,..."
    )]
    pub endpoints: Vec<String>,
    /// Keyspace to work on [default: the keyspace `default`]
    #[arg(long, global = true, env = "HOLDFAST_KEYSPACE", value_name = "NAME")]
    pub keyspace: Option<String>,
    /// Zone whose nodes are asked first
    #[arg(long, global = true, env = "HOLDFAST_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,
    /// Time for the first contact, and then for a request, retries included: a number with ms, s, m or h
    #[arg(long, global = true, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Plain)]
    pub output: Format,
    /// Keys and values are given and shown in hexadecimal
    #[arg(long, global = true, conflicts_with = "base64")]
    pub hex: bool,
    /// Keys and values are given and shown in base64
    #[arg(long, global = true)]
    pub base64: bool,
}

impl Global {
    pub fn encoding(&self) -> Encoding {
        match (self.hex, self.base64) {
            (true, _) => Encoding::Hex,
            (_, true) => Encoding::Base64,
            _ => Encoding::Text,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a key
    Put(PutArgs),
    /// Read a key or a range of keys
    Get(GetArgs),
    /// Delete a key or a range of keys
    Del(DelArgs),
    /// Run one of two lists of operations, chosen by comparisons, atomically
    Txn(TxnArgs),
    /// Forget all versions superseded at or before a revision
    Compact(CompactArgs),
    /// Show the state of every node
    Status(StatusArgs),
    /// List the members of the cluster
    Members,
    /// Hand the leadership of the keyspace to another node
    MoveLeader(MoveLeaderArgs),
    /// Create, list, alter and drop keyspaces
    #[command(subcommand)]
    Keyspace(KeyspaceCommand),
    /// Show where leaders are placed, and why
    #[command(subcommand)]
    Placement(PlacementCommand),
    /// Measure throughput and latency
    Bench(BenchArgs),
    /// For tests and measurements
    #[command(subcommand, hide = true)]
    Debug(DebugCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub struct PutArgs {
    /// The key
    pub key: OsString,
    /// The value; `-` or nothing reads it from standard input, to its end and unchanged
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Lease the key hangs on: decimal, or hexadecimal with 0x
    #[arg(long, value_parser = number, default_value = "0", value_name = "ID")]
    pub lease: u64,
    /// Also show what the key held before
    #[arg(long)]
    pub prev_kv: bool,
    /// Keep the present value; the key must exist
    #[arg(long, conflicts_with = "value")]
    pub ignore_value: bool,
    /// Keep the present lease; the key must exist
    #[arg(long)]
    pub ignore_lease: bool,
}

impl PutArgs {
    /// `stdin` gives the value if the arguments do not.
    pub fn request(
        &self,
        encoding: Encoding,
        stdin: impl FnOnce() -> Result<Vec<u8>, Failure>,
    ) -> Result<Put, Failure> {
        let value = match &self.value {
            _ if self.ignore_value => Default::default(),
            Some(value) if value != "-" => encoding.decode_arg(value)?,
            _ => {
                let read = stdin()?;
                match encoding {
                    Encoding::Text => read.into(),
                    Encoding::Hex | Encoding::Base64 => encoding.decode(read.trim_ascii())?,
                }
            }
        };
        let mut put = Put::new(encoding.decode_arg(&self.key)?, value);
        if self.lease != 0 {
            put = put.lease(self.lease as i64);
        }
        if self.prev_kv {
            put = put.prev_kv();
        }
        if self.ignore_value {
            put = put.ignore_value();
        }
        if self.ignore_lease {
            put = put.ignore_lease();
        }
        Ok(put)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Linearizable: sees every write acknowledged before
    L,
    /// Serializable: what the asked node has at once, perhaps stale
    S,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SortBy {
    Key,
    Version,
    #[value(alias = "c")]
    Create,
    #[value(alias = "mod")]
    Modify,
    Value,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Order {
    #[value(alias = "asc")]
    Ascend,
    #[value(alias = "desc")]
    Descend,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct GetArgs {
    /// The key, or the start of the range
    pub key: OsString,
    /// End of the range, not included
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    pub range_end: Option<OsString>,
    /// All keys that start with KEY; all keys if it is empty
    #[arg(long, conflicts_with = "from_key")]
    pub prefix: bool,
    /// All keys from KEY on
    #[arg(long)]
    pub from_key: bool,
    /// At most so many keys; 0 for all
    #[arg(long, default_value_t = 0, value_name = "KEYS")]
    pub limit: i64,
    /// As of this revision; 0 for the present
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    pub rev: i64,
    /// What to sort by
    #[arg(long, value_enum, ignore_case = true)]
    pub sort_by: Option<SortBy>,
    /// Order of the sort
    #[arg(long, value_enum, ignore_case = true)]
    pub order: Option<Order>,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Only count the keys
    #[arg(long, conflicts_with_all = ["keys_only", "print_value_only"])]
    pub count_only: bool,
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    pub consistency: Consistency,
    /// Print values only, byte for byte, a newline after each
    #[arg(long, conflicts_with = "keys_only")]
    pub print_value_only: bool,
    /// Only keys last written at this revision or later
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    pub min_mod_rev: i64,
    /// Only keys last written at this revision or earlier
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    pub max_mod_rev: i64,
    /// Only keys created at this revision or later
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    pub min_create_rev: i64,
    /// Only keys created at this revision or earlier
    #[arg(long, default_value_t = 0, value_name = "REVISION")]
    pub max_create_rev: i64,
}

impl GetArgs {
    pub fn request(&self, encoding: Encoding) -> Result<Get, Failure> {
        let target = self.sort_by.map_or(SortTarget::Key, |by| match by {
            SortBy::Key => SortTarget::Key,
            SortBy::Version => SortTarget::Version,
            SortBy::Create => SortTarget::Create,
            SortBy::Modify => SortTarget::Mod,
            SortBy::Value => SortTarget::Value,
        });
        let order = self.order.map_or(SortOrder::None, |order| match order {
            Order::Ascend => SortOrder::Ascend,
            Order::Descend => SortOrder::Descend,
        });
        let mut get = Get::new(encoding.decode_arg(&self.key)?)
            .limit(self.limit)
            .revision(self.rev)
            .sort(target, order)
            .min_mod_revision(self.min_mod_rev)
            .max_mod_revision(self.max_mod_rev)
            .min_create_revision(self.min_create_rev)
            .max_create_revision(self.max_create_rev);
        if let Some(end) = &self.range_end {
            get = get.range_end(encoding.decode_arg(end)?);
        }
        if self.prefix {
            get = get.prefix();
        }
        if self.from_key {
            get = get.from_key();
        }
        if self.keys_only {
            get = get.keys_only();
        }
        if self.count_only {
            get = get.count_only();
        }
        if self.consistency == Consistency::S {
            get = get.serializable();
        }
        Ok(get)
    }
}

#[derive(Clone, Debug, ClapArgs)]
pub struct DelArgs {
    /// The key, or the start of the range
    pub key: OsString,
    /// End of the range, not included
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    pub range_end: Option<OsString>,
    /// All keys that start with KEY; all keys if it is empty
    #[arg(long, conflicts_with = "from_key")]
    pub prefix: bool,
    /// All keys from KEY on
    #[arg(long)]
    pub from_key: bool,
    /// Also show what the keys held
    #[arg(long)]
    pub prev_kv: bool,
}

impl DelArgs {
    pub fn request(&self, encoding: Encoding) -> Result<Delete, Failure> {
        let mut delete = Delete::new(encoding.decode_arg(&self.key)?);
        if let Some(end) = &self.range_end {
            delete = delete.range_end(encoding.decode_arg(end)?);
        }
        if self.prefix {
            delete = delete.prefix();
        }
        if self.from_key {
            delete = delete.from_key();
        }
        if self.prev_kv {
            delete = delete.prev_kv();
        }
        Ok(delete)
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = crate::txn_text::HELP)]
pub struct TxnArgs {
    /// Read the transaction as JSON from this file, `-` for standard input, in place of the text
    /// form on standard input
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct CompactArgs {
    /// The revision
    pub revision: i64,
    /// Wait until the versions are gone from storage
    #[arg(long)]
    pub physical: bool,
}

#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    /// Also show a hash of the contents at the same revision on every node
    #[arg(long)]
    pub hash: bool,
    /// Show instead what each node sees of the others: in which state they are and since when, round trip, and
    /// how long each may be silent
    #[arg(long, conflicts_with = "hash")]
    pub peers: bool,
}

#[derive(Debug, ClapArgs)]
pub struct MoveLeaderArgs {
    /// Id of the node that should lead: decimal, or hexadecimal with 0x; 0 leaves the choice to the
    /// cluster
    #[arg(value_parser = number, default_value = "0")]
    pub node: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Puts to random keys
    Put,
    /// Gets of random keys
    Get,
    /// Gets and puts; see --read-percent
    Mixed,
    /// Transactions that compare a key's version and write it
    Txn,
    /// Puts of every key once, in order; ends with the last, whatever --duration says
    Fill,
}

#[derive(Debug, ClapArgs)]
pub struct BenchArgs {
    /// What to do
    #[arg(value_enum)]
    pub workload: Workload,
    /// Requests under way at once; several numbers make several runs
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,16,64,256",
        value_name = "N,..."
    )]
    pub concurrency: Vec<usize>,
    /// Length of a run
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Load before each run that is not measured
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub warmup: Duration,
    /// Size of the values in bytes
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub value_size: usize,
    /// Number of keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Consistency of gets
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    pub consistency: Consistency,
    /// Share of gets in `mixed`
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// Puts ask for the version before them
    #[arg(long)]
    pub prev_kv: bool,
    /// Connections to each endpoint
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub connections: u8,
    /// Threads that make the load [default: one for every four processors, which are the servers' too]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Seed of the choice of keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Processes of the servers on this machine, to show the CPU time they take
    #[arg(long, value_delimiter = ',', value_name = "PID,...")]
    pub pids: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        let args = [
            "holdfastctl",
            "-o",
            "json",
            "get",
            "k",
            "--prefix",
            "--endpoints",
            "a:1,b:2",
        ];
        let args = Args::try_parse_from(args).expect("valid");
        assert_eq!(args.global.endpoints, ["a:1", "b:2"]);
        assert_eq!(args.global.output, Format::Json);
    }

    #[test]
    fn values_come_from_the_argument_or_from_standard_input() {
        let value_of = |line: &[&str], stdin: &'static str| {
            let args =
                Args::try_parse_from([&["holdfastctl", "put"], line].concat()).expect("valid");
            let Command::Put(put) = args.command else {
                panic!("put")
            };
            let request = put.request(args.global.encoding(), || Ok(stdin.into()));
            request.map(|put| put.into_request().value)
        };
        assert_eq!(value_of(&["k", "v"], "in").expect("put"), "v");
        assert_eq!(value_of(&["k", "-5"], "in").expect("put"), "-5");
        assert_eq!(value_of(&["k", "-"], "in\n").expect("put"), "in\n");
        assert_eq!(value_of(&["k"], "").expect("put"), "");
        assert_eq!(
            value_of(&["6b", "--hex"], "ff00\n").expect("put"),
            &b"\xff\0"[..]
        );
        assert!(value_of(&["6b", "zz", "--hex"], "").is_err());
    }
}
