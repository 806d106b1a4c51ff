//! A tiny store that makes no mistakes, with clients that work on it at once: good histories, to
//! prove that checkers accept them, and to damage, to prove that they do not accept anything.
//!
//! Each operation takes effect at one moment between its invocation and its completion. Some end
//! with an outcome that their client never learns: these took effect before, or do at any later
//! time, or never. Some fail without effect. Serializable reads are answered by nodes that lag.
//! Everything follows from the seed.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::model::{Space, StoreKey};
use crate::history::{
    ClientEvent, Data, Event, History, Kind, Op, Reply, Step, Value, Version, What,
};

/// What the clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Reads, a quarter of them serializable, writes, deletes and compare-and-sets.
    Register,
    /// Adds to sets and range reads of them; `keys` is the number of sets.
    Set,
    /// Transactions of appends to lists and reads of them.
    Append,
    /// Transfers between accounts, which were opened before the run, and range reads of all.
    Bank,
    /// Increments of counters and reads of them.
    Counter,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Register,
        Self::Set,
        Self::Append,
        Self::Bank,
        Self::Counter,
    ];
}

/// A history to be made.
#[derive(Clone, Copy, Debug)]
pub struct Simulation {
    /// What is asked.
    pub workload: Workload,
    /// Everything follows from it.
    pub seed: u64,
    /// Operations, not counting the final reads.
    pub operations: usize,
    /// Clients at work at the same time.
    pub clients: usize,
    /// Keys in use.
    pub keys: u64,
    /// Share of the operations whose outcome is not known.
    pub unknown: f64,
    /// Share of the operations that fail without effect.
    pub failed: f64,
}

/// Balance of each account when the bank opens.
const BALANCE: i64 = 100;
/// Nodes that answer.
const NODES: usize = 3;

/// Every version of every key.
#[derive(Default)]
struct Store {
    revision: i64,
    /// Ascending by revision; `None` where the key was deleted.
    keys: BTreeMap<StoreKey, Vec<(i64, Option<Version>)>>,
}

impl Store {
    fn get(&self, key: StoreKey, revision: i64) -> Option<Version> {
        let versions = self.keys.get(&key)?;
        let next = versions.partition_point(|(at, _)| *at <= revision);
        versions[..next].last()?.1.clone()
    }

    fn now(&self, key: StoreKey) -> Option<Version> {
        self.get(key, self.revision)
    }

    /// Writes at the present revision, which the caller has advanced.
    fn put(&mut self, key: StoreKey, value: Value) {
        let revision = self.revision;
        let before = self.get(key, revision - 1);
        let version = Version {
            value,
            create: before.as_ref().map_or(revision, |before| before.create),
            modified: revision,
            version: before.map_or(1, |before| before.version + 1),
        };
        self.keys
            .entry(key)
            .or_default()
            .push((revision, Some(version)));
    }

    fn range(&self, space: Space) -> Data {
        let all = StoreKey { space, key: 0 }..=StoreKey {
            space,
            key: u64::MAX,
        };
        let present = self.keys.range(all).filter_map(|(key, versions)| {
            let version = versions.last()?.1.clone()?;
            Some((key.key, version))
        });
        Data::Versions(present.collect())
    }

