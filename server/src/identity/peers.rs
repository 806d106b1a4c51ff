//! What a node remembers of its peers, and how it tells that one has lost its memory.
//!
//! Three things speak against a node that introduces itself, each kept on disk by those it met:
//! another incarnation (a new directory), a chain of sessions that does not hold the last one that
//! was met (an old copy of the directory), and less memory than it had promised (an old copy taken
//! while the node ran, or a log cut at its end). The node is told what is on record and judges
//! itself by the same rule as the peer.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    DataDir,
    files::{IdentityError, PEERS, read_json, write_json},
    session::{Session, Sessions},
};
use crate::{
    raft::{GroupId, NodeId, Promises, Reach},
    storage::log::DroppedGroups,
};

/// What is on record of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    incarnation: u64,
    /// The last one in which it took part.
    #[serde(default)]
    session: Option<Session>,
    /// The last one in which it introduced itself.
    #[serde(default)]
    asked: Option<Session>,
    /// What it had promised before that.
    #[serde(default)]
    promised_before: Vec<Promised>,
    /// What it had promised when the record was last written.
    #[serde(default)]
    promised: Vec<Promised>,
}

impl Record {
    fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            session: None,
            asked: None,
            promised_before: Vec::new(),
            promised: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Promised {
    group: GroupId,
    #[serde(flatten)]
    reach: Reach,
}

/// A record as stored; versions before sessions wrote nothing but the incarnation.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Incarnation(u64),
    Record(Record),
}

impl From<Stored> for Record {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Incarnation(incarnation) => Record::new(incarnation),
            Stored::Record(record) => record,
        }
    }
}

pub(super) fn read(path: &Path) -> Result<(BTreeMap<NodeId, Record>, Promises), IdentityError> {
    let stored: BTreeMap<NodeId, Stored> = read_json(path)?.unwrap_or_default();
    let promises = Promises::default();
    let records: BTreeMap<NodeId, Record> = stored
        .into_iter()
        .map(|(node, stored)| (node, stored.into()))
        .collect();
    for (node, record) in &records {
        for promised in record.promised_before.iter().chain(&record.promised) {
            promises.keep(*node, promised.group, promised.reach);
        }
    }
    Ok((records, promises))
}

/// What a node says of its memory when it introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Incarnation of its directory.
    pub incarnation: u64,
    /// Its sessions; none while it has not had a log.
    pub sessions: Sessions,
    /// How far its memory goes, by group.
    pub reaches: Vec<(GroupId, Reach)>,
    /// Groups that it dropped: it promises nothing there any more, whatever it had promised.
    pub dropped: DroppedGroups,
}

/// What a peer has on record of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Its incarnation.
    pub incarnation: u64,
    /// The last session of it that was met.
    pub session: Option<Session>,
    /// What it had promised before the session in which it introduces itself, by group.
    pub promised: Vec<(GroupId, Reach)>,
}

/// Why a node's memory is not the one that is on record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The data directory is another one.
    #[error("another data directory (incarnation {recorded:016x}, this one is {own:016x})")]
    Incarnation {
        /// On record.
        recorded: u64,
        /// Of the node.
        own: u64,
    },
    /// The directory is a copy from before, or its original went on without it.
    #[error(
        "a session {recorded} that this data directory does not hold (its last one is {own}): it \
         is an old copy"
    )]
    Session {
        /// Number on record.
        recorded: u64,
        /// Number of the node's last session.
        own: u64,
    },
    /// The log ends before what the node had voted or acknowledged.
    #[error(
        "more of group {group} than its log holds: it had promised {promised}, and has {own}; the \
         data directory is an old copy, or its log was cut"
    )]
    Promise {
        /// The group.
        group: GroupId,
        /// On record.
        promised: Reach,
        /// Of the node.
        own: Reach,
    },
}

impl Memory {
    /// What of it contradicts a record. A group that the node does not tell of has no reach, unless it
    /// has dropped the group.
    pub fn contradicts(&self, recorded: &Recorded) -> Option<Contradiction> {
        if recorded.incarnation != self.incarnation {
            return Some(Contradiction::Incarnation {
                recorded: recorded.incarnation,
                own: self.incarnation,
            });
        }
        if let Some(met) = recorded.session
            && !self.sessions.follows(met)
        {
            return Some(Contradiction::Session {
                recorded: met.number,
                own: self.sessions.number(),
            });
        }
        let promised = recorded.promised.iter();
        let mut promised = promised.filter(|(group, _)| !self.dropped.contains(*group));
        promised.find_map(|(group, promised)| {
            let told = self.reaches.iter().find(|(id, _)| id == group);
            let own = told.map_or_else(Reach::default, |(_, reach)| *reach);
            (own < *promised).then_some(Contradiction::Promise {
                group: *group,
                promised: *promised,
                own,
            })
        })
    }
}

