//! Compares each read with the most that earlier reads of its node had shown.

use std::collections::HashMap;

use super::{Read, Writes, proof, uptime::Uptime};
use crate::{
    checker::Anomaly,
    history::{Key, NodeId},
};

/// The most that completed reads of one run of a node had shown.
#[derive(Default)]
struct Watermark<'r, 'a> {
    run: usize,
    /// The read with the highest revision of the store.
    store: Option<&'r Read<'a>>,
    /// For each key the read with its highest revision.
    keys: HashMap<Key, &'r Read<'a>>,
}

/// What was shown before a read began.
struct Before<'r, 'a> {
    store: Option<&'r Read<'a>>,
    key: Option<&'r Read<'a>>,
    run: usize,
}

/// Goes through the reads of all nodes in the order of events; gives the number of reads that had
/// something to be compared with, and the anomalies.
pub(super) fn judge(reads: &[Read<'_>], writes: &Writes, uptime: &Uptime) -> (u64, Vec<Anomaly>) {
    let mut events: Vec<(u64, usize)> = Vec::with_capacity(2 * reads.len());
    for (at, read) in reads.iter().enumerate() {
        let operation = &read.operation;
        // A client that talks to any node says nothing of one.
        if operation.node != 0 {
            events.push((operation.invoked, at));
            events.push((operation.completed, at));
        }
    }
    events.sort_unstable();

    let mut compared = 0;
    let mut anomalies = Vec::new();
    let mut marks: HashMap<NodeId, Watermark<'_, '_>> = HashMap::new();
    let mut open: HashMap<usize, Before<'_, '_>> = HashMap::new();
    for (event, at) in events {
        let read = &reads[at];
        let operation = &read.operation;
        let mark = marks.entry(operation.node).or_default();
        if event == operation.invoked {
            open.insert(
                at,
                Before {
                    store: mark.store,
                    key: mark.keys.get(&read.key).copied(),
                    run: mark.run,
                },
            );
            continue;
        }
        let before = open.remove(&at);
        let run = uptime.run(operation.node, operation.invoked, operation.completed);
        let (Some(before), Some(run)) = (before, run) else {
            continue;
        };
        if run != mark.run {
            *mark = Watermark {
                run,
                ..Watermark::default()
            };
        }
        if before.run == run && before.store.is_some() {
            compared += 1;
            anomalies.extend(went_back(&before, read, writes));
        }
        if mark.store.is_none_or(|best| best.revision < read.revision) {
            mark.store = Some(read);
        }
        if let Some(version) = read.version {
            let best = mark.keys.entry(read.key).or_insert(read);
            if best
                .version
                .is_none_or(|best| best.modified < version.modified)
            {
                *best = read;
            }
        }
    }
    (compared, anomalies)
}

fn went_back(before: &Before<'_, '_>, read: &Read<'_>, writes: &Writes) -> Option<Anomaly> {
    let node = read.operation.node;
    let (began, over) = (read.operation.invoked, read.operation.completed);
    if let Some(best) = before.store
        && read.revision < best.revision
    {
        return Some(proof(
            "went-back",
            format!(
                "Node {node} showed revision {} in the serializable read completed in event {}, \
                 and then revision {} in the one invoked in event {began} and completed in event \
                 {over}. It ran all the time between them.",
                best.revision, best.operation.completed, read.revision,
            ),
            [best.operation.completed, over],
        ));
    }
    let best = before.key?;
    let had = best.version?.modified;
    let has = match read.version {
        Some(version) => version.modified,
        None if writes.deleted.contains(&read.key) => return None,
        None => 0,
    };
    (has < had).then(|| {
        let shows = if has == 0 {
            "the key as missing, which nobody deleted,".to_owned()
        } else {
            format!("its revision {has}")
        };
        proof(
            "went-back",
            format!(
                "Node {node} showed revision {had} of key {} in the serializable read completed in \
                 event {}, and then {shows} in the one invoked in event {began} and completed in \
                 event {over}. It ran all the time between them.",
                read.key, best.operation.completed,
            ),
            [best.operation.completed, over],
        )
    })
}
