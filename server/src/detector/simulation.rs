//! Machines of several nodes on links and schedulers made of a seed and a queue of events.
//!
//! ```text
//!   node ── actions ──▶ link (latency, jitter, cuts) ──▶ inbox ── when scheduled ──▶ node: events, then a tick
//! ```
//!
//! Links behave as TCP does: what is sent on a connection arrives in order; a cut direction holds it back
//! until it is healed; a kernel answers for a process that is stopped, and refuses for one that is dead.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    machine::{Action, Machine},
    message::Message,
    peer::{ConnectionId, Failure},
    time::Time,
    views::Views,
    vitals::Part,
};
use crate::raft::NodeId;

/// What goes to a node.
#[derive(Clone, Debug)]
enum Input {
    Accepted { session: u64 },
    Connected(ConnectionId),
    Ended(ConnectionId, Failure),
    Received(ConnectionId, Box<Message>),
    Tick,
}

/// A number for each connection of the simulation.
type Wire = u64;

#[derive(Clone, Debug)]
enum Event {
    /// Something comes out of the link at this node, in this process of it.
    Arrives(NodeId, u64, Wire, Carried),
    /// A node runs.
    Runs(NodeId, u64),
}

#[derive(Clone, Debug)]
enum Carried {
    Syn,
    SynAnswer { refused: bool },
    Greeting { session: u64 },
    Message(Box<Message>),
    End,
}

#[derive(Debug)]
struct Ends {
    dialer: NodeId,
    acceptor: NodeId,
    dialer_process: u64,
    acceptor_process: u64,
    dialer_id: ConnectionId,
    acceptor_id: Option<ConnectionId>,
    /// When the last thing sent each way arrives: from the dialer, to the dialer.
    arrives: [Time; 2],
    greeted: bool,
    closed: bool,
}

pub(super) struct Node {
    pub id: NodeId,
    process: u64,
    pub machine: Option<Machine>,
    /// Counts the times it was asked to run, so that only the last one is done.
    asked: u64,
    inbox: Vec<(Wire, Input)>,
    /// It does not run before.
    pub busy_until: Time,
    by_id: BTreeMap<ConnectionId, Wire>,
    pub stall: Option<(Part, Duration)>,
    /// The last time when something was wrong with it.
    pub troubled_at: Time,
}

/// What the links do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub least: Duration,
    pub jitter: Duration,
}

pub(super) struct World {
    pub now: Time,
    size: u64,
    start: Instant,
    pub rng: StdRng,
    pub nodes: BTreeMap<NodeId, Node>,
    latency: BTreeMap<(NodeId, NodeId), Latency>,
    cut: BTreeMap<(NodeId, NodeId), bool>,
    held: BTreeMap<(NodeId, NodeId), Vec<(Wire, Carried)>>,
    /// A proxy accepts for a node that is dead.
    pub proxied: bool,
    /// What has happened, for whoever looks into a failure.
    pub told: Vec<String>,
    wires: BTreeMap<Wire, Ends>,
    next_wire: Wire,
    events: BinaryHeap<Reverse<(Time, u64)>>,
    pending: BTreeMap<u64, Event>,
    next_event: u64,
}

impl World {
    pub fn new(seed: u64, nodes: u64, latency: impl Fn(&mut StdRng) -> Latency) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let ids: Vec<NodeId> = (1..=nodes).collect();
        let mut links = BTreeMap::new();
        for from in &ids {
            for to in ids.iter().filter(|to| *to > from) {
                let of_pair = latency(&mut rng);
                links.insert((*from, *to), of_pair);
                links.insert((*to, *from), of_pair);
            }
        }
        let mut world = Self {
            now: Time::default(),
            size: nodes,
            start: Instant::now(),
            rng,
            nodes: BTreeMap::new(),
            latency: links,
            cut: BTreeMap::new(),
            held: BTreeMap::new(),
            proxied: false,
            told: Vec::new(),
            wires: BTreeMap::new(),
            next_wire: 0,
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            next_event: 0,
        };
        for id in ids {
            world.nodes.insert(
                id,
                Node {
                    id,
                    process: 0,
                    machine: None,
                    asked: 0,
                    inbox: Vec::new(),
                    busy_until: Time::default(),
                    by_id: BTreeMap::new(),
                    stall: None,
                    troubled_at: Time::default(),
                },
            );
            world.start(id);
        }
        world
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    fn at(&mut self, time: Time, event: Event) {
        self.next_event += 1;
        self.pending.insert(self.next_event, event);
        self.events
            .push(Reverse((time.max(self.now), self.next_event)));
    }

    // ---- what happens to nodes and links ----------------------------------------------------------

    fn tell(&mut self, what: String) {
        self.told.push(format!("{:?} {what}", self.now));
    }

    pub fn start(&mut self, id: NodeId) {
        self.tell(format!("{id} starts"));
        let session = self.rng.random_range(1..u64::MAX);
        let all: Vec<NodeId> = (1..=self.size).collect();
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        assert!(node.machine.is_none());
        node.machine = Some(Machine::new(id, session, all, now));
        node.process += 1;
        node.inbox.clear();
        node.busy_until = now;
        node.troubled_at = now;
        node.stall = None;
        self.ask(id, now);
    }

