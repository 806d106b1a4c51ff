//! What one failed attempt of a request means: the only place that reads gRPC statuses, so that etcd's
//! words, Holdfast's own and the transport's failures are told apart once.
//!
//! ```text
//!  gRPC status ──▶ judge() ──▶ Verdict { kind, effect, again, fault }
//!                                 │       │      │      └─ what it says about the endpoint
//!                                 │       │      └─ may the same request be sent again?
//!                                 └───────┴─ the Error, if this attempt was the last
//! ```

use std::{error::Error as StdError, sync::Arc};

use holdfast_proto::metadata::{OUTCOME, outcome};
use tonic::{Code, Status};

use crate::error::{Effect, Error, ErrorKind};

/// What one failed attempt means.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) kind: ErrorKind,
    pub(crate) code: Code,
    /// Of this attempt alone, if the request is a write.
    pub(crate) effect: Effect,
    /// Another attempt may fare better.
    pub(crate) again: bool,
    /// This is the state machine's own answer, so it is the fate of every attempt of the request
    /// under its retry id: none of them took effect.
    pub(crate) settled: bool,
    pub(crate) fault: Fault,
}

impl Verdict {
    /// The error of a request of which this was the last attempt, with the effect of all of them.
    pub(crate) fn into_error(self, effect: Effect, endpoint: Arc<str>, attempts: u32) -> Error {
        Error::of_attempt(self.kind, self.code, effect, endpoint, attempts)
    }
}

/// What a failed attempt says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It works; the request was at fault.
    None,
    /// It answers but cannot serve at the moment: others first.
    Avoid,
    /// It is gone until a probe says otherwise.
    Down,
}

