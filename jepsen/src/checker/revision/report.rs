//! Anomalies of one check, each fact told once.

use std::collections::{HashMap, HashSet};

use crate::checker::{
    ANOMALIES_MAX, Anomaly, Edge, Finding,
    model::{Normal, StoreKey, describe},
};

/// Anomalies found so far.
pub(super) struct Report<'o, 'a> {
    operations: &'o [Normal<'a>],
    told: HashSet<(&'static str, Option<StoreKey>, i64)>,
    anomalies: Vec<Anomaly>,
}

impl<'o, 'a> Report<'o, 'a> {
    pub fn new(operations: &'o [Normal<'a>]) -> Self {
        Self {
            operations,
            told: HashSet::new(),
            anomalies: Vec::new(),
        }
    }

    /// An operation in words.
    pub fn words(&self, operation: usize) -> String {
        describe(&self.operations[operation].operation)
    }

    /// Records a contradiction between these operations. `key` and `revision` say what it is about:
    /// a second one of the same name about the same is not told. `order` names pairs of operations
    /// of which the first must come before the second, and why.
    pub fn add(
        &mut self,
        name: &'static str,
        (key, revision): (Option<StoreKey>, i64),
        explanation: String,
        operations: &[usize],
        order: &[(usize, usize, &str)],
    ) {
        if !self.told.insert((name, key, revision)) {
            return;
        }
        let mut events: Vec<u64> = operations
            .iter()
            .flat_map(|&at| {
                let operation = &self.operations[at].operation;
                [operation.invoked, operation.completed]
            })
            .filter(|&event| event != u64::MAX)
            .collect();
        events.sort_unstable();
        events.dedup();
        let invoked = |at: usize| self.operations[at].operation.invoked;
        self.anomalies.push(Anomaly {
            name: name.to_owned(),
            explanation,
            events,
            edges: order
                .iter()
                .map(|&(from, to, label)| Edge {
                    from: invoked(from),
                    to: invoked(to),
                    label: label.to_owned(),
                })
                .collect(),
        });
    }

    /// The finding. It spells out the smallest proof of each name before a second one of any, so that
    /// one mistake that shows a hundred times does not hide another.
    pub fn finding(mut self, checker: &str, summary: String) -> Finding {
        let found = self.anomalies.len() as u64;
        self.anomalies
            .sort_by_key(|anomaly| (anomaly.events.len(), anomaly.events.last().copied()));
        let mut of_name: HashMap<String, usize> = HashMap::new();
        let mut ranked: Vec<(usize, Anomaly)> = Vec::with_capacity(self.anomalies.len());
        for anomaly in self.anomalies {
            let rank = of_name.entry(anomaly.name.clone()).or_default();
            *rank += 1;
            ranked.push((*rank, anomaly));
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.truncate(ANOMALIES_MAX);
        let checked = self.operations.len() as u64;
        let anomalies = ranked.into_iter().map(|(_, anomaly)| anomaly).collect();
        let mut finding = Finding::new(checker, checked, summary, anomalies);
        finding.anomalies_found = found;
        finding
    }
}
