//! A run in one sentence: what was lost, how much, after which fault, and what proves it.

use super::{
    Results,
    availability::FaultReport,
    page::{at, clock, count, duration},
    span::node_words,
};
use crate::{
    checker::{Anomaly, Finding, Verdict, loss::Certainty},
    history::History,
};

/// Events that are named as proof.
const EVENTS_MAX: usize = 4;

/// The sentence.
pub fn tell(history: &History, results: &Results) -> String {
    match results.verdict {
        Verdict::Valid => valid(results),
        Verdict::Unknown => {
            let why = results.reasons.first();
            let why = why.map_or("no checker came to an end", String::as_str);
            format!("Nothing can be concluded: {why}.")
        }
        Verdict::Invalid => invalid(history, results),
    }
}

fn valid(results: &Results) -> String {
    let faults = match results.faults.total.applied {
        0 => "without a fault".to_owned(),
        1 => "under 1 fault".to_owned(),
        faults => format!("under {} faults", count(faults)),
    };
    let outage = results.availability.rto_max_ns;
    let outage = outage.map_or_else(String::new, |ns| {
        format!("; at most {} passed without a write", duration(ns))
    });
    let checked = count(results.checked());
    format!("Nothing is wrong: {checked} operations were checked {faults}{outage}.")
}

fn invalid(history: &History, results: &Results) -> String {
    let first = first_anomaly(history, results);
    let loss = &results.loss;
    let (what, proof) = if loss.count > 0 {
        let least = match loss.certainty {
            Certainty::Exact => "",
            Certainty::AtLeast | Certainty::Unknown => "At least ",
        };
        let revisions = match loss.revisions {
            Some((low, high)) if low == high => format!(" (revision {low})"),
            Some((low, high)) => format!(" (revisions {low} to {high})"),
            None => String::new(),
        };
        let (writes, are) = match loss.count {
            1 => ("write", "is"),
            _ => ("writes", "are"),
        };
        let number = count(loss.count);
        let what = format!("{least}{number} acknowledged {writes} {are} gone{revisions}");
        (what, loss.events.clone())
    } else {
        let found: u64 = results.findings.iter().map(|f| f.anomalies_found).sum();
        let what = match first {
            Some((finding, anomaly)) if found == 1 => {
                format!(
                    "One anomaly was found, {} ({})",
                    anomaly.name, finding.checker
                )
            }
            Some((finding, anomaly)) => format!(
                "{} anomalies were found, the first of them {} ({})",
                count(found),
                anomaly.name,
                finding.checker
            ),
            None => "The history is wrong".to_owned(),
        };
        (what, Vec::new())
    };
    let mut proof = match (proof.is_empty(), first) {
        (true, Some((_, anomaly))) => anomaly.events.clone(),
        _ => proof,
    };
    proof.sort_unstable();
    let after = after(history, results, &proof);
    let proved = match proof.as_slice() {
        [] => String::new(),
        [one] => format!(", proved by event {one}"),
        many => {
            let shown = many.iter().take(EVENTS_MAX).map(ToString::to_string);
            let shown: Vec<String> = shown.collect();
            let more = match many.len().saturating_sub(EVENTS_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(", proved by events {}{more}", shown.join(", "))
        }
    };
    format!("{what}{after}{proved}.")
}

/// The anomaly that showed first.
fn first_anomaly<'a>(
    history: &History,
    results: &'a Results,
) -> Option<(&'a Finding, &'a Anomaly)> {
    let all = results.findings.iter().flat_map(|finding| {
        let anomalies = finding.anomalies.iter();
        anomalies.map(move |anomaly| (finding, anomaly))
    });
    all.min_by_key(|(_, anomaly)| shown_at(history, anomaly).unwrap_or(u64::MAX))
}

/// When an anomaly showed: at the last of its events.
pub fn shown_at(history: &History, anomaly: &Anomaly) -> Option<u64> {
    times(history, &anomaly.events).max()
}

fn times<'a>(history: &'a History, events: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
    let event = |index: &u64| history.events.get(usize::try_from(*index).ok()?);
    events.iter().filter_map(event).map(|event| event.time)
}

/// The fault that is nearest to blame: the last one that had begun when the proof was complete, of those
/// that were in force in the meantime if there are any.
fn after(history: &History, results: &Results, proof: &[u64]) -> String {
    let applied = results.availability.faults.iter();
    let made: Vec<&FaultReport> = applied.filter(|fault| fault.applied()).collect();
    if made.is_empty() {
        return ", and no fault was made".to_owned();
    }
    let from = times(history, proof).min().unwrap_or(0);
    let to = times(history, proof).max().unwrap_or(u64::MAX);
    let latest = |healed_from: u64| {
        let begun = made.iter().filter(|fault| fault.begin_ns <= to);
        let candidates = begun.filter(|fault| fault.healed_ns.is_none_or(|at| at >= healed_from));
        candidates.max_by_key(|fault| fault.begin_ns).copied()
    };
    let nearest = latest(from).or_else(|| latest(0));
    let Some(fault) = nearest else {
        return ", before any fault was made".to_owned();
    };
    let nodes = match fault.nodes.is_empty() {
        true => String::new(),
        false => format!(" of {}", node_words(&fault.nodes)),
    };
    let clock = clock(results.run.began_unix_ms, fault.begin_ns);
    let clock = clock.map_or_else(String::new, |clock| format!(", {clock}"));
    format!(
        ", after fault {}, {}{nodes} (begun at {}{clock})",
        fault.fault,
        fault.nemesis,
        at(fault.begin_ns)
    )
}
