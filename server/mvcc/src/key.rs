//! Keys of the records: families, the order-keeping escape, revisions.
//!
//! ```text
//!   20 │ escape(user key) 00 01 │ !main │ !sub        version of a key, newest first
//!   └──────── prefix ──────────┘
//!   └──────── prefix, last byte 02: end of the key's versions
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Corrupt;

pub(crate) const META: u8 = 0x10;
pub(crate) const VERSIONS: u8 = 0x20;
pub(crate) const INDEX: u8 = 0x30;
pub(crate) const RETRIES: u8 = 0x40;

const REVISION_BYTES: usize = 16;

/// A place in the history: revision, and operation within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// Revision of the keyspace.
    pub main: i64,
    /// Number of the operation among those of the revision, from 0.
    pub sub: u64,
}

/// First key of a family and the key after its last.
pub(crate) fn family(byte: u8) -> (&'static [u8], &'static [u8]) {
    match byte {
        META => (&[META], &[META + 1]),
        VERSIONS => (&[VERSIONS], &[VERSIONS + 1]),
        INDEX => (&[INDEX], &[INDEX + 1]),
        RETRIES => (&[RETRIES], &[RETRIES + 1]),
        other => unreachable!("no family {other:#x}"),
    }
}

fn escape_into(out: &mut BytesMut, key: &[u8]) {
    if key.contains(&0) {
        for &byte in key {
            out.put_u8(byte);
            if byte == 0 {
                out.put_u8(0xFF);
            }
        }
    } else {
        out.put_slice(key);
    }
    out.put_slice(&[0x00, 0x01]);
}

fn with_family(byte: u8, key: &[u8], spare: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(key.len() + 3 + spare);
    out.put_u8(byte);
    escape_into(&mut out, key);
    out
}

/// What all versions of a user key begin with.
pub(crate) fn prefix(user_key: &[u8]) -> BytesMut {
    with_family(VERSIONS, user_key, REVISION_BYTES)
}

/// The first key after all versions of the user key whose prefix is given.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("a prefix ends with its terminator");
    *last = 0x02;
    end
}

/// Key of a version: the prefix of its user key and the inverted revision.
pub(crate) fn version(mut prefix: BytesMut, revision: Revision) -> Bytes {
    put_inverted(&mut prefix, revision);
    prefix.freeze()
}

/// The same, written to the free part of `memory` and split off it.
pub(crate) fn version_in(memory: &mut BytesMut, user_key: &[u8], revision: Revision) -> Bytes {
    memory.put_u8(VERSIONS);
    escape_into(memory, user_key);
    put_inverted(memory, revision);
    memory.split().freeze()
}

fn put_inverted(out: &mut BytesMut, revision: Revision) {
    out.put_i64(!revision.main);
    out.put_u64(!revision.sub);
}

/// The prefix in the key of a version, which `version` made.
pub(crate) fn prefix_of(version: &[u8]) -> &[u8] {
    &version[..version.len() - REVISION_BYTES]
}

/// A prefix with room for a revision.
pub(crate) fn copied(prefix: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(prefix.len() + REVISION_BYTES);
    out.put_slice(prefix);
    out
}

/// Where the versions of a key that are visible at a revision begin.
pub(crate) fn visible_at(prefix: &[u8], main: i64) -> Vec<u8> {
    let mut start = Vec::with_capacity(prefix.len() + REVISION_BYTES);
    start.extend_from_slice(prefix);
    start.put_i64(!main);
    start.put_u64(0);
    start
}

/// Splits the key of a version into the length of its prefix and the revision.
pub(crate) fn split_version(key: &[u8]) -> Result<(usize, Revision), Corrupt> {
    let split = try_split_version(key);
    split.ok_or_else(|| Corrupt::new(key, "not the key of a version"))
}

/// First key of the versions of all keys, and the key after their last.
pub fn versions_span() -> (&'static [u8], &'static [u8]) {
    family(VERSIONS)
}

/// What all versions of a key begin with, of the key of one of them.
pub fn version_prefix(key: &[u8]) -> Option<&[u8]> {
    try_split_version(key).map(|(length, _)| &key[..length])
}

pub(crate) fn try_split_version(key: &[u8]) -> Option<(usize, Revision)> {
    let length = key.len().checked_sub(REVISION_BYTES).filter(|&length| {
        length >= 3 && key[0] == VERSIONS && key[length - 2..length] == [0x00, 0x01]
    })?;
    let inverted = read_revision(&key[length..]);
    let revision = Revision {
        main: !inverted.main,
        sub: !inverted.sub,
    };
    Some((length, revision))
}

/// The user key of a prefix; shares the memory unless bytes were escaped.
pub(crate) fn user_key(prefix: &Bytes) -> Bytes {
    unescape(prefix, 1, prefix.len() - 2)
}

