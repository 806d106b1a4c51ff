//! Whose is each version that was seen?
//!
//! A version seen at a revision belongs to the write acknowledged at that revision. If there is
//! none, a write of unknown outcome must have made it, one that fits everything seen at that
//! revision, and no write can have made two: a matching of revisions to writes, which is trivial
//! where values are unique and is not for transfers of equal amounts.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Record,
    blame::{Blame, mark},
    report::Report,
    sightings::{self, Sighting, Sightings},
};
use crate::{
    checker::model::{Effect, Fate, StoreKey, describe_value},
    history::Value,
};

/// A write known to have happened to a key.
#[derive(Clone, Debug)]
pub(super) struct Point<'a> {
    pub revision: i64,
    /// The key is gone afterwards.
    pub deletes: bool,
    /// Who wrote; `None` if it was there before the run.
    pub writer: Option<usize>,
    pub sighting: Option<Sighting<'a>>,
}

/// The writes known to have happened.
pub(super) struct Points<'a> {
    /// By key, ascending by revision.
    pub keys: BTreeMap<StoreKey, Vec<Point<'a>>>,
    /// Writes of unknown outcome that were seen, and where. A transfer may be one of several alike.
    pub adopted: HashMap<usize, i64>,
    /// Revisions of versions that have no business there and were told as anomalies.
    pub disputed: HashSet<i64>,
    /// These versions. Readings of them are not judged any further.
    pub bad: HashSet<(StoreKey, i64)>,
}

/// Whether an effect can have made this value; of a shift, see [`Points::shifted`].
fn makes(effect: &Effect, value: &Value) -> bool {
    match (effect, value) {
        (Effect::Put(put), value) => put == value,
        (Effect::Append(values), Value::List(list)) => list.ends_with(values),
        (Effect::Shift(_), Value::Number(_)) => true,
        _ => false,
    }
}

impl<'a> Points<'a> {
    pub fn new(record: &Record<'a>, report: &mut Report<'_, '_>) -> Self {
        let mut points = Self {
            keys: BTreeMap::new(),
            adopted: HashMap::new(),
            disputed: HashSet::new(),
            bad: HashSet::new(),
        };
        let sightings = sightings::collect(record, &mut points.bad, report);
        let loose = points.place(record, &sightings, report);
        points.adopt(record, &sightings, &loose, report);
        points
    }

