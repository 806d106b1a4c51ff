//! Values of version and index records.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::mvccpb::{Event, KeyValue, event::EventType};
use prost::encoding::{decode_varint, encode_varint};

use crate::{
    Write,
    error::Corrupt,
    key::{self, Revision},
};

const TOMBSTONE: u8 = 1;
/// One flag byte and three varints of at most ten bytes.
const HEADER_BYTES_MAX: usize = 31;

/// What a living version of a key says beside its value and its revision.
///
/// - `version >= 1`: writes since the key was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Revision at which the key was created; not after that of the version.
    pub create_revision: i64,
    /// Writes since then, the first one included.
    pub version: i64,
    /// Lease that the key is bound to; 0 for none.
    pub lease: i64,
}

/// The newest version of a key, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The one at which the key was written last.
    pub revision: Revision,
    /// `None` for a deletion.
    pub counters: Option<Counters>,
}

impl Newest {
    /// What is known of a key that was never written: nothing is there, at any revision.
    pub const NEVER_WRITTEN: Newest = Newest {
        revision: Revision { main: 0, sub: 0 },
        counters: None,
    };
}

/// What all versions of a key begin with, and the version, if that is what is written here: from then
/// on it is the newest of the key.
pub fn version_written(write: &Write) -> Option<(&[u8], Newest)> {
    let (length, revision) = key::try_split_version(&write.key)?;
    let version = decode(&write.key, revision, write.value.as_ref()?).ok()?;
    let counters = version.map(|version| version.counters);
    Some((&write.key[..length], Newest { revision, counters }))
}

/// A living version of a key.
///
/// - `value` shares the memory of the stored record.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub revision: Revision,
    pub counters: Counters,
    pub value: Bytes,
}

impl Version {
    pub fn into_key_value(self, key: Bytes) -> KeyValue {
        let Counters {
            create_revision,
            version,
            lease,
        } = self.counters;
        KeyValue {
            key,
            create_revision,
            mod_revision: self.revision.main,
            version,
            value: self.value,
            lease,
        }
    }

    /// The record, split off `memory`, and the version again with its value inside the record.
    pub fn encode_in(self, memory: &mut BytesMut) -> (Bytes, Version) {
        memory.put_u8(0);
        encode_varint(self.counters.create_revision as u64, memory);
        encode_varint(self.counters.version as u64, memory);
        encode_varint(self.counters.lease as u64, memory);
        let header = memory.len();
        memory.put_slice(&self.value);
        let record = memory.split().freeze();
        let value = record.slice(header..);
        (record, Version { value, ..self })
    }
}

/// The record of a deletion.
pub(crate) fn tombstone() -> Bytes {
    Bytes::from_static(&[TOMBSTONE])
}

/// Tells a deletion from a value without decoding it.
pub(crate) fn is_tombstone(key: &[u8], record: &[u8]) -> Result<bool, Corrupt> {
    match record.first() {
        Some(0) => Ok(false),
        Some(&TOMBSTONE) if record.len() == 1 => Ok(true),
        _ => Err(Corrupt::new(key, "bad flags of a version")),
    }
}

/// Decodes a record stored under `key`; `None` for a deletion.
pub(crate) fn decode(
    key: &[u8],
    revision: Revision,
    record: &Bytes,
) -> Result<Option<Version>, Corrupt> {
    if is_tombstone(key, record)? {
        return Ok(None);
    }
    let mut rest = &record[1..];
    let mut number =
        || decode_varint(&mut rest).map_err(|_| Corrupt::new(key, "bad header of a version"));
    let counters = Counters {
        create_revision: number()? as i64,
        version: number()? as i64,
        lease: number()? as i64,
    };
    let value = record.slice(record.len() - rest.remaining()..);
    Ok(Some(Version {
        revision,
        counters,
        value,
    }))
}

/// The value of an index entry, split off `memory`.
pub(crate) fn index_entry_in(memory: &mut BytesMut, deleted: bool, user_key: &[u8]) -> Bytes {
    memory.put_u8(deleted.into());
    memory.put_slice(user_key);
    memory.split().freeze()
}

/// Memory for all records of one write: its version and the entry of the index, keys and values. They are
/// written together and go down to the disk together, so one allocation does for the four.
pub(crate) fn memory(user_key: &[u8], value_bytes: usize) -> BytesMut {
    let values = HEADER_BYTES_MAX + value_bytes + 1 + user_key.len();
    BytesMut::with_capacity(key::write_bytes(user_key) + values)
}

/// The change that a record makes, if it is a version: what watchers of its key are told.
pub(crate) fn event(write: &Write) -> Option<Event> {
    let (length, revision) = key::try_split_version(&write.key)?;
    let version = decode(&write.key, revision, write.value.as_ref()?).ok()?;
    let user_key = key::user_key(&write.key.slice(..length));
    let (kind, kv) = match version {
        Some(version) => (EventType::Put, version.into_key_value(user_key)),
        None => (
            EventType::Delete,
            KeyValue {
                key: user_key,
                mod_revision: revision.main,
                ..Default::default()
            },
        ),
    };
    Some(Event {
        r#type: kind.into(),
        kv: Some(kv),
        prev_kv: None,
    })
}

/// The user key of an index entry.
pub(crate) fn indexed_key<'a>(key: &[u8], entry: &'a [u8]) -> Result<&'a [u8], Corrupt> {
    match entry {
        [0 | 1, user_key @ ..] => Ok(user_key),
        _ => Err(Corrupt::new(key, "bad kind of an index entry")),
    }
}
