//! Lists that transactions append to, by what they held.
//!
//! The reply of a transaction tells what a list held, and no revision of it. But lists only grow, so
//! each reading of one must begin with the reading at the revision before it, and what was added is
//! told apart by its elements: those acknowledged between the two revisions, all of them and in
//! order, and between them any of unknown outcome, whole and once. Lists begin empty.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Record, report::Report};
use crate::{
    checker::model::{Effect, Fate, Seen, StoreKey},
    history::{Value, Version},
};

/// What a list held after a revision, by an operation.
#[derive(Clone, Copy)]
struct Listed<'a> {
    revision: i64,
    list: &'a [i64],
    witness: usize,
}

/// A write of unknown outcome to a list, told by a reading to have happened or not.
struct Glimpse {
    revision: i64,
    witness: usize,
}

/// What the readings say of a write of unknown outcome to several lists.
#[derive(Default)]
struct Halves {
    /// The earliest reading it is in.
    shown: Option<Glimpse>,
    /// The latest reading it is not in.
    hidden: Option<Glimpse>,
}

/// Judges what was read of lists.
pub(super) fn check<'a>(record: &Record<'a>, report: &mut Report<'_, 'a>) {
    let mut appends: BTreeMap<StoreKey, Vec<usize>> = BTreeMap::new();
    let mut others: Vec<StoreKey> = Vec::new();
    for (at, normal) in record.operations.iter().enumerate() {
        for write in &normal.writes {
            match write.effect {
                Effect::Append(_) => appends.entry(write.key).or_default().push(at),
                _ if normal.fate != Fate::Never => others.push(write.key),
                _ => {}
            }
        }
    }
    for key in others {
        appends.remove(&key);
    }
    if appends.is_empty() {
        return;
    }
    let mut readings: BTreeMap<StoreKey, Vec<Listed<'a>>> = BTreeMap::new();
    for (at, normal) in record.operations.iter().enumerate() {
        let mut add = |key, revision, list| {
            readings.entry(key).or_default().push(Listed {
                revision,
                list,
                witness: at,
            });
        };
        for reading in &normal.readings {
            match reading.seen {
                Seen::List(list) => add(reading.key, reading.revision, list),
                Seen::Version(None) => add(reading.key, reading.revision, &[]),
                Seen::Version(Some(Version {
                    value: Value::List(list),
                    ..
                })) => add(reading.key, reading.revision, list),
                _ => {}
            }
        }
        if let Some(chain) = normal.chain {
            for version in chain.versions {
                if let Value::List(list) = &version.value {
                    add(chain.key, version.modified, list);
                }
            }
        }
    }
    let mut halves: HashMap<usize, Halves> = HashMap::new();
    for (key, writers) in appends {
        let Some(mut readings) = readings.remove(&key) else {
            continue;
        };
        readings.sort_by_key(|reading| (reading.revision, reading.list.len()));
        let mut growth = Growth::new(record, report, key, &writers);
        let mut before = Listed {
            revision: 0,
            list: &[],
            witness: usize::MAX,
        };
        for reading in readings {
            if growth.compare(before, reading) {
                before = reading;
            }
        }
        for at in writers {
            if record.fate(at) != Fate::Maybe || record.operations[at].writes.len() < 2 {
                continue;
            }
            let halves = halves.entry(at).or_default();
            let shown = growth.shown.remove(&at);
            let hidden = match &shown {
                Some((_, hidden)) => *hidden,
                None => before,
            };
            if hidden.witness != usize::MAX
                && halves
                    .hidden
                    .as_ref()
                    .is_none_or(|known| known.revision < hidden.revision)
            {
                halves.hidden = Some(Glimpse {
                    revision: hidden.revision,
                    witness: hidden.witness,
                });
            }
            if let Some((shown, _)) = shown
                && halves
                    .shown
                    .as_ref()
                    .is_none_or(|known| shown.revision < known.revision)
            {
                halves.shown = Some(Glimpse {
                    revision: shown.revision,
                    witness: shown.witness,
                });
            }
        }
    }
    let mut halves: Vec<(usize, Halves)> = halves.into_iter().collect();
    halves.sort_unstable_by_key(|(at, _)| *at);
    for (at, halves) in halves {
        if let (Some(shown), Some(hidden)) = (halves.shown, halves.hidden)
            && hidden.revision >= shown.revision
        {
            let explanation = format!(
                "A transaction was seen in one list at revision {} and not yet in another at revision \
                 {}: {}. In: {}. Not in: {}.",
                shown.revision,
                hidden.revision,
                report.words(at),
                report.words(shown.witness),
                report.words(hidden.witness),
            );
            report.add(
                "wrong-read",
                (None, at as i64),
                explanation,
                &[at, shown.witness, hidden.witness],
                &[(at, shown.witness, "wr"), (hidden.witness, at, "rw")],
            );
        }
    }
}

