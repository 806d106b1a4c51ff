//! What a group keeps in the log, and where.

use std::fmt;
use std::io;

use bytes::Bytes;

/// Called once, from the writer's thread, when the change is durable or will never be. Must be quick.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A place in a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPos {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {} of term {}", self.index, self.term)
    }
}

/// One log entry. What `kind` and `payload` mean is the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Position in the log of its group.
    pub index: u64,
    /// Kind, opaque to the log.
    pub kind: u8,
    /// Content, opaque to the log, below 256 MiB.
    pub payload: Bytes,
}

impl Entry {
    /// Term and index.
    pub fn pos(&self) -> LogPos {
        LogPos {
            term: self.term,
            index: self.index,
        }
    }
}

/// What a group remembers besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The last entry dropped from the front.
    pub purged: Option<LogPos>,
    /// The last entry; the purge mark when there is none.
    pub last: Option<LogPos>,
    /// The last vote given to `save_vote`.
    pub vote: Option<Bytes>,
    /// The last mark given to `save_committed`; after a crash perhaps an earlier one.
    pub committed: Option<Bytes>,
}
