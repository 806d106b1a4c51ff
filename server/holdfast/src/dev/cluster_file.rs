//! `cluster.json`: the running nodes, for scripts and tests.
//!
//! Replaced as a whole by a rename, so that a reader sees the old or the new contents and never a
//! part. It is rewritten when a node is started again and removed when the cluster is stopped.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// The nodes, by id.
    pub nodes: Vec<NodeEntry>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Number of the node.
    pub id: u64,
    /// Its zone.
    pub zone: String,
    /// Its process, or its last one while it is down.
    pub pid: u32,
    /// How clients reach it.
    pub client_url: String,
    /// How other nodes reach it.
    pub peer_url: String,
    /// Its data directory, absolute.
    pub data_dir: PathBuf,
}

/// Path of the file in a data directory.
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("cluster.json")
}

impl ClusterFile {
    /// Reads the file of a running cluster.
    pub fn read(data_dir: &Path) -> io::Result<ClusterFile> {
        let text = std::fs::read(path_in(data_dir))?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    /// Replaces the file.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let path = path_in(data_dir);
        let temporary = data_dir.join("cluster.json.new");
        let mut file = std::fs::File::create(&temporary)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        std::fs::rename(&temporary, &path)
    }

    /// Removes the file, if it is there: the processes it names are gone.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(path_in(data_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_promised_form_and_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = ClusterFile {
            nodes: vec![NodeEntry {
                id: 1,
                zone: "zone-a".to_owned(),
                pid: 4711,
                client_url: "http://127.0.0.1:2379".to_owned(),
                peer_url: "http://127.0.0.1:2380".to_owned(),
                data_dir: "/data/node-1".into(),
            }],
        };
        file.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(path_in(dir.path())).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            serde_json::json!({"nodes": [{
                "id": 1, "zone": "zone-a", "pid": 4711, "client_url": "http://127.0.0.1:2379",
                "peer_url": "http://127.0.0.1:2380", "data_dir": "/data/node-1"
            }]})
        );
        file.nodes[0].pid = 4712;
        file.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(path_in(dir.path())).unwrap();
        assert_eq!(serde_json::from_str::<ClusterFile>(&text).unwrap(), file);
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["cluster.json"], "nothing is left beside it");
        ClusterFile::remove(dir.path()).unwrap();
        ClusterFile::remove(dir.path()).unwrap();
        assert!(!path_in(dir.path()).exists());
    }
}