fn unescape(key: &Bytes, start: usize, end: usize) -> Bytes {
    let escaped = &key[start..end];
    if !escaped.contains(&0) {
        return key.slice(start..end);
    }
    let mut out = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        out.push(byte);
        if byte == 0 {
            // The FF that stands after every zero byte.
            bytes.next();
        }
    }
    out.into()
}

fn read_revision(bytes: &[u8]) -> Revision {
    let (main, sub) = bytes.split_at(8);
    Revision {
        main: i64::from_be_bytes(main.try_into().expect("eight bytes")),
        sub: u64::from_be_bytes(sub.try_into().expect("eight bytes")),
    }
}

/// Key of an entry of the revision index, split off `memory`.
pub(crate) fn index_in(memory: &mut BytesMut, revision: Revision) -> Bytes {
    memory.put_u8(INDEX);
    memory.put_i64(revision.main);
    memory.put_u64(revision.sub);
    memory.split().freeze()
}

/// Bytes of the keys of a version and of its entry in the index, unless the user key holds zeros.
pub(crate) fn write_bytes(user_key: &[u8]) -> usize {
    1 + user_key.len() + 2 + REVISION_BYTES + 1 + REVISION_BYTES
}

/// The revision of an entry of the revision index.
pub(crate) fn split_index(key: &[u8]) -> Result<Revision, Corrupt> {
    if key.len() != 1 + REVISION_BYTES || key[0] != INDEX {
        return Err(Corrupt::new(key, "not the key of an index entry"));
    }
    Ok(read_revision(&key[1..]))
}

/// What all slots of a client in the retry table begin with.
pub(crate) fn client(client_id: &[u8]) -> BytesMut {
    with_family(RETRIES, client_id, 1)
}

/// Stands where a record of the retry table has the number of a slot: the client's registration.
pub(crate) const REGISTERED: u8 = 0xFF;

/// Key of one slot of a client.
pub(crate) fn slot(client_id: &[u8], slot: u8) -> Bytes {
    let mut out = client(client_id);
    out.put_u8(slot);
    out.freeze()
}

/// The client id and slot of a record of the retry table.
pub(crate) fn split_slot(key: &Bytes) -> Result<(Bytes, u8), Corrupt> {
    let length = key.len();
    if length < 4 || key[0] != RETRIES || key[length - 3..length - 1] != [0x00, 0x01] {
        return Err(Corrupt::new(key, "not the key of a retry slot"));
    }
    Ok((unescape(key, 1, length - 3), key[length - 1]))
}

/// The part of the versions that a request names.
///
/// Conventions of etcd: no range end means the key alone, one zero byte means every key from
/// `key` on, and an end that is not after the key leaves nothing.
#[derive(Debug)]
pub(crate) struct Span {
    /// Prefix of the first key.
    pub start: Bytes,
    /// First record key that is not part of it.
    pub end: Bytes,
    /// It can hold one key at most.
    pub single: bool,
}

impl Span {
    /// `None` if the range is empty.
    pub fn new(user_key: &[u8], range_end: &[u8]) -> Option<Span> {
        let start = prefix(user_key).freeze();
        let (end, single) = match range_end {
            [] => (prefix_end(&start).into(), true),
            [0] => (Bytes::from_static(family(VERSIONS).1), false),
            end if end <= user_key => return None,
            end => (prefix(end).freeze(), false),
        };
        Some(Span { start, end, single })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_of_versions_is_key_then_newest_first(
            a in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 97, 255]), 1..5),
            b in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 97, 255]), 1..5),
            (main_a, sub_a, main_b, sub_b) in (1i64..4, 0u64..3, 1i64..4, 0u64..3),
        ) {
            let (ra, rb) = (Revision { main: main_a, sub: sub_a }, Revision { main: main_b, sub: sub_b });
            let (ka, kb) = (version(prefix(&a), ra), version_in(&mut BytesMut::new(), &b, rb));
            prop_assert_eq!(&ka, &version_in(&mut BytesMut::new(), &a, ra));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b).then(rb.cmp(&ra)));
            let (length, revision) = split_version(&ka).unwrap();
            prop_assert_eq!(revision, ra);
            prop_assert_eq!(&user_key(&ka.slice(..length))[..], &a[..]);
            let end = prefix_end(&prefix(&a));
            prop_assert_eq!(ka[..] < end[..], true);
            prop_assert_eq!(kb[..] < end[..], b <= a);
        }

        #[test]
        fn slots_come_back(id in prop::collection::vec(any::<u8>(), 1..8), n in any::<u8>()) {
            let (back, slot_back) = split_slot(&slot(&id, n)).unwrap();
            prop_assert_eq!((&back[..], slot_back), (&id[..], n));
        }
    }
}
