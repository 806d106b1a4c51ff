//! Workloads: what the clients of a run ask.
//!
//! A workload is a stream of [`Op`]s for each worker, drawn from a seed, and the reads that end a
//! run. How an operation becomes requests is the same for all of them: [`store`].
//!
//! | workload | asks | shows |
//! | --- | --- | --- |
//! | `register` | reads, writes, deletes, compare-and-set on many keys | linearizability of single keys |
//! | `set` | adds of unique elements, range reads | that nothing acknowledged is lost |
//! | `append` | transactions of list appends and reads over several keys | isolation of transactions |
//! | `bank` | transfers between accounts, reads of all of them | atomicity |
//! | `counter-retry` | puts that are repeated under a retry id until they are answered | exactly once |
//! | `stale` | serializable reads beside writes | that stale reads are old, never wrong |

mod generate;
pub mod repeat;
pub mod store;

use std::{fmt, str::FromStr, time::Duration};

pub use self::generate::Generator;
use crate::history::{NodeId, Op, Step};

/// What the clients of a run ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Single keys: read, write, delete, compare-and-set.
    Register,
    /// Unique elements added to sets.
    Set,
    /// Transactions on lists.
    Append,
    /// Transfers between accounts.
    Bank,
    /// Puts with retry ids.
    CounterRetry,
    /// Serializable reads.
    Stale,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 6] = [
        Workload::Register,
        Workload::Set,
        Workload::Append,
        Workload::Bank,
        Workload::CounterRetry,
        Workload::Stale,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Register => "register",
            Workload::Set => "set",
            Workload::Append => "append",
            Workload::Bank => "bank",
            Workload::CounterRetry => "counter-retry",
            Workload::Stale => "stale",
        }
    }

    /// What it asks, in a line.
    pub fn describe(self) -> &'static str {
        match self {
            Workload::Register => "reads, writes, deletes and compare-and-set over many keys",
            Workload::Set => "adds of unique elements to sets, read with range reads",
            Workload::Append => "transactions that append to several lists and read them",
            Workload::Bank => "transfers between accounts; the total must not change",
            Workload::CounterRetry => "increments that are repeated under retry ids: exactly once",
            Workload::Stale => "serializable reads beside writes: old, but never wrong",
        }
    }

    /// Whether its clients repeat a write of unknown outcome by themselves, at any node.
    pub fn retries(self) -> bool {
        self == Workload::CounterRetry
    }

    /// Keys that are used at the same time unless told otherwise.
    pub fn default_keys(self) -> u64 {
        match self {
            Workload::Register => 20,
            Workload::Set => 2,
            Workload::Append => 10,
            Workload::Bank => 8,
            Workload::CounterRetry => 4,
            Workload::Stale => 10,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|w| w.name() == name);
        found.ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|w| w.name()).collect();
            format!("unknown workload `{name}`; one of: {}", known.join(", "))
        })
    }
}

/// How a workload is drawn.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The workload.
    pub workload: Workload,
    /// Seed of all random choices.
    pub seed: u64,
    /// Workers: clients that ask one thing after the other.
    pub concurrency: u64,
    /// Keys, sets, lists, accounts or counters in use at the same time.
    pub keys: u64,
    /// Operations after which keys are given up for new ones; 0 for never. Bounds what a search over
    /// one key has to look at. Accounts and counters are never given up.
    pub operations_per_key: u64,
    /// Bytes of a value, at least; lists are as long as they are.
    pub value_bytes: usize,
    /// How long a request may take.
    pub timeout: Duration,
}

/// What a workload must ask before the load begins, in order.
pub fn setup(settings: &Settings) -> Vec<Op> {
    match settings.workload {
        Workload::Bank => vec![Op::OpenAccounts {
            accounts: settings.keys,
            balance: generate::OPENING_BALANCE,
        }],
        _ => Vec::new(),
    }
}

/// What is asked in the end, when all is whole: everything that was touched, through every node.
/// `used` are the operations of the run.
pub fn final_reads<'a>(
    settings: &Settings,
    nodes: &[NodeId],
    used: impl Iterator<Item = &'a Op>,
) -> Vec<(NodeId, Op)> {
    let mut keys = std::collections::BTreeSet::new();
    for op in used {
        match op {
            Op::Read { key, .. }
            | Op::Write { key, .. }
            | Op::Delete { key }
            | Op::Cas { key, .. }
            | Op::Increment { key, .. }
            | Op::ReadCounter { key }
            | Op::ReadChain { key } => {
                keys.insert(*key);
            }
            Op::Add { set, .. } | Op::ReadSet { set } => {
                keys.insert(*set);
            }
            Op::Txn { steps } => keys.extend(steps.iter().map(Step::key)),
            Op::Transfer { .. } | Op::ReadAccounts | Op::OpenAccounts { .. } => {}
        }
    }
    let everywhere = |op: Op| nodes.iter().map(move |node| (*node, op.clone()));
    let keys = keys.into_iter();
    match settings.workload {
        Workload::Register => {
            let serializable = false;
            let reads = keys.map(|key| Op::Read { key, serializable });
            reads.flat_map(everywhere).collect()
        }
        // What the nodes say by themselves, and what they must say together.
        Workload::Stale => {
            let both = [true, false];
            let reads =
                keys.flat_map(|key| both.map(|serializable| Op::Read { key, serializable }));
            reads.flat_map(everywhere).collect()
        }
        Workload::Set => {
            let reads = keys.map(|set| Op::ReadSet { set });
            reads.flat_map(everywhere).collect()
        }
        Workload::Append => {
            let reads = keys.map(|key| Op::Txn {
                steps: vec![Step::Read { key }],
            });
            reads.flat_map(everywhere).collect()
        }
        Workload::Bank => everywhere(Op::ReadAccounts).collect(),
        Workload::CounterRetry => {
            let reads = keys.flat_map(|key| [Op::ReadCounter { key }, Op::ReadChain { key }]);
            reads.flat_map(everywhere).collect()
        }
    }
}

#[cfg(test)]
mod tests;
