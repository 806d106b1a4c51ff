//! The operations of one worker, drawn from a seed.
//!
//! - The n-th operation of a worker depends on the seed and on n, and for compare-and-set on what
//!   the worker has seen; never on the clock or on other workers.
//! - Every value is written at most once in a run: a checker knows by its value who wrote it.

use std::collections::HashMap;

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Settings, Workload};
use crate::history::{Data, Key, Kind, Op, Reply, Step, Value};

/// What every account holds in the beginning.
pub(super) const OPENING_BALANCE: i64 = 100;
/// Largest transfer.
const TRANSFER_MAX: i64 = 20;
/// Most steps of a transaction.
const STEPS_MAX: u64 = 4;
/// One in this many operations on a set reads it.
const SET_READ_ONE_IN: u32 = 20;

/// The stream of one worker.
pub struct Generator {
    settings: Settings,
    worker: u64,
    rng: StdRng,
    /// Operations drawn.
    drawn: u64,
    /// Values drawn.
    values: i64,
    /// What this worker saw last, by key.
    seen: HashMap<Key, i64>,
}

impl Generator {
    /// The stream of worker `worker`, counted from 0.
    pub fn new(settings: &Settings, worker: u64) -> Self {
        // Streams of neighbouring workers and seeds must not resemble each other.
        let mut mixer = StdRng::seed_from_u64(settings.seed);
        let mut seed = mixer.next_u64();
        for _ in 0..=worker {
            seed = mixer.next_u64();
        }
        Self {
            settings: settings.clone(),
            worker,
            rng: StdRng::seed_from_u64(seed),
            drawn: 0,
            values: 0,
            seen: HashMap::new(),
        }
    }

    /// The next operation.
    pub fn draw(&mut self) -> Op {
        let op = match self.settings.workload {
            Workload::Register => self.register(),
            Workload::Set => self.set(),
            Workload::Append => self.append(),
            Workload::Bank => self.bank(),
            Workload::CounterRetry => self.counter(),
            Workload::Stale => self.stale(),
        };
        self.drawn += 1;
        op
    }

    /// Takes note of what an operation of this worker saw.
    pub fn observe(&mut self, op: &Op, kind: Kind, reply: &Reply) {
        match (op, &reply.data) {
            (Op::Read { key, .. } | Op::Cas { key, .. }, Data::Version(version)) => {
                match version.as_ref().map(|v| &v.value) {
                    Some(Value::Number(n)) => self.seen.insert(*key, *n),
                    _ => self.seen.remove(key),
                };
            }
            // A refused write wrote nothing; what it saw, if anything, stands above.
            _ if kind != Kind::Ok => {}
            (Op::Write { key, value }, _) => {
                self.seen.insert(*key, *value);
            }
            (Op::Cas { key, new, .. }, _) => {
                self.seen.insert(*key, *new);
            }
            (Op::Delete { key }, _) => {
                self.seen.remove(key);
            }
            _ => {}
        }
    }

    fn value(&mut self) -> i64 {
        let value = self.values * self.settings.concurrency as i64 + self.worker as i64 + 1;
        self.values += 1;
        value
    }

    /// One of the keys in use now. All workers move on to new keys after about the same time.
    fn key(&mut self) -> Key {
        let keys = self.settings.keys;
        let generation = match self.settings.operations_per_key * keys {
            0 => 0,
            operations => self.drawn * self.settings.concurrency / operations,
        };
        generation * keys + self.rng.random_range(0..keys)
    }

    fn register(&mut self) -> Op {
        let key = self.key();
        match self.rng.random_range(0..100) {
            0..40 => {
                let serializable = false;
                Op::Read { key, serializable }
            }
            40..68 => Op::Write {
                key,
                value: self.value(),
            },
            68..76 => Op::Delete { key },
            _ => match self.seen.get(&key).copied() {
                Some(old) => Op::Cas {
                    key,
                    old,
                    new: self.value(),
                },
                None => {
                    let serializable = false;
                    Op::Read { key, serializable }
                }
            },
        }
    }

    fn set(&mut self) -> Op {
        let set = self.key();
        if self.rng.random_ratio(1, SET_READ_ONE_IN) {
            return Op::ReadSet { set };
        }
        Op::Add {
            set,
            element: self.value(),
        }
    }

    fn append(&mut self) -> Op {
        let count = self.rng.random_range(1..=STEPS_MAX);
        let steps = (0..count)
            .map(|_| {
                let key = self.key();
                if self.rng.random_bool(0.5) {
                    Step::Read { key }
                } else {
                    Step::Append {
                        key,
                        value: self.value(),
                    }
                }
            })
            .collect();
        Op::Txn { steps }
    }

    fn bank(&mut self) -> Op {
        let accounts = self.settings.keys;
        if accounts < 2 || self.rng.random_bool(0.3) {
            return Op::ReadAccounts;
        }
        let from = self.rng.random_range(0..accounts);
        let to = (from + self.rng.random_range(1..accounts)) % accounts;
        let amount = self.rng.random_range(1..=TRANSFER_MAX);
        Op::Transfer { from, to, amount }
    }

    fn counter(&mut self) -> Op {
        let key = self.rng.random_range(0..self.settings.keys);
        if self.rng.random_bool(0.2) {
            return Op::ReadCounter { key };
        }
        Op::Increment {
            key,
            id: self.value(),
        }
    }

    fn stale(&mut self) -> Op {
        let key = self.key();
        if self.rng.random_bool(0.4) {
            return Op::Write {
                key,
                value: self.value(),
            };
        }
        let serializable = true;
        Op::Read { key, serializable }
    }
}
