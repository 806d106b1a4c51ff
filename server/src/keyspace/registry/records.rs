//! What the registry looks like inside the system keyspace: ordinary keys and values.
//!
//! ```text
//!   registry/keyspace/NAME   KeyspaceRecord             a keyspace
//!   registry/next-group      decimal number             id of the group that is made next
//!   registry/dropped/ID      name, ID in 20 digits      a group that is to be dropped wherever it is left
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_mvcc as mvcc;
use holdfast_proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
    mvccpb::KeyValue,
    registry::KeyspaceRecord,
    v1::{Keyspace, KeyspaceSettings},
};
use prost::Message;

use super::super::{DEFAULT, DEFAULT_GROUP};
use crate::{
    raft::{GroupId, NodeId},
    storage::state::{StateError, View},
};

const KEYSPACES: &str = "registry/keyspace/";
const DROPPED: &str = "registry/dropped/";
const NEXT_GROUP: &str = "registry/next-group";
const ALL: (&[u8], &[u8]) = (b"registry/", b"registry0");

/// The first group that is neither the system's nor `default`'s.
const FIRST_GROUP: GroupId = DEFAULT_GROUP + 1;

/// A registry that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The state does not give it.
    #[error("the system keyspace cannot be read: {0}")]
    State(#[from] mvcc::ReadError<StateError>),
    /// A record is not what this program writes.
    #[error("the record {key:?} of the system keyspace is damaged or of another program: {why}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The registry at a revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Keyspaces by name, `default` among them.
    pub keyspaces: BTreeMap<String, Keyspace>,
    /// Groups that are to be dropped wherever they are left.
    pub dropped: BTreeSet<GroupId>,
    /// Revision of the system keyspace.
    pub revision: i64,
    /// Id of the group that is made next, and the revision at which that was written; 0 for never.
    pub(in crate::keyspace) next_group: (GroupId, i64),
}

impl Contents {
    /// The id that the next keyspace gets.
    pub fn next_group(&self) -> GroupId {
        self.next_group.0
    }

    /// The registry as a view of the system keyspace holds it. `members` vote in `default` before anybody
    /// has written it down.
    pub(super) fn read(
        view: &View,
        revisions: mvcc::Revisions,
        members: &[NodeId],
    ) -> Result<Self, ReadError> {
        let all = RangeRequest {
            key: Bytes::from_static(ALL.0),
            range_end: Bytes::from_static(ALL.1),
            ..Default::default()
        };
        let kvs = mvcc::range(view, revisions, &all)?.kvs;
        let mut contents = Self {
            revision: revisions.current,
            next_group: (FIRST_GROUP, 0),
            ..Self::default()
        };
        for kv in &kvs {
            contents.take(kv)?;
        }
        if !contents.dropped.contains(&DEFAULT_GROUP) && !contents.keyspaces.contains_key(DEFAULT) {
            let default = Keyspace {
                name: DEFAULT.to_owned(),
                group_id: DEFAULT_GROUP,
                settings: Some(KeyspaceSettings::default()),
                voters: members.to_vec(),
                ..Default::default()
            };
            contents.keyspaces.insert(DEFAULT.to_owned(), default);
        }
        Ok(contents)
    }

    fn take(&mut self, kv: &KeyValue) -> Result<(), ReadError> {
        let damaged = |why: String| ReadError::Damaged {
            key: String::from_utf8_lossy(&kv.key).into_owned(),
            why,
        };
        let key = std::str::from_utf8(&kv.key).map_err(|e| damaged(e.to_string()))?;
        if let Some(name) = key.strip_prefix(KEYSPACES) {
            let record = KeyspaceRecord::decode(kv.value.clone());
            let record = record.map_err(|e| damaged(e.to_string()))?;
            let keyspace = Keyspace {
                name: name.to_owned(),
                group_id: record.group_id,
                settings: Some(record.settings.unwrap_or_default()),
                voters: record.founders,
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
            };
            self.keyspaces.insert(name.to_owned(), keyspace);
        } else if let Some(id) = key.strip_prefix(DROPPED) {
            let id = id.parse().map_err(|_| damaged("no number".to_owned()))?;
            self.dropped.insert(id);
        } else if key == NEXT_GROUP {
            let number = std::str::from_utf8(&kv.value).ok();
            let number = number.and_then(|number| number.parse().ok());
            let number = number.ok_or_else(|| damaged("no number".to_owned()))?;
            self.next_group = (number, kv.mod_revision);
        }
        // Other keys are those of later programs.
        Ok(())
    }
}

fn key_of(name: &str) -> Bytes {
    Bytes::from(format!("{KEYSPACES}{name}"))
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> RequestOp {
    let put = PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    RequestOp {
        request: Some(Request::RequestPut(put)),
    }
}

/// That a key was written last at this revision; 0 for one that is not there.
fn unchanged(key: impl Into<Bytes>, mod_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Default::default()
    }
}

fn record(keyspace: &Keyspace) -> Vec<u8> {
    let record = KeyspaceRecord {
        group_id: keyspace.group_id,
        settings: keyspace.settings.clone(),
        founders: keyspace.voters.clone(),
    };
    record.encode_to_vec()
}

/// Writes a new keyspace down, whose group is the next one of `contents`, if nobody was faster.
pub(super) fn create(contents: &Contents, keyspace: &Keyspace) -> TxnRequest {
    let (id, written) = contents.next_group;
    debug_assert_eq!(keyspace.group_id, id, "a new keyspace has the next group");
    TxnRequest {
        compare: vec![
            unchanged(key_of(&keyspace.name), 0),
            unchanged(NEXT_GROUP, written),
        ],
        success: vec![
            put(key_of(&keyspace.name), record(keyspace)),
            put(NEXT_GROUP, (id + 1).to_string()),
        ],
        failure: Vec::new(),
    }
}

/// Writes a keyspace down anew, if nobody has since it was read.
pub(super) fn alter(keyspace: &Keyspace) -> TxnRequest {
    TxnRequest {
        compare: vec![unchanged(key_of(&keyspace.name), keyspace.mod_revision)],
        success: vec![put(key_of(&keyspace.name), record(keyspace))],
        failure: Vec::new(),
    }
}

/// Strikes a keyspace and leaves a record that its group is to go, if nobody has changed it since.
pub(super) fn drop(keyspace: &Keyspace) -> TxnRequest {
    let struck = DeleteRangeRequest {
        key: key_of(&keyspace.name),
        ..Default::default()
    };
    TxnRequest {
        compare: vec![unchanged(key_of(&keyspace.name), keyspace.mod_revision)],
        success: vec![
            RequestOp {
                request: Some(Request::RequestDeleteRange(struck)),
            },
            put(
                format!("{DROPPED}{:020}", keyspace.group_id),
                keyspace.name.clone(),
            ),
        ],
        failure: Vec::new(),
    }
}
