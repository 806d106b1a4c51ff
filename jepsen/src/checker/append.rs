//! Transactions on lists: is there an order of them that explains what each of them saw?
//!
//! Elements are unique within their list, so a list that was read tells the order of the appends to
//! it, and every read tells which append it came after and which it came before (Kingsbury and
//! Alvaro, *Elle*, VLDB 2020). That makes a graph whose nodes are transactions:
//!
//! ```text
//!   ww   T1 appended an element, T2 appended the next one
//!   wr   T1 appended the last element that T2 read
//!   rw   T1 read the list before T2 appended the next element
//!   process, realtime   T1 was over before T2 began
//! ```
//!
//! In a serial execution every edge goes forward; a cycle is a proof that there was none. Cycles are
//! named by Adya's classes: `G0` (ww only), `G1c` (ww and wr), `G-single` (one rw), `G2` (more), with
//! `-process` or `-realtime` when the cycle needs such an edge. Small sets of edges are searched
//! before large ones, so that a cycle gets the strongest name.
//!
//! Some contradictions need no graph, and are told for themselves:
//!
//! | name | what was seen |
//! | --- | --- |
//! | `internal` | a transaction disagrees with its own earlier steps |
//! | `duplicate-elements` | an element twice in one list |
//! | `incompatible-order` | two reads of one list, neither of which begins with the other |
//! | `G1a` | an element of a transaction that definitely failed |
//! | `G1b` | a list as it was in the middle of a transaction |
//! | `phantom-element` | an element that nobody appended |
//! | `lost-update` | two transactions that changed the same version of a list |
//! | `lost-append` | an acknowledged append that the final reads do not show |
//!
//! Transactions of unknown outcome count as committed when one of their elements was read, and are
//! left out otherwise. All but the search for a cycle in a component that has one is linear in the
//! size of the history, sorting aside.

mod cycle;
mod explain;
mod graph;
mod observe;
mod orders;

use crate::{
    checker::{ANOMALIES_MAX, Finding},
    history::{History, Op},
};

const NAME: &str = "append";

/// Judges all transactions of a history.
///
/// *Unknown* if no transaction was acknowledged, or if the history cannot come from this workload:
/// an element appended twice, or an answer that does not fit its transaction.
pub fn check(history: &History) -> Finding {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, format!("not a history: {malformed}")),
    };
    let attempts = operations
        .iter()
        .filter(|operation| matches!(operation.op, Op::Txn { .. }))
        .count() as u64;
    let observed = match observe::Observed::new(&operations) {
        Ok(observed) => observed,
        Err(unfit) => return Finding::unknown(NAME, attempts, unfit),
    };
    let acknowledged = observed.txns.iter().filter(|txn| txn.is_ok()).count();
    if acknowledged == 0 {
        return Finding::unknown(NAME, attempts, "nothing to judge: no transaction succeeded");
    }

    let mut anomalies = observed.anomalies();
    let orders = orders::Orders::new(&observed);
    anomalies.extend_from_slice(orders.anomalies());
    let graph = graph::Graph::new(&observed, &orders);
    let cycles = cycle::search(&graph, ANOMALIES_MAX);
    anomalies.extend(
        cycles
            .iter()
            .map(|cycle| explain::anomaly(cycle, &observed, &orders)),
    );

    let recovered = observed
        .txns
        .iter()
        .filter(|txn| txn.committed && !txn.is_ok())
        .count();
    let summary = format!(
        "{attempts} transactions on {} lists: {acknowledged} acknowledged, {recovered} of unknown \
         outcome seen; {} edges between them{}",
        orders.lists.len(),
        graph.len(),
        if cycles.len() == ANOMALIES_MAX {
            "; the search for cycles ended with the tenth"
        } else {
            ""
        }
    );
    Finding::new(NAME, attempts, summary, anomalies)
}
