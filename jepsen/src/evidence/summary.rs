//! A verdict for the terminal.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Results,
    page::{duration, verdict_word},
};
use crate::checker::{Finding, Verdict, loss::Certainty};

/// Anomalies of one checker that are spelled out.
const ANOMALIES_SHOWN: usize = 3;

/// The verdict on a run, what each checker says, and why it is not a pass.
pub fn of_results(results: &Results) -> String {
    let mut text = of_findings(&results.findings);
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    let faults = &results.faults.total;
    line(format!(
        "faults: {} made, of which {} were seen from outside; {} had no effect; {} skipped; lost: {}",
        faults.applied,
        faults.seen,
        faults.disproved,
        faults.skipped,
        results.lost_words()
    ));
    if !results.loss.open.is_empty() && results.loss.certainty != Certainty::Exact {
        line(format!(
            "    how much was lost is open: {}",
            results.loss.open
        ));
    }
    for (nemesis, what) in notable(results) {
        line(format!("    {nemesis}: {what}"));
    }
    if let Some(longest) = results.availability.rto_max_ns {
        line(format!(
            "longest time without writes while a quorum existed: {}; time without a quorum: {}",
            duration(longest),
            duration(results.availability.without_quorum_ns)
        ));
    }
    for reason in &results.reasons {
        line(format!("not a pass: {reason}"));
    }
    line(verdict(results.verdict()));
    text
}

/// What was not seen of faults from outside, or seen not to be there: one line for each nemesis.
fn notable(results: &Results) -> BTreeMap<&str, String> {
    let mut notable = BTreeMap::new();
    for fault in &results.availability.faults {
        let what = match (&fault.disproved, &fault.unseen) {
            (Some(how), _) => format!("no effect: {how}"),
            (None, Some(why)) => format!("not seen from outside: {why}"),
            (None, None) => continue,
        };
        notable.entry(fault.nemesis.as_str()).or_insert(what);
    }
    notable
}

/// The verdict in a line.
pub fn verdict(verdict: Verdict) -> String {
    format!("verdict: {}", verdict_word(verdict))
}

/// What each checker says.
pub fn of_findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        text.write_fmt(words).expect("a string takes everything");
        text.push('\n');
    };
    for finding in findings {
        line(format_args!(
            "{:<16} {:<8} {}",
            finding.checker,
            verdict_word(finding.verdict),
            finding.summary
        ));
        for anomaly in finding.anomalies.iter().take(ANOMALIES_SHOWN) {
            line(format_args!(
                "    {}: {}",
                anomaly.name, anomaly.explanation
            ));
        }
        let more = finding
            .anomalies_found
            .saturating_sub(ANOMALIES_SHOWN as u64);
        if more > 0 {
            line(format_args!("    and {more} more"));
        }
    }
    text
}
