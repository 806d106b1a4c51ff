//! `holdfast dev`: a cluster of three zones on this machine, as three processes.
//!
//! It exists so that the first minute with Holdfast shows the real thing: real processes with real
//! fsync, which can really be killed. The nodes are this same program (`holdfast start`), told apart
//! only by their flags, so nothing here is a mode of its own.
//!
//! ```text
//! holdfast dev ──▶ claim      data directory (lock), ports
//!              ──▶ layout     ids, zones, ports, directories ──▶ table
//!              ──▶ supervisor ── child ──▶ holdfast start ×3
//!                     │      ◀─ watcher ── WatchGroups of each node
//!                     └─ view (pure): observations ─▶ news ─▶ screen
//!              ──▶ demo       writers ─▶ kill ─▶ audit ─▶ summary   (only with --demo)
//!              ──▶ trials     the same for the leader, again and again (only with --trials)
//! ```
//!
//! Promises: `ready` stands alone on a line of standard output once all groups have leaders;
//! `cluster.json` always names the processes started last; no node outlives the supervisor, however
//! that ends.

mod args;
mod child;
mod claim;
pub mod cluster_file;
mod demo;
mod layout;
mod news;
mod screen;
mod signals;
mod supervisor;
mod trials;
mod view;
mod watcher;

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::mpsc;

pub use args::DevArgs;
use claim::DirectoryLock;
use layout::NodePlan;
use screen::Screen;
use supervisor::{Plan, Supervisor};

/// Runs the cluster until it is stopped, or the demonstration until it is over. Must be awaited on
/// the main thread: the nodes die with the thread that started them. Returns whether all went well;
/// an error is one of starting or of keeping the cluster running.
pub async fn run(args: DevArgs) -> anyhow::Result<bool> {
    let screen = Screen::new();
    let directory = Directory::choose(&args)?;
    let nodes = layout::plan(&directory.path, args.base_port);
    claim::create_directory(&directory.path)?;
    let lock = DirectoryLock::take(&directory.path)?;
    claim::check_ports(&nodes)?;
    screen.plain(table(&nodes, &directory.path));
    let plan = Plan {
        data_dir: directory.path.clone(),
        nodes: nodes.clone(),
        node_flags: args.node_flags.clone(),
        restart_after: args.restart.then_some(args.restart_delay),
    };
    let passed = supervise(&args, plan, screen).await;
    drop(lock);
    directory.finish(matches!(passed, Ok(true)), &screen);
    passed
}

async fn supervise(args: &DevArgs, plan: Plan, screen: Screen) -> anyhow::Result<bool> {
    let (nodes, data_dir) = (plan.nodes.clone(), plan.data_dir.clone());
    let (supervisor, status) = Supervisor::new(plan, screen);
    let (orders, inbox) = mpsc::channel(8);
    if !args.demo {
        // `orders` lives on here, so that its end is not taken for an order to stop.
        supervisor.run(inbox).await?;
        screen.event("all nodes have stopped");
        drop(orders);
        return Ok(true);
    }
    if let Some(trials) = args.trials {
        let fault = args.fault;
        let settings = trials::Settings { trials, fault };
        let trials = trials::run(settings, nodes, data_dir, status, orders, screen);
        let trials = tokio::spawn(trials);
        supervisor.run(inbox).await?;
        let report = trials.await.context("the trials broke off")??;
        screen.plain(report.to_string());
        return Ok(report.passed());
    }
    let settings = demo::Settings {
        rate: args.demo_rate,
        time: args.demo_time,
        restart_delay: args.restart_delay,
    };
    let demo = tokio::spawn(demo::run(settings, nodes, status, orders, screen));
    supervisor.run(inbox).await?;
    let report = demo.await.context("the demonstration broke off")??;
    screen.plain(report.to_string());
    Ok(report.passed())
}

/// The data directory, and whether it goes away afterwards.
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn choose(args: &DevArgs) -> anyhow::Result<Directory> {
        match (&args.data_dir, args.demo) {
            (Some(path), _) => Ok(Directory {
                path: path.clone(),
                temporary: false,
            }),
            (None, false) => Ok(Directory {
                path: "holdfast-data".into(),
                temporary: false,
            }),
            (None, true) => {
                let path = std::env::temp_dir()
                    .join(format!("holdfast-demo-{:08x}", rand::random::<u32>()));
                // Fails if it is there already, so it is nobody else's.
                std::fs::create_dir(&path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                Ok(Directory {
                    path,
                    temporary: true,
                })
            }
        }
    }

    /// Removes a temporary directory, unless it shows what went wrong.
    fn finish(&self, passed: bool, screen: &Screen) {
        if !self.temporary {
            return;
        }
        if !passed {
            screen.plain(format!(
                "The data and the logs of the nodes are kept in {}",
                self.path.display()
            ));
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            screen.plain(format!(
                "{} could not be removed: {error}",
                self.path.display()
            ));
        }
    }
}

/// The table of nodes that is shown at the start.
fn table(nodes: &[NodePlan], data_dir: &Path) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["node", "zone", "clients", "peers", "data"]);
    for node in nodes {
        table.add_row([
            node.id.to_string(),
            node.zone.to_owned(),
            node.client_url(),
            node.peer_url(),
            node.data_dir.display().to_string(),
        ]);
    }
    format!(
        "{table}\nlogs: {}   process ids: {}   stop: Ctrl-C",
        data_dir.join("node-*.log").display(),
        cluster_file::path_in(data_dir).display()
    )
}
