//! A store in memory, for tests of this crate and of its dependents.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::Bound::{Excluded, Included},
};

use bytes::Bytes;

use crate::{Reader, Write};

/// All records in one ordered map. Cloning it is a deep copy of the map with shared values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    records: BTreeMap<Bytes, Bytes>,
}

impl MemoryState {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the writes readable.
    pub fn write(&mut self, writes: impl IntoIterator<Item = Write>) {
        for Write { key, value } in writes {
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
    }

    /// All records in key order.
    pub fn records(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.records.iter()
    }
}

impl FromIterator<(Bytes, Bytes)> for MemoryState {
    fn from_iter<I: IntoIterator<Item = (Bytes, Bytes)>>(records: I) -> Self {
        MemoryState {
            records: records.into_iter().collect(),
        }
    }
}

impl Reader for MemoryState {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Infallible>> + '_ {
        // An inverted range is empty; the map would panic on it.
        let end = end.max(start);
        self.records
            .range::<[u8], _>((Included(start), Excluded(end)))
            .map(|(key, value)| Ok((key.clone(), value.clone())))
    }
}
