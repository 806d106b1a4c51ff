//! States that are taken for more than they are.

use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_proto::command::Command;

use super::{Bug, is};
use crate::{
    raft::{
        NodeId,
        planted::{GroupStateMachine, log_id},
    },
    storage::log::GroupLog,
};

/// Whether this node acts as one of an earlier version that skips what it does not know.
static IS_OLDER: AtomicBool = AtomicBool::new(false);

/// A state machine as it is at the start of a node: perhaps moved, without applying, to the next entry of
/// the log or to where the log begins.
pub(crate) fn opened(
    mut machine: GroupStateMachine,
    log: &GroupLog,
    node: NodeId,
) -> GroupStateMachine {
    let is_older = is(Bug::UnknownOperationSkipped) && node.is_multiple_of(3);
    IS_OLDER.store(is_older, Ordering::Relaxed);
    let Some(applied) = machine.applied() else {
        return machine;
    };
    if is(Bug::ApplySkippedOnRestart)
        && let Some(term) = log.term_of(applied.index + 1)
    {
        machine.stand_at(log_id(term, applied.index + 1));
    }
    if is(Bug::LogPurgedPastDurable)
        && let Some(purged) = log.state().purged
        && purged.index > applied.index
    {
        machine.stand_at(log_id(purged.term, purged.index));
    }
    machine
}

/// Whether this node does not know the operation, and skips it.
pub(crate) fn is_skipped(command: &Command) -> bool {
    IS_OLDER.load(Ordering::Relaxed) && command.min_version > 1
}
