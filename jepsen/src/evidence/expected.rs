//! What a run expects besides a correct store, and whether it was so: that nobody who can lead is deposed,
//! that whoever cannot is replaced soon, that no request fails.
//!
//! Most faults may cost an election or a request, so a scenario says where they must not ([`Expected`]).
//!
//! ```text
//!   leader A, term 3 ──────────── A, term 4 ─────▶   deposed: nothing was wrong with A
//!   leader A, term 3 ── A killed ── B, term 4 ───▶   replaced
//! ```
//!
//! - Every term counts: an election that the same node wins, and one that nobody wins, are elections.
//! - Which leaders a fault may cost their leadership stands with the faults
//!   ([`may_depose`](crate::nemesis::radius::may_depose)); it excuses no election that deposes another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    availability::{Availability, FaultReport, quantile},
    leadership::GroupLeadership,
    results::Run,
    span::{Span, name, spans},
};
use crate::{
    checker::{Anomaly, Finding},
    history::{History, Kind, NodeId},
    nemesis::radius::{may_depose, taken_by_name},
};

const NAME: &str = "expected";

/// How long after an election it may be seen: nodes are asked four times a second, and one that does not
/// answer is waited for.
const SEEN_WITHIN_NS: u64 = 2_000_000_000;

/// What a scenario expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// No group elects, unless a fault took its leader.
    #[serde(default)]
    pub steady: bool,
    /// No request fails, and of none is the outcome unknown. What a correct store refuses has not failed.
    #[serde(default)]
    pub answered: bool,
    /// Milliseconds within which a write succeeds again that was begun after a fault had taken nodes and
    /// left a majority.
    #[serde(default)]
    pub replaced_within_ms: Option<u64>,
}

/// How a bound is spelled, before its time.
const REPLACED_WITHIN: &str = "replaced-within=";

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.steady.then(|| "steady".to_owned()));
        words.extend(self.answered.then(|| "answered".to_owned()));
        let bound = self.replaced_within_ms;
        words.extend(bound.map(|ms| format!("{REPLACED_WITHIN}{ms}ms")));
        match words.as_slice() {
            [] => f.write_str("nothing"),
            _ => f.write_str(&words.join(",")),
        }
    }
}

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut expected = Expected::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "nothing" => {}
                "steady" => expected.steady = true,
                "answered" => expected.answered = true,
                _ => {
                    let time = word.strip_prefix(REPLACED_WITHIN);
                    let time = time.and_then(|time| humantime::parse_duration(time).ok());
                    let ms = time.and_then(|time| u64::try_from(time.as_millis()).ok());
                    let Some(ms) = ms.filter(|ms| *ms > 0) else {
                        return Err(format!(
                            "`{word}` must be nothing, steady, answered, or {REPLACED_WITHIN}TIME such as \
                             {REPLACED_WITHIN}2s"
                        ));
                    };
                    expected.replaced_within_ms = Some(ms);
                }
            }
        }
        Ok(expected)
    }
}

impl Expected {
    /// Judges a run by it; `None` if nothing is expected.
    pub(super) fn judge(
        self,
        run: &Run,
        history: &History,
        availability: &Availability,
    ) -> Option<Finding> {
        if self == Self::default() {
            return None;
        }
        let faults = &availability.faults;
        let nodes = run.nodes.len() as u64;
        let (mut anomalies, mut told) = (Vec::new(), Vec::new());
        if self.steady {
            if run.groups.is_empty() {
                let why = "nobody told who leads the groups";
                return Some(Finding::unknown(NAME, 0, why));
            }
            let elections = elections(&run.groups);
            let (excused, deposed): (Vec<_>, Vec<_>) = elections
                .into_iter()
                .partition(|election| election.is_excused(faults, nodes));
            told.push(format!(
                "{} elections after faults, {} without",
                excused.len(),
                deposed.len()
            ));
            anomalies.extend(deposed.iter().map(|election| election.anomaly(faults)));
        }
        let spans = spans(history);
        let load: Vec<&Span<'_>> = spans.iter().filter(|span| !span.invoke.last).collect();
        if self.answered {
            let failed = load.iter().filter(|span| has_failed(span));
            let before = anomalies.len();
            anomalies.extend(failed.map(|span| unanswered(span)));
            let count = anomalies.len() - before;
            told.push(format!("{count} of {} requests failed", load.len()));
        }
        if let Some(bound_ms) = self.replaced_within_ms {
            let replaced: Vec<&FaultReport> = faults
                .iter()
                .filter(|fault| fault.applied() && leaves_a_majority(fault, nodes))
                .collect();
            let mut times: Vec<u64> = replaced.iter().filter_map(|f| f.first_write_ns).collect();
            times.sort_unstable();
            let ms = |ns: Option<u64>| {
                ns.map_or("never".to_owned(), |ns| format!("{} ms", ns / 1_000_000))
            };
            told.push(match replaced.len() {
                0 => "no fault took nodes and left a majority".to_owned(),
                count => format!(
                    "after {count} faults that took nodes a write succeeded again after {} (median), {} \
                     (worst)",
                    ms(quantile(&times, 0.5)),
                    ms(times.last().copied())
                ),
            });
            let late = replaced.iter().filter(|fault| {
                let within = |ns| ns <= bound_ms * 1_000_000;
                !fault.first_write_ns.is_some_and(within)
            });
            anomalies.extend(late.map(|fault| replaced_late(fault, bound_ms)));
        }
        Some(Finding::new(
            NAME,
            load.len() as u64,
            told.join("; "),
            anomalies,
        ))
    }
}

