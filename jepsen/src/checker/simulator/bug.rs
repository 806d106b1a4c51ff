//! What is wrong with the store on purpose, now and then.

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// What is wrong with the store, now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    None,
    /// Reads are answered from an earlier revision.
    StaleReads,
    /// A write is acknowledged and not made.
    LostWrites,
    /// A write is made and reported as failed.
    FailedWrites,
    /// A write is made twice.
    RepeatedWrites,
    /// Transactions read what was there when they began, and write without another look.
    BlindUpdates,
    /// Transactions read what was there when they began, and fail only if a list that they write
    /// has changed since: snapshot isolation.
    Snapshots,
    /// The steps of a transaction take effect one at a time.
    HalfTransactions,
    /// A transfer is paid and not received, or takes more than there is.
    LooseMoney,
    /// Reads of ranges leave a key out.
    MissingKeys,
    /// Serializable reads go back to an earlier state of the node.
    NodesGoBack,
}

/// When the bug strikes. Its choices are its own, so that a store without a bug makes the same history.
pub(super) struct Strikes {
    pub(super) bug: Bug,
    random: StdRng,
    pub(super) count: u64,
}

impl Strikes {
    pub(super) fn new(bug: Bug, seed: u64) -> Self {
        Self {
            bug,
            random: StdRng::seed_from_u64(!seed),
            count: 0,
        }
    }

    /// Whether this bug is there and strikes now, as it does in this share of the cases.
    pub(super) fn now(&mut self, bug: Bug, share: f64) -> bool {
        let strikes = self.bug == bug && self.random.random_bool(share);
        self.count += u64::from(strikes);
        strikes
    }

    /// How many revisions a stale read is behind.
    pub(super) fn lag(&mut self) -> i64 {
        self.random.random_range(1..20)
    }
}
