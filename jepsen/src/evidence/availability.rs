//! What the faults of a run cost its clients: time without writes, and rates and latencies.
//!
//! Times are nanoseconds; points in time count from the begin of the run.
//!
//! ```text
//!         Begin     Broken                    Heal   Healed      end of the window
//!  ─ w w ──┃── w ────┃─────────────────── w ───┃──────┃── w ─ w ──┃─▶
//!               ╰────── longest gap: RTO ─╯            ╰─ grace ───╯
//! ```
//!
//! - Only time in which a quorum existed counts: no store writes without one. Time without a quorum
//!   ends a gap and stands apart. A quorum exists while more than half of the nodes are not taken by
//!   a fault, from its begin until it is healed; starting up counts to the recovery. A node that stays
//!   out for good after that counts as one that is there.
//! - A gap belongs to one fault: of those in whose windows it lies, the one that began nearest to its
//!   begin.
//! - The longest of all gaps, whole and whosever, is the RTO of the run.

mod outages;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    errors::{ErrorReport, errors},
    span::{Span, is_write, name},
};
use crate::{
    history::{History, Kind, NodeId, Phase},
    nemesis::radius::taken_by_name,
};

/// How long after healing a gap is still put down to the fault, unless another fault begins or the
/// load ends before.
pub const GRACE_NS: u64 = 5_000_000_000;

/// What one fault did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// Its number in the run.
    pub fault: u64,
    /// Name of the nemesis.
    pub nemesis: String,
    /// Nodes that were hit.
    pub nodes: Vec<NodeId>,
    /// When it began to break something.
    pub begin_ns: u64,
    /// When it was broken; `None` if it was skipped or failed.
    pub broken_ns: Option<u64>,
    /// When it began to heal.
    pub heal_ns: Option<u64>,
    /// When it was whole again.
    pub healed_ns: Option<u64>,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// What the harness could not do.
    pub error: Option<String>,
    /// What was seen of its effect from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Why its effect could not be seen from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<String>,
    /// How it was seen to have no effect: it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disproved: Option<String>,
    /// What happened, in order, in the nemesis's words.
    pub steps: Vec<String>,
    /// Until when its effect was measured.
    pub window_end_ns: u64,
    /// The longest time within the window in which a quorum existed and no write succeeded, of those
    /// that are this fault's. `None` if the fault was not made, or no write was under way in the
    /// window.
    pub rto_ns: Option<u64>,
    /// No write ended the longest gap within the window: it lasted at least so long.
    pub rto_open: bool,
    /// From `broken_ns` until the first success of a write that was invoked after it.
    pub first_write_ns: Option<u64>,
}

impl FaultReport {
    /// Whether it was really made.
    pub fn applied(&self) -> bool {
        self.broken_ns.is_some() && self.disproved.is_none()
    }
}

/// Counts, rate and latency of one kind of operation. Latencies are of those that were *ok*.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationReport {
    /// Invoked.
    pub invoked: u64,
    /// Took effect.
    pub ok: u64,
    /// Did not.
    pub fail: u64,
    /// Of those, how many a correct store refuses: a comparison that does not hold, a conflict.
    #[serde(default)]
    pub refused: u64,
    /// Outcome not known, or never seen.
    pub info: u64,
    /// *ok* a second, over the whole load.
    pub ok_per_second: f64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 99 % were no slower.
    pub p99_ns: Option<u64>,
    /// Slowest.
    pub max_ns: Option<u64>,
}

/// What clients saw of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Availability {
    /// From the first invocation to the last event of the load; the final reads are left out.
    pub load_ns: u64,
    /// By name of the operation; the final reads are left out.
    pub operations: BTreeMap<String, OperationReport>,
    /// Errors of the load by their kind: requests that failed, and those of unknown outcome.
    #[serde(default)]
    pub errors: BTreeMap<String, ErrorReport>,
    /// By number.
    pub faults: Vec<FaultReport>,
    /// Median of the times without writes of the faults that were made.
    pub rto_p50_ns: Option<u64>,
    /// The longest time of the load in which a quorum existed and no write succeeded; `None` if
    /// nothing was broken or no write was under way.
    pub rto_max_ns: Option<u64>,
    /// Time of the load in which so many nodes were taken by faults that there was no quorum.
    #[serde(default)]
    pub without_quorum_ns: u64,
}

impl Availability {
    /// Measures the history of a cluster of so many nodes.
    pub fn of(history: &History, nodes: usize) -> Self {
        let spans = super::span::spans(history);
        let load: Vec<&Span<'_>> = spans.iter().filter(|span| !span.invoke.last).collect();
        let start = load.first().map_or(0, |span| span.invoked_at);
        let end = load
            .iter()
            .map(|span| span.completed_at.unwrap_or(span.invoked_at))
            .max()
            .unwrap_or(0);
        let mut faults = faults(history, &load, end);
        let without_quorum = without_quorum(&faults, nodes as u64, (start, end));
        let rto_max_ns = outages::attribute(&mut faults, &load, &without_quorum, (start, end));
        let mut rtos: Vec<u64> = faults.iter().filter_map(|fault| fault.rto_ns).collect();
        rtos.sort_unstable();
        Self {
            load_ns: end - start,
            operations: operations(&load, end - start),
            errors: errors(&load),
            rto_p50_ns: quantile(&rtos, 0.5),
            rto_max_ns,
            without_quorum_ns: without_quorum.iter().map(|(from, to)| to - from).sum(),
            faults,
        }
    }
}

