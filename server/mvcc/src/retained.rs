//! The versions that a compaction leaves, whether or not they have been scrubbed.
//!
//! Every version at or after the compact revision counts, deletions too, because a watch may begin
//! there; and of a key without one at it, the newest before it unless that is a deletion. What is
//! compared or shipped goes through here, so replicas whose
//! scrubbers stand at different places look the same.

use bytes::Bytes;

use crate::{
    Reader, Revisions, StateError, key,
    planted::{self, Bug},
    record,
};

/// Drops the records of a scan of versions that do not count.
///
/// - The scan is in key order and complete: what decides about a version comes before it.
struct Retained {
    compact: i64,
    at: i64,
    /// Prefix of the key whose newest version at or before the compact revision has passed.
    /// Another one at the compact revision itself still counts.
    settled: Bytes,
}

impl Retained {
    fn keeps<E>(&mut self, key: &Bytes, value: &[u8]) -> Result<bool, StateError<E>> {
        let (length, revision) = key::split_version(key)?;
        if revision.main > self.at {
            return Ok(false);
        }
        if revision.main > self.compact {
            return Ok(true);
        }
        if revision.main == self.compact {
            self.settled = key.slice(..length);
            return Ok(true);
        }
        if key[..length] == self.settled[..] {
            return Ok(false);
        }
        self.settled = key.slice(..length);
        Ok(!record::is_tombstone(key, value)?)
    }
}

pub(crate) fn versions<R: Reader>(
    reader: &R,
    at: i64,
    compact: i64,
) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError<R::Error>>> + '_ {
    let (start, end) = key::family(key::VERSIONS);
    let mut retained = Retained {
        compact,
        at,
        settled: Bytes::new(),
    };
    reader.scan(start, end).filter_map(move |item| match item {
        Ok((key, value)) => match retained.keeps(&key, &value) {
            Ok(true) => Some(Ok((key, value))),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        },
        Err(error) => Some(Err(StateError::Read(error))),
    })
}

/// The versioned part of a snapshot at `revisions.current`, in key order: versions, then index.
///
/// May run beside `apply`, at revisions published when the [`unversioned`] part was copied, as
/// long as nothing at or after `revisions.compact` is scrubbed meanwhile.
pub fn snapshot_versions<R: Reader>(
    reader: &R,
    revisions: Revisions,
) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError<R::Error>>> + '_ {
    let Revisions { current, compact } = revisions;
    let (start, end) = key::family(key::INDEX);
    let index = reader.scan(start, end).filter_map(move |item| match item {
        Ok((key, value)) => match key::split_index(&key) {
            Ok(revision) if revision.main >= compact && revision.main <= current => {
                Some(Ok((key, value)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error.into())),
        },
        Err(error) => Some(Err(StateError::Read(error))),
    });
    let versions = versions(reader, current, compact).filter(|item| {
        let without = planted::is(Bug::SnapshotWithoutTombstones);
        !without
            || !item
                .as_ref()
                .is_ok_and(|(key, value)| record::is_tombstone(key, value).unwrap_or(false))
    });
    versions.chain(index)
}

/// The part of a snapshot that has no versions: counters and retry table, in key order.
///
/// To be copied while nothing is applied. Together with [`snapshot_versions`] it is the whole
/// state of a keyspace.
pub fn unversioned<R: Reader>(reader: &R) -> Result<Vec<(Bytes, Bytes)>, StateError<R::Error>> {
    let mut records = Vec::new();
    for family in [key::META, key::RETRIES] {
        if planted::is(Bug::RetryTableLostOnSnapshot) && family == key::RETRIES {
            continue;
        }
        let (start, end) = key::family(family);
        for item in reader.scan(start, end) {
            records.push(item.map_err(StateError::Read)?);
        }
    }
    Ok(records)
}
