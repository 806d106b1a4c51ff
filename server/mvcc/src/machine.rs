//! Applies commands.

use holdfast_proto::{
    command::{self, Answer, Command, answer::Result as Outcome, command::Op},
    etcdserverpb::{CompactionRequest, CompactionResponse, ResponseHeader},
    mvccpb::Event,
};

use crate::{
    Reader, Revisions, StateError, Write,
    error::{Fail, Refusal},
    execution::Execution,
    meta,
    retry::{Admission, RetryTable},
};

/// Bounds of the state. They shape it, so they must be equal on all replicas of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients in the retry table; the one idle for longest gives way. At least 1.
    pub clients_max: usize,
    /// Bytes of the retry table's records; the clients idle for longest give way, but never the one
    /// whose answer is being kept. A full table of short answers needs about 40 MiB.
    pub retry_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            clients_max: 4096,
            retry_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// What applying a command gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The same on every replica. Headers hold the revision only.
    pub answer: Answer,
    /// The changes in order, each with the state of its key before the command. Empty for
    /// repeats, refusals and commands that change nothing.
    pub events: Vec<Event>,
    /// To be made readable before the next `apply`, in order, together with the applied mark.
    pub writes: Vec<Write>,
}

/// The counters of a keyspace and the index of its retry table; no data.
///
/// - It follows from the records: `load` after the writes of `apply` gives an equal machine.
/// - A failed `apply` leaves it as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateMachine {
    revisions: Revisions,
    retries: RetryTable,
}

impl StateMachine {
    /// Reads the counters and scans the retry table. An empty store is a fresh keyspace.
    pub fn load<R: Reader>(reader: &R, limits: Limits) -> Result<Self, StateError<R::Error>> {
        let revisions = meta::load_revisions(reader)?;
        let retries = RetryTable::load(reader, limits)?;
        Ok(StateMachine { revisions, retries })
    }

    /// The revisions after the last applied command.
    pub fn revisions(&self) -> Revisions {
        self.revisions
    }

    /// Applies the command at a log index, which must be higher than all before it.
    ///
    /// Pure: reads through `reader`, which shows the writes of all earlier commands, and returns
    /// what to write. A request that cannot be served is an answer; an error is one of the
    /// machine.
    pub fn apply<R: Reader>(
        &mut self,
        reader: &R,
        index: u64,
        command: Command,
    ) -> Result<Applied, StateError<R::Error>> {
        let remembered = match self.retries.admit(reader, &command)? {
            Admission::Untracked => None,
            Admission::Fresh => Some((command.client_id, command.request_seq)),
            Admission::Known(answer) => return Ok(Applied::unchanged(answer)),
            Admission::Refused(refusal) => return Ok(Applied::unchanged(refused(refusal))),
        };
        let (mut applied, revisions) = match self.execute(reader, command.op) {
            Ok(done) => done,
            Err(Fail::Refused(refusal)) => (Applied::unchanged(refused(refusal)), self.revisions),
            Err(Fail::State(error)) => return Err(error),
        };
        if revisions != self.revisions {
            applied.writes.push(meta::write_revisions(revisions));
        }
        if let Some((client_id, seq)) = remembered {
            self.retries.remember(
                index,
                (&client_id, seq),
                &applied.answer,
                revisions.current,
                &mut applied.writes,
            );
        }
        self.revisions = revisions;
        Ok(applied)
    }

    fn execute<R: Reader>(
        &self,
        reader: &R,
        op: Option<Op>,
    ) -> Result<(Applied, Revisions), Fail<R::Error>> {
        let mut execution = Execution::new(reader, self.revisions);
        let outcome = match op {
            Some(Op::Put(request)) => Outcome::Put(execution.put(&request)?),
            Some(Op::DeleteRange(request)) => {
                Outcome::DeleteRange(execution.delete_range(&request)?)
            }
            Some(Op::Txn(request)) => Outcome::Txn(execution.txn(&request)?),
            Some(Op::Compact(request)) => return Ok(self.compact(&request)?),
            None => return Err(Refusal::Malformed("the command has no operation").into()),
        };
        let revisions = Revisions {
            current: execution.now(),
            ..self.revisions
        };
        let (writes, events) = execution.finish();
        Ok((
            Applied {
                answer: Answer {
                    result: Some(outcome),
                },
                events,
                writes,
            },
            revisions,
        ))
    }

    /// Moves the compact revision; `scrub` removes what it leaves behind.
    fn compact(&self, request: &CompactionRequest) -> Result<(Applied, Revisions), Refusal> {
        let Revisions { current, compact } = self.revisions;
        let requested = request.revision;
        if requested <= compact {
            return Err(Refusal::Compacted { requested, compact });
        }
        if requested > current {
            return Err(Refusal::FutureRevision { requested, current });
        }
        let header = ResponseHeader {
            revision: current,
            ..Default::default()
        };
        let outcome = Outcome::Compact(CompactionResponse {
            header: Some(header),
        });
        let answer = Answer {
            result: Some(outcome),
        };
        Ok((
            Applied::unchanged(answer),
            Revisions {
                compact: requested,
                ..self.revisions
            },
        ))
    }
}

impl Applied {
    fn unchanged(answer: Answer) -> Self {
        Applied {
            answer,
            events: Vec::new(),
            writes: Vec::new(),
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer {
        result: Some(Outcome::Error(command::Error::from(refusal))),
    }
}
