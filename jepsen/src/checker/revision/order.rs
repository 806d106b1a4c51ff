//! Order in time against order of revisions.
//!
//! One wrong revision contradicts everything that comes after it. Of these contradictions only the
//! first is told.

use super::{Record, attribution::Points, report::Report};
use crate::checker::model::{Fate, Normal};

/// For each operation, the largest revision in a reply that came before it began, and whose.
pub(super) fn floors(operations: &[Normal<'_>]) -> Vec<Option<(i64, usize)>> {
    let mut replies: Vec<(u64, i64, usize)> = operations
        .iter()
        .enumerate()
        .filter_map(|(at, normal)| Some((normal.operation.completed, normal.header?, at)))
        .collect();
    replies.sort_unstable();
    highest_before(operations, &replies)
}

/// The highest revision before each operation, counting some replies only, given by completion.
fn highest_before(
    operations: &[Normal<'_>],
    replies: &[(u64, i64, usize)],
) -> Vec<Option<(i64, usize)>> {
    let mut highest: Option<(i64, usize)> = None;
    let mut next = 0;
    operations
        .iter()
        .map(|normal| {
            while let Some(&(completed, revision, at)) = replies.get(next)
                && completed < normal.operation.invoked
            {
                if highest.is_none_or(|(before, _)| before < revision) {
                    highest = Some((revision, at));
                }
                next += 1;
            }
            highest
        })
        .collect()
}

/// Two writes at one revision, writes in the wrong order, and reads of the past.
pub(super) fn check(record: &Record<'_>, report: &mut Report<'_, '_>) {
    let mut writes: Vec<(u64, i64, usize)> = Vec::new();
    for (at, normal) in record.operations.iter().enumerate() {
        let Fate::Done(revision) = normal.fate else {
            continue;
        };
        writes.push((normal.operation.completed, revision, at));
        let first = record.done[&revision];
        if first != at {
            let explanation = format!(
                "Two writes were acknowledged at revision {revision}, and each must have one of its \
                 own: {}; {}.",
                report.words(first),
                report.words(at),
            );
            report.add(
                "duplicate-revision",
                (None, revision),
                explanation,
                &[first, at],
                &[],
            );
        }
    }
    writes.sort_unstable();
    let written = highest_before(&record.operations, &writes);
    for (at, normal) in record.operations.iter().enumerate() {
        if let Fate::Done(revision) = normal.fate {
            if let Some((before, earlier)) = written[at]
                && before > revision
            {
                let explanation = format!(
                    "A write that was over before another began has the larger revision, {before} > \
                     {revision}: first {}; then {}.",
                    report.words(earlier),
                    report.words(at),
                );
                report.add(
                    "revision-order",
                    (None, earlier as i64),
                    explanation,
                    &[earlier, at],
                    &[(earlier, at, "realtime"), (at, earlier, "revision")],
                );
            } else if let Some((before, earlier)) = record.floors[at]
                && before >= revision
                && !matches!(record.fate(earlier), Fate::Done(_))
            {
                let explanation = format!(
                    "A reply told of revision {before} before the write began that made revision \
                     {revision}: first {}; then {}.",
                    report.words(earlier),
                    report.words(at),
                );
                report.add(
                    "future-read",
                    (None, earlier as i64),
                    explanation,
                    &[earlier, at],
                    &[(earlier, at, "realtime"), (at, earlier, "revision")],
                );
            }
        }
        if let Some(header) = normal.header
            && normal.linearizable
            && let Some((before, earlier)) = record.floors[at]
            && before > header
        {
            let explanation = format!(
                "A linearizable read was answered as of revision {header}, though revision {before} \
                 had been told before it began: first {}; then {}.",
                report.words(earlier),
                report.words(at),
            );
            report.add(
                "stale-read",
                (None, earlier as i64),
                explanation,
                &[earlier, at],
                &[(earlier, at, "realtime"), (at, earlier, "revision")],
            );
        }
    }
}

/// Revisions that were told of but that no write can have made, or none yet.
///
/// From the first reply on, each revision is made by a write of the history. Of those up to a told
/// one, some are known by their writes; the others must be writes of unknown outcome, each at most
/// once, that had begun by then.
pub(super) fn check_revisions(
    record: &Record<'_>,
    points: &Points<'_>,
    report: &mut Report<'_, '_>,
) {
    let mut known: Vec<i64> = record
        .done
        .keys()
        .chain(points.adopted.values())
        .chain(&points.disputed)
        .copied()
        .filter(|&revision| revision > record.base)
        .collect();
    known.sort_unstable();
    known.dedup();
    // Operations are in the order of their invocations.
    let open: Vec<u64> = record
        .operations
        .iter()
        .enumerate()
        .filter(|(at, normal)| normal.fate == Fate::Maybe && !points.adopted.contains_key(at))
        .map(|(_, normal)| normal.operation.invoked)
        .collect();
    let mut replies: Vec<(u64, i64, usize)> = record
        .operations
        .iter()
        .enumerate()
        .filter_map(|(at, normal)| Some((normal.operation.completed, normal.header?, at)))
        .collect();
    replies.sort_unstable();
    for (completed, header, at) in replies {
        if header <= record.base {
            continue;
        }
        let all = header - record.base;
        let explained = known.partition_point(|&revision| revision <= header) as i64;
        let missing = all - explained;
        let begun = open.partition_point(|&invoked| invoked < completed) as i64;
        if missing <= begun {
            continue;
        }
        let (name, end) = if missing > open.len() as i64 {
            (
                "unexplained-revision",
                "A write took effect more than once, one that failed took effect after all, or the \
                 counter of revisions is wrong.",
            )
        } else {
            ("future-read", "The others began only later.")
        };
        let explanation = format!(
            "The header of a reply tells of revision {header}: {}. Of the {all} revisions since {}, \
             the first that was told, {explained} are those of known writes, and at most {begun} can \
             be those of writes of unknown outcome that had begun. {end}",
            report.words(at),
            record.base,
        );
        // One gap is in all later headers, too.
        report.add(name, (None, 0), explanation, &[at], &[]);
    }
}
