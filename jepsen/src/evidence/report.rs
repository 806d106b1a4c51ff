//! The report of a run for people: one page with the verdict, what was broken when, what it cost,
//! and every anomaly with its proof.
//!
//! The page needs no script and no network, and stays small however long the history is.

mod anomaly;
mod plots;

use maud::{Markup, html};

use super::{
    Results,
    availability::FaultReport,
    page::{at, badge, count, duration, duration_or_dash, page, verdict_word},
    span::{Span, node_words, spans},
};
use crate::{
    checker::{Anomaly, Finding},
    history::History,
};

/// Events in the table of an anomaly.
const EVENTS_MAX: usize = 60;

/// The page. It depends on the history and the results alone.
pub fn render(history: &History, results: &Results) -> String {
    let spans = spans(history);
    let faults = &results.availability.faults;
    let axis = plots::TimeAxis::until(history.duration());
    let run = &results.run;
    let title = format!(
        "{}: {} under {}",
        verdict_word(results.verdict),
        run.workload,
        nemeses(&run.nemeses)
    );
    let body = html! {
        (anomaly::arrow_heads())
        (banner(results))
        (what_was_run(results))
        h2 { "Checkers" }
        (checkers(&results.findings))
        (anomalies(history, results, &spans))
        h2 { "Over time" }
        @if faults.is_empty() {
            p { "Nothing was broken." }
        } @else {
            (plots::timeline(&axis, faults))
        }
        (plots::latency(&axis, &spans, faults))
        (plots::rate(&axis, &spans, faults))
        @if !faults.is_empty() {
            h2 { "Faults" }
            (fault_table(faults))
        }
        h2 { "Operations" }
        (operations(results))
    };
    page(&title, &body)
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
            h3 { (number + 1) ". " (anomaly.name) " " span class="faint" { "(" (finding.checker) ")" } }
            p { (anomaly.explanation) }
            (anomaly::draw(anomaly, history, spans))
            (events(anomaly, history))
        }
        @for finding in &results.findings {
            @let unseen = finding.anomalies_found.saturating_sub(finding.anomalies.len() as u64);
            @if unseen > 0 {
                p class="faint" { "Anomalies of " (finding.checker) " that are not shown: " (count(unseen)) }
            }
        }
    }
}

fn nemeses(names: &[String]) -> String {
    if names.is_empty() {
        "no faults".to_owned()
    } else {
        names.join(", ")
    }
}

fn banner(results: &Results) -> Markup {
    let run = &results.run;
    let availability = &results.availability;
    let total: u64 = availability.operations.values().map(|op| op.invoked).sum();
    let faults = &results.faults.total;
    html! {
        div class={ "banner " (verdict_word(results.verdict)) } {
            h1 { (badge(results.verdict)) (run.workload) " under " (nemeses(&run.nemeses)) }
            @if !results.reasons.is_empty() {
                ul { @for reason in &results.reasons { li { (reason) } } }
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
        h2 { "What was run" }
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

fn events(anomaly: &Anomaly, history: &History) -> Markup {
    let rows = anomaly::event_rows(anomaly, history, EVENTS_MAX);
    html! {
        @if !rows.is_empty() {
            div class="scroll" { table {
                tr { th class="n" { "Event" } th class="n" { "Time" } th { "Who" } th { "Kind" } th { "What" } }
                @for row in &rows {
                    tr {
                        td class="n" { (row.index) }
                        td class="n" { (row.at) }
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

fn fault_table(faults: &[FaultReport]) -> Markup {
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
                    td class="n" { (at(fault.begin_ns)) }
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
                th { "Operation" } th class="n" { "Invoked" } th class="n" { "ok" } th class="n" { "fail" } th class="n" { "info" }
                th class="n" { "ok per second" } th class="n" { "p50" } th class="n" { "p99" } th class="n" { "max" }
            }
            @for (name, op) in &results.availability.operations {
                tr {
                    td class="w" { (name) }
                    td class="n" { (count(op.invoked)) }
                    td class="n" { (count(op.ok)) }
                    td class="n" { (count(op.fail)) }
                    td class="n" { (count(op.info)) }
                    td class="n" { (format!("{:.1}", op.ok_per_second)) }
                    td class="n" { (duration_or_dash(op.p50_ns)) }
                    td class="n" { (duration_or_dash(op.p99_ns)) }
                    td class="n" { (duration_or_dash(op.max_ns)) }
                }
            }
        } }
        p class="faint" {
            "Latencies are of the operations that were ok. The final reads are left out. The load lasted "
            (duration(results.availability.load_ns)) "; the history has " (count(results.events)) " events."
        }
    }
}

#[cfg(test)]
mod tests;
