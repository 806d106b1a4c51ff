//! Many runs side by side: for the terminal, for a repository (Markdown), as a page, and for
//! programs (`scoreboard.json`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use comfy_table::{Cell, CellAlignment, LineStyle, Table, presets};
use maud::html;
use serde::{Deserialize, Serialize};

pub use super::page::verdict_word;
use super::{
    Results,
    page::{badge, count, duration, duration_or_dash, page},
    results::lost_words,
};
use crate::checker::{Verdict, loss::Certainty};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the scenario in its suite.
    pub scenario: String,
    /// Name of the workload.
    pub workload: String,
    /// Names of the nemeses, joined by commas; empty if nothing was broken.
    pub nemesis: String,
    /// The outcome.
    pub verdict: Verdict,
    /// The outcome that the suite asks for: *valid*, but for runs against planted bugs.
    pub expected: Verdict,
    /// Operations that were checked.
    pub checked: u64,
    /// Faults that were made.
    pub faults_applied: u64,
    /// Faults that could not be made.
    pub faults_skipped: u64,
    /// Median time without writes of a fault, in nanoseconds.
    pub rto_p50_ns: Option<u64>,
    /// Longest time without writes of a fault, in nanoseconds.
    pub rto_max_ns: Option<u64>,
    /// Acknowledged writes that are gone.
    pub lost: u64,
    /// What that number is worth.
    #[serde(default)]
    pub lost_certainty: Certainty,
    /// How long the run took, in seconds.
    pub duration_seconds: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Directory of the run.
    pub dir: PathBuf,
    /// Why it is not a pass, or what else to say; may be empty.
    pub note: String,
}

impl Row {
    /// The row of a run that ended with results. A run that is not *valid* has its first reason for
    /// a note.
    pub fn new(scenario: &str, expected: Verdict, results: &Results, dir: &Path) -> Self {
        Self {
            scenario: scenario.to_owned(),
            workload: results.run.workload.clone(),
            nemesis: results.run.nemeses.join(","),
            verdict: results.verdict,
            expected,
            checked: results.checked(),
            faults_applied: results.faults.total.applied,
            faults_skipped: results.faults.total.skipped,
            rto_p50_ns: results.availability.rto_p50_ns,
            rto_max_ns: results.availability.rto_max_ns,
            lost: results.lost,
            lost_certainty: results.loss.certainty,
            duration_seconds: results.run.duration_seconds,
            seed: results.run.seed,
            dir: dir.to_owned(),
            note: results.reasons.first().cloned().unwrap_or_default(),
        }
    }

    /// Whether the outcome is the one that the suite asks for.
    pub fn passed(&self) -> bool {
        self.verdict == self.expected
    }

    /// The verdict, and what was expected if that is another.
    fn verdict_words(&self) -> String {
        let word = verdict_word(self.verdict);
        if self.passed() {
            word.to_owned()
        } else {
            format!("{word}, expected {}", verdict_word(self.expected))
        }
    }

    fn faults_words(&self) -> String {
        match self.faults_skipped {
            0 => count(self.faults_applied),
            skipped => format!(
                "{} (+{} skipped)",
                count(self.faults_applied),
                count(skipped)
            ),
        }
    }

    /// The last part of the directory: where it lies on the machine that ran the suite is of no
    /// use to readers elsewhere.
    fn dir_name(&self) -> String {
        self.dir.file_name().map_or_else(
            || self.dir.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    fn duration_words(&self) -> String {
        duration((self.duration_seconds.max(0.0) * 1e9) as u64)
    }

    /// The cells that all forms share, in the order of [`HEADS`].
    fn cells(&self) -> [String; 12] {
        [
            self.scenario.clone(),
            self.workload.clone(),
            if self.nemesis.is_empty() {
                "–".to_owned()
            } else {
                self.nemesis.replace(',', ", ")
            },
            self.verdict_words(),
            count(self.checked),
            self.faults_words(),
            duration_or_dash(self.rto_p50_ns),
            duration_or_dash(self.rto_max_ns),
            lost_words(self.lost, self.lost_certainty),
            self.duration_words(),
            self.seed.to_string(),
            self.dir_name(),
        ]
    }
}

/// Heads of the columns, and whether they are figures.
const HEADS: [(&str, bool); 12] = [
    ("Scenario", false),
    ("Workload", false),
    ("Nemesis", false),
    ("Verdict", false),
    ("Checked", true),
    ("Faults", true),
    ("RTO p50", true),
    ("RTO max", true),
    ("Lost", true),
    ("Took", true),
    ("Seed", true),
    ("Directory", false),
];

/// The runs of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scoreboard {
    /// Name of the suite.
    pub suite: String,
    /// When it began, in the form of RFC 3339.
    pub started_at: String,
    /// The program that was tested: its version, size and age; empty if it is not known.
    #[serde(default)]
    pub tested: String,
    /// Commit of the source of the harness; empty if it is not known.
    pub commit: String,
    /// Size of the machine, in words: `2 cores, 24 GiB`.
    pub machine: String,
    /// In the order in which they ran.
    pub rows: Vec<Row>,
}

impl Scoreboard {
    /// Whether every run came out as expected, and there was one.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::passed)
    }

    /// Counts and sums in one line.
    pub fn summary(&self) -> String {
        let passed = self.rows.iter().filter(|row| row.passed()).count();
        let checked: u64 = self.rows.iter().map(|row| row.checked).sum();
        let faults: u64 = self.rows.iter().map(|row| row.faults_applied).sum();
        let seconds: f64 = self.rows.iter().map(|row| row.duration_seconds).sum();
        let longest = self.rows.iter().filter_map(|row| row.rto_max_ns).max();
        format!(
            "{passed} of {} runs as expected; {} operations checked, {} faults made, longest time without writes {}, writes lost: {}; {} in all",
            self.rows.len(),
            count(checked),
            count(faults),
            duration_or_dash(longest),
            self.lost_words(),
            duration((seconds.max(0.0) * 1e9) as u64),
        )
    }

