//! Linearizable reads by ReadIndex (Raft thesis, section 6.4), served where they arrive.

use std::time::Instant;

use holdfast_proto::peer::{self, forward, forward_reply};

use super::{Group, GroupError, left};
use crate::{
    planted::{self, Bug},
    raft::{NodeId, ReadIndexError},
};

impl Group {
    /// Waits until local state holds everything that was acknowledged before this call.
    pub async fn linearizable(&self, deadline: Instant) -> Result<(), GroupError> {
        if let Some(why) = self.leadership().borrow().stopped.clone() {
            return Err(GroupError::Stopped(why));
        }
        match tokio::time::timeout(left(deadline), self.read_rounds.join()).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(GroupError::Overloaded),
            Err(_) => Err(GroupError::TimedOut),
        }
    }

    /// One round of reads: an index from the leader, then that index applied here. It goes on
    /// until it succeeds; callers give up by themselves.
    pub(super) async fn read_round(&self) {
        let mut leadership = self.leadership();
        let mut hint = None;
        loop {
            let known = leadership.borrow_and_update().leader;
            let index = match hint.take().or(known) {
                Some(leader) => {
                    let asked = self.ask_index(leader);
                    #[cfg(feature = "planted-bugs")]
                    let asked = self.or_the_last(asked);
                    tokio::select! {
                        index = asked => index,
                        () = self.deposed(leadership.clone(), leader) => Err(None),
                    }
                }
                None => Err(None),
            };
            match index {
                Ok(_) if planted::is(Bug::ReadIndexNotAwaited) => return,
                Ok(index) => {
                    let mut published = self.raft.shared().watch();
                    // The sender lives as long as the group's state.
                    let _ = published.wait_for(|p| p.index >= Some(index)).await;
                    return;
                }
                Err(Some(other)) => hint = Some(other),
                Err(None) => Self::leadership_may_have_changed(&mut leadership).await,
            }
        }
    }

    /// Falls back on the index of an earlier round when the leader does not answer soon.
    #[cfg(feature = "planted-bugs")]
    async fn or_the_last(
        &self,
        asked: impl Future<Output = Result<u64, Option<NodeId>>>,
    ) -> Result<u64, Option<NodeId>> {
        use std::{collections::BTreeMap, time::Duration};
        static LAST: parking_lot::Mutex<BTreeMap<u64, u64>> =
            parking_lot::Mutex::new(BTreeMap::new());
        const SOON: Duration = Duration::from_millis(200);
        if !planted::is(Bug::StaleAfterRejoin) {
            return asked.await;
        }
        match tokio::time::timeout(SOON, asked).await {
            Ok(Ok(index)) => {
                LAST.lock().insert(self.id(), index);
                Ok(index)
            }
            Ok(Err(Some(other))) => Err(Some(other)),
            Ok(Err(None)) | Err(_) => LAST.lock().get(&self.id()).copied().ok_or(None),
        }
    }

    /// The read index of the leader, or who else might lead.
    async fn ask_index(&self, leader: NodeId) -> Result<u64, Option<NodeId>> {
        if self.leads(leader) {
            return match self.leader_index().await {
                Ok(index) => Ok(index),
                Err(ReadIndexError::NotLeader(other)) => Err(other.filter(|n| !self.leads(*n))),
                Err(_) => Err(None),
            };
        }
        let question = peer::Forward {
            id: 0,
            group_id: self.id(),
            request: Some(forward::Request::ReadIndex(peer::ReadIndex {})),
        };
        match self.transport.forward(leader, question).await {
            Ok(peer::ForwardReply {
                reply: Some(forward_reply::Reply::ReadIndex(reply)),
                ..
            }) => Ok(reply.index),
            Ok(peer::ForwardReply {
                reply: Some(forward_reply::Reply::Error(error)),
                ..
            }) => Err(Some(error.leader).filter(|node| *node != 0 && *node != leader)),
            Ok(_) | Err(_) => Err(None),
        }
    }

    /// The read index, if this node leads; shared with all who ask at the same time.
    pub(super) async fn leader_index(&self) -> Result<u64, ReadIndexError> {
        self.index_rounds
            .join()
            .await
            .unwrap_or(Err(ReadIndexError::NoQuorum))
    }
}
