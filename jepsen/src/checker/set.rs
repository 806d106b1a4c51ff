//! Sets that only grow: what was added and acknowledged stays.
//!
//! An element *must* be in every read of its set that begins after it was there for certain: after
//! its add was acknowledged, or after a read that shows it was complete. An element *may* be in a
//! read from the moment its add was invoked, unless the add definitely failed.
//!
//! | name | what was seen |
//! | --- | --- |
//! | `lost` | an element that must be there is not in the last read of its set |
//! | `stale` | a read lacks an element that must be there, and a later read has it |
//! | `failed-add-seen` | an element whose add definitely failed |
//! | `unexpected` | an element that nobody added, or not yet, or not to this set |
//!
//! An add of unknown outcome may be seen or not; once seen, it must stay.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Anomaly, Finding};
use crate::history::{Data, History, Key, Op, Operation, Outcome, Value, Version};

const NAME: &str = "set";

/// Judges all sets of a history.
///
/// *Unknown* if no add was acknowledged or no read succeeded, or if an element was added twice.
pub fn check(history: &History) -> Finding {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, format!("not a history: {malformed}")),
    };
    let mut adds: Vec<Operation<'_>> = Vec::new();
    let mut index: HashMap<i64, usize> = HashMap::new();
    let mut sets: BTreeMap<u64, Vec<Read<'_>>> = BTreeMap::new();
    let mut checked = 0;
    for operation in &operations {
        match operation.op {
            Op::Add { element, .. } => {
                checked += 1;
                if let Some(twin) = index.insert(*element, adds.len()) {
                    return Finding::unknown(
                        NAME,
                        checked,
                        format!(
                            "events {} and {} both add {element}; only unique elements can be judged",
                            adds[twin].invoked, operation.invoked
                        ),
                    );
                }
                adds.push(*operation);
            }
            Op::ReadSet { set } => {
                checked += 1;
                let Outcome::Ok(reply) = operation.outcome else {
                    continue;
                };
                let Data::Versions(elements) = &reply.data else {
                    let why = format!(
                        "event {}: not the answer to a read of a set",
                        operation.completed
                    );
                    return Finding::unknown(NAME, checked, why);
                };
                sets.entry(*set).or_default().push(Read {
                    operation: *operation,
                    elements,
                });
            }
            _ => {}
        }
    }

    let mut anomalies = Vec::new();
    let mut recovered = 0;
    for (set, reads) in &sets {
        let judged = OneSet::new(*set, reads, &adds, &index, &mut anomalies);
        recovered += judged.recovered(&adds);
        judged.missing(&adds, &mut anomalies);
    }
    let acknowledged = count(&adds, |outcome| matches!(outcome, Outcome::Ok(_)));
    let unknown = count(&adds, |outcome| matches!(outcome, Outcome::Unknown));
    let lost = anomalies
        .iter()
        .filter(|anomaly| anomaly.name == "lost")
        .count();
    let reads: usize = sets.values().map(Vec::len).sum();
    if anomalies.is_empty() && (acknowledged == 0 || reads == 0) {
        let what = if reads == 0 { "read of a set" } else { "add" };
        return Finding::unknown(
            NAME,
            checked,
            format!("nothing to judge: no {what} succeeded"),
        );
    }
    let summary = format!(
        "{} adds attempted, {acknowledged} acknowledged, {recovered} of {unknown} unknown \
         recovered, {lost} lost; {reads} reads of {} sets",
        adds.len(),
        sets.len(),
    );
    Finding::new(NAME, checked, summary, anomalies)
}

fn count(adds: &[Operation<'_>], is: impl Fn(&Outcome<'_>) -> bool) -> usize {
    adds.iter().filter(|add| is(&add.outcome)).count()
}

/// A read that succeeded.
struct Read<'a> {
    operation: Operation<'a>,
    elements: &'a [(Key, Version)],
}

/// An element that must be in every read invoked after event `since`.
#[derive(Clone, Copy)]
struct Certain {
    add: usize,
    since: u64,
}

struct OneSet<'r, 'a> {
    set: u64,
    /// In the order of their invocations.
    reads: &'r [Read<'a>],
    /// For each read the adds whose elements it shows, sorted.
    shown: Vec<Vec<usize>>,
    /// By `since`.
    certain: Vec<Certain>,
}

impl<'r, 'a> OneSet<'r, 'a> {
    /// Looks up every element of every read; those that have no place in it are anomalies.
    fn new(
        set: u64,
        reads: &'r [Read<'a>],
        adds: &[Operation<'_>],
        index: &HashMap<i64, usize>,
        anomalies: &mut Vec<Anomaly>,
    ) -> Self {
        let mut since: BTreeMap<usize, u64> = adds
            .iter()
            .enumerate()
            .filter(|(_, add)| matches!(add.op, Op::Add { set: of, .. } if *of == set))
            .filter(|(_, add)| matches!(add.outcome, Outcome::Ok(_)))
            .map(|(at, add)| (at, add.completed))
            .collect();
        let mut shown = Vec::with_capacity(reads.len());
        let mut told: HashSet<i64> = HashSet::new();
        for read in reads {
            let mut here = Vec::with_capacity(read.elements.len());
            for (key, version) in read.elements {
                let element = *key as i64;
                match problem(set, element, version, read, adds, index) {
                    Ok(at) => {
                        here.push(at);
                        let by = since.entry(at).or_insert(u64::MAX);
                        *by = (*by).min(read.operation.completed);
                    }
                    Err(anomaly) => {
                        if told.insert(element) {
                            anomalies.push(anomaly);
                        }
                    }
                }
            }
            here.sort_unstable();
            here.dedup();
            shown.push(here);
        }
        let mut certain: Vec<Certain> = since
            .into_iter()
            .map(|(add, since)| Certain { add, since })
            .collect();
        certain.sort_by_key(|certain| certain.since);
        Self {
            set,
            reads,
            shown,
            certain,
        }
    }

