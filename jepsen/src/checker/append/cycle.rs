//! The shortest cycles of the graph, strongest class first.
//!
//! ```text
//!   for each set of edges, small to large
//!     strongly connected components (Tarjan)          linear
//!       shortest cycle in each (breadth first)        bounded by a budget
//!         its transactions are explained: take them out, look again
//! ```
//!
//! A run of `process` or `realtime` edges counts as one step and is shown as one edge, because both
//! relations are transitive. So the search is a breadth-first search with steps of length 0 and 1.

use std::collections::VecDeque;

use super::graph::{Arc, Graph, Kinds, ORDER, PROCESS, REALTIME, RW, WR, WW};

/// Sets of edges in the order in which they are searched.
const LEVELS: [Kinds; 9] = [
    WW,
    WW | WR,
    WW | WR | RW,
    WW | PROCESS,
    WW | WR | PROCESS,
    WW | WR | RW | PROCESS,
    WW | REALTIME,
    WW | WR | REALTIME,
    WW | WR | RW | REALTIME,
];

/// Edges that may be followed in search of a shorter cycle than the one that a component has for
/// certain; a few seconds at most in a history that is broken all over.
const BUDGET: u64 = 20_000_000;

/// Finds cycles that share no transaction, at most `limit` of them.
///
/// Each is a list of arcs, the end of one being the start of the next, without two order arcs of
/// the same kind in a row.
pub(super) fn search(graph: &Graph, limit: usize) -> Vec<Vec<Arc>> {
    let mut search = Search::new(graph);
    let mut cycles = Vec::new();
    for kinds in LEVELS {
        while cycles.len() < limit {
            let found = search.round(kinds, limit - cycles.len());
            if found.is_empty() {
                break;
            }
            cycles.extend(found);
        }
    }
    cycles
}

const NONE: u32 = u32::MAX;

/// A state of the search: a node, and whether it was entered by an order arc.
type State = usize;

