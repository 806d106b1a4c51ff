//! Counters whose increments are repeated until their outcome is known: each takes effect once.
//!
//! An increment is a blind put of an id of its own, so the key's version counts the increments that
//! took effect, and the chain of its versions names them. Counters do not exist before the run.
//!
//! | name | what was seen |
//! | --- | --- |
//! | `applied-twice` | an id at two versions of the chain |
//! | `lost-increment` | an acknowledged id that the chain lacks; a final version, or a version before an increment, that is lower than what had been acknowledged |
//! | `failed-increment-seen` | an id whose increment definitely failed |
//! | `unexpected-increment` | an id that nobody used, or only later |
//! | `duplicate-version` | two acknowledged increments of the same version |
//! | `wrong-version` | an acknowledged increment that the chain shows at another version than its answer |
//! | `broken-chain` | versions of a chain that do not count down by one |
//! | `stale-counter` | a version lower than what had been acknowledged or read before |
//! | `excess` | a version higher than the increments that can have taken effect |
//!
//! An increment of unknown outcome may have taken effect once or not at all.

mod bounds;
mod chain;

use std::collections::{BTreeMap, HashMap};

use super::{Anomaly, Finding};
use crate::history::{Data, History, Key, Op, Operation, Outcome, Version};

const NAME: &str = "counter";

/// Judges all counters of a history.
///
/// *Unknown* if no increment was acknowledged, if nothing that succeeded shows a version, or if an
/// id was used twice.
pub fn check(history: &History) -> Finding {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, format!("not a history: {malformed}")),
    };
    let mut counters: BTreeMap<Key, Counter<'_>> = BTreeMap::new();
    let mut ids: HashMap<i64, Operation<'_>> = HashMap::new();
    let mut checked = 0;
    for operation in &operations {
        let (Op::Increment { key, .. } | Op::ReadCounter { key } | Op::ReadChain { key }) =
            *operation.op
        else {
            continue;
        };
        checked += 1;
        if let Op::Increment { id, .. } = *operation.op
            && let Some(twin) = ids.insert(id, *operation)
        {
            let why = format!(
                "events {} and {} both use the id {id}; only unique ids can be judged",
                twin.invoked, operation.invoked
            );
            return Finding::unknown(NAME, checked, why);
        }
        if let Err(why) = counters.entry(key).or_default().add(operation) {
            return Finding::unknown(NAME, checked, why);
        }
    }
    // The chain of a key that nobody incremented is another workload's.
    counters.retain(|_, counter| !counter.increments.is_empty() || !counter.reads.is_empty());

    let mut anomalies = Vec::new();
    for (key, counter) in &counters {
        bounds::judge(*key, counter, &ids, &mut anomalies);
        chain::judge(*key, counter, &ids, &mut anomalies);
    }
    let of = |is: fn(&Outcome<'_>) -> bool| {
        let increments = counters.values().flat_map(|counter| &counter.increments);
        increments
            .filter(|increment| is(&increment.operation.outcome))
            .count()
    };
    let acknowledged = of(|outcome| matches!(outcome, Outcome::Ok(_)));
    let unknown = of(|outcome| matches!(outcome, Outcome::Unknown));
    let reads: usize = counters.values().map(|counter| counter.reads.len()).sum();
    let chains: usize = counters.values().map(|counter| counter.chains.len()).sum();
    let shown = counters
        .values()
        .flat_map(|counter| &counter.increments)
        .any(|increment| increment.before.is_some());
    if anomalies.is_empty() {
        if acknowledged == 0 {
            return Finding::unknown(NAME, checked, "nothing to judge: no increment succeeded");
        }
        if reads + chains == 0 && !shown {
            return Finding::unknown(NAME, checked, "nothing to judge: no answer shows a version");
        }
    }
    let summary = format!(
        "{} increments of {} counters attempted, {acknowledged} acknowledged, {unknown} unknown; \
         {reads} reads, {chains} chains",
        ids.len(),
        counters.len(),
    );
    Finding::new(NAME, checked, summary, anomalies)
}

