//! The search for an order of the calls on one key that a register could have executed.
//!
//! The algorithm is Wing and Gong's with Lowe's memory of the configurations already tried ("Testing
//! for linearizability", 2017): take a call that no other open call must precede, apply it if the
//! register allows it, go on; when stuck, take the last one back. A configuration is the set of the
//! calls taken and the state; the same one is never entered twice.
//!
//! Four rules keep the tree narrow. None of them changes the answer:
//!
//! - A call that changes nothing and fits the state is taken at once: whatever order exists without
//!   it first exists with it first too.
//! - A state that a call still has to see and that nothing left can bring back is not left.
//! - A call that need not have happened is taken only if what it makes is still wanted by another.
//! - Deletes that need not have happened are alike, so they are taken in the order of invocation.

use std::{collections::HashSet, time::Instant};

/// What a key holds: the number of a value, or [`ABSENT`].
pub(super) type State = u32;
/// The key does not exist. Every search begins here.
pub(super) const ABSENT: State = 0;
/// A state that a key never has.
pub(super) const IMPOSSIBLE: State = State::MAX;

/// What a call does to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Finds this state and leaves it.
    See(State),
    /// Makes this state of any other.
    Put(State),
    /// Makes `new` of `old`.
    Swap {
        /// What it must find.
        old: State,
        /// What it makes.
        new: State,
    },
    /// Makes [`ABSENT`] of anything else.
    Delete,
}

impl Action {
    /// The state afterwards; `None` if the action is impossible in this state.
    fn step(self, state: State) -> Option<State> {
        match self {
            Self::See(seen) => (seen == state).then_some(state),
            Self::Put(new) => Some(new),
            Self::Swap { old, new } => (old == state).then_some(new),
            Self::Delete => (state != ABSENT).then_some(ABSENT),
        }
    }

    /// The state it must find, if only one will do.
    pub(super) fn wants(self) -> Option<State> {
        match self {
            Self::See(state) | Self::Swap { old: state, .. } => Some(state),
            Self::Put(_) | Self::Delete => None,
        }
    }

    /// The state it makes, if it changes any.
    pub(super) fn makes(self) -> Option<State> {
        match self {
            Self::See(_) => None,
            Self::Put(new) | Self::Swap { new, .. } => Some(new),
            Self::Delete => Some(ABSENT),
        }
    }
}

/// A call on the key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// What it does.
    pub action: Action,
    /// Index of the event at which it began.
    pub invoked: u64,
    /// Index of the event at which it was over; `u64::MAX` if it is optional.
    pub completed: u64,
    /// It may also never have happened.
    pub optional: bool,
    /// Position of the operation in the history's list of operations.
    pub operation: usize,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An order exists.
    Linearizable,
    /// No order exists. The longest beginning of one that was found, as operations.
    NotLinearizable(Vec<usize>),
    /// The deadline passed first.
    OutOfTime,
}

/// Nodes of the tree between two looks at the clock.
const NODES_PER_LOOK: u64 = 256;

struct Search {
    /// Those that must have happened, then the optional ones, each by invocation.
    calls: Vec<Call>,
    /// How many must have happened.
    musts: usize,
    /// Bit set of the calls taken; its last word is the state, so that it is a whole configuration.
    configuration: Vec<u64>,
    /// Calls taken, in order, each with the state before it.
    trail: Vec<(usize, State)>,
    /// How many of the calls that must have happened are not taken yet.
    remaining: usize,
    /// By state: calls not taken that want it.
    wanted: Vec<u32>,
    /// By state: of these, those that must have happened.
    wanted_by_musts: Vec<u32>,
    /// By state: calls not taken that make it.
    makers: Vec<u32>,
    /// Deletes not taken that must have happened, and so want any state but [`ABSENT`].
    deletes: u32,
}

impl Search {
    fn new(calls: &[Call]) -> Self {
        let mut calls = calls.to_vec();
        calls.sort_by_key(|call| (call.optional, call.invoked));
        let musts = calls.iter().filter(|call| !call.optional).count();
        let states = calls
            .iter()
            .flat_map(|call| [call.action.wants(), call.action.makes()])
            .flatten()
            .filter(|&state| state != IMPOSSIBLE)
            .max()
            .map_or(1, |state| state as usize + 1);
        let mut search = Self {
            musts,
            configuration: vec![0; calls.len().div_ceil(64) + 1],
            trail: Vec::with_capacity(calls.len()),
            remaining: musts,
            wanted: vec![0; states],
            wanted_by_musts: vec![0; states],
            makers: vec![0; states],
            deletes: 0,
            calls,
        };
        for at in 0..search.calls.len() {
            search.count(at, true);
        }
        search
    }

    /// Counts a call among those not taken, or no longer.
    fn count(&mut self, at: usize, open: bool) {
        let change = |count: &mut u32| if open { *count += 1 } else { *count -= 1 };
        let call = self.calls[at];
        if let Some(state) = call.action.wants().filter(|&state| state != IMPOSSIBLE) {
            change(&mut self.wanted[state as usize]);
            if !call.optional {
                change(&mut self.wanted_by_musts[state as usize]);
            }
        }
        if let Some(state) = call.action.makes() {
            change(&mut self.makers[state as usize]);
        }
        if call.action == Action::Delete && !call.optional {
            change(&mut self.deletes);
        }
    }

