//! What each transaction did and saw, and the contradictions that show without any order.

use std::collections::{HashMap, HashSet};

use crate::{
    checker::Anomaly,
    history::{Data, Key, Op, Operation, Outcome, Step},
};

/// A transaction.
pub(super) struct Txn<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) steps: &'a [Step],
    /// For each step what it read; empty unless the transaction is *ok*.
    answers: &'a [Option<Vec<i64>>],
    /// Whether it took effect, as far as can be known.
    pub(super) committed: bool,
    /// Event by which it had taken effect for certain: its own completion, or the earliest
    /// completion of a transaction that saw an element of it; `u64::MAX` if there is none.
    pub(super) effective: u64,
}

impl<'a> Txn<'a> {
    pub(super) fn is_ok(&self) -> bool {
        matches!(self.operation.outcome, Outcome::Ok(_))
    }

    fn is_fail(&self) -> bool {
        matches!(self.operation.outcome, Outcome::Fail(_))
    }

    /// The lists that it read, in order, each with what the step saw.
    pub(super) fn reads(&self) -> impl Iterator<Item = (Key, &'a [i64])> + use<'a> {
        let steps = self.steps;
        self.answers
            .iter()
            .zip(steps)
            .filter_map(|(answer, step)| match (step, answer) {
                (Step::Read { key }, Some(elements)) => Some((*key, elements.as_slice())),
                _ => None,
            })
    }

    /// Its appends, in order.
    pub(super) fn appends(&self) -> impl Iterator<Item = (Key, i64)> + use<'a> {
        self.steps.iter().filter_map(|step| match step {
            Step::Append { key, value } => Some((*key, *value)),
            Step::Read { .. } => None,
        })
    }
}

/// A read of a list as it was before the transaction that read it.
pub(super) struct View<'a> {
    pub(super) txn: usize,
    pub(super) key: Key,
    pub(super) elements: &'a [i64],
}

/// Who appended an element.
#[derive(Clone, Copy)]
pub(super) struct Append {
    pub(super) txn: usize,
    /// The last append of its transaction to this list.
    pub(super) last: bool,
}

/// Everything the transactions did and saw.
pub(super) struct Observed<'a> {
    /// In the order of their invocations.
    pub(super) txns: Vec<Txn<'a>>,
    pub(super) appends: HashMap<(Key, i64), Append>,
    /// First reads of each list by each transaction, without its own appends.
    pub(super) views: Vec<View<'a>>,
    internal: Vec<Anomaly>,
}

