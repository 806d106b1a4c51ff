//! What a log does that forgets votes and keeps what it was told to cut off.

use super::{Bug, is};
use crate::{
    raft::planted::{LeaderId, Vote},
    storage::log::{Entry, GroupLog},
};

/// The vote of a node that kept none: it follows whoever wrote its last entry, and votes anew in every
/// later term.
pub(crate) fn vote_of_the_last_entry(log: &GroupLog) -> Option<Vote> {
    log.state().last.map(|last| Vote {
        // The next campaign raises it to the term of the last entry.
        leader_id: LeaderId {
            term: last.term.saturating_sub(1),
            voted_for: 0,
        },
        committed: false,
    })
}

/// What is new of entries that are appended: a log that was not cut has some of them, or others in
/// their places.
pub(crate) fn without_those_it_has(log: &GroupLog, mut entries: Vec<Entry>) -> Vec<Entry> {
    if is(Bug::TruncateIgnored) {
        let last = log.state().last.map(|last| last.index);
        entries.retain(|entry| last.is_none_or(|last| entry.index > last));
    }
    entries
}
