//! Two runs side by side: a Holdfast and an etcd, or before and after a change.
//!
//! Two runs can be compared if they asked the same: the same workload, seed and nemeses. Other options
//! that differ may explain a difference, and are told.

use std::{collections::BTreeSet, fmt::Write as _};

use maud::html;

use super::{
    Results,
    availability::{FaultReport, OperationReport},
    page::{badge, count, duration, duration_or_dash, page, verdict_word},
};

/// Options that name where a run was, not what it did.
const PLACES: [&str; 3] = ["bin", "target", "cluster-file"];

/// Why two runs cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("these runs did not ask the same, so their figures say nothing about each other: {0}")]
pub struct Incomparable(String);

/// A line: what it is, and its value in each run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    what: String,
    values: [String; 2],
}

/// Two runs that asked the same.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    runs: [&'a Results; 2],
    warnings: Vec<String>,
    /// Headline and lines.
    parts: Vec<(&'static str, Vec<Row>)>,
}

impl<'a> Comparison<'a> {
    /// Puts two runs side by side.
    ///
    /// # Errors
    ///
    /// They differ in workload, seed or nemeses.
    pub fn of(first: &'a Results, second: &'a Results) -> Result<Self, Incomparable> {
        let (a, b) = (&first.run, &second.run);
        let mut differ = Vec::new();
        let mut check = |what: &str, a: String, b: String| {
            if a != b {
                differ.push(format!("{what} {a} and {b}"));
            }
        };
        check("workload", a.workload.clone(), b.workload.clone());
        check("seed", a.seed.to_string(), b.seed.to_string());
        check("nemeses", a.nemeses.join(","), b.nemeses.join(","));
        if !differ.is_empty() {
            return Err(Incomparable(differ.join("; ")));
        }
        let runs = [first, second];
        Ok(Self {
            runs,
            warnings: warnings(runs),
            parts: vec![
                ("Outcome", outcome(runs)),
                ("Operations", operations(runs)),
                ("Errors (no effect + effect unknown)", errors(runs)),
                ("Faults: time without writes", faults(runs)),
            ],
        })
    }

    /// The comparison as text, in three columns.
    pub fn text(&self) -> String {
        let names = self.names();
        let rows = self.parts.iter().flat_map(|(_, rows)| rows);
        let width = |of: &dyn Fn(&Row) -> usize| rows.clone().map(of).max().unwrap_or(0);
        let first = width(&|row| row.what.chars().count());
        let second = width(&|row| row.values[0].chars().count()).max(names[0].chars().count());
        let mut text = String::new();
        let mut line = |what: &str, values: &[String; 2]| {
            let [a, b] = values;
            writeln!(text, "{what:<first$}  {a:>second$}  {b}")
                .expect("a string takes every write");
        };
        line("", &names);
        for (headline, rows) in &self.parts {
            if !rows.is_empty() {
                line(headline, &[String::new(), String::new()]);
            }
            for row in rows {
                line(&row.what, &row.values);
            }
        }
        for warning in &self.warnings {
            writeln!(text, "warning: {warning}").expect("a string takes every write");
        }
        text
    }

    /// The comparison as a page.
    pub fn html(&self) -> String {
        let run = &self.runs[0].run;
        let names = self.names();
        let title = format!("{} and {}", names[0], names[1]);
        page(
            &title,
            &html! {
                h1 { (run.workload) ", seed " (run.seed) ": " (names[0]) " and " (names[1]) }
                @for warning in &self.warnings { p { strong { "Warning: " } (warning) } }
                @for (headline, rows) in &self.parts {
                    @if !rows.is_empty() {
                        h2 { (headline) }
                        div class="scroll" { table {
                            tr { th { "" } @for name in &names { th class="n" { (name) } } }
                            @for row in rows {
                                tr {
                                    td class="any" { (row.what) }
                                    @if row.what == VERDICT {
                                        @for run in self.runs { td class="n" { (badge(run.verdict)) } }
                                    } @else {
                                        @for value in &row.values { td class="n" { (value) } }
                                    }
                                }
                            }
                        } }
                    }
                }
                @for (name, run) in names.iter().zip(self.runs) {
                    h2 { "Run of " (name) }
                    pre { (run.run.command) }
                    p class="faint" { (run.run.cluster.version) ", began " (run.run.started_at) }
                }
            },
        )
    }

    /// What tells the two apart.
    fn names(&self) -> [String; 2] {
        let of = |number: usize| {
            let cluster = &self.runs[number].run.cluster;
            format!("{} {}", ["A:", "B:"][number], cluster.target)
        };
        [of(0), of(1)]
    }
}

const VERDICT: &str = "verdict";

fn row(what: impl Into<String>, runs: [&Results; 2], value: impl Fn(&Results) -> String) -> Row {
    Row {
        what: what.into(),
        values: runs.map(value),
    }
}

