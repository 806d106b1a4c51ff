//! A store that is perfect unless told otherwise, and clients that use it at the same time.
//!
//! Each operation takes effect at one moment between its invocation and its completion, chosen by
//! the seed. Some outcomes are unknown: those take effect at once, much later, or never.

use std::collections::{BTreeMap, HashMap};

use holdfast_jepsen::history::{
    Data, History, Kind, NodeId, Op, Phase, Reply, Step, Value, Version,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[path = "recorder.rs"]
mod recorder;
pub use recorder::{Recorder, version};

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Append,
    Set,
    Bank,
    Counter,
    Stale,
}

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

/// Extent of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub clients: usize,
    pub operations: usize,
    pub keys: u64,
    /// Share of the operations whose outcome the client does not learn.
    pub unknown: f64,
}

impl Extent {
    pub const SMALL: Extent = Extent {
        clients: 6,
        operations: 150,
        keys: 5,
        unknown: 0.08,
    };
}

enum Client {
    Idle,
    /// Invoked when the store was at this revision, and not yet in effect.
    Asked(Op, i64),
    /// Steps of a transaction that have taken effect so far.
    Half(Op, Vec<Option<Vec<i64>>>),
    /// In effect, or not, and not yet answered.
    Decided(Op, Result<Reply, ()>),
}

/// Keys of the store: a space (the set, or 0) and a key.
type Place = (u64, u64);

pub struct Simulator {
    rng: StdRng,
    workload: Workload,
    bug: Bug,
    extent: Extent,
    recorder: Recorder,
    revision: i64,
    chains: BTreeMap<Place, Vec<Version>>,
    /// For each node the revision that it has.
    nodes: [i64; 3],
    next_value: i64,
    next_process: u64,
    /// Operations of unknown outcome that may yet take effect.
    late: Vec<Op>,
    fault: Option<(u64, NodeId, Phase)>,
    faults: u64,
    /// Times the bug struck.
    pub struck: u64,
}

impl Simulator {
    pub fn new(seed: u64, workload: Workload, bug: Bug, extent: Extent) -> Self {
        let mut simulator = Self {
            rng: StdRng::seed_from_u64(seed),
            workload,
            bug,
            extent,
            recorder: Recorder::default(),
            revision: 1,
            chains: BTreeMap::new(),
            nodes: [1; 3],
            next_value: 0,
            next_process: extent.clients as u64,
            late: Vec::new(),
            fault: None,
            faults: 0,
            struck: 0,
        };
        if workload == Workload::Bank {
            simulator.revision += 1;
            for account in 0..extent.keys {
                simulator.put((0, account), Value::Number(100));
            }
        }
        simulator
    }

    /// Runs to the end and gives what was recorded.
    pub fn run(&mut self) -> History {
        let mut clients: Vec<(u64, Client)> = (0..self.extent.clients as u64)
            .map(|process| (process, Client::Idle))
            .collect();
        let mut left = self.extent.operations;
        loop {
            let busy: Vec<usize> = (0..clients.len())
                .filter(|at| left > 0 || !matches!(clients[*at].1, Client::Idle))
                .collect();
            if busy.is_empty() {
                break;
            }
            self.housekeeping();
            let at = busy[self.rng.random_range(0..busy.len())];
            let (process, client) = &mut clients[at];
            let was_idle = matches!(client, Client::Idle);
            let client_now = std::mem::replace(client, Client::Idle);
            let (process_next, next) = self.advance(*process, client_now);
            clients[at] = (process_next, next);
            left -= usize::from(was_idle);
        }
        self.heal();
        self.final_reads();
        std::mem::take(&mut self.recorder).history()
    }

