//! The outcome of a run for programs: `results.json`.
//!
//! A run passes only if every checker says *valid* and the run was worth judging: something was
//! done, the faults that were asked for were made and healed, and the history is whole. Each reason
//! against a pass is given in words.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    availability::{Availability, FaultReport},
    expected::Expected,
    leadership::{GroupLeadership, Leadership},
    page::count,
};
use crate::{
    checker::{
        Finding, Verdict,
        convergence::NodeState,
        loss::{self, Certainty, Loss},
    },
    cluster::{Description, Node},
    history::{History, NodeId},
};

/// Version of the format of `results.json`.
pub const FORMAT: u32 = 1;

/// What was run: all that does not follow from the history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Name of the workload.
    pub workload: String,
    /// Names of the nemeses that were asked for; empty if nothing was to be broken.
    pub nemeses: Vec<String>,
    /// Options as they were in force, by name.
    pub options: BTreeMap<String, String>,
    /// Seed of all generators.
    pub seed: u64,
    /// Command line that runs it again, quoted for a shell.
    pub command: String,
    /// What the cluster was.
    pub cluster: Description,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// When it began, in the form of RFC 3339.
    pub started_at: String,
    /// From the begin of the run to its end, checkers left out.
    pub duration_seconds: f64,
    /// When the history began: milliseconds since 1970; 0 if that is not known.
    #[serde(default)]
    pub began_unix_ms: u64,
    /// Who led when, as the nodes said.
    #[serde(default)]
    pub leaders: Vec<Leadership>,
    /// Who led each group when, as the nodes said that can tell.
    #[serde(default)]
    pub groups: Vec<GroupLeadership>,
    /// What was expected besides a correct store.
    #[serde(default)]
    pub expected: Expected,
}

/// How many faults came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Were made.
    pub applied: u64,
    /// Faults whose effect was seen from outside.
    #[serde(default)]
    pub seen: u64,
    /// Had no effect, as seen from outside; they do not count as made.
    #[serde(default)]
    pub disproved: u64,
    /// Could not be made; nothing was done.
    pub skipped: u64,
    /// Went wrong.
    pub failed: u64,
}

/// Faults of a run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSummary {
    /// All of them.
    pub total: FaultCounts,
    /// By name of the nemesis.
    pub by_nemesis: BTreeMap<String, FaultCounts>,
}

/// The outcome of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the harness.
    pub harness: String,
    /// All in all.
    pub verdict: Verdict,
    /// What the process exits with: 0 valid, 1 invalid, 2 unknown.
    pub exit_code: i32,
    /// Why it is not a pass; empty if it is one.
    pub reasons: Vec<String>,
    /// What was run.
    #[serde(flatten)]
    pub run: Run,
    /// Nodes that could not take part any more, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub out: BTreeMap<NodeId, String>,
    /// What the harness could not do, which is among the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortcomings: Vec<String>,
    /// Events in the history. A `history.jsonl` with fewer was cut off.
    pub events: u64,
    /// One for each checker.
    pub findings: Vec<Finding>,
    /// Acknowledged writes that are gone: the measured RPO. What the number is worth stands in
    /// `loss`.
    pub lost: u64,
    /// The lost writes, with the certainty of their number and its proof.
    #[serde(default)]
    pub loss: Loss,
    /// Faults in numbers.
    pub faults: FaultSummary,
    /// What clients saw.
    pub availability: Availability,
}

impl Results {
    /// Judges a run by its history and the findings of its checkers.
    pub fn new(run: Run, history: &History, findings: Vec<Finding>) -> Self {
        Self::with_states(run, history, &[], findings)
    }

    /// Results of a run whose nodes were asked afterwards what they hold.
    pub fn with_states(
        run: Run,
        history: &History,
        states: &[NodeState],
        mut findings: Vec<Finding>,
    ) -> Self {
        let loss = settled(loss::measure(history, states), &findings);
        let availability = Availability::of(history, run.nodes.len());
        let faults = FaultSummary::of(&availability.faults);
        findings.extend(run.expected.judge(&run, history, &availability));
        let mut results = Self {
            format: FORMAT,
            harness: env!("CARGO_PKG_VERSION").to_owned(),
            verdict: Verdict::Unknown,
            exit_code: 2,
            reasons: Vec::new(),
            run,
            out: BTreeMap::new(),
            shortcomings: Vec::new(),
            events: history.events.len() as u64,
            lost: loss.count,
            loss,
            findings,
            faults,
            availability,
        };
        let mut doubts = results.doubts();
        if let Err(malformed) = history.operations() {
            doubts.push(format!("the history is malformed: {malformed}"));
        }
        results.judge(doubts);
        results
    }

    /// Adds a reason why nothing can be concluded, such as an error of the harness: *valid* becomes
    /// *unknown*, *invalid* stays.
    pub fn doubt(&mut self, reason: impl Into<String>) {
        self.judge(vec![reason.into()]);
    }