struct Search<'a> {
    graph: &'a Graph,
    /// Component of each node within the present round; [`NONE`] for nodes that lie on no cycle
    /// and those already explained.
    component: Vec<u32>,
    explained: Vec<bool>,
    /// For each state: the search that reached it, its distance, and the arc and state before it.
    reached: Vec<(u32, u32, u32, u32)>,
    searches: u32,
    budget: u64,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self {
            graph,
            component: vec![NONE; graph.nodes()],
            explained: vec![false; graph.nodes()],
            reached: vec![(0, 0, NONE, NONE); 2 * graph.nodes()],
            searches: 0,
            budget: BUDGET,
        }
    }

    /// One cycle in each component, as long as they are wanted.
    fn round(&mut self, kinds: Kinds, wanted: usize) -> Vec<Vec<Arc>> {
        let components = self.components(kinds);
        self.component.fill(NONE);
        for (number, nodes) in components.iter().enumerate() {
            for node in nodes {
                self.component[*node as usize] = number as u32;
            }
        }
        let mut cycles = Vec::new();
        for nodes in components.iter().take(wanted) {
            let cycle = self.cycle_in(nodes, kinds);
            for arc in &cycle {
                self.explained[arc.from as usize] = true;
            }
            cycles.push(cycle);
        }
        cycles
    }

    /// The shortest cycle in a component that can be found within the budget.
    fn cycle_in(&mut self, nodes: &[u32], kinds: Kinds) -> Vec<Arc> {
        if let Some(cycle) = self.against_time(nodes, kinds) {
            return cycle;
        }
        if kinds & RW != 0
            && let Some(cycle) = self.single(nodes, kinds)
        {
            return cycle;
        }
        let mut best: Option<Vec<Arc>> = None;
        for node in nodes {
            let bound = best.as_ref().map_or(u32::MAX, |cycle| cycle.len() as u32);
            if bound <= 2 || (best.is_some() && self.budget == 0) {
                break;
            }
            if let Some(path) = self.path(*node, *node, kinds, bound) {
                best = Some(self.merge(path));
            }
        }
        best.expect("every node of a strongly connected component lies on a cycle")
    }

    /// A cycle of two: a dependency whose end was over before its start began.
    fn against_time(&self, nodes: &[u32], kinds: Kinds) -> Option<Vec<Arc>> {
        let order = kinds & ORDER;
        if order == 0 {
            return None;
        }
        nodes
            .iter()
            .flat_map(|node| self.graph.leaving(*node))
            .map(|at| self.graph.arcs()[at])
            .filter(|arc| arc.kind & kinds & !ORDER != 0 && self.is_inside(arc))
            .find_map(|arc| Some(vec![arc, self.graph.order_arc(arc.to, arc.from, order)?]))
    }

    /// A cycle with exactly one rw arc.
    fn single(&mut self, nodes: &[u32], kinds: Kinds) -> Option<Vec<Arc>> {
        let mut candidates: Vec<Arc> = nodes
            .iter()
            .flat_map(|node| self.graph.leaving(*node))
            .map(|at| self.graph.arcs()[at])
            .filter(|arc| arc.kind == RW && self.is_inside(arc))
            .collect();
        // Transactions that began close to each other are more likely to lie on a short cycle.
        candidates.sort_by_key(|arc| arc.from.abs_diff(arc.to));
        let mut best: Option<Vec<Arc>> = None;
        for arc in candidates {
            let bound = best.as_ref().map_or(u32::MAX, |cycle| cycle.len() as u32);
            if bound <= 2 || self.budget == 0 {
                break;
            }
            if let Some(mut path) = self.path(arc.to, arc.from, kinds & !RW, bound - 1) {
                path.push(arc);
                best = Some(self.merge(path));
            }
        }
        best
    }

    fn is_inside(&self, arc: &Arc) -> bool {
        let component = self.component[arc.from as usize];
        component != NONE
            && component == self.component[arc.to as usize]
            && !self.explained[arc.from as usize]
            && !self.explained[arc.to as usize]
    }

    /// The shortest path, of fewer than `bound` steps, within a component. From a node to itself,
    /// the shortest cycle through it.
    fn path(&mut self, start: u32, goal: u32, kinds: Kinds, bound: u32) -> Option<Vec<Arc>> {
        self.searches += 1;
        let mut queue: VecDeque<(State, u32)> = VecDeque::new();
        let origin = State::MAX;
        queue.push_back((origin, 0));
        while let Some((state, distance)) = queue.pop_front() {
            let (node, by_order) = if state == origin {
                (start, false)
            } else {
                ((state / 2) as u32, state % 2 == 1)
            };
            if state != origin {
                if node == goal {
                    return Some(self.trace(state));
                }
                if self.reached[state].1 < distance {
                    continue;
                }
            }
            for at in self.graph.leaving(node) {
                self.budget = self.budget.saturating_sub(1);
                let arc = self.graph.arcs()[at];
                if arc.kind & kinds == 0 || !self.is_inside(&arc) {
                    continue;
                }
                let is_order = arc.kind & ORDER != 0;
                let step = u32::from(!(is_order && by_order));
                let far = distance + step;
                if far >= bound {
                    continue;
                }
                let to = 2 * arc.to as usize + usize::from(is_order);
                let (search, known, ..) = self.reached[to];
                if search == self.searches && known <= far {
                    continue;
                }
                let before = if state == origin { NONE } else { state as u32 };
                self.reached[to] = (self.searches, far, at as u32, before);
                if step == 0 {
                    queue.push_front((to, far));
                } else {
                    queue.push_back((to, far));
                }
            }
        }
        None
    }

    fn trace(&self, state: State) -> Vec<Arc> {
        let mut path = Vec::new();
        let mut at = state as u32;
        while at != NONE {
            let (_, _, arc, before) = self.reached[at as usize];
            path.push(self.graph.arcs()[arc as usize]);
            at = before;
        }
        path.reverse();
        path
    }

    /// Makes one arc of each run of order arcs of the same kind, also across the ends of the list.
    fn merge(&self, mut cycle: Vec<Arc>) -> Vec<Arc> {
        let is_order = |arc: &Arc| arc.kind & ORDER != 0;
        if let Some(first) = cycle.iter().position(|arc| !is_order(arc)) {
            cycle.rotate_left(first);
        }
        let mut merged: Vec<Arc> = Vec::with_capacity(cycle.len());
        for arc in cycle {
            match merged.last_mut() {
                Some(last) if is_order(last) && last.kind == arc.kind => last.to = arc.to,
                _ => merged.push(arc),
            }
        }
        merged
    }

    /// Strongly connected components of more than one node that is not explained, by Tarjan's
    /// algorithm with a stack of its own: paths are as long as the history.
    fn components(&self, kinds: Kinds) -> Vec<Vec<u32>> {
        let nodes = self.graph.nodes();
        let mut components = Vec::new();
        // Order of discovery, counted from 1; 0 if not yet discovered.
        let mut discovered = vec![0u32; nodes];
        // Earliest discovered node that is known to be reachable and on the stack.
        let mut low = vec![0u32; nodes];
        let mut on_stack = vec![false; nodes];
        let mut stack: Vec<u32> = Vec::new();
        let mut calls: Vec<(u32, usize)> = Vec::new();
        let mut count = 0;
        for root in 0..nodes as u32 {
            if discovered[root as usize] != 0 || self.explained[root as usize] {
                continue;
            }
            calls.push((root, self.graph.leaving(root).start));
            while let Some((node, next)) = calls.last_mut() {
                let (at, arcs) = (*node as usize, self.graph.leaving(*node));
                if discovered[at] == 0 {
                    count += 1;
                    discovered[at] = count;
                    low[at] = count;
                    stack.push(*node);
                    on_stack[at] = true;
                }
                if *next < arcs.end {
                    let arc = self.graph.arcs()[*next];
                    *next += 1;
                    let to = arc.to as usize;
                    if arc.kind & kinds == 0 || self.explained[to] {
                        continue;
                    }
                    if discovered[to] == 0 {
                        calls.push((arc.to, self.graph.leaving(arc.to).start));
                    } else if on_stack[to] {
                        low[at] = low[at].min(discovered[to]);
                    }
                    continue;
                }
                calls.pop();
                if let Some((parent, _)) = calls.last() {
                    let parent = *parent as usize;
                    low[parent] = low[parent].min(low[at]);
                }
                if low[at] == discovered[at] {
                    let from = stack
                        .iter()
                        .rposition(|other| *other as usize == at)
                        .expect("a node stays on the stack until its component is complete");
                    let mut component = stack.split_off(from);
                    for node in &component {
                        on_stack[*node as usize] = false;
                    }
                    if component.len() > 1 {
                        component.sort_unstable();
                        components.push(component);
                    }
                }
            }
        }
        components
    }
}
