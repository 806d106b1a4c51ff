//! The versions of keys that replies tell of.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use super::{
    Record,
    blame::{Blame, mark},
    report::Report,
};
use crate::{
    checker::model::{Effect, Fate, Seen, StoreKey, describe_version},
    history::Version,
};

/// A version that somebody read, or that follows from what a write read.
#[derive(Clone, Debug)]
pub(super) struct Sighting<'a> {
    pub version: Cow<'a, Version>,
    /// Who.
    pub witness: usize,
    /// The earliest completion of an operation that tells of it.
    pub first: u64,
}

/// By key and mod revision.
pub(super) type Sightings<'a> = BTreeMap<StoreKey, BTreeMap<i64, Sighting<'a>>>;

/// Collects them. Versions that no store can tell of are put into `bad` and told.
pub(super) fn collect<'a>(
    record: &Record<'a>,
    bad: &mut HashSet<(StoreKey, i64)>,
    report: &mut Report<'_, '_>,
) -> Sightings<'a> {
    let mut sightings = Sightings::new();
    let mut all: Vec<(StoreKey, Cow<'a, Version>, i64, usize)> = Vec::new();
    for (at, normal) in record.operations.iter().enumerate() {
        if let Fate::Done(revision) = normal.fate {
            for write in &normal.writes {
                let before = normal
                    .readings
                    .iter()
                    .find_map(|reading| match reading.seen {
                        Seen::Version(found) if reading.key == write.key => Some(found),
                        _ => None,
                    });
                if let (Some(before), Effect::Put(value)) = (before, &write.effect) {
                    let version = Version {
                        value: value.clone(),
                        create: before.map_or(revision, |before| before.create),
                        modified: revision,
                        version: before.map_or(1, |before| before.version + 1),
                    };
                    all.push((write.key, Cow::Owned(version), revision, at));
                }
            }
        }
    }
    for (at, normal) in record.operations.iter().enumerate() {
        for reading in &normal.readings {
            if let Seen::Version(Some(version)) = reading.seen {
                all.push((reading.key, Cow::Borrowed(version), reading.revision, at));
            }
        }
        if let Some(range) = normal.range {
            for (key, version) in range.seen {
                let key = StoreKey {
                    space: range.space,
                    key: *key,
                };
                all.push((key, Cow::Borrowed(version), range.revision, at));
            }
        }
        if let Some(chain) = normal.chain {
            for version in chain.versions {
                all.push((chain.key, Cow::Borrowed(version), chain.revision, at));
            }
        }
    }
    for (key, version, revision, witness) in all {
        if sound(key, &version, revision, witness, report) {
            let sighting = Sighting {
                version,
                witness,
                first: record.completed(witness),
            };
            sight(record, key, sighting, &mut sightings, report);
        } else {
            bad.insert((key, version.modified));
        }
    }
    sightings
}

/// Whether a version can be read at a revision at all.
fn sound(
    key: StoreKey,
    version: &Version,
    revision: i64,
    witness: usize,
    report: &mut Report<'_, '_>,
) -> bool {
    let modified = version.modified;
    let Version {
        create,
        version: counter,
        ..
    } = *version;
    let (name, what) = if modified > revision {
        (
            "future-read",
            format!("has mod revision {modified}, but was read at revision {revision}"),
        )
    } else if create < 1
        || create > modified
        || counter < 1
        || counter > modified - create + 1
        || (counter == 1) != (create == modified)
    {
        (
            "wrong-version-counter",
            format!(
                "has create revision {create}, mod revision {modified} and version {counter}, \
                 which no writes can make"
            ),
        )
    } else {
        return true;
    };
    let explanation = format!("{key} {what}: {}.", report.words(witness));
    report.add(name, (Some(key), modified), explanation, &[witness], &[]);
    false
}

fn sight<'a>(
    record: &Record<'a>,
    key: StoreKey,
    sighting: Sighting<'a>,
    sightings: &mut Sightings<'a>,
    report: &mut Report<'_, '_>,
) {
    let modified = sighting.version.modified;
    let of_key = sightings.entry(key).or_default();
    let Some(known) = of_key.get_mut(&modified) else {
        of_key.insert(modified, sighting);
        return;
    };
    known.first = known.first.min(sighting.first);
    if known.version == sighting.version {
        return;
    }
    let name = if known.version.value == sighting.version.value {
        "wrong-version-counter"
    } else {
        let blame = |sighting: &Sighting<'a>| {
            let value = mark(&sighting.version.value);
            Blame::new(record, key, value, modified).name
        };
        [blame(known), blame(&sighting)]
            .into_iter()
            .find(|name| matches!(*name, "phantom-value" | "failed-write-seen"))
            .unwrap_or("wrong-read")
    };
    let explanation = format!(
        "{key} at mod revision {modified} is told in two ways: {} by {}; {} by {}.",
        describe_version(&known.version),
        report.words(known.witness),
        describe_version(&sighting.version),
        report.words(sighting.witness),
    );
    report.add(
        name,
        (Some(key), modified),
        explanation,
        &[known.witness, sighting.witness],
        &[],
    );
}
