//! Errors of the log. None of them is retryable: the machine has failed, not the request.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::storage::cause::Cause;

/// What an operator can do about a damaged log.
const REMEDY: &str = "nothing was changed; do not edit or delete single files. Check the disk. If the cluster has \
     other voters, move this data directory aside and let the node rejoin from its peers; otherwise restore a backup";

/// Why a log does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// An operation on a file failed.
    #[error("log {}: cannot {operation}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Bytes that were synced are not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A value of the options is out of its range.
    #[error("log option {field}: {reason}")]
    Options {
        /// The field of `LogOptions`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn io(
        path: &std::path::Path,
        operation: &'static str,
    ) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io {
            path,
            operation,
            source,
        }
    }
}

/// A group that was dropped was asked for: its id never comes back.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("group {group} was dropped on this node; its id is never used again")]
pub struct GroupDropped {
    /// The id.
    pub group: u64,
}

impl From<GroupDropped> for io::Error {
    fn from(dropped: GroupDropped) -> Self {
        io::Error::new(io::ErrorKind::NotFound, dropped)
    }
}

/// Damage in the log: where, what should be there, and what is.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Corruption {
    /// The damaged file.
    pub file: PathBuf,
    /// Offset of the damage in the file, in bytes.
    pub offset: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption {
            file,
            offset,
            expected,
            found,
        } = self;
        write!(
            f,
            "log corrupt in {} at byte {offset}: expected {expected}, found {found}; {REMEDY}",
            file.display()
        )
    }
}

impl From<Corruption> for io::Error {
    fn from(corruption: Corruption) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, corruption)
    }
}

/// Why a running log stopped for good: the first write or sync that failed. The same for every caller.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: io::ErrorKind,
    cause: Cause,
    message: Arc<str>,
}

impl Failure {
    pub(super) fn new(operation: &str, error: &io::Error) -> Self {
        let message = format!("the raft log failed and accepts nothing more: {operation}: {error}");
        Failure {
            kind: error.kind(),
            cause: Cause::of(error),
            message: message.into(),
        }
    }

    /// Of a sync: whatever the system calls it, what was written may be gone.
    pub(super) fn of_sync(operation: &str, error: &io::Error) -> Self {
        let failure = Self::new(operation, error);
        match failure.cause {
            Cause::NoSpace => failure,
            Cause::Disk | Cause::Other => Self {
                cause: Cause::Disk,
                ..failure
            },
        }
    }

    pub(super) fn closed() -> Self {
        Failure {
            kind: io::ErrorKind::NotConnected,
            cause: Cause::Other,
            message: "the log is closed".into(),
        }
    }

    /// What kind of trouble it was.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The failure as an error of one operation.
    pub fn to_io(&self) -> io::Error {
        io::Error::new(self.kind, self.clone())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