    /// The last write to a key at or before a revision.
    pub fn last(&self, key: StoreKey, revision: i64) -> Option<&Point<'a>> {
        let points = self.keys.get(&key)?;
        points[..points.partition_point(|point| point.revision <= revision)].last()
    }

    /// Makes the points of acknowledged writes and of what was there before. What is left are
    /// versions without an acknowledged write, by revision.
    fn place(
        &mut self,
        record: &Record<'a>,
        sightings: &Sightings<'a>,
        report: &mut Report<'_, '_>,
    ) -> BTreeMap<i64, Vec<StoreKey>> {
        let mut points: BTreeMap<StoreKey, BTreeMap<i64, Point<'a>>> = BTreeMap::new();
        for (at, normal) in record.operations.iter().enumerate() {
            let Fate::Done(revision) = normal.fate else {
                continue;
            };
            for write in &normal.writes {
                points.entry(write.key).or_default().insert(
                    revision,
                    Point {
                        revision,
                        deletes: write.effect == Effect::Delete,
                        writer: Some(at),
                        sighting: None,
                    },
                );
            }
        }
        let mut loose: BTreeMap<i64, Vec<StoreKey>> = BTreeMap::new();
        for (&key, of_key) in sightings {
            for (&revision, sighting) in of_key {
                if let Some(&writer) = record.done.get(&revision) {
                    let write = record.operations[writer]
                        .writes
                        .iter()
                        .find(|write| write.key == key);
                    if write.is_some_and(|write| makes(&write.effect, &sighting.version.value))
                        && let Some(point) = points.get_mut(&key).and_then(|p| p.get_mut(&revision))
                    {
                        point.sighting = Some(sighting.clone());
                    } else {
                        self.accuse(record, key, sighting, report);
                    }
                } else if revision <= record.base && !Self::named(record, key, sighting) {
                    points.entry(key).or_default().insert(
                        revision,
                        Point {
                            revision,
                            deletes: false,
                            writer: None,
                            sighting: Some(sighting.clone()),
                        },
                    );
                } else {
                    loose.entry(revision).or_default().push(key);
                }
            }
        }
        self.keys = points
            .into_iter()
            .map(|(key, points)| (key, points.into_values().collect()))
            .collect();
        loose
    }

    /// Whether a write of the run bears the value that was seen, so that it cannot have been there
    /// before.
    fn named(record: &Record<'a>, key: StoreKey, sighting: &Sighting<'a>) -> bool {
        mark(&sighting.version.value).is_some_and(|mark| record.writers.contains_key(&(key, mark)))
    }

    /// Finds a write of unknown outcome for each revision in `loose`.
    fn adopt(
        &mut self,
        record: &Record<'a>,
        sightings: &Sightings<'a>,
        loose: &BTreeMap<i64, Vec<StoreKey>>,
        report: &mut Report<'_, '_>,
    ) {
        let revisions: Vec<i64> = loose.keys().copied().collect();
        let mut candidates: Vec<Vec<usize>> = Vec::with_capacity(revisions.len());
        for (&revision, keys) in loose {
            let of_keys: Vec<Vec<usize>> = keys
                .iter()
                .map(|&key| Self::candidates(record, sightings, revision, key))
                .collect();
            let mut fit = of_keys[0].clone();
            fit.retain(|at| of_keys.iter().all(|others| others.contains(at)));
            if fit.is_empty() && of_keys.iter().all(|others| !others.is_empty()) {
                self.two_at_once(revision, keys, sightings, report);
            } else if fit.is_empty() {
                for (&key, own) in keys.iter().zip(&of_keys) {
                    if own.is_empty() {
                        self.accuse(record, key, &sightings[&key][&revision], report);
                    } else {
                        self.dispute(key, revision);
                    }
                }
            }
            candidates.push(fit);
        }
        let mut owner: HashMap<usize, usize> = HashMap::new();
        for at in 0..revisions.len() {
            if candidates[at].is_empty() {
                continue;
            }
            if !match_one(at, &candidates, &mut owner, &mut HashSet::new()) {
                let writer = candidates[at][0];
                let other = revisions[owner[&writer]];
                let (key, revision) = (loose[&revisions[at]][0], revisions[at]);
                let witnesses = [
                    sightings[&loose[&other][0]][&other].witness,
                    sightings[&key][&revision].witness,
                ];
                for &key in &loose[&revision] {
                    self.dispute(key, revision);
                }
                let explanation = format!(
                    "One write was seen at two revisions, {other} and {revision}: {}. Seen by: {}; \
                     {}.",
                    report.words(writer),
                    report.words(witnesses[0]),
                    report.words(witnesses[1]),
                );
                report.add(
                    "applied-twice",
                    (Some(key), revision),
                    explanation,
                    &[writer, witnesses[0], witnesses[1]],
                    &[],
                );
            }
        }
        for (writer, at) in owner {
            let revision = revisions[at];
            self.adopted.insert(writer, revision);
            let same_keys = |other: &usize| {
                let keys = |at: usize| record.operations[at].writes.iter().map(|write| write.key);
                keys(*other).all(|key| keys(writer).any(|own| own == key))
            };
            // Where several transfers fit, only what all of them write is known to be written.
            let certain = candidates[at].iter().all(same_keys);
            for write in &record.operations[writer].writes {
                let sighting = sightings
                    .get(&write.key)
                    .and_then(|of_key| of_key.get(&revision));
                if certain || sighting.is_some() {
                    self.keys.entry(write.key).or_default().push(Point {
                        revision,
                        deletes: false,
                        writer: Some(writer),
                        sighting: sighting.cloned(),
                    });
                }
            }
        }
        for points in self.keys.values_mut() {
            points.sort_by_key(|point| point.revision);
        }
    }

    /// Writes of unknown outcome that can have made what was seen of a key at a revision.
    fn candidates(
        record: &Record<'a>,
        sightings: &Sightings<'a>,
        revision: i64,
        key: StoreKey,
    ) -> Vec<usize> {
        let sighting = &sightings[&key][&revision];
        let named = mark(&sighting.version.value)
            .and_then(|mark| record.writers.get(&(key, mark)))
            .into_iter();
        let transfers = record.transfers.get(&key).into_iter();
        named
            .chain(transfers)
            .flatten()
            .copied()
            .filter(|&at| record.possible(at, revision, sighting.first))
            .filter(|&at| {
                record.operations[at].writes.iter().all(|write| {
                    let seen = sightings.get(&write.key).and_then(|of| of.get(&revision));
                    seen.is_none_or(|seen| {
                        makes(&write.effect, &seen.version.value)
                            && Self::shifted(sightings, write.key, &write.effect, seen)
                    })
                })
            })
            .collect()
    }

    /// Whether a balance differs by the right amount from the one right before it, if that is known.
    fn shifted(
        sightings: &Sightings<'a>,
        key: StoreKey,
        effect: &Effect,
        seen: &Sighting<'a>,
    ) -> bool {
        let Effect::Shift(change) = effect else {
            return true;
        };
        let version = &seen.version;
        let before = sightings[&key].range(..version.modified).next_back();
        match (before.map(|(_, before)| &before.version), &version.value) {
            (Some(before), Value::Number(after))
                if before.create == version.create && before.version + 1 == version.version =>
            {
                matches!(before.value, Value::Number(held) if held + change == *after)
            }
            _ => true,
        }
    }

    fn two_at_once(
        &mut self,
        revision: i64,
        keys: &[StoreKey],
        sightings: &Sightings<'a>,
        report: &mut Report<'_, '_>,
    ) {
        let witnesses: Vec<usize> = keys
            .iter()
            .map(|key| sightings[key][&revision].witness)
            .collect();
        for &key in keys {
            self.dispute(key, revision);
        }
        let seen: Vec<String> = keys
            .iter()
            .zip(&witnesses)
            .map(|(key, &witness)| format!("{key} in {}", report.words(witness)))
            .collect();
        let explanation = format!(
            "Versions of revision {revision} were seen that no single write can have made: {}.",
            seen.join("; "),
        );
        report.add(
            "duplicate-revision",
            (None, revision),
            explanation,
            &witnesses,
            &[],
        );
    }

    /// Takes a version out of all further judgement.
    fn dispute(&mut self, key: StoreKey, revision: i64) {
        self.bad.insert((key, revision));
        self.disputed.insert(revision);
    }

    /// Tells why a version has no business at its revision.
    fn accuse(
        &mut self,
        record: &Record<'a>,
        key: StoreKey,
        sighting: &Sighting<'a>,
        report: &mut Report<'_, '_>,
    ) {
        let revision = sighting.version.modified;
        self.dispute(key, revision);
        let blame = Blame::new(record, key, mark(&sighting.version.value), revision);
        let explanation = format!(
            "{key} was seen with value {} and mod revision {revision}: {}. {}{}.",
            describe_value(&sighting.version.value),
            report.words(sighting.witness),
            blame.why,
            blame
                .writer
                .map(|writer| format!(": {}", report.words(writer)))
                .unwrap_or_default(),
        );
        let involved: Vec<usize> = blame.writer.into_iter().chain([sighting.witness]).collect();
        report.add(
            blame.name,
            (Some(key), revision),
            explanation,
            &involved,
            &[],
        );
    }
}

/// Finds a free writer for the revision numbered `at`, moving others if need be (Kuhn's matching).
fn match_one(
    at: usize,
    candidates: &[Vec<usize>],
    owner: &mut HashMap<usize, usize>,
    tried: &mut HashSet<usize>,
) -> bool {
    for &writer in &candidates[at] {
        if !tried.insert(writer) {
            continue;
        }
        let free = match owner.get(&writer) {
            None => true,
            Some(&other) => match_one(other, candidates, owner, tried),
        };
        if free {
            owner.insert(writer, at);
            return true;
        }
    }
    false
}