    /// Executes an operation: whether it succeeded, and the reply.
    fn execute(&mut self, op: &Op) -> (Kind, Option<Reply>) {
        let mut kind = Kind::Ok;
        let data = match op {
            Op::Read { key, .. } | Op::ReadCounter { key } => {
                Data::Version(self.now(StoreKey::of(*key)))
            }
            Op::Write { key, value } => {
                self.revision += 1;
                self.put(StoreKey::of(*key), Value::Number(*value));
                Data::None
            }
            Op::Delete { key } => {
                let key = StoreKey::of(*key);
                let present = self.now(key).is_some();
                if present {
                    self.revision += 1;
                    let tombstone = (self.revision, None);
                    self.keys.entry(key).or_default().push(tombstone);
                }
                Data::Count(present.into())
            }
            Op::Cas { key, old, new } => {
                let key = StoreKey::of(*key);
                let held = self.now(key);
                if held.as_ref().map(|held| &held.value) == Some(&Value::Number(*old)) {
                    self.revision += 1;
                    self.put(key, Value::Number(*new));
                    Data::None
                } else {
                    kind = Kind::Fail;
                    Data::Version(held)
                }
            }
            Op::Add { set, element } => {
                self.revision += 1;
                let key = StoreKey::element(*set, *element);
                self.put(key, Value::Number(*element));
                Data::None
            }
            Op::ReadSet { set } => self.range(Space::Set(*set)),
            Op::ReadAccounts => self.range(Space::Keys),
            Op::Txn { steps } => self.transact(steps),
            Op::Transfer { from, to, amount } => {
                let versions = [*from, *to].map(|key| (key, self.now(StoreKey::of(key))));
                let balance = |version: &Option<Version>| match version {
                    Some(Version {
                        value: Value::Number(held),
                        ..
                    }) => *held,
                    _ => 0,
                };
                let held = versions.each_ref().map(|(_, version)| balance(version));
                if held[0] < *amount {
                    return (Kind::Fail, None);
                }
                self.revision += 1;
                self.put(StoreKey::of(*from), Value::Number(held[0] - amount));
                self.put(StoreKey::of(*to), Value::Number(held[1] + amount));
                let before = versions.into_iter();
                Data::Versions(
                    before
                        .filter_map(|(key, found)| Some((key, found?)))
                        .collect(),
                )
            }
            Op::Increment { key, id } => {
                let key = StoreKey::of(*key);
                let before = self.now(key);
                self.revision += 1;
                self.put(key, Value::Number(*id));
                Data::Version(before)
            }
            Op::ReadChain { key } => {
                let key = StoreKey::of(*key);
                let versions = self.keys.get(&key).into_iter().flatten().rev();
                Data::Chain(versions.map_while(|(_, version)| version.clone()).collect())
            }
        };
        let reply = Reply {
            revision: self.revision,
            data,
        };
        (kind, Some(reply))
    }

    fn transact(&mut self, steps: &[Step]) -> Data {
        let mut lists: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let mut written: Vec<u64> = Vec::new();
        let mut found = Vec::new();
        for step in steps {
            let (Step::Append { key, .. } | Step::Read { key }) = step;
            let list = lists.entry(*key).or_insert_with(|| {
                match self.now(StoreKey::of(*key)).map(|held| held.value) {
                    Some(Value::List(list)) => list,
                    _ => Vec::new(),
                }
            });
            if let Step::Append { value, .. } = step {
                list.push(*value);
                written.push(*key);
                found.push(None);
            } else {
                found.push(Some(list.clone()));
            }
        }
        written.sort_unstable();
        written.dedup();
        self.revision += i64::from(!written.is_empty());
        for key in written {
            let list = lists.remove(&key).unwrap_or_default();
            self.put(StoreKey::of(key), Value::List(list));
        }
        Data::Steps(found)
    }
}

enum State {
    Idle,
    /// Invoked, without effect yet.
    Waiting(Op),
    /// The answer is on its way.
    Answered(Op, Kind, Option<Reply>),
}

struct Run {
    config: Simulation,
    random: StdRng,
    store: Store,
    /// Unique values so far.
    values: i64,
    /// Operations whose outcome nobody will learn, that have not taken effect.
    limbo: Vec<Op>,
    /// By node: the revision it has reached, as serializable reads have shown.
    reached: [i64; NODES],
    history: History,
    time: u64,
}

impl Simulation {
    /// Makes the history.
    pub fn run(self) -> History {
        let mut run = Run {
            config: self,
            random: StdRng::seed_from_u64(self.seed),
            store: Store {
                revision: 1,
                ..Store::default()
            },
            values: 0,
            limbo: Vec::new(),
            reached: [1; NODES],
            history: History::default(),
            time: 0,
        };
        if self.workload == Workload::Bank {
            for key in 0..self.keys {
                run.store.revision += 1;
                run.store.put(StoreKey::of(key), Value::Number(BALANCE));
            }
            run.reached = [run.store.revision; NODES];
        }
        run.clients();
        run.final_reads();
        run.history
    }
}

