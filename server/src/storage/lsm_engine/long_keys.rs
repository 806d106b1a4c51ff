//! Keys of any length in a tree whose keys end at 64 KiB.
//!
//! A key of [`KEY_BYTES_MAX`] bytes or more lives in the bucket of its first `KEY_BYTES_MAX` bytes: one
//! record of the tree, whose value holds all such keys in their order. No other record has a key of that
//! length, and a bucket's keys lie together in the order of keys, so scans stay in order.
//!
//! ```text
//!   bucket   = (suffix length u32, suffix, value length u32, value)*     ascending by suffix
//! ```
//!
//! A write rewrites its bucket. Long keys are rare, and many that begin alike are rarer.

#[cfg(test)]
mod fuzz;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::storage::engine::{Change, EngineError};

/// Length of a bucket's key. The tree takes 64 KiB; a block holds a few keys whole.
pub(super) const KEY_BYTES_MAX: usize = 32 * 1024;

type Record = Result<(Bytes, Bytes), EngineError>;
type Bucket = BTreeMap<Bytes, Bytes>;

/// The key of the bucket that `key` lives in; `None` if it is a record of its own.
pub(super) fn bucket_of(key: &[u8]) -> Option<&[u8]> {
    key.get(..KEY_BYTES_MAX)
}

/// Replaces the long keys of sorted changes by what their buckets are afterwards: they come one by one.
///
/// - `open` is the bucket that the last change was in.
#[derive(Default)]
pub(super) struct Gathering {
    open: Option<(Bytes, Bucket)>,
}

impl Gathering {
    /// Takes the next change. `get` reads a bucket, `put` takes the changes that result, sorted too.
    pub(super) fn push(
        &mut self,
        (key, value): Change,
        dir: &Path,
        get: impl Fn(&[u8]) -> Result<Option<Bytes>, EngineError>,
        mut put: impl FnMut(Bytes, Option<Bytes>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let name = bucket_of(&key).map(|bucket| key.slice_ref(bucket));
        if self.open.as_ref().map(|(open, _)| open) != name.as_ref() {
            self.end(&mut put)?;
        }
        let Some(name) = name else {
            return put(key, value);
        };
        let suffix = key.slice(KEY_BYTES_MAX..);
        if self.open.is_none() {
            let bucket = match get(&name)? {
                Some(records) => decode(&name, records, dir)?,
                None => Bucket::new(),
            };
            self.open = Some((name, bucket));
        }
        let (_, bucket) = self.open.as_mut().expect("opened above");
        match value {
            Some(value) => bucket.insert(suffix, value),
            None => bucket.remove(&suffix),
        };
        Ok(())
    }

    /// There is no further change.
    pub(super) fn end(
        &mut self,
        mut put: impl FnMut(Bytes, Option<Bytes>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        match self.open.take() {
            Some((name, bucket)) => put(name, encode(&bucket)),
            None => Ok(()),
        }
    }
}

/// The value of the long `key` in its bucket.
pub(super) fn find(
    bucket: &[u8],
    records: Bytes,
    key: &[u8],
    dir: &Path,
) -> Result<Option<Bytes>, EngineError> {
    Ok(decode(bucket, records, dir)?.remove(&key[KEY_BYTES_MAX..]))
}

/// Records of the tree with buckets spread into their keys, of `[start, end)` only. Ends after the first
/// error.
pub(super) fn spread<I: Iterator<Item = Record>>(
    mut records: I,
    start: &[u8],
    end: &[u8],
    dir: PathBuf,
) -> impl Iterator<Item = Record> + use<I> {
    let (start, end) = (start.to_vec(), end.to_vec());
    let mut spread = Vec::new().into_iter();
    let mut ended = false;
    std::iter::from_fn(move || {
        loop {
            if let Some(record) = spread.next() {
                return Some(Ok(record));
            }
            if ended {
                return None;
            }
            let (key, value) = match records.next() {
                Some(Ok(record)) => record,
                other => {
                    ended = true;
                    return other;
                }
            };
            if key.len() < KEY_BYTES_MAX {
                return Some(Ok((key, value)));
            }
            match decode(&key, value, &dir) {
                Ok(bucket) => {
                    let records = bucket
                        .into_iter()
                        .map(|(suffix, value)| ([&key[..], &suffix].concat().into(), value))
                        .filter(|(key, _): &(Bytes, _)| start[..] <= key[..] && key[..] < end[..]);
                    spread = records.collect::<Vec<_>>().into_iter();
                }
                Err(error) => {
                    ended = true;
                    return Some(Err(error));
                }
            }
        }
    })
}

/// `None` for a bucket that holds nothing.
fn encode(bucket: &Bucket) -> Option<Bytes> {
    if bucket.is_empty() {
        return None;
    }
    let mut records = BytesMut::new();
    for (suffix, value) in bucket {
        for part in [suffix, value] {
            let len = u32::try_from(part.len()).expect("requests are far below 4 GiB");
            records.put_u32(len);
            records.put_slice(part);
        }
    }
    Some(records.freeze())
}

fn decode(name: &[u8], mut records: Bytes, dir: &Path) -> Result<Bucket, EngineError> {
    let damaged = || EngineError::Corrupt {
        path: dir.to_path_buf(),
        reason: format!(
            "the bucket of the keys that begin with {} cannot be read",
            name[..16.min(name.len())].escape_ascii()
        ),
    };
    let part = |records: &mut Bytes| {
        let len = records.try_get_u32().map_err(|_| damaged())? as usize;
        if records.len() < len {
            return Err(damaged());
        }
        Ok(records.split_to(len))
    };
    let mut bucket = Bucket::new();
    while !records.is_empty() {
        let suffix = part(&mut records)?;
        bucket.insert(suffix, part(&mut records)?);
    }
    Ok(bucket)
}
