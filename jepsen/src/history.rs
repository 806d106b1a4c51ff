//! What happened in a run: the only input of the checkers.
//!
//! A history is a list of events in the order in which the harness saw them. A client operation
//! makes two: its invocation, and its completion, which is one of
//!
//! - **ok**: it took effect, and this is what it answered;
//! - **fail**: it did not take effect and never will;
//! - **info**: it may have taken effect, or may yet. The process that invoked it makes no further
//!   operation; its worker goes on under a new process number (Jepsen's rule).
//!
//! Faults are events too, so that a report can say what was broken when.

pub mod edn;
pub mod jsonl;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Number of a key within its workload; how it is spelled in the store is the workload's affair.
pub type Key = u64;
/// Number of a node, as the cluster counts them: 1 and up.
pub type NodeId = u64;

/// A value in the store, as the workloads use them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A register, a balance, an element, or the id of an increment.
    Number(i64),
    /// A list that transactions append to.
    List(Vec<i64>),
}

/// A key at one revision, as the store reported it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// What it held.
    pub value: Value,
    /// Revision that created the key.
    pub create: i64,
    /// Revision of this version.
    #[serde(rename = "mod")]
    pub modified: i64,
    /// Writes since the key was created, counted from 1.
    pub version: i64,
}

/// One step of a transaction on lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Appends an element, unique for its key, to a list.
    Append {
        /// The list.
        key: Key,
        /// What is appended.
        value: i64,
    },
    /// Reads a list. What it held stands in the reply, under the same position.
    Read {
        /// The list.
        key: Key,
    },
}

impl Step {
    /// The list that it is about.
    pub fn key(&self) -> Key {
        match self {
            Step::Append { key, .. } | Step::Read { key } => *key,
        }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Op {
    /// Reads one key. Replies with [`Data::Version`].
    Read {
        /// The key.
        key: Key,
        /// Answered by the node from what it has, perhaps old.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        serializable: bool,
    },
    /// Writes one key, whatever it holds. Replies with [`Data::None`].
    Write {
        /// The key.
        key: Key,
        /// Unique among the values ever written to this key.
        value: i64,
    },
    /// Deletes one key. Replies with [`Data::Count`]: 1, or 0 if there was none (then no revision
    /// was made).
    Delete {
        /// The key.
        key: Key,
    },
    /// Writes `new` if the key holds `old`. If it does not, the completion is *fail* and its reply
    /// tells what the key held: [`Data::Version`], as of the reply's revision.
    Cas {
        /// The key.
        key: Key,
        /// What the key must hold.
        old: i64,
        /// What it holds afterwards, unique among the values ever written to this key.
        new: i64,
    },
    /// Adds an element to a set: each element is a key of its own. Replies with [`Data::None`].
    Add {
        /// The set.
        set: u64,
        /// The element, unique in the run. It is its own key and its own value.
        element: i64,
    },
    /// Reads a set with one range read. Replies with [`Data::Versions`], keyed by the element.
    ReadSet {
        /// The set.
        set: u64,
    },
    /// A transaction on lists: reads all of its keys, then writes the appended lists if none of the
    /// keys has changed since. A conflict is *fail*. Replies with [`Data::Steps`].
    Txn {
        /// In order. A read sees the appends of the same transaction before it.
        steps: Vec<Step>,
    },
    /// Writes the accounts 0 up to `accounts`, all in one transaction, before anything else is asked
    /// of them. Replies with [`Data::None`].
    OpenAccounts {
        /// How many.
        accounts: u64,
        /// What each holds.
        balance: i64,
    },
    /// Moves an amount between two accounts, if neither has changed since they were read and the
    /// first holds enough. Replies with [`Data::Versions`]: the two accounts **before** it.
    Transfer {
        /// Pays.
        from: Key,
        /// Is paid.
        to: Key,
        /// How much.
        amount: i64,
    },
    /// Reads all accounts with one range read. Replies with [`Data::Versions`].
    ReadAccounts,
    /// A blind put that the client repeats under a retry id until its outcome is known. The key's
    /// version counts how often any of them took effect. Replies with [`Data::Version`]: the key
    /// **before** it.
    Increment {
        /// The counter.
        key: Key,
        /// Value that is put, unique in the run.
        id: i64,
    },
    /// Reads one counter. Replies with [`Data::Version`].
    ReadCounter {
        /// The counter.
        key: Key,
    },
    /// Reads back every version of a key that the store still has, newest first. Replies with
    /// [`Data::Chain`]. Made at the end of a run, when nothing else runs.
    ReadChain {
        /// The key.
        key: Key,
    },
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Nothing but the acknowledgement.
    #[default]
    None,
    /// One key; `None` if it did not exist.
    Version(Option<Version>),
    /// The keys of a range that existed, all at one revision, sorted by key.
    Versions(Vec<(Key, Version)>),
    /// For each step of a transaction in order: what a read saw, `None` for an append.
    Steps(Vec<Option<Vec<i64>>>),
    /// Versions of one key, newest first.
    Chain(Vec<Version>),
    /// Keys deleted.
    Count(i64),
}

/// The answer to an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Revision in the header of the answer: of the write, or as of which was read.
    pub revision: i64,
    /// What was answered.
    #[serde(default)]
    pub data: Data,
}

/// The kind of an event: an operation is invoked, and completed in one of three ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It took effect.
    Ok,
    /// It did not, and never will.
    Fail,
    /// Whether it took effect is not known.
    Info,
}

