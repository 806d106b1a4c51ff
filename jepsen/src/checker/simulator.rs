//! A tiny store that makes no mistakes, with clients that work on it at once: good histories, to
//! prove that checkers accept them, and to damage, to prove that they do not accept anything.
//!
//! Each operation takes effect at one moment between its invocation and its completion. Some end
//! with an outcome that their client never learns: these took effect before, or do at any later
//! time, or never. Some fail without effect. Serializable reads are answered by nodes that lag.
//! Everything follows from the seed.
//!
//! On demand the store goes back to an older state, as one does that is put back from a copy: then
//! it is known how many acknowledged writes are gone.

mod store;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::store::Store;
use super::model::StoreKey;
use crate::history::{ClientEvent, Data, Event, History, Kind, Op, Reply, Step, Value, What};

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
    /// Writes, and serializable reads.
    Stale,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Register,
        Self::Set,
        Self::Append,
        Self::Bank,
        Self::Counter,
        Self::Stale,
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

/// A time at which the store goes back.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// When so many operations were begun.
    pub after: usize,
    /// So far that at least so many acknowledged writes are gone; those whose answer is on its way
    /// are gone as well.
    pub writes: usize,
}

/// Balance of each account when the bank opens.
const BALANCE: i64 = 100;
/// Nodes that answer.
const NODES: usize = 3;

enum State {
    Idle,
    /// Invoked, without effect yet.
    Waiting(Op),
    /// The answer is on its way. If it wrote: the revision, and how often the store had gone back.
    Answered(Op, Kind, Option<Reply>, Option<Written>),
}

/// A write in the store.
#[derive(Clone, Copy)]
struct Written {
    revision: i64,
    /// How often the store had gone back before.
    era: usize,
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
    losses: Vec<Loss>,
    /// Revisions to which the store went back.
    went_back: Vec<i64>,
    acknowledged: Vec<Written>,
    /// Whether the final reads ask for all versions of every key, which clients of a run ask of
    /// counters alone.
    chains: bool,
}

impl Simulation {
    /// Makes the history.
    pub fn run(self) -> History {
        self.run_and_lose(Vec::new(), true).0
    }

    /// Makes a history in which the store goes back at these times, in their order, and tells how many
    /// acknowledged writes are gone in the end. The final reads are those of a run.
    pub fn lose(self, losses: Vec<Loss>) -> (History, u64) {
        self.run_and_lose(losses, false)
    }

    fn run_and_lose(self, losses: Vec<Loss>, chains: bool) -> (History, u64) {
        let mut run = Run {
            config: self,
            random: StdRng::seed_from_u64(self.seed),
            store: Store::empty(),
            values: 0,
            limbo: Vec::new(),
            reached: [1; NODES],
            history: History::default(),
            time: 0,
            losses,
            went_back: Vec::new(),
            acknowledged: Vec::new(),
            chains,
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
        let gone = run.acknowledged.iter().filter(|write| run.is_gone(write));
        let gone = gone.count() as u64;
        (run.history, gone)
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
            if self
                .losses
                .first()
                .is_some_and(|loss| loss.after <= started)
            {
                let loss = self.losses.remove(0);
                self.go_back(loss.writes);
            }
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
                        State::Answered(op, Kind::Fail, None, None)
                    } else {
                        let before = self.store.revision;
                        let (kind, reply) = self.execute(process, &op);
                        let written = (self.store.revision > before).then_some(Written {
                            revision: self.store.revision,
                            era: self.went_back.len(),
                        });
                        State::Answered(op, kind, reply, written)
                    }
                }
                State::Answered(op, kind, reply, written) => {
                    busy -= 1;
                    if self.random.random_bool(self.config.unknown / 2.0) {
                        self.event(process, Kind::Info, &op, None);
                        processes[client] += self.config.clients as u64;
                    } else {
                        self.event(process, kind, &op, reply);
                        self.acknowledged.extend(written);
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

    /// Takes so many acknowledged writes away that are there.
    fn go_back(&mut self, writes: usize) {
        let there = self
            .acknowledged
            .iter()
            .filter(|write| !self.is_gone(write));
        let mut there: Vec<i64> = there.map(|write| write.revision).collect();
        there.sort_unstable();
        let first = there[there.len() - writes];
        self.store.go_back(first - 1);
        self.went_back.push(first - 1);
        for reached in &mut self.reached {
            *reached = (*reached).min(first - 1);
        }
    }

    fn is_gone(&self, write: &Written) -> bool {
        let since = &self.went_back[write.era..];
        since.iter().any(|&revision| revision < write.revision)
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
            Workload::Stale if chance < 40 => Op::Write { key, value },
            Workload::Stale => Op::Read {
                key,
                serializable: true,
            },
        }
    }

    /// One process reads everything back, when nothing else goes on.
    fn final_reads(&mut self) {
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