/// When there was no quorum, in order, within some time.
fn without_quorum(faults: &[FaultReport], nodes: u64, (start, end): (u64, u64)) -> Vec<(u64, u64)> {
    let mut changes: Vec<(u64, NodeId, bool)> = Vec::new();
    for report in faults.iter().filter(|report| report.applied()) {
        let healed = report.healed_ns.unwrap_or(end);
        for node in taken_by_name(&report.nemesis, &report.nodes, nodes) {
            changes.push((report.begin_ns.clamp(start, end), node, true));
            changes.push((healed.clamp(start, end), node, false));
        }
    }
    // A node that one fault gives back and another takes at the same time stays taken.
    changes.sort_unstable_by_key(|&(at, node, taken)| (at, !taken, node));
    let mut taken: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut since = None;
    let mut times: Vec<(u64, u64)> = Vec::new();
    for (at, node, takes) in changes {
        let claims = taken.entry(node).or_default();
        *claims = if takes { *claims + 1 } else { *claims - 1 };
        if *claims == 0 {
            taken.remove(&node);
        }
        let quorum = nodes - (taken.len() as u64).min(nodes) > nodes / 2;
        match since {
            None if !quorum => since = Some(at),
            Some(from) if quorum => {
                times.extend((from < at).then_some((from, at)));
                since = None;
            }
            _ => {}
        }
    }
    times
}

fn operations(load: &[&Span<'_>], load_ns: u64) -> BTreeMap<String, OperationReport> {
    let mut reports: BTreeMap<String, (OperationReport, Vec<u64>)> = BTreeMap::new();
    for span in load {
        let (report, latencies) = reports.entry(name(span.op()).to_owned()).or_default();
        report.invoked += 1;
        match span.kind() {
            Kind::Ok => {
                report.ok += 1;
                latencies.extend(span.latency());
            }
            Kind::Fail => {
                report.fail += 1;
                report.refused += u64::from(span.is_refused());
            }
            Kind::Info | Kind::Invoke => report.info += 1,
        }
    }
    reports
        .into_iter()
        .map(|(name, (mut report, mut latencies))| {
            latencies.sort_unstable();
            report.p50_ns = quantile(&latencies, 0.5);
            report.p99_ns = quantile(&latencies, 0.99);
            report.max_ns = latencies.last().copied();
            if load_ns > 0 {
                // Three decimals: more would say nothing, and would not survive JSON.
                let rate = report.ok as f64 * 1e9 / load_ns as f64;
                report.ok_per_second = (rate * 1e3).round() / 1e3;
            }
            (name, report)
        })
        .collect()
}

fn faults(history: &History, load: &[&Span<'_>], load_end: u64) -> Vec<FaultReport> {
    let mut reports: BTreeMap<u64, FaultReport> = BTreeMap::new();
    for (event, fault) in history.faults() {
        let report = reports.entry(fault.fault).or_insert_with(|| FaultReport {
            fault: fault.fault,
            nemesis: fault.nemesis.clone(),
            nodes: Vec::new(),
            begin_ns: event.time,
            broken_ns: None,
            heal_ns: None,
            healed_ns: None,
            skipped: None,
            error: None,
            seen: None,
            unseen: None,
            disproved: None,
            steps: Vec::new(),
            window_end_ns: event.time,
            rto_ns: None,
            rto_open: false,
            first_write_ns: None,
        });
        for node in &fault.nodes {
            if !report.nodes.contains(node) {
                report.nodes.push(*node);
            }
        }
        if !fault.detail.is_empty() && report.steps.last() != Some(&fault.detail) {
            report.steps.push(fault.detail.clone());
        }
        match fault.phase {
            Phase::Begin => {}
            Phase::Broken => report.broken_ns = report.broken_ns.or(Some(event.time)),
            Phase::Seen => report.seen = Some(fault.detail.clone()),
            Phase::Unseen => report.unseen = Some(fault.detail.clone()),
            Phase::Disproved => report.disproved = Some(fault.detail.clone()),
            Phase::Skipped => report.skipped = Some(fault.detail.clone()),
            Phase::Heal => report.heal_ns = report.heal_ns.or(Some(event.time)),
            Phase::Healed => report.healed_ns = Some(event.time),
            Phase::Error => report.error = Some(fault.detail.clone()),
        }
    }
    let mut reports: Vec<FaultReport> = reports.into_values().collect();
    // A fault that was skipped or had no effect changes nothing, so it ends nobody's window.
    let begins: Vec<u64> = reports
        .iter()
        .filter(|report| report.skipped.is_none() && report.disproved.is_none())
        .map(|report| report.begin_ns)
        .collect();
    let writes: Vec<&Span<'_>> = load
        .iter()
        .filter(|span| is_write(span.op()))
        .copied()
        .collect();
    for report in &mut reports {
        report.measure(&begins, &writes, load_end);
    }
    reports
}

impl FaultReport {
    fn measure(&mut self, begins: &[u64], writes: &[&Span<'_>], load_end: u64) {
        let begin = self.begin_ns;
        let mut end = load_end;
        if let Some(healed) = self.healed_ns {
            end = end.min(healed + GRACE_NS);
            // Only one that begins after this one healed: faults may overlap.
            let next = begins.iter().filter(|&&next| next > healed).min();
            end = end.min(next.copied().unwrap_or(u64::MAX));
        }
        self.window_end_ns = end.max(begin);
        let Some(broken) = self.broken_ns.filter(|_| self.applied()) else {
            return;
        };
        self.first_write_ns = writes
            .iter()
            .filter(|span| span.kind() == Kind::Ok && span.invoked_at > broken)
            .filter_map(|span| span.completed_at)
            .min()
            .map(|first| first - broken);
        let under_way = writes
            .iter()
            .any(|span| span.invoked_at < end && span.completed_at.unwrap_or(u64::MAX) > begin);
        // What is its own of the outages is found out when all windows are known.
        self.rto_ns = (begin < end && under_way).then_some(0);
    }
}

/// The value that a share of a sorted list does not exceed (nearest rank).
pub(super) fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests;
