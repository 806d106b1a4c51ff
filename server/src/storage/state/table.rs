//! The memory table: the newest records of a group, ordered, readable while they are written.
//!
//! A tree under a lock that nobody holds for long: the writer for the writes of one entry, a reader for one
//! record or, on a scan, for a piece of it. Nodes hold many entries side by side, and each has the beginning
//! of its key beside it, so that a search looks at few places of memory; a skip list, which needs no lock,
//! looks at some twenty.

use std::borrow::Borrow;
use std::cmp::Ordering::Equal;
use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included};
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;

use bytes::Bytes;
use holdfast_mvcc::Write;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::limits;

/// What an entry costs beside its key and value: its share of a node, two reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 176;

/// Bytes of a key that are compared first.
const HEAD_BYTES: usize = 24;

/// The beginning of a key as big-endian numbers, zeros after its end: in the order of keys, but equal for
/// some that differ.
type Head = [u64; HEAD_BYTES / 8];

fn head(key: &[u8]) -> Head {
    let mut bytes = [0; HEAD_BYTES];
    let known = key.len().min(HEAD_BYTES);
    bytes[..known].copy_from_slice(&key[..known]);
    let number = |at| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    [number(0), number(8), number(16)]
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

type Sought<'a> = &'a (dyn Headed + 'a);

impl<'a> Probe<'a> {
    fn new(key: &'a [u8]) -> Self {
        Probe {
            head: head(key),
            key,
        }
    }
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

type Map = BTreeMap<Key, Option<Bytes>>;

/// Records not yet in the engine; `None` marks a deletion, which hides the key in older layers.
///
/// - One writer at a time (the store's writer lock); any number of readers beside it.
/// - A key that is in the table stays in it: overwriting replaces its value in one step.
/// - Writes that come together are seen together by whoever looks at one record.
#[derive(Default)]
pub(super) struct Table {
    records: RwLock<Map>,
    bytes: AtomicU64,
}

impl Table {
    /// Writes records; readable on return.
    pub(super) fn put(&self, writes: Vec<Write>) {
        // Only the writer changes `bytes`, so load and store need not be one operation.
        let mut bytes = self.bytes.load(Ordering::Relaxed);
        // What is replaced is freed when nobody waits any more.
        let mut replaced = Vec::new();
        let mut records = self.records.write();
        for Write { key, value } in writes {
            let (key_bytes, value_bytes) = (key.len() as u64, value_len(&value));
            bytes += value_bytes;
            match records.insert(Key::from(key), value) {
                Some(old) => {
                    bytes -= value_len(&old);
                    replaced.push(old);
                }
                None => bytes += key_bytes + ENTRY_OVERHEAD_BYTES,
            }
        }
        drop(records);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// `None` if the table knows nothing of the key, `Some(None)` if it deletes it.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.records.read().get(&Probe::new(key) as Sought).cloned()
    }

    /// Records and deletions of `[start, end)`, ascending. What is written meanwhile may be among them.
    pub(super) fn range(&self, start: Bytes, end: Bytes) -> Range<'_> {
        let ended = start >= end;
        Range {
            table: self,
            start: Included(start),
            end,
            piece: Vec::new().into_iter(),
            piece_records: limits::TABLE_SCAN_FIRST_RECORDS,
            ended,
        }
    }

    /// Everything in a table that nobody writes to any more: a writer would wait.
    pub(super) fn frozen(&self) -> Frozen<'_> {
        Frozen(self.records.read())
    }

    /// Memory held, in bytes, with a flat estimate of what an entry costs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values.
    pub(super) fn record_bytes(&self) -> u64 {
        let records = self.records.read();
        self.bytes()
            .saturating_sub(records.len() as u64 * ENTRY_OVERHEAD_BYTES)
    }

    /// Number of records and deletions.
    pub(super) fn len(&self) -> usize {
        self.records.read().len()
    }
}

/// The records of a frozen table.
pub(super) struct Frozen<'a>(RwLockReadGuard<'a, Map>);

impl Frozen<'_> {
    /// All of them, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.0.iter().map(|(key, value)| (&key.key, value))
    }
}

/// A scan. It copies a piece at a time, and longer ones the longer it goes on.
pub(super) struct Range<'a> {
    table: &'a Table,
    start: Bound<Bytes>,
    end: Bytes,
    piece: vec::IntoIter<(Bytes, Option<Bytes>)>,
    piece_records: usize,
    ended: bool,
}

impl Range<'_> {
    fn next_piece(&mut self) {
        let (start, end) = (
            self.start.as_ref().map(|key| Probe::new(key)),
            Probe::new(&self.end),
        );
        let bounds = (
            start.as_ref().map(|probe| probe as Sought),
            Excluded(&end as Sought),
        );
        let records = self.table.records.read();
        let piece: Vec<_> = records
            .range::<dyn Headed + '_, _>(bounds)
            .take(self.piece_records)
            .map(|(key, value)| (key.key.clone(), value.clone()))
            .collect();
        drop(records);
        // A key stays in the table, so what comes after the last one is what was not seen.
        self.ended = piece.len() < self.piece_records;
        if let Some((last, _)) = piece.last() {
            self.start = Excluded(last.clone());
        }
        self.piece = piece.into_iter();
        self.piece_records = limits::TABLE_SCAN_RECORDS_MAX.min(self.piece_records * 4);
    }
}

impl Iterator for Range<'_> {
    type Item = (Bytes, Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.piece.next();
        if next.is_some() || self.ended {
            return next;
        }
        self.next_piece();
        self.piece.next()
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
        let start = prop::sample::select(vec![0, 7, 15, 16, 17, 23, 24, 25, 32]);
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
            for writes in writes.chunks(3) {
                let writes = writes.iter().map(|(key, value)| Write {
                    key: key.clone(),
                    value: value.map(|byte| Bytes::copy_from_slice(&[byte])),
                });
                let writes: Vec<_> = writes.collect();
                model.extend(writes.iter().cloned().map(|Write { key, value }| (key, value)));
                table.put(writes);
            }
            prop_assert!(table.frozen().iter().eq(&model));
            for (key, value) in &model {
                prop_assert_eq!(table.get(key), Some(value.clone()));
            }
            prop_assert_eq!(table.get(&start), model.get(&start).cloned());
            let expected: Vec<_> = model.into_iter().filter(|(k, _)| start <= *k && *k < end).collect();
            prop_assert_eq!(table.range(start, end).collect::<Vec<_>>(), expected);
        }
    }
}
