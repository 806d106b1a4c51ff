//! Applies commands.

use holdfast_proto::{
    command::{
        self, Answer, Command, Register, Registered, Settings, answer::Result as Outcome,
        command::Op,
    },
    etcdserverpb::{CompactionRequest, CompactionResponse, ResponseHeader},
    mvccpb::Event,
};

use crate::{
    Reader, Revisions, StateError, Write,
    error::{Fail, Refusal},
    execution::Execution,
    meta, record,
    retry::{Admission, RetryTable},
    version::{self, REGISTRATION, Unknown},
};

/// Bounds of a state that has no settings of its own: version 1. They shape the state, so they must be
/// equal on all replicas of a group; from version 2 on they are part of it.
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

impl From<Settings> for Limits {
    fn from(settings: Settings) -> Self {
        let default = Limits::default();
        let given = |number: u64, default| if number == 0 { default } else { number };
        let clients_max = given(settings.retry_clients_max, default.clients_max as u64);
        Limits {
            clients_max: usize::try_from(clients_max).unwrap_or(usize::MAX),
            retry_bytes_max: given(settings.retry_bytes_max, default.retry_bytes_max),
        }
    }
}

/// What applying a command gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The same on every replica. Headers hold the revision only.
    pub answer: Answer,
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
    /// 1 for a state without settings.
    version: u32,
    retries: RetryTable,
}

impl StateMachine {
    /// Reads the counters and scans the retry table. An empty store is a fresh keyspace.
    pub fn load<R: Reader>(reader: &R, limits: Limits) -> Result<Self, StateError<R::Error>> {
        let revisions = meta::load_revisions(reader)?;
        let settings = meta::load_settings(reader)?;
        let limits = settings.map_or(limits, Limits::from);
        let retries = RetryTable::load(reader, limits)?;
        Ok(StateMachine {
            revisions,
            version: settings.map_or(1, |settings| settings.version),
            retries,
        })
    }

    /// Version that the state has been raised to.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The revisions after the last applied command.
    pub fn revisions(&self) -> Revisions {
        self.revisions
    }

    /// Applies a command of the entry at a log index, which is not lower than any before it, and higher than
    /// that of any client that registered.
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
        version::check(&command)?;
        let registered_only = self.version >= REGISTRATION;
        let admission = self.retries.admit(reader, &command, registered_only)?;
        let remembered = match admission {
            Admission::Untracked => None,
            Admission::Fresh => Some((command.client_id, command.request_seq)),
            Admission::Known(answer) => return Ok(Applied::unchanged(answer)),
            Admission::Refused(refusal) => return Ok(Applied::unchanged(refused(refusal))),
        };
        let (mut applied, revisions) = match command.op {
            Some(Op::Register(request)) => (self.register(index, request), self.revisions),
            Some(Op::SetSettings(settings)) => (self.set(settings), self.revisions),
            op => match self.execute(reader, op) {
                Ok(done) => done,
                Err(Fail::Refused(refusal)) => {
                    (Applied::unchanged(refused(refusal)), self.revisions)
                }
                Err(Fail::State(error)) => return Err(error),
            },
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

    /// Makes a client known.
    fn register(&mut self, index: u64, request: Register) -> Applied {
        let mut writes = Vec::new();
        let client_id = self.retries.register(index, request.nonce, &mut writes);
        let outcome = Outcome::Register(Registered { client_id });
        Applied {
            writes,
            ..Applied::unchanged(Answer {
                result: Some(outcome),
            })
        }
    }

    /// Takes over the settings that a command names; the version never goes down.
    fn set(&mut self, asked: Settings) -> Applied {
        let mut writes = Vec::new();
        self.version = self.version.max(asked.version);
        self.retries.set_limits(asked, &mut writes);
        let limits = self.retries.limits();
        let settings = Settings {
            version: self.version,
            retry_clients_max: limits.clients_max as u64,
            retry_bytes_max: limits.retry_bytes_max,
        };
        writes.push(meta::write_settings(&settings));
        let outcome = Outcome::SetSettings(settings);
        Applied {
            writes,
            ..Applied::unchanged(Answer {
                result: Some(outcome),
            })
        }
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
            // None is of the contents, and the caller has dealt with them.
            Some(Op::Register(_) | Op::SetSettings(_) | Op::Batch(_)) | None => {
                return Err(StateError::from(Unknown::Operation).into());
            }
        };
        let revisions = Revisions {
            current: execution.now(),
            ..self.revisions
        };
        Ok((
            Applied {
                answer: Answer {
                    result: Some(outcome),
                },
                writes: execution.finish(),
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
    /// The changes in order, made of the records for whoever asks. None for repeats, refusals and
    /// commands that change nothing. None has the version before it: whoever wants that reads it at the
    /// revision before, as etcd does, so that a write does not have to.
    pub fn events(&self) -> Vec<Event> {
        self.writes.iter().filter_map(record::event).collect()
    }

    fn unchanged(answer: Answer) -> Self {
        Applied {
            answer,
            writes: Vec::new(),
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer {
        result: Some(Outcome::Error(command::Error::from(refusal))),
    }
}