impl DataDir {
    /// The incarnation on record for a peer, after it said that it has `incarnation`.
    ///
    /// The first one stays on record. Only while this node has not taken part itself may a newer
    /// one replace it: then no cluster exists yet in which the peer could have voted.
    pub fn record_peer(&self, peer: NodeId, incarnation: u64) -> Result<u64, IdentityError> {
        if self.known_peer(peer) == Some(incarnation) {
            return Ok(incarnation);
        }
        let took_part = self.identity().took_part;
        self.change_peers(|peers| match peers.get(&peer) {
            Some(known) if took_part || known.incarnation == incarnation => known.incarnation,
            _ => {
                peers.insert(peer, Record::new(incarnation));
                incarnation
            }
        })
    }

    /// Changes what is on record, on disk first. Nobody who looks at it waits for the disk.
    fn change_peers<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<NodeId, Record>) -> T,
    ) -> Result<T, IdentityError> {
        let _changing = self.changing.lock();
        let known = self.peers.lock().clone();
        let mut updated = known.clone();
        let answer = change(&mut updated);
        if updated != known {
            write_json(&self.path, PEERS, &updated)?;
            *self.peers.lock() = updated;
        }
        Ok(answer)
    }

    /// What is on record for a peer that introduces itself. If it takes part, with the memory that
    /// is on record, its present session is on record from now on.
    ///
    /// Nothing is promised in a session before this has answered for it, so all that is promised by
    /// then was promised before.
    pub fn meet_peer(
        &self,
        peer: NodeId,
        memory: &Memory,
        takes_part: bool,
    ) -> Result<Recorded, IdentityError> {
        let incarnation = self.record_peer(peer, memory.incarnation)?;
        self.change_peers(|peers| {
            let record = peers
                .entry(peer)
                .or_insert_with(|| Record::new(incarnation));
            let current = memory.sessions.current();
            if current.is_some() && current != record.asked {
                record.asked = current;
                record.promised_before = promised(&self.promises, peer);
            }
            let before = record.promised_before.iter();
            let recorded = Recorded {
                incarnation,
                session: record.session,
                promised: before.map(|p| (p.group, p.reach)).collect(),
            };
            if takes_part && memory.contradicts(&recorded).is_none() {
                record.session = current;
            }
            recorded
        })
    }

    /// The incarnation on record for a peer.
    pub fn known_peer(&self, peer: NodeId) -> Option<u64> {
        self.peers
            .lock()
            .get(&peer)
            .map(|record| record.incarnation)
    }

    /// Forgets what peers have promised in groups that are no more. Blocks.
    pub fn forget_groups(&self, groups: &[GroupId]) -> Result<(), IdentityError> {
        for group in groups {
            self.promises.forget(*group);
        }
        self.change_peers(|peers| {
            for (node, record) in peers {
                record.promised = promised(&self.promises, *node);
                let before = &mut record.promised_before;
                before.retain(|promised| !groups.contains(&promised.group));
            }
        })
    }

    /// Writes down what peers have promised since the last time. Blocks.
    pub fn save_promises(&self) -> Result<(), IdentityError> {
        self.change_peers(|peers| {
            for (node, record) in peers {
                record.promised = promised(&self.promises, *node);
            }
        })
    }
}

