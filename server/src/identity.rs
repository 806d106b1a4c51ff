//! The data directory of a node: whose it is, and whom it has met.
//!
//! ```text
//!   <data_dir>/
//!     LOCK            held while the node runs
//!     identity.json   cluster, node id, incarnation, whether the node has taken part, sessions
//!     peers.json      what is remembered of every peer that was met
//!     log/            the shared Raft log, and whose it is
//!     state/          the database with the states of all groups
//!     groups.json     the groups that the node runs beside those that every node runs
//!     incoming/       snapshots being received
//! ```
//!
//! The incarnation is a random number drawn when the directory is made. A voter that comes back
//! with another incarnation has lost its memory: it may have voted and acknowledged entries that
//! it no longer knows of, so it must not vote again. Its peers have the old incarnation on record
//! and tell it so.
//!
//! The same holds for a node whose log is not the one that its identity knows, and for an old copy
//! of the whole directory: see [`log_owner`], [`session`] and [`peers`] for how each is noticed.

mod files;
#[cfg(test)]
mod fuzz;
mod log_owner;
mod peers;
mod session;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

pub(crate) use self::files::{read_json, write_json};
use self::{
    files::{FORMAT, IDENTITY, PEERS},
    log_owner::LogOwner,
};
pub use self::{
    files::{Identity, IdentityError},
    peers::{Contradiction, Memory, Recorded},
    session::{Session, Sessions},
};
use crate::raft::{NodeId, Promises};

const LOCK: &str = "LOCK";
const LOG: &str = "log";

/// An open data directory.
///
/// - While this lives, no other process has the directory.
/// - What [`Self::record_peer`] and [`Self::meet_peer`] answer of incarnations and sessions is on
///   disk; what peers promised gets there by [`Self::save_promises`].
pub struct DataDir {
    path: PathBuf,
    /// Held while a file is changed, from reading what is known until it is known anew. Taken before the
    /// other two, which nobody holds while the disk works: every message of a peer looks at them.
    changing: Mutex<()>,
    identity: Mutex<Identity>,
    peers: Mutex<BTreeMap<NodeId, peers::Record>>,
    promises: Arc<Promises>,
    _lock: File,
}

