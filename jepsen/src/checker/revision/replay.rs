//! Each reading against the state at its revision.

use std::collections::{BTreeMap, HashSet};

use super::{
    Record,
    attribution::{Point, Points},
    blame::Blame,
    report::Report,
};
use crate::{
    checker::model::{
        ChainReading, Effect, Fate, RangeReading, Seen, Space, StoreKey, describe_version,
    },
    history::{Data, Op, Outcome, Value, Version},
};

/// A write nobody has told of that must have happened for a reading to be right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub key: StoreKey,
    /// After the write at this revision; 0 for the beginning.
    pub after: i64,
    /// At this revision at the latest.
    pub by: i64,
    /// Whose reading it is.
    pub witness: usize,
}

/// All of them.
#[derive(Default)]
pub(super) struct Demands {
    /// A delete.
    pub deletes: Vec<Demand>,
    /// A write that leaves something.
    pub puts: Vec<Demand>,
}

/// How many keys of a space are known to exist after each revision.
struct Population {
    /// Ascending by revision: how many from then on.
    counts: Vec<(i64, i64)>,
}

impl Population {
    fn all(points: &Points<'_>) -> BTreeMap<Space, Self> {
        let mut changes: BTreeMap<Space, Vec<(i64, i64)>> = BTreeMap::new();
        for (key, of_key) in &points.keys {
            let mut exists = false;
            for point in of_key {
                if exists == point.deletes {
                    exists = !point.deletes;
                    let change = if exists { 1 } else { -1 };
                    let of_space = changes.entry(key.space).or_default();
                    of_space.push((point.revision, change));
                }
            }
        }
        changes
            .into_iter()
            .map(|(space, mut counts)| {
                counts.sort_unstable();
                let mut count = 0;
                for (_, change) in &mut counts {
                    count += *change;
                    *change = count;
                }
                (space, Self { counts })
            })
            .collect()
    }

    fn at(&self, revision: i64) -> i64 {
        let next = self.counts.partition_point(|&(at, _)| at <= revision);
        next.checked_sub(1).map_or(0, |last| self.counts[last].1)
    }
}

struct Replay<'r, 'o, 'a> {
    record: &'r Record<'a>,
    points: &'r Points<'a>,
    report: &'r mut Report<'o, 'a>,
    demands: Demands,
}

/// Judges every reading but those of lists without a version.
pub(super) fn check<'a>(
    record: &Record<'a>,
    points: &Points<'a>,
    report: &mut Report<'_, 'a>,
) -> Demands {
    let populations = Population::all(points);
    let mut replay = Replay {
        record,
        points,
        report,
        demands: Demands::default(),
    };
    for (at, normal) in record.operations.iter().enumerate() {
        for reading in &normal.readings {
            match reading.seen {
                Seen::Version(found) => replay.version(at, reading.key, reading.revision, found),
                Seen::Value(value) => replay.value(at, reading.key, reading.revision, value),
                Seen::Present => replay.present(at, reading.key, reading.revision),
                Seen::List(_) => {}
            }
        }
        if let Some(range) = &normal.range {
            replay.range(at, range, populations.get(&range.space));
        }
        if let Some(chain) = &normal.chain {
            replay.chain(at, chain);
        }
        if let (Op::Cas { key, old, .. }, Outcome::Fail(Some(reply))) =
            (normal.operation.op, normal.operation.outcome)
            && let Data::Version(Some(found)) = &reply.data
            && found.value == Value::Number(*old)
        {
            replay.refused(at, StoreKey::of(*key), reply.revision);
        }
        if let Op::Cas { key, old, .. } = normal.operation.op
            && let Some(revision) = points.adopted.get(&at)
        {
            replay.value(at, StoreKey::of(*key), revision - 1, *old);
        }
    }
    replay.demands
}

impl<'a> Replay<'_, '_, 'a> {
    /// A reading that a later write than `seen` should be in.
    fn missed(&mut self, at: usize, key: StoreKey, point: &Point<'a>, revision: i64, seen: &str) {
        let acknowledged = point
            .writer
            .filter(|&writer| matches!(self.record.fate(writer), Fate::Done(_)));
        let (name, by) = match (acknowledged, point.writer, &point.sighting) {
            (Some(writer), _, _) => ("lost-write", Some(writer)),
            (None, _, Some(sighting)) => ("wrong-read", Some(sighting.witness)),
            (None, writer, None) => ("wrong-read", writer),
        };
        let known = match by {
            Some(by) if acknowledged.is_some() => {
                format!("acknowledged: {}", self.report.words(by))
            }
            Some(by) => format!("known from: {}", self.report.words(by)),
            None => "there before the run".to_owned(),
        };
        let explanation = format!(
            "{key} was written at revision {}, {known}. At revision {revision} it was found {seen}: \
             {}.",
            point.revision,
            self.report.words(at),
        );
        let involved: Vec<usize> = by.into_iter().chain([at]).collect();
        let order: Vec<(usize, usize, &str)> = by
            .into_iter()
            .flat_map(|by| [(by, at, "revision"), (at, by, "rw")])
            .collect();
        self.report.add(
            name,
            (Some(key), point.revision),
            explanation,
            &involved,
            &order,
        );
    }

    fn version(&mut self, at: usize, key: StoreKey, revision: i64, found: Option<&Version>) {
        let last = self.points.last(key, revision);
        match (found, last) {
            (Some(found), _)
                if found.modified > revision
                    || self.points.bad.contains(&(key, found.modified)) => {}
            (Some(found), Some(point)) if point.revision != found.modified => {
                let seen = format!("with mod revision {}", found.modified);
                self.missed(at, key, point, revision, &seen);
            }
            (None, Some(point)) if !point.deletes => self.demands.deletes.push(Demand {
                key,
                after: point.revision,
                by: revision,
                witness: at,
            }),
            _ => {}
        }
    }

