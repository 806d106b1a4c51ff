//! Mistakes put into the state machine on purpose, for a test harness to find.
//!
//! Without the feature `planted-bugs` there is nothing here but a constant `false`. With it, at most
//! one mistake is active in a process, chosen once by whoever starts it. The names and the choice
//! belong to the server; its module of the same name says what each mistake is about.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("the feature `planted-bugs` is refused in builds without debug assertions");

/// A mistake of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Snapshots leave the retry table out.
    RetryTableLostOnSnapshot,
    /// Snapshots leave deletions out.
    SnapshotWithoutTombstones,
    /// A scrub after a compaction takes what a transaction wrote after its first write for
    /// superseded.
    TxnNotAtomic,
    /// A request of a client that is not known is taken for a new client's.
    UnknownClientTrusted,
}

#[cfg(feature = "planted-bugs")]
static ACTIVE: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

/// Makes a mistake active for the rest of the process. The first choice stands.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Bug) {
    // A second choice is refused by the server, which has all the names.
    let _ = ACTIVE.set(bug);
}

/// Whether this mistake is to be made.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is(bug: Bug) -> bool {
    ACTIVE.get() == Some(&bug)
}

/// Whether this mistake is to be made: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(all(test, not(feature = "planted-bugs")))]
mod tests {
    use super::*;

    const _: () = assert!(!is(Bug::TxnNotAtomic), "known when it is compiled");
}
