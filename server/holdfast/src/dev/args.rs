//! The command line of `holdfast dev`.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_server::config::quantity::{MS_FORM, parse_ms};

use super::trials::Fault;

/// Run a cluster of three zones on this machine: three processes, one for each zone.
///
/// Prints `ready` on a line of its own when all groups have leaders, and then a line for each event.
/// Ctrl-C and SIGTERM stop it gracefully, leaders hand over first; a second one stops it at once.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct DevArgs {
    /// Directory of the three nodes, their logs and cluster.json. Kept between runs
    /// [default: ./holdfast-data; for --demo a temporary one]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Client port of the first node; the others are 10 and 20 above, and each peer port is one
    /// above its client port
    #[arg(long, value_name = "PORT", default_value_t = 2379, value_parser = clap::value_parser!(u16).range(1..=LAST_BASE_PORT))]
    pub base_port: u16,

    /// Start a node again when it has died
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub restart: bool,

    /// Time until a dead node is started again, in milliseconds or such as 3s
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = time)]
    pub restart_delay: Duration,

    /// Show what a loss costs: write through all zones, kill the leader's zone with SIGKILL, and
    /// check every acknowledged write afterwards on every node. Exit code 0 only if nothing was lost
    #[arg(long)]
    pub demo: bool,

    /// Writes per second through each zone, from 1 to 2000
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub demo_rate: u32,

    /// Time of writing, in milliseconds or such as 10s; the kill comes after a third of it. Writing
    /// goes on until the killed node has caught up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub demo_time: Duration,

    /// Hit the node that leads so often, each time under load, and show how long writes stopped: median
    /// and worst. Exit code 0 only if nothing was lost
    #[arg(long, value_name = "N", requires = "demo", conflicts_with_all = ["demo_rate", "demo_time"], value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: Option<u32>,

    /// What hits it
    #[arg(
        long,
        value_name = "FAULT",
        requires = "trials",
        value_enum,
        default_value = "kill"
    )]
    pub fault: Fault,

    /// Flags of `holdfast start` for all three nodes
    #[arg(last = true, value_name = "NODE FLAGS")]
    pub node_flags: Vec<String>,
}

/// Highest base port whose last peer port (21 above) is still a port.
const LAST_BASE_PORT: i64 = 65_535 - 21;

impl DevArgs {
    /// Checks what concerns more than one value.
    pub fn check(&self) -> Result<(), String> {
        if self.demo && !self.restart {
            return Err(
                "--demo starts the killed node again, so it cannot go with --restart=false"
                    .to_owned(),
            );
        }
        if self.demo && self.demo_time < Duration::from_secs(3) {
            return Err(format!(
                "--demo-time {}ms is too short to show anything: give 3s or more",
                self.demo_time.as_millis()
            ));
        }
        Ok(())
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let ms = parse_ms(text).ok_or_else(|| format!("give {MS_FORM}"))?;
    if ms > 24 * 3_600_000 {
        return Err("give at most 24h".to_owned());
    }
    Ok(Duration::from_millis(ms))
}