impl<'a> Observed<'a> {
    /// Takes the transactions out of a history; an error is the reason why it cannot be judged.
    pub(super) fn new(operations: &[Operation<'a>]) -> Result<Self, String> {
        let mut observed = Self {
            txns: Vec::with_capacity(operations.len()),
            appends: HashMap::new(),
            views: Vec::new(),
            internal: Vec::new(),
        };
        for operation in operations {
            if let Op::Txn { steps } = operation.op {
                observed.add(operation, steps)?;
            }
        }
        observed.settle_unknown();
        for at in 0..observed.txns.len() {
            observed.look_inside(at);
        }
        Ok(observed)
    }

    fn add(&mut self, operation: &Operation<'a>, steps: &'a [Step]) -> Result<(), String> {
        let mut answers: &[Option<Vec<i64>>] = &[];
        if let Outcome::Ok(reply) = operation.outcome {
            match &reply.data {
                Data::Steps(given) if fits(given, steps) => answers = given,
                _ => {
                    return Err(format!(
                        "event {}: the answer does not fit the steps of the transaction",
                        operation.completed
                    ));
                }
            }
        }
        let txn = Txn {
            operation: *operation,
            steps,
            answers,
            committed: matches!(operation.outcome, Outcome::Ok(_)),
            effective: operation.completed,
        };
        let at = self.txns.len();
        let mut own: HashMap<Key, i64> = HashMap::new();
        for (key, value) in txn.appends() {
            if let Some(before) = own.insert(key, value)
                && let Some(append) = self.appends.get_mut(&(key, before))
            {
                append.last = false;
            }
            let append = Append {
                txn: at,
                last: true,
            };
            if let Some(twin) = self.appends.insert((key, value), append) {
                return Err(format!(
                    "events {} and {}: both append {value} to list {key}; only unique elements can \
                     be judged",
                    self.txns
                        .get(twin.txn)
                        .map_or(operation.invoked, |txn| txn.operation.invoked),
                    operation.invoked
                ));
            }
        }
        self.txns.push(txn);
        Ok(())
    }

    /// Transactions of unknown outcome took effect if anyone saw an element of theirs. Looking at
    /// the longest read of each list is not enough here: reads may contradict each other.
    fn settle_unknown(&mut self) {
        let mut unknown: HashMap<Key, HashMap<i64, usize>> = HashMap::new();
        for (at, txn) in self.txns.iter().enumerate() {
            if matches!(txn.operation.outcome, Outcome::Unknown) {
                for (key, value) in txn.appends() {
                    unknown.entry(key).or_default().insert(value, at);
                }
            }
        }
        if unknown.is_empty() {
            return;
        }
        let mut seen: HashMap<usize, u64> = HashMap::new();
        for txn in &self.txns {
            for (key, elements) in txn.reads() {
                let Some(of_key) = unknown.get(&key) else {
                    continue;
                };
                for at in elements.iter().filter_map(|element| of_key.get(element)) {
                    let by = seen.entry(*at).or_insert(u64::MAX);
                    *by = (*by).min(txn.operation.completed);
                }
            }
        }
        for (at, by) in seen {
            self.txns[at].committed = true;
            self.txns[at].effective = by;
        }
    }

    /// Tells what a transaction saw of others from what it saw of itself.
    fn look_inside(&mut self, at: usize) {
        struct List<'a> {
            key: Key,
            /// What the first read saw.
            base: Option<&'a [i64]>,
            /// Appends of the transaction after the first read, or all of them while there is none.
            own: Vec<i64>,
        }
        let txn = &self.txns[at];
        let mut lists: Vec<List<'a>> = Vec::new();
        for (step, answer) in txn.steps.iter().zip(txn.answers) {
            let (Step::Append { key, .. } | Step::Read { key }) = *step;
            let place = match lists.iter().position(|list| list.key == key) {
                Some(place) => place,
                None => {
                    lists.push(List {
                        key,
                        base: None,
                        own: Vec::new(),
                    });
                    lists.len() - 1
                }
            };
            let list = &mut lists[place];
            match (step, answer) {
                (Step::Append { value, .. }, _) => list.own.push(*value),
                (Step::Read { .. }, Some(elements)) => {
                    let agrees = match list.base {
                        None => elements.ends_with(&list.own),
                        Some(base) => {
                            elements.len() == base.len() + list.own.len()
                                && elements.starts_with(base)
                                && elements.ends_with(&list.own)
                        }
                    };
                    if !agrees {
                        self.internal
                            .push(internal(txn, list.key, list.base, &list.own, elements));
                    } else if list.base.is_none() {
                        self.views.push(View {
                            txn: at,
                            key,
                            elements: &elements[..elements.len() - list.own.len()],
                        });
                    }
                    if list.base.is_none() {
                        list.base = Some(elements);
                        list.own.clear();
                    }
                }
                (Step::Read { .. }, None) => {}
            }
        }
    }

    /// Contradictions within transactions, intermediate reads, and lost updates.
    pub(super) fn anomalies(&self) -> Vec<Anomaly> {
        let mut anomalies = self.internal.clone();
        self.intermediate_reads(&mut anomalies);
        self.lost_updates(&mut anomalies);
        anomalies
    }

