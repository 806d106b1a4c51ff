//! What the clients of the simulation ask.

use rand::RngExt;

use super::{Bug, Run, Workload};
use crate::{
    checker::model::StoreKey,
    history::{Op, Step, Value},
};

impl Run {
    /// What a client asks next.
    pub(super) fn choose(&mut self) -> Op {
        self.values += 1;
        let value = self.values;
        let key = self.random.random_range(0..self.config.keys);
        let chance = self.random.random_range(0..100);
        match self.config.workload {
            Workload::Register if chance < 50 => Op::Read {
                key,
                serializable: chance < 12,
            },
            Workload::Register if chance < 75 => Op::Write { key, value },
            Workload::Register if chance < 80 => Op::Delete { key },
            Workload::Register => {
                let held = self.store.now(StoreKey::of(key)).map(|held| held.value);
                let old = match held {
                    Some(Value::Number(held)) if chance < 95 => held,
                    _ => self.random.random_range(0..value),
                };
                Op::Cas {
                    key,
                    old,
                    new: value,
                }
            }
            Workload::Set if chance < 80 => Op::Add {
                set: key,
                element: value,
            },
            Workload::Set => Op::ReadSet { set: key },
            Workload::Append => {
                let count = self.random.random_range(1..=4);
                let steps = (0..count).map(|_| {
                    let key = self.random.random_range(0..self.config.keys);
                    if self.random.random_bool(0.5) {
                        self.values += 1;
                        let value = self.values;
                        Step::Append { key, value }
                    } else {
                        Step::Read { key }
                    }
                });
                Op::Txn {
                    steps: steps.collect(),
                }
            }
            Workload::Bank if chance < 70 && self.config.keys > 1 => {
                let other = self.random.random_range(1..self.config.keys);
                // Some are not to be covered where the store must refuse them and does not.
                let most = if self.config.bug == Bug::LooseMoney {
                    40
                } else {
                    5
                };
                Op::Transfer {
                    from: key,
                    to: (key + other) % self.config.keys,
                    amount: self.random.random_range(1..=most),
                }
            }
            Workload::Bank => Op::ReadAccounts,
            Workload::Counter if chance < 70 => Op::Increment { key, id: value },
            Workload::Counter => Op::ReadCounter { key },
            Workload::Stale if chance < 40 => Op::Write { key, value },
            Workload::Stale => Op::Read {
                key,
                serializable: true,
            },
        }
    }

    /// What reads everything back.
    pub(super) fn all_reads(&self) -> Vec<Op> {
        let mut reads = Vec::new();
        for key in 0..self.config.keys {
            match self.config.workload {
                Workload::Register | Workload::Stale => reads.push(Op::Read {
                    key,
                    serializable: false,
                }),
                Workload::Set => reads.push(Op::ReadSet { set: key }),
                Workload::Append => reads.push(Op::Txn {
                    steps: vec![Step::Read { key }],
                }),
                Workload::Bank => {}
                Workload::Counter => reads.push(Op::ReadCounter { key }),
            }
            let has_chains = self.chains && self.config.workload != Workload::Set;
            if has_chains || self.config.workload == Workload::Counter {
                reads.push(Op::ReadChain { key });
            }
        }
        if self.config.workload == Workload::Bank {
            reads.push(Op::ReadAccounts);
        }
        reads
    }
}