    /// The losses of all runs together: a bound if one of them is a bound.
    fn lost_words(&self) -> String {
        let lost = self.rows.iter().map(|row| row.lost).sum();
        let exact = |row: &Row| row.lost_certainty == Certainty::Exact;
        let certainty = match self.rows.iter().all(exact) {
            true => Certainty::Exact,
            false => Certainty::AtLeast,
        };
        lost_words(lost, certainty)
    }

    fn heading(&self) -> String {
        let mut parts = vec![self.started_at.clone()];
        if !self.tested.is_empty() {
            parts.push(format!("tested: {}", self.tested));
        }
        if !self.commit.is_empty() {
            parts.push(format!("harness at commit {}", self.commit));
        }
        if !self.machine.is_empty() {
            parts.push(self.machine.clone());
        }
        parts.join(" · ")
    }

    /// A table as wide as the terminal, with the notes below it.
    pub fn terminal(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.style_mut().row_separator = LineStyle::none();
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        // The directories are told in the notes, where they matter.
        let shown = HEADS.len() - 1;
        table.set_header(HEADS[..shown].iter().map(|(head, _)| *head));
        for row in &self.rows {
            let cells = row.cells();
            table.add_row(
                HEADS
                    .iter()
                    .zip(cells)
                    .take(shown)
                    .map(|((head, figure), text)| {
                        let cell = Cell::new(text);
                        match (*head, *figure) {
                            ("Verdict", _) => cell.fg(match (row.passed(), row.verdict) {
                                (true, _) => comfy_table::Color::Green,
                                (false, Verdict::Unknown) => comfy_table::Color::Yellow,
                                (false, _) => comfy_table::Color::Red,
                            }),
                            (_, true) => cell.set_alignment(CellAlignment::Right),
                            _ => cell,
                        }
                    }),
            );
        }
        let mut text = table.to_string();
        text.push('\n');
        for row in &self.rows {
            if !row.note.is_empty() {
                text.push_str(&format!(
                    "{}: {} ({})\n",
                    row.scenario,
                    row.note,
                    row.dir.display()
                ));
            }
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// For a repository: a heading with date, commit and machine, the table, the notes.
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            let cells: Vec<String> = cells.collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = format!(
            "# Suite `{}`\n\n{}\n\n{}.\n\n",
            self.suite,
            markdown_escaped(&self.heading()),
            self.summary()
        );
        text += &line(&mut HEADS.iter().map(|(head, _)| (*head).to_owned()));
        text += &line(
            &mut HEADS
                .iter()
                .map(|(_, figure)| if *figure { "---:" } else { "---" }.to_owned()),
        );
        for row in &self.rows {
            text += &line(&mut row.cells().iter().map(|cell| markdown_escaped(cell)));
        }
        let notes: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| !row.note.is_empty())
            .collect();
        if !notes.is_empty() {
            text.push('\n');
        }
        for row in notes {
            text += &format!(
                "- {}: {}\n",
                markdown_escaped(&row.scenario),
                markdown_escaped(&row.note)
            );
        }
        text
    }

    /// A page in the style of the reports. Each run links to its report, relative to `base`, the
    /// directory of the page, where it can.
    pub fn html(&self, base: &Path) -> String {
        let figures = |figure: bool| if figure { "n" } else { "any" };
        let body = html! {
            div class={ "banner " (if self.passed() { "valid" } else { "invalid" }) } {
                h1 { "Suite " (self.suite) }
                p { (self.heading()) }
                p { (self.summary()) "." }
            }
            h2 { "Runs" }
            div class="scroll" { table {
                tr { @for (head, figure) in HEADS { th class=(figures(figure)) { (head) } } }
                @for row in &self.rows {
                    tr {
                        @for ((head, figure), cell) in HEADS.into_iter().zip(row.cells()) {
                            td class=(figures(figure)) {
                                @match head {
                                    "Verdict" => {
                                        (badge(row.verdict))
                                        @if !row.passed() { " expected " (verdict_word(row.expected)) }
                                    }
                                    "Nemesis" => {
                                        @for name in cell.split(' ') { span class="w" { (name) } " " }
                                    }
                                    "Directory" => {
                                        @let report = row.dir.strip_prefix(base).unwrap_or(&row.dir).join("report.html");
                                        a href=(report.display()) { (cell) }
                                    }
                                    _ => (cell)
                                }
                            }
                        }
                    }
                    @if !row.note.is_empty() {
                        tr { td {} td class="faint any" colspan=(HEADS.len() - 1) { (row.note) } }
                    }
                }
            } }
        };
        page(&format!("Suite {}", self.suite), &body)
    }

    /// Writes `scoreboard.json`, `scoreboard.md` and `scoreboard.html` into a directory that exists.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write_all(&self, dir: &Path) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(self).map_err(io::Error::from)?;
        json.push('\n');
        fs::write(dir.join("scoreboard.json"), json)?;
        fs::write(dir.join("scoreboard.md"), self.markdown())?;
        fs::write(dir.join("scoreboard.html"), self.html(dir))
    }
}

/// Text that a cell of a Markdown table shows as it is.
fn markdown_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '<' | '[' | ']' | '\\' | '~' | '#' | '&' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '\n' | '\r' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