    /// A compare-and-set was refused though it found what it asked for.
    fn refused(&mut self, at: usize, key: StoreKey, revision: i64) {
        let explanation = format!(
            "A compare-and-set of {key} was refused though it found what it asked for: {}.",
            self.report.words(at),
        );
        self.report
            .add("wrong-read", (Some(key), revision), explanation, &[at], &[]);
    }

    fn present(&mut self, at: usize, key: StoreKey, revision: i64) {
        let last = self.points.last(key, revision);
        if last.is_none() && self.record.began_late() {
            return;
        }
        if last.is_none_or(|point| point.deletes) {
            self.demands.puts.push(Demand {
                key,
                after: last.map_or(0, |point| point.revision),
                by: revision,
                witness: at,
            });
        }
    }

    /// A compare-and-set found this value, whatever its revision.
    fn value(&mut self, at: usize, key: StoreKey, revision: i64, value: i64) {
        let last = self.points.last(key, revision);
        if last.is_some_and(|point| self.value_of(key, point) == Some(Value::Number(value))) {
            return;
        }
        let seen = self.record.completed(at);
        let writers = self.record.writers.get(&(key, value));
        let hidden = writers.is_some_and(|writers| {
            writers.iter().any(|&writer| {
                self.record.possible(writer, revision, seen)
                    && !self.points.adopted.contains_key(&writer)
            })
        });
        // What was there before the run may never have been seen.
        if hidden || (writers.is_none() && last.is_none() && self.record.began_late()) {
            return;
        }
        let known =
            writers
                .into_iter()
                .flatten()
                .copied()
                .any(|writer| match self.record.fate(writer) {
                    Fate::Done(own) => own <= revision,
                    Fate::Maybe => self
                        .points
                        .adopted
                        .get(&writer)
                        .is_some_and(|&own| own <= revision),
                    Fate::Never => false,
                });
        if let (Some(point), true) = (last, known) {
            let point = point.clone();
            self.missed(at, key, &point, revision, &format!("with value {value}"));
            return;
        }
        let blame = Blame::new(self.record, key, Some(value), revision);
        let (name, why) = match blame.name {
            "applied-twice" => (
                "future-read",
                "The write of this value was acknowledged at a later revision",
            ),
            name => (name, blame.why),
        };
        let explanation = format!(
            "{key} held {value} at revision {revision}, according to {}. {why}{}.",
            self.report.words(at),
            blame
                .writer
                .map(|writer| format!(": {}", self.report.words(writer)))
                .unwrap_or_default(),
        );
        let involved: Vec<usize> = blame.writer.into_iter().chain([at]).collect();
        self.report
            .add(name, (Some(key), revision), explanation, &involved, &[]);
    }

    /// What a point leaves, if that is known.
    fn value_of(&self, key: StoreKey, point: &Point<'a>) -> Option<Value> {
        if let Some(sighting) = &point.sighting {
            return Some(sighting.version.value.clone());
        }
        let writes = &self.record.operations[point.writer?].writes;
        match &writes.iter().find(|write| write.key == key)?.effect {
            Effect::Put(value) => Some(value.clone()),
            _ => None,
        }
    }

    fn range(&mut self, at: usize, range: &RangeReading<'_>, population: Option<&Population>) {
        let key = |key| StoreKey {
            space: range.space,
            key,
        };
        let mut found = 0;
        for (number, version) in range.seen {
            let key = key(*number);
            self.version(at, key, range.revision, Some(version));
            let last = self.points.last(key, range.revision);
            found += i64::from(last.is_some_and(|point| !point.deletes));
        }
        if population.map_or(0, |population| population.at(range.revision)) <= found {
            return;
        }
        let seen: HashSet<u64> = range.seen.iter().map(|(number, _)| *number).collect();
        let absent: Vec<StoreKey> = self
            .points
            .keys
            .range(key(0)..=key(u64::MAX))
            .map(|(key, _)| *key)
            .filter(|key| !seen.contains(&key.key))
            .collect();
        for key in absent {
            self.version(at, key, range.revision, None);
        }
    }

    /// Each version of a chain was the newest one before the next. Deletes between generations are
    /// not in it, so what it says of a revision is only which write that leaves something was last.
    fn chain(&mut self, at: usize, chain: &ChainReading<'_>) {
        let key = chain.key;
        let Some(newest) = chain.versions.first() else {
            self.version(at, key, chain.revision, None);
            return;
        };
        self.newest(at, key, chain.revision, newest);
        for pair in chain.versions.windows(2) {
            let [later, earlier] = pair else { continue };
            let continues = later.create == earlier.create;
            if continues && later.version != earlier.version + 1
                || !continues && later.version != 1
                || later.modified <= earlier.modified
            {
                let explanation = format!(
                    "In the chain of versions of {key}, {} cannot follow {}: {}.",
                    describe_version(later),
                    describe_version(earlier),
                    self.report.words(at),
                );
                self.report.add(
                    "wrong-version-counter",
                    (Some(key), later.modified),
                    explanation,
                    &[at],
                    &[],
                );
            }
            self.newest(at, key, later.modified - 1, earlier);
        }
    }

    fn newest(&mut self, at: usize, key: StoreKey, revision: i64, found: &Version) {
        let mut revision = revision;
        while let Some(point) = self.points.last(key, revision)
            && point.deletes
            && point.revision > found.modified
        {
            revision = point.revision - 1;
        }
        self.version(at, key, revision, Some(found));
    }
}
