//! The order of each list, from the longest read of it, and the reads that contradict it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::observe::{Observed, proof, show};
use crate::{checker::Anomaly, history::Key};

/// A list that was read or appended to.
pub(super) struct List<'a> {
    pub(super) key: Key,
    /// The longest read of it.
    pub(super) elements: &'a [i64],
    /// Who read it so; none if nobody read it.
    witness: Option<usize>,
    /// No read contradicts this order, so edges may be drawn from it.
    pub(super) consistent: bool,
    /// Every read with its transaction, in the order of invocations.
    reads: Vec<(usize, &'a [i64])>,
    /// Every append to it by a transaction that took effect, in the order of invocations.
    pub(super) appends: Vec<(usize, i64)>,
}

/// The orders of all lists, by key.
pub(super) struct Orders<'a> {
    pub(super) lists: Vec<List<'a>>,
    index: HashMap<Key, usize>,
    anomalies: Vec<Anomaly>,
    /// Acknowledged appends that the final reads do not show.
    pub(super) lost: HashSet<(Key, i64)>,
}

impl<'a> Orders<'a> {
    pub(super) fn new(observed: &Observed<'a>) -> Self {
        type Touched<'a> = (Vec<(usize, &'a [i64])>, Vec<(usize, i64)>);
        let mut touched: BTreeMap<Key, Touched<'a>> = BTreeMap::new();
        for (at, txn) in observed.txns.iter().enumerate() {
            for (key, value) in txn.appends().filter(|_| txn.committed) {
                touched.entry(key).or_default().1.push((at, value));
            }
            for (key, elements) in txn.reads() {
                touched.entry(key).or_default().0.push((at, elements));
            }
        }
        let mut orders = Self {
            lists: Vec::with_capacity(touched.len()),
            index: HashMap::with_capacity(touched.len()),
            anomalies: Vec::new(),
            lost: HashSet::new(),
        };
        for (key, (reads, appends)) in touched {
            let list = orders.order(observed, key, reads, appends);
            orders.lost_appends(observed, &list);
            orders.index.insert(key, orders.lists.len());
            orders.lists.push(list);
        }
        orders
    }

    /// Position of a list among [`Self::lists`].
    pub(super) fn position(&self, key: Key) -> Option<usize> {
        self.index.get(&key).copied()
    }

    fn order(
        &mut self,
        observed: &Observed<'a>,
        key: Key,
        reads: Vec<(usize, &'a [i64])>,
        appends: Vec<(usize, i64)>,
    ) -> List<'a> {
        let longest = reads.iter().copied().reduce(|best, read| {
            if read.1.len() > best.1.len() {
                read
            } else {
                best
            }
        });
        let mut list = List {
            key,
            elements: longest.map_or(&[], |(_, elements)| elements),
            witness: longest.map(|(at, _)| at),
            consistent: true,
            reads,
            appends,
        };
        let Some((witness, order)) = longest else {
            return list;
        };
        let contradicting = list
            .reads
            .iter()
            .filter(|(_, elements)| !order.starts_with(elements))
            .min_by_key(|(_, elements)| elements.len());
        if let Some((at, elements)) = contradicting {
            list.consistent = false;
            let same = order
                .iter()
                .zip(*elements)
                .take_while(|(a, b)| a == b)
                .count();
            self.anomalies.push(proof(
                "incompatible-order",
                format!(
                    "List {key} was read as {} by the transaction of event {} and as {} by that of \
                     event {}. They differ at position {same} ({} and {}), and a list only grows \
                     at its end.",
                    show(order),
                    observed.txns[witness].operation.invoked,
                    show(elements),
                    observed.txns[*at].operation.invoked,
                    order[same],
                    elements[same],
                ),
                &[&observed.txns[witness], &observed.txns[*at]],
            ));
        }
        self.elements_seen(observed, &mut list);
        list
    }

    /// Looks at every element that anyone saw.
    fn elements_seen(&mut self, observed: &Observed<'a>, list: &mut List<'a>) {
        // The reader that was first to complete, for each element; in a consistent list a read of
        // some length shows all elements up to there, so one pass from the end suffices.
        let mut seen: Vec<(i64, usize)> = Vec::new();
        if list.consistent {
            let mut first: Vec<Option<usize>> = vec![None; list.elements.len() + 1];
            let earlier = |a: usize, b: usize| {
                let completed = |at: usize| observed.txns[at].operation.completed;
                if completed(b) < completed(a) { b } else { a }
            };
            for (at, elements) in &list.reads {
                let slot = &mut first[elements.len()];
                *slot = Some(slot.map_or(*at, |other| earlier(other, *at)));
            }
            let mut reader = None;
            for length in (1..first.len()).rev() {
                reader = match (reader, first[length]) {
                    (Some(a), Some(b)) => Some(earlier(a, b)),
                    (a, b) => a.or(b),
                };
                if let Some(reader) = reader {
                    seen.push((list.elements[length - 1], reader));
                }
            }
            seen.reverse();
        } else {
            let mut known = HashSet::new();
            for (at, elements) in &list.reads {
                seen.extend(
                    elements
                        .iter()
                        .filter(|e| known.insert(**e))
                        .map(|e| (*e, *at)),
                );
            }
        }
        for (element, reader) in &seen {
            self.origin(observed, list.key, *element, *reader);
        }
        self.duplicates(observed, list);
    }

    fn origin(&mut self, observed: &Observed<'a>, key: Key, element: i64, reader: usize) {
        let reader = &observed.txns[reader];
        match observed.appends.get(&(key, element)) {
            None => self.anomalies.push(proof(
                "phantom-element",
                format!(
                    "The transaction of event {} read {element} in list {key}. Nobody ever \
                     appended it.",
                    reader.operation.invoked
                ),
                &[reader],
            )),
            Some(append) if observed.is_aborted(append.txn) => {
                let writer = &observed.txns[append.txn];
                self.anomalies.push(proof(
                    "G1a",
                    format!(
                        "The transaction of event {} read {element} in list {key}. The transaction \
                         of event {}, which appended it, definitely failed (event {}).",
                        reader.operation.invoked,
                        writer.operation.invoked,
                        writer.operation.completed,
                    ),
                    &[writer, reader],
                ));
            }
            Some(_) => {}
        }
    }

    fn duplicates(&mut self, observed: &Observed<'a>, list: &mut List<'a>) {
        let shortest = list
            .reads
            .iter()
            .filter(|_| !list.consistent)
            .copied()
            .chain(list.witness.map(|at| (at, list.elements)))
            .filter_map(|(at, elements)| {
                let mut positions = HashMap::new();
                elements.iter().enumerate().find_map(|(position, element)| {
                    positions
                        .insert(*element, position)
                        .map(|before| (position, before, *element, at))
                })
            })
            .min();
        let Some((position, before, element, mut reader)) = shortest else {
            return;
        };
        if list.consistent {
            // Any read that is long enough shows it; the shortest is the easiest to look at.
            let enough = list
                .reads
                .iter()
                .filter(|(_, elements)| elements.len() > position);
            if let Some((at, _)) = enough.min_by_key(|(_, elements)| elements.len()) {
                reader = *at;
            }
        }
        list.consistent = false;
        let reader = &observed.txns[reader];
        self.anomalies.push(proof(
            "duplicate-elements",
            format!(
                "The transaction of event {} read {element} in list {} at positions {before} and \
                 {position}. It was appended once.",
                reader.operation.invoked, list.key,
            ),
            &[reader],
        ));
    }

    /// Acknowledged appends that no final read shows, although one began after the acknowledgement.
    fn lost_appends(&mut self, observed: &Observed<'a>, list: &List<'a>) {
        let finals = || {
            let last = |at: usize| observed.txns[at].operation.last;
            list.reads.iter().filter(move |(at, _)| last(*at))
        };
        let Some((last, read)) = finals().next_back() else {
            return;
        };
        let shown: HashSet<i64> = finals()
            .flat_map(|(_, elements)| *elements)
            .copied()
            .collect();
        let reader = &observed.txns[*last];
        for (at, value) in &list.appends {
            let writer = &observed.txns[*at];
            if !writer.is_ok()
                || shown.contains(value)
                || writer.operation.completed >= reader.operation.invoked
            {
                continue;
            }
            self.lost.insert((list.key, *value));
            self.anomalies.push(proof(
                "lost-append",
                format!(
                    "The transaction of event {} appended {value} to list {}, acknowledged in \
                     event {}. The final read of event {} shows {}, and no other final read shows \
                     {value} either.",
                    writer.operation.invoked,
                    list.key,
                    writer.operation.completed,
                    reader.operation.invoked,
                    show(read),
                ),
                &[writer, reader],
            ));
        }
    }

    /// What the reads contradict.
    pub(super) fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }
}
