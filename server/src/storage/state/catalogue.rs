//! The catalogue: which generation of each group is in use, and which are garbage. It lives in the
//! database itself, so that it changes with the data, in one batch.
//!
//! ```text
//!   no group, 0x01, group u64 be                       ─▶ generation u32 be    in use
//!   no group, 0x02, group u64 be, generation u32 be    ─▶ nothing              garbage, or being loaded
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes};

use super::generation::{FIRST, Prefix};
use crate::storage::engine::{Engine, EngineError};

const CURRENT: u8 = 1;
const GARBAGE: u8 = 2;

type Record = (Bytes, Option<Bytes>);

fn key(kind: u8, group: u64, rest: &[u8]) -> Bytes {
    let tail = [&[kind], &group.to_be_bytes()[..], rest].concat();
    Prefix::new(0, 0).key(&tail).into()
}

/// The record that says which generation of a group is in use.
pub(super) fn current(group: u64, generation: u32) -> Record {
    let value = Bytes::copy_from_slice(&generation.to_be_bytes());
    (key(CURRENT, group, &[]), Some(value))
}

/// The deletion of the record that says which generation of a group is in use.
pub(super) fn no_current(group: u64) -> Record {
    (key(CURRENT, group, &[]), None)
}

/// The record that a generation is garbage.
pub(super) fn garbage(group: u64, generation: u32) -> Record {
    let key = key(GARBAGE, group, &generation.to_be_bytes());
    (key, Some(Bytes::new()))
}

/// The deletion of the record that a generation is garbage.
pub(super) fn no_garbage(group: u64, generation: u32) -> Record {
    (key(GARBAGE, group, &generation.to_be_bytes()), None)
}

/// What the database says of its groups.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    current: BTreeMap<u64, u32>,
    /// Groups whose record is not in the database yet: it goes down with their first table.
    unwritten: BTreeSet<u64>,
    garbage: BTreeSet<(u64, u32)>,
}

impl Catalogue {
    /// Reads it; `Err` with the reason if it makes no sense.
    pub(super) fn read(engine: &dyn Engine) -> Result<Result<Self, String>, EngineError> {
        let mut catalogue = Catalogue::default();
        let (start, end) = Prefix::new(0, 0).range();
        for record in engine.scan(&start, &end) {
            let (key, value) = record?;
            if catalogue.take(key.slice(start.len()..), value).is_none() {
                let key = key.escape_ascii();
                return Ok(Err(format!(
                    "the catalogue holds {key}, which makes no sense"
                )));
            }
        }
        Ok(Ok(catalogue))
    }

    fn take(&mut self, mut key: Bytes, mut value: Bytes) -> Option<()> {
        let kind = key.try_get_u8().ok()?;
        let group = key.try_get_u64().ok()?;
        match kind {
            CURRENT => {
                self.current.insert(group, value.try_get_u32().ok()?);
            }
            GARBAGE => {
                self.garbage.insert((group, key.try_get_u32().ok()?));
            }
            _ => return None,
        }
        Some(())
    }

    /// The groups and the generation that each uses.
    pub(super) fn groups(&self) -> impl Iterator<Item = (u64, u32)> {
        self.current.iter().map(|(&group, &number)| (group, number))
    }

    pub(super) fn garbage_of_all(&self) -> impl Iterator<Item = (u64, u32)> {
        self.garbage.iter().copied()
    }

    pub(super) fn generation(&self, group: u64) -> Option<u32> {
        self.current.get(&group).copied()
    }

    /// A number that no generation of the group has or had that is not removed yet.
    pub(super) fn unused(&self, group: u64) -> u32 {
        let garbage = self
            .garbage
            .range((group, 0)..=(group, u32::MAX))
            .next_back();
        let newest = self
            .generation(group)
            .max(garbage.map(|&(_, number)| number));
        newest.map_or(FIRST, |newest| newest + 1)
    }

    /// The generation of a group, a first one for a group that it does not know.
    pub(super) fn generation_or_first(&mut self, group: u64) -> u32 {
        if let Some(number) = self.generation(group) {
            return number;
        }
        let number = self.unused(group);
        self.current.insert(group, number);
        self.unwritten.insert(group);
        number
    }

    pub(super) fn unwritten(&self) -> BTreeSet<u64> {
        self.unwritten.clone()
    }

    pub(super) fn set_written(&mut self, group: u64) {
        self.unwritten.remove(&group);
    }

    /// The database says so by now.
    pub(super) fn set_current(&mut self, group: u64, generation: u32) {
        self.current.insert(group, generation);
        self.unwritten.remove(&group);
    }

    pub(super) fn remove_current(&mut self, group: u64) {
        self.current.remove(&group);
        self.unwritten.remove(&group);
    }

    pub(super) fn add_garbage(&mut self, group: u64, generation: u32) {
        self.garbage.insert((group, generation));
    }

    pub(super) fn remove_garbage(&mut self, group: u64, generation: u32) {
        self.garbage.remove(&(group, generation));
    }
}
