//! What is tested: which program a node runs, where it is found, and with which arguments.

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::history::NodeId;

/// How long a program may take to tell its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// A store that the harness can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Holdfast.
    Holdfast,
    /// etcd, 3.4 and up.
    Etcd,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "holdfast" => Ok(Target::Holdfast),
            "etcd" => Ok(Target::Etcd),
            _ => Err(format!(
                "`{text}` is no target; it must be holdfast or etcd"
            )),
        }
    }
}

/// A member of a cluster, as all its nodes are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// 1 and up.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: String,
    /// Where clients reach it: `http://host:port`.
    pub client_url: String,
    /// Where the other nodes reach it: `http://host:port`.
    pub peer_url: String,
}

/// How one node is started.
#[derive(Clone, Debug)]
pub struct NodeArguments<'a> {
    /// The node; its URLs are what it tells others.
    pub node: &'a Member,
    /// Directory that it keeps everything in.
    pub data_dir: &'a Path,
    /// Where it listens for clients.
    pub client_addr: SocketAddr,
    /// Where it listens for the other nodes.
    pub peer_addr: SocketAddr,
    /// The first members of the cluster, this one among them.
    pub members: &'a [Member],
    /// Come last, as they are.
    pub extra: &'a [String],
}

/// Why there is no program to start.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The file that was asked for cannot be used.
    #[error(
        "cannot run `{path}`: {reason}; give the path of an executable {target} program with --bin"
    )]
    Unusable {
        /// The target whose program it should be.
        target: Target,
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// None was asked for, and none was found.
    #[error("found no program `{target}`; tried {}; {}", tried.join(", "), remedy(*target))]
    NotFound {
        /// The target whose program it should be.
        target: Target,
        /// The places, with what is wrong there.
        tried: Vec<String>,
    },
    /// It did not tell its version.
    #[error(
        "`{path} --version` {reason}; give the path of an executable {target} program with --bin"
    )]
    NoVersion {
        /// The target whose program it should be.
        target: Target,
        /// The file.
        path: String,
        /// What happened.
        reason: String,
    },
}

fn remedy(target: Target) -> &'static str {
    match target {
        Target::Holdfast => "build it with `cargo build -p holdfast`, or give its path with --bin",
        Target::Etcd => "install it, or give its path with --bin",
    }
}