fn warnings(runs: [&Results; 2]) -> Vec<String> {
    let options = runs.map(|run| &run.run.options);
    let names: BTreeSet<&String> = options.iter().flat_map(|options| options.keys()).collect();
    let value = |number: usize, name: &str| {
        let value = options[number].get(name);
        value.map_or("not given", String::as_str).to_owned()
    };
    let mut warnings: Vec<String> = names
        .into_iter()
        .filter(|name| !PLACES.contains(&name.as_str()) && !name.starts_with("node "))
        .filter(|name| value(0, name) != value(1, name))
        .map(|name| {
            format!(
                "--{name} differs: {} and {}",
                value(0, name),
                value(1, name)
            )
        })
        .collect();
    let kinds = runs.map(|run| run.run.cluster.kind.clone());
    if kinds[0] != kinds[1] {
        warnings.push(format!("the clusters are {} and {}", kinds[0], kinds[1]));
    }
    warnings
}

fn outcome(runs: [&Results; 2]) -> Vec<Row> {
    vec![
        row(VERDICT, runs, |run| verdict_word(run.verdict).to_owned()),
        row("anomalies", runs, |run| {
            count(
                run.findings
                    .iter()
                    .map(|finding| finding.anomalies_found)
                    .sum(),
            )
        }),
        row("RPO: writes lost", runs, Results::lost_words),
        row("RTO, median", runs, |run| {
            duration_or_dash(run.availability.rto_p50_ns)
        }),
        row("RTO, longest", runs, |run| {
            duration_or_dash(run.availability.rto_max_ns)
        }),
        row("time without a quorum", runs, |run| {
            duration(run.availability.without_quorum_ns)
        }),
        row("faults made", runs, |run| count(run.faults.total.applied)),
        row("operations ok per second", runs, |run| {
            let rates = run.availability.operations.values();
            format!("{:.1}", rates.map(|op| op.ok_per_second).sum::<f64>())
        }),
    ]
}

fn operations(runs: [&Results; 2]) -> Vec<Row> {
    let names: BTreeSet<&String> = runs
        .iter()
        .flat_map(|run| run.availability.operations.keys())
        .collect();
    let mut rows = Vec::new();
    for name in names {
        let mut figure = |what: &str, value: &dyn Fn(&OperationReport) -> String| {
            rows.push(row(format!("{name}: {what}"), runs, |run| {
                let report = run.availability.operations.get(name);
                report.map_or_else(|| "–".to_owned(), value)
            }));
        };
        figure("ok", &|op| count(op.ok));
        figure("refused", &|op| count(op.refused));
        figure("fail", &|op| count(op.fail.saturating_sub(op.refused)));
        figure("info", &|op| count(op.info));
        figure("ok per second", &|op| format!("{:.1}", op.ok_per_second));
        figure("p50", &|op| duration_or_dash(op.p50_ns));
        figure("p99", &|op| duration_or_dash(op.p99_ns));
        figure("max", &|op| duration_or_dash(op.max_ns));
    }
    rows
}

fn errors(runs: [&Results; 2]) -> Vec<Row> {
    let kinds: BTreeSet<&String> = runs
        .iter()
        .flat_map(|run| run.availability.errors.keys())
        .collect();
    let of = |kind: &String| {
        row(kind, runs, |run| {
            let report = run.availability.errors.get(kind).copied();
            let report = report.unwrap_or_default();
            format!("{} + {}", count(report.fail), count(report.info))
        })
    };
    kinds.into_iter().map(of).collect()
}

/// By number: the seed draws the same faults in the same order, as far as both runs came.
fn faults(runs: [&Results; 2]) -> Vec<Row> {
    let numbers: BTreeSet<u64> = runs
        .iter()
        .flat_map(|run| run.availability.faults.iter().map(|fault| fault.fault))
        .collect();
    let find = |run: &Results, number: u64| -> Option<FaultReport> {
        let mut faults = run.availability.faults.iter();
        faults.find(|fault| fault.fault == number).cloned()
    };
    let of = |number: u64| {
        let names = runs.map(|run| find(run, number).map(|fault| fault.nemesis));
        let names: BTreeSet<String> = names.into_iter().flatten().collect();
        let names: Vec<String> = names.into_iter().collect();
        let what = format!("{number} {}", names.join(" / "));
        row(what, runs, |run| match find(run, number) {
            None => "–".to_owned(),
            Some(fault) if !fault.applied() => "not made".to_owned(),
            Some(fault) => {
                let open = if fault.rto_open { "≥ " } else { "" };
                format!("{open}{}", duration_or_dash(fault.rto_ns))
            }
        })
    };
    numbers.into_iter().map(of).collect()
}
