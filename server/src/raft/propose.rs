//! Proposals, and the entries that they share.
//!
//! An entry costs the leader and every follower about as much as a small command in it: a place in the log, a
//! message, a responder, a turn of the state machine. Commands that are ready at the same moment therefore share
//! one, and nobody waits for company:
//!
//! ```text
//!   propose_shared ─ command ─▶ [Sharing] ── first of them ──▶ a task, which lets everything that is ready
//!        ▲                                                      run once, takes what has gathered, and
//!        └─────────────── its own answer ◀── answers ◀── entry ─ proposes it
//! ```
//!
//! With one request at a time nothing gathers, and the entry is the command as it came. A batch needs a
//! state that has been raised to [`mvcc::BATCHES`].

use bytes::Bytes;
use holdfast_mvcc as mvcc;
use holdfast_proto::command::Answer;
use openraft::{errors::ClientWriteError, impls::ProgressResponder};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    RaftGroup,
    type_config::{NodeId, Outcome, Proposal},
};
use crate::limits;

/// A proposal that took its place in the log and was applied.
#[derive(Debug)]
pub struct Committed {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    #[allow(dead_code, reason = "tests compare it with what the log holds")]
    pub index: u64,
    /// What applying it answered.
    pub answer: Answer,
}

/// Why a proposal was not seen to commit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was appended: safe to send to the leader, if one is named.
    #[error("this node does not lead the group")]
    NotLeader(Option<NodeId>),
    /// The entry was appended and then lost its leader: it may or may not commit.
    #[error("the leader changed while the proposal was in flight")]
    Unknown,
    /// The group does not run on this node. Whether the entry commits is unknown.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

/// Commands that wait to share an entry.
///
/// - Whoever adds the first starts the task that takes them all, so none waits longer than one turn of
///   the runtime. The proposals that are let in bound their number.
#[derive(Default)]
pub(super) struct Sharing(Mutex<Vec<Waiting>>);

struct Waiting {
    command: Bytes,
    answer: oneshot::Sender<Result<Committed, ProposeError>>,
}

/// What applying an entry gave: an answer for each of its commands.
struct Applied {
    term: u64,
    index: u64,
    answers: Vec<Answer>,
}

impl RaftGroup {
    /// Proposes an encoded command as an entry of its own. Dropping the future does not take the proposal
    /// back.
    pub async fn propose(&self, command: Bytes) -> Result<Committed, ProposeError> {
        let Applied {
            term,
            index,
            answers,
        } = self.append(command).await?.await?;
        let [answer] = <[Answer; 1]>::try_from(answers)
            .expect("the state machine answers each command of an entry");
        Ok(Committed {
            term,
            index,
            answer,
        })
    }

    /// Proposes an encoded command, which [may share](mvcc::may_share) an entry with others. Dropping the future
    /// takes the proposal back only before it had its turn.
    pub async fn propose_shared(&self, command: Bytes) -> Result<Committed, ProposeError> {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.sharing.0.lock();
            waiting.push(Waiting { command, answer });
            waiting.len() == 1
        };
        if is_first {
            let group = self.clone();
            tokio::spawn(async move { group.propose_those_that_wait().await });
        }
        // The task ends without an answer only with the runtime.
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn propose_those_that_wait(&self) {
        // Behind everything that is ready to run now, and that may have a command to add.
        tokio::task::yield_now().await;
        let waiting = std::mem::take(&mut *self.sharing.0.lock());
        let may_share = self.shared.version() >= mvcc::BATCHES;
        let mut appended = Vec::new();
        for (commands, callers) in entries(waiting, may_share) {
            let entry = match <[Bytes; 1]>::try_from(commands) {
                Ok([command]) => command,
                Err(commands) => mvcc::encode_entry(commands),
            };
            appended.push((self.append(entry).await, callers));
        }
        for (entry, callers) in appended {
            let applied = match entry {
                Ok(entry) => entry.await,
                Err(stopped) => Err(stopped),
            };
            answer(callers, applied);
        }
    }

    /// Hands an entry to the consensus, in the order of the calls. What it gives is the future of the answers.
    async fn append(
        &self,
        entry: Bytes,
    ) -> Result<impl Future<Output = Result<Applied, ProposeError>> + '_, ProposeError> {
        if self.stopped().is_some() {
            // Nothing is appended, and that is all that matters to whoever asks; why is known from the leadership.
            return Err(ProposeError::NotLeader(None));
        }
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft
            .client_write_ff(Proposal(entry), Some(responder))
            .await
            .map_err(|e| ProposeError::Stopped(e.to_string()))?;
        Ok(async move {
            match answer.await {
                Ok(Ok(done)) => Ok(Applied {
                    term: done.log_id.leader_id.term,
                    index: done.log_id.index,
                    answers: match done.data {
                        Outcome(answers) => answers,
                    },
                }),
                Ok(Err(ClientWriteError::ForwardToLeader(to))) => {
                    if to.leader_id.is_none()
                        && self.leadership.borrow().leader == Some(self.node_id)
                    {
                        // It has not heard from a quorum for a lease; it may, as soon as it asks.
                        self.beat().await;
                    }
                    Err(ProposeError::NotLeader(to.leader_id))
                }
                Ok(Err(_)) => Err(ProposeError::Unknown),
                // The responder is dropped when the core stops.
                Err(_) => Err(self
                    .stopped()
                    .map_or(ProposeError::Unknown, ProposeError::Stopped)),
            }
        })
    }
}

type Caller = oneshot::Sender<Result<Committed, ProposeError>>;

/// Divides commands among entries, in order. Those whose callers have gone are left out.
fn entries(
    waiting: Vec<Waiting>,
    may_share: bool,
) -> impl Iterator<Item = (Vec<Bytes>, Vec<Caller>)> {
    let mut waiting = waiting
        .into_iter()
        .filter(|waiting| !waiting.answer.is_closed())
        .peekable();
    std::iter::from_fn(move || {
        let first = waiting.next()?;
        let mut bytes = first.command.len();
        let (mut commands, mut callers) = (vec![first.command], vec![first.answer]);
        while may_share
            && commands.len() < limits::ENTRY_COMMANDS_MAX
            && let Some(next) = waiting.next_if(|next| {
                bytes + next.command.len() <= limits::ENTRY_SHARED_BYTES_MAX as usize
            })
        {
            bytes += next.command.len();
            commands.push(next.command);
            callers.push(next.answer);
        }
        Some((commands, callers))
    })
}

/// Gives each caller its own answer. One that has gone needs none.
fn answer(callers: Vec<Caller>, applied: Result<Applied, ProposeError>) {
    match applied {
        Ok(Applied {
            term,
            index,
            answers,
        }) => {
            assert_eq!(
                answers.len(),
                callers.len(),
                "the state machine answers each command of entry {index}"
            );
            for (caller, answer) in callers.into_iter().zip(answers) {
                let committed = Committed {
                    term,
                    index,
                    answer,
                };
                let _ = caller.send(Ok(committed));
            }
        }
        Err(error) => {
            for caller in callers {
                let _ = caller.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
