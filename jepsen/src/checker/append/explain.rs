//! Cycles in words.

use super::{
    graph::{Arc, ORDER, PROCESS, REALTIME, RW, WR, WW},
    observe::{Observed, show},
    orders::Orders,
};
use crate::checker::{Anomaly, Edge};

/// Adya's class of a cycle, with the kind of time that it needs.
pub(super) fn class(cycle: &[Arc]) -> String {
    let of = |kind| cycle.iter().filter(|arc| arc.kind == kind).count();
    let class = match (of(RW), of(WR)) {
        (0, 0) => "G0",
        (0, _) => "G1c",
        (1, _) => "G-single",
        _ => "G2",
    };
    let needs = if of(REALTIME) > 0 {
        "-realtime"
    } else if of(PROCESS) > 0 {
        "-process"
    } else {
        ""
    };
    format!("{class}{needs}")
}

/// The proof that a cycle is.
pub(super) fn anomaly(cycle: &[Arc], observed: &Observed<'_>, orders: &Orders<'_>) -> Anomaly {
    let first = (0..cycle.len())
        .min_by_key(|at| cycle[*at].from)
        .unwrap_or_default();
    let mut cycle = cycle.to_vec();
    cycle.rotate_left(first);

    let event = |node: u32| observed.txns[node as usize].operation.invoked;
    let name = |node: u32| {
        let at = cycle
            .iter()
            .position(|arc| arc.from == node)
            .unwrap_or_default();
        format!("T{}", at + 1)
    };
    let who: Vec<String> = cycle
        .iter()
        .map(|arc| {
            let process = observed.txns[arc.from as usize].operation.process;
            let (name, event) = (name(arc.from), event(arc.from));
            format!("{name} is the transaction of event {event} (process {process})")
        })
        .collect();
    let mut explanation = format!("{}.", who.join(", "));
    for arc in &cycle {
        explanation.push(' ');
        explanation.push_str(&sentence(
            arc,
            &name(arc.from),
            &name(arc.to),
            observed,
            orders,
        ));
    }
    explanation.push_str(" So each of them would have to come before itself.");

    let mut events: Vec<u64> = cycle.iter().map(|arc| event(arc.from)).collect();
    events.sort_unstable();
    Anomaly {
        name: class(&cycle),
        explanation,
        events,
        edges: cycle
            .iter()
            .map(|arc| Edge {
                from: event(arc.from),
                to: event(arc.to),
                label: label(arc).to_owned(),
            })
            .collect(),
    }
}

fn label(arc: &Arc) -> &'static str {
    match arc.kind {
        WW => "ww",
        WR => "wr",
        RW => "rw",
        PROCESS => "process",
        _ => "realtime",
    }
}

fn sentence(
    arc: &Arc,
    from: &str,
    to: &str,
    observed: &Observed<'_>,
    orders: &Orders<'_>,
) -> String {
    let (a, b) = (
        &observed.txns[arc.from as usize],
        &observed.txns[arc.to as usize],
    );
    if arc.kind & ORDER != 0 {
        let (over, began) = (a.operation.completed, b.operation.invoked);
        return if arc.kind == PROCESS {
            format!(
                "Process {} completed {from} (event {over}) before it invoked {to} (event {began}).",
                a.operation.process
            )
        } else {
            format!("{from} completed (event {over}) before {to} was invoked (event {began}).")
        };
    }
    let list = &orders.lists[arc.list as usize];
    let (key, element) = (list.key, arc.element);
    let seen_by = |txn: u32| {
        observed
            .views
            .iter()
            .find(|view| view.txn == txn as usize && view.key == key)
            .map_or_else(|| "[]".to_owned(), |view| show(view.elements))
    };
    match arc.kind {
        WW => {
            let before = list
                .elements
                .iter()
                .take_while(|other| **other != element)
                .filter(|other| a.appends().any(|append| append == (key, **other)))
                .last();
            let before = before.map_or_else(String::new, |before| format!(" its {before}"));
            format!("{to} appended {element} to list {key} after {from} had appended{before}.")
        }
        WR => format!(
            "{to} read list {key} as {}, ending in {element}, which {from} appended.",
            seen_by(arc.to)
        ),
        _ => format!(
            "{from} read list {key} as {}, before {to} appended {element} to it.",
            seen_by(arc.from)
        ),
    }
}