    /// The process ends; its kernel closes what it had open.
    pub fn kill(&mut self, id: NodeId) {
        self.tell(format!("{id} is killed, proxied: {}", self.proxied));
        let node = self.nodes.get_mut(&id).unwrap();
        node.machine = None;
        node.process += 1;
        node.inbox.clear();
        node.by_id.clear();
        let open: Vec<Wire> = self
            .wires
            .iter()
            .filter(|(_, ends)| !ends.closed && (ends.dialer == id || ends.acceptor == id))
            .map(|(wire, _)| *wire)
            .collect();
        for wire in open {
            if self.proxied {
                // The proxy keeps the other end open.
                continue;
            }
            self.carry(id, wire, Carried::End);
        }
    }

    /// The node does not run for so long, whatever comes.
    pub fn delay(&mut self, id: NodeId, by: Duration) {
        self.tell(format!("{id} does not run for {by:?}"));
        let until = self.now + by;
        let node = self.nodes.get_mut(&id).unwrap();
        node.busy_until = node.busy_until.max(until);
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        self.tell(format!("from {from} to {to} is cut: {cut}"));
        self.cut.insert((from, to), cut);
        if !cut {
            for (wire, carried) in self.held.remove(&(from, to)).unwrap_or_default() {
                self.carry(from, wire, carried);
            }
        }
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.get(&(from, to)).copied().unwrap_or(false)
    }

    /// The process says goodbye, and goes on for a while.
    pub fn goodbye(&mut self, id: NodeId) {
        let now = self.now;
        let machine = self.nodes.get_mut(&id).unwrap().machine.as_mut().unwrap();
        machine.goodbye(now);
        let (session, actions) = (machine.session(), machine.actions());
        for action in actions {
            self.perform(id, session, action);
        }
    }

    // ---- links ------------------------------------------------------------------------------------

    fn carry(&mut self, from: NodeId, wire: Wire, carried: Carried) {
        let Some(ends) = self.wires.get(&wire) else {
            return;
        };
        let from_dialer = ends.dialer == from;
        let (to, process) = if from_dialer {
            (ends.acceptor, ends.acceptor_process)
        } else {
            (ends.dialer, ends.dialer_process)
        };
        if self.is_cut(from, to) {
            self.held
                .entry((from, to))
                .or_default()
                .push((wire, carried));
            return;
        }
        let Latency { least, jitter } = self.latency[&(from, to)];
        let jitter = self.rng.random_range(0..=jitter.as_micros() as u64);
        let arrival = self.now + least + Duration::from_micros(jitter);
        let ends = self.wires.get_mut(&wire).unwrap();
        let last = &mut ends.arrives[usize::from(!from_dialer)];
        *last = arrival.max(*last);
        let arrival = *last;
        self.at(arrival, Event::Arrives(to, process, wire, carried));
    }

    fn arrives(&mut self, to: NodeId, process: u64, wire: Wire, carried: Carried) {
        let Some(ends) = self.wires.get(&wire) else {
            return;
        };
        let (dialer, dialer_id, acceptor_id) = (ends.dialer, ends.dialer_id, ends.acceptor_id);
        let is_dialer = to == dialer;
        match carried {
            Carried::Syn => {
                let node = &self.nodes[&to];
                let refused = node.machine.is_none() && !self.proxied;
                let process = node.process;
                self.wires.get_mut(&wire).unwrap().acceptor_process = process;
                self.carry(to, wire, Carried::SynAnswer { refused });
                return;
            }
            _ if self.nodes[&to].process != process => {
                return;
            }
            _ => {}
        }
        let input = match carried {
            Carried::Syn => unreachable!("handled"),
            Carried::SynAnswer { refused: true } => Input::Ended(dialer_id, Failure::Refused),
            Carried::SynAnswer { refused: false } => Input::Connected(dialer_id),
            Carried::Greeting { session } => Input::Accepted { session },
            Carried::Message(message) => {
                let id = if is_dialer {
                    Some(dialer_id)
                } else {
                    acceptor_id
                };
                Input::Received(id.unwrap_or(ConnectionId(0)), message)
            }
            Carried::End => {
                self.wires.get_mut(&wire).unwrap().closed = true;
                let id = if is_dialer {
                    Some(dialer_id)
                } else {
                    acceptor_id
                };
                Input::Ended(id.unwrap_or(ConnectionId(0)), Failure::Other)
            }
        };
        self.nodes.get_mut(&to).unwrap().inbox.push((wire, input));
        self.ask(to, self.now);
    }

    // ---- nodes ------------------------------------------------------------------------------------

