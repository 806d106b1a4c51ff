//! The file that describes an existing cluster: what may stand in it, and what is wrong with it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::history::NodeId;

/// Bound of a command if the file gives none.
const COMMAND_WITHIN_SECONDS: f64 = 30.0;
/// Longest bound of a command that makes sense.
const COMMAND_WITHIN_SECONDS_MAX: f64 = 3600.0;

/// Why a file describes no cluster.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is no TOML, or has other fields than it may have.
    #[error("{}: {error}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where, and what was expected there.
        error: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{}: {field} = {value}: {wanted}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What would be right.
        wanted: String,
    },
}

/// An existing cluster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What it is, for the report.
    #[serde(default = "unnamed")]
    pub target: String,
    /// Seconds that each command may take.
    #[serde(default = "command_within_seconds")]
    pub command_within_seconds: f64,
    /// Its nodes.
    #[serde(default)]
    pub nodes: Vec<NodeEntry>,
}

/// A node of an existing cluster, with the commands that break and heal it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// 1 and up.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: String,
    /// Where clients reach it: `host:port`.
    pub endpoint: String,
    /// Where the harness asks it about its state, if that is another address.
    pub direct: Option<String>,
    /// Starts the node that was killed or stopped.
    pub start: Option<String>,
    /// SIGKILL.
    pub kill: Option<String>,
    /// Asks the node to stop, and waits until it has.
    pub stop: Option<String>,
    /// SIGSTOP.
    pub pause: Option<String>,
    /// SIGCONT.
    pub resume: Option<String>,
    /// Cuts the node off from all other nodes, in both directions.
    pub isolate: Option<String>,
    /// Undoes that.
    pub rejoin: Option<String>,
    /// What the node stores, if the harness can get at it.
    pub data_dir: Option<PathBuf>,
}

fn unnamed() -> String {
    "unknown".to_owned()
}

fn command_within_seconds() -> f64 {
    COMMAND_WITHIN_SECONDS
}

impl File {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(file).map_err(|error| FileError::Unreadable {
            file: file.to_owned(),
            error,
        })?;
        let parsed: Self = toml::from_str(&text).map_err(|error| FileError::Malformed {
            file: file.to_owned(),
            error: Box::new(error),
        })?;
        let checked = parsed.check();
        checked.map_err(|(field, value, wanted)| FileError::Invalid {
            file: file.to_owned(),
            field,
            value,
            wanted: wanted.to_owned(),
        })?;
        Ok(parsed)
    }

    /// Bound of each command.
    pub fn command_within(&self) -> Duration {
        Duration::from_secs_f64(self.command_within_seconds)
    }

    /// The error is field, value, and what would be right.
    fn check(&self) -> Result<(), (String, String, &'static str)> {
        let seconds = self.command_within_seconds;
        if !(seconds > 0.0 && seconds <= COMMAND_WITHIN_SECONDS_MAX) {
            let field = "command_within_seconds".to_owned();
            return Err((
                field,
                seconds.to_string(),
                "must be above 0, and at most 3600",
            ));
        }
        if self.nodes.is_empty() {
            let wanted = "there must be one [[nodes]] section for each node";
            return Err(("nodes".to_owned(), "[]".to_owned(), wanted));
        }
        let (mut ids, mut endpoints) = (BTreeSet::new(), BTreeSet::new());
        for (index, node) in self.nodes.iter().enumerate() {
            let refuse = |name: &str, value: &str, wanted| {
                Err((
                    format!("nodes[{index}].{name}"),
                    format!("{value:?}"),
                    wanted,
                ))
            };
            let id = node.id.to_string();
            if node.id == 0 || !ids.insert(node.id) {
                let field = format!("nodes[{index}].id");
                return Err((field, id, "must be 1 or more, and another for each node"));
            }
            if node.zone.trim().is_empty() {
                return refuse(
                    "zone",
                    &node.zone,
                    "must name the failure domain of the node",
                );
            }
            let direct = node.direct.as_ref().map(|direct| ("direct", direct));
            for (name, addr) in [("endpoint", &node.endpoint)].into_iter().chain(direct) {
                if !is_host_and_port(addr) {
                    let wanted = "must be host:port, such as 10.0.1.5:2379, without http://";
                    return refuse(name, addr, wanted);
                }
            }
            if !endpoints.insert(&node.endpoint) {
                return refuse("endpoint", &node.endpoint, "must be another for each node");
            }
            // What is broken must be healed at the end.
            for (breaks, command, heals, remedy, wanted) in [
                (
                    "kill",
                    &node.kill,
                    "start",
                    &node.start,
                    "needs `start` beside it",
                ),
                (
                    "stop",
                    &node.stop,
                    "start",
                    &node.start,
                    "needs `start` beside it",
                ),
                (
                    "pause",
                    &node.pause,
                    "resume",
                    &node.resume,
                    "needs `resume` beside it",
                ),
                (
                    "isolate",
                    &node.isolate,
                    "rejoin",
                    &node.rejoin,
                    "needs `rejoin` beside it",
                ),
            ] {
                for (name, command) in [(breaks, command), (heals, remedy)] {
                    if let Some(command) = command
                        && command.trim().is_empty()
                    {
                        let wanted = "must be a command for sh, or be left out";
                        return refuse(name, command, wanted);
                    }
                }
                if let (Some(command), None) = (command, remedy) {
                    return refuse(breaks, command, wanted);
                }
            }
        }
        Ok(())
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let spelled = !host.contains('/') && !host.contains(char::is_whitespace);
    !host.is_empty() && bare && spelled && port.parse::<u16>().is_ok_and(|port| port != 0)
}