/// Reads a gRPC status: etcd's codes and messages, and the transport's failures.
pub(crate) fn judge(status: &Status) -> Verdict {
    if let Some(source) = status.source() {
        return judge_transport(status, source);
    }
    let code = status.code();
    let text = status.message();
    let short = text.strip_prefix("etcdserver: ").unwrap_or(text);
    // Code and message may be those of a proxy, or of a server that never heard of the attempts
    // before. This is said by Holdfast alone.
    let said = status.metadata().get(OUTCOME).map(|value| value.as_bytes());
    let settled = said == Some(outcome::REFUSED.as_bytes());
    let not_appended = said == Some(outcome::NOT_APPENDED.as_bytes());
    if said == Some(outcome::CLIENT_UNKNOWN.as_bytes()) {
        return Verdict {
            kind: ErrorKind::ClientForgotten(text.into()),
            code,
            effect: Effect::None,
            again: false,
            settled: false,
            fault: Fault::None,
        };
    }
    let refused = |kind| Verdict {
        kind,
        code,
        effect: Effect::None,
        again: false,
        settled,
        fault: Fault::None,
    };
    let nothing_done = |kind| Verdict {
        kind,
        code,
        effect: Effect::None,
        again: true,
        settled: false,
        fault: Fault::Avoid,
    };
    let unknown = |kind, fault| Verdict {
        kind,
        code,
        effect: match not_appended {
            true => Effect::None,
            false => Effect::Unknown,
        },
        again: true,
        settled: false,
        fault,
    };
    match (code, short) {
        (_, "key is not provided") => refused(ErrorKind::EmptyKey),
        (_, "key not found") => refused(ErrorKind::KeyNotFound),
        (_, "value is provided") => refused(ErrorKind::ValueProvided),
        (_, "lease is provided") => refused(ErrorKind::LeaseProvided),
        (_, "requested lease not found") => refused(ErrorKind::LeaseNotFound),
        (_, "too many operations in txn request") => refused(ErrorKind::TooManyOperations),
        (_, "duplicate key given in txn request") => refused(ErrorKind::DuplicateKey),
        (_, "invalid sort option") => refused(ErrorKind::InvalidSort),
        (_, "request is too large") => refused(ErrorKind::TooLarge),
        (_, "mvcc: required revision has been compacted") => refused(ErrorKind::Compacted),
        (_, "mvcc: required revision is a future revision") => refused(ErrorKind::FutureRevision),
        (_, "mvcc: database space exceeded") => refused(ErrorKind::NoSpace),
        (_, "no leader") => nothing_done(ErrorKind::NoLeader),
        (_, "not leader") | (_, "rpc not supported for learner") => {
            nothing_done(ErrorKind::NoLeader)
        }
        (_, "server stopped") => unknown(ErrorKind::Stopping, Fault::Down),
        // How gRPC servers, in Go and in Rust, refuse a message above their own limit.
        (Code::ResourceExhausted, m) if m.contains("larger than max") => {
            refused(ErrorKind::TooLarge)
        }
        (Code::OutOfRange, m) if m.contains("message length too large") => {
            refused(ErrorKind::TooLarge)
        }
        // The node does not take part in the cluster; others do.
        (Code::Unavailable, m) if m.starts_with("holdfast: this node") => {
            nothing_done(ErrorKind::NoLeader)
        }
        (Code::ResourceExhausted, _) => nothing_done(ErrorKind::Overloaded(text.into())),
        // The one use that Holdfast makes of this code.
        (Code::Aborted, m) if m.starts_with("holdfast:") => Verdict {
            kind: ErrorKind::RetryForgotten(text.into()),
            code,
            effect: Effect::Unknown,
            again: false,
            settled: false,
            fault: Fault::None,
        },
        (Code::NotFound | Code::InvalidArgument, m) if m.contains("keyspace") => {
            refused(ErrorKind::KeyspaceNotFound(text.into()))
        }
        (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted, _) => {
            unknown(ErrorKind::Interrupted(text.into()), Fault::Avoid)
        }
        (Code::Unimplemented, _) => refused(ErrorKind::Unsupported(text.into())),
        (Code::PermissionDenied | Code::Unauthenticated, _) => {
            refused(ErrorKind::Denied(text.into()))
        }
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange,
            _,
        ) => refused(ErrorKind::Refused {
            code,
            message: text.into(),
        }),
        (Code::DataLoss, _) => Verdict {
            kind: ErrorKind::Corrupt(text.into()),
            code,
            effect: Effect::Unknown,
            again: false,
            settled: false,
            fault: Fault::Avoid,
        },
        (Code::Ok | Code::Unknown | Code::Internal, _) => Verdict {
            kind: ErrorKind::Server {
                code,
                message: text.into(),
            },
            code,
            effect: Effect::Unknown,
            again: false,
            settled: false,
            fault: Fault::None,
        },
    }
}

/// A failure that no server reported: the connection could not be made, or broke.
fn judge_transport(status: &Status, source: &(dyn StdError + 'static)) -> Verdict {
    let code = status.code();
    let mut innermost: &dyn StdError = source;
    let mut never_sent = false;
    let mut next = Some(source);
    while let Some(cause) = next {
        never_sent |= cause.is::<tonic::ConnectError>()
            || cause
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_canceled)
            || cause
                .downcast_ref::<h2::Error>()
                .is_some_and(|e| e.reason() == Some(h2::Reason::REFUSED_STREAM));
        innermost = cause;
        next = cause.source();
    }
    let text = innermost.to_string();
    if innermost.is::<tonic::TimeoutExpired>() {
        let kind = ErrorKind::Interrupted(text);
        return Verdict {
            kind,
            code,
            effect: Effect::Unknown,
            again: true,
            settled: false,
            fault: Fault::None,
        };
    }
    let (kind, effect) = if never_sent {
        (ErrorKind::Unreachable(text), Effect::None)
    } else {
        (ErrorKind::Disconnected(text), Effect::Unknown)
    };
    Verdict {
        kind,
        code,
        effect,
        again: true,
        settled: false,
        fault: Fault::Down,
    }
}

#[cfg(test)]
mod tests;
