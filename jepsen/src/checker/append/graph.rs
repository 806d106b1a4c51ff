//! The dependency graph of the committed transactions.

use std::collections::HashMap;

use super::{
    observe::{Observed, Txn},
    orders::{List, Orders},
};

/// A set of kinds of edges.
pub(super) type Kinds = u8;
/// Appended the next element.
pub(super) const WW: Kinds = 1;
/// Read the element last.
pub(super) const WR: Kinds = 2;
/// Appended what the other did not yet see.
pub(super) const RW: Kinds = 4;
/// Invoked later by the same process.
pub(super) const PROCESS: Kinds = 8;
/// Invoked after the other had completed.
pub(super) const REALTIME: Kinds = 16;
/// Kinds that follow from time alone, and are transitive.
pub(super) const ORDER: Kinds = PROCESS | REALTIME;

/// Appends that nobody read, to which edges are drawn from the readers of the last known version.
///
/// All of them come after that version, but edges from every reader to every such append would be
/// quadratic in a history without final reads. Those that took effect first are the ones that make
/// short cycles.
const UNREAD_LINKED: usize = 4;

/// An edge: `from` comes before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arc {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) kind: Kinds,
    /// Which list, by its position in the orders; of no meaning for the kinds of [`ORDER`].
    pub(super) list: u32,
    /// The element that `to` appended (ww, rw) or `from` appended (wr).
    pub(super) element: i64,
}

/// The graph. Transactions are numbered as in [`Observed::txns`].
///
/// - An arc never leads from a transaction to itself.
/// - Arcs of [`REALTIME`] are a reduction: `a` was over before `b` began exactly if a path of them
///   leads from `a` to `b`. A path of them may therefore count as one step.
pub(super) struct Graph {
    arcs: Vec<Arc>,
    /// Arcs of node `n` are `arcs[starts[n]..starts[n + 1]]`.
    starts: Vec<usize>,
    /// Invocation, completion (`u64::MAX` if there is none) and process of each node.
    spans: Vec<(u64, u64, u64)>,
}