fn promised(promises: &Promises, node: NodeId) -> Vec<Promised> {
    let promised = promises.of(node).into_iter();
    promised
        .map(|(group, reach)| Promised { group, reach })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Reach {
        Reach { term, index }
    }

    fn memory(sessions: Sessions, reach: Reach) -> Memory {
        Memory {
            incarnation: 9,
            sessions,
            reaches: vec![(2, reach)],
            dropped: DroppedGroups::default(),
        }
    }

    /// Every message of a peer looks at what is on record, on a thread that serves others too.
    #[test]
    fn nobody_waits_for_the_disk_to_look_at_what_is_known() {
        use std::{ffi::CString, io::Read as _, sync::mpsc, time::Duration};

        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        let sessions = Sessions::default().next(1);
        data.meet_peer(2, &memory(sessions, at(0, 0)), true)
            .unwrap();
        data.promises().keep(2, 2, at(3, 10));
        // What opens a pipe to write to it waits until somebody reads.
        let pipe = dir.path().join(format!("{PEERS}.new"));
        let name = CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: `name` is a string of C that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| data.save_promises());
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while data.changing.try_lock().is_some() {
                assert!(std::time::Instant::now() < deadline, "nothing is saved");
                std::thread::sleep(Duration::from_millis(1));
            }
            let (looked, seen) = mpsc::channel();
            let data = &data;
            scope.spawn(move || {
                let known = (data.known_peer(2), data.identity().node_id);
                looked
                    .send((known, data.record_peer(2, 9).unwrap()))
                    .unwrap();
            });
            let seen = seen.recv_timeout(Duration::from_secs(10));
            // Before anything is asserted: the pipe holds up the end of the test too.
            let mut rest = String::new();
            std::fs::File::open(&pipe)
                .unwrap()
                .read_to_string(&mut rest)
                .unwrap();
            // A pipe cannot be synced.
            assert!(saving.join().unwrap().is_err());
            assert_eq!(seen.unwrap(), ((Some(9), 1), 9));
            assert!(rest.contains("promised"), "{rest}");
        });
    }

    #[test]
    fn a_peer_is_remembered_across_restarts_with_session_and_promises() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        let first = Sessions::default().next(1);
        data.meet_peer(2, &memory(first.clone(), at(0, 0)), true)
            .unwrap();
        data.promises().keep(2, 2, at(3, 10));
        data.save_promises().unwrap();
        drop(data);

        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        // The session that was met ran on, and then there was another.
        let second = first.next(2);
        let whole = memory(second.clone(), at(3, 12));
        let met = data.meet_peer(2, &whole, true).unwrap();
        assert_eq!(
            (met.session, &met.promised),
            (first.current(), &vec![(2, at(3, 10))])
        );
        assert_eq!(whole.contradicts(&met), None);

        // A copy of the first session, and one of the second that was taken while it ran.
        let old = memory(first.next(3), at(3, 12));
        let met = data.meet_peer(2, &old, true).unwrap();
        assert_eq!(
            old.contradicts(&met),
            Some(Contradiction::Session {
                recorded: 2,
                own: 2
            })
        );
        let cut = memory(second.next(4), at(3, 9));
        let met = data.meet_peer(2, &cut, true).unwrap();
        assert!(
            matches!(
                cut.contradicts(&met),
                Some(Contradiction::Promise { group: 2, .. })
            ),
            "{met:?}"
        );
        // Neither took the place of the real one, nor does one that asks and is refused by others.
        data.meet_peer(2, &memory(second.next(6), at(4, 1)), false)
            .unwrap();
        let real = memory(second.next(5), at(4, 1));
        let met = data.meet_peer(2, &real, true).unwrap();
        assert_eq!(
            (met.session, real.contradicts(&met)),
            (second.current(), None)
        );
    }

    /// The answer to an introduction may be lost, or the member may restart before it is asked.
    #[test]
    fn what_is_promised_in_a_session_does_not_speak_against_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        let sessions = Sessions::default().next(1);
        let told = memory(sessions.clone(), at(1, 5));
        data.promises().keep(2, 2, at(1, 5));
        assert_eq!(
            told.contradicts(&data.meet_peer(2, &told, false).unwrap()),
            None
        );
        data.promises().keep(2, 2, at(2, 50));
        assert_eq!(
            told.contradicts(&data.meet_peer(2, &told, true).unwrap()),
            None
        );
        data.save_promises().unwrap();
        drop(data);
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        assert_eq!(
            told.contradicts(&data.meet_peer(2, &told, true).unwrap()),
            None
        );
        // The next session must know of it.
        let next = memory(sessions.next(2), at(1, 5));
        assert!(
            next.contradicts(&data.meet_peer(2, &next, false).unwrap())
                .is_some()
        );
    }

    /// On one node a group may be gone while the others still know what was promised in it.
    #[test]
    fn a_dropped_group_needs_no_memory_and_a_forgotten_one_asks_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        data.promises().keep(2, 2, at(3, 10));
        data.promises().keep(2, 5, at(3, 10));
        let sessions = Sessions::default().next(1);
        let mut told = memory(sessions.clone(), at(3, 10));
        let met = data.meet_peer(2, &told, true).unwrap();
        assert!(matches!(
            told.contradicts(&met),
            Some(Contradiction::Promise { group: 5, .. })
        ));
        told.dropped.insert(5);
        assert_eq!(told.contradicts(&met), None);

        data.forget_groups(&[5]).unwrap();
        drop(data);
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        let next = memory(sessions.next(2), at(3, 10));
        let met = data.meet_peer(2, &next, true).unwrap();
        assert_eq!(met.promised, [(2, at(3, 10))]);
    }

    #[test]
    fn records_of_versions_before_sessions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), "c", 7, 1).unwrap());
        std::fs::write(dir.path().join(PEERS), r#"{"2": 9}"#).unwrap();
        let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
        assert_eq!(data.known_peer(2), Some(9));
        let told = memory(Sessions::default(), at(1, 1));
        let met = data.meet_peer(2, &told, true).unwrap();
        assert_eq!((told.contradicts(&met), met.session), (None, None));
    }
}
