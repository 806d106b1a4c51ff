//! The table of planted bugs: which scenario catches which, and after how long.

use std::{collections::BTreeMap, fmt, fmt::Write as _, fs, io, path::Path};

use comfy_table::{Table, presets};
use serde::Serialize;

use super::bugs::Bug;
use crate::{checker::Verdict, suite::Surroundings};

/// File with the table.
pub(super) const MARKDOWN: &str = "planted.md";

/// How a bug showed.
#[derive(Clone, Debug, Serialize)]
pub struct Caught {
    /// Time from the begin of the run to the end of the shortest history that proves it.
    pub seconds: f64,
    /// Who found it.
    pub checker: String,
    /// Name of the anomaly.
    pub anomaly: String,
}

/// What came of one run with one bug.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Catch {
    /// It was found.
    Caught(Caught),
    /// It was not; this was the verdict.
    Missed(Verdict),
    /// There was no verdict.
    Error(String),
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Catch::Caught(Caught {
                seconds,
                checker,
                anomaly,
            }) => write!(f, "caught after {seconds:.1} s by {checker}: {anomaly}"),
            Catch::Missed(verdict) => write!(f, "MISSED: the verdict was {verdict:?}"),
            Catch::Error(why) => write!(f, "ERROR: {why}"),
        }
    }
}

#[derive(Debug, Serialize)]
struct Hunted {
    name: &'static str,
    mistake: &'static str,
    scenario: &'static str,
    runs: Vec<(u64, Catch)>,
}

#[derive(Debug, Serialize)]
struct Clean {
    seed: u64,
    verdict: Verdict,
    why: String,
}

/// All that was hunted.
#[derive(Debug, Serialize)]
pub struct Report {
    surroundings: Surroundings,
    seed: u64,
    bugs: Vec<Hunted>,
    clean: BTreeMap<String, Vec<Clean>>,
}

impl Hunted {
    fn catches(&self) -> Vec<&Caught> {
        let runs = self.runs.iter();
        let caught = runs.filter_map(|(_, catch)| match catch {
            Catch::Caught(caught) => Some(caught),
            Catch::Missed(_) | Catch::Error(_) => None,
        });
        caught.collect()
    }

    fn median_seconds(&self) -> Option<f64> {
        let mut seconds: Vec<f64> = self.catches().iter().map(|c| c.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let middle = seconds.len().checked_sub(1)? / 2;
        Some((seconds[middle] + seconds[seconds.len() / 2]) / 2.0)
    }

    /// The anomalies that gave it away, without repetition.
    fn anomalies(&self) -> String {
        let mut names: Vec<String> = self
            .catches()
            .iter()
            .map(|caught| format!("{}: {}", caught.checker, caught.anomaly))
            .collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }

    fn cells(&self) -> [String; 6] {
        let median = self.median_seconds();
        [
            self.name.to_owned(),
            self.mistake.to_owned(),
            self.scenario.to_owned(),
            format!("{} of {}", self.catches().len(), self.runs.len()),
            median.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}")),
            self.anomalies(),
        ]
    }
}

const COLUMNS: [&str; 6] = [
    "bug",
    "mistake",
    "scenario",
    "caught",
    "seconds, median",
    "by",
];

impl Report {
    pub(super) fn new(surroundings: Surroundings, seed: u64) -> Self {
        Self {
            surroundings,
            seed,
            bugs: Vec::new(),
            clean: BTreeMap::new(),
        }
    }

    pub(super) fn note(&mut self, bug: &'static Bug, seed: u64, catch: Catch) {
        match self.bugs.iter_mut().find(|known| known.name == bug.name) {
            Some(known) => known.runs.push((seed, catch)),
            None => self.bugs.push(Hunted {
                name: bug.name,
                mistake: bug.mistake,
                scenario: bug.scenario,
                runs: vec![(seed, catch)],
            }),
        }
    }

    pub(super) fn note_clean(&mut self, scenario: &str, seed: u64, verdict: Verdict, why: String) {
        let runs = self.clean.entry(scenario.to_owned()).or_default();
        runs.push(Clean { seed, verdict, why });
    }

    /// *Valid* if every bug was caught with every seed and the clean server was valid with every
    /// seed; *invalid* if a bug was missed or the clean server was found to be wrong.
    pub fn verdict(&self) -> Verdict {
        let hunted = self.bugs.iter().flat_map(|bug| &bug.runs);
        let hunted = hunted.map(|(_, catch)| match catch {
            Catch::Caught(_) => Verdict::Valid,
            Catch::Missed(_) => Verdict::Invalid,
            Catch::Error(_) => Verdict::Unknown,
        });
        let clean = self.clean.values().flatten().map(|run| run.verdict);
        hunted.chain(clean).max().unwrap_or(Verdict::Unknown)
    }

    /// For a terminal.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        table.set_header(COLUMNS);
        for bug in &self.bugs {
            table.add_row(bug.cells());
        }
        for (scenario, runs) in &self.clean {
            table.add_row(self.clean_cells(scenario, runs));
        }
        table
    }

    fn clean_cells(&self, scenario: &str, runs: &[Clean]) -> [String; 6] {
        let valid = runs.iter().filter(|run| run.verdict == Verdict::Valid);
        let why: Vec<&str> = runs
            .iter()
            .map(|run| run.why.as_str())
            .filter(|why| !why.is_empty())
            .collect();
        [
            "(none: the clean server)".to_owned(),
            String::new(),
            scenario.to_owned(),
            format!("valid {} of {}", valid.count(), runs.len()),
            String::new(),
            why.join("; "),
        ]
    }

    fn markdown(&self) -> String {
        let mut text = format!("{}, seed {}.\n\n", self.surroundings, self.seed);
        let mut row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes everything");
        };
        row(&COLUMNS.map(str::to_owned));
        row(&COLUMNS.map(|_| "---".to_owned()));
        for bug in &self.bugs {
            row(&bug.cells());
        }
        for (scenario, runs) in &self.clean {
            row(&self.clean_cells(scenario, runs));
        }
        text
    }

    /// Writes `planted.json` and `planted.md`.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from)?;
        fs::write(dir.join("planted.json"), json)?;
        fs::write(dir.join(MARKDOWN), self.markdown())
    }
}
