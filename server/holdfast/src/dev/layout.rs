//! Where the three nodes of `holdfast dev` live: ids, zones, ports, directories, flags.
//!
//! ```text
//! <data-dir>/dev.lock        held while a supervisor runs
//! <data-dir>/cluster.json    the nodes as they run now
//! <data-dir>/node-1/         data directory of node 1
//! <data-dir>/node-1.log      what node 1 wrote to standard output and error
//! ```

use std::{
    num::NonZero,
    path::{Path, PathBuf},
};

const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];
const PORT_STEP: u16 = 10;
const WORKER_THREADS: &str = "--worker-threads";

/// One node as it is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Number of the node.
    pub id: u64,
    /// Its zone.
    pub zone: &'static str,
    /// Port for clients.
    pub client_port: u16,
    /// Port for other nodes.
    pub peer_port: u16,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// File of its output.
    pub log_file: PathBuf,
}

impl NodePlan {
    /// How clients reach it.
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// How other nodes reach it.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// What people call it.
    pub fn name(&self) -> String {
        format!("node-{} ({})", self.id, self.zone)
    }
}

/// The three nodes. `base_port` must leave room for the 21 ports above it.
pub fn plan(data_dir: &Path, base_port: u16) -> Vec<NodePlan> {
    ZONES
        .iter()
        .zip(1u16..)
        .map(|(zone, id)| {
            let client_port = base_port + (id - 1) * PORT_STEP;
            NodePlan {
                id: u64::from(id),
                zone,
                client_port,
                peer_port: client_port + 1,
                data_dir: data_dir.join(format!("node-{id}")),
                log_file: data_dir.join(format!("node-{id}.log")),
            }
        })
        .collect()
}

/// The command line of one of the nodes, after the program.
pub fn start_args(
    node: &NodePlan,
    all: &[NodePlan],
    node_flags: &[String],
) -> Vec<std::ffi::OsString> {
    let members: Vec<String> = all
        .iter()
        .map(|node| {
            format!(
                "{}={}={}={}",
                node.id,
                node.zone,
                node.peer_url(),
                node.client_url()
            )
        })
        .collect();
    let mut args: Vec<std::ffi::OsString> = vec!["start".into()];
    for (flag, value) in [
        ("--id", node.id.to_string()),
        ("--zone", node.zone.to_owned()),
        ("--client-addr", format!("127.0.0.1:{}", node.client_port)),
        ("--advertise-client-url", node.client_url()),
        ("--peer-addr", format!("127.0.0.1:{}", node.peer_port)),
        ("--advertise-peer-url", node.peer_url()),
        ("--cluster-name", "holdfast-dev".to_owned()),
        ("--initial-cluster", members.join(",")),
    ] {
        args.push(flag.into());
        args.push(value.into());
    }
    args.push("--data-dir".into());
    args.push(node.data_dir.as_os_str().to_owned());
    if !node_flags
        .iter()
        .any(|flag| flag.starts_with(WORKER_THREADS))
    {
        // More threads than cores would only wake each other.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        args.push(WORKER_THREADS.into());
        args.push((cores / all.len()).max(1).to_string().into());
    }
    args.extend(node_flags.iter().map(Into::into));
    args
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::{Invocation, parse};
    use holdfast_server::config::load;

    #[test]
    fn ports_and_directories_are_those_promised() {
        let nodes = plan(Path::new("data"), 2379);
        let ports: Vec<_> = nodes
            .iter()
            .map(|node| (node.client_port, node.peer_port))
            .collect();
        assert_eq!(ports, [(2379, 2380), (2389, 2390), (2399, 2400)]);
        assert_eq!(nodes[2].data_dir, Path::new("data/node-3"));
        assert_eq!(nodes[2].name(), "node-3 (zone-c)");
        assert_eq!(plan(Path::new("data"), 65_514)[2].peer_port, 65_535);
    }

    #[test]
    fn the_command_line_of_a_node_is_a_sound_configuration() {
        let nodes = plan(Path::new("some data"), 4000);
        for node in &nodes {
            let flags = ["--log-entries-max".to_owned(), "500".to_owned()];
            let args = std::iter::once("holdfast".into()).chain(start_args(node, &nodes, &flags));
            let Invocation::Start {
                given,
                check: false,
            } = parse(args, BTreeMap::new()).unwrap()
            else {
                panic!("not a start");
            };
            let config = load(&given).unwrap();
            assert_eq!(
                (config.node.id, config.node.zone.as_str()),
                (node.id, node.zone)
            );
            assert_eq!(config.node.advertise_peer_url, node.peer_url());
            assert_eq!(config.node.data_dir, node.data_dir);
            assert_eq!(config.cluster.members.len(), 3);
            assert_eq!(config.raft.log_entries_max, 500);
            let cores = std::thread::available_parallelism().unwrap().get();
            assert_eq!(config.node.worker_threads, (cores / 3).max(1));
            assert!(config.warnings().is_empty());
        }
    }
}
