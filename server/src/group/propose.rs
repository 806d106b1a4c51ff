//! One proposal, awaited: here if this node leads, through the leader if not.

use std::{sync::atomic::Ordering, time::Instant};

use bytes::Bytes;
use holdfast_mvcc as mvcc;
use holdfast_proto::{
    command::{Answer, Command, answer, command::Op, error},
    peer::{self, forward, forward_error::Kind, forward_reply},
};
use prost::Message;

use super::{Group, GroupError, Proposed, chase::Asked};
use crate::{
    planted::planted,
    raft::{NodeId, ProposeError, TransportError},
};

/// How one attempt ended.
pub(super) enum Attempt {
    Done(Proposed),
    /// Nothing was appended; somebody else may lead.
    NotAppended(Option<NodeId>),
    /// It may have been appended.
    Unknown,
    Failed(GroupError),
}

/// Whether a command may be offered again that may have been appended.
fn takes_effect_once(command: &Command) -> bool {
    planted!(DuplicateOnForwardTimeout => return true);
    !command.client_id.is_empty()
}

/// Whether an answer tells nothing of earlier offers of the command.
fn is_forgotten(answer: &Answer) -> bool {
    let Some(answer::Result::Error(error)) = &answer.result else {
        return false;
    };
    matches!(
        error.kind(),
        error::Kind::ClientUnknown | error::Kind::RetryForgotten
    )
}

impl Group {
    /// Proposes a command and waits for its answer, until `deadline`.
    ///
    /// While nothing has been appended the command is offered to every new leader. Once its fate
    /// is unknown it is offered again only if it carries a retry id, because then the retry table
    /// makes sure that it takes effect once.
    pub async fn propose(
        &self,
        mut command: Command,
        deadline: Instant,
    ) -> Result<Proposed, GroupError> {
        let needs = command.op.as_ref().map_or(1, mvcc::needed);
        if needs > 1 {
            command.min_version = needs;
            let raises = matches!(command.op, Some(Op::SetSettings(_)));
            let version = self.version();
            if !raises && version < needs {
                return Err(GroupError::Unsupported(format!(
                    "it needs version {needs} and the keyspace is at version {version}"
                )));
            }
        }
        let may_share = command.op.as_ref().is_some_and(mvcc::may_share);
        let mut encoded = Bytes::from(command.encode_to_vec());
        let Some(_place) = self.admission.enter(encoded.len()) else {
            return Err(GroupError::Overloaded);
        };
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut chase = self
            .chase(deadline)
            .asking_once(!takes_effect_once(&command));
        let mut in_doubt = false;
        loop {
            let offer = |leader| self.offer(leader, encoded.clone(), may_share);
            let attempt = match chase.ask(offer).await {
                Asked::Answered(attempt) => attempt,
                Asked::Deposed => Attempt::Unknown,
                Asked::NoLeader => Attempt::NotAppended(None),
                Asked::OutOfTime => return Err(GroupError::TimedOut),
                Asked::Stopped(_) if in_doubt => return Err(GroupError::LeaderLost),
                Asked::Stopped(why) => return Err(GroupError::Stopped(why)),
            };
            match attempt {
                // This offer was refused and an earlier one may have taken effect: the caller, who has
                // sent the request once, must not take it for refused.
                Attempt::Done(proposed) if in_doubt && is_forgotten(&proposed.answer) => {
                    return Err(GroupError::LeaderLost);
                }
                Attempt::Done(proposed) => return Ok(proposed),
                // The earlier attempt may yet take effect, whatever became of this one.
                Attempt::Failed(_) if in_doubt => return Err(GroupError::LeaderLost),
                Attempt::Failed(error) => return Err(error),
                Attempt::NotAppended(other) => chase.hint(other),
                Attempt::Unknown if !takes_effect_once(&command) => {
                    return Err(GroupError::LeaderLost);
                }
                Attempt::Unknown => {
                    in_doubt = true;
                    if !command.retried {
                        command.retried = true;
                        encoded = command.encode_to_vec().into();
                    }
                }
            }
            if !chase.again().await {
                return Err(if in_doubt {
                    GroupError::TimedOut
                } else {
                    GroupError::NoLeader
                });
            }
        }
    }

    async fn offer(&self, leader: NodeId, command: Bytes, may_share: bool) -> Attempt {
        if self.leads(leader) {
            self.offer_here(command, may_share).await
        } else {
            self.offer_there(leader, command).await
        }
    }

    /// Offers a command to this node. One that `may_share` an entry with others may find itself in one.
    pub(super) async fn offer_here(&self, command: Bytes, may_share: bool) -> Attempt {
        if self.is_powerless() {
            return Attempt::NotAppended(None);
        }
        if let Err(error) = self.admit_growth(&command) {
            return Attempt::Failed(error);
        }
        let proposed = match may_share {
            true => self.raft.propose_shared(command).await,
            // Boxed because it is rare and large, and every proposal would carry room for it.
            false => Box::pin(self.raft.propose(command)).await,
        };
        match proposed {
            Ok(done) => Attempt::Done(Proposed {
                answer: done.answer,
                term: done.term,
            }),
            Err(ProposeError::NotLeader(other)) => {
                Attempt::NotAppended(other.filter(|node| !self.leads(*node)))
            }
            Err(ProposeError::Unknown | ProposeError::Stopped(_)) => Attempt::Unknown,
        }
    }

    async fn offer_there(&self, leader: NodeId, command: Bytes) -> Attempt {
        if self.is_dead(leader) {
            return Attempt::NotAppended(None);
        }
        let reply = self
            .transport
            .forward(
                leader,
                peer::Forward {
                    // The transport numbers the requests of a connection.
                    id: 0,
                    group_id: self.id(),
                    request: Some(forward::Request::Command(command)),
                },
            )
            .await;
        match reply {
            Ok(peer::ForwardReply {
                reply: Some(forward_reply::Reply::Applied(applied)),
                ..
            }) => match Answer::decode(applied.answer) {
                Ok(answer) => Attempt::Done(Proposed {
                    answer,
                    term: applied.term,
                }),
                Err(e) => {
                    tracing::error!(leader, error = %e, "an answer of the leader does not decode");
                    Attempt::Unknown
                }
            },
            Ok(peer::ForwardReply {
                reply: Some(forward_reply::Reply::Error(error)),
                ..
            }) => match error.kind() {
                Kind::NotLeader => {
                    let other = Some(error.leader).filter(|node| *node != 0 && *node != leader);
                    Attempt::NotAppended(other)
                }
                Kind::Overloaded => Attempt::Failed(GroupError::Overloaded),
                Kind::NoSpace => Attempt::Failed(GroupError::NoSpace),
                Kind::Stopped => Attempt::NotAppended(None),
                Kind::Unsupported => Attempt::Failed(GroupError::Unsupported(error.message)),
                Kind::UnknownOutcome | Kind::Unspecified => Attempt::Unknown,
            },
            Ok(_) => Attempt::Unknown,
            Err(TransportError::Unreachable { .. } | TransportError::Refused { .. }) => {
                Attempt::NotAppended(None)
            }
            Err(TransportError::Overloaded { .. }) => Attempt::Failed(GroupError::Overloaded),
            Err(TransportError::Lost { .. }) => Attempt::Unknown,
        }
    }
}