/// An event of a client operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientEvent {
    /// Logical process: sequential, and done after an *info*.
    pub process: u64,
    /// Node that the client of the process talks to; 0 if it may talk to any.
    pub node: NodeId,
    /// Kind of the event.
    pub kind: Kind,
    /// What was asked; the same in both events.
    pub op: Op,
    /// On completion, what was answered, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// On completion, what went wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Part of the final reads, made when all was healed.
    #[serde(default, rename = "final", skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// What a nemesis did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Begins to break something.
    Begin,
    /// It is broken now.
    Broken,
    /// Its effect was seen from outside.
    Seen,
    /// Whether it took effect cannot be told from outside.
    Unseen,
    /// It had no effect, as seen from outside: the fault was not made.
    Disproved,
    /// It could not be broken; nothing was done.
    Skipped,
    /// Begins to heal.
    Heal,
    /// It is whole again.
    Healed,
    /// The harness could not do what it wanted to do; the run is no pass.
    Error,
}

/// An event of a nemesis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultEvent {
    /// Name of the nemesis, such as `kill-leader`.
    pub nemesis: String,
    /// Number of the fault in the run; all its events carry it.
    pub fault: u64,
    /// What happens.
    pub phase: Phase,
    /// Nodes that are hit.
    #[serde(default)]
    pub nodes: Vec<NodeId>,
    /// In words, such as `node 2 (leader) killed` or why it was skipped.
    #[serde(default)]
    pub detail: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the history, counted from 0.
    pub index: u64,
    /// Nanoseconds since the run began, never less than the event before.
    pub time: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A client.
    Client(ClientEvent),
    /// A nemesis.
    Fault(FaultEvent),
}

/// The events of a run, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// `events[i].index == i`.
    pub events: Vec<Event>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// It took effect.
    Ok(&'a Reply),
    /// It did not take effect; the reply, if there is one, is a reading.
    Fail(Option<&'a Reply>),
    /// Its outcome is not known: *info*, or no completion at all.
    Unknown,
}

/// An invocation with its completion.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Who.
    pub process: u64,
    /// Through which node; 0 for any.
    pub node: NodeId,
    /// What was asked.
    pub op: &'a Op,
    /// Index of the invocation's event.
    pub invoked: u64,
    /// Time of it, in nanoseconds.
    pub invoked_at: u64,
    /// Index of the completion's event; `u64::MAX` while the outcome is unknown, because it may
    /// take effect at any later time.
    pub completed: u64,
    /// Time of it; `u64::MAX` while the outcome is unknown.
    pub completed_at: u64,
    /// How it ended.
    pub outcome: Outcome<'a>,
    /// Part of the final reads.
    pub last: bool,
}

impl Operation<'_> {
    /// Whether this ended before the other began.
    pub fn precedes(&self, other: &Operation<'_>) -> bool {
        self.completed < other.invoked
    }
}

/// Why a history cannot be what a run wrote.
#[derive(Debug, thiserror::Error)]
#[error("event {index}: {problem}")]
pub struct Malformed {
    /// Index of the event.
    pub index: u64,
    /// What is wrong.
    pub problem: String,
}

impl History {
    /// The operations, in the order of their invocations.
    ///
    /// # Errors
    ///
    /// A completion without an invocation, a process that does two things at once or goes on after
    /// an *info*, an index out of order, or a time that goes back.
    pub fn operations(&self) -> Result<Vec<Operation<'_>>, Malformed> {
        let mut operations: Vec<Operation<'_>> = Vec::with_capacity(self.events.len() / 2);
        let mut open: HashMap<u64, Option<usize>> = HashMap::new();
        let mut time = 0;
        for (position, event) in self.events.iter().enumerate() {
            let malformed = |problem: &str| Malformed {
                index: position as u64,
                problem: problem.to_owned(),
            };
            if event.index != position as u64 {
                return Err(malformed("its index is not its position"));
            }
            if event.time < time {
                return Err(malformed("its time is before that of the event before it"));
            }
            time = event.time;
            let What::Client(client) = &event.what else {
                continue;
            };
            let slot = open.entry(client.process).or_default();
            if client.kind == Kind::Invoke {
                if slot.is_some() {
                    return Err(malformed(
                        "its process has not completed the operation before",
                    ));
                }
                *slot = Some(operations.len());
                operations.push(Operation {
                    process: client.process,
                    node: client.node,
                    op: &client.op,
                    invoked: event.index,
                    invoked_at: event.time,
                    completed: u64::MAX,
                    completed_at: u64::MAX,
                    outcome: Outcome::Unknown,
                    last: client.last,
                });
                continue;
            }
            let Some(at) = *slot else {
                return Err(malformed("it completes what was not invoked"));
            };
            let operation = &mut operations[at];
            if *operation.op != client.op {
                return Err(malformed("it completes another operation than was invoked"));
            }
            if client.kind == Kind::Info {
                // The slot stays taken: the process is done.
                continue;
            }
            *slot = None;
            operation.completed = event.index;
            operation.completed_at = event.time;
            operation.outcome = match (client.kind, &client.reply) {
                (Kind::Ok, Some(reply)) => Outcome::Ok(reply),
                (Kind::Ok, None) => return Err(malformed("it is ok and has no reply")),
                (_, reply) => Outcome::Fail(reply.as_ref()),
            };
        }
        Ok(operations)
    }

    /// The events of nemeses.
    pub fn faults(&self) -> impl Iterator<Item = (&Event, &FaultEvent)> {
        self.events.iter().filter_map(|event| match &event.what {
            What::Fault(fault) => Some((event, fault)),
            What::Client(_) => None,
        })
    }

    /// Time of the last event, in nanoseconds.
    pub fn duration(&self) -> u64 {
        self.events.last().map_or(0, |event| event.time)
    }
}
