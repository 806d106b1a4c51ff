//! Between which bounds a version must lie, by what had been acknowledged and asked around it.

use std::collections::{BTreeMap, HashMap};

use super::{Counter, proof, wrong_value};
use crate::{
    checker::Anomaly,
    history::{Key, Op, Operation},
};

/// A version that an answer shows.
struct Shown<'a> {
    operation: Operation<'a>,
    version: i64,
    /// Versions that the operation itself adds: 1 for an increment, which tells what was before it.
    own: i64,
}

/// Events of a counter by which bounds are counted.
struct Bounds {
    /// Completions of acknowledged increments, ascending.
    acknowledged: Vec<u64>,
    /// Invocations of increments that did not definitely fail, ascending.
    invoked: Vec<u64>,
    /// Completions of answers that show versions, ascending, with the highest version that was
    /// there by then and the event that showed it.
    highest: Vec<(u64, i64, u64)>,
}

impl Bounds {
    fn new(counter: &Counter<'_>, shown: &[Shown<'_>]) -> Self {
        let increments = &counter.increments;
        let mut acknowledged: Vec<u64> = increments
            .iter()
            .filter(|increment| increment.is_ok())
            .map(|increment| increment.operation.completed)
            .collect();
        acknowledged.sort_unstable();
        let mut bounds = Self {
            acknowledged,
            invoked: increments
                .iter()
                .filter(|increment| !increment.is_fail())
                .map(|increment| increment.operation.invoked)
                .collect(),
            highest: Vec::new(),
        };
        // A version that cannot be is told for itself, and no measure for others.
        let mut answers: Vec<(u64, i64)> = shown
            .iter()
            .map(|shown| (shown.operation.completed, shown.version + shown.own))
            .filter(|(event, version)| *version <= bounds.possible(*event))
            .collect();
        answers.sort_unstable();
        let mut best = (0, 0);
        for (event, version) in answers {
            if version > best.0 {
                best = (version, event);
            }
            bounds.highest.push((event, best.0, best.1));
        }
        bounds
    }

    /// Increments acknowledged before an event, and the last acknowledgement.
    fn acknowledged(&self, event: u64) -> (i64, Option<u64>) {
        let count = self.acknowledged.partition_point(|at| *at < event);
        (count as i64, self.acknowledged[..count].last().copied())
    }

    /// Increments that may have taken effect before an event.
    fn possible(&self, event: u64) -> i64 {
        self.invoked.partition_point(|at| *at < event) as i64
    }

    /// Highest version shown before an event, and the event that showed it.
    fn highest(&self, event: u64) -> Option<(i64, u64)> {
        let count = self.highest.partition_point(|(at, ..)| *at < event);
        self.highest[..count]
            .last()
            .map(|(_, version, at)| (*version, *at))
    }
}

/// Judges every version that an answer shows.
pub(super) fn judge(
    key: Key,
    counter: &Counter<'_>,
    ids: &HashMap<i64, Operation<'_>>,
    anomalies: &mut Vec<Anomaly>,
) {
    for (operation, version) in &counter.reads {
        let wrong = version.and_then(|version| wrong_value(key, version, operation.completed, ids));
        anomalies.extend(wrong);
    }
    let shown = shown(counter);
    let bounds = Bounds::new(counter, &shown);
    let newest = counter
        .chains
        .iter()
        .filter_map(|(_, chain)| chain.first())
        .map(|version| version.version)
        .max();
    for shown in &shown {
        let operation = &shown.operation;
        let (acknowledged, last) = bounds.acknowledged(operation.invoked);
        let what = format!(
            "The {} invoked in event {} and completed in event {} found counter {key} at version {}",
            name(operation),
            operation.invoked,
            operation.completed,
            shown.version
        );
        if shown.version < acknowledged {
            let is_over = operation.last && newest.is_none_or(|newest| newest < acknowledged);
            let name = match operation.op {
                Op::ReadCounter { .. } if !is_over => "stale-counter",
                _ => "lost-increment",
            };
            anomalies.push(proof(
                name,
                format!(
                    "{what}, although {acknowledged} increments had been acknowledged before it \
                     began, the last in event {}.",
                    last.unwrap_or_default()
                ),
                last.into_iter().chain([operation.completed]),
            ));
        } else if let Some((highest, at)) = bounds.highest(operation.invoked)
            && shown.version < highest
        {
            anomalies.push(proof(
                "stale-counter",
                format!("{what}, although event {at} had shown version {highest} before it began."),
                [at, operation.completed],
            ));
        }
        let possible = bounds.possible(operation.completed) - shown.own;
        if shown.version > possible {
            anomalies.push(proof(
                "excess",
                format!(
                    "{what}, although only {possible} increments that can have taken effect had \
                     been invoked before it completed."
                ),
                [operation.completed],
            ));
        }
    }
    duplicates(key, counter, anomalies);
}

fn name(operation: &Operation<'_>) -> &'static str {
    match operation.op {
        Op::Increment { .. } => "increment",
        Op::ReadChain { .. } => "reading of the chain",
        _ => "read",
    }
}

fn shown<'a>(counter: &Counter<'a>) -> Vec<Shown<'a>> {
    let reads = counter.reads.iter().map(|(operation, version)| Shown {
        operation: *operation,
        version: version.map_or(0, |version| version.version),
        own: 0,
    });
    let chains = counter.chains.iter().map(|(operation, chain)| Shown {
        operation: *operation,
        version: chain.first().map_or(0, |version| version.version),
        own: 0,
    });
    let increments = counter.increments.iter().filter_map(|increment| {
        Some(Shown {
            operation: increment.operation,
            version: increment.before?,
            own: 1,
        })
    });
    reads.chain(chains).chain(increments).collect()
}

/// No two increments change the same version.
fn duplicates(key: Key, counter: &Counter<'_>, anomalies: &mut Vec<Anomaly>) {
    let mut of: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
    for increment in &counter.increments {
        let Some(before) = increment.before else {
            continue;
        };
        let event = increment.operation.completed;
        if let Some((other, id)) = of.insert(before, (event, increment.id)) {
            anomalies.push(proof(
                "duplicate-version",
                format!(
                    "The increments of counter {key} with the ids {id} (event {other}) and {} \
                     (event {event}) were both acknowledged as the change of version {before}. \
                     Each of them must have found another version.",
                    increment.id
                ),
                [other, event],
            ));
        }
    }
}
