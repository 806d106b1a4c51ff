//! The names of the mistakes, what each breaks, and which one is active.

use std::{collections::BTreeMap, sync::OnceLock};

use holdfast_mvcc::planted as mvcc;

/// A mistake that can be planted. [`Bug::breaks`] says what is wrong with a node that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    AckBeforeFsync,
    ApplySkippedOnRestart,
    CompareOnStaleState,
    DeposedLeaderReads,
    DuplicateOnForwardTimeout,
    ElectionWithoutLogCheck,
    EntrySkipped,
    LogPurgedPastDurable,
    ReadIndexNotAwaited,
    RetryTableLostOnSnapshot,
    SerializableGoesBack,
    SnapshotWithoutTombstones,
    StaleAfterRejoin,
    TornBatch,
    TruncateIgnored,
    TxnNotAtomic,
    UnknownClientTrusted,
    UnknownOperationSkipped,
    VoteNotPersisted,
    VoteWithLostLog,
}

/// Variable that names the mistake to make.
const VARIABLE: &str = "HOLDFAST_PLANTED_BUG";

static ACTIVE: OnceLock<Bug> = OnceLock::new();

/// A name that no mistake has.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE}: there is no planted bug `{0}`; there are {list}", list = names().join(", "))]
pub struct UnknownBug(String);

impl Bug {
    /// All of them, by name.
    const ALL: [Bug; 20] = [
        Bug::AckBeforeFsync,
        Bug::ApplySkippedOnRestart,
        Bug::CompareOnStaleState,
        Bug::DeposedLeaderReads,
        Bug::DuplicateOnForwardTimeout,
        Bug::ElectionWithoutLogCheck,
        Bug::EntrySkipped,
        Bug::LogPurgedPastDurable,
        Bug::ReadIndexNotAwaited,
        Bug::RetryTableLostOnSnapshot,
        Bug::SerializableGoesBack,
        Bug::SnapshotWithoutTombstones,
        Bug::StaleAfterRejoin,
        Bug::TornBatch,
        Bug::TruncateIgnored,
        Bug::TxnNotAtomic,
        Bug::UnknownClientTrusted,
        Bug::UnknownOperationSkipped,
        Bug::VoteNotPersisted,
        Bug::VoteWithLostLog,
    ];

