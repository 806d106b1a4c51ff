//! Requests that other nodes forward to this one because they believe it leads.

use holdfast_mvcc as mvcc;
use holdfast_proto::peer::{self, forward, forward_error::Kind, forward_reply::Reply};
use prost::Message;

use super::{Group, GroupError, propose::Attempt};
use crate::raft::ReadIndexError;

impl Group {
    /// Answers a forwarded request. Nothing is forwarded a second time: the sender decides.
    pub async fn handle_forward(&self, request: peer::Forward) -> peer::ForwardReply {
        let id = request.id;
        let reply = match request.request {
            Some(forward::Request::Command(command)) => self.forwarded_command(command).await,
            Some(forward::Request::ReadIndex(_)) => match self.leader_index().await {
                Ok(index) => Reply::ReadIndex(peer::ReadIndexReply { index }),
                Err(ReadIndexError::NotLeader(other)) => error(Kind::NotLeader, other, ""),
                Err(e @ ReadIndexError::NoQuorum) => {
                    error(Kind::UnknownOutcome, None, &e.to_string())
                }
                Err(ReadIndexError::Overloaded) => error(Kind::Overloaded, None, ""),
                Err(ReadIndexError::Stopped(why)) => error(Kind::Stopped, None, &why),
            },
            None => error(Kind::Stopped, None, "the request names no operation"),
        };
        peer::ForwardReply {
            id,
            reply: Some(reply),
        }
    }

    async fn forwarded_command(&self, command: bytes::Bytes) -> Reply {
        // A node of a later version may have sent it. In the log it would stop the group here.
        let may_share = match mvcc::decode(command.clone()) {
            Ok(command) => command.op.as_ref().is_some_and(mvcc::may_share),
            Err(unknown) => return error(Kind::Unsupported, None, &unknown.to_string()),
        };
        let Some(_place) = self.admission.enter(command.len()) else {
            return error(Kind::Overloaded, None, "");
        };
        match self.offer_here(command, may_share).await {
            Attempt::Done(done) => Reply::Applied(peer::Applied {
                term: done.term,
                index: 0,
                answer: done.answer.encode_to_vec().into(),
            }),
            Attempt::NotAppended(other) => error(Kind::NotLeader, other, ""),
            Attempt::Unknown => error(Kind::UnknownOutcome, None, ""),
            Attempt::Failed(GroupError::NoSpace) => error(Kind::NoSpace, None, ""),
            Attempt::Failed(e) => error(Kind::Stopped, None, &e.to_string()),
        }
    }
}

/// An error reply; `leader` 0 stands for "not known".
pub(crate) fn error(kind: Kind, leader: Option<u64>, message: &str) -> Reply {
    Reply::Error(peer::ForwardError {
        kind: kind.into(),
        leader: leader.unwrap_or(0),
        message: message.to_string(),
    })
}
