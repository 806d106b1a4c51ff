//! What the answers say of each acknowledged write: it is there, or it is not.
//!
//! A linearizable answer as of a revision shows a key as it was after all writes up to there. It
//! contradicts a write that was over before the question was asked if it is as of that write's
//! revision or a later one and shows the key as it was before. It vouches for the write whose value
//! it shows. What was said last counts: a node that was behind, or a reading that was wrong, is
//! answered by a later one that shows the write after all.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use super::{Acknowledged, Proof, branch::Anchor};
use crate::{
    checker::model::{
        ChainReading, Effect, Fate, Normal, RangeReading, Reading, Seen, Space, StoreKey,
    },
    history::{Op, Value, Version},
};

/// A part of an acknowledged write: what it did to one key.
#[derive(Clone, Debug)]
struct Part {
    /// Index of the write.
    write: usize,
    revision: i64,
    /// When it was acknowledged.
    completed: u64,
    deletes: bool,
    /// What nobody else writes to this key; empty where values tell nothing of their writer.
    marks: Vec<i64>,
    /// The number that it leaves, if it leaves one that is known.
    leaves: Option<i64>,
    /// The answer that was asked for last of those that contradict it: when, and by which operation.
    contradicted: Option<(u64, usize)>,
    /// When it was shown last.
    shown: Option<u64>,
    /// It was shown by a final read.
    shown_finally: bool,
    /// It was shown there at its own revision.
    anchored: bool,
}

impl Part {
    /// Whether a version of its revision can be its own.
    fn may_have_made(&self, version: &Version) -> bool {
        !self.deletes
            && match version.value {
                Value::Number(number) => self.leaves.is_none_or(|leaves| leaves == number),
                Value::List(_) => true,
            }
    }

    /// Who proves that it is gone.
    fn gone(&self) -> Option<usize> {
        let (asked, by) = self.contradicted?;
        let shown_since = self.shown.is_some_and(|shown| shown > asked);
        (!shown_since && !self.shown_finally).then_some(by)
    }
}

/// What is known of a key.
#[derive(Default)]
struct OfKey {
    /// Ascending by revision.
    parts: Vec<Part>,
    /// By mark: which part.
    by_mark: HashMap<i64, usize>,
    /// Somebody may have deleted it.
    deletable: bool,
    /// A delete of unknown outcome may have deleted it.
    maybe_deleted: bool,
    /// What a final read showed of it, the youngest.
    last: Option<Version>,
}

/// What all answers say together.
pub(super) struct Evidence<'o, 'a> {
    operations: &'o [Normal<'a>],
    keys: BTreeMap<StoreKey, OfKey>,
    /// By write: where its parts are.
    parts: Vec<Vec<(StoreKey, usize)>>,
    /// Revisions of versions that final reads showed: of which key, and who read.
    held: HashMap<i64, Vec<(StoreKey, usize)>>,
    /// Writes of unknown outcome that final reads showed: revision and operation.
    adopted: HashSet<(i64, usize)>,
    /// By key and mark: a write of unknown outcome.
    unknown: HashMap<(StoreKey, i64), usize>,
    /// No final read contradicts another one.
    pub agrees: bool,
}

impl OfKey {
    /// Parts of these revisions, both included.
    fn between(&self, from: i64, to: i64) -> Range<usize> {
        let begin = self.parts.partition_point(|part| part.revision < from);
        let end = self.parts.partition_point(|part| part.revision <= to);
        begin..end.max(begin)
    }

    /// The part that made a version, if that is certain.
    fn writer(&self, version: &Version) -> Option<usize> {
        let named = match &version.value {
            Value::Number(number) => self.by_mark.get(number),
            Value::List(list) => list.last().and_then(|last| self.by_mark.get(last)),
        };
        let nameless = || {
            let same = self.between(version.modified, version.modified);
            let mut fit = same.filter(|&at| {
                let part = &self.parts[at];
                part.marks.is_empty() && part.may_have_made(version)
            });
            fit.next().filter(|_| fit.next().is_none())
        };
        named.copied().or_else(nameless)
    }
}