    /// Its name, as in the environment variable.
    fn name(self) -> &'static str {
        match self {
            Bug::AckBeforeFsync => "ack-before-fsync",
            Bug::ApplySkippedOnRestart => "apply-skipped-on-restart",
            Bug::CompareOnStaleState => "compare-on-stale-state",
            Bug::DeposedLeaderReads => "deposed-leader-reads",
            Bug::DuplicateOnForwardTimeout => "duplicate-on-forward-timeout",
            Bug::ElectionWithoutLogCheck => "election-without-log-check",
            Bug::EntrySkipped => "entry-skipped",
            Bug::LogPurgedPastDurable => "log-purged-past-durable",
            Bug::ReadIndexNotAwaited => "read-index-not-awaited",
            Bug::RetryTableLostOnSnapshot => "retry-table-lost-on-snapshot",
            Bug::SerializableGoesBack => "serializable-goes-back",
            Bug::SnapshotWithoutTombstones => "snapshot-without-tombstones",
            Bug::StaleAfterRejoin => "stale-after-rejoin",
            Bug::TornBatch => "torn-batch",
            Bug::TruncateIgnored => "truncate-ignored",
            Bug::TxnNotAtomic => "txn-not-atomic",
            Bug::UnknownClientTrusted => "unknown-client-trusted",
            Bug::UnknownOperationSkipped => "unknown-operation-skipped",
            Bug::VoteNotPersisted => "vote-not-persisted",
            Bug::VoteWithLostLog => "vote-with-lost-log",
        }
    }

    /// What is wrong with a node that makes it.
    fn breaks(self) -> &'static str {
        match self {
            Bug::AckBeforeFsync => "entries are acknowledged before they are synced",
            Bug::ApplySkippedOnRestart => {
                "the entry after the checkpoint is taken for applied after a restart"
            }
            Bug::CompareOnStaleState => {
                "comparisons of a transaction are decided on local state, before replication"
            }
            Bug::DeposedLeaderReads => {
                "who believes that it leads answers reads without asking a quorum"
            }
            Bug::DuplicateOnForwardTimeout => {
                "a write of unknown outcome is proposed again without a retry id"
            }
            Bug::ElectionWithoutLogCheck => {
                "votes are granted to candidates that lack committed entries"
            }
            Bug::EntrySkipped => {
                "applying leaves out an entry between two reads of the log, and does not notice"
            }
            Bug::LogPurgedPastDurable => "the log is purged up to what is applied, durable or not",
            Bug::ReadIndexNotAwaited => "reads do not wait until the read index is applied",
            Bug::RetryTableLostOnSnapshot => "snapshots leave the retry table out",
            Bug::SerializableGoesBack => {
                "serializable reads use a state that each thread keeps for a while"
            }
            Bug::SnapshotWithoutTombstones => "snapshots leave deletions out",
            Bug::StaleAfterRejoin => {
                "reads use the read index of an earlier round when the leader does not answer"
            }
            Bug::TornBatch => "the applied mark goes into the checkpoint before its data",
            Bug::TruncateIgnored => "a follower keeps entries that conflict with the leader's",
            Bug::TxnNotAtomic => {
                "a compaction removes what a transaction wrote after its first write"
            }
            Bug::UnknownClientTrusted => {
                "a request of a client that is not known is taken for a new client's"
            }
            Bug::UnknownOperationSkipped => {
                "one node of three does not know the operations of version 2 and skips them"
            }
            Bug::VoteNotPersisted => "votes and terms are not on disk",
            Bug::VoteWithLostLog => {
                "a node takes part whatever log it finds, and whatever it had promised before"
            }
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

fn names() -> [&'static str; Bug::ALL.len()] {
    Bug::ALL.map(Bug::name)
}

/// The name in the environment; an empty one counts as none.
fn named(environment: &BTreeMap<String, String>) -> Option<&str> {
    let name = environment.get(VARIABLE)?.as_str();
    Some(name).filter(|name| !name.is_empty())
}

/// Makes the mistake active that the environment names, if it names one, for the rest of the
/// process. Returns a warning to be logged.
pub fn plant(environment: &BTreeMap<String, String>) -> Result<Option<String>, UnknownBug> {
    let Some(name) = named(environment) else {
        return Ok(None);
    };
    let bug = Bug::by_name(name).ok_or_else(|| UnknownBug(name.to_owned()))?;
    let active = *ACTIVE.get_or_init(|| bug);
    assert_eq!(active, bug, "one planted bug for each process");
    match bug {
        Bug::RetryTableLostOnSnapshot => mvcc::plant(mvcc::Bug::RetryTableLostOnSnapshot),
        Bug::SnapshotWithoutTombstones => mvcc::plant(mvcc::Bug::SnapshotWithoutTombstones),
        Bug::TxnNotAtomic => mvcc::plant(mvcc::Bug::TxnNotAtomic),
        Bug::UnknownClientTrusted => mvcc::plant(mvcc::Bug::UnknownClientTrusted),
        _ => {}
    }
    Ok(Some(format!(
        "PLANTED BUG {name}: {}; this node breaks its promises on purpose and must hold no data \
         that anybody needs",
        bug.breaks()
    )))
}

/// Whether this mistake is to be made.
pub(crate) fn is(bug: Bug) -> bool {
    ACTIVE.get() == Some(&bug)
}

/// What a version says of planted bugs, with this environment.
pub fn describe(environment: &BTreeMap<String, String>) -> String {
    let active = match named(environment) {
        None => "none".to_owned(),
        Some(name) if Bug::by_name(name).is_some() => name.to_owned(),
        Some(name) => format!("none, `{name}` is unknown"),
    };
    format!("planted bugs: compiled in; active: {active}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn environment(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("HOLDFAST_PLANTED_BUG".to_owned(), name.to_owned())])
    }

    #[test]
    fn names_are_unique_and_sorted_and_each_says_what_it_breaks() {
        let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let breaks: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.breaks()).collect();
        assert_eq!(breaks.len(), names.len());
    }

    /// Nothing is planted in this process, so the other tests of this crate can run beside.
    #[test]
    fn an_unknown_name_is_refused_with_the_list() {
        let error = plant(&environment("no-such-bug")).unwrap_err().to_string();
        assert!(error.contains("`no-such-bug`"), "{error}");
        for bug in Bug::ALL {
            assert!(error.contains(bug.name()), "{error}");
            assert!(!is(bug), "{bug:?}");
        }
        assert!(plant(&environment("")).unwrap().is_none());
        assert!(plant(&BTreeMap::new()).unwrap().is_none());
    }

    #[test]
    fn the_version_says_what_is_active() {
        let said = |active: &str| format!("planted bugs: compiled in; active: {active}");
        assert_eq!(describe(&BTreeMap::new()), said("none"));
        assert_eq!(describe(&environment("torn-batch")), said("torn-batch"));
        let unknown = describe(&environment("torn"));
        assert_eq!(unknown, said("none, `torn` is unknown"));
    }
}
