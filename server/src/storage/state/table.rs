//! The memory table: the newest records of a group, ordered, readable while they are written.
//!
//! The skip list replaces an entry by taking the old one out before the new one goes in; a reader in
//! between would fall through to an older layer and see the past. So an entry stays where it is for
//! the life of the table, and overwriting changes the cell it holds. The cell's lock is held for one
//! pointer-sized copy by either side.
//!
//! A search compares keys at some twenty entries. Each has the beginning of its key beside it, so that most
//! comparisons need no look at the key itself, which lies elsewhere in memory.

use std::borrow::Borrow;
use std::cmp::Ordering::Equal;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use parking_lot::RwLock;

/// What an entry costs beside its key and value: node, tower, two `Bytes`, reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 176;

/// Bytes of a key that are compared first.
const HEAD_BYTES: usize = 16;

/// The beginning of a key as big-endian numbers, zeros after its end: in the order of keys, but equal for
/// some that differ.
type Head = [u64; HEAD_BYTES / 8];

fn head(key: &[u8]) -> Head {
    let mut bytes = [0; HEAD_BYTES];
    let known = key.len().min(HEAD_BYTES);
    bytes[..known].copy_from_slice(&key[..known]);
    let number = |at| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    [number(0), number(8)]
}

/// A key, as entries hold it and as searches ask for it.
trait Headed {
    fn head(&self) -> Head;
    fn key(&self) -> &[u8];
}

struct Key {
    head: Head,
    key: Bytes,
}

impl From<Bytes> for Key {
    fn from(key: Bytes) -> Self {
        Key {
            head: head(&key),
            key,
        }
    }
}

impl Headed for Key {
    fn head(&self) -> Head {
        self.head
    }

    fn key(&self) -> &[u8] {
        &self.key
    }
}

/// What is searched for, without a key of its own.
struct Probe<'a> {
    head: Head,
    key: &'a [u8],
}

impl Headed for Probe<'_> {
    fn head(&self) -> Head {
        self.head
    }

    fn key(&self) -> &[u8] {
        self.key
    }
}

impl<'a> Borrow<dyn Headed + 'a> for Key {
    fn borrow(&self) -> &(dyn Headed + 'a) {
        self
    }
}

/// The order of keys, which the heads decide unless they are equal.
fn order<K: Headed + ?Sized>(a: &K, b: &K) -> std::cmp::Ordering {
    match a.head().cmp(&b.head()) {
        Equal => a.key().cmp(b.key()),
        decided => decided,
    }
}

impl Ord for dyn Headed + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        order(self, other)
    }
}

impl PartialOrd for dyn Headed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Headed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Equal
    }
}

impl Eq for dyn Headed + '_ {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        order(self, other)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Equal
    }
}

impl Eq for Key {}

/// Records not yet in the engine; `None` marks a deletion, which hides the key in older layers.
///
/// - One writer at a time (the store's writer lock); any number of readers beside it.
/// - A key that is in the table stays in it: overwriting replaces its value in one step.
#[derive(Default)]
pub(super) struct Table {
    records: SkipMap<Key, RwLock<Option<Bytes>>>,
    bytes: AtomicU64,
}

impl Table {
    /// Writes one record; readable on return.
    pub(super) fn put(&self, key: Bytes, value: Option<Bytes>) {
        let key_bytes = key.len() as u64;
        let value_bytes = value_len(&value);
        let mut value = Some(value);
        let entry = self
            .records
            .get_or_insert_with(Key::from(key), || RwLock::new(value.take().flatten()));
        // Only the writer changes `bytes`, so load and store need not be one operation.
        let before = self.bytes.load(Ordering::Relaxed);
        let after = match value {
            // The closure did not run: the key was there.
            Some(value) => {
                let old = std::mem::replace(&mut *entry.value().write(), value);
                before - value_len(&old) + value_bytes
            }
            None => before + key_bytes + value_bytes + ENTRY_OVERHEAD_BYTES,
        };
        self.bytes.store(after, Ordering::Relaxed);
    }

    /// `None` if the table knows nothing of the key, `Some(None)` if it deletes it.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let probe = Probe {
            head: head(key),
            key,
        };
        self.records
            .get(&probe as &(dyn Headed + '_))
            .map(|entry| entry.value().read().clone())
    }

    /// Records and deletions of `[start, end)`, ascending.
    pub(super) fn range(
        &self,
        start: Bytes,
        end: Bytes,
    ) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + use<'_> {
        let range = (start < end).then(|| {
            let bounds = (Bound::Included(start.into()), Bound::Excluded(end.into()));
            self.records.range::<Key, (Bound<Key>, Bound<Key>)>(bounds)
        });
        range
            .into_iter()
            .flatten()
            .map(|entry| (entry.key().key.clone(), entry.value().read().clone()))
    }

    /// Everything, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + use<'_> {
        self.records
            .iter()
            .map(|entry| (entry.key().key.clone(), entry.value().read().clone()))
    }

    /// Memory held, in bytes, with a flat estimate of what an entry costs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of records and deletions.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

fn value_len(value: &Option<Bytes>) -> u64 {
    value.as_ref().map_or(0, |value| value.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys that begin alike for longer than a head, end within it, and hold zeros.
    fn key() -> impl Strategy<Value = Bytes> {
        let start = prop::sample::select(vec![0, 7, 15, 16, 17, 24]);
        let end = prop::collection::vec(prop::sample::select(vec![0, 1, 255]), 0..5);
        (start, end).prop_map(|(start, end)| [vec![0x20; start], end].concat().into())
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_their_bytes(
            writes in prop::collection::vec((key(), any::<Option<u8>>()), 0..80),
            (start, end) in (key(), key()),
        ) {
            let table = Table::default();
            let mut model = BTreeMap::new();
            for (key, value) in writes {
                let value = value.map(|byte| Bytes::copy_from_slice(&[byte]));
                table.put(key.clone(), value.clone());
                model.insert(key, value);
            }
            prop_assert!(table.iter().eq(model.clone()));
            for (key, value) in &model {
                prop_assert_eq!(table.get(key), Some(value.clone()));
            }
            prop_assert_eq!(table.get(&start), model.get(&start).cloned());
            let expected: Vec<_> = model.into_iter().filter(|(k, _)| start <= *k && *k < end).collect();
            prop_assert_eq!(table.range(start, end).collect::<Vec<_>>(), expected);
        }
    }
}
