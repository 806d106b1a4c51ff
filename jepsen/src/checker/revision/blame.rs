//! Why a value has no business where it was seen.

use super::Record;
use crate::{
    checker::model::{Fate, StoreKey},
    history::Value,
};

/// What identifies the writer of a value: the number, or the last element of a list.
pub(super) fn mark(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::List(list) => list.last().copied(),
    }
}

/// Why a value is not possible where it was seen.
pub(super) struct Blame {
    pub name: &'static str,
    pub why: &'static str,
    /// Who wrote the value, or tried to.
    pub writer: Option<usize>,
}

impl Blame {
    /// The blame for a value at a revision that no write can have made there.
    pub fn new(record: &Record<'_>, key: StoreKey, mark: Option<i64>, revision: i64) -> Self {
        let writers: &[usize] = mark
            .and_then(|mark| record.writers.get(&(key, mark)))
            .or_else(|| record.transfers.get(&key))
            .map_or(&[], Vec::as_slice);
        let find = |wanted: fn(Fate) -> bool| {
            writers
                .iter()
                .copied()
                .find(|&writer| wanted(record.fate(writer)))
        };
        let (name, why, writer) = if let Some(writer) = find(|fate| matches!(fate, Fate::Done(_))) {
            match record.fate(writer) {
                Fate::Done(own) if own == revision => (
                    "wrong-read",
                    "That is not what the write of this revision leaves",
                    Some(writer),
                ),
                _ => (
                    "applied-twice",
                    "The write of this value was acknowledged at another revision",
                    Some(writer),
                ),
            }
        } else if let Some(writer) = find(|fate| fate == Fate::Maybe) {
            if record.floor(writer) >= revision {
                (
                    "future-read",
                    "The write of this value began when this revision had already been told",
                    Some(writer),
                )
            } else if let Some(&other) = record.done.get(&revision) {
                (
                    "duplicate-revision",
                    "Another write was acknowledged at this revision",
                    Some(other),
                )
            } else {
                (
                    "future-read",
                    "The write of this value can not have been seen by then",
                    Some(writer),
                )
            }
        } else if let Some(writer) = find(|fate| fate == Fate::Never) {
            (
                "failed-write-seen",
                "The write of this value failed",
                Some(writer),
            )
        } else {
            ("phantom-value", "Nobody wrote this value", None)
        };
        Self { name, why, writer }
    }
}