impl Target {
    /// Name of its program, and how the target is spelled on the command line.
    pub fn program(self) -> &'static str {
        match self {
            Target::Holdfast => "holdfast",
            Target::Etcd => "etcd",
        }
    }

    /// Beginning of the names of the environment variables that configure it: those of the harness
    /// are withheld from it, so that a run depends on its options alone.
    pub fn variables(self) -> &'static str {
        match self {
            Target::Holdfast => "HOLDFAST_",
            Target::Etcd => "ETCD_",
        }
    }

    /// Its program: `explicit` if that is given (a file, or a name to look for in `PATH`). Else
    /// Holdfast is looked for next to the running executable, then both in `PATH`.
    pub fn find(self, explicit: Option<&Path>) -> Result<PathBuf, BinaryError> {
        let path = search_path();
        if let Some(bin) = explicit {
            let unusable = |reason: String| BinaryError::Unusable {
                target: self,
                path: bin.display().to_string(),
                reason,
            };
            let is_name = bin.components().count() == 1 && !bin.exists();
            return match is_name {
                true => path
                    .iter()
                    .map(|dir| dir.join(bin))
                    .find(|file| executable(file).is_ok())
                    .ok_or_else(|| unusable("there is no such file, here or in PATH".to_owned())),
                false => executable(bin).map_err(unusable),
            };
        }
        let mut tried = Vec::new();
        if self == Target::Holdfast {
            for dir in beside_executable() {
                let file = dir.join(self.program());
                match executable(&file) {
                    Ok(file) => return Ok(file),
                    Err(reason) => tried.push(format!("{} ({reason})", file.display())),
                }
            }
        }
        let found = path.iter().map(|dir| dir.join(self.program()));
        if let Some(file) = found.into_iter().find_map(|file| executable(&file).ok()) {
            return Ok(file);
        }
        tried.push(format!(
            "the directories of PATH ({})",
            std::env::var("PATH").unwrap_or_default()
        ));
        Err(BinaryError::NotFound {
            target: self,
            tried,
        })
    }

    /// What a program says of itself with `--version`, in one line.
    ///
    /// Fails if it does not end well within 10 s.
    pub async fn version(self, bin: &Path) -> Result<String, BinaryError> {
        let fail = |reason: String| BinaryError::NoVersion {
            target: self,
            path: bin.display().to_string(),
            reason,
        };
        let output = tokio::process::Command::new(bin)
            .arg("--version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(VERSION_WITHIN, output)
            .await
            .map_err(|_| fail(format!("does not end within {VERSION_WITHIN:?}")))?
            .map_err(|error| fail(format!("cannot be executed: {error}")))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(fail(format!(
                "ends with {}: {}",
                output.status,
                stderr.trim()
            )));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(match self {
            // The lines after the first tell of the compiler.
            Target::Etcd => lines.take(1).collect(),
            Target::Holdfast => lines.collect::<Vec<_>>().join("; "),
        })
    }

    /// The arguments that start a node.
    pub fn arguments(self, args: &NodeArguments<'_>) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: OsString| words.extend([name.into(), value]);
        let node = args.node;
        match self {
            Target::Holdfast => {
                flag("--id", node.id.to_string().into());
                flag("--zone", node.zone.clone().into());
                flag("--data-dir", args.data_dir.into());
                flag("--client-addr", args.client_addr.to_string().into());
                flag("--peer-addr", args.peer_addr.to_string().into());
                flag("--advertise-client-url", node.client_url.clone().into());
                flag("--advertise-peer-url", node.peer_url.clone().into());
                let members = args.members.iter().map(|member| {
                    let Member { id, zone, .. } = member;
                    format!("{id}={zone}={}={}", member.peer_url, member.client_url)
                });
                flag(
                    "--initial-cluster",
                    members.collect::<Vec<_>>().join(",").into(),
                );
                words.insert(0, "start".into());
            }
            Target::Etcd => {
                let name = |id: NodeId| format!("node-{id}");
                let client_addr = format!("http://{}", args.client_addr);
                let peer_addr = format!("http://{}", args.peer_addr);
                flag("--name", name(node.id).into());
                flag("--data-dir", args.data_dir.into());
                flag("--listen-client-urls", client_addr.into());
                flag("--advertise-client-urls", node.client_url.clone().into());
                flag("--listen-peer-urls", peer_addr.into());
                flag(
                    "--initial-advertise-peer-urls",
                    node.peer_url.clone().into(),
                );
                let members = args
                    .members
                    .iter()
                    .map(|member| format!("{}={}", name(member.id), member.peer_url));
                flag(
                    "--initial-cluster",
                    members.collect::<Vec<_>>().join(",").into(),
                );
                flag("--initial-cluster-state", "new".into());
            }
        }
        words.extend(args.extra.iter().map(OsString::from));
        words
    }
}

fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect()
}

/// Where a build puts the program: beside the running executable, or one level above `deps` when
/// that is a test.
fn beside_executable() -> Vec<PathBuf> {
    let Some(dir) = std::env::current_exe()
        .ok()
        .and_then(|file| file.parent().map(Path::to_owned))
    else {
        return Vec::new();
    };
    match dir.parent() {
        Some(above) if dir.ends_with("deps") => vec![above.to_owned()],
        _ => vec![dir],
    }
}

/// The absolute path of a file that can be executed, or what is wrong with it.
fn executable(file: &Path) -> Result<PathBuf, String> {
    let about = std::fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    })?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err("it is not executable".to_owned());
    }
    std::path::absolute(file).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