    /// All in all: *invalid* if a checker says so; else *unknown* if a checker says so or there is
    /// a reason against a pass; else *valid*.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    fn judge(&mut self, doubts: Vec<String>) {
        let worst = self.findings.iter().map(|finding| finding.verdict).max();
        self.reasons.extend(doubts);
        self.verdict = match worst {
            Some(Verdict::Invalid) => Verdict::Invalid,
            Some(Verdict::Valid) if self.reasons.is_empty() => Verdict::Valid,
            _ => Verdict::Unknown,
        };
        self.exit_code = exit_code(self.verdict);
    }

    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.findings.is_empty() {
            doubts.push("no checker looked at the history".to_owned());
        }
        for finding in &self.findings {
            match finding.verdict {
                Verdict::Valid => {}
                Verdict::Unknown => {
                    doubts.push(format!("{}: {}", finding.checker, finding.summary))
                }
                Verdict::Invalid => doubts.push(format!(
                    "{}: {} found",
                    finding.checker,
                    anomalies_words(finding.anomalies_found)
                )),
            }
        }
        if self.availability.operations.values().all(|op| op.ok == 0) {
            doubts.push("no operation of the load succeeded".to_owned());
        }
        let faults = &self.availability.faults;
        let first_skip = |wanted: Option<&str>| {
            faults
                .iter()
                .filter(|fault| wanted.is_none_or(|name| fault.nemesis == name))
                .find_map(|fault| fault.disproved.as_deref().or(fault.skipped.as_deref()))
                .map(|why| format!(" ({why})"))
                .unwrap_or_default()
        };
        if !self.run.nemeses.is_empty() && self.faults.total.applied == 0 {
            doubts.push(format!(
                "faults were asked for ({}) and none was made{}",
                self.run.nemeses.join(", "),
                first_skip(None)
            ));
        } else {
            for name in &self.run.nemeses {
                if let Some(counts) = self.faults.by_nemesis.get(name)
                    && counts.applied == 0
                {
                    doubts.push(format!(
                        "{name} was asked for and never made{}",
                        first_skip(Some(name))
                    ));
                }
            }
        }
        for fault in faults {
            if let Some(error) = &fault.error {
                doubts.push(format!(
                    "fault {} ({}) went wrong: {error}",
                    fault.fault, fault.nemesis
                ));
            } else if fault.applied() && fault.healed_ns.is_none() {
                doubts.push(format!(
                    "fault {} ({}) was never healed",
                    fault.fault, fault.nemesis
                ));
            }
        }
        doubts
    }

    /// How many acknowledged writes are gone, in words that tell a bound from a number.
    pub fn lost_words(&self) -> String {
        lost_words(self.lost, self.loss.certainty)
    }

    /// Operations that were checked: those of the checker that looked at most.
    pub fn checked(&self) -> u64 {
        self.findings
            .iter()
            .map(|finding| finding.checked)
            .max()
            .unwrap_or(0)
    }

    /// Writes `results.json`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_string_pretty(self).map_err(io::Error::from)?;
        json.push('\n');
        fs::write(path, json)
    }

    /// Reads `results.json`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not a `results.json` of this format
    /// ([`io::ErrorKind::InvalidData`]).
    pub fn read(path: &Path) -> io::Result<Self> {
        let invalid = |problem: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {problem}", path.display()),
            )
        };
        let json: serde_json::Value = serde_json::from_reader(BufReader::new(File::open(path)?))
            .map_err(|error| invalid(error.to_string()))?;
        let format = json.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(invalid(format!(
                "its format is {format:?}, and this program reads {FORMAT}"
            )));
        }
        serde_json::from_value(json).map_err(|error| invalid(error.to_string()))
    }
}

impl FaultSummary {
    fn of(faults: &[FaultReport]) -> Self {
        let mut summary = Self::default();
        for fault in faults {
            let counts = summary.by_nemesis.entry(fault.nemesis.clone()).or_default();
            for counts in [counts, &mut summary.total] {
                if fault.applied() {
                    counts.applied += 1;
                    counts.seen += u64::from(fault.seen.is_some());
                }
                counts.disproved += u64::from(fault.disproved.is_some());
                if fault.skipped.is_some() {
                    counts.skipped += 1;
                }
                if fault.error.is_some() {
                    counts.failed += 1;
                }
            }
        }
        summary
    }
}

/// Names of the anomalies that are a loss of acknowledged data.
const LOSSES: [&str; 6] = [
    "lost",
    "lost-write",
    "lost-append",
    "lost-increment",
    "lost-element",
    "lost-transfer",
];

/// What was counted, seen together with what the checkers found: none is gone where nothing is wrong
/// and everything was read in the end, and where something is wrong that could not be counted, none
/// is not the answer.
fn settled(mut loss: Loss, findings: &[Finding]) -> Loss {
    let mut anomalies = findings.iter().flat_map(|finding| &finding.anomalies);
    if loss.count > 0 || loss.certainty == Certainty::Exact {
        return loss;
    }
    if anomalies.clone().next().is_none() {
        if loss.read_finally {
            loss.certainty = Certainty::Exact;
            loss.open.clear();
        }
    } else if anomalies.any(|anomaly| LOSSES.contains(&anomaly.name.as_str())) {
        loss.count = 1;
        loss.certainty = Certainty::AtLeast;
        loss.open = "a checker found a loss that could not be counted".to_owned();
    } else {
        loss.certainty = Certainty::Unknown;
    }
    loss
}

/// A number of lost writes, in words that tell a bound from a number.
pub(super) fn lost_words(lost: u64, certainty: Certainty) -> String {
    match (certainty, lost) {
        (Certainty::Exact, _) => count(lost),
        (Certainty::AtLeast, 0) => "none seen".to_owned(),
        (Certainty::AtLeast, _) => format!("at least {}", count(lost)),
        (Certainty::Unknown, _) => "not known".to_owned(),
    }
}

/// What the process exits with.
pub fn exit_code(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Valid => 0,
        Verdict::Invalid => 1,
        Verdict::Unknown => 2,
    }
}

fn anomalies_words(count: u64) -> String {
    if count == 1 {
        "1 anomaly".to_owned()
    } else {
        format!("{count} anomalies")
    }
}

#[cfg(test)]
mod tests;
