//! Histories in Jepsen's form, for Knossos and Elle.
//!
//! One operation map a line, in the order of the history, as `jepsen.history` reads them.
//!
//! | operation | `:f` | `:value` invoked | `:value` when ok |
//! | --- | --- | --- | --- |
//! | read | `:read` | `[k nil]` | `[k v]`, `[k :absent]` if there was no key |
//! | write | `:write` | `[k v]` | the same |
//! | delete | `:write` | `[k :absent]` | the same |
//! | compare-and-set | `:cas` | `[k [old new]]` | the same |
//! | transaction on lists | `:txn` | `[[:append k v] [:r k nil]]` | `[[:append k v] [:r k [1 2]]]` |
//! | add to a set | `:add` | `x` | the same |
//! | read of a set | `:read` | `nil` | `#{1 2}` |
//! | transfer | `:transfer` | `{:from a :to b :amount n}` | the same |
//! | read of the accounts | `:read` | `nil` | `{0 10, 1 7}` |
//! | increment | `:add` | `1` | the same |
//! | read of a counter | `:read` | `nil` | times that it was incremented |
//! | read of all versions | left out: no model of Jepsen's has it; the indices then have a gap | | |
//!
//! `:type` is `:invoke`, `:ok`, `:fail` or `:info`. What failed or is not known carries the value
//! that was invoked: a compare-and-set that found another value is `:fail`, whatever it found.
//! `[k v]` stand for tuples of `jepsen.independent`, which EDN has no form for: a reader makes them, as
//! `docs/testing.md` shows. Sets and counters are such pairs too, `[set x]` and `[k 1]`, if the history
//! has more than one of them.
//!
//! A key that does not exist is `:absent`, not `nil`: Knossos takes a read of `nil` as one that fits any
//! state. Its model begins there: `(knossos.model/cas-register :absent)`.
//!
//! More keys: `:error` says what went wrong, `:serializable true` marks a read that may be old (leave
//! those out before a check of linearizability), `:final? true` the reads made after healing.
//!
//! A fault is `{:process :nemesis, :type :info, :f :kill-leader}` with `:value` in words, and
//! `:fault` (its number), `:phase` and `:nodes`.

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Write as _},
    io,
};

use super::{
    ClientEvent, Data, Event, FaultEvent, History, Kind, Op, Phase, Reply, Step, Value, What,
};

/// What a key holds that does not exist.
const ABSENT: &str = ":absent";

