//! A store beside which the newest versions of keys are remembered, as whoever applies may do.

use std::{collections::BTreeMap, convert::Infallible};

use bytes::Bytes;
use holdfast_mvcc::{Newest, Reader, Write, memory::MemoryState, version_written};

/// The newest versions of keys, by what all versions of a key begin with.
#[derive(Default)]
pub struct Remembered(BTreeMap<Bytes, Newest>);

impl Remembered {
    pub fn remember(&mut self, writes: &[Write]) {
        let versions = writes.iter().filter_map(version_written);
        self.0
            .extend(versions.map(|(prefix, newest)| (Bytes::copy_from_slice(prefix), newest)));
    }

    /// Forgets every third key, beginning with one of the first three.
    pub fn forget(&mut self, first: usize) {
        let mut number = 0;
        self.0.retain(|_, _| {
            number += 1;
            number % 3 != first
        });
    }

    pub fn over<'a>(&'a self, state: &'a MemoryState) -> Remembering<'a> {
        Remembering {
            remembered: self,
            state,
        }
    }
}

pub struct Remembering<'a> {
    remembered: &'a Remembered,
    state: &'a MemoryState,
}

impl Reader for Remembering<'_> {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        self.state.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Infallible>> + '_ {
        self.state.scan(start, end)
    }

    fn remembered(&self, prefix: &[u8]) -> Option<Newest> {
        self.remembered.0.get(prefix).copied()
    }
}
