//! What can go wrong, and the one question that matters after it did: **has the request changed
//! anything?**
//!
//! Every [`Error`] answers it. [`Effect::None`] promises that the request changed nothing and never
//! will; [`Effect::Unknown`] says that it may have taken effect, or may still. The second kind
//! reaches a caller only when the deadline ran out, when the cluster no longer remembers the
//! request, or when the server is a plain etcd, which cannot recognise a repeated request.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use tonic::Code;

/// Result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether a failed request has changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changed nothing and never will. Reads always fail with this.
    None,
    /// It may have taken effect, or may yet take effect, at most once on Holdfast.
    Unknown,
}

/// Why a request failed, and whether it has changed anything.
///
/// - A read never fails with [`Effect::Unknown`].
/// - The effect is that of all attempts together: one lost attempt makes it unknown, until a later
///   attempt of the same write gets an answer that the cluster vouches for.
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Clone)]
struct Details {
    kind: ErrorKind,
    effect: Effect,
    code: Option<Code>,
    endpoint: Option<Arc<str>>,
    attempts: u32,
}

/// The reason of an [`Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An endpoint given to the builder is not a URL this client can use.
    #[error("endpoint {endpoint:?} cannot be used: {reason}")]
    InvalidEndpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A keyspace name that cannot be sent.
    #[error("keyspace name {0:?} is not valid: it must be visible ASCII")]
    InvalidKeyspace(String),
    /// The key of the request is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` needs a key that exists.
    #[error("the key does not exist")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("a value was given together with ignore_value")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("a lease was given together with ignore_lease")]
    LeaseProvided,
    /// The lease does not exist.
    #[error("the lease does not exist")]
    LeaseNotFound,
    /// More operations in a transaction than the server allows.
    #[error("too many operations in the transaction")]
    TooManyOperations,
    /// A transaction writes one key twice.
    #[error("the transaction writes one key twice")]
    DuplicateKey,
    /// The sort order or target is not known.
    #[error("the sort order or target is not valid")]
    InvalidSort,
    /// The request is larger than the server allows.
    #[error("the request is too large")]
    TooLarge,
    /// The revision asked for has been compacted.
    #[error("the revision has been compacted")]
    Compacted,
    /// The revision asked for does not exist yet.
    #[error("the revision is in the future")]
    FutureRevision,
    /// No keyspace of that name.
    #[error("{0}")]
    KeyspaceNotFound(String),
    /// The database has reached its quota.
    #[error("the database is out of space")]
    NoSpace,
    /// The server has too much to do; it did nothing for this request.
    #[error("the server is overloaded: {0}")]
    Overloaded(String),
    /// The keyspace has no leader at the moment.
    #[error("no leader")]
    NoLeader,
    /// The cluster took the request but could not tell what became of it.
    #[error("{0}")]
    Interrupted(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopping,
    /// No connection could be made; nothing was sent.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The connection broke while the request was under way.
    #[error("connection lost: {0}")]
    Disconnected(String),
    /// The cluster no longer remembers whether the request, sent before, took effect.
    #[error("the cluster no longer remembers this request: {0}")]
    RetryForgotten(String),
    /// The cluster has forgotten this client, idle for longest of more than it remembers. Only what
    /// was in doubt already is unknown; the client is known again with the next write.
    #[error("the cluster no longer remembers this client: {0}")]
    ClientForgotten(String),
    /// The server does not know the operation.
    #[error("not supported by the server: {0}")]
    Unsupported(String),
    /// Not allowed.
    #[error("not allowed: {0}")]
    Denied(String),
    /// Data on the server is damaged.
    #[error("damaged data: {0}")]
    Corrupt(String),
    /// The server refused the request for another reason.
    #[error("{message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The server's words.
        message: String,
    },
    /// The server failed in a way that it does not explain.
    #[error("the server failed: {message} ({code:?})")]
    Server {
        /// The gRPC code.
        code: Code,
        /// The server's words.
        message: String,
    },
    /// The deadline passed.
    #[error("no answer within {timeout:?}{}", last_cause(.last))]
    DeadlineExceeded {
        /// The time the request had.
        timeout: Duration,
        /// How the last attempt that ended had failed.
        last: Option<Box<Error>>,
    },
}

fn last_cause(last: &Option<Box<Error>>) -> String {
    last.as_ref()
        .map(|e| format!("; last failure: {e}"))
        .unwrap_or_default()
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, effect: Effect) -> Self {
        Error(Box::new(Details {
            kind,
            effect,
            code: None,
            endpoint: None,
            attempts: 0,
        }))
    }

    /// That of a request of which the last attempt failed so, at this endpoint.
    pub(crate) fn of_attempt(
        kind: ErrorKind,
        code: Code,
        effect: Effect,
        endpoint: Arc<str>,
        attempts: u32,
    ) -> Self {
        Error(Box::new(Details {
            kind,
            effect,
            code: Some(code),
            endpoint: Some(endpoint),
            attempts,
        }))
    }

    pub(crate) fn deadline(
        timeout: Duration,
        last: Option<Error>,
        effect: Effect,
        attempts: u32,
    ) -> Self {
        let endpoint = last.as_ref().and_then(|e| e.0.endpoint.clone());
        let kind = ErrorKind::DeadlineExceeded {
            timeout,
            last: last.map(Box::new),
        };
        let code = Some(Code::DeadlineExceeded);
        Error(Box::new(Details {
            kind,
            effect,
            code,
            endpoint,
            attempts,
        }))
    }

    /// Why it failed.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether the request has changed anything.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The gRPC code of the last attempt, if a server or the transport gave one.
    pub fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// The endpoint of the last attempt.
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// How often the request was sent.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// The same request may succeed when it is made again later.
    ///
    /// This says nothing about its effect: a write whose [`effect`](Self::effect) is unknown may
    /// take effect a second time when it is made again as a new request.
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::*;
        matches!(
            self.0.kind,
            Overloaded(_)
                | NoLeader
                | Interrupted(_)
                | Stopping
                | ClientForgotten(_)
                | Unreachable(_)
                | Disconnected(_)
                | DeadlineExceeded { .. }
        )
    }

    /// No node of the cluster could be reached or was able to serve the request in time.
    pub fn is_unavailable(&self) -> bool {
        match &self.0.kind {
            ErrorKind::DeadlineExceeded {
                last: Some(last), ..
            } => last.is_unavailable(),
            ErrorKind::DeadlineExceeded { last: None, .. }
            | ErrorKind::NoLeader
            | ErrorKind::Stopping
            | ErrorKind::Unreachable(_)
            | ErrorKind::Disconnected(_) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.kind)?;
        if let Some(endpoint) = &self.0.endpoint
            && !matches!(self.0.kind, ErrorKind::DeadlineExceeded { .. })
        {
            write!(f, " [{endpoint}]")?;
        }
        if self.0.effect == Effect::Unknown {
            write!(
                f,
                " (effect unknown: the request may have been carried out)"
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            kind,
            effect,
            code,
            endpoint,
            attempts,
        } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("effect", effect)
            .field("code", code)
            .field("endpoint", endpoint)
            .field("attempts", attempts)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.kind {
            ErrorKind::DeadlineExceeded {
                last: Some(last), ..
            } => Some(&**last),
            _ => None,
        }
    }
}
