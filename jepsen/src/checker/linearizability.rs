//! Linearizability of single keys: is there one order of the operations on a key that a register
//! could have executed, in which whatever was over before another began comes before it?
//!
//! Linearizability is local: a history is linearizable if it is so for every key. So each key is
//! searched by itself (see `search`). What is looked at: reads that are not serializable, writes,
//! deletes, compare-and-sets, and the readings of refused compare-and-sets. Only values count. No
//! revision is looked at, so that this checker and [`revision`](super::revision) cannot be wrong
//! together.
//!
//! An operation that failed is left out. One whose outcome is not known may come anywhere after its
//! invocation, or nowhere.
//!
//! The search is written here and not taken from `porcupine-rs` 0.3: that crate knows no optional
//! operation, starts a thread for every key, gives one answer for all keys when the time is up
//! instead of naming those that are undecided, and depends on `criterion` at run time.
//!
//! What is shown of a key that is not linearizable: its history is cut after the earliest completion
//! that leaves no order; then every operation is dropped or made optional without which there is
//! still none.

mod search;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use self::search::{ABSENT, Action, Answer, Call, IMPOSSIBLE, State, search};
use super::{
    Anomaly, Edge, Finding,
    model::{describe, describe_briefly},
};
use crate::history::{Data, History, Key, Op, Operation, Outcome, Value, Version};

/// Name of the checker.
pub const NAME: &str = "linearizability";
/// Keys that are not linearizable and are explained; the others are only counted and named.
const EXPLAINED_MAX: usize = 5;
/// Operations in an explanation that still gets all the edges of its drawing.
const EDGES_MAX: usize = 40;

/// The calls on one key.
#[derive(Default)]
struct KeyCalls {
    calls: Vec<Call>,
    states: HashMap<Value, State>,
}

impl KeyCalls {
    /// The number of a value: 1 and up, in the order in which they are met.
    fn state(&mut self, value: &Value) -> State {
        let next = self.states.len() as State + 1;
        *self.states.entry(value.clone()).or_insert(next)
    }

    fn seen(&mut self, version: Option<&Version>) -> State {
        version.map_or(ABSENT, |version| self.state(&version.value))
    }
}

/// Judges every key, for at most about `limit` in all.
///
/// Invalid if some key has no order; else unknown if some key could not be decided in time, and
/// the summary names these; else valid. A history without any such operation is valid, and says so.
pub fn check(history: &History, limit: Duration) -> Finding {
    let started = Instant::now();
    let deadline = started + limit;
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, malformed.to_string()),
    };
    let keys = match by_key(&operations) {
        Ok(keys) => keys,
        Err(why) => return Finding::unknown(NAME, 0, why),
    };
    let checked = keys.values().map(|key| key.calls.len() as u64).sum();
    let mut keys: Vec<(Key, Vec<Call>)> = keys
        .into_iter()
        .map(|(key, calls)| (key, calls.calls))
        .collect();
    // Small ones first, each at most half of the time that is left: a hard key takes no time from
    // an easy one.
    keys.sort_by_key(|(key, calls)| (calls.len(), *key));
    let mut undecided = Vec::new();
    let mut refuted = Vec::new();
    for (at, (key, calls)) in keys.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = if at + 1 == keys.len() { left } else { left / 2 };
        match search(calls, Instant::now() + share, false) {
            Answer::Linearizable => {}
            Answer::NotLinearizable(_) => refuted.push((*key, calls)),
            Answer::OutOfTime => undecided.push(*key),
        }
    }
    refuted.sort_by_key(|(key, _)| *key);
    undecided.sort_unstable();
    let mut summary = format!("{} keys, {checked} operations", keys.len());
    if !refuted.is_empty() {
        let named: Vec<Key> = refuted.iter().map(|(key, _)| *key).collect();
        summary += &format!("; not linearizable: keys {named:?}");
    }
    if !undecided.is_empty() {
        summary += &format!("; undecided after {limit:?}: keys {undecided:?}");
    }
    if refuted.is_empty() && !undecided.is_empty() {
        return Finding::unknown(NAME, checked, summary);
    }
    let anomalies: Vec<Anomaly> = refuted
        .iter()
        .take(EXPLAINED_MAX)
        .map(|(key, calls)| explain(*key, calls, &operations, Instant::now() + limit / 4))
        .collect();
    let found = refuted.len() as u64;
    let mut finding = Finding::new(NAME, checked, summary, anomalies);
    finding.anomalies_found = found;
    finding
}

