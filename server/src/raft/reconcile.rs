//! The log of a group brought in line with its state, before consensus sees either.
//!
//! A state that was fetched from a peer may end at an entry that this node's log does not have, or has
//! of another term: the log then holds what a former leader sent and nobody committed. With applied
//! position *S* of term *T*, which is committed:
//!
//! ```text
//!   log ends before S                 ─▶ the log goes on after S, what it held is covered by the state
//!   the entry at S is not of term T   ─▶ it and all after it are cut off, then as above
//!   the entry at S is of term T       ─▶ everything after it stays: this node may have acknowledged it
//! ```
//!
//! Nothing acknowledged is given up. An entry up to *S* is in the state, or was not committed. One behind
//! an entry at *S* of another term was not committed either, for a committed one follows the committed
//! entry at *S* in every log that has it (log matching, Raft paper, section 5.3). A crash on the way leaves
//! one of the cases above.

use std::io;

use super::{codec::log_id, log_store::LogStore, state_machine::decode_applied};
use crate::storage::{
    log::{GroupLog, LogPos},
    state::StateStore,
};

use openraft::storage::RaftLogStorage;

/// Brings the log in line with the state. Returns when that is durable.
pub(super) async fn reconcile(log: &GroupLog, store: &StateStore) -> io::Result<()> {
    let Some(record) = store.applied_record() else {
        return Ok(());
    };
    let Some(applied) = decode_applied(&record)?.applied else {
        return Ok(());
    };
    let applied = LogPos {
        term: applied.leader_id.term,
        index: applied.index,
    };
    let state = log.state();
    let Some(last) = state.last else {
        // openraft lets an empty log go on behind the state.
        return Ok(());
    };
    if state
        .purged
        .is_some_and(|purged| purged.index > applied.index)
    {
        // The state lacks what the log no longer has: it must be restored first.
        return Ok(());
    }
    if last.index >= applied.index && log.term_of(applied.index) == Some(applied.term) {
        return Ok(());
    }
    if state
        .purged
        .is_some_and(|purged| purged.index == applied.index)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the log was purged up to {}, and the state has applied {applied}: they are of different \
                 histories",
                state.purged.unwrap_or(applied)
            ),
        ));
    }
    tracing::warn!(
        group = log.id(),
        log_ends_at = %last,
        state_is_at = %applied,
        "the log ends with entries that were not committed; it goes on behind the state"
    );
    let mut log_store = LogStore::new(log.clone());
    if last.index >= applied.index {
        let keep = applied.index.checked_sub(1);
        // Only the index counts for what stays.
        let keep = keep.map(|index| log_id(log.term_of(index).unwrap_or(0), index));
        log_store.truncate_after(keep).await?;
    }
    log_store.purge(log_id(applied.term, applied.index)).await
}

#[cfg(test)]
mod tests;