/// Writes a history; see the table above.
///
/// # Errors
///
/// Those of the writer.
pub fn write(history: &History, out: &mut impl io::Write) -> io::Result<()> {
    let tuples = Tuples::of(history);
    for event in &history.events {
        if let Some(line) = tuples.line(event) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// Which workloads need tuples because there is more than one object.
struct Tuples {
    sets: bool,
    counters: bool,
}

impl Tuples {
    fn of(history: &History) -> Self {
        let (mut sets, mut counters) = (BTreeSet::new(), BTreeSet::new());
        for event in &history.events {
            let What::Client(client) = &event.what else {
                continue;
            };
            match client.op {
                Op::Add { set, .. } | Op::ReadSet { set } => sets.insert(set),
                Op::Increment { key, .. } | Op::ReadCounter { key } => counters.insert(key),
                _ => false,
            };
        }
        Self {
            sets: sets.len() > 1,
            counters: counters.len() > 1,
        }
    }

    /// The operation map of an event, if it has one.
    fn line(&self, event: &Event) -> Option<String> {
        let mut line = format!("{{:index {} :time {} ", event.index, event.time);
        match &event.what {
            What::Client(client) => self.client(client, &mut line)?,
            What::Fault(fault) => {
                write_fault(fault, &mut line).expect("a string takes every write");
            }
        }
        line.push('}');
        Some(line)
    }

    fn client(&self, client: &ClientEvent, line: &mut String) -> Option<()> {
        let asked = self.value(&client.op, None)?;
        let answered = match (client.kind, &client.reply) {
            (Kind::Ok, Some(reply)) => self.value(&client.op, Some(reply)),
            (Kind::Ok, None) => None,
            _ => Some(asked.clone()),
        };
        // An answer that does not belong to the question says nothing about the effect.
        let (kind, error) = match answered {
            Some(_) => (client.kind, client.error.as_deref()),
            None => (Kind::Info, Some("the answer is of another operation")),
        };
        let kind = match kind {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        };
        let f = match client.op {
            Op::Read { .. }
            | Op::ReadSet { .. }
            | Op::ReadAccounts
            | Op::ReadCounter { .. }
            | Op::ReadChain { .. } => "read",
            Op::Write { .. } | Op::Delete { .. } => "write",
            Op::Cas { .. } => "cas",
            Op::Add { .. } | Op::Increment { .. } => "add",
            Op::Txn { .. } => "txn",
            Op::OpenAccounts { .. } => "open",
            Op::Transfer { .. } => "transfer",
        };
        let value = answered.unwrap_or(asked);
        let process = client.process;
        let mut put = |text: fmt::Arguments<'_>| {
            line.write_fmt(text).expect("a string takes every write");
        };
        put(format_args!(
            ":process {process} :type :{kind} :f :{f} :value {value}"
        ));
        if let Op::Read {
            serializable: true, ..
        } = client.op
        {
            put(format_args!(" :serializable true"));
        }
        if client.last {
            put(format_args!(" :final? true"));
        }
        if let Some(error) = error {
            put(format_args!(" :error {}", Quoted(error)));
        }
        Some(())
    }

    /// The `:value` of an operation: as invoked, or as answered. `None` if it has none, or if the
    /// answer is of another kind.
    fn value(&self, op: &Op, reply: Option<&Reply>) -> Option<String> {
        let data = reply.map(|reply| &reply.data);
        let tuple = |wanted: bool, key: u64, value: String| {
            if wanted {
                format!("[{key} {value}]")
            } else {
                value
            }
        };
        let nil = || "nil".to_owned();
        Some(match op {
            Op::Read { key, .. } => {
                let value = match data {
                    None => nil(),
                    Some(Data::Version(None)) => ABSENT.to_owned(),
                    Some(Data::Version(Some(version))) => value(&version.value),
                    Some(_) => return None,
                };
                tuple(true, *key, value)
            }
            Op::Write { key, value } => tuple(true, *key, value.to_string()),
            Op::Delete { key } => tuple(true, *key, ABSENT.to_owned()),
            Op::Cas { key, old, new } => tuple(true, *key, format!("[{old} {new}]")),
            Op::Add { set, element } => tuple(self.sets, *set, element.to_string()),
            Op::ReadSet { set } => {
                let value = match data {
                    None => nil(),
                    Some(Data::Versions(versions)) => {
                        format!("#{{{}}}", spaced(versions.iter().map(|(key, _)| key)))
                    }
                    Some(_) => return None,
                };
                tuple(self.sets, *set, value)
            }
            Op::Txn { steps } => {
                let seen = match data {
                    None => vec![None; steps.len()],
                    Some(Data::Steps(seen)) if seen.len() == steps.len() => seen.clone(),
                    Some(_) => return None,
                };
                let steps = steps.iter().zip(seen).map(|(step, seen)| match step {
                    Step::Append { key, value } => format!("[:append {key} {value}]"),
                    Step::Read { key } => match seen {
                        None => format!("[:r {key} nil]"),
                        Some(list) => format!("[:r {key} {}]", value(&Value::List(list))),
                    },
                });
                format!("[{}]", spaced(steps))
            }
            Op::Transfer { from, to, amount } => {
                format!("{{:from {from} :to {to} :amount {amount}}}")
            }
            Op::ReadAccounts => match data {
                None => nil(),
                Some(Data::Versions(versions)) => {
                    let accounts: Vec<String> = versions
                        .iter()
                        .map(|(key, version)| format!("{key} {}", value(&version.value)))
                        .collect();
                    format!("{{{}}}", accounts.join(", "))
                }
                Some(_) => return None,
            },
            Op::Increment { key, .. } => tuple(self.counters, *key, "1".to_owned()),
            Op::ReadCounter { key } => {
                let value = match data {
                    None => nil(),
                    Some(Data::Version(version)) => version
                        .as_ref()
                        .map_or(0, |version| version.version)
                        .to_string(),
                    Some(_) => return None,
                };
                tuple(self.counters, *key, value)
            }
            Op::OpenAccounts { .. } | Op::ReadChain { .. } => return None,
        })
    }
}

fn write_fault(fault: &FaultEvent, line: &mut String) -> fmt::Result {
    let phase = match fault.phase {
        Phase::Begin => "begin",
        Phase::Broken => "broken",
        Phase::Seen => "seen",
        Phase::Unseen => "unseen",
        Phase::Disproved => "disproved",
        Phase::Skipped => "skipped",
        Phase::Heal => "heal",
        Phase::Healed => "healed",
        Phase::Error => "error",
    };
    // A name may hold what ends a keyword.
    let f: String = fault
        .nemesis
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let f = if f.is_empty() { "fault" } else { &f };
    let words = if fault.detail.is_empty() {
        phase.to_owned()
    } else {
        format!("{phase}: {}", fault.detail)
    };
    write!(
        line,
        ":process :nemesis :type :info :f :{f} :value {} :fault {} :phase :{phase} :nodes [{}]",
        Quoted(&words),
        fault.fault,
        spaced(&fault.nodes),
    )
}

fn value(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::List(list) => format!("[{}]", spaced(list)),
    }
}

fn spaced<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(" ")
}

/// A string as EDN spells it.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests;