/// What each key went through. An error names the reply that does not fit its operation.
fn by_key(operations: &[Operation<'_>]) -> Result<BTreeMap<Key, KeyCalls>, String> {
    let mut keys: BTreeMap<Key, KeyCalls> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        let (Op::Read { key, .. }
        | Op::Write { key, .. }
        | Op::Delete { key }
        | Op::Cas { key, .. }) = operation.op
        else {
            continue;
        };
        let number = |value: i64| Value::Number(value);
        let calls = keys.entry(*key).or_default();
        let unfit = || format!("the reply to {} does not fit it", describe(operation));
        let action = match (operation.op, operation.outcome) {
            (Op::Read { serializable, .. }, Outcome::Ok(reply)) => match &reply.data {
                _ if *serializable => continue,
                Data::Version(version) => Action::See(calls.seen(version.as_ref())),
                _ => return Err(unfit()),
            },
            (Op::Write { value, .. }, Outcome::Ok(_) | Outcome::Unknown) => {
                Action::Put(calls.state(&number(*value)))
            }
            (Op::Delete { .. }, Outcome::Ok(reply)) => match reply.data {
                Data::Count(0) => Action::See(ABSENT),
                Data::Count(_) => Action::Delete,
                _ => return Err(unfit()),
            },
            (Op::Delete { .. }, Outcome::Unknown) => Action::Delete,
            (Op::Cas { old, new, .. }, Outcome::Ok(_) | Outcome::Unknown) => Action::Swap {
                old: calls.state(&number(*old)),
                new: calls.state(&number(*new)),
            },
            (Op::Cas { old, .. }, Outcome::Fail(Some(reply))) => match &reply.data {
                // It was refused although it found what it wanted.
                Data::Version(Some(found)) if found.value == number(*old) => {
                    Action::See(IMPOSSIBLE)
                }
                Data::Version(found) => Action::See(calls.seen(found.as_ref())),
                _ => continue,
            },
            _ => continue,
        };
        calls.calls.push(Call {
            action,
            invoked: operation.invoked,
            completed: operation.completed,
            optional: matches!(operation.outcome, Outcome::Unknown),
            operation: at,
        });
    }
    keys.retain(|_, key| !key.calls.is_empty());
    Ok(keys)
}

/// A call of which one must not say that it happened.
fn relaxed(call: Call) -> Call {
    Call {
        completed: u64::MAX,
        optional: true,
        ..call
    }
}

/// The calls as they stood after the event `cut`: what was not over may or may not have happened.
fn until(calls: &[Call], cut: u64) -> Vec<Call> {
    calls
        .iter()
        .filter(|call| call.invoked <= cut)
        .filter_map(|&call| match call.action {
            _ if call.completed <= cut => Some(call),
            Action::See(_) => None,
            _ => Some(relaxed(call)),
        })
        .collect()
}

/// The calls up to the earliest completion that leaves no order. Every prefix of a linearizable
/// history is linearizable, so that completion can be found by bisection.
fn shortest_prefix(calls: &[Call], refuted: impl Fn(&[Call]) -> bool) -> Vec<Call> {
    let mut completions: Vec<u64> = calls
        .iter()
        .map(|call| call.completed)
        .filter(|&completed| completed != u64::MAX)
        .collect();
    completions.sort_unstable();
    let first = completions.partition_point(|&cut| !refuted(&until(calls, cut)));
    match completions.get(first) {
        Some(&cut) => until(calls, cut),
        None => calls.to_vec(),
    }
}