impl DataDir {
    /// Opens the directory of a node, or makes it.
    pub fn open(
        path: &Path,
        cluster_name: &str,
        cluster_id: u64,
        node_id: NodeId,
    ) -> Result<Self, IdentityError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| IdentityError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(io(path))?;
        let lock_path = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(IdentityError::InUse {
                    path: path.to_path_buf(),
                });
            }
            Err(fs::TryLockError::Error(source)) => return Err(io(&lock_path)(source)),
        }
        let mut identity = match read_json::<Identity>(&path.join(IDENTITY))? {
            Some(identity) => identity,
            None if path.join(LOG).exists() || path.join("state").exists() => {
                return Err(IdentityError::Orphaned {
                    path: path.to_path_buf(),
                });
            }
            None => {
                let identity = Identity::new(cluster_name, cluster_id, node_id);
                write_json(path, IDENTITY, &identity)?;
                identity
            }
        };
        if identity.format > FORMAT {
            return Err(IdentityError::Format {
                path: path.join(IDENTITY),
                found: identity.format,
            });
        }
        if identity.node_id != node_id {
            return Err(IdentityError::OtherNode {
                path: path.to_path_buf(),
                found: identity.node_id,
                expected: node_id,
            });
        }
        if !identity.took_part && identity.cluster_id != cluster_id {
            // Nobody has a promise of this node: it was told of another cluster by mistake.
            identity.cluster_name = cluster_name.to_string();
            identity.cluster_id = cluster_id;
            write_json(path, IDENTITY, &identity)?;
        }
        if identity.cluster_name != cluster_name {
            return Err(IdentityError::OtherCluster {
                path: path.to_path_buf(),
                found: identity.cluster_name,
                expected: cluster_name.to_string(),
            });
        }
        identity.format = FORMAT;
        let (peers, promises) = peers::read(&path.join(PEERS))?;
        Ok(Self {
            path: path.to_path_buf(),
            changing: Mutex::new(()),
            identity: Mutex::new(identity),
            peers: Mutex::new(peers),
            promises: Arc::new(promises),
            _lock: lock,
        })
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who the node is.
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Id of the cluster and of the node, without a copy of all else.
    pub fn ids(&self) -> (u64, u64) {
        let identity = self.identity.lock();
        (identity.cluster_id, identity.node_id)
    }

    /// Notes that the node takes part from now on: on disk before this returns.
    pub fn set_took_part(&self) -> Result<(), IdentityError> {
        let _changing = self.changing.lock();
        self.set_identity(Identity {
            took_part: true,
            ..self.identity()
        })
    }

    /// Under `changing`.
    fn set_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        write_json(&self.path, IDENTITY, &identity)?;
        *self.identity.lock() = identity;
        Ok(())
    }

    /// Where the log is.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Why the log that is there now, with segments of the id `stored` or none, is not the one in
    /// which this node made its promises. `None` if it is, or if there were none.
    pub fn log_mismatch(&self, stored: Option<u64>) -> Result<Option<String>, IdentityError> {
        let dir = self.log_dir();
        let owner = LogOwner::read(&dir)?;
        Ok(log_owner::mismatch(&self.identity(), &dir, stored, owner))
    }

    /// Begins a session with the log of the id `log_id`, which was found to be this node's: on
    /// disk, in the log and in the identity, before this returns.
    pub fn begin_session(&self, log_id: u64) -> Result<Session, IdentityError> {
        let _changing = self.changing.lock();
        let identity = self.identity();
        let nonce = rand::random();
        let sessions = identity.sessions.next(nonce);
        let session = Session {
            number: sessions.number(),
            nonce,
        };
        LogOwner::write(&self.log_dir(), &identity, log_id, session)?;
        self.set_identity(Identity {
            log_id: Some(log_id),
            sessions,
            ..identity
        })?;
        Ok(session)
    }

    /// Forgets a founding in which this node promised nothing to anybody, so that it can found, or
    /// be taken into, the cluster `cluster_id`. The caller has looked into the log.
    pub fn found_again(&self, cluster_id: u64) -> Result<(), IdentityError> {
        let _changing = self.changing.lock();
        // The identity goes first: without it having taken part, what a crash leaves is nothing.
        self.set_identity(Identity {
            cluster_id,
            took_part: false,
            log_id: None,
            // The chain goes on: peers may have met one of its sessions.
            ..self.identity()
        })?;
        for left in [LOG, "state"] {
            let left = self.path.join(left);
            match fs::remove_dir_all(&left) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(IdentityError::Io { path: left, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What peers have promised to this node, as far as it is known.
    pub fn promises(&self) -> &Arc<Promises> {
        &self.promises
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, cluster: &str, node: NodeId) -> Result<DataDir, IdentityError> {
        DataDir::open(dir, cluster, 7, node)
    }

    #[test]
    fn an_identity_is_kept_and_a_stranger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = open(dir.path(), "c", 1).unwrap();
        data.set_took_part().unwrap();
        let first = data.identity();
        drop(data);
        assert_eq!(open(dir.path(), "c", 1).unwrap().identity(), first);
        let error = open(dir.path(), "c", 2)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("belongs to node 1") && error.contains("node.id is 2"),
            "{error}"
        );
        let error = open(dir.path(), "d", 1)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("belongs to cluster \"c\""), "{error}");
    }

    #[test]
    fn a_node_that_has_taken_no_part_takes_the_cluster_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "c", 1).unwrap().identity();
        let data = DataDir::open(dir.path(), "d", 8, 1).unwrap();
        let told = data.identity();
        assert_eq!((told.cluster_name.as_str(), told.cluster_id), ("d", 8));
        assert_eq!(told.incarnation, first.incarnation);
        data.set_took_part().unwrap();
        drop(data);
        let kept = DataDir::open(dir.path(), "d", 9, 1).unwrap().identity();
        assert_eq!(kept.cluster_id, 8, "whatever the list of members says");
    }

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let _held = open(dir.path(), "c", 1).unwrap();
        assert!(matches!(
            open(dir.path(), "c", 1),
            Err(IdentityError::InUse { .. })
        ));
    }

    #[test]
    fn data_without_an_identity_and_damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        assert!(matches!(
            open(dir.path(), "c", 1),
            Err(IdentityError::Orphaned { .. })
        ));
        fs::write(dir.path().join(IDENTITY), "{").unwrap();
        assert!(matches!(
            open(dir.path(), "c", 1),
            Err(IdentityError::Damaged { .. })
        ));
    }

    #[test]
    fn a_peer_stays_on_record_once_the_node_has_taken_part() {
        let dir = tempfile::tempdir().unwrap();
        let data = open(dir.path(), "c", 1).unwrap();
        assert_eq!(data.record_peer(2, 10).unwrap(), 10);
        assert_eq!(
            data.record_peer(2, 11).unwrap(),
            11,
            "no cluster exists yet"
        );
        data.set_took_part().unwrap();
        assert_eq!(
            data.record_peer(2, 12).unwrap(),
            11,
            "the old memory counts"
        );
        drop(data);
        let data = open(dir.path(), "c", 1).unwrap();
        assert_eq!(data.known_peer(2), Some(11));
        assert!(data.identity().took_part);
    }
}