    /// Adds of unknown outcome that a read shows.
    fn recovered(&self, adds: &[Operation<'_>]) -> usize {
        self.certain
            .iter()
            .filter(|certain| matches!(adds[certain.add].outcome, Outcome::Unknown))
            .count()
    }

    /// Finds the reads that lack what they must show, and tells the first of each element.
    fn missing(&self, adds: &[Operation<'_>], anomalies: &mut Vec<Anomaly>) {
        let mut since: HashMap<usize, u64> = HashMap::new();
        since.extend(
            self.certain
                .iter()
                .map(|certain| (certain.add, certain.since)),
        );
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, (read, shown)) in self.reads.iter().zip(&self.shown).enumerate() {
            let invoked = read.operation.invoked;
            let due = self
                .certain
                .partition_point(|certain| certain.since < invoked);
            let there = shown.iter().filter(|add| since[*add] < invoked).count();
            if there == due {
                continue;
            }
            for certain in &self.certain[..due] {
                if shown.binary_search(&certain.add).is_err() {
                    first.entry(certain.add).or_insert(at);
                }
            }
        }
        let Some(last) = self.reads.last() else {
            return;
        };
        let in_last = self.shown.last().map_or(&[][..], Vec::as_slice);
        for (add, at) in first {
            let since = since[&add];
            let known = self.known(&adds[add], add, since);
            let Op::Add { element, .. } = adds[add].op else {
                continue;
            };
            let set = self.set;
            if in_last.binary_search(&add).is_err() {
                anomalies.push(Anomaly {
                    name: "lost".to_owned(),
                    explanation: format!(
                        "Element {element} of set {set} was there for certain: {known}. The last \
                         read of the set (invoked in event {}, completed in event {}) does not \
                         show it.",
                        last.operation.invoked, last.operation.completed,
                    ),
                    events: vec![since, last.operation.completed],
                    edges: Vec::new(),
                });
                continue;
            }
            let stale = &self.reads[at].operation;
            let back = (at + 1..self.reads.len())
                .find(|later| self.shown[*later].binary_search(&add).is_ok())
                .map_or(last.operation.completed, |later| {
                    self.reads[later].operation.completed
                });
            let mut events = vec![since, stale.completed, back];
            events.sort_unstable();
            anomalies.push(Anomaly {
                name: "stale".to_owned(),
                explanation: format!(
                    "Element {element} of set {set} was there for certain: {known}. The read \
                     invoked in event {} and completed in event {} does not show it, though the \
                     read completed in event {back} does.",
                    stale.invoked, stale.completed,
                ),
                events,
                edges: Vec::new(),
            });
        }
    }

    /// Why an element was there for certain.
    fn known(&self, operation: &Operation<'_>, add: usize, since: u64) -> String {
        if since == operation.completed {
            return format!("its add was acknowledged in event {since}");
        }
        let reader = self
            .reads
            .iter()
            .zip(&self.shown)
            .find(|(read, shown)| {
                read.operation.completed == since && shown.binary_search(&add).is_ok()
            })
            .map_or(since, |(read, _)| read.operation.completed);
        format!("the read completed in event {reader} shows it")
    }
}

/// The add of an element that a read shows, or why it must not show it.
fn problem(
    set: u64,
    element: i64,
    version: &Version,
    read: &Read<'_>,
    adds: &[Operation<'_>],
    index: &HashMap<i64, usize>,
) -> Result<usize, Anomaly> {
    let reader = read.operation.completed;
    let anomaly = |name: &str, why: String, cause: Option<u64>| {
        let mut events: Vec<u64> = cause.into_iter().chain([reader]).collect();
        events.sort_unstable();
        Anomaly {
            name: name.to_owned(),
            explanation: format!(
                "The read of set {set} completed in event {reader} shows element {element}, {why}."
            ),
            events,
            edges: Vec::new(),
        }
    };
    let Some(at) = index.get(&element).copied() else {
        return Err(anomaly(
            "unexpected",
            "which nobody ever added".into(),
            None,
        ));
    };
    let add = &adds[at];
    let Op::Add { set: of, .. } = add.op else {
        return Err(anomaly(
            "unexpected",
            "which nobody ever added".into(),
            None,
        ));
    };
    if *of != set {
        let why = format!("which event {} adds to set {of}", add.invoked);
        return Err(anomaly("unexpected", why, Some(add.invoked)));
    }
    if matches!(add.outcome, Outcome::Fail(_)) {
        let why = format!(
            "whose add, invoked in event {}, definitely failed in event {}",
            add.invoked, add.completed
        );
        return Err(anomaly("failed-add-seen", why, Some(add.completed)));
    }
    if add.invoked > reader {
        let why = format!("whose add was invoked only later, in event {}", add.invoked);
        return Err(anomaly("unexpected", why, Some(add.invoked)));
    }
    if version.value != Value::Number(element) {
        let why = format!(
            "with the value {:?} instead of its own number",
            version.value
        );
        return Err(anomaly("unexpected", why, Some(add.invoked)));
    }
    Ok(at)
}