    fn ask(&mut self, id: NodeId, at: Time) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.asked += 1;
        let asked = node.asked;
        let at = at.max(node.busy_until);
        self.at(at, Event::Runs(id, asked));
    }

    fn runs(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(mut machine) = node.machine.take() else {
            return;
        };
        let mut inbox = std::mem::take(&mut node.inbox);
        inbox.push((0, Input::Tick));
        machine.woke(false, now);
        let mut by_id = std::mem::take(&mut node.by_id);
        for (wire, input) in inbox {
            match input {
                Input::Accepted { session } => {
                    let ends = self.wires.get_mut(&wire).unwrap();
                    let id = machine.accepted(ends.dialer, session, now).unwrap();
                    ends.acceptor_id = Some(id);
                    by_id.insert(id, wire);
                }
                Input::Connected(connection) => machine.connected(connection, now),
                Input::Ended(connection, failure) => {
                    let connection = self.known(id, wire, connection);
                    machine.ended(connection, failure, now);
                }
                Input::Received(connection, message) => {
                    let connection = self.known(id, wire, connection);
                    machine.received(connection, &message, now);
                }
                Input::Tick => machine.tick(self.nodes[&id].stall, now),
            }
        }
        self.nodes.get_mut(&id).unwrap().by_id = by_id;
        for action in machine.actions() {
            self.perform(id, machine.session(), action);
        }
        let due = machine.due();
        let node = self.nodes.get_mut(&id).unwrap();
        node.machine = Some(machine);
        self.ask(id, due);
    }

    /// A message may have arrived together with the greeting before it.
    fn known(&self, id: NodeId, wire: Wire, connection: ConnectionId) -> ConnectionId {
        let ends = &self.wires[&wire];
        if ends.acceptor == id {
            ends.acceptor_id.unwrap_or(connection)
        } else {
            connection
        }
    }

    fn perform(&mut self, id: NodeId, session: u64, action: Action) {
        let node = self.nodes.get_mut(&id).unwrap();
        match action {
            Action::Dial { peer, connection } => {
                self.next_wire += 1;
                node.by_id.insert(connection, self.next_wire);
                let ends = Ends {
                    dialer: id,
                    acceptor: peer,
                    dialer_process: node.process,
                    acceptor_process: 0,
                    dialer_id: connection,
                    acceptor_id: None,
                    arrives: [self.now; 2],
                    greeted: false,
                    closed: false,
                };
                self.wires.insert(self.next_wire, ends);
                // A SYN that is lost is sent again after a second; by then the machine has given up.
                if !self.is_cut(id, peer) && !self.is_cut(peer, id) {
                    self.carry(id, self.next_wire, Carried::Syn);
                }
            }
            Action::Send {
                connection,
                message,
            } => {
                let wire = node.by_id[&connection];
                let ends = self.wires.get_mut(&wire).unwrap();
                if ends.dialer == id && !std::mem::replace(&mut ends.greeted, true) {
                    self.carry(id, wire, Carried::Greeting { session });
                }
                self.carry(id, wire, Carried::Message(Box::new(message)));
            }
            Action::Close { connection } => {
                let wire = node.by_id.remove(&connection).unwrap();
                self.carry(id, wire, Carried::End);
            }
            Action::Report { .. } => {}
        }
    }

    /// Runs until `until`; `look` sees the world after each run of a node.
    pub fn run(&mut self, until: Time, mut look: impl FnMut(&Self, NodeId)) {
        while let Some(Reverse((time, _))) = self.events.peek().copied()
            && time <= until
        {
            let Some(Reverse((time, number))) = self.events.pop() else {
                break;
            };
            self.now = time;
            match self.pending.remove(&number).unwrap() {
                Event::Arrives(to, process, wire, carried) => {
                    self.arrives(to, process, wire, carried);
                }
                Event::Runs(id, asked) => {
                    let node = &self.nodes[&id];
                    if node.asked != asked {
                        continue;
                    }
                    if node.busy_until > self.now {
                        self.ask(id, self.now);
                        continue;
                    }
                    self.runs(id);
                    look(self, id);
                }
            }
        }
        self.now = until;
    }

    /// What a node knows that runs.
    pub fn views(&self, id: NodeId) -> Option<Views> {
        let machine = self.nodes[&id].machine.as_ref()?;
        Some(machine.views(self.start))
    }

    /// Whether `observer` holds that a majority suspects `subject`.
    pub fn suspects(&self, observer: NodeId, subject: NodeId) -> bool {
        let views = self.views(observer);
        views.is_some_and(|views| views.is_suspected(subject, self.nodes.keys().copied()))
    }

    /// Nobody suspects anybody, and each is heard by all in the start that it is in.
    pub fn is_calm(&self) -> Result<(), String> {
        for node in self.nodes.values() {
            let views = self.views(node.id).ok_or(format!("{} is down", node.id))?;
            for other in self.nodes.values() {
                let session = other.machine.as_ref().map(Machine::session);
                if views.session(other.id) != session {
                    return Err(format!("{} does not hear {}", node.id, other.id));
                }
                if let Some(subject) = self
                    .ids()
                    .into_iter()
                    .find(|subject| views.suspicion(other.id, *subject).is_some())
                {
                    return Err(format!(
                        "{} holds that {} suspects {subject}",
                        node.id, other.id
                    ));
                }
            }
        }
        Ok(())
    }
}
