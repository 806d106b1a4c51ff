//! Why a node did not start, or could not go on, and what kind of trouble that is.

use std::path::PathBuf;

use crate::{
    detector::DetectorError,
    identity::IdentityError,
    raft::{DecodeError, StartError as RaftStartError},
    service::{ServeError, peer::AddressError},
    storage::{cause::Cause, state::StateError},
};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address cannot be had.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The log cannot be looked into.
    #[error("the log: {0}")]
    Log(#[from] crate::storage::log::OpenError),
    /// A vote in the log does not decode.
    #[error("the log: {0}")]
    Vote(#[from] DecodeError),
    /// Its failure detector does not run.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// A peer's address makes no sense.
    #[error("cluster.members: {0}")]
    Peers(#[from] AddressError),
}

impl StartError {
    /// What kind of trouble it is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Identity(error) => error.cause(),
            Self::Log(error) => error.into(),
            Self::Detector(_) | Self::Serve(_) | Self::Peers(_) | Self::Vote(_) => Cause::Other,
        }
    }
}

/// What ended a node that had started.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct NodeFailure {
    /// What kind of trouble it is.
    pub cause: Cause,
    /// What happened, and what to do.
    pub why: String,
}

/// Why a node that had started gave up.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the log: {0}")]
    Log(#[from] crate::storage::log::OpenError),
    #[error(transparent)]
    Dropped(#[from] crate::storage::log::GroupDropped),
    #[error("the state: {0}")]
    State(StateError),
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    #[error(
        "the state of group {group} is lost, its log begins after index {purged}, and there is no \
         peer to fetch the state from; put a copy of the directory state/ back"
    )]
    NothingToRestoreFrom { group: u64, purged: u64 },
    #[error(
        "the state of group {group} is lost, its log begins after index {purged}, and no peer has sent the state \
         in time"
    )]
    NotRestored { group: u64, purged: u64 },
    #[error("how far the memory of group {group} goes: {error}")]
    Vote { group: u64, error: std::io::Error },
    #[error(
        "there is data of group {group}, but groups.json does not name it; put the file back as it was"
    )]
    NotAssigned { group: u64 },
    #[error("starting a group panicked: {0}")]
    Panicked(String),
    /// Nothing is broken, but the node may not take part.
    #[error("{0}")]
    StaysOut(String),
    #[error("{path}: {source}")]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl RunError {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Identity(error) => error.cause(),
            Self::Log(error) => error.into(),
            Self::State(error) => error.into(),
            Self::Raft(RaftStartError::State(error)) => Cause::of(error),
            Self::Raft(_)
            | Self::NothingToRestoreFrom { .. }
            | Self::NotRestored { .. }
            | Self::Vote { .. }
            | Self::Dropped(_)
            | Self::NotAssigned { .. }
            | Self::Panicked(_)
            | Self::StaysOut(_) => Cause::Other,
            Self::Directory { source, .. } => Cause::of(source),
        }
    }
}
