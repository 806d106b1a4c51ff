//! Generations: which keys of the node's database are a group's state, and how a state is exchanged.
//!
//! ```text
//!   key of a record = group u64 be, generation u32 be, the group's own key       0 is no group
//! ```
//!
//! A snapshot is loaded as a new generation beside the one in use. One that is not in use any more is
//! removed by the sweeper when its last reader has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::sweeper::Garbage;
use crate::storage::engine::{Engine, EngineError, Scan};

/// Number of the first generation of a group.
pub(super) const FIRST: u32 = 1;

/// Above every key of the database.
pub(super) const END_OF_ALL: &[u8] = &[0xff; 9];

const PREFIX_BYTES: usize = 12;

/// What the keys of one generation begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix([u8; PREFIX_BYTES]);

impl Prefix {
    /// Of a generation of a group, or with 0 for both, of the catalogue.
    pub(super) fn new(group: u64, generation: u32) -> Self {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(&group.to_be_bytes());
        prefix[8..].copy_from_slice(&generation.to_be_bytes());
        Prefix(prefix)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The database's key for `key`.
    pub(super) fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.0, key].concat()
    }

    /// First key, and the one after the last.
    pub(super) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let after = u128::from_be_bytes({
            let mut number = [0; 16];
            number[16 - PREFIX_BYTES..].copy_from_slice(&self.0);
            number
        }) + 1;
        let after = after.to_be_bytes()[16 - PREFIX_BYTES..].to_vec();
        (self.0.to_vec(), after)
    }
}

/// One generation of a group's state in the node's database.
pub(super) struct Generation {
    engine: Arc<dyn Engine>,
    prefix: Prefix,
    group: u64,
    number: u32,
    garbage: Arc<Garbage>,
    retired: AtomicBool,
}

impl Generation {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        garbage: Arc<Garbage>,
        group: u64,
        number: u32,
    ) -> Self {
        Generation {
            engine,
            prefix: Prefix::new(group, number),
            group,
            number,
            garbage,
            retired: AtomicBool::new(false),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn group(&self) -> u64 {
        self.group
    }

    pub(super) fn prefix(&self) -> Prefix {
        self.prefix
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(&self.prefix.key(key))
    }

    /// Records of `[start, end)`, ascending.
    pub(super) fn scan(&self, start: &[u8], end: &[u8]) -> Scan<'_> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let records = self
            .engine
            .scan(&self.prefix.key(start), &self.prefix.key(end));
        Box::new(records.map(|record| {
            let (key, value) = record?;
            Ok((key.slice(PREFIX_BYTES..), value))
        }))
    }

    /// Has the records removed as soon as nobody reads them any more. That they are garbage is in the
    /// database already.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if *self.retired.get_mut() {
            self.garbage.add(self.group, self.number);
        }
    }
}
