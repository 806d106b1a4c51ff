//! How much of their disks the logs of the nodes take during a run.
//!
//! A store that promises to keep so much of its log and no more must keep to that when one node hangs,
//! lags, or says nothing: what grows without end ends on a full disk of a healthy node.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::{cluster::Cluster, history::NodeId};

/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Directories in which nodes of the known kinds keep their logs.
const LOGS: [&str; 2] = ["log", "member/wal"];

/// Looks at the logs of all nodes until it is finished.
pub(super) struct Footprint {
    bytes_max: u64,
    stop: watch::Sender<bool>,
    task: JoinHandle<BTreeMap<NodeId, u64>>,
}

impl Footprint {
    /// Begins to look. Nodes whose files the harness cannot get at are left out.
    pub(super) fn watch(cluster: Arc<dyn Cluster>, bytes_max: u64) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut most = BTreeMap::new();
            loop {
                for node in cluster.nodes() {
                    let bytes = cluster.data_dir(node.id).and_then(|dir| log_bytes(&dir));
                    let known: &mut u64 = most.entry(node.id).or_default();
                    *known = (*known).max(bytes.unwrap_or(0));
                }
                let stopped = stopped.wait_for(|stopped| *stopped);
                if tokio::time::timeout(POLL_INTERVAL, stopped).await.is_ok() {
                    return most;
                }
            }
        });
        Self {
            bytes_max,
            stop,
            task,
        }
    }

    /// Ends, and tells which logs were too large.
    pub(super) async fn finish(self) -> Result<Vec<String>, tokio::task::JoinError> {
        self.stop.send_replace(true);
        let most = self.task.await?;
        Ok(too_large(&most, self.bytes_max))
    }
}

fn too_large(most: &BTreeMap<NodeId, u64>, bytes_max: u64) -> Vec<String> {
    if most.values().all(|bytes| *bytes == 0) {
        return vec!["the logs of the nodes could not be looked at".to_owned()];
    }
    let over = most.iter().filter(|(_, bytes)| **bytes > bytes_max);
    over.map(|(node, bytes)| {
        format!(
            "the log of node {node} took {:.1} MiB, and {:.1} MiB are allowed",
            mib(*bytes),
            mib(bytes_max)
        )
    })
    .collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of the files of a log; `None` where there is none.
fn log_bytes(data_dir: &Path) -> Option<u64> {
    let logs = LOGS.iter().map(|log| data_dir.join(log));
    let log = logs.into_iter().find(|log| log.is_dir())?;
    let sizes = fs::read_dir(log)
        .ok()?
        .map(|entry| match entry?.metadata() {
            Ok(file) => Ok(file.len()),
            // Purged between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        });
    sizes.sum::<io::Result<u64>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_log_count_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(log_bytes(dir.path()), None);
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::write(dir.path().join("log/1.log"), [0; 10]).unwrap();
        fs::write(dir.path().join("log/2.log"), [0; 5]).unwrap();
        fs::write(dir.path().join("state"), [0; 100]).unwrap();
        assert_eq!(log_bytes(dir.path()), Some(15));
    }

    #[test]
    fn a_log_that_is_too_large_is_told_and_so_is_one_that_nobody_saw() {
        let most = BTreeMap::from([(1, 3 << 20), (2, 1 << 20)]);
        let told = too_large(&most, 2 << 20);
        assert_eq!(
            told,
            ["the log of node 1 took 3.0 MiB, and 2.0 MiB are allowed"]
        );
        assert!(too_large(&most, 4 << 20).is_empty());
        assert_eq!(too_large(&BTreeMap::from([(1, 0)]), 1).len(), 1);
    }
}
