//! How many acknowledged writes are gone: the measured RPO.
//!
//! Checkers say that something is wrong; this says how much was lost, whatever anomaly showed it. A
//! store that is put back to an older state contradicts itself in a handful of places, while
//! thousands of acknowledged revisions are gone, most of which nobody reads again.
//!
//! ```text
//!  answers ──▶ what each says of each acknowledged write ──▶ there, gone, or nothing   (evidence)
//!                                                                │
//!  writes said to be there ──▶ whatever cannot be beside them ──▶ gone                 (branch)
//!                                                                │
//!  the rest ──▶ two at one revision, an earlier one above a later one: not all of them can
//!               be there; the fewest that must be gone                                 (branch)
//! ```
//!
//! What is promised:
//!
//! - A write of unknown outcome is never a loss, and nothing is lost in a history that a correct
//!   store can have made.
//! - The number is never larger than what is gone, as far as the store numbers its writes in their
//!   order. It is called exact only where every acknowledged write is accounted for: seen or
//!   contradicted in the end, or by counting, since each revision of the store that is left has
//!   one write and no more than that.
//! - A loss that no answer contradicts cannot be seen: where a write of unknown outcome may have
//!   taken the place of an acknowledged one, both are possible.

mod branch;
mod evidence;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::evidence::Evidence;
use super::{
    convergence::NodeState,
    model::{Fate, Normal},
};
use crate::history::History;

/// What the number of a [`Loss`] is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// The count is exact: so many writes are lost, no more and no fewer.
    Exact,
    /// The count is a lower bound: so many losses are proved, and more writes may be gone.
    AtLeast,
    /// Nothing could be counted, although the history is wrong or could not be judged.
    #[default]
    Unknown,
}

/// Acknowledged writes that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// How many are proved to be gone.
    pub count: u64,
    /// What that is worth.
    pub certainty: Certainty,
    /// Why it is no exact number; empty if it is one.
    pub open: String,
    /// Everything was read when the load was over.
    pub read_finally: bool,
    /// Smallest and largest revision of a write that is gone, of those that are known one by one.
    pub revisions: Option<(i64, i64)>,
    /// Events that prove the last of them: its acknowledgement, and the answer that contradicts it
    /// if it was a client's.
    pub events: Vec<u64>,
}

impl Loss {
    fn unknown(why: impl Into<String>) -> Self {
        Self {
            open: why.into(),
            ..Self::default()
        }
    }
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    /// Its operation.
    at: usize,
    revision: i64,
    invoked: u64,
    completed: u64,
}

/// How a write is known to be gone.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// By an answer to this operation.
    Answer(usize),
    /// By the revision that all nodes are at in the end.
    States,
}

/// Counts the acknowledged writes that are gone at the end of a history. `states` is what the nodes
/// said of themselves after it, if they were asked.
pub fn measure(history: &History, states: &[NodeState]) -> Loss {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Loss::unknown(malformed.to_string()),
    };
    let normal: Result<Vec<Normal<'_>>, String> = operations.into_iter().map(Normal::new).collect();
    let operations = match normal {
        Ok(operations) => operations,
        Err(why) => return Loss::unknown(why),
    };
    if operations.iter().all(|normal| normal.header.is_none()) {
        return Loss::unknown("no operation was answered");
    }
    let writes: Vec<Acknowledged> = acknowledged(&operations);
    let evidence = Evidence::gather(&operations, &writes);
    let mut gone: Vec<Option<Proof>> = (0..writes.len()).map(|n| evidence.gone(n)).collect();
    let end = End::of(&operations, states);
    for (write, gone) in writes.iter().zip(&mut gone) {
        *gone = gone.or_else(|| end.is_past(write, &operations));
    }
    let agreed = branch::exclude(&writes, &evidence, &mut gone);
    let open: Vec<usize> = (0..writes.len())
        .filter(|&n| gone[n].is_none() && !evidence.is_there(n))
        .collect();
    let open_writes: Vec<Acknowledged> = open.iter().map(|&n| writes[n]).collect();
    let (fewest, example) = branch::fewest_gone(&open_writes);
    let fewest = fewest.max(evidence.more_than_versions(&writes, &gone));
    let proved = gone.iter().flatten().count() as u64;
    let count = proved + fewest;
    let undecided = open.len() as u64 - fewest;
    let most = end.most_gone(&operations, &writes);
    let mut loss = Loss {
        count,
        certainty: Certainty::AtLeast,
        open: String::new(),
        read_finally: end.was_read,
        revisions: None,
        events: Vec::new(),
    };
    if end.was_read && agreed && (open.is_empty() || (count > 0 && most == Some(count))) {
        loss.certainty = Certainty::Exact;
    } else if !end.was_read {
        loss.open = "there are no final reads".to_owned();
    } else if !agreed {
        loss.open = "the nodes do not agree on what is there".to_owned();
    } else {
        loss.open = format!(
            "of {undecided} acknowledged writes, overwritten since, no answer tells whether they \
             were there"
        );
    }
    let lost = writes
        .iter()
        .zip(&gone)
        .filter_map(|(write, gone)| Some((write, (*gone)?)));
    let completion = |at: usize| {
        let operation = &operations[at].operation;
        Some(operation.completed).filter(|&event| event != u64::MAX)
    };
    if let Some((last, proof)) = lost.clone().max_by_key(|(write, _)| write.revision) {
        let first = lost.map(|(write, _)| write.revision).min();
        loss.revisions = first.map(|first| (first, last.revision));
        loss.events.push(last.completed);
        if let Proof::Answer(at) = proof {
            loss.events.extend(completion(at));
        }
    } else if let Some((a, b)) = example {
        loss.events = [a, b].map(|n| open_writes[n].completed).to_vec();
    }
    loss.events.sort_unstable();
    loss.events.dedup();
    loss
}

