//! What a group does when disks are nearly full.
//!
//! A follower appends what its leader has accepted, so room matters where proposals are accepted: a leader
//! accepts growth while the voters with room are a quorum, whoever they are. One full disk then blocks
//! nobody; its node hands its leaderships to those that have room, and ends when nothing can be
//! written any more.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{TxnRequest, request_op::Request as Operation},
};
use prost::Message;

use super::{Group, GroupError, HandOverError};
use crate::{limits, raft::NodeId};

/// Whether the voters that are not short are a quorum.
fn a_quorum_has_room(voters: &[NodeId], short: &BTreeSet<NodeId>) -> bool {
    let ample = voters.iter().filter(|id| !short.contains(id)).count();
    2 * ample > voters.len()
}

/// Whether a command adds to the data. One that does not decode adds nothing.
fn grows(command: Bytes) -> bool {
    match Command::decode(command).map(|command| command.op) {
        Ok(Some(Op::Put(_))) => true,
        Ok(Some(Op::Txn(txn))) => txn_grows(&txn),
        _ => false,
    }
}

/// Either branch may be taken. Transactions nest within the bound that `mvcc::validate` sets.
fn txn_grows(txn: &TxnRequest) -> bool {
    let mut operations = txn.success.iter().chain(&txn.failure);
    operations.any(|operation| match &operation.request {
        Some(Operation::RequestPut(_)) => true,
        Some(Operation::RequestTxn(inner)) => txn_grows(inner),
        _ => false,
    })
}

impl Group {
    /// The nodes that are short of space, as far as this node knows.
    fn short_nodes(&self) -> BTreeSet<NodeId> {
        let room = self.raft.room();
        let mut short = room.short_peers();
        if room.is_short() {
            short.insert(self.node_id);
        }
        short
    }

    /// Lets a proposal in, or refuses it because it grows the data and too few have room for it.
    pub(super) fn admit_growth(&self, command: &Bytes) -> Result<(), GroupError> {
        let short = self.short_nodes();
        if !short.is_empty()
            && !a_quorum_has_room(&self.status().voters, &short)
            && grows(command.clone())
        {
            return Err(GroupError::NoSpace);
        }
        self.raft.room().take(command.len());
        Ok(())
    }

    /// Hands the leadership to a voter that has room, if this node leads and has none.
    async fn leave_for_want_of_room(&self) {
        let short = self.short_nodes();
        let status = self.status();
        if !short.contains(&self.node_id) || status.leadership.leader != Some(self.node_id) {
            return;
        }
        let matched = status.matched.iter();
        let target = matched
            .filter(|(node, _)| status.voters.contains(node) && !short.contains(node))
            .filter(|(node, _)| **node != self.node_id)
            .max_by_key(|(_, matched)| **matched);
        let Some((&target, _)) = target else {
            return;
        };
        let deadline = Instant::now() + limits::ROOM_HAND_OVER_EVERY / 2;
        match self.hand_over(Some(target), deadline).await {
            Ok(leader) => tracing::info!(
                group = self.id(),
                leader,
                "leadership handed over, because the disk here is nearly full"
            ),
            // Nobody who can take it has room now; it is asked again and again.
            Err(error @ HandOverError::NobodyReady(_)) => {
                tracing::debug!(group = self.id(), target, %error, "no voter with room has the log");
            }
            Err(error) => tracing::warn!(
                group = self.id(),
                target,
                %error,
                "the disk here is nearly full, and the leadership was not handed over; trying again"
            ),
        }
    }
}

pub(super) fn spawn(group: &Arc<Group>) {
    tokio::spawn(leave_when_short(Arc::downgrade(group)));
}

/// Costs nothing while there is room: it waits for the lack of it.
async fn leave_when_short(group: Weak<Group>) {
    let Some((mut short, mut leadership)) = group
        .upgrade()
        .map(|group| (group.raft.room().watch(), group.leadership()))
    else {
        return;
    };
    loop {
        let (leader, stopped) = {
            let now = leadership.borrow_and_update();
            (now.leader, now.stopped.is_some())
        };
        if stopped {
            return;
        }
        if *short.borrow_and_update() {
            let Some(group) = group.upgrade() else {
                return;
            };
            if leader == Some(group.node_id) {
                group.leave_for_want_of_room().await;
                drop(group);
                tokio::time::sleep(limits::ROOM_HAND_OVER_EVERY).await;
                continue;
            }
        }
        tokio::select! {
            changed = short.changed() => if changed.is_err() {
                return;
            },
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp,
    };

    use super::*;

    #[test]
    fn one_full_disk_of_three_blocks_nobody_and_two_do() {
        let voters = [1, 2, 3];
        for short in 1..=3 {
            assert!(a_quorum_has_room(&voters, &[short].into()));
        }
        assert!(!a_quorum_has_room(&voters, &[1, 3].into()));
        assert!(!a_quorum_has_room(&[1], &[1].into()));
        assert!(a_quorum_has_room(&[1], &[2].into()), "no voter of ours");
    }

    #[test]
    fn only_what_puts_grows_the_data() {
        let encoded = |op| {
            let command = Command {
                op: Some(op),
                ..Default::default()
            };
            Bytes::from(command.encode_to_vec())
        };
        let operation = |request| RequestOp {
            request: Some(request),
        };
        let put = || operation(Operation::RequestPut(PutRequest::default()));
        let delete = || operation(Operation::RequestDeleteRange(DeleteRangeRequest::default()));
        let txn = |success, failure| TxnRequest {
            success,
            failure,
            ..Default::default()
        };
        assert!(grows(encoded(Op::Put(PutRequest::default()))));
        assert!(grows(encoded(Op::Txn(txn(vec![delete()], vec![put()])))));
        let nested = operation(Operation::RequestTxn(txn(vec![put()], vec![])));
        assert!(grows(encoded(Op::Txn(txn(vec![nested], vec![])))));
        assert!(!grows(encoded(Op::Txn(txn(vec![delete()], vec![])))));
        let delete = DeleteRangeRequest::default();
        assert!(!grows(encoded(Op::DeleteRange(delete))));
        let compact = CompactionRequest::default();
        assert!(!grows(encoded(Op::Compact(compact))));
    }
}
