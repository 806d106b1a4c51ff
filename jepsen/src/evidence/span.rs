//! Operations as a reader sees them: from the invocation to the completion, *info* included, and in
//! words.
//!
//! [`History::operations`] serves the checkers, for whom an unknown outcome has no end and a
//! malformed history no meaning. Here the end that the harness saw matters, and a malformed history
//! must still be shown.

use std::collections::HashMap;

use crate::{
    history::{ClientEvent, Data, Event, History, Kind, NodeId, Op, Step, Value, Version, What},
    workload::store::REFUSALS,
};

/// An operation from its invocation to its completion.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The invocation.
    pub invoke: &'a ClientEvent,
    /// Index of the invocation.
    pub invoked: u64,
    /// Nanoseconds since the run began.
    pub invoked_at: u64,
    /// The completion, if the harness saw one.
    pub completion: Option<&'a ClientEvent>,
    /// Index of the completion.
    pub completed: Option<u64>,
    /// Nanoseconds since the run began.
    pub completed_at: Option<u64>,
}

impl Span<'_> {
    /// How it ended; never [`Kind::Invoke`].
    pub fn kind(&self) -> Kind {
        self.completion.map_or(Kind::Info, |event| event.kind)
    }

    /// It did not take effect because the store held something else than was asked for: what a correct
    /// store does, and no error.
    pub fn is_refused(&self) -> bool {
        let error = self.completion.and_then(|event| event.error.as_deref());
        self.kind() == Kind::Fail && error.is_some_and(|error| REFUSALS.contains(&error))
    }

    /// The word for how it ended, which is also its class in the style.
    pub fn outcome(&self) -> &'static str {
        match self.is_refused() {
            true => "refused",
            false => kind_word(self.kind()),
        }
    }

    /// What was asked.
    pub fn op(&self) -> &Op {
        &self.invoke.op
    }

    /// Nanoseconds from the invocation to the completion.
    pub fn latency(&self) -> Option<u64> {
        Some(self.completed_at?.saturating_sub(self.invoked_at))
    }
}

/// The spans of a history, in the order of their invocations. Completions without an invocation
/// are left out.
pub fn spans(history: &History) -> Vec<Span<'_>> {
    let mut spans: Vec<Span<'_>> = Vec::with_capacity(history.events.len() / 2);
    let mut open: HashMap<u64, usize> = HashMap::new();
    for Event { index, time, what } in &history.events {
        let What::Client(client) = what else {
            continue;
        };
        if client.kind == Kind::Invoke {
            open.insert(client.process, spans.len());
            spans.push(Span {
                invoke: client,
                invoked: *index,
                invoked_at: *time,
                completion: None,
                completed: None,
                completed_at: None,
            });
        } else if let Some(at) = open.remove(&client.process) {
            let span = &mut spans[at];
            span.completion = Some(client);
            span.completed = Some(*index);
            span.completed_at = Some(*time);
        }
    }
    spans
}

/// Name of the operation, as in the history's JSON.
pub fn name(op: &Op) -> &'static str {
    match op {
        Op::Read {
            serializable: false,
            ..
        } => "read",
        Op::Read { .. } => "read-serializable",
        Op::Write { .. } => "write",
        Op::Delete { .. } => "delete",
        Op::Cas { .. } => "cas",
        Op::Add { .. } => "add",
        Op::ReadSet { .. } => "read-set",
        Op::Txn { .. } => "txn",
        Op::OpenAccounts { .. } => "open-accounts",
        Op::Transfer { .. } => "transfer",
        Op::ReadAccounts => "read-accounts",
        Op::Increment { .. } => "increment",
        Op::ReadCounter { .. } => "read-counter",
        Op::ReadChain { .. } => "read-chain",
    }
}

/// Whether the operation changes the store when it takes effect.
pub fn is_write(op: &Op) -> bool {
    match op {
        Op::Write { .. }
        | Op::Delete { .. }
        | Op::Cas { .. }
        | Op::Add { .. }
        | Op::OpenAccounts { .. }
        | Op::Transfer { .. }
        | Op::Increment { .. } => true,
        Op::Txn { steps } => steps.iter().any(|step| matches!(step, Step::Append { .. })),
        Op::Read { .. }
        | Op::ReadSet { .. }
        | Op::ReadAccounts
        | Op::ReadCounter { .. }
        | Op::ReadChain { .. } => false,
    }
}

/// The word for a kind of event.
pub fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Invoke => "invoke",
        Kind::Ok => "ok",
        Kind::Fail => "fail",
        Kind::Info => "info",
    }
}

/// Nodes as `n1 n3`.
pub fn node_words(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(|node| format!("n{node}")).collect();
    nodes.join(" ")
}