/// Terms of a group that passed between two looks.
struct Election<'a> {
    /// Who had led last.
    leader: Option<NodeId>,
    before: &'a GroupLeadership,
    after: &'a GroupLeadership,
}

fn elections(groups: &[GroupLeadership]) -> Vec<Election<'_>> {
    let mut elections = Vec::new();
    for (position, after) in groups.iter().enumerate() {
        let mut earlier = groups[..position].iter().rev();
        let Some(before) = earlier.find(|other| other.group == after.group) else {
            continue;
        };
        if after.led.term <= before.led.term {
            continue;
        }
        let known = [before].into_iter().chain(earlier);
        let mut known = known.filter(|other| other.group == after.group);
        elections.push(Election {
            leader: known.find_map(|other| other.led.leader),
            before,
            after,
        });
    }
    elections
}

impl Election<'_> {
    /// Whether a fault had taken who led, or moves leaders.
    fn is_excused(&self, faults: &[FaultReport], nodes: u64) -> bool {
        let mut there = faults.iter().filter(|fault| {
            let until = fault.healed_ns.map_or(u64::MAX, |at| at + SEEN_WITHIN_NS);
            fault.applied() && (fault.begin_ns..=until).contains(&self.after.led.at_ns)
        });
        there.any(|fault| may_depose(&fault.nemesis, &fault.nodes, nodes, self.leader))
    }

    fn anomaly(&self, faults: &[FaultReport]) -> Anomaly {
        let GroupLeadership { group, led } = self.after;
        let by = led
            .leader
            .map_or("nobody".to_owned(), |node| format!("node {node}"));
        let whom = self
            .leader
            .map_or("whoever led".to_owned(), |node| format!("node {node}"));
        let there: Vec<String> = faults
            .iter()
            .filter(|fault| fault.applied() && fault.begin_ns <= led.at_ns)
            .filter(|fault| fault.healed_ns.is_none_or(|at| at >= self.before.led.at_ns))
            .map(|fault| format!("{} ({})", fault.fault, fault.nemesis))
            .collect();
        let there = match there.as_slice() {
            [] => "No fault was there.".to_owned(),
            some => format!(
                "Faults that were there and take no leader of it: {}.",
                some.join(", ")
            ),
        };
        Anomaly {
            name: "deposed".to_owned(),
            explanation: format!(
                "Group {group} went from term {} to term {}, led by {by}, as was seen {:.3} s into the run. \
                 {whom} led before and no fault had taken it. {there}",
                self.before.led.term,
                led.term,
                led.at_ns as f64 / 1e9,
            ),
            events: Vec::new(),
            edges: Vec::new(),
        }
    }
}

/// Whether a fault takes nodes and leaves enough for a quorum.
fn leaves_a_majority(fault: &FaultReport, nodes: u64) -> bool {
    let taken = taken_by_name(&fault.nemesis, &fault.nodes, nodes).len() as u64;
    taken > 0 && nodes - taken.min(nodes) > nodes / 2
}

fn replaced_late(fault: &FaultReport, bound_ms: u64) -> Anomaly {
    let after = match fault.first_write_ns {
        Some(ns) => format!("{} ms after it", ns / 1_000_000),
        None => "never".to_owned(),
    };
    Anomaly {
        name: "replaced-late".to_owned(),
        explanation: format!(
            "Fault {} ({}) took nodes {:?} and left a majority. The first write that was begun after it \
             succeeded {after}; {bound_ms} ms are expected.",
            fault.fault, fault.nemesis, fault.nodes
        ),
        events: Vec::new(),
        edges: Vec::new(),
    }
}

fn has_failed(span: &Span<'_>) -> bool {
    span.kind() != Kind::Ok && !span.is_refused()
}

fn unanswered(span: &Span<'_>) -> Anomaly {
    let error = span.completion.and_then(|event| event.error.as_deref());
    Anomaly {
        name: "unanswered".to_owned(),
        explanation: format!(
            "A {} through node {} ended as {}: {}",
            name(span.op()),
            span.invoke.node,
            span.outcome(),
            error.unwrap_or("nothing came back")
        ),
        events: [Some(span.invoked), span.completed]
            .into_iter()
            .flatten()
            .collect(),
        edges: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
