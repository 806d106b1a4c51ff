//! Create revisions and version counters: how many writes there were, seen or not.
//!
//! A version says how many writes its generation had up to it. Those with points are counted; the
//! rest must be writes of unknown outcome that nobody saw, each at most once. A write can be counted
//! on only if it began before the reply that needs it, and when no later revision had been told: of
//! the writes in the order of their beginnings, always the first few. So it is enough that the demand
//! up to each such number does not exceed it (Hall's condition for nested sets).

use std::collections::{BTreeMap, HashMap};

use super::{
    Record,
    attribution::{Point, Points},
    replay::{Demand, Demands},
    report::Report,
    sightings::Sighting,
};
use crate::checker::model::{Effect, Fate, StoreKey};

/// How many writes are named where one of several is missing.
const WRITES_NAMED_MAX: usize = 4;

/// Writes of unknown outcome to a key that nobody saw, in the order of their beginnings.
#[derive(Default)]
struct Hidden {
    puts: Vec<usize>,
    deletes: Vec<usize>,
}

/// A demand for some writes of which the first few will do.
struct Claim {
    /// How many of the hidden writes, from the first, can serve.
    servants: usize,
    count: i64,
    witness: usize,
    revision: i64,
    /// The write that must be gone, if it is a delete that is wanted.
    after: i64,
}

/// Judges the counters of all versions seen, and the demands of the replay.
pub(super) fn check<'a>(
    record: &Record<'a>,
    points: &Points<'a>,
    demands: &Demands,
    report: &mut Report<'_, 'a>,
) {
    let mut hidden: HashMap<StoreKey, Hidden> = HashMap::new();
    for (at, normal) in record.operations.iter().enumerate() {
        if normal.fate != Fate::Maybe || points.adopted.contains_key(&at) {
            continue;
        }
        for write in &normal.writes {
            let of_key = hidden.entry(write.key).or_default();
            match write.effect {
                Effect::Delete => of_key.deletes.push(at),
                _ => of_key.puts.push(at),
            }
        }
    }
    let mut by_key: BTreeMap<StoreKey, (Vec<&Demand>, Vec<&Demand>)> = BTreeMap::new();
    for demand in &demands.deletes {
        by_key.entry(demand.key).or_default().0.push(demand);
    }
    for demand in &demands.puts {
        by_key.entry(demand.key).or_default().1.push(demand);
    }
    for &key in points.keys.keys() {
        by_key.entry(key).or_default();
    }
    let nothing = Hidden::default();
    for (key, (deletes, puts)) in by_key {
        let of_key = points.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let mut walk = Walk {
            record,
            report,
            key,
            points: of_key,
            hidden: hidden.get(&key).unwrap_or(&nothing),
            puts: Vec::new(),
            deletes: BTreeMap::new(),
        };
        walk.counters();
        walk.demands(&deletes, &puts);
        walk.settle();
    }
}

struct Walk<'w, 'o, 'a> {
    record: &'w Record<'a>,
    report: &'w mut Report<'o, 'a>,
    key: StoreKey,
    points: &'w [Point<'a>],
    hidden: &'w Hidden,
    puts: Vec<Claim>,
    /// By the revision of the write that must be gone.
    deletes: BTreeMap<i64, Claim>,
}

impl<'a> Walk<'_, '_, 'a> {
    /// How many of these writes, from the first, can have happened by a revision and been seen by an
    /// event.
    fn servants(&self, writes: &[usize], revision: i64, seen: u64) -> usize {
        let begun = writes.partition_point(|&at| self.record.invoked(at) < seen);
        let early = writes.partition_point(|&at| self.record.floor(at) < revision);
        begun.min(early)
    }

    fn want_delete(&mut self, after: i64, by: i64, seen: u64, witness: usize) {
        let servants = self.servants(&self.hidden.deletes, by, seen);
        let claim = Claim {
            servants,
            count: 1,
            witness,
            revision: by,
            after,
        };
        let known = self.deletes.entry(after).or_insert(Claim {
            servants: usize::MAX,
            ..claim
        });
        if servants < known.servants {
            *known = claim;
        }
    }

    fn want_puts(&mut self, count: i64, by: i64, seen: u64, witness: usize) {
        self.puts.push(Claim {
            servants: self.servants(&self.hidden.puts, by, seen),
            count,
            witness,
            revision: by,
            after: 0,
        });
    }

    fn tell(&mut self, name: &'static str, revision: i64, what: &str, involved: &[usize]) {
        let involved: Vec<usize> = involved
            .iter()
            .enumerate()
            .filter(|(place, at)| !involved[..*place].contains(at))
            .map(|(_, at)| *at)
            .collect();
        let told: Vec<String> = involved.iter().map(|&at| self.report.words(at)).collect();
        let explanation = format!("{} {what}: {}.", self.key, told.join("; "));
        self.report.add(
            name,
            (Some(self.key), revision),
            explanation,
            &involved,
            &[],
        );
    }