/// What was asked, in few words.
pub fn asked(op: &Op) -> String {
    match op {
        Op::Read {
            key,
            serializable: false,
        } => format!("read {key}"),
        Op::Read { key, .. } => format!("read {key} (serializable)"),
        Op::Write { key, value } => format!("write {key} = {value}"),
        Op::Delete { key } => format!("delete {key}"),
        Op::Cas { key, old, new } => format!("cas {key}: {old} → {new}"),
        Op::Add { set, element } => format!("add {element} to set {set}"),
        Op::ReadSet { set } => format!("read set {set}"),
        Op::Txn { steps } => txn(steps, None),
        Op::Transfer { from, to, amount } => format!("transfer {amount}: {from} → {to}"),
        Op::OpenAccounts { accounts, balance } => {
            format!("open {accounts} accounts with {balance} each")
        }
        Op::ReadAccounts => "read accounts".to_owned(),
        Op::Increment { key, id } => format!("increment {key} (id {id})"),
        Op::ReadCounter { key } => format!("read counter {key}"),
        Op::ReadChain { key } => format!("read chain {key}"),
    }
}

/// What an event says beyond the question: the answer and the error. Empty if it says nothing.
pub fn answered(event: &ClientEvent) -> String {
    let mut words = Vec::new();
    if let Some(reply) = &event.reply {
        let data = match &reply.data {
            Data::None => String::new(),
            Data::Version(None) => "none".to_owned(),
            Data::Version(Some(version)) => version_words(version),
            Data::Versions(versions) => format!(
                "{{{}}}",
                elided(versions, |(key, version)| format!(
                    "{key}: {}",
                    value_words(&version.value)
                ))
            ),
            Data::Steps(seen) => match &event.op {
                Op::Txn { steps } if steps.len() == seen.len() => txn(steps, Some(seen)),
                _ => format!("{seen:?}"),
            },
            Data::Chain(versions) => format!("[{}]", elided(versions, version_words)),
            Data::Count(count) => format!("{count} deleted"),
        };
        if !data.is_empty() {
            words.push(data);
        }
        words.push(format!("at revision {}", reply.revision));
    }
    if let Some(error) = &event.error {
        words.push(error.clone());
    }
    words.join(", ")
}

/// The operation with its answer, short enough for a drawing.
pub fn drawn(span: &Span<'_>) -> String {
    let op = span.op();
    let reply = span.completion.and_then(|event| event.reply.as_ref());
    let Some(reply) = reply else {
        return asked(op);
    };
    let answer = match &reply.data {
        Data::None | Data::Count(_) => return asked(op),
        Data::Version(None) => "none".to_owned(),
        Data::Version(Some(version)) => match op {
            Op::Increment { .. } | Op::ReadCounter { .. } => format!("{} times", version.version),
            _ => value_words(&version.value),
        },
        Data::Steps(seen) => match op {
            Op::Txn { steps } if steps.len() == seen.len() => return txn(steps, Some(seen)),
            _ => return asked(op),
        },
        Data::Versions(versions) => format!(
            "{{{}}}",
            elided(versions, |(key, version)| match op {
                Op::ReadSet { .. } => key.to_string(),
                _ => format!("{key}: {}", value_words(&version.value)),
            })
        ),
        Data::Chain(versions) => {
            format!(
                "[{}]",
                elided(versions, |version| value_words(&version.value))
            )
        }
    };
    match op {
        Op::Cas { .. } if span.kind() == Kind::Fail => format!("{} (found {answer})", asked(op)),
        Op::Increment { .. } => format!("{}, before: {answer}", asked(op)),
        _ => format!("{}: {answer}", asked(op)),
    }
}

fn txn(steps: &[Step], seen: Option<&[Option<Vec<i64>>]>) -> String {
    let steps: Vec<String> = steps
        .iter()
        .enumerate()
        .map(|(at, step)| match step {
            Step::Append { key, value } => format!("append {key} {value}"),
            Step::Read { key } => match seen.and_then(|seen| seen[at].as_ref()) {
                Some(list) => format!("read {key} [{}]", elided(list, i64::to_string)),
                None => format!("read {key}"),
            },
        })
        .collect();
    steps.join(", ")
}

fn value_words(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::List(list) => format!("[{}]", elided(list, i64::to_string)),
    }
}

fn version_words(version: &Version) -> String {
    format!(
        "{} (mod {}, version {})",
        value_words(&version.value),
        version.modified,
        version.version
    )
}

/// The items that a long list is shown with: from both ends, since lists grow at their end.
const ITEMS_MAX: usize = 24;

fn elided<T>(items: &[T], words: impl Fn(&T) -> String) -> String {
    if items.len() <= ITEMS_MAX {
        let items: Vec<String> = items.iter().map(words).collect();
        return items.join(" ");
    }
    let half = ITEMS_MAX / 2;
    let shown: Vec<String> = items[..half].iter().map(&words).collect();
    let tail: Vec<String> = items[items.len() - half..].iter().map(&words).collect();
    format!(
        "{} … {} more … {}",
        shown.join(" "),
        items.len() - ITEMS_MAX,
        tail.join(" ")
    )
}