struct Growth<'g, 'o, 'a> {
    record: &'g Record<'a>,
    report: &'g mut Report<'o, 'a>,
    key: StoreKey,
    /// Acknowledged appends, ascending by revision.
    done: Vec<(i64, usize)>,
    /// Appends of unknown outcome: the first reading each is in, and the one before that.
    shown: HashMap<usize, (Listed<'a>, Listed<'a>)>,
}

impl<'g, 'o, 'a> Growth<'g, 'o, 'a> {
    fn new(
        record: &'g Record<'a>,
        report: &'g mut Report<'o, 'a>,
        key: StoreKey,
        writers: &[usize],
    ) -> Self {
        let mut done: Vec<(i64, usize)> = writers
            .iter()
            .filter_map(|&at| match record.fate(at) {
                Fate::Done(revision) => Some((revision, at)),
                _ => None,
            })
            .collect();
        done.sort_unstable();
        Self {
            record,
            report,
            key,
            done,
            shown: HashMap::new(),
        }
    }

    fn tell(&mut self, name: &'static str, about: i64, what: &str, involved: &[usize]) {
        let told: Vec<String> = involved.iter().map(|&at| self.report.words(at)).collect();
        let explanation = format!("The list of {} {what}: {}.", self.key, told.join("; "));
        self.report
            .add(name, (Some(self.key), about), explanation, involved, &[]);
    }

    fn writer(&self, element: i64) -> Option<usize> {
        let writers = self.record.writers.get(&(self.key, element))?;
        writers.first().copied()
    }