    fn counters(&mut self) {
        let points = self.points;
        let mut before: Option<(usize, &Sighting<'a>)> = None;
        for (at, point) in points.iter().enumerate() {
            let Some(sighting) = &point.sighting else {
                continue;
            };
            // What was written before the run is not known in full.
            if point.revision > self.record.base {
                self.counter(at, sighting, before);
            }
            before = Some((at, sighting));
        }
    }

    fn counter(
        &mut self,
        at: usize,
        sighting: &Sighting<'a>,
        before: Option<(usize, &Sighting<'a>)>,
    ) {
        let points = self.points;
        let revision = points[at].revision;
        let (create, counter) = (sighting.version.create, sighting.version.version);
        let own = sighting.witness;
        // The points of its generation that are not counted yet, and how far the counter was.
        let born = points.partition_point(|point| point.revision < create);
        let (from, counted) = match before {
            Some((last, seen)) if seen.version.create == create => (last + 1, seen.version.version),
            Some((last, seen)) if last >= born => {
                let what = format!(
                    "has create revision {create} at revision {revision}, but {} at revision {}",
                    seen.version.create, points[last].revision
                );
                self.tell(
                    "wrong-version-counter",
                    revision,
                    &what,
                    &[seen.witness, own],
                );
                return;
            }
            _ => (born, 0),
        };
        let whole = counted == 0;
        let between = &points[from..at];
        if let Some(delete) = between.iter().find(|point| point.deletes) {
            let what = format!(
                "was deleted at revision {}, but at revision {revision} still had create revision \
                 {create}",
                delete.revision
            );
            let involved: Vec<usize> = delete.writer.into_iter().chain([own]).collect();
            self.tell("lost-write", delete.revision, &what, &involved);
            return;
        }
        let least = counted + between.len() as i64 + 1;
        if counter < least {
            let what = format!(
                "has version {counter} at revision {revision}, but was written at least {least} times \
                 since its creation at revision {create}"
            );
            let acknowledged: Vec<usize> = between
                .iter()
                .filter_map(|point| point.writer)
                .filter(|&writer| matches!(self.record.fate(writer), Fate::Done(_)))
                .take(WRITES_NAMED_MAX)
                .collect();
            let name = if acknowledged.is_empty() {
                "wrong-version-counter"
            } else {
                "lost-write"
            };
            let involved: Vec<usize> = before
                .filter(|_| !whole)
                .map(|(_, seen)| seen.witness)
                .into_iter()
                .chain(acknowledged)
                .chain([own])
                .collect();
            self.tell(name, revision, &what, &involved);
            return;
        }
        let excess = counter - least;
        if !whole {
            if excess > 0 {
                self.want_puts(excess, revision, sighting.first, own);
            }
            return;
        }
        if create <= self.record.base {
            return;
        }
        if excess == 0 && points[born].revision != create {
            let what = format!(
                "has version {counter} at revision {revision}, and all these writes are known, but \
                 none at its create revision {create}"
            );
            self.tell("wrong-version-counter", revision, &what, &[own]);
            return;
        }
        if excess > 0 {
            self.want_puts(excess, revision, sighting.first, own);
        }
        if let Some(older) = born.checked_sub(1).map(|older| &points[older])
            && !older.deletes
        {
            self.want_delete(older.revision, create - 1, sighting.first, own);
        }
    }

    fn demands(&mut self, deletes: &[&Demand], puts: &[&Demand]) {
        for demand in puts {
            let seen = self.record.completed(demand.witness);
            self.want_puts(1, demand.by, seen, demand.witness);
        }
        for demand in deletes {
            let next = self
                .points
                .partition_point(|point| point.revision <= demand.by);
            let later = self.points[next..]
                .iter()
                .find_map(|point| point.sighting.as_ref());
            if let Some(later) = later
                && later.version.create <= demand.after
            {
                let what = format!(
                    "was absent at revision {}, but what it held at revision {} had been created at \
                     revision {}, before that",
                    demand.by, later.version.modified, later.version.create
                );
                let witness = later.witness;
                let name = self.gone(demand.after).0;
                self.tell(name, demand.by, &what, &[demand.witness, witness]);
            } else {
                let seen = self.record.completed(demand.witness);
                self.want_delete(demand.after, demand.by, seen, demand.witness);
            }
        }
    }

    /// What it means that the write at a revision is gone, and who knows of that write.
    fn gone(&self, revision: i64) -> (&'static str, Option<usize>) {
        let point = self
            .points
            .iter()
            .find(|point| point.revision == revision)
            .expect("a delete is wanted after a point");
        match point.writer {
            Some(writer) if matches!(self.record.fate(writer), Fate::Done(_)) => {
                ("lost-write", Some(writer))
            }
            writer => (
                "wrong-read",
                point
                    .sighting
                    .as_ref()
                    .map(|sighting| sighting.witness)
                    .or(writer),
            ),
        }
    }

    /// Holds the claims against the writes that can serve them.
    fn settle(&mut self) {
        let mut taken = 0;
        let mut puts = std::mem::take(&mut self.puts);
        puts.sort_by_key(|claim| (claim.servants, claim.revision));
        for claim in puts {
            if taken + claim.count > claim.servants as i64 {
                let what = format!(
                    "needs {} more writes by revision {} than are known, and only {} of unknown \
                     outcome can serve",
                    claim.count,
                    claim.revision,
                    claim.servants as i64 - taken,
                );
                self.tell(
                    "wrong-version-counter",
                    claim.revision,
                    &what,
                    &[claim.witness],
                );
            } else {
                taken += claim.count;
            }
        }
        let mut taken = 0;
        let mut deletes: Vec<Claim> = std::mem::take(&mut self.deletes).into_values().collect();
        deletes.sort_by_key(|claim| (claim.servants, claim.revision));
        for claim in deletes {
            if taken + 1 > claim.servants {
                let (name, known) = self.gone(claim.after);
                let what = format!(
                    "was written at revision {} and gone by revision {}, but no delete of it can have \
                     happened in between",
                    claim.after, claim.revision,
                );
                let involved: Vec<usize> = known.into_iter().chain([claim.witness]).collect();
                self.tell(name, claim.after, &what, &involved);
            } else {
                taken += 1;
            }
        }
    }
}