fn acknowledged(operations: &[Normal<'_>]) -> Vec<Acknowledged> {
    let writes = operations.iter().enumerate().filter_map(|(at, normal)| {
        let Fate::Done(revision) = normal.fate else {
            return None;
        };
        Some(Acknowledged {
            at,
            revision,
            invoked: normal.operation.invoked,
            completed: normal.operation.completed,
        })
    });
    writes.collect()
}

/// How far the store had come when it was last asked.
struct End {
    /// Everything was read after the load.
    was_read: bool,
    /// The largest revision among the last answers, and whose it is.
    answered: Option<(i64, usize)>,
    /// The revision that no node is past, if all told theirs.
    states: Option<i64>,
}

impl End {
    fn of(operations: &[Normal<'_>], states: &[NodeState]) -> Self {
        let finally = operations
            .iter()
            .enumerate()
            .filter(|(_, normal)| normal.operation.last);
        let was_read = finally
            .clone()
            .any(|(_, normal)| normal.linearizable && normal.header.is_some());
        let answered = if was_read {
            let headers = finally.filter_map(|(at, normal)| Some((normal.header?, at)));
            headers.max()
        } else {
            last_of_each_node(operations)
        };
        let told = states.iter().all(|state| state.error.is_none());
        let furthest = states.iter().map(|state| state.revision).max();
        Self {
            was_read,
            answered,
            states: furthest.filter(|_| told),
        }
    }

    /// Whether a write was acknowledged at a revision that the store has not reached in the end.
    fn is_past(&self, write: &Acknowledged, operations: &[Normal<'_>]) -> Option<Proof> {
        if let Some((revision, at)) = self.answered
            && revision < write.revision
            && write.completed < operations[at].operation.invoked
        {
            return Some(Proof::Answer(at));
        }
        let reached = self.states.is_none_or(|reached| write.revision <= reached);
        (!reached).then_some(Proof::States)
    }

    /// The most that can be gone. Since the first revision that was told, each one that the store has
    /// in the end was made by one write: an acknowledged one, unless one of unknown outcome made it.
    fn most_gone(&self, operations: &[Normal<'_>], writes: &[Acknowledged]) -> Option<u64> {
        let (end, _) = self.answered.filter(|_| self.was_read)?;
        let end = self.states.map_or(end, |states| states.min(end));
        let first = operations.iter().filter_map(|normal| match normal.fate {
            Fate::Done(revision) => Some(revision - 1),
            _ if normal.linearizable => normal.header,
            _ => None,
        });
        let unknown = operations.iter().filter(|n| n.fate == Fate::Maybe).count() as i64;
        let there = (end - first.min()? - unknown).max(0);
        (writes.len() as u64).checked_sub(there.cast_unsigned())
    }
}

/// The largest revision among the last linearizable answers of the nodes: what a node that has not
/// been asked since does not know counts in favour of the store.
fn last_of_each_node(operations: &[Normal<'_>]) -> Option<(i64, usize)> {
    let mut last = std::collections::BTreeMap::new();
    for (at, normal) in operations.iter().enumerate() {
        let tells = normal.linearizable || matches!(normal.fate, Fate::Done(_));
        if let Some(header) = normal.header.filter(|_| tells) {
            let known = last
                .entry(normal.operation.node)
                .or_insert((0, i64::MIN, 0));
            *known = (*known).max((normal.operation.completed, header, at));
        }
    }
    last.into_values().map(|(_, header, at)| (header, at)).max()
}
