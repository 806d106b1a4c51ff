//! The registry: which keyspaces there are, and as what they were asked for.
//!
//! It lives in the system keyspace, so it is replicated, versioned and read like any data, and a node that can
//! read nothing else can read it locally. A change is one transaction that compares what it was made from;
//! whoever was slower reads again.
//!
//! ```text
//!   operator ─ service/keyspaces.rs ─▶ Registry::create ─▶ transaction in the system group
//!                                                               │ applied on every node
//!                                      reconciler.rs ◀──────────┘ starts and drops groups of this node
//! ```
//!
//! What holds here:
//!
//! - An id of a group is given once; the number of the next one is written with the keyspace that takes it.
//! - Whoever drops a keyspace leaves a record that its group is to go. Without it no node drops anything: a
//!   registry that is behind, or was lost and has not been restored, looks as if there were fewer keyspaces.

mod records;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use holdfast_proto::{
    command::{Command, answer::Result as Outcome, command::Op},
    etcdserverpb::TxnRequest,
    v1::{Keyspace, PlacementRecord},
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::records::{Contents, ReadError};
use super::{DEFAULT, Keyspaces, SYSTEM, SYSTEM_GROUP, placement::history, wish};
use crate::{
    group::{Group, GroupError},
    raft::NodeId,
};

/// Why the registry was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is such a keyspace.
    #[error("keyspace {0:?} exists already")]
    Exists(String),
    /// There is none.
    #[error("keyspace {0:?} does not exist")]
    Unknown(String),
    /// It cannot be as it was asked for.
    #[error("{0}")]
    Refused(String),
    /// The registry cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The system keyspace did not answer.
    #[error("the system keyspace: {0}")]
    System(#[from] GroupError),
    /// This node does not take part yet.
    #[error("this node does not run the system keyspace yet")]
    NotRunning,
    /// What the system keyspace answered makes no sense.
    #[error("the system keyspace refused a change of the registry: {0}")]
    Answer(String),
}

/// The registry as this node reaches it.
pub struct Registry {
    keyspaces: Arc<Keyspaces>,
    /// All members of the cluster.
    members: Vec<NodeId>,
    /// What was read last, for as long as its revision is the present one.
    last: Mutex<Option<Arc<Contents>>>,
}

impl Registry {
    /// Reached through the system group among `keyspaces`.
    pub fn new(keyspaces: Arc<Keyspaces>, members: Vec<NodeId>) -> Self {
        Self {
            keyspaces,
            members,
            last: Mutex::default(),
        }
    }

    /// The group that holds it, once this node runs it.
    pub(super) fn system(&self) -> Option<Arc<Group>> {
        self.keyspaces.by_id(SYSTEM_GROUP)
    }

    /// Told whenever a group of this node was added or taken away.
    pub(super) fn running(&self) -> watch::Receiver<u64> {
        self.keyspaces.changes()
    }

    /// What a node knows of it; it may be behind.
    pub(super) fn local(&self, system: &Group) -> Result<Arc<Contents>, ReadError> {
        let (published, view, _pin) = system.read_pinned();
        let last = self.last.lock().clone();
        if let Some(last) = last.filter(|last| last.revision == published.revisions.current) {
            return Ok(last);
        }
        let contents = Contents::read(&view, published.revisions, &self.members)?;
        let contents = Arc::new(contents);
        *self.last.lock() = Some(contents.clone());
        Ok(contents)
    }

    /// Whether there is such a keyspace, as far as this node knows; `None` if it cannot tell.
    pub fn knows(&self, name: &str) -> Option<bool> {
        let system = self.system()?;
        let contents = self.local(&system).ok()?;
        Some(contents.keyspaces.contains_key(name) || name == SYSTEM)
    }

    /// What it is now.
    pub async fn read(&self, deadline: Instant) -> Result<Arc<Contents>, ChangeError> {
        let system = self.system().ok_or(ChangeError::NotRunning)?;
        system.linearizable(deadline).await?;
        Ok(self.local(&system)?)
    }

    /// One keyspace as it is now.
    pub async fn describe(&self, name: &str, deadline: Instant) -> Result<Keyspace, ChangeError> {
        let contents = self.read(deadline).await?;
        let found = contents.keyspaces.get(name).cloned();
        found.ok_or_else(|| ChangeError::Unknown(name.to_owned()))
    }

    /// Tells the group of a keyspace, if it runs here, in which order its voters should lead.
    pub(super) fn tell_order(&self, keyspace: &Keyspace, zones: &BTreeMap<NodeId, String>) {
        if let Some(group) = self.keyspaces.by_id(keyspace.group_id) {
            group.set_election_order(&wish::election_order(keyspace, zones));
        }
    }

    /// What was decided about the placement of a keyspace, or of all, oldest first.
    pub async fn history(
        &self,
        keyspace: Option<&str>,
        deadline: Instant,
    ) -> Result<Vec<PlacementRecord>, ChangeError> {
        let system = self.system().ok_or(ChangeError::NotRunning)?;
        system.linearizable(deadline).await?;
        Ok(history::list(&system, keyspace)?)
    }

    /// Writes a new keyspace down. `found` says what it is like, given all others; it is asked again when
    /// somebody else was faster.
    pub async fn create(
        &self,
        name: &str,
        found: impl Fn(&Contents) -> Result<Keyspace, ChangeError>,
        deadline: Instant,
    ) -> Result<Keyspace, ChangeError> {
        loop {
            let contents = self.read(deadline).await?;
            if contents.keyspaces.contains_key(name) {
                return Err(ChangeError::Exists(name.to_owned()));
            }
            let keyspace = Keyspace {
                name: name.to_owned(),
                group_id: contents.next_group(),
                ..found(&contents)?
            };
            let change = records::create(&contents, &keyspace);
            if self.changed(change, deadline).await? {
                return self.describe(name, deadline).await;
            }
        }
    }

    /// Writes a keyspace down as `alter` makes it.
    pub async fn alter(
        &self,
        name: &str,
        alter: impl Fn(&Contents, &mut Keyspace) -> Result<(), ChangeError>,
        deadline: Instant,
    ) -> Result<Keyspace, ChangeError> {
        loop {
            let contents = self.read(deadline).await?;
            let found = contents.keyspaces.get(name).cloned();
            let mut keyspace = found.ok_or_else(|| ChangeError::Unknown(name.to_owned()))?;
            alter(&contents, &mut keyspace)?;
            if self.changed(records::alter(&keyspace), deadline).await? {
                return self.describe(name, deadline).await;
            }
        }
    }

    /// Strikes a keyspace. From then on every node drops its group.
    pub async fn drop_keyspace(
        &self,
        name: &str,
        deadline: Instant,
    ) -> Result<Keyspace, ChangeError> {
        if name == DEFAULT {
            return Err(ChangeError::Refused(format!(
                "keyspace {DEFAULT:?} is the one that clients reach which name none: it cannot be dropped"
            )));
        }
        loop {
            let keyspace = self.describe(name, deadline).await?;
            if self.changed(records::drop(&keyspace), deadline).await? {
                return Ok(keyspace);
            }
        }
    }

    /// Whether a change took effect; if not, what it was made from has changed.
    async fn changed(&self, change: TxnRequest, deadline: Instant) -> Result<bool, ChangeError> {
        let system = self.system().ok_or(ChangeError::NotRunning)?;
        let command = Command {
            op: Some(Op::Txn(change)),
            ..Default::default()
        };
        match system.propose(command, deadline).await?.answer.result {
            Some(Outcome::Txn(answer)) => Ok(answer.succeeded),
            other => Err(ChangeError::Answer(format!("{other:?}"))),
        }
    }
}