/// An attempt to increment.
struct Increment<'a> {
    operation: Operation<'a>,
    id: i64,
    /// Version before it, 0 if there was none, if the answer tells.
    before: Option<i64>,
}

impl Increment<'_> {
    fn is_ok(&self) -> bool {
        matches!(self.operation.outcome, Outcome::Ok(_))
    }

    fn is_fail(&self) -> bool {
        matches!(self.operation.outcome, Outcome::Fail(_))
    }
}

/// What was asked of one counter, and answered; each list in the order of invocations.
#[derive(Default)]
struct Counter<'a> {
    increments: Vec<Increment<'a>>,
    reads: Vec<(Operation<'a>, Option<&'a Version>)>,
    chains: Vec<(Operation<'a>, &'a [Version])>,
}

impl<'a> Counter<'a> {
    fn add(&mut self, operation: &Operation<'a>) -> Result<(), String> {
        let data = match operation.outcome {
            Outcome::Ok(reply) => Some(&reply.data),
            _ => None,
        };
        match (operation.op, data) {
            (Op::Increment { id, .. }, None | Some(Data::None)) => {
                self.increments.push(Increment {
                    operation: *operation,
                    id: *id,
                    before: None,
                });
            }
            (Op::Increment { id, .. }, Some(Data::Version(before))) => {
                self.increments.push(Increment {
                    operation: *operation,
                    id: *id,
                    before: Some(before.as_ref().map_or(0, |before| before.version)),
                });
            }
            (Op::ReadCounter { .. }, Some(Data::Version(version))) => {
                self.reads.push((*operation, version.as_ref()));
            }
            (Op::ReadChain { .. }, Some(Data::Chain(chain))) => {
                self.chains.push((*operation, chain));
            }
            (Op::ReadCounter { .. } | Op::ReadChain { .. }, None) => {}
            _ => {
                return Err(format!(
                    "event {}: the answer does not fit the operation",
                    operation.completed
                ));
            }
        }
        Ok(())
    }
}

/// An anomaly shown by these events.
fn proof(name: &str, explanation: String, events: impl IntoIterator<Item = u64>) -> Anomaly {
    let mut events: Vec<u64> = events.into_iter().collect();
    events.sort_unstable();
    events.dedup();
    Anomaly {
        name: name.to_owned(),
        explanation,
        events,
        edges: Vec::new(),
    }
}

/// Why the value of a counter cannot have been there when event `reader` told of it.
fn wrong_value(
    key: Key,
    version: &Version,
    reader: u64,
    ids: &HashMap<i64, Operation<'_>>,
) -> Option<Anomaly> {
    use crate::history::Value;
    let held = format!(
        "Event {reader} shows counter {key} at version {} with",
        version.version
    );
    let Value::Number(id) = version.value else {
        let explanation = format!("{held} a list, which nobody put.");
        return Some(proof("unexpected-increment", explanation, [reader]));
    };
    let increment = match ids.get(&id) {
        Some(increment) if matches!(increment.op, Op::Increment { key: of, .. } if *of == key) => {
            increment
        }
        _ => {
            let explanation = format!("{held} the id {id}, which nobody put there.");
            return Some(proof("unexpected-increment", explanation, [reader]));
        }
    };
    if matches!(increment.outcome, Outcome::Fail(_)) {
        return Some(proof(
            "failed-increment-seen",
            format!(
                "{held} the id {id}. The increment of that id, invoked in event {}, definitely \
                 failed in event {}.",
                increment.invoked, increment.completed
            ),
            [increment.completed, reader],
        ));
    }
    (increment.invoked > reader).then(|| {
        proof(
            "unexpected-increment",
            format!(
                "{held} the id {id}, whose increment was invoked only later, in event {}.",
                increment.invoked
            ),
            [increment.invoked, reader],
        )
    })
}
