//! Revision replay: the store says at which revision it did what; this says whether that can be.
//!
//! Every operation of every workload is brought into one form (see [`model`](super::model)). Then:
//!
//! ```text
//!  replies ──▶ order in time ─────────▶ revision-order, duplicate-revision, stale-read, future-read
//!     │
//!     ├──────▶ versions seen ──▶ whose? phantom-value, failed-write-seen, applied-twice
//!     │                            │
//!     │                            ▼
//!     └──────▶ readings ─────▶ points of each key, by revision ──▶ lost-write, wrong-read,
//!                                                                  wrong-version-counter
//! ```
//!
//! A *point* is a write known to have happened to a key at a revision: it was acknowledged, or a
//! version of it was seen. A write of unknown outcome has a point only if it was seen. Where it was
//! not seen it may be anywhere after its invocation, once, or nowhere, and the rules below count it
//! in favour of the store.
//!
//! | anomaly | what is contradicted |
//! | --- | --- |
//! | `duplicate-revision` | every write transaction has a revision of its own |
//! | `revision-order` | a write that was over before another began has the smaller revision |
//! | `stale-read` | a linearizable read answers at a revision not below any that was told before it began |
//! | `future-read` | nothing is read before the write of it began; no header is ahead of the store |
//! | `unexplained-revision` | every revision is made by a write of the history, from its first reply on |
//! | `phantom-value` | what is read was written by somebody |
//! | `failed-write-seen` | a write that failed is never seen |
//! | `applied-twice` | a write takes effect at one revision |
//! | `lost-write` | what was acknowledged is in every later reading, until it is overwritten |
//! | `wrong-read` | a reading is the state at its revision, and two readings agree on it |
//! | `wrong-version-counter` | create revision and version counter tell the writes since creation |
//!
//! Versions as old as the first reply are taken for what the store held before the run. Otherwise
//! the clients of the history are the only writers: a run in which others write is not to be judged
//! by this checker.
//!
//! All of it takes one pass over sorted readings per key: O(n log n) in the size of the replies.

mod attribution;
mod blame;
mod generations;
mod lists;
mod order;
mod replay;
mod report;
mod sightings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::{attribution::Points, report::Report};
use super::{
    Finding,
    model::{Effect, Fate, Normal, StoreKey},
};
use crate::history::{History, Op, Value};

/// Name of the checker.
pub const NAME: &str = "revision";

/// The operations of a history, and what follows from their order in time.
struct Record<'a> {
    operations: Vec<Normal<'a>>,
    /// The first reply that is not serializable tells of a store at this revision: what is not
    /// younger was there before the run.
    base: i64,
    /// By operation: the largest revision that was told before it began, and by whom.
    floors: Vec<Option<(i64, usize)>>,
    /// By revision: the acknowledged write. The first one, if several claim it.
    done: HashMap<i64, usize>,
    /// Who would write this value, or append this element, to this key. Transfers are not here: a
    /// balance says nothing of who made it.
    writers: HashMap<(StoreKey, i64), Vec<usize>>,
    /// Transfers that change the account and may have happened, or have failed.
    transfers: HashMap<StoreKey, Vec<usize>>,
}

impl<'a> Record<'a> {
    fn new(operations: Vec<Normal<'a>>) -> Self {
        let base = operations
            .iter()
            .filter_map(|normal| match normal.fate {
                Fate::Done(revision) => Some(revision - 1),
                _ if normal.linearizable => normal.header,
                _ => None,
            })
            .min()
            // Serializable reads alone do not tell where the run began.
            .unwrap_or(i64::MAX);
        let mut done = HashMap::new();
        let mut writers: HashMap<(StoreKey, i64), Vec<usize>> = HashMap::new();
        let mut transfers: HashMap<StoreKey, Vec<usize>> = HashMap::new();
        for (at, normal) in operations.iter().enumerate() {
            if let Fate::Done(revision) = normal.fate {
                done.entry(revision).or_insert(at);
            }
            for write in &normal.writes {
                match &write.effect {
                    _ if matches!(normal.operation.op, Op::Transfer { .. }) => {
                        let known = matches!(normal.fate, Fate::Done(_));
                        transfers
                            .entry(write.key)
                            .or_default()
                            .extend((!known).then_some(at));
                    }
                    Effect::Put(Value::Number(value)) => {
                        writers.entry((write.key, *value)).or_default().push(at);
                    }
                    Effect::Append(values) => {
                        for value in values {
                            writers.entry((write.key, *value)).or_default().push(at);
                        }
                    }
                    _ => {}
                }
            }
        }
        let floors = order::floors(&operations);
        Self {
            operations,
            base,
            floors,
            done,
            writers,
            transfers,
        }
    }

    /// Whether the store may have held keys before the run that nobody has read in full. An empty
    /// store is at revision 1.
    fn began_late(&self) -> bool {
        self.base > 1
    }

    fn floor(&self, operation: usize) -> i64 {
        self.floors[operation].map_or(0, |(revision, _)| revision)
    }

    fn invoked(&self, operation: usize) -> u64 {
        self.operations[operation].operation.invoked
    }

    fn completed(&self, operation: usize) -> u64 {
        self.operations[operation].operation.completed
    }

    fn fate(&self, operation: usize) -> Fate {
        self.operations[operation].fate
    }

    /// Whether a write of unknown outcome can have happened at this revision, seeing that it was
    /// read by the event `seen`.
    fn possible(&self, operation: usize, revision: i64, seen: u64) -> bool {
        self.fate(operation) == Fate::Maybe
            && self.floor(operation) < revision
            && self.invoked(operation) < seen
    }
}

/// Judges the whole history.
///
/// Unknown only if the history is malformed, or holds no reply at all.
pub fn check(history: &History) -> Finding {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, malformed.to_string()),
    };
    let operations: Result<Vec<Normal<'_>>, String> =
        operations.into_iter().map(Normal::new).collect();
    let operations = match operations {
        Ok(operations) => operations,
        Err(why) => return Finding::unknown(NAME, 0, why),
    };
    let checked = operations.len() as u64;
    if operations.iter().all(|normal| normal.header.is_none()) {
        return Finding::unknown(NAME, checked, "no operation was answered");
    }
    let record = Record::new(operations);
    let mut report = Report::new(&record.operations);
    order::check(&record, &mut report);
    let points = Points::new(&record, &mut report);
    order::check_revisions(&record, &points, &mut report);
    let demands = replay::check(&record, &points, &mut report);
    generations::check(&record, &points, &demands, &mut report);
    lists::check(&record, &mut report);
    let readings: usize = record
        .operations
        .iter()
        .map(|normal| {
            normal.readings.len()
                + normal.range.map_or(0, |range| range.seen.len())
                + normal.chain.map_or(0, |chain| chain.versions.len())
        })
        .sum();
    let summary = format!(
        "{checked} operations, {} acknowledged writes, {} of unknown outcome ({} seen), {readings} \
         readings of {} keys",
        record.done.len(),
        record
            .operations
            .iter()
            .filter(|normal| normal.fate == Fate::Maybe)
            .count(),
        points.adopted.len(),
        points.keys.len(),
    );
    report.finding(NAME, summary)
}
