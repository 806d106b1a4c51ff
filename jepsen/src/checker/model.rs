//! One form for the operations of all workloads: what was read at which revision, what was written
//! at which, what may have been written.
//!
//! The store that is modelled is etcd's: one revision for each transaction that writes; a version of
//! a key carries the revision that created the key, its own, and a counter that is 1 at creation and
//! grows by one with each write; a delete ends the generation; a delete of nothing makes no
//! revision. What a write reads with its transaction is the state right before its own revision.

use crate::history::{Data, Key, Op, Operation, Outcome, Step, Value, Version};

/// A part of the store that one range read covers. A key of one is never a key of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Registers, lists, accounts or counters: the keys of the one workload of a run.
    Keys,
    /// The elements of a set.
    Set(u64),
}

/// A key of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey {
    /// Where it is.
    pub space: Space,
    /// Number of it, there; an element of a set is numbered by its bits.
    pub key: Key,
}

impl std::fmt::Display for StoreKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.space {
            Space::Keys => write!(f, "key {}", self.key),
            Space::Set(set) => write!(f, "element {} of set {set}", self.key.cast_signed()),
        }
    }
}

/// What a write does to a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The key holds this afterwards.
    Put(Value),
    /// These are appended to the list.
    Append(Vec<i64>),
    /// The balance changes by this much.
    Shift(i64),
    /// The key is gone.
    Delete,
}

/// A write to one key, part of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: StoreKey,
    /// What happens to it.
    pub effect: Effect,
}

/// What a reading says of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<'a> {
    /// The key in full; `None` if there was none.
    Version(Option<&'a Version>),
    /// The list it held, empty if there was none.
    List(&'a [i64]),
    /// The value it held; nothing is known of its revisions.
    Value(i64),
    /// It existed.
    Present,
}

/// What an operation found at one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<'a> {
    /// The state after this revision.
    pub revision: i64,
    /// The key.
    pub key: StoreKey,
    /// What it held.
    pub seen: Seen<'a>,
}

/// What an operation found in a whole space; what is not listed was absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeReading<'a> {
    /// The state after this revision.
    pub revision: i64,
    /// What was read.
    pub space: Space,
    /// The keys that existed.
    pub seen: &'a [(Key, Version)],
}

/// The versions of one key that the store still had.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChainReading<'a> {
    /// The state after this revision.
    pub revision: i64,
    /// The key.
    pub key: StoreKey,
    /// Newest first.
    pub versions: &'a [Version],
}

/// Whether the writes of an operation happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// At this revision.
    Done(i64),
    /// At some revision after the invocation, or never.
    Maybe,
    /// Never.
    Never,
}

/// An operation in the common form.
#[derive(Clone, Debug)]
pub struct Normal<'a> {
    /// The operation.
    pub operation: Operation<'a>,
    /// Whether its writes happened.
    pub fate: Fate,
    /// What it writes, all at one revision; at most one entry for a key.
    pub writes: Vec<Write>,
    /// What it found at single keys.
    pub readings: Vec<Reading<'a>>,
    /// What it found in a whole space.
    pub range: Option<RangeReading<'a>>,
    /// What it found of the past of a key.
    pub chain: Option<ChainReading<'a>>,
    /// Revision in the header of the reply, if there was one.
    pub header: Option<i64>,
    /// It must see everything that was over when it began.
    pub linearizable: bool,
}

/// A value in words.
pub fn describe_value(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::List(list) => format!("{list:?}"),
    }
}

/// A version in words.
pub fn describe_version(version: &Version) -> String {
    format!(
        "{} (create revision {}, mod revision {}, version {})",
        describe_value(&version.value),
        version.create,
        version.modified,
        version.version
    )
}

/// What an operation asked, in words.
fn asked(op: &Op) -> String {
    match op {
        Op::Read { key, serializable } if *serializable => format!("serializable read of {key}"),
        Op::Read { key, .. } => format!("read of {key}"),
        Op::Write { key, value } => format!("write of {value} to {key}"),
        Op::Delete { key } => format!("delete of {key}"),
        Op::Cas { key, old, new } => format!("cas of {key} from {old} to {new}"),
        Op::Add { set, element } => format!("add of {element} to set {set}"),
        Op::ReadSet { set } => format!("read of set {set}"),
        Op::Txn { steps } => {
            let steps: Vec<String> = steps
                .iter()
                .map(|step| match step {
                    Step::Append { key, value } => format!("append {value} to {key}"),
                    Step::Read { key } => format!("read {key}"),
                })
                .collect();
            format!("txn [{}]", steps.join(", "))
        }
        Op::Transfer { from, to, amount } => format!("transfer of {amount} from {from} to {to}"),
        Op::ReadAccounts => "read of the accounts".to_owned(),
        Op::Increment { key, id } => format!("increment {id} of {key}"),
        Op::ReadCounter { key } => format!("read of counter {key}"),
        Op::ReadChain { key } => format!("read of all versions of {key}"),
    }
}