    fn intermediate_reads(&self, anomalies: &mut Vec<Anomaly>) {
        let mut told: HashSet<(Key, usize)> = HashSet::new();
        for view in &self.views {
            let Some(element) = view.elements.last() else {
                continue;
            };
            let Some(append) = self.appends.get(&(view.key, *element)) else {
                continue;
            };
            if append.last
                || append.txn == view.txn
                || self.txns[append.txn].is_fail()
                || !told.insert((view.key, append.txn))
            {
                continue;
            }
            let (writer, reader) = (&self.txns[append.txn], &self.txns[view.txn]);
            let next: Vec<i64> = writer
                .appends()
                .filter(|(key, _)| *key == view.key)
                .map(|(_, value)| value)
                .skip_while(|value| value != element)
                .skip(1)
                .collect();
            anomalies.push(proof(
                "G1b",
                format!(
                    "The transaction of event {} read list {} as {}, ending in {element}. The \
                     transaction of event {} appended that element, and after it {} to the same \
                     list: the read saw it half done.",
                    reader.operation.invoked,
                    view.key,
                    show(view.elements),
                    writer.operation.invoked,
                    show(&next),
                ),
                &[writer, reader],
            ));
        }
    }

    fn lost_updates(&self, anomalies: &mut Vec<Anomaly>) {
        let mut first: HashMap<(Key, &[i64]), usize> = HashMap::new();
        for view in &self.views {
            let own = |at: usize| {
                self.txns[at]
                    .appends()
                    .find(|(key, _)| *key == view.key)
                    .map(|(_, value)| value)
            };
            let Some(second_value) = own(view.txn) else {
                continue;
            };
            let at = *first.entry((view.key, view.elements)).or_insert(view.txn);
            if at == view.txn {
                continue;
            }
            let Some(first_value) = own(at) else {
                continue;
            };
            let (one, other) = (&self.txns[at], &self.txns[view.txn]);
            anomalies.push(proof(
                "lost-update",
                format!(
                    "The transactions of events {} and {} both read list {} as {} and both \
                     appended to it ({first_value} and {second_value}). Both were acknowledged, \
                     yet whichever came second did not see the first.",
                    one.operation.invoked,
                    other.operation.invoked,
                    view.key,
                    show(view.elements),
                ),
                &[one, other],
            ));
        }
    }

    /// Whether the transaction definitely failed.
    pub(super) fn is_aborted(&self, at: usize) -> bool {
        self.txns[at].is_fail()
    }
}

fn fits(answers: &[Option<Vec<i64>>], steps: &[Step]) -> bool {
    answers.len() == steps.len()
        && answers
            .iter()
            .zip(steps)
            .all(|(answer, step)| answer.is_some() || matches!(step, Step::Append { .. }))
}

fn internal(
    txn: &Txn<'_>,
    key: Key,
    base: Option<&[i64]>,
    own: &[i64],
    elements: &[i64],
) -> Anomaly {
    let had = match base {
        Some(base) => format!(
            "had read it as {} and then appended {}",
            show(base),
            show(own)
        ),
        None => format!("had just appended {} to it", show(own)),
    };
    proof(
        "internal",
        format!(
            "The transaction of event {} read list {key} as {}, although it {had} itself.",
            txn.operation.invoked,
            show(elements),
        ),
        &[txn],
    )
}

/// An anomaly shown by these transactions.
pub(super) fn proof(name: &str, explanation: String, txns: &[&Txn<'_>]) -> Anomaly {
    let mut events: Vec<u64> = txns.iter().map(|txn| txn.operation.invoked).collect();
    events.sort_unstable();
    events.dedup();
    Anomaly {
        name: name.to_owned(),
        explanation,
        events,
        edges: Vec::new(),
    }
}

/// A list for readers: the whole of it if it is short, else its end.
pub(super) fn show(elements: &[i64]) -> String {
    const SHOWN: usize = 8;
    let hidden = elements.len().saturating_sub(SHOWN);
    let tail: Vec<String> = elements[hidden..].iter().map(i64::to_string).collect();
    if hidden == 0 {
        format!("[{}]", tail.join(" "))
    } else {
        format!("[… {} more … {}]", hidden, tail.join(" "))
    }
}
