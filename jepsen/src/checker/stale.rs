//! Serializable reads: a node may answer with something old, but never goes back, and never shows
//! what is not written.
//!
//! Only the serializable reads of a history are judged; the others owe more, and to other checkers.
//! For two reads through the same node, one of which was over before the other began, with the node
//! running all the time between them, neither the revision of the store nor that of a key goes
//! back.
//!
//! A node that restarts, or whose files were changed, may come back with less than it had shown: a
//! serializable read needs no majority, and so may show what the node has and will not keep. Such a
//! fault ends the comparison. While a fault is being made or healed it is not known when the node
//! stops and starts, so reads that overlap it are not compared at all.
//!
//! | name | what was seen |
//! | --- | --- |
//! | `went-back` | a revision of the store, or of a key, lower than in an earlier read of the node |
//! | `future-value` | a value whose write had not been invoked when the read completed, or that nobody wrote; a key newer than the store |
//! | `failed-write-seen` | a value whose write definitely failed |

mod uptime;
mod watermark;

use std::collections::{HashMap, HashSet};

use super::{Anomaly, Finding};
use crate::history::{Data, History, Key, NodeId, Op, Operation, Outcome, Value, Version};

const NAME: &str = "stale";

/// Judges all serializable reads of a history.
///
/// *Unknown* if none of them succeeded.
pub fn check(history: &History) -> Finding {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, format!("not a history: {malformed}")),
    };
    let mut reads = Vec::new();
    let mut attempts = 0;
    for operation in &operations {
        let Op::Read {
            key,
            serializable: true,
        } = *operation.op
        else {
            continue;
        };
        attempts += 1;
        let Outcome::Ok(reply) = operation.outcome else {
            continue;
        };
        let Data::Version(version) = &reply.data else {
            let why = format!("event {}: not the answer to a read", operation.completed);
            return Finding::unknown(NAME, attempts, why);
        };
        reads.push(Read {
            operation: *operation,
            key,
            revision: reply.revision,
            version: version.as_ref(),
        });
    }
    if reads.is_empty() {
        return Finding::unknown(
            NAME,
            attempts,
            "nothing to judge: no serializable read succeeded",
        );
    }

    let writes = Writes::new(&operations);
    let mut anomalies: Vec<Anomaly> = reads.iter().filter_map(|read| writes.judge(read)).collect();
    let uptime = uptime::Uptime::new(history);
    let (compared, back) = watermark::judge(&reads, &writes, &uptime);
    anomalies.extend(back);
    let nodes: HashSet<NodeId> = reads.iter().map(|read| read.operation.node).collect();
    let summary = format!(
        "{} serializable reads through {} nodes, {compared} compared with earlier ones of their node",
        reads.len(),
        nodes.len(),
    );
    Finding::new(NAME, attempts, summary, anomalies)
}

/// A serializable read that succeeded.
struct Read<'a> {
    operation: Operation<'a>,
    key: Key,
    revision: i64,
    version: Option<&'a Version>,
}

/// A write as far as reads of it are concerned.
#[derive(Clone, Copy)]
struct Written {
    invoked: u64,
    /// Event in which it definitely failed, if it did.
    failed: Option<u64>,
}

/// What was written, or may have been.
struct Writes {
    of: HashMap<(Key, i64), Written>,
    /// Keys that may have been deleted, of which nothing can be concluded from their absence.
    deleted: HashSet<Key>,
}

impl Writes {
    fn new(operations: &[Operation<'_>]) -> Self {
        let mut writes = Self {
            of: HashMap::new(),
            deleted: HashSet::new(),
        };
        for operation in operations {
            let failed = match operation.outcome {
                Outcome::Fail(_) => Some(operation.completed),
                _ => None,
            };
            match *operation.op {
                Op::Write { key, value }
                | Op::Cas {
                    key, new: value, ..
                } => {
                    let written = Written {
                        invoked: operation.invoked,
                        failed,
                    };
                    // Of several writes of a value the one that explains most counts.
                    let known = writes.of.entry((key, value)).or_insert(written);
                    if known.failed.is_some() && failed.is_none() {
                        *known = written;
                    }
                }
                Op::Delete { key } if failed.is_none() => {
                    writes.deleted.insert(key);
                }
                _ => {}
            }
        }
        writes
    }

    /// Whether the value that a read shows can have been there.
    fn judge(&self, read: &Read<'_>) -> Option<Anomaly> {
        let version = read.version?;
        let reader = read.operation.completed;
        let what = format!(
            "The serializable read of key {} through node {}, completed in event {reader}, shows",
            read.key, read.operation.node
        );
        if version.modified > read.revision {
            let explanation = format!(
                "{what} revision {} of the key at revision {} of the store.",
                version.modified, read.revision
            );
            return Some(proof("future-value", explanation, [reader]));
        }
        let written = match version.value {
            Value::Number(value) => self.of.get(&(read.key, value)),
            Value::List(_) => None,
        };
        let value = match &version.value {
            Value::Number(value) => value.to_string(),
            Value::List(_) => "a list".to_owned(),
        };
        let Some(written) = written else {
            let explanation = format!("{what} {value}, which nobody wrote.");
            return Some(proof("future-value", explanation, [reader]));
        };
        if let Some(failed) = written.failed {
            let explanation = format!(
                "{what} {value}. Its write, invoked in event {}, definitely failed in event \
                 {failed}.",
                written.invoked
            );
            return Some(proof("failed-write-seen", explanation, [failed, reader]));
        }
        (written.invoked > reader).then(|| {
            let explanation = format!(
                "{what} {value}, whose write was invoked only later, in event {}.",
                written.invoked
            );
            proof("future-value", explanation, [written.invoked, reader])
        })
    }
}

fn proof(name: &str, explanation: String, events: impl IntoIterator<Item = u64>) -> Anomaly {
    let mut events: Vec<u64> = events.into_iter().collect();
    events.sort_unstable();
    Anomaly {
        name: name.to_owned(),
        explanation,
        events,
        edges: Vec::new(),
    }
}
