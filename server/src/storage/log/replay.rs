//! Rebuilding the groups from the batches of the segments, in order.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::dropped::DroppedGroups;
use super::entry::LogPos;
use super::error::OpenError;
use super::format::{BATCH_HEADER_BYTES, Invalid, Record, SEGMENT_HEADER_BYTES, decode_record};
use super::found::{Found, Walk, corrupt};
use super::group::{GroupView, Slot};
use super::tracked::{Pins, Tracked};

/// The groups while records are replayed.
#[derive(Default)]
pub(super) struct Replay {
    pub views: BTreeMap<u64, GroupView>,
    /// Groups that were dropped. None of them has a view.
    pub dropped: DroppedGroups,
    /// The segment whose records were replayed last.
    segment: Option<u64>,
    pub records: u64,
}

impl Replay {
    pub fn segment(&mut self, found: &Found, bytes: &Bytes, walk: &Walk) -> Result<(), OpenError> {
        for &(at, header) in &walk.batches {
            let end = at + BATCH_HEADER_BYTES + header.body_len;
            let mut offset = at + BATCH_HEADER_BYTES;
            let mut exact = None;
            for number in 0..header.records {
                let invalid = |invalid| found.corrupt(offset, invalid);
                let (group, record, len) =
                    decode_record(&bytes.slice(offset..end), found.place, offset as u64)
                        .map_err(invalid)?;
                if (offset, number) == (SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES, 0) {
                    let Record::Segments(older) = &record else {
                        return Err(invalid(unexpected("the list of older segments", &record)));
                    };
                    // State is known exactly when the segment right before this one was replayed.
                    let before = older.last().map(|end| end.sequence);
                    exact = Some(before.is_some() && before == self.segment);
                } else {
                    let slot = Slot {
                        segment: found.place.segment,
                        offset: offset as u32,
                        len: len as u32,
                    };
                    self.record(group, record, slot, exact).map_err(invalid)?;
                }
                offset += len;
            }
            if offset != end {
                let found_bytes = format!("{} bytes more", end - offset);
                let invalid = Invalid {
                    expected: format!("{} records", header.records),
                    found: found_bytes,
                };
                return Err(found.corrupt(offset, invalid));
            }
            self.records += u64::from(header.records);
        }
        self.segment = Some(found.place.segment);
        Ok(())
    }

    fn record(
        &mut self,
        group: u64,
        record: Record,
        slot: Slot,
        exact: Option<bool>,
    ) -> Result<(), Invalid> {
        if let Record::Dropped(dropped) = record {
            return self.dropped(dropped, exact);
        }
        if self.dropped.contains(group) {
            return Err(unexpected(
                &format!("nothing more of group {group}, which was dropped"),
                &record,
            ));
        }
        let view = self.views.entry(group).or_default();
        match record {
            Record::Entry(entry) => view.replay_entry(entry.pos(), slot)?,
            Record::Moved(entry) => view.replay_moved(entry.pos(), slot)?,
            Record::Vote(vote) => view.set_vote(copy(&vote)),
            Record::Committed(committed) => view.set_committed(copy(&committed)),
            Record::Truncate(keep) => {
                view.truncate_after(keep);
            }
            Record::Purge(pos) => {
                view.purge(pos);
            }
            Record::Checkpoint(state) if exact == Some(true) => {
                if !view.agrees_with(&state) {
                    let known = view.state();
                    return Err(Invalid {
                        expected: format!(
                            "a checkpoint of group {group} as the records before it left it: {known:?}"
                        ),
                        found: format!("{state:?}"),
                    });
                }
            }
            Record::Checkpoint(mut state) if exact == Some(false) => {
                state.vote = state.vote.as_ref().map(copy);
                state.committed = state.committed.as_ref().map(copy);
                view.replay_checkpoint(state);
            }
            Record::Drop => {
                self.views.remove(&group);
                self.dropped.insert(group);
            }
            record => {
                return Err(unexpected(
                    "an entry or a change of a group's state",
                    &record,
                ));
            }
        }
        Ok(())
    }
}

impl Replay {
    /// The list at the head of a segment: what is known already, or the only trace of groups whose
    /// last record lay in a segment that is gone.
    fn dropped(&mut self, dropped: DroppedGroups, exact: Option<bool>) -> Result<(), Invalid> {
        match exact {
            Some(true) if dropped != self.dropped => Err(Invalid {
                expected: format!("the dropped groups to be {:?}", self.dropped),
                found: format!("{dropped:?}"),
            }),
            Some(_) => {
                self.views.retain(|&group, _| !dropped.contains(group));
                self.dropped = dropped;
                Ok(())
            }
            None => Err(unexpected("a record of a group", &Record::Dropped(dropped))),
        }
    }
}

/// Small state must not keep the whole segment it was read from in memory.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

pub(super) fn unexpected(expected: &str, record: &Record) -> Invalid {
    let kind = match record {
        Record::Entry(_) => "an entry",
        Record::Moved(_) => "a moved entry",
        Record::Vote(_) => "a vote",
        Record::Committed(_) => "a committed mark",
        Record::Truncate(_) => "a truncation",
        Record::Purge(_) => "a purge",
        Record::Checkpoint(_) => "a checkpoint",
        Record::Segments(_) => "a list of segments",
        Record::Drop => "the end of a group",
        Record::Dropped(_) => "a list of dropped groups",
    };
    Invalid {
        expected: expected.to_owned(),
        found: kind.to_owned(),
    }
}

/// The writer's view of a group, from the readers' view; finds entries that no segment holds.
pub(super) fn retrack(
    dir: &Path,
    id: u64,
    view: &GroupView,
    pins: &mut Pins,
) -> Result<Tracked, OpenError> {
    let state = view.state();
    let mut tracked = Tracked::default();
    (tracked.vote, tracked.committed) = (state.vote, state.committed);
    if let Some(purged) = state.purged {
        tracked.purge(purged, pins);
    }
    for (index, slot) in view.located() {
        if slot.segment == 0 {
            let entries = view.range();
            let expected = format!(
                "entries {} to {} of group {id}",
                entries.start,
                entries.end - 1
            );
            let found = format!("entry {index} in no segment: a segment file is missing");
            return Err(corrupt(dir, 0, Invalid { expected, found }));
        }
        let term = view.term_of(index).unwrap_or_default();
        tracked.append(LogPos { term, index }, slot.segment, pins);
    }
    Ok(tracked)
}