/// What an operation was answered, in words; begins with a blank unless there is nothing to tell.
fn answered(data: &Data, revisions: bool) -> String {
    match data {
        Data::Version(None) => " with nothing".to_owned(),
        Data::Version(Some(found)) if revisions => format!(
            " with {} of revision {}",
            describe_value(&found.value),
            found.modified
        ),
        Data::Version(Some(found)) => format!(" with {}", describe_value(&found.value)),
        Data::Versions(found) => format!(" with {} keys", found.len()),
        Data::Steps(found) if found.iter().any(Option::is_some) => format!(
            " with {:?}",
            found.iter().flatten().collect::<Vec<&Vec<i64>>>()
        ),
        Data::Count(count) => format!(" with {count} deleted"),
        Data::None | Data::Chain(_) | Data::Steps(_) => String::new(),
    }
}

/// An operation in words: what was asked, who, the events, what was answered.
pub fn describe(operation: &Operation<'_>) -> String {
    let found = match operation.outcome {
        Outcome::Unknown => "outcome unknown".to_owned(),
        Outcome::Fail(None) => "failed".to_owned(),
        Outcome::Fail(Some(reply)) => format!(
            "failed{} at revision {}",
            answered(&reply.data, true),
            reply.revision
        ),
        Outcome::Ok(reply) => format!(
            "answered{} at revision {}",
            answered(&reply.data, true),
            reply.revision
        ),
    };
    let events = if operation.completed == u64::MAX {
        format!("#{}", operation.invoked)
    } else {
        format!("#{}–#{}", operation.invoked, operation.completed)
    };
    format!(
        "{} ({events}, process {}, {found})",
        asked(operation.op),
        operation.process
    )
}

/// An operation in few words, without revisions: what was asked and answered, and the invocation.
pub fn describe_briefly(operation: &Operation<'_>) -> String {
    let found = match operation.outcome {
        Outcome::Ok(reply) | Outcome::Fail(Some(reply)) => answered(&reply.data, false),
        _ => String::new(),
    };
    let refused = matches!(operation.outcome, Outcome::Fail(_));
    let answer = match (refused, found.is_empty()) {
        (true, _) => format!(" refused{found}"),
        (false, false) => format!(" answered{found}"),
        (false, true) => String::new(),
    };
    format!("{}{answer} (#{})", asked(operation.op), operation.invoked)
}

impl StoreKey {
    /// A key of the workload.
    pub fn of(key: Key) -> Self {
        Self {
            space: Space::Keys,
            key,
        }
    }

    /// An element of a set.
    pub fn element(set: u64, element: i64) -> Self {
        Self {
            space: Space::Set(set),
            key: element.cast_unsigned(),
        }
    }
}

impl<'a> Normal<'a> {
    /// Brings an operation into the common form.
    ///
    /// # Errors
    ///
    /// In words, if the reply does not fit the operation, or has no revision.
    pub fn new(operation: Operation<'a>) -> Result<Self, String> {
        let mut normal = Self {
            operation,
            fate: match operation.outcome {
                Outcome::Ok(reply) => Fate::Done(reply.revision),
                Outcome::Fail(_) => Fate::Never,
                Outcome::Unknown => Fate::Maybe,
            },
            writes: Vec::new(),
            readings: Vec::new(),
            range: None,
            chain: None,
            header: match operation.outcome {
                Outcome::Ok(reply) => Some(reply.revision),
                Outcome::Fail(reply) => reply
                    .map(|reply| reply.revision)
                    .filter(|&revision| revision > 0),
                Outcome::Unknown => None,
            },
            linearizable: false,
        };
        normal.read_effects();
        if let Outcome::Ok(reply) = operation.outcome {
            if reply.revision < 1 {
                return Err(format!(
                    "the reply to {} has no revision",
                    describe(&operation)
                ));
            }
            normal
                .read_reply(reply.revision, &reply.data)
                .ok_or_else(|| format!("the reply to {} does not fit it", describe(&operation)))?;
        } else if let (Op::Cas { key, .. }, Outcome::Fail(Some(reply))) =
            (operation.op, operation.outcome)
            && let Data::Version(found) = &reply.data
            && reply.revision > 0
        {
            normal.linearizable = true;
            normal.found(reply.revision, *key, found.as_ref());
        }
        if normal.writes.is_empty() {
            normal.fate = Fate::Never;
        }
        Ok(normal)
    }

    fn found(&mut self, revision: i64, key: Key, version: Option<&'a Version>) {
        self.readings.push(Reading {
            revision,
            key: StoreKey::of(key),
            seen: Seen::Version(version),
        });
    }