/// The calls without those that are not needed to see that there is no order: reads dropped, writes
/// made optional. Both only allow more orders, so what is refuted without them is refuted with them.
fn essential(mut calls: Vec<Call>, refuted: impl Fn(&[Call]) -> bool) -> Vec<Call> {
    let mut chunk = calls.len().div_ceil(2);
    loop {
        let mut from = 0;
        while from < calls.len() {
            let to = (from + chunk).min(calls.len());
            let mut fewer = calls[..from].to_vec();
            fewer.extend(
                calls[from..to]
                    .iter()
                    .filter(|call| call.action.makes().is_some())
                    .map(|&call| relaxed(call)),
            );
            let kept = fewer.len();
            fewer.extend_from_slice(&calls[to..]);
            let musts = |calls: &[Call]| calls.iter().filter(|call| !call.optional).count();
            if musts(&fewer) < musts(&calls) && refuted(&fewer) {
                calls = fewer;
                from = kept;
            } else {
                from = to;
            }
        }
        if chunk <= 1 {
            return calls;
        }
        chunk = chunk.div_ceil(2);
    }
}

/// The proof that a key is not linearizable.
fn explain(key: Key, calls: &[Call], operations: &[Operation<'_>], deadline: Instant) -> Anomaly {
    let refuted =
        |calls: &[Call]| matches!(search(calls, deadline, false), Answer::NotLinearizable(_));
    let prefix = shortest_prefix(calls, refuted);
    let core = essential(prefix, refuted);
    let furthest = match search(&core, deadline.max(Instant::now()), true) {
        Answer::NotLinearizable(furthest) => furthest,
        Answer::Linearizable | Answer::OutOfTime => Vec::new(),
    };
    let musts: Vec<&Call> = core.iter().filter(|call| !call.optional).collect();
    // Of the optional ones, only those matter for the drawing that made what somebody saw.
    let sources: Vec<&Call> = core
        .iter()
        .filter(|call| call.optional)
        .filter(|call| {
            call.action.makes().is_some_and(|made| {
                made != ABSENT && musts.iter().any(|must| must.action.wants() == Some(made))
            })
        })
        .collect();
    let mut shown: Vec<&Call> = musts.iter().chain(&sources).copied().collect();
    shown.sort_by_key(|call| call.invoked);
    let list = |calls: &[&Call]| {
        let words: Vec<String> = calls
            .iter()
            .map(|call| describe(&operations[call.operation]))
            .collect();
        words.join("; ")
    };
    let briefly = |ats: &[usize]| {
        let words: Vec<String> = ats
            .iter()
            .map(|&at| describe_briefly(&operations[at]))
            .collect();
        words.join("; ")
    };
    let unplaced: Vec<usize> = musts
        .iter()
        .map(|call| call.operation)
        .filter(|at| !furthest.contains(at))
        .collect();
    let mut explanation = format!(
        "Key {key}: a register cannot have executed these in any order: {}.",
        list(&musts)
    );
    if !sources.is_empty() {
        explanation += &format!(
            " Nor if each of these took effect at any time after it began, or did not: {}.",
            list(&sources),
        );
    }
    if furthest.is_empty() {
        explanation += " None of them can come first.";
    } else {
        explanation += &format!(
            " The furthest that an order comes: {}. Then it does not go on with: {}.",
            briefly(&furthest),
            briefly(&unplaced),
        );
    }
    let mut events: Vec<u64> = shown
        .iter()
        .flat_map(|call| [call.invoked, call.completed])
        .filter(|&event| event != u64::MAX)
        .collect();
    events.sort_unstable();
    Anomaly {
        name: "not-linearizable".to_owned(),
        explanation,
        events,
        edges: edges(&shown, operations),
    }
}

/// Who was over before whom, without what follows from two others, and who read what from whom.
fn edges(shown: &[&Call], operations: &[Operation<'_>]) -> Vec<Edge> {
    if shown.len() > EDGES_MAX {
        return Vec::new();
    }
    let before = |a: &Call, b: &Call| operations[a.operation].precedes(&operations[b.operation]);
    let edge = |a: &Call, b: &Call, label: &str| Edge {
        from: a.invoked,
        to: b.invoked,
        label: label.to_owned(),
    };
    let mut edges = Vec::new();
    for a in shown {
        for b in shown {
            if before(a, b) && !shown.iter().any(|c| before(a, c) && before(c, b)) {
                edges.push(edge(a, b, "realtime"));
            }
            if let (Some(made), Some(seen)) = (a.action.makes(), b.action.wants())
                && made == seen
                && made != ABSENT
                && !before(b, a)
            {
                edges.push(edge(a, b, "wr"));
            }
        }
    }
    edges
}
