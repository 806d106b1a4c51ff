//! The chain of a counter's versions: every id in it, once, where its answer said.

use std::collections::{BTreeMap, HashMap};

use super::{Counter, proof, wrong_value};
use crate::{
    checker::Anomaly,
    history::{Key, Operation, Value, Version},
};

/// Judges the chains that were read of a counter.
pub(super) fn judge(
    key: Key,
    counter: &Counter<'_>,
    ids: &HashMap<i64, Operation<'_>>,
    anomalies: &mut Vec<Anomaly>,
) {
    for (operation, chain) in &counter.chains {
        let reader = operation.completed;
        for version in *chain {
            anomalies.extend(wrong_value(key, version, reader, ids));
        }
        if let Some(pair) = chain.windows(2).find(|pair| !in_order(&pair[0], &pair[1])) {
            anomalies.push(proof(
                "broken-chain",
                format!(
                    "The chain of counter {key} in event {reader} goes from version {} (revision \
                     {}) to version {} (revision {}); each must be the one before.",
                    pair[0].version, pair[0].modified, pair[1].version, pair[1].modified
                ),
                [reader],
            ));
            continue;
        }
        let mut places: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for version in chain.iter().rev() {
            if let Value::Number(id) = version.value {
                places.entry(id).or_default().push(version.version);
            }
        }
        for (id, versions) in &places {
            if versions.len() > 1 {
                let invoked = ids.get(id).map(|increment| increment.invoked);
                anomalies.push(proof(
                    "applied-twice",
                    format!(
                        "The chain of counter {key} in event {reader} shows the id {id} at \
                         versions {versions:?}. It was put once, and repeated under the same retry \
                         id at most."
                    ),
                    invoked.into_iter().chain([reader]),
                ));
            }
        }
        acknowledged(key, counter, operation, chain, &places, anomalies);
    }
}

fn in_order(newer: &Version, older: &Version) -> bool {
    newer.version == older.version + 1 && newer.modified > older.modified
}

/// Looks up every acknowledged increment. Those older than the oldest version kept cannot be.
fn acknowledged(
    key: Key,
    counter: &Counter<'_>,
    operation: &Operation<'_>,
    chain: &[Version],
    places: &BTreeMap<i64, Vec<i64>>,
    anomalies: &mut Vec<Anomaly>,
) {
    let reader = operation.completed;
    let oldest = chain.last().map_or(1, |version| version.version);
    for increment in counter
        .increments
        .iter()
        .filter(|increment| increment.is_ok() && increment.operation.completed < operation.invoked)
    {
        let answered = increment.before.map(|before| before + 1);
        let id = increment.id;
        let event = increment.operation.completed;
        match places.get(&id) {
            Some(versions) => {
                if let Some(answered) = answered
                    && !versions.contains(&answered)
                {
                    anomalies.push(proof(
                        "wrong-version",
                        format!(
                            "The increment of counter {key} with the id {id} was acknowledged in \
                             event {event} as version {answered}. The chain in event {reader} \
                             shows it at version {}.",
                            versions[0]
                        ),
                        [event, reader],
                    ));
                }
            }
            None if oldest <= 1 || answered.is_some_and(|answered| answered >= oldest) => {
                anomalies.push(proof(
                    "lost-increment",
                    format!(
                        "The increment of counter {key} with the id {id} was acknowledged in event \
                         {event}. The chain in event {reader} goes from version {} down to \
                         {oldest} and does not show it.",
                        chain.first().map_or(0, |version| version.version)
                    ),
                    [event, reader],
                ));
            }
            None => {}
        }
    }
}
