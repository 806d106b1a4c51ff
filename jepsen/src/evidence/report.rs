//! The report of a run for people: one page with the verdict, what was broken when, what it cost,
//! and every anomaly with its proof.
//!
//! The page needs no script and no network, and stays small however long the history is.

mod anomaly;
mod lanes;
mod plots;

use maud::{Markup, html};

use super::{
    Results,
    availability::FaultReport,
    page::{at, badge, clock, count, duration, duration_or_dash, page, verdict_word},
    span::{Span, node_words, spans},
    story,
};
use crate::{
    checker::{Anomaly, Finding, Verdict},
    history::History,
};

/// Letters of an explanation that are shown at once.
const BRIEF_LETTERS_MAX: usize = 240;
/// Events in the table of an anomaly.
const EVENTS_MAX: usize = 60;

/// The page. It depends on the history and the results alone.
pub fn render(history: &History, results: &Results) -> String {
    let spans = spans(history);
    let faults = &results.availability.faults;
    let run = &results.run;
    let axis = plots::TimeAxis::until(history.duration(), run.began_unix_ms);
    let title = format!(
        "{}: {} under {}",
        verdict_word(results.verdict),
        run.workload,
        nemeses(&run.nemeses)
    );
    let is_invalid = results.verdict == Verdict::Invalid;
    let body = html! {
        (anomaly::arrow_heads())
        (banner(history, results))
        h2 { "Over time" }
        (plot(&lanes::timeline(&axis, &run.leaders, faults, &marks(history, results))))
        @if faults.is_empty() { p { "Nothing was broken." } }
        (anomalies(history, results, &spans))
        h2 { "Details" }
        (folded("Latency and rate", !is_invalid, &html! {
            (plot(&plots::latency(&axis, &spans, faults)))
            (plot(&plots::rate(&axis, &spans, faults)))
        }))
        @if !faults.is_empty() {
            (folded(&format!("Faults: {}", count(faults.len() as u64)), !is_invalid, &fault_table(faults, run.began_unix_ms)))
        }
        (folded("Operations and errors", !is_invalid, &html! { (operations(results)) (errors(results)) }))
        (folded("Checkers", false, &checkers(&results.findings)))
        (folded("What was run", false, &what_was_run(results)))
    };
    page(&title, &body)
}

/// A plot that keeps its size where the page is narrow, and scrolls.
fn plot(svg: &Markup) -> Markup {
    html! { div class="scroll" { (svg) } }
}

/// What is there on demand.
fn folded(name: &str, open: bool, body: &Markup) -> Markup {
    html! { details class="part" open[open] { summary { (name) } (body) } }
}

/// Anomalies on the time axis.
fn marks(history: &History, results: &Results) -> Vec<lanes::Mark> {
    let anomalies = results
        .findings
        .iter()
        .flat_map(|finding| &finding.anomalies);
    anomalies
        .filter_map(|anomaly| {
            Some(lanes::Mark {
                at_ns: story::shown_at(history, anomaly)?,
                words: anomaly.name.clone(),
            })
        })
        .collect()
}

/// The beginning of a long text, up to the end of a word, if it is long.
fn brief(text: &str) -> Option<String> {
    if text.chars().count() <= BRIEF_LETTERS_MAX {
        return None;
    }
    let start: String = text.chars().take(BRIEF_LETTERS_MAX).collect();
    let words = start
        .rsplit_once(' ')
        .map_or(start.as_str(), |(words, _)| words);
    Some(format!("{words} …"))
}

