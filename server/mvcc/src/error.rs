//! Errors, told apart by who must act.
//!
//! A bad request is an answer (`command::Error`) or a [`ReadError`]; a bad machine is a
//! [`StateError`], after which the group must stop on this node before it can diverge.

use std::fmt::Write as _;

use holdfast_proto::command;

use crate::version::Unknown;

/// A record that this crate cannot have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt record {key}: {what}")]
pub struct Corrupt {
    /// Key of the record, in hexadecimal.
    pub key: String,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Corrupt {
    pub(crate) fn new(key: &[u8], what: &'static str) -> Self {
        let mut hex = String::with_capacity(key.len() * 2);
        for byte in key {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Corrupt { key: hex, what }
    }
}

/// The store failed or holds garbage. Not retryable here: the machine is to be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StateError<E> {
    /// The store could not be read.
    #[error("reading the state: {0}")]
    Read(#[source] E),
    /// The store could be read, but what it holds makes no sense.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The command or the state is of another program than this.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The revision asked for has been compacted away.
    #[error("revision {requested} has been compacted; the oldest readable is {compact}")]
    Compacted {
        /// Revision asked for.
        requested: i64,
        /// Oldest revision that can be read.
        compact: i64,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {requested} is in the future; the present one is {current}")]
    FutureRevision {
        /// Revision asked for.
        requested: i64,
        /// Present revision.
        current: i64,
    },
    /// A transaction that writes was given to [`crate::read_txn`]: a mistake of the caller.
    #[error("the transaction writes")]
    NotReadOnly,
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError<E>),
}

/// Why an operation did not run. Refusals are the same on every replica.
#[derive(Debug)]
pub(crate) enum Refusal {
    KeyNotFound,
    LeaseNotFound { lease: i64 },
    Compacted { requested: i64, compact: i64 },
    FutureRevision { requested: i64, current: i64 },
    Malformed(&'static str),
    RetryForgotten(String),
    ClientUnknown,
}

impl From<Refusal> for command::Error {
    fn from(refusal: Refusal) -> Self {
        use command::error::Kind;
        let (kind, message) = match refusal {
            Refusal::KeyNotFound => (
                Kind::KeyNotFound,
                "ignore_value or ignore_lease needs an existing key".to_owned(),
            ),
            Refusal::LeaseNotFound { lease } => {
                (Kind::LeaseNotFound, format!("lease {lease} does not exist"))
            }
            Refusal::Compacted { requested, compact } => (
                Kind::Compacted,
                format!(
                    "revision {requested} has been compacted; the compact revision is {compact}"
                ),
            ),
            Refusal::FutureRevision { requested, current } => (
                Kind::FutureRevision,
                format!("revision {requested} is in the future; the present one is {current}"),
            ),
            Refusal::Malformed(what) => (Kind::Malformed, what.to_owned()),
            Refusal::RetryForgotten(message) => (Kind::RetryForgotten, message),
            Refusal::ClientUnknown => (
                Kind::ClientUnknown,
                "the client id is not known: it never registered, or was idle and gave way to others"
                    .to_owned(),
            ),
        };
        command::Error {
            kind: kind.into(),
            message,
        }
    }
}

/// Either a refusal, which is an answer, or a failure of the machine.
#[derive(Debug)]
pub(crate) enum Fail<E> {
    Refused(Refusal),
    State(StateError<E>),
}

impl<E> From<Refusal> for Fail<E> {
    fn from(refusal: Refusal) -> Self {
        Fail::Refused(refusal)
    }
}

impl<E> From<StateError<E>> for Fail<E> {
    fn from(error: StateError<E>) -> Self {
        Fail::State(error)
    }
}

impl<E> From<Fail<E>> for ReadError<E> {
    fn from(fail: Fail<E>) -> Self {
        match fail {
            Fail::Refused(Refusal::Compacted { requested, compact }) => {
                ReadError::Compacted { requested, compact }
            }
            Fail::Refused(Refusal::FutureRevision { requested, current }) => {
                ReadError::FutureRevision { requested, current }
            }
            // The other refusals belong to writes.
            Fail::Refused(_) => ReadError::NotReadOnly,
            Fail::State(error) => ReadError::State(error),
        }
    }
}