impl<'o, 'a> Evidence<'o, 'a> {
    pub fn gather(operations: &'o [Normal<'a>], writes: &[Acknowledged]) -> Self {
        let mut evidence = Self {
            operations,
            keys: BTreeMap::new(),
            parts: vec![Vec::new(); writes.len()],
            held: HashMap::new(),
            adopted: HashSet::new(),
            unknown: HashMap::new(),
            agrees: true,
        };
        evidence.file(writes);
        for (by, normal) in operations.iter().enumerate() {
            for reading in &normal.readings {
                evidence.read(by, reading);
            }
            if let Some(range) = normal.range {
                evidence.range(by, range);
            }
            if let Some(chain) = normal.chain {
                evidence.chain(by, chain);
            }
        }
        evidence.agrees = evidence.keys.values().all(|of_key| {
            of_key.parts.iter().all(|part| {
                let finally = part
                    .contradicted
                    .is_some_and(|(_, by)| operations[by].operation.last);
                !(part.shown_finally && finally)
            })
        });
        evidence
    }

    /// Files the writes under their keys.
    fn file(&mut self, writes: &[Acknowledged]) {
        for (at, normal) in self.operations.iter().enumerate() {
            let maybe = normal.fate == Fate::Maybe;
            for write in &normal.writes {
                if write.effect == Effect::Delete && normal.fate != Fate::Never {
                    let of_key = self.keys.entry(write.key).or_default();
                    of_key.deletable = true;
                    of_key.maybe_deleted |= maybe;
                }
                if maybe {
                    let marks = marks(normal.operation.op, &write.effect);
                    let marks = marks.into_iter().map(|mark| ((write.key, mark), at));
                    self.unknown.extend(marks);
                }
            }
        }
        for (n, write) in writes.iter().enumerate() {
            let normal = &self.operations[write.at];
            for part in &normal.writes {
                let of_key = self.keys.entry(part.key).or_default();
                of_key.parts.push(Part {
                    write: n,
                    revision: write.revision,
                    completed: write.completed,
                    deletes: part.effect == Effect::Delete,
                    marks: marks(normal.operation.op, &part.effect),
                    leaves: match part.effect {
                        Effect::Put(Value::Number(number)) => Some(number),
                        _ => None,
                    },
                    contradicted: None,
                    shown: None,
                    shown_finally: false,
                    anchored: false,
                });
            }
        }
        for (&key, of_key) in &mut self.keys {
            of_key.parts.sort_by_key(|part| (part.revision, part.write));
            for (at, part) in of_key.parts.iter().enumerate() {
                self.parts[part.write].push((key, at));
                let marks = part.marks.iter().map(|&mark| (mark, at));
                of_key.by_mark.extend(marks);
            }
        }
    }

    fn read(&mut self, by: usize, reading: &Reading<'_>) {
        let Reading { revision, key, .. } = *reading;
        match reading.seen {
            Seen::Version(found) => self.version(by, revision, key, found),
            Seen::List(list) => self.list(by, revision, key, list),
            Seen::Value(value) => {
                let Some(of_key) = self.keys.get(&key) else {
                    return;
                };
                if let Some(&writer) = of_key.by_mark.get(&value) {
                    let written = of_key.parts[writer].revision;
                    let overwritten = of_key.between(written + 1, revision);
                    self.show(by, key, writer, written);
                    self.contradict(by, key, overwritten, |_| true);
                }
            }
            Seen::Present => {}
        }
    }

    /// One key as it was after a revision.
    fn version(&mut self, by: usize, revision: i64, key: StoreKey, found: Option<&Version>) {
        let Some(found) = found else {
            self.absent(by, revision, key);
            return;
        };
        self.hold(by, key, found);
        let Some(of_key) = self.keys.get(&key) else {
            return;
        };
        let own = of_key.writer(found);
        let same = of_key.between(found.modified, found.modified);
        let later = of_key.between(found.modified + 1, revision);
        let generation = of_key.between(found.create, found.modified);
        let before = of_key.between(i64::MIN, found.create - 1);
        let deletable = of_key.deletable;
        if let Some(own) = own {
            self.show(by, key, own, found.modified);
        }
        // Where values do not tell whose they are, it may be any of this revision that leaves it.
        let another = |at: usize, part: &Part| own != Some(at) && !part.may_have_made(found);
        self.contradict_each(by, key, same, another);
        self.contradict_each(by, key, later, |at, _| own != Some(at));
        // It exists since `create`, so nothing deleted it since; and where nobody deletes, nothing
        // was there before.
        self.contradict(by, key, generation, |part| part.deletes);
        if !deletable {
            self.contradict_each(by, key, before, |at, _| own != Some(at));
        }
    }

    /// A key that did not exist after a revision.
    fn absent(&mut self, by: usize, revision: i64, key: StoreKey) {
        let Some(of_key) = self.keys.get(&key).filter(|of_key| !of_key.maybe_deleted) else {
            return;
        };
        let until = of_key.between(i64::MIN, revision);
        let deleted = of_key.parts[until.clone()]
            .iter()
            .rposition(|part| part.deletes);
        let since = deleted.map_or(0, |at| at + 1)..until.end;
        self.contradict(by, key, since, |_| true);
    }

    fn list(&mut self, by: usize, revision: i64, key: StoreKey, list: &[i64]) {
        let Some(of_key) = self.keys.get(&key) else {
            return;
        };
        let elements: HashSet<i64> = list.iter().copied().collect();
        let has = |part: &Part| part.marks.iter().all(|mark| elements.contains(mark));
        let until = of_key.between(i64::MIN, revision);
        let there: Vec<(usize, i64)> = list
            .iter()
            .filter_map(|element| of_key.by_mark.get(element).copied())
            .filter(|&at| has(&of_key.parts[at]))
            .map(|at| (at, of_key.parts[at].revision))
            .collect();
        for (at, own) in there {
            self.show(by, key, at, own);
        }
        self.contradict(by, key, until, |part| !has(part));
    }

    fn range(&mut self, by: usize, range: RangeReading<'_>) {
        let mut present = HashSet::with_capacity(range.seen.len());
        for (number, version) in range.seen {
            let key = in_space(range.space, *number);
            present.insert(key);
            self.version(by, range.revision, key, Some(version));
        }
        let all = in_space(range.space, 0)..=in_space(range.space, u64::MAX);
        let known = self.keys.range(all).map(|(key, _)| *key);
        let absent: Vec<StoreKey> = known.filter(|key| !present.contains(key)).collect();
        for key in absent {
            self.absent(by, range.revision, key);
        }
    }

    fn chain(&mut self, by: usize, chain: ChainReading<'_>) {
        let key = chain.key;
        let Some(oldest) = chain.versions.last() else {
            self.absent(by, chain.revision, key);
            return;
        };
        for version in chain.versions {
            self.hold(by, key, version);
        }
        let Some(of_key) = self.keys.get(&key) else {
            return;
        };
        let listed: HashMap<usize, i64> = chain
            .versions
            .iter()
            .filter_map(|version| Some((of_key.writer(version)?, version.modified)))
            .collect();
        let whole = oldest.version == 1 && !of_key.deletable;
        let from = if whole { i64::MIN } else { oldest.modified };
        let covered = of_key.between(from, chain.revision);
        for (&at, &modified) in &listed {
            self.show(by, key, at, modified);
        }
        self.contradict_each(by, key, covered, |at, part| {
            !listed.contains_key(&at) && !part.marks.is_empty() && !part.deletes
        });
    }

    /// A version that an operation found.
    fn hold(&mut self, by: usize, key: StoreKey, found: &Version) {
        if !self.operations[by].operation.last {
            return;
        }
        let held = self.held.entry(found.modified).or_default();
        if !held.iter().any(|(known, _)| *known == key) {
            held.push((key, by));
        }
        let mark = match &found.value {
            Value::Number(number) => Some(*number),
            Value::List(list) => list.last().copied(),
        };
        if let Some(&at) = mark.and_then(|mark| self.unknown.get(&(key, mark))) {
            self.adopted.insert((found.modified, at));
        }
        let of_key = self.keys.entry(key).or_default();
        let younger = of_key.last.as_ref();
        if younger.is_none_or(|known| known.modified < found.modified) {
            of_key.last = Some(found.clone());
        }
    }

    fn show(&mut self, by: usize, key: StoreKey, at: usize, revision: i64) {
        let operation = &self.operations[by].operation;
        let Some(of_key) = self.keys.get_mut(&key) else {
            return;
        };
        let part = &mut of_key.parts[at];
        part.shown = part.shown.max(Some(operation.completed));
        part.shown_finally |= operation.last;
        part.anchored |= operation.last && revision == part.revision;
    }

    fn contradict(
        &mut self,
        by: usize,
        key: StoreKey,
        range: Range<usize>,
        is_absent: impl Fn(&Part) -> bool,
    ) {
        self.contradict_each(by, key, range, |_, part| is_absent(part));
    }

    /// What an operation found contradicts those parts of the range of which `is_absent` says so, if
    /// they were acknowledged before it began.
    fn contradict_each(
        &mut self,
        by: usize,
        key: StoreKey,
        range: Range<usize>,
        is_absent: impl Fn(usize, &Part) -> bool,
    ) {
        let normal = &self.operations[by];
        let asked = normal.operation.invoked;
        // What a serializable read shows is one node's view, which may be of a state given up since.
        let tells = normal.linearizable || matches!(normal.fate, Fate::Done(_));
        let Some(of_key) = self.keys.get_mut(&key).filter(|_| tells) else {
            return;
        };
        for at in range {
            let part = &mut of_key.parts[at];
            if part.completed < asked && is_absent(at, part) {
                part.contradicted = part.contradicted.max(Some((asked, by)));
            }
        }
    }

    fn parts(&self, write: usize) -> impl Iterator<Item = &Part> {
        let places = self.parts[write].iter();
        places.map(|(key, at)| &self.keys[key].parts[*at])
    }

    /// Whether a write, or a part of it, is gone, and who proves it.
    pub fn gone(&self, write: usize) -> Option<Proof> {
        self.parts(write).find_map(Part::gone).map(Proof::Answer)
    }

    /// Whether final reads showed a write: what remains of it, if a part is gone.
    pub fn is_there(&self, write: usize) -> bool {
        self.parts(write).any(|part| part.shown_finally)
    }

    /// The writes that final reads showed at a revision.
    pub fn anchors(&self, writes: &[Acknowledged]) -> Vec<Anchor> {
        let acknowledged = writes.iter().enumerate();
        let acknowledged = acknowledged
            .filter(|(n, _)| self.parts(*n).any(|part| part.anchored))
            .map(|(_, write)| Anchor {
                at: write.at,
                revision: write.revision,
                invoked: write.invoked,
                completed: write.completed,
            });
        let adopted = self.adopted.iter().map(|&(revision, at)| Anchor {
            at,
            revision,
            invoked: self.operations[at].operation.invoked,
            completed: u64::MAX,
        });
        acknowledged.chain(adopted).collect()
    }

    /// Who found a key written at the revision of a write that does not write that key.
    pub fn taken_by(&self, write: &Acknowledged) -> Option<usize> {
        let own = &self.operations[write.at].writes;
        let held = self.held.get(&write.revision)?.iter();
        let mut others = held.filter(|(key, _)| own.iter().all(|write| write.key != *key));
        others.next().map(|(_, by)| *by)
    }

    /// How many writes must be gone because the version of a key counts fewer writes than were
    /// acknowledged since it was created and are not known to be gone.
    pub fn more_than_versions(&self, writes: &[Acknowledged], gone: &[Option<Proof>]) -> u64 {
        let excess = self.keys.values().filter_map(|of_key| {
            let last = of_key.last.as_ref()?;
            let since = &of_key.parts[of_key.between(last.create, last.modified)];
            let kept = since
                .iter()
                .filter(|part| !part.deletes && gone[part.write].is_none());
            (kept.count() as i64).checked_sub(last.version)
        });
        let excess: i64 = excess.filter(|excess| *excess > 0).sum();
        // One write may be missing in several keys.
        let widest = writes
            .iter()
            .map(|write| self.operations[write.at].writes.len());
        let widest = widest.max().unwrap_or(1).max(1) as u64;
        excess.cast_unsigned().div_ceil(widest)
    }
}

fn in_space(space: Space, key: u64) -> StoreKey {
    StoreKey { space, key }
}

/// What tells the writer of a value from all others.
fn marks(op: &Op, effect: &Effect) -> Vec<i64> {
    match effect {
        // Balances tell nothing of who made them.
        _ if matches!(op, Op::OpenAccounts { .. } | Op::Transfer { .. }) => Vec::new(),
        Effect::Put(Value::Number(number)) => vec![*number],
        Effect::Put(Value::List(list)) => list.last().copied().into_iter().collect(),
        Effect::Append(values) => values.clone(),
        Effect::Shift(_) | Effect::Delete => Vec::new(),
    }
}
