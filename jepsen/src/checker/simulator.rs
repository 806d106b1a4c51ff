//! A tiny store that makes no mistakes unless told to, with clients that work on it at once: good
//! histories, to prove that checkers accept them, and to damage, to prove that they do not accept
//! anything; and histories of a store with a bug, to prove that they find it.
//!
//! Each operation takes effect at one moment between its invocation and its completion. Some end
//! with an outcome that their client never learns: these took effect before, or do at any later
//! time, or never. Some fail without effect. Serializable reads are answered by nodes that lag, and on
//! demand start again with what they have on their disk. Everything follows from the seed.
//!
//! On demand the store goes back to an older state, as one does that is put back from a copy: then
//! it is known how many acknowledged writes are gone.

mod bug;
mod nodes;
mod requests;
mod store;

use rand::{RngExt, SeedableRng, rngs::StdRng};

pub use self::bug::Bug;
use self::{bug::Strikes, nodes::Nodes, store::Store};
use super::model::StoreKey;
use crate::history::{
    ClientEvent, Data, Event, FaultEvent, History, Kind, NodeId, Op, Reply, Step, Value, What,
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
    /// What is wrong with the store.
    pub bug: Bug,
    /// Nodes are killed, one at a time, and start again.
    pub restarts: bool,
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
enum State {
    Idle,
    /// Invoked when the store was at this revision, without effect yet.
    Waiting(Op, i64),
    /// A transaction of which some steps have taken effect, and what they read.
    Half(Op, Vec<Option<Vec<i64>>>),
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
    nodes: Nodes,
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
    /// A small one, of a store without a bug.
    pub fn new(workload: Workload, seed: u64) -> Self {
        Self {
            workload,
            seed,
            operations: 150,
            clients: 6,
            keys: 5,
            unknown: 0.08,
            failed: 0.03,
            bug: Bug::None,
            restarts: false,
        }
    }

    /// Makes the history.
    pub fn run(self) -> History {
        self.simulate(Vec::new(), true).history
    }

    /// Makes a history, and tells how often the bug struck. The final reads are those of a run.
    pub fn strike(self) -> (History, u64) {
        let run = self.simulate(Vec::new(), false);
        (run.history, run.store.strikes.count)
    }

    /// Makes a history in which the store goes back at these times, in their order, and tells how many
    /// acknowledged writes are gone in the end. The final reads are those of a run.
    pub fn lose(self, losses: Vec<Loss>) -> (History, u64) {
        let run = self.simulate(losses, false);
        let gone = run.acknowledged.iter().filter(|write| run.is_gone(write));
        let gone = gone.count() as u64;
        (run.history, gone)
    }

    fn simulate(self, losses: Vec<Loss>, chains: bool) -> Run {
        let mut run = Run {
            config: self,
            random: StdRng::seed_from_u64(self.seed),
            store: Store::empty(Strikes::new(self.bug, self.seed)),
            values: 0,
            limbo: Vec::new(),
            nodes: Nodes::at(1),
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
            run.nodes = Nodes::at(run.store.revision);
        }
        run.clients();
        run.heal();
        run.final_reads();
        run
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
            if self.config.restarts && self.random.random_bool(0.03) {
                self.next_phase();
            }
            let client = self.random.random_range(0..states.len());
            if !self.limbo.is_empty() && self.random.random_bool(0.05) {
                let at = self.random.random_range(0..self.limbo.len());
                let op = self.limbo.swap_remove(at);
                if self.random.random_bool(0.7) {
                    self.store.execute(&op, self.store.revision);
                }
            }
            let process = processes[client];
            states[client] = match std::mem::replace(&mut states[client], State::Idle) {
                State::Idle if started < self.config.operations => {
                    started += 1;
                    busy += 1;
                    let op = self.choose();
                    self.event(process, Kind::Invoke, &op, None);
                    State::Waiting(op, self.store.revision)
                }
                State::Idle => State::Idle,
                State::Half(op, found) => self.next_step(op, found),
                State::Waiting(op, began) => {
                    let chance: f64 = self.random.random();
                    if chance < self.config.unknown / 2.0 {
                        self.event(process, Kind::Info, &op, None);
                        self.limbo.push(op);
                        processes[client] += self.config.clients as u64;
                        busy -= 1;
                        State::Idle
                    } else if chance < self.config.unknown / 2.0 + self.config.failed {
                        if self.store.strikes.now(Bug::FailedWrites, 0.5) {
                            self.execute(process, &op, began);
                        }
                        State::Answered(op, Kind::Fail, None, None)
                    } else if matches!(op, Op::Txn { .. })
                        && self.store.strikes.now(Bug::HalfTransactions, 0.5)
                    {
                        State::Half(op, Vec::new())
                    } else {
                        let before = self.store.revision;
                        let (kind, reply) = self.execute(process, &op, began);
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

    fn execute(&mut self, process: u64, op: &Op, began: i64) -> (Kind, Option<Reply>) {
        let Op::Read {
            key,
            serializable: true,
        } = op
        else {
            return self.store.execute(op, began);
        };
        let node = self.node(process);
        if self.nodes.is_down(node) {
            return (Kind::Fail, None);
        }
        let revision = if self.store.strikes.now(Bug::NodesGoBack, 0.2) {
            (self.nodes.reached(node) - 5).max(1)
        } else {
            self.nodes
                .catch_up(node, self.store.revision, &mut self.random)
        };
        let data = Data::Version(self.store.get(StoreKey::of(*key), revision));
        (Kind::Ok, Some(Reply { revision, data }))
    }

    /// The next step of a transaction takes effect by itself.
    fn next_step(&mut self, op: Op, mut found: Vec<Option<Vec<i64>>>) -> State {
        let Op::Txn { steps } = &op else {
            unreachable!("only transactions are done by halves")
        };
        let revision = self.store.revision;
        match steps[found.len()] {
            Step::Append { key, value } => {
                let mut list = self.store.list(key, revision);
                list.push(value);
                self.store.revision += 1;
                self.store.put(StoreKey::of(key), Value::List(list));
                found.push(None);
            }
            Step::Read { key } => found.push(Some(self.store.list(key, revision))),
        }
        if found.len() < steps.len() {
            return State::Half(op, found);
        }
        let reply = Reply {
            revision: self.store.revision,
            data: Data::Steps(found),
        };
        State::Answered(op, Kind::Ok, Some(reply), None)
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
        self.nodes.go_back(first - 1);
    }

    fn is_gone(&self, write: &Written) -> bool {
        let since = &self.went_back[write.era..];
        since.iter().any(|&revision| revision < write.revision)
    }

    fn node(&self, process: u64) -> NodeId {
        Nodes::of(process % self.config.clients as u64)
    }

    /// Goes on with the fault of a node, or begins one.
    fn next_phase(&mut self) {
        let (fault, phase, node) = self.nodes.next_phase(&mut self.random);
        self.record(What::Fault(FaultEvent {
            nemesis: "kill-one".to_owned(),
            fault,
            phase,
            nodes: vec![node],
            detail: String::new(),
        }));
    }

    fn heal(&mut self) {
        while self.nodes.has_fault() {
            self.next_phase();
        }
    }

    fn record(&mut self, what: What) {
        self.time += self.random.random_range(1_000..1_000_000);
        self.history.events.push(Event {
            index: self.history.events.len() as u64,
            time: self.time,
            what,
        });
    }

    fn event(&mut self, process: u64, kind: Kind, op: &Op, reply: Option<Reply>) {
        self.record(What::Client(ClientEvent {
            process,
            node: self.node(process),
            kind,
            op: op.clone(),
            reply,
            error: None,
            last: false,
        }));
    }

    /// One process reads everything back, when nothing else goes on.
    fn final_reads(&mut self) {
        let reads = self.all_reads();
        self.store.strikes.bug = Bug::None;
        // No process has this number: they grow by the number of clients.
        let process = (self.config.operations + 1) as u64 * self.config.clients as u64;
        for op in reads {
            let from = self.history.events.len();
            self.event(process, Kind::Invoke, &op, None);
            let (kind, reply) = self.store.execute(&op, self.store.revision);
            self.event(process, kind, &op, reply);
            for event in &mut self.history.events[from..] {
                if let What::Client(client) = &mut event.what {
                    client.last = true;
                }
            }
        }
    }
}