    /// What the operation writes if it takes effect, as far as the request tells.
    fn read_effects(&mut self) {
        let put = |key, value| Write {
            key,
            effect: Effect::Put(Value::Number(value)),
        };
        match self.operation.op {
            Op::Write { key, value } => self.writes.push(put(StoreKey::of(*key), *value)),
            Op::Cas { key, new, .. } => self.writes.push(put(StoreKey::of(*key), *new)),
            Op::Increment { key, id } => self.writes.push(put(StoreKey::of(*key), *id)),
            Op::Add { set, element } => {
                let key = StoreKey::element(*set, *element);
                self.writes.push(put(key, *element));
            }
            Op::Delete { key } => self.writes.push(Write {
                key: StoreKey::of(*key),
                effect: Effect::Delete,
            }),
            Op::Transfer { from, to, amount } if from != to => {
                for (key, amount) in [(from, -amount), (to, *amount)] {
                    self.writes.push(Write {
                        key: StoreKey::of(*key),
                        effect: Effect::Shift(amount),
                    });
                }
            }
            Op::Txn { steps } => {
                for step in steps {
                    let Step::Append { key, value } = step else {
                        continue;
                    };
                    let key = StoreKey::of(*key);
                    match self.writes.iter_mut().find(|write| write.key == key) {
                        Some(Write {
                            effect: Effect::Append(values),
                            ..
                        }) => values.push(*value),
                        _ => self.writes.push(Write {
                            key,
                            effect: Effect::Append(vec![*value]),
                        }),
                    }
                }
            }
            _ => {}
        }
    }

    /// What an acknowledgement tells; `None` if it does not fit.
    fn read_reply(&mut self, revision: i64, data: &'a Data) -> Option<()> {
        self.linearizable = self.writes.is_empty();
        match (self.operation.op, data) {
            (Op::Read { key, serializable }, Data::Version(found)) => {
                self.linearizable = !serializable;
                self.found(revision, *key, found.as_ref());
            }
            (Op::ReadCounter { key }, Data::Version(found)) => {
                self.found(revision, *key, found.as_ref());
            }
            (Op::Increment { key, .. }, Data::Version(found)) => {
                self.found(revision - 1, *key, found.as_ref());
            }
            (Op::Write { .. } | Op::Add { .. }, _) => {}
            (Op::Cas { key, old, .. }, _) => self.readings.push(Reading {
                revision: revision - 1,
                key: StoreKey::of(*key),
                seen: Seen::Value(*old),
            }),
            (Op::Delete { key }, Data::Count(0)) => {
                self.writes.clear();
                self.linearizable = true;
                self.found(revision, *key, None);
            }
            (Op::Delete { key }, Data::Count(_)) => self.readings.push(Reading {
                revision: revision - 1,
                key: StoreKey::of(*key),
                seen: Seen::Present,
            }),
            (Op::ReadSet { .. } | Op::ReadAccounts, Data::Versions(seen)) => {
                let space = match self.operation.op {
                    Op::ReadSet { set } => Space::Set(*set),
                    _ => Space::Keys,
                };
                self.range = Some(RangeReading {
                    revision,
                    space,
                    seen,
                });
            }
            (Op::Transfer { from, to, amount }, Data::Versions(before)) => {
                self.writes.clear();
                for (key, change) in [(*from, -amount), (*to, *amount)] {
                    let found = before
                        .iter()
                        .find_map(|(at, version)| (*at == key).then_some(version));
                    self.found(revision - 1, key, found);
                    let effect = match found.map(|found| &found.value) {
                        Some(Value::Number(held)) => Effect::Put(Value::Number(held + change)),
                        _ => Effect::Shift(change),
                    };
                    if from != to {
                        let key = StoreKey::of(key);
                        self.writes.push(Write { key, effect });
                    }
                }
            }
            (Op::Txn { steps }, Data::Steps(found)) if steps.len() == found.len() => {
                self.read_steps(revision, steps, found)?;
            }
            (Op::ReadChain { key }, Data::Chain(versions)) => {
                self.chain = Some(ChainReading {
                    revision,
                    key: StoreKey::of(*key),
                    versions,
                });
            }
            _ => return None,
        }
        Some(())
    }

    fn read_steps(
        &mut self,
        revision: i64,
        steps: &[Step],
        found: &'a [Option<Vec<i64>>],
    ) -> Option<()> {
        let before = revision - i64::from(!self.writes.is_empty());
        for (at, step) in steps.iter().enumerate() {
            let Step::Read { key } = step else {
                continue;
            };
            let own: Vec<i64> = steps[..at]
                .iter()
                .filter_map(|step| match step {
                    Step::Append { key: other, value } if other == key => Some(*value),
                    _ => None,
                })
                .collect();
            let list = found[at].as_deref()?;
            // A list that lacks what the transaction itself has appended is judged as one read
            // after it, where these are missing.
            let (revision, list) = match list.strip_suffix(own.as_slice()) {
                Some(list) => (before, list),
                None => (revision, list),
            };
            self.readings.push(Reading {
                revision,
                key: StoreKey::of(*key),
                seen: Seen::List(list),
            });
        }
        Some(())
    }
}
