//! The files of a data directory: how they are read and replaced, what the first of them says, and what can
//! be wrong with them.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::session::Sessions;
use crate::{raft::NodeId, storage::cause::Cause};

pub(super) const IDENTITY: &str = "identity.json";
pub(super) const PEERS: &str = "peers.json";
/// Format 1 knew neither the log nor sessions; it is read, and written anew as this one.
pub(super) const FORMAT: u32 = 2;

/// Why a data directory cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it open.
    #[error(
        "data directory {path} is in use by another process; stop it, or choose another node.data_dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another node.
    #[error(
        "data directory {path} belongs to node {found}, but node.id is {expected}; set node.id to {found}, or choose another node.data_dir"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: NodeId,
        /// This node.
        expected: NodeId,
    },
    /// It belongs to another cluster.
    #[error(
        "data directory {path} belongs to cluster {found:?}, but cluster.name is {expected:?}; set cluster.name to {found:?}, or choose another node.data_dir"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// The configured cluster.
        expected: String,
    },
    /// It holds data without an identity.
    #[error(
        "data directory {path} holds data but no {IDENTITY}; restore that file, or choose another node.data_dir"
    )]
    Orphaned {
        /// The directory.
        path: PathBuf,
    },
    /// A file of it does not parse.
    #[error("{path} is damaged: {why}; restore it, or choose another node.data_dir")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The directory was written by a newer version.
    #[error("{path} has format {found}, this version reads format {FORMAT}; use a newer version")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl IdentityError {
    /// What kind of trouble it is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Io { source, .. } => Cause::of(source),
            Self::Damaged { .. } => Cause::Disk,
            _ => Cause::Other,
        }
    }
}

/// Who the node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub(super) format: u32,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Id of the cluster, in the headers of responses and in the messages of peers.
    pub cluster_id: u64,
    /// Id of the node.
    pub node_id: NodeId,
    /// Random id of this data directory.
    pub incarnation: u64,
    /// The node has taken part in its cluster: it may have voted.
    pub took_part: bool,
    /// Id of its log, from the first start that had one.
    #[serde(default)]
    pub log_id: Option<u64>,
    /// Its starts, as far as they had a log.
    #[serde(default)]
    pub sessions: Sessions,
}

impl Identity {
    pub(super) fn new(cluster_name: &str, cluster_id: u64, node_id: NodeId) -> Self {
        Self {
            format: FORMAT,
            cluster_name: cluster_name.to_string(),
            cluster_id,
            node_id,
            incarnation: rand::random(),
            took_part: false,
            log_id: None,
            sessions: Sessions::default(),
        }
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, IdentityError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(IdentityError::Io {
                path: path.to_path_buf(),
                source,
            });
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| IdentityError::Damaged {
            path: path.to_path_buf(),
            why: e.to_string(),
        })
}

/// Replaces a file so that after a crash either the old or the new one is there, whole.
pub(crate) fn write_json<T: Serialize>(
    dir: &Path,
    name: &str,
    value: &T,
) -> Result<(), IdentityError> {
    let target = dir.join(name);
    let write = || -> io::Result<()> {
        let temporary = dir.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| IdentityError::Io {
        path: target.clone(),
        source,
    })
}
