//! Whose log it is: a file in the log's directory that the identity can be held against.
//!
//! The log may lie on a disk of its own, which may be missing, be another one, or be put back from
//! a copy. Its segments carry an id, which the identity knows; this file beside them says which
//! node writes to them, and in which of its sessions it last did.
//!
//! A start writes the session here first and into the identity second, so a crash between the two
//! leaves a session here whose predecessor is the identity's.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    files::{Identity, IdentityError, read_json, write_json},
    session::Session,
};
use crate::raft::NodeId;

const OWNER: &str = "owner.json";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogOwner {
    node_id: NodeId,
    incarnation: u64,
    log_id: u64,
    session: Session,
    predecessor: Option<Session>,
}

impl LogOwner {
    pub(super) fn read(log_dir: &Path) -> Result<Option<Self>, IdentityError> {
        read_json(&log_dir.join(OWNER))
    }

    /// On disk before this returns.
    pub(super) fn write(
        log_dir: &Path,
        identity: &Identity,
        log_id: u64,
        session: Session,
    ) -> Result<(), IdentityError> {
        let owner = Self {
            node_id: identity.node_id,
            incarnation: identity.incarnation,
            log_id,
            session,
            predecessor: identity.sessions.current(),
        };
        write_json(log_dir, OWNER, &owner)
    }

    fn is(&self, identity: &Identity) -> bool {
        (self.node_id, self.incarnation) == (identity.node_id, identity.incarnation)
    }

    /// The identity has seen the session in which this log was last written to, and none after it.
    fn is_of_the_last_session(&self, identity: &Identity) -> bool {
        let last = identity.sessions.current();
        Some(self.session) == last || self.predecessor == last
    }
}

/// Why the log in `log_dir`, with segments of the id `stored`, is not the one in which the node of
/// this identity made its promises. `None` if it may be.
pub(super) fn mismatch(
    identity: &Identity,
    log_dir: &Path,
    stored: Option<u64>,
    owner: Option<LogOwner>,
) -> Option<String> {
    let dir = log_dir.display();
    let Some(stored) = stored else {
        // A node that has promised nothing may begin a log.
        return identity
            .took_part
            .then(|| format!("its log is gone: there is none in {dir}"));
    };
    if let Some(owner) = owner.filter(|owner| !owner.is(identity)) {
        return Some(format!(
            "{dir} holds another log, of node {} with the incarnation {:016x}",
            owner.node_id, owner.incarnation
        ));
    }
    let known = identity.log_id?;
    if known != stored {
        return Some(format!(
            "{dir} holds another log: its id is {stored:016x}, the one of this node is {known:016x}"
        ));
    }
    let current =
        owner.is_some_and(|owner| owner.log_id == stored && owner.is_of_the_last_session(identity));
    (!current).then(|| {
        format!("{dir} holds an old copy of its log, or identity.json is an old copy: they are not of one time")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let mut identity = Identity::new("c", 7, 1);
        identity.took_part = true;
        identity.log_id = Some(100);
        identity.sessions = identity.sessions.next(1).next(2);
        identity
    }

    fn check(identity: &Identity, dir: &Path, stored: Option<u64>) -> Option<String> {
        mismatch(identity, dir, stored, LogOwner::read(dir).unwrap())
    }

    #[test]
    fn a_log_and_its_identity_belong_together_across_a_crash_between_their_writes() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = identity();
        // Three starts that die before the identity is written.
        for nonce in [30, 31, 32] {
            let session = identity.sessions.next(nonce).current().unwrap();
            LogOwner::write(dir.path(), &identity, 100, session).unwrap();
            assert_eq!(check(&identity, dir.path(), Some(100)), None);
        }
        identity.sessions = identity.sessions.next(32);
        assert_eq!(check(&identity, dir.path(), Some(100)), None);
    }

    #[test]
    fn what_does_not_belong_together_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let owned = identity();
        let session = owned.sessions.next(3).current().unwrap();
        LogOwner::write(dir.path(), &owned, 100, session).unwrap();
        let mut now = owned.clone();
        now.sessions = now.sessions.next(3);
        let why = |identity: &Identity, stored| check(identity, dir.path(), stored).unwrap();
        assert!(why(&now, None).contains("its log is gone"));
        assert!(why(&now, Some(101)).contains("another log: its id"));
        let mut stranger = now.clone();
        stranger.incarnation ^= 1;
        assert!(why(&stranger, Some(100)).contains("another log, of node 1"));
        let mut later = now.clone();
        later.sessions = later.sessions.next(4);
        assert!(
            why(&later, Some(100)).contains("old copy"),
            "a log left behind"
        );
        let mut earlier = owned.clone();
        earlier.sessions = earlier.sessions.next(9);
        assert!(why(&earlier, Some(100)).contains("old copy"), "a fork");
    }

    /// Directories of versions that did not write down which log is theirs.
    #[test]
    fn a_log_without_an_owner_is_adopted_if_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = Identity::new("c", 7, 1);
        assert_eq!(check(&old, dir.path(), None), None, "nothing promised yet");
        old.took_part = true;
        assert_eq!(check(&old, dir.path(), Some(100)), None);
        assert!(check(&old, dir.path(), None).unwrap().contains("is gone"));
        // Once adopted, a log without an owner is one from before.
        old.log_id = Some(100);
        let why = check(&old, dir.path(), Some(100)).unwrap();
        assert!(why.contains("old copy"), "{why}");
    }
}