    fn elements(&self, writer: usize) -> &'g [i64] {
        let writes = &self.record.operations[writer].writes;
        match writes.iter().find(|write| write.key == self.key) {
            Some(write) => match &write.effect {
                Effect::Append(elements) => elements,
                _ => &[],
            },
            None => &[],
        }
    }

    /// Tells of elements that no list can hold: of nobody, of a write that failed, or twice.
    fn impossible(&mut self, now: Listed<'a>) -> bool {
        let mut seen = HashSet::new();
        let mut found = false;
        for &element in now.list {
            let held = format!("held {element} at revision {}", now.revision);
            let writer = self.writer(element);
            let (name, what) = match writer.map(|writer| self.record.fate(writer)) {
                None => ("phantom-value", "which nobody appended"),
                Some(Fate::Never) => ("failed-write-seen", "but appending it had failed"),
                Some(_) if !seen.insert(element) => ("applied-twice", "twice"),
                Some(_) => continue,
            };
            let involved: Vec<usize> = writer.into_iter().chain([now.witness]).collect();
            self.tell(name, element, &format!("{held}, {what}"), &involved);
            found = true;
        }
        found
    }

    /// Judges a reading by the one before it in the order of revisions. Whether the next can be
    /// judged by this one.
    fn compare(&mut self, before: Listed<'a>, now: Listed<'a>) -> bool {
        let kept = before
            .list
            .iter()
            .zip(now.list)
            .take_while(|(a, b)| a == b)
            .count();
        let new = kept < now.list.len();
        if new && self.impossible(now) {
            return false;
        }
        if kept < before.list.len() {
            let gone = before.list[kept];
            let writer = self.writer(gone);
            let acknowledged =
                writer.is_some_and(|writer| matches!(self.record.fate(writer), Fate::Done(_)));
            let (name, what) = if now.list.contains(&gone) {
                ("wrong-read", "is in another order")
            } else if acknowledged {
                ("lost-write", "has lost it")
            } else {
                ("wrong-read", "does not have it")
            };
            let what = format!(
                "held {gone} as its element {kept} at revision {}, and at revision {} {what}",
                before.revision, now.revision
            );
            let involved: Vec<usize> = writer
                .into_iter()
                .chain([before.witness, now.witness])
                .collect();
            self.tell(name, gone, &what, &involved);
            return true;
        }
        if before.revision == now.revision && now.list.len() > kept && before.witness != usize::MAX
        {
            let what = format!(
                "was told in two ways at revision {}: with and without {}",
                now.revision, now.list[kept]
            );
            self.tell(
                "wrong-read",
                now.list[kept],
                &what,
                &[before.witness, now.witness],
            );
            return true;
        }
        self.added(kept, before, now);
        true
    }

    /// Judges the elements from `at` on, of which each has one writer that did not fail.
    fn added(&mut self, mut at: usize, before: Listed<'a>, now: Listed<'a>) {
        let from = self
            .done
            .partition_point(|&(revision, _)| revision <= before.revision);
        let to = self
            .done
            .partition_point(|&(revision, _)| revision <= now.revision);
        let expected: Vec<(i64, usize)> = self.done[from..to].to_vec();
        let mut next = 0;
        while let Some(&element) = now.list.get(at) {
            let held = format!("held {element} at revision {}", now.revision);
            let writer = self
                .writer(element)
                .expect("elements of nobody were refused before");
            let involved = [writer, now.witness];
            let elements = self.elements(writer);
            let whole = now.list[at..].starts_with(elements);
            match self.record.fate(writer) {
                Fate::Never | Fate::Maybe => {
                    let seen = self.record.completed(now.witness);
                    if !self.record.possible(writer, now.revision, seen) {
                        let what = format!("{held}, which cannot have been appended by then");
                        self.tell("future-read", element, &what, &involved);
                    }
                    self.shown.entry(writer).or_insert((now, before));
                }
                Fate::Done(revision) if revision > now.revision => {
                    let what = format!("{held}, but it was appended at revision {revision}");
                    self.tell("future-read", element, &what, &involved);
                }
                Fate::Done(revision) => {
                    let place = expected[next..].iter().position(|&(_, at)| at == writer);
                    let Some(place) = place else {
                        let what = format!("{held}, not in the place of its revision {revision}");
                        self.tell("wrong-read", element, &what, &involved);
                        at += 1;
                        continue;
                    };
                    for &(_, skipped) in &expected[next..next + place] {
                        self.skipped(skipped, now);
                    }
                    next += place + 1;
                }
            }
            if whole {
                at += elements.len();
            } else {
                let what = format!("{held}, but not {elements:?}, as it was appended");
                self.tell("wrong-read", element, &what, &involved);
                at += 1;
            }
        }
        for &(_, skipped) in &expected[next..] {
            self.skipped(skipped, now);
        }
    }

    /// An acknowledged append is not where it must be in a reading.
    fn skipped(&mut self, writer: usize, now: Listed<'a>) {
        let elements = self.elements(writer);
        let first = elements.first().copied().unwrap_or_default();
        let (name, what) = if now.list.contains(&first) {
            ("wrong-read", "in its place")
        } else {
            ("lost-write", "at all")
        };
        let what = format!(
            "does not hold {elements:?} {what} at revision {}",
            now.revision
        );
        self.tell(name, first, &what, &[writer, now.witness]);
    }
}