    fn state(&self) -> State {
        *self
            .configuration
            .last()
            .expect("the state is always the last word") as State
    }

    fn set_state(&mut self, state: State) {
        *self
            .configuration
            .last_mut()
            .expect("the state is always the last word") = u64::from(state);
    }

    fn taken(&self, at: usize) -> bool {
        self.configuration[at / 64] >> (at % 64) & 1 == 1
    }

    fn take(&mut self, at: usize, next: State) {
        self.trail.push((at, self.state()));
        self.configuration[at / 64] |= 1 << (at % 64);
        self.set_state(next);
        self.remaining -= usize::from(!self.calls[at].optional);
        self.count(at, false);
    }

    fn take_back_to(&mut self, length: usize) {
        while self.trail.len() > length {
            let (at, state) = self.trail.pop().expect("it is longer than the length");
            self.configuration[at / 64] &= !(1 << (at % 64));
            self.set_state(state);
            self.remaining += usize::from(!self.calls[at].optional);
            self.count(at, true);
        }
    }

    /// The calls that must have happened and may come next, and the completion that bounds them:
    /// what was invoked after it comes later.
    fn frontier(&self) -> (Vec<usize>, u64) {
        let mut calls = Vec::new();
        let mut bound = u64::MAX;
        let words = self.musts / 64;
        let full = (0..words)
            .take_while(|&word| self.configuration[word] == u64::MAX)
            .count();
        for at in full * 64..self.musts {
            if self.calls[at].invoked > bound {
                break;
            }
            if !self.taken(at) {
                calls.push(at);
                bound = bound.min(self.calls[at].completed);
            }
        }
        (calls, bound)
    }

    /// Takes every call that changes nothing and can come next, until none is left.
    fn take_what_fits(&mut self) {
        loop {
            let state = self.state();
            let before = self.trail.len();
            for at in self.frontier().0 {
                if self.calls[at].action == Action::See(state) {
                    self.take(at, state);
                }
            }
            if self.trail.len() == before {
                return;
            }
        }
    }

    /// Calls that change the state and can come next, the most urgent first.
    fn moves(&self) -> Vec<usize> {
        let state = self.state();
        let (mut moves, bound) = self.frontier();
        moves.retain(|&at| {
            let action = self.calls[at].action;
            action.makes().is_some() && action.step(state).is_some()
        });
        moves.sort_by_key(|&at| self.calls[at].completed);
        let mut delete_tried = false;
        for at in self.musts..self.calls.len() {
            let call = self.calls[at];
            if call.invoked > bound {
                break;
            }
            if self.taken(at) || call.action.step(state).is_none() {
                continue;
            }
            let useful = match call.action {
                Action::See(_) => false,
                Action::Delete => !std::mem::replace(&mut delete_tried, true),
                Action::Put(_) | Action::Swap { .. } => self.deletes > 0,
            };
            let made = call.action.makes();
            let wanted = made.is_some_and(|made| self.wanted[made as usize] > 0);
            if match call.action {
                Action::Delete => useful && wanted,
                _ => useful || wanted,
            } {
                moves.push(at);
            }
        }
        moves
    }

    /// Whether the state before the last call is still to be seen and cannot come back.
    fn doomed(&self) -> bool {
        let Some(&(_, left)) = self.trail.last() else {
            return false;
        };
        left != self.state()
            && self.wanted_by_musts[left as usize] > 0
            && self.makers[left as usize] == 0
    }

    fn run(&mut self, deadline: Instant, explain: bool) -> Answer {
        struct Node {
            taken: usize,
            moves: Vec<usize>,
            next: usize,
        }
        let mut seen: HashSet<Box<[u64]>> = HashSet::new();
        let mut nodes: Vec<Node> = Vec::new();
        let mut furthest: Vec<usize> = Vec::new();
        let mut furthest_remaining = usize::MAX;
        let mut looked: u64 = 0;
        let mut entered = true;
        loop {
            // A doomed node is not entered, but it may be the furthest.
            if entered || explain {
                self.take_what_fits();
            }
            if explain && self.remaining < furthest_remaining {
                furthest_remaining = self.remaining;
                furthest = self
                    .trail
                    .iter()
                    .map(|&(at, _)| self.calls[at].operation)
                    .collect();
            }
            if entered {
                if self.remaining == 0 {
                    return Answer::Linearizable;
                }
                if seen.insert(self.configuration.clone().into_boxed_slice()) {
                    nodes.push(Node {
                        taken: self.trail.len(),
                        moves: self.moves(),
                        next: 0,
                    });
                }
                looked += 1;
                if looked.is_multiple_of(NODES_PER_LOOK) && Instant::now() >= deadline {
                    return Answer::OutOfTime;
                }
            }
            let Some(node) = nodes.last_mut() else {
                return Answer::NotLinearizable(furthest);
            };
            self.take_back_to(node.taken);
            let Some(&at) = node.moves.get(node.next) else {
                nodes.pop();
                entered = false;
                continue;
            };
            node.next += 1;
            let next = self.calls[at]
                .action
                .step(self.state())
                .expect("only possible calls are moves");
            self.take(at, next);
            entered = !self.doomed();
        }
    }
}

/// Looks for an order until the deadline. With `explain`, a negative answer tells how far it got.
pub(super) fn search(calls: &[Call], deadline: Instant, explain: bool) -> Answer {
    Search::new(calls).run(deadline, explain)
}