    fn advance(&mut self, process: u64, client: Client) -> (u64, Client) {
        let node = process % 3 + 1;
        match client {
            Client::Idle => {
                let op = self.invent();
                self.recorder.client(process, node, Kind::Invoke, &op, None);
                (process, Client::Asked(op, self.revision))
            }
            Client::Asked(op, _) if self.chance(self.extent.unknown) => {
                self.recorder.client(process, node, Kind::Info, &op, None);
                match self.rng.random_range(0..3) {
                    0 => {
                        let now = self.revision;
                        let _ = self.apply(&op, now, node);
                    }
                    1 => self.late.push(op),
                    _ => {}
                }
                self.next_process += 1;
                (self.next_process, Client::Idle)
            }
            Client::Asked(op, _) if self.chance(0.03) => {
                let made = self.bug == Bug::FailedWrites && self.strikes(0.5) && {
                    let now = self.revision;
                    self.apply(&op, now, node).is_ok()
                };
                let _ = made;
                (process, Client::Decided(op, Err(())))
            }
            Client::Asked(op, began) => {
                if self.bug == Bug::HalfTransactions
                    && matches!(op, Op::Txn { .. })
                    && self.strikes(0.5)
                {
                    return (process, Client::Half(op, Vec::new()));
                }
                let result = self.apply(&op, began, node);
                (process, Client::Decided(op, result))
            }
            Client::Half(op, mut answers) => {
                let Op::Txn { steps } = &op else {
                    unreachable!("only transactions are done by halves")
                };
                match steps[answers.len()] {
                    Step::Append { key, value } => {
                        let mut list = self.list(key, self.revision);
                        list.push(value);
                        self.revision += 1;
                        self.put((0, key), Value::List(list));
                        answers.push(None);
                    }
                    Step::Read { key } => answers.push(Some(self.list(key, self.revision))),
                }
                if answers.len() < steps.len() {
                    return (process, Client::Half(op, answers));
                }
                let reply = Reply {
                    revision: self.revision,
                    data: Data::Steps(answers),
                };
                (process, Client::Decided(op, Ok(reply)))
            }
            Client::Decided(op, result) => {
                let (kind, reply) = match result {
                    Ok(_) if self.chance(self.extent.unknown) => (Kind::Info, None),
                    Ok(reply) => (Kind::Ok, Some(reply)),
                    Err(()) => (Kind::Fail, None),
                };
                self.recorder.client(process, node, kind, &op, reply);
                if kind == Kind::Info {
                    self.next_process += 1;
                    return (self.next_process, Client::Idle);
                }
                (process, Client::Idle)
            }
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    /// Whether the bug strikes this time.
    fn strikes(&mut self, share: f64) -> bool {
        let strikes = self.chance(share);
        self.struck += u64::from(strikes);
        strikes
    }

    /// Nodes catch up, late operations take effect, nodes restart.
    fn housekeeping(&mut self) {
        if !self.late.is_empty() && self.chance(0.02) {
            let at = self.rng.random_range(0..self.late.len());
            let op = self.late.swap_remove(at);
            let now = self.revision;
            let _ = self.apply(&op, now, 1);
        }
        if self.workload != Workload::Stale {
            return;
        }
        let node = self.rng.random_range(0..3);
        if self.chance(0.3) {
            self.nodes[node] = self.rng.random_range(self.nodes[node]..=self.revision);
        }
        if self.chance(0.03) {
            self.next_phase();
        }
    }

    fn next_phase(&mut self) {
        let (fault, node, phase) = match self.fault.take() {
            None => {
                self.faults += 1;
                (self.faults, self.rng.random_range(1..=3), Phase::Begin)
            }
            Some((fault, node, phase)) => {
                let next = match phase {
                    Phase::Begin => Phase::Broken,
                    Phase::Broken => Phase::Heal,
                    _ => Phase::Healed,
                };
                (fault, node, next)
            }
        };
        self.recorder.fault("kill-one", fault, phase, &[node]);
        match phase {
            // It starts again with whatever it has on its disk.
            Phase::Heal => {
                let has = &mut self.nodes[node as usize - 1];
                *has = self.rng.random_range(1..=*has);
                self.fault = Some((fault, node, phase));
            }
            Phase::Healed => {}
            _ => self.fault = Some((fault, node, phase)),
        }
    }

    fn heal(&mut self) {
        while self.fault.is_some() {
            self.next_phase();
        }
    }

    fn final_reads(&mut self) {
        self.recorder.finish();
        let ops: Vec<Op> = match self.workload {
            Workload::Append => {
                let reads = |key| Op::Txn {
                    steps: vec![Step::Read { key }],
                };
                (0..self.extent.keys).map(reads).collect()
            }
            Workload::Set => (0..2).map(|set| Op::ReadSet { set }).collect(),
            Workload::Bank => vec![Op::ReadAccounts],
            Workload::Counter => (0..self.extent.keys)
                .flat_map(|key| [Op::ReadCounter { key }, Op::ReadChain { key }])
                .collect(),
            Workload::Stale => Vec::new(),
        };
        self.next_process += 1;
        let process = self.next_process;
        let bug = std::mem::replace(&mut self.bug, Bug::None);
        for op in ops {
            self.recorder.invoke(process, &op);
            self.housekeeping();
            let now = self.revision;
            let reply = self.apply(&op, now, 1).expect("final reads do not fail");
            self.recorder.ok(process, &op, reply.revision, reply.data);
        }
        self.bug = bug;
    }

    fn invent(&mut self) -> Op {
        let key = self.rng.random_range(0..self.extent.keys);
        self.next_value += 1;
        let value = self.next_value;
        let write = self.chance(0.5);
        match self.workload {
            Workload::Append => {
                let count = self.rng.random_range(1..=4);
                let steps = (0..count)
                    .map(|_| {
                        let key = self.rng.random_range(0..self.extent.keys);
                        if self.chance(0.5) {
                            self.next_value += 1;
                            Step::Append {
                                key,
                                value: self.next_value,
                            }
                        } else {
                            Step::Read { key }
                        }
                    })
                    .collect();
                Op::Txn { steps }
            }
            Workload::Set if write => Op::Add {
                set: key % 2,
                element: value,
            },
            Workload::Set => Op::ReadSet { set: key % 2 },
            Workload::Bank if write => Op::Transfer {
                from: key,
                to: (key + self.rng.random_range(1..self.extent.keys)) % self.extent.keys,
                amount: self.rng.random_range(1..40),
            },
            Workload::Bank => Op::ReadAccounts,
            Workload::Counter if write => Op::Increment { key, id: value },
            Workload::Counter => Op::ReadCounter { key },
            Workload::Stale if write => Op::Write { key, value },
            Workload::Stale => Op::Read {
                key,
                serializable: true,
            },
        }
    }

    fn put(&mut self, place: Place, value: Value) {
        let chain = self.chains.entry(place).or_default();
        let create = chain.first().map_or(self.revision, |first| first.create);
        chain.push(Version {
            value,
            create,
            modified: self.revision,
            version: chain.len() as i64 + 1,
        });
    }

    fn get(&self, place: Place, revision: i64) -> Option<Version> {
        let chain = self.chains.get(&place)?;
        let count = chain.partition_point(|version| version.modified <= revision);
        chain[..count].last().cloned()
    }

    fn range(&self, space: u64, revision: i64) -> Vec<(u64, Version)> {
        self.chains
            .range((space, 0)..=(space, u64::MAX))
            .filter_map(|((_, key), _)| Some((*key, self.get((space, *key), revision)?)))
            .collect()
    }

    fn list(&self, key: u64, revision: i64) -> Vec<i64> {
        match self.get((0, key), revision) {
            Some(Version {
                value: Value::List(list),
                ..
            }) => list,
            _ => Vec::new(),
        }
    }

    /// The revision as of which a read is answered.
    fn as_of(&mut self) -> i64 {
        if self.bug == Bug::StaleReads && self.strikes(0.2) {
            return (self.revision - self.rng.random_range(1..20)).max(1);
        }
        self.revision
    }

    /// Makes a write that the bug may lose or repeat.
    fn write(&mut self, place: Place, value: &Value) {
        if self.bug == Bug::LostWrites && self.strikes(0.1) {
            return;
        }
        let repeated = self.bug == Bug::RepeatedWrites && self.strikes(0.1);
        for _ in 0..=usize::from(repeated) {
            self.revision += 1;
            self.put(place, value.clone());
        }
    }

    fn apply(&mut self, op: &Op, began: i64, node: NodeId) -> Result<Reply, ()> {
        let data = match op {
            Op::Txn { steps } => return self.transact(steps, began),
            Op::Add { set, element } => {
                self.write((*set, *element as u64), &Value::Number(*element));
                Data::None
            }
            Op::Write { key, value } => {
                self.write((0, *key), &Value::Number(*value));
                Data::None
            }
            Op::OpenAccounts { accounts, balance } => {
                self.revision += 1;
                for key in 0..*accounts {
                    self.put((0, key), Value::Number(*balance));
                }
                Data::None
            }
            Op::Increment { key, id } => {
                let before = self.get((0, *key), self.revision);
                self.write((0, *key), &Value::Number(*id));
                Data::Version(before)
            }
            Op::ReadSet { set } => {
                let revision = self.as_of();
                let mut elements = self.range(*set, revision);
                if self.bug == Bug::MissingKeys && !elements.is_empty() && self.strikes(0.2) {
                    elements.remove(0);
                }
                Data::Versions(elements)
            }
            Op::ReadAccounts => {
                let mut accounts = self.range(0, self.revision);
                if self.bug == Bug::MissingKeys && self.strikes(0.2) {
                    accounts.pop();
                }
                Data::Versions(accounts)
            }
            Op::ReadCounter { key } => {
                let revision = self.as_of();
                Data::Version(self.get((0, *key), revision))
            }
            Op::ReadChain { key } => {
                let chain = self.chains.get(&(0, *key));
                Data::Chain(chain.map_or_else(Vec::new, |c| c.iter().rev().cloned().collect()))
            }
            Op::Transfer { from, to, amount } => {
                let now = self.revision;
                let held = |place| match self.get(place, now) {
                    Some(Version {
                        value: Value::Number(held),
                        ..
                    }) => held,
                    _ => 0,
                };
                let (payer, paid) = (held((0, *from)), held((0, *to)));
                let loose = self.bug == Bug::LooseMoney && self.chance(0.2);
                if payer < *amount && !loose {
                    return Err(());
                }
                let mut before: Vec<(u64, Version)> = [*from, *to]
                    .into_iter()
                    .filter_map(|key| Some((key, self.get((0, key), now)?)))
                    .collect();
                before.sort_by_key(|(key, _)| *key);
                self.struck += u64::from(loose);
                self.revision += 1;
                self.put((0, *from), Value::Number(payer - amount));
                if !loose || payer < *amount {
                    self.put((0, *to), Value::Number(paid + amount));
                }
                Data::Versions(before)
            }
            Op::Read { key, .. } => {
                let at = node as usize - 1;
                if matches!(self.fault, Some((_, down, Phase::Broken)) if down == node) {
                    return Err(());
                }
                let mut revision = self.nodes[at];
                if self.bug == Bug::NodesGoBack && self.strikes(0.2) {
                    revision = (revision - 5).max(1);
                }
                return Ok(Reply {
                    revision,
                    data: Data::Version(self.get((0, *key), revision)),
                });
            }
            Op::Delete { .. } | Op::Cas { .. } => unreachable!("not part of any workload here"),
        };
        Ok(Reply {
            revision: self.revision,
            data,
        })
    }

    fn transact(&mut self, steps: &[Step], began: i64) -> Result<Reply, ()> {
        let writes = steps.iter().any(|step| matches!(step, Step::Append { .. }));
        let isolated = !matches!(self.bug, Bug::BlindUpdates | Bug::Snapshots);
        let mut reads = self.revision;
        if !isolated && self.strikes(0.5) {
            reads = began;
        }
        if !writes {
            reads = reads.min(self.as_of());
        }
        let mut lists: HashMap<u64, Vec<i64>> = HashMap::new();
        let mut written: Vec<u64> = Vec::new();
        let mut answers = Vec::new();
        for step in steps {
            let (Step::Append { key, .. } | Step::Read { key }) = *step;
            let list = lists.entry(key).or_insert_with(|| self.list(key, reads));
            match *step {
                Step::Append { value, .. } => {
                    list.push(value);
                    written.push(key);
                    answers.push(None);
                }
                Step::Read { .. } => answers.push(Some(list.clone())),
            }
        }
        let changed = |key: &u64| {
            let now = self.get((0, *key), self.revision);
            now.is_some_and(|now| now.modified > reads)
        };
        if self.bug == Bug::Snapshots && written.iter().any(changed) {
            return Err(());
        }
        let lost = self.bug == Bug::LostWrites && writes && self.strikes(0.1);
        if writes && !lost {
            self.revision += 1;
            written.sort_unstable();
            written.dedup();
            for key in written {
                let list = lists.remove(&key).expect("a written list was looked at");
                self.put((0, key), Value::List(list));
            }
        }
        Ok(Reply {
            revision: self.revision,
            data: Data::Steps(answers),
        })
    }
}