impl Graph {
    pub(super) fn new(observed: &Observed<'_>, orders: &Orders<'_>) -> Self {
        let mut arcs = Vec::new();
        let mut next = Vec::with_capacity(orders.lists.len());
        for (at, list) in orders.lists.iter().enumerate() {
            next.push(writes(observed, orders, list, at as u32, &mut arcs));
        }
        reads(observed, orders, &next, &mut arcs);
        process(&observed.txns, &mut arcs);
        realtime(&observed.txns, &mut arcs);

        let nodes = observed.txns.len();
        arcs.sort_by_key(|arc| (arc.from, arc.kind, arc.to));
        let mut starts = vec![0; nodes + 1];
        for arc in &arcs {
            starts[arc.from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let spans = observed
            .txns
            .iter()
            .map(|txn| {
                let operation = &txn.operation;
                (operation.invoked, operation.completed, operation.process)
            })
            .collect();
        Self {
            arcs,
            starts,
            spans,
        }
    }

    /// Edges in all.
    pub(super) fn len(&self) -> usize {
        self.arcs.len()
    }

    pub(super) fn nodes(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn arcs(&self) -> &[Arc] {
        &self.arcs
    }

    /// Range of the arcs that leave a node.
    pub(super) fn leaving(&self, node: u32) -> std::ops::Range<usize> {
        self.starts[node as usize]..self.starts[node as usize + 1]
    }

    /// The arc of this kind from one node to another that follows from time alone, if there is one.
    pub(super) fn order_arc(&self, from: u32, to: u32, kind: Kinds) -> Option<Arc> {
        let (_, completed, process) = self.spans[from as usize];
        let (invoked, _, other) = self.spans[to as usize];
        let holds = completed < invoked && (kind == REALTIME || process == other);
        holds.then_some(Arc {
            from,
            to,
            kind,
            list: 0,
            element: 0,
        })
    }
}

/// What follows each version of a list: the next append that took effect.
struct Next {
    /// For each number of elements, the transaction that appended the next one, and what.
    of: Vec<Option<(usize, i64)>>,
    /// Appends of which it is only known that they come after all elements that were read.
    unread: Vec<(usize, i64)>,
}

/// Edges between the appends to a list.
fn writes(
    observed: &Observed<'_>,
    orders: &Orders<'_>,
    list: &List<'_>,
    at: u32,
    arcs: &mut Vec<Arc>,
) -> Next {
    if !list.consistent {
        return Next {
            of: Vec::new(),
            unread: Vec::new(),
        };
    }
    let writer = |element: i64| {
        let append = observed.appends.get(&(list.key, element))?;
        observed.txns[append.txn].committed.then_some(append.txn)
    };
    let mut ww = |from: usize, to: usize, element: i64| {
        if from != to {
            arcs.push(Arc {
                from: from as u32,
                to: to as u32,
                kind: WW,
                list: at,
                element,
            });
        }
    };
    let mut of = vec![None; list.elements.len() + 1];
    let mut before = None;
    for (position, element) in list.elements.iter().enumerate() {
        let Some(txn) = writer(*element) else {
            continue;
        };
        of[position] = Some((txn, *element));
        if let Some(before) = before {
            ww(before, txn, *element);
        }
        before = Some(txn);
    }
    for position in (0..list.elements.len()).rev() {
        of[position] = of[position].or(of[position + 1]);
    }

    let read: std::collections::HashSet<i64> = list.elements.iter().copied().collect();
    let mut unread: Vec<(usize, i64)> = list
        .appends
        .iter()
        .copied()
        .filter(|(_, value)| !read.contains(value) && !orders.lost.contains(&(list.key, *value)))
        .collect();
    unread.sort_by_key(|(txn, _)| (observed.txns[*txn].effective, *txn));
    unread.dedup_by_key(|(txn, _)| *txn);
    for (txn, value) in &unread {
        if let Some(before) = before {
            ww(before, *txn, *value);
        }
    }
    unread.truncate(UNREAD_LINKED);
    Next { of, unread }
}

/// Edges from and to the reads.
fn reads(observed: &Observed<'_>, orders: &Orders<'_>, next: &[Next], arcs: &mut Vec<Arc>) {
    for view in &observed.views {
        let Some(at) = orders.position(view.key) else {
            continue;
        };
        if !orders.lists[at].consistent {
            continue;
        }
        let mut add = |from: usize, to: usize, kind: Kinds, element: i64| {
            if from != to {
                arcs.push(Arc {
                    from: from as u32,
                    to: to as u32,
                    kind,
                    list: at as u32,
                    element,
                });
            }
        };
        if let Some(element) = view.elements.last()
            && let Some(append) = observed.appends.get(&(view.key, *element))
            && observed.txns[append.txn].committed
        {
            add(append.txn, view.txn, WR, *element);
        }
        match next[at].of[view.elements.len()] {
            Some((txn, element)) => add(view.txn, txn, RW, element),
            None => {
                for (txn, element) in &next[at].unread {
                    add(view.txn, *txn, RW, *element);
                }
            }
        }
    }
}

fn order_arc(from: usize, to: usize, kind: Kinds) -> Arc {
    Arc {
        from: from as u32,
        to: to as u32,
        kind,
        list: 0,
        element: 0,
    }
}

/// Edges from each transaction to the next one of its process.
fn process(txns: &[Txn<'_>], arcs: &mut Vec<Arc>) {
    let mut last: HashMap<u64, usize> = HashMap::new();
    for (at, txn) in txns.iter().enumerate().filter(|(_, txn)| txn.committed) {
        if let Some(before) = last.insert(txn.operation.process, at) {
            arcs.push(order_arc(before, at, PROCESS));
        }
    }
}

/// Edges from transactions that were over to those that began afterwards.
///
/// The frontier is the completed transactions that no other completed transaction began after. A
/// transaction that begins gets an edge from each of them; those before the frontier are reached
/// through it. It is never larger than the number of clients.
fn realtime(txns: &[Txn<'_>], arcs: &mut Vec<Arc>) {
    let mut events: Vec<(u64, usize)> = Vec::with_capacity(2 * txns.len());
    for (at, txn) in txns.iter().enumerate().filter(|(_, txn)| txn.committed) {
        events.push((txn.operation.invoked, at));
        if txn.is_ok() {
            events.push((txn.operation.completed, at));
        }
    }
    events.sort_unstable();
    let mut frontier: Vec<usize> = Vec::new();
    for (event, at) in events {
        let operation = &txns[at].operation;
        if event == operation.invoked {
            arcs.extend(
                frontier
                    .iter()
                    .map(|before| order_arc(*before, at, REALTIME)),
            );
        } else {
            frontier.retain(|before| txns[*before].operation.completed > operation.invoked);
            frontier.push(at);
        }
    }
}