fn anomalies(history: &History, results: &Results, spans: &[Span<'_>]) -> Markup {
    let all: Vec<(&Finding, &Anomaly)> = results
        .findings
        .iter()
        .flat_map(|finding| {
            finding
                .anomalies
                .iter()
                .map(move |anomaly| (finding, anomaly))
        })
        .collect();
    html! {
        @if !all.is_empty() { h2 { "Anomalies" } }
        @for (number, (finding, anomaly)) in all.iter().enumerate() {
            h3 { (number + 1) ". " (anomaly.name) " " span class="faint" { "(" (finding.checker) (shown(history, results, anomaly)) ")" } }
            @let brief = brief(&anomaly.explanation);
            p { (brief.as_deref().unwrap_or(&anomaly.explanation)) }
            details {
                summary { "Drawing and events" }
                @if brief.is_some() { p { (anomaly.explanation) } }
                (anomaly::draw(anomaly, history, spans))
                (events(anomaly, history, results.run.began_unix_ms))
            }
        }
        @for finding in &results.findings {
            @let unseen = finding.anomalies_found.saturating_sub(finding.anomalies.len() as u64);
            @if unseen > 0 {
                p class="faint" { "Anomalies of " (finding.checker) " that are not shown: " (count(unseen)) }
            }
        }
    }
}

fn shown(history: &History, results: &Results, anomaly: &Anomaly) -> String {
    let Some(ns) = story::shown_at(history, anomaly) else {
        return String::new();
    };
    let clock = clock(results.run.began_unix_ms, ns);
    let clock = clock.map_or_else(String::new, |clock| format!(", {clock}"));
    format!(", shown at {}{clock}", at(ns))
}

fn nemeses(names: &[String]) -> String {
    if names.is_empty() {
        "no faults".to_owned()
    } else {
        names.join(", ")
    }
}

fn banner(history: &History, results: &Results) -> Markup {
    let run = &results.run;
    let availability = &results.availability;
    let total: u64 = availability.operations.values().map(|op| op.invoked).sum();
    let faults = &results.faults.total;
    html! {
        div class={ "banner " (verdict_word(results.verdict)) } {
            h1 { (badge(results.verdict)) (run.workload) " under " (nemeses(&run.nemeses)) }
            p class="story" { (story::tell(history, results)) }
            @if !results.reasons.is_empty() {
                details open[results.verdict == Verdict::Unknown] {
                    summary { "Why it is not a pass" }
                    ul { @for reason in &results.reasons { li { (reason) } } }
                }
            }
            dl class="facts" {
                (fact("Operations", &count(total)))
                (fact("Checked", &count(results.checked())))
                (fact("Faults made", &count(faults.applied)))
                @if faults.applied > 0 { (fact("seen from outside", &count(faults.seen))) }
                @if faults.disproved > 0 { (fact("without effect", &count(faults.disproved))) }
                @if faults.skipped > 0 { (fact("skipped", &count(faults.skipped))) }
                (fact("RTO, median", &duration_or_dash(availability.rto_p50_ns)))
                (fact("RTO, longest", &duration_or_dash(availability.rto_max_ns)))
                @if availability.without_quorum_ns > 0 {
                    (fact("Without a quorum", &duration(availability.without_quorum_ns)))
                }
                (fact("RPO: writes lost", &results.lost_words()))
            }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn what_was_run(results: &Results) -> Markup {
    let run = &results.run;
    html! {
        pre { (run.command) }
        table class="pairs" {
            tr { th { "Cluster" } td {
                (run.nodes.len()) " nodes of " (run.cluster.target) ", " (run.cluster.kind)
                @if !run.cluster.version.is_empty() { span class="faint" { " – " (run.cluster.version) } }
            } }
            tr { th { "Nodes" } td {
                @for (number, node) in run.nodes.iter().enumerate() {
                    @if number > 0 { ", " }
                    "n" (node.id) " in " (node.zone) span class="faint" { " (" (node.endpoint) ")" }
                }
            } }
            tr { th { "Began" } td { (run.started_at) ", took " (duration((run.duration_seconds.max(0.0) * 1e9) as u64)) } }
            tr { th { "Seed" } td { (run.seed) } }
            tr { th { "Harness" } td { (results.harness) } }
            @if !run.options.is_empty() {
                tr { th { "Options" } td {
                    @for (number, (name, value)) in run.options.iter().enumerate() {
                        @if number > 0 { ", " }
                        code { (name) "=" (value) }
                    }
                } }
            }
        }
    }
}

fn checkers(findings: &[Finding]) -> Markup {
    if findings.is_empty() {
        return html! { p { "No checker looked at the history." } };
    }
    html! {
        div class="scroll" { table {
            tr { th { "Checker" } th { "Verdict" } th class="n" { "Checked" } th class="n" { "Anomalies" } th { "Summary" } }
            @for finding in findings {
                tr {
                    td class="w" { (finding.checker) }
                    td { (badge(finding.verdict)) }
                    td class="n" { (count(finding.checked)) }
                    td class="n" { (count(finding.anomalies_found)) }
                    td class="any" { (finding.summary) }
                }
            }
        } }
    }
}

fn events(anomaly: &Anomaly, history: &History, began_unix_ms: u64) -> Markup {
    let rows = anomaly::event_rows(anomaly, history, EVENTS_MAX);
    html! {
        @if !rows.is_empty() {
            div class="scroll" { table {
                tr { th class="n" { "Event" } th class="n" { "Time" } th { "Who" } th { "Kind" } th { "What" } }
                @for row in &rows {
                    tr {
                        td class="n" { (row.index) }
                        td class="n" {
                            (at(row.at_ns))
                            @if let Some(clock) = clock(began_unix_ms, row.at_ns) { div class="faint" { (clock) } }
                        }
                        td class="w" { (row.who) }
                        td { (row.kind) }
                        td class="any" { (row.words) }
                    }
                }
            } }
            @if anomaly.events.len() > rows.len() {
                p class="faint" { "Events that are not shown: " (anomaly.events.len() - rows.len()) }
            }
        }
    }
}

fn fault_table(faults: &[FaultReport], began_unix_ms: u64) -> Markup {
    html! {
        p class="faint" {
            "What a fault does is looked at from outside: a process that ended closes its connections, one that hangs "
            "answers nothing while others do, a node that is cut off answers no linearizable read. A fault without "
            "effect was not made; where none shows outside, the reason is given. "
            "Time without writes: the longest time in which a quorum existed and no write succeeded, from the begin of "
            "the fault until 5 s after it was healed, or until the next fault or the end of the load. Of faults that "
            "overlap, it is told of the one that began nearest to it. Time without a quorum is not part of it. "
            "≥: no write had succeeded when that time was over. First write: from the moment at which it was broken to "
            "the first success of a write that was sent after it."
        }
        div class="scroll" { table {
            tr {
                th class="n" { "#" } th { "Nemesis" } th { "Nodes" } th class="n" { "Begun" } th class="n" { "Broken for" }
                th class="n" { "Time without writes" } th class="n" { "First write" } th { "What happened" }
            }
            @for fault in faults {
                tr {
                    td class="n" { (fault.fault) }
                    td class="w" { (fault.nemesis) }
                    td class="w" { (node_words(&fault.nodes)) }
                    td class="n" {
                        (at(fault.begin_ns))
                        @if let Some(clock) = clock(began_unix_ms, fault.begin_ns) { div class="faint" { (clock) } }
                    }
                    td class="n" { (broken_for(fault)) }
                    td class="n" {
                        @if fault.rto_open { "≥ " }
                        (duration_or_dash(fault.rto_ns))
                    }
                    td class="n" { (duration_or_dash(fault.first_write_ns)) }
                    td class="any" {
                        @if let Some(error) = &fault.error { strong { "Error: " } (error) }
                        @else if let Some(how) = &fault.disproved { strong { "Not made, no effect: " } (how) }
                        @else if let Some(why) = &fault.skipped { span class="faint" { "Skipped: " (why) } }
                        @else { (fault.steps.join("; ")) }
                    }
                }
            }
        } }
    }
}

fn broken_for(fault: &FaultReport) -> String {
    match (fault.broken_ns, fault.healed_ns) {
        (Some(broken), Some(healed)) => duration(healed.saturating_sub(broken)),
        (Some(_), None) => "never healed".to_owned(),
        (None, _) => "–".to_owned(),
    }
}

fn operations(results: &Results) -> Markup {
    html! {
        div class="scroll" { table {
            tr {
                th { "Operation" } th class="n" { "Invoked" } th class="n" { "ok" } th class="n" { "refused" } th class="n" { "fail" } th class="n" { "info" }
                th class="n" { "ok per second" } th class="n" { "p50" } th class="n" { "p99" } th class="n" { "max" }
            }
            @for (name, op) in &results.availability.operations {
                tr {
                    td class="w" { (name) }
                    td class="n" { (count(op.invoked)) }
                    td class="n" { (count(op.ok)) }
                    td class="n" { (count(op.refused)) }
                    td class="n" { (count(op.fail.saturating_sub(op.refused))) }
                    td class="n" { (count(op.info)) }
                    td class="n" { (format!("{:.1}", op.ok_per_second)) }
                    td class="n" { (duration_or_dash(op.p50_ns)) }
                    td class="n" { (duration_or_dash(op.p99_ns)) }
                    td class="n" { (duration_or_dash(op.max_ns)) }
                }
            }
        } }
        p class="faint" {
            "Refused: a comparison that did not hold, or a conflict, as a correct store answers; fail: no effect for another "
            "reason; info: nobody knows. Latencies are of the operations that were ok. The final reads are left out. The load lasted "
            (duration(results.availability.load_ns)) "; the history has " (count(results.events)) " events."
        }
    }
}

fn errors(results: &Results) -> Markup {
    let errors = &results.availability.errors;
    html! {
        @if !errors.is_empty() {
            div class="scroll" { table {
                tr { th { "Error" } th class="n" { "no effect" } th class="n" { "effect unknown" } }
                @for (kind, report) in errors {
                    tr {
                        td class="any" { (kind) }
                        td class="n" { (count(report.fail)) }
                        td class="n" { (count(report.info)) }
                    }
                }
            } }
        }
    }
}

#[cfg(test)]
mod tests;