impl Run {
    fn clients(&mut self) {
        let mut states: Vec<State> = Vec::new();
        states.resize_with(self.config.clients, || State::Idle);
        let mut processes: Vec<u64> = (0..self.config.clients as u64).collect();
        let mut started = 0;
        let mut busy = 0;
        while started < self.config.operations || busy > 0 {
            let client = self.random.random_range(0..states.len());
            if !self.limbo.is_empty() && self.random.random_bool(0.05) {
                let at = self.random.random_range(0..self.limbo.len());
                let op = self.limbo.swap_remove(at);
                if self.random.random_bool(0.7) {
                    self.store.execute(&op);
                }
            }
            let process = processes[client];
            states[client] = match std::mem::replace(&mut states[client], State::Idle) {
                State::Idle if started < self.config.operations => {
                    started += 1;
                    busy += 1;
                    let op = self.choose();
                    self.event(process, Kind::Invoke, &op, None);
                    State::Waiting(op)
                }
                State::Idle => State::Idle,
                State::Waiting(op) => {
                    let chance: f64 = self.random.random();
                    if chance < self.config.unknown / 2.0 {
                        self.event(process, Kind::Info, &op, None);
                        self.limbo.push(op);
                        processes[client] += self.config.clients as u64;
                        busy -= 1;
                        State::Idle
                    } else if chance < self.config.unknown / 2.0 + self.config.failed {
                        State::Answered(op, Kind::Fail, None)
                    } else {
                        let (kind, reply) = self.execute(process, &op);
                        State::Answered(op, kind, reply)
                    }
                }
                State::Answered(op, kind, reply) => {
                    busy -= 1;
                    if self.random.random_bool(self.config.unknown / 2.0) {
                        self.event(process, Kind::Info, &op, None);
                        processes[client] += self.config.clients as u64;
                    } else {
                        self.event(process, kind, &op, reply);
                    }
                    State::Idle
                }
            };
        }
    }

    fn execute(&mut self, process: u64, op: &Op) -> (Kind, Option<Reply>) {
        let Op::Read {
            key,
            serializable: true,
        } = op
        else {
            return self.store.execute(op);
        };
        let node = self.node(process) as usize - 1;
        let revision = self
            .random
            .random_range(self.reached[node]..=self.store.revision);
        self.reached[node] = revision;
        let data = Data::Version(self.store.get(StoreKey::of(*key), revision));
        (Kind::Ok, Some(Reply { revision, data }))
    }

    fn node(&self, process: u64) -> u64 {
        process % self.config.clients as u64 % NODES as u64 + 1
    }

    fn event(&mut self, process: u64, kind: Kind, op: &Op, reply: Option<Reply>) {
        self.time += self.random.random_range(1_000..1_000_000);
        self.history.events.push(Event {
            index: self.history.events.len() as u64,
            time: self.time,
            what: What::Client(ClientEvent {
                process,
                node: self.node(process),
                kind,
                op: op.clone(),
                reply,
                error: None,
                last: false,
            }),
        });
    }

    fn choose(&mut self) -> Op {
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
                Op::Transfer {
                    from: key,
                    to: (key + other) % self.config.keys,
                    amount: self.random.random_range(1..=5),
                }
            }
            Workload::Bank => Op::ReadAccounts,
            Workload::Counter if chance < 70 => Op::Increment { key, id: value },
            Workload::Counter => Op::ReadCounter { key },
        }
    }

    /// One process reads everything back, when nothing else goes on.
    fn final_reads(&mut self) {
        let mut reads = Vec::new();
        for key in 0..self.config.keys {
            match self.config.workload {
                Workload::Register => reads.push(Op::Read {
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
            if self.config.workload != Workload::Set {
                reads.push(Op::ReadChain { key });
            }
        }
        if self.config.workload == Workload::Bank {
            reads.push(Op::ReadAccounts);
        }
        // No process has this number: they grow by the number of clients.
        let process = (self.config.operations + 1) as u64 * self.config.clients as u64;
        for op in reads {
            let from = self.history.events.len();
            self.event(process, Kind::Invoke, &op, None);
            let (kind, reply) = self.store.execute(&op);
            self.event(process, kind, &op, reply);
            for event in &mut self.history.events[from..] {
                if let What::Client(client) = &mut event.what {
                    client.last = true;
                }
            }
        }
    }
}
