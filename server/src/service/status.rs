//! Statuses: etcd's code and message where etcd has one, because stock clients match on both.
//!
//! Where etcd has none the message begins with `holdfast:` and the code tells what a client may
//! do: `Aborted` — the effect is unknown and stays so; `InvalidArgument`, `NotFound` — change the
//! request; `Unavailable` — another node may answer.
//!
//! A refusal that vouches for something says so in the metadata [`OUTCOME`], which nobody between
//! this node and the client makes up: the state machine's own answers, and refusals of what was not
//! appended.

use std::fmt::Display;

use holdfast_mvcc::{ReadError, validate::Invalid};
use holdfast_proto::{
    command::{Error, error::Kind},
    metadata::{OUTCOME, outcome},
};
use tonic::{Status, metadata::MetadataValue};

use crate::group::GroupError;

fn vouched(mut status: Status, outcome: &'static str) -> Status {
    let value = MetadataValue::from_static(outcome);
    status.metadata_mut().insert(OUTCOME, value);
    status
}

fn not_appended(status: Status) -> Status {
    vouched(status, outcome::NOT_APPENDED)
}

pub(super) fn no_leader() -> Status {
    not_appended(Status::unavailable("etcdserver: no leader"))
}

fn no_space() -> Status {
    Status::resource_exhausted("etcdserver: mvcc: database space exceeded")
}

pub(super) fn unknown_keyspace(name: &str) -> Status {
    Status::not_found(format!("holdfast: keyspace {name:?} does not exist"))
}

pub(super) fn reserved_keyspace(name: &str) -> Status {
    Status::permission_denied(format!("holdfast: keyspace {name:?} is the cluster's own"))
}

pub(super) fn bad_metadata(name: &str, why: &str) -> Status {
    Status::invalid_argument(format!("holdfast: bad metadata {name}: {why}"))
}

pub(super) fn unsupported(what: &str) -> Status {
    Status::unimplemented(format!("holdfast: {what} is not supported"))
}

/// Registration is for keyspaces whose every node knows it.
pub(super) fn not_raised(why: &str) -> Status {
    not_appended(Status::unimplemented(format!(
        "holdfast: retry-safe writes are not switched on yet: {why}"
    )))
}

pub(super) fn not_leader() -> Status {
    Status::failed_precondition("etcdserver: not leader")
}

pub(super) fn bad_transferee() -> Status {
    Status::failed_precondition("etcdserver: bad leader transferee")
}

fn compacted() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
}

fn future_revision() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
}

/// A request that a look at it was enough to refuse.
pub(super) fn invalid(invalid: Invalid) -> Status {
    match invalid {
        Invalid::EmptyKey => Status::invalid_argument("etcdserver: key is not provided"),
        Invalid::ValueProvided => Status::invalid_argument("etcdserver: value is provided"),
        Invalid::LeaseProvided => Status::invalid_argument("etcdserver: lease is provided"),
        Invalid::TooManyOps { .. } | Invalid::TooDeep => {
            Status::invalid_argument("etcdserver: too many operations in txn request")
        }
        Invalid::DuplicateKey => {
            Status::invalid_argument("etcdserver: duplicate key given in txn request")
        }
        Invalid::InvalidSortOption => Status::invalid_argument("etcdserver: invalid sort option"),
        Invalid::MissingOp => Status::invalid_argument("etcdserver: key not found"),
        Invalid::TooLarge { .. } => Status::invalid_argument("etcdserver: request is too large"),
        Invalid::ClientIdTooLong { .. } | Invalid::ZeroSeq => {
            Status::invalid_argument(format!("holdfast: {invalid}"))
        }
    }
}

/// A deterministic error: every replica gives the same.
pub(super) fn answered(error: &Error) -> Status {
    let status = match error.kind() {
        Kind::KeyNotFound => Status::invalid_argument("etcdserver: key not found"),
        Kind::Compacted => compacted(),
        Kind::FutureRevision => future_revision(),
        Kind::LeaseNotFound => Status::not_found("etcdserver: requested lease not found"),
        Kind::ClientUnknown => {
            let status = Status::failed_precondition(format!(
                "holdfast: {}; register with holdfast.v1.Sessions/Register for a new one",
                error.message
            ));
            return vouched(status, outcome::CLIENT_UNKNOWN);
        }
        // Whether an earlier sending took effect is what nobody knows any more.
        Kind::RetryForgotten => return Status::aborted(format!("holdfast: {}", error.message)),
        Kind::Malformed | Kind::Unspecified => {
            Status::internal(format!("holdfast: {}", error.message))
        }
    };
    vouched(status, outcome::REFUSED)
}

/// A read of local state that has no answer.
pub(super) fn unreadable<E: Display>(error: &ReadError<E>) -> Status {
    match error {
        ReadError::Compacted { .. } => compacted(),
        ReadError::FutureRevision { .. } => future_revision(),
        other => Status::internal(format!("holdfast: {other}")),
    }
}

/// A group that did not do what was asked.
pub(super) fn group(error: &GroupError) -> Status {
    match error {
        GroupError::Overloaded => {
            not_appended(Status::resource_exhausted("etcdserver: too many requests"))
        }
        GroupError::NoSpace => no_space(),
        GroupError::NoLeader => no_leader(),
        GroupError::LeaderLost => Status::unavailable(
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        GroupError::TimedOut => Status::unavailable("etcdserver: request timed out"),
        GroupError::Unsupported(_) => {
            not_appended(Status::unimplemented(format!("holdfast: {error}")))
        }
        GroupError::Stopped(_) => not_appended(Status::unavailable("etcdserver: server stopped")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_vouches_for_an_effect_is_marked_and_nothing_else_is() {
        let marked = |status: &Status| {
            let value = status.metadata().get(OUTCOME);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        let answer = |kind: Kind| {
            answered(&Error {
                kind: kind.into(),
                ..Default::default()
            })
        };
        let (refused, not_appended) = (Some("refused"), Some("not-appended"));
        for (status, expected) in [
            (answer(Kind::KeyNotFound), refused),
            (answer(Kind::Compacted), refused),
            (answer(Kind::LeaseNotFound), refused),
            (answer(Kind::RetryForgotten), None),
            (answer(Kind::ClientUnknown), Some("client-unknown")),
            (group(&GroupError::NoLeader), not_appended),
            (group(&GroupError::Overloaded), not_appended),
            (group(&GroupError::Stopped(String::new())), not_appended),
            (group(&GroupError::LeaderLost), None),
            (group(&GroupError::TimedOut), None),
            (unknown_keyspace("x"), None),
            (invalid(Invalid::EmptyKey), None),
        ] {
            assert_eq!(marked(&status).as_deref(), expected, "{status:?}");
        }
    }

    #[test]
    fn stock_clients_find_the_code_and_the_message_they_match_on() {
        let expected = [
            (
                invalid(Invalid::EmptyKey),
                Code::InvalidArgument,
                "etcdserver: key is not provided",
            ),
            (
                invalid(Invalid::TooManyOps { max: 1 }),
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            (
                invalid(Invalid::TooLarge { bytes: 2, max: 1 }),
                Code::InvalidArgument,
                "etcdserver: request is too large",
            ),
            (
                group(&GroupError::Overloaded),
                Code::ResourceExhausted,
                "etcdserver: too many requests",
            ),
            (
                group(&GroupError::NoSpace),
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            (
                group(&GroupError::NoLeader),
                Code::Unavailable,
                "etcdserver: no leader",
            ),
        ];
        for (status, code, message) in expected {
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}
