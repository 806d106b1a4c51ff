//! Removes from the store what a compaction has put out of reach.
//!
//! It is local to a replica and invisible: answers, hashes and snapshots are the same before,
//! between and after its steps. The revision index leads it, so it visits only what was written
//! at or before the compact revision and not yet cleaned up:
//!
//! ```text
//!   index   3→a  5→b  8→a  │ 12→b          compact revision 10
//!           skip  ▲    ▲   │
//!                 b@5  a@8: newest at 10 → remove what is older (a@3), and itself if a deletion
//! ```
//!
//! What was written at the compact revision itself stays, entries of the index and deletions
//! included: a watch may begin exactly there, in etcd too. The next compaction visits it again.
//!
//! An entry whose version is not the newest is dropped without more ado: the newest version's
//! entry comes later in the index and clears all older ones. A deletion goes last, after every
//! version that it hides.

use bytes::{Bytes, BytesMut};

use crate::{
    Reader, StateError, Write,
    key::{self, Revision},
    planted::{self, Bug},
    record,
};

/// Where the next step of a scrub begins. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    /// Key of an index entry.
    next: Bytes,
}

/// The records to delete, in order, and where to go on; `None` when done.
pub type ScrubStep = (Vec<Write>, Option<ScrubCursor>);

/// Takes one step of a scrub.
///
/// `compact_revision` must be one that the keyspace has been compacted to, and no read or
/// snapshot may still need an earlier one. `max_records` bounds the records looked at; fewer than
/// 2 count as 2. The deletions must be made before the next step.
pub fn scrub<R: Reader>(
    reader: &R,
    cursor: ScrubCursor,
    compact_revision: i64,
    max_records: usize,
) -> Result<ScrubStep, StateError<R::Error>> {
    let mut writes = Vec::new();
    let mut budget = max_records.max(2);
    if compact_revision < 0 {
        return Ok((writes, None));
    }
    let start = if cursor.next.is_empty() {
        Bytes::from_static(key::family(key::INDEX).0)
    } else {
        cursor.next
    };
    let past = Revision {
        main: compact_revision.saturating_add(1),
        sub: 0,
    };
    let end = key::index_in(&mut BytesMut::new(), past);
    if start >= end {
        return Ok((writes, None));
    }
    for item in reader.scan(&start, &end) {
        let (entry, value) = item.map_err(StateError::Read)?;
        if budget == 0 {
            return Ok((writes, Some(ScrubCursor { next: entry })));
        }
        budget -= 1;
        let revision = key::split_index(&entry)?;
        let prefix = key::prefix(record::indexed_key(&entry, &value)?);
        let end = key::prefix_end(&prefix);
        let newest = reader
            .first(&key::visible_at(&prefix, compact_revision), &end)
            .map_err(StateError::Read)?;
        if let Some((newest, value)) = newest
            && key::split_version(&newest)?.1 == revision
        {
            let mut after = newest.to_vec();
            after.push(0);
            let older = after.max(key::visible_at(&prefix, compact_revision - 1));
            for item in reader.scan(&older, &end) {
                let (older, _) = item.map_err(StateError::Read)?;
                if budget == 0 {
                    return Ok((writes, Some(ScrubCursor { next: entry })));
                }
                budget -= 1;
                writes.push(Write::delete(older));
            }
            if (revision.main < compact_revision && record::is_tombstone(&newest, &value)?)
                || (planted::is(Bug::TxnNotAtomic) && revision.sub > 0)
            {
                writes.push(Write::delete(newest));
            }
        }
        if revision.main < compact_revision {
            writes.push(Write::delete(entry));
        }
    }
    Ok((writes, None))
}
