//! The summary of the demonstration.

use std::fmt;
use std::time::{Duration, Instant};

use holdfast::unique_writes::{Acknowledged, Audit, History, longest_pause, rate};

use crate::dev::layout::NodePlan;
use crate::dev::screen::short;

/// How the killed node came back.
#[derive(Debug, Clone, Copy)]
pub struct CatchUp {
    /// Revisions it lacked when its new process was started.
    pub missed: i64,
    /// From the start of the new process to its first answer.
    pub answered: Duration,
    /// From the start of the new process until its own state held all that had been acknowledged
    /// when it first answered.
    pub caught_up: Duration,
}

/// What the demonstration showed.
#[derive(Debug, Clone)]
pub struct Report {
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Index of the one that was killed.
    pub victim: usize,
    /// What came of all writes; the client of each is its zone.
    pub history: History,
    /// How often a write was sent again.
    pub resent: u64,
    /// When writing began.
    pub begun: Instant,
    /// When the zone was killed.
    pub killed: Instant,
    /// When it had caught up.
    pub back: Instant,
    /// When writing ended.
    pub ended: Instant,
    /// How it came back.
    pub catch_up: CatchUp,
    /// What was found afterwards.
    pub audit: Audit,
}

impl Report {
    /// Nothing was lost, nothing is there twice, and all nodes agree.
    pub fn passed(&self) -> bool {
        self.audit.clean() && self.require_writes().is_ok()
    }

    fn acknowledged_by(&self, zone: usize) -> impl Iterator<Item = &Acknowledged> {
        let acknowledged = self.history.acknowledged.iter();
        acknowledged.filter(move |ack| ack.client == zone)
    }

    /// Acknowledged writes per second of a zone between two moments.
    pub fn rate(&self, zone: usize, from: Instant, to: Instant) -> f64 {
        rate(self.acknowledged_by(zone), from, to)
    }

    /// Longest time without an acknowledged write from the kill to the end, of a zone or of all.
    fn pause(&self, zone: Option<usize>) -> Duration {
        let of_zone = |ack: &&Acknowledged| zone.is_none_or(|zone| ack.client == zone);
        let acknowledged = self.history.acknowledged.iter().filter(of_zone);
        longest_pause(acknowledged, self.killed, self.ended)
    }

    fn table(&self) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "writes/s",
            "before",
            "zone lost",
            "after",
            "longest time without writes",
        ]);
        for (at, node) in self.nodes.iter().enumerate() {
            let (name, pause) = if at == self.victim {
                (
                    format!("{} (killed)", node.zone),
                    "its clients were down with it".to_owned(),
                )
            } else {
                (node.zone.to_owned(), short(self.pause(Some(at))))
            };
            table.add_row([
                name,
                format!("{:.0}", self.rate(at, self.begun, self.killed)),
                format!("{:.0}", self.rate(at, self.killed, self.back)),
                format!("{:.0}", self.rate(at, self.back, self.ended)),
                pause,
            ]);
        }
        let all = |from, to| format!("{:.0}", rate(&self.history.acknowledged, from, to));
        table.add_row([
            "all".to_owned(),
            all(self.begun, self.killed),
            all(self.killed, self.back),
            all(self.back, self.ended),
            short(self.pause(None)),
        ]);
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (audit, catch_up) = (&self.audit, &self.catch_up);
        writeln!(f, "\n{}", self.table())?;
        writeln!(
            f,
            "killed                    {}, which led `default`",
            self.nodes[self.victim].name()
        )?;
        writeln!(
            f,
            "its catch-up              {} after its start ({} to answer), {} revisions missed",
            short(catch_up.caught_up),
            short(catch_up.answered),
            catch_up.missed
        )?;
        writeln!(
            f,
            "acknowledged writes       {} ({} times one was sent again)",
            self.history.acknowledged.len(),
            self.resent
        )?;
        let unknown = self.history.unknown.len();
        if unknown > 0 {
            writeln!(f, "writes of unknown fate    {unknown}")?;
        }
        writeln!(
            f,
            "checked afterwards        {} on each of {} nodes, linearizable and serializable",
            audit.checked,
            audit.nodes.len()
        )?;
        writeln!(f, "lost                      {}", audit.lost())?;
        writeln!(f, "applied twice             {}", audit.twice())?;
        writeln!(f, "other revision or value   {}", audit.wrong())?;
        let hashes: Vec<String> = audit
            .nodes
            .iter()
            .map(|node| format!("{:08x}", node.hash.0))
            .collect();
        writeln!(
            f,
            "hash at revision {:<8} {} on {}",
            audit.revision,
            if audit.hashes_agree() {
                "equal"
            } else {
                "DIFFERENT"
            },
            hashes.join(", ")
        )?;
        for example in audit.examples() {
            writeln!(f, "  {example}")?;
        }
        match (self.passed(), self.require_writes()) {
            (true, _) => write!(f, "PASSED: a zone was lost, no acknowledged write was"),
            (false, Err(error)) => write!(f, "FAILED: {error}"),
            (false, Ok(())) => write!(f, "FAILED: see above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast::unique_writes::{Findings, NodeAudit};

    use super::*;

    /// Ten seconds of 10 writes per second and zone; zone 1 is down from second 3 to second 6, and
    /// nothing is acknowledged for 300 ms after its loss.
    fn report() -> Report {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut history = History::default();
        for tick in 0..100u64 {
            for zone in 0..3 {
                let ms = tick * 100;
                let down =
                    (zone == 1 && (3_000..6_000).contains(&ms)) || (3_000..3_300).contains(&ms);
                if !down {
                    let count = history.acknowledged.len();
                    history.acknowledged.push(Acknowledged {
                        client: zone,
                        key: format!("demo/{count}"),
                        value: String::new(),
                        revision: 2 + count as i64,
                        begun: at(ms),
                        at: at(ms),
                    });
                }
            }
        }
        let nodes = crate::dev::layout::plan(std::path::Path::new("data"), 2379);
        let clean = |node: &NodePlan| NodeAudit {
            name: node.name(),
            linearizable: Findings::default(),
            serializable: Findings::default(),
            hash: (0xabc, 300),
        };
        Report {
            victim: 1,
            resent: 3,
            begun,
            killed: at(3_000),
            back: at(6_000),
            ended: at(10_000),
            catch_up: CatchUp {
                missed: 57,
                answered: Duration::from_millis(150),
                caught_up: Duration::from_millis(400),
            },
            audit: Audit {
                checked: history.acknowledged.len(),
                revision: 300,
                nodes: nodes.iter().map(clean).collect(),
            },
            nodes,
            history,
        }
    }

    #[test]
    fn the_summary_has_the_figures() {
        let report = report();
        assert!(report.passed());
        let text = report.to_string();
        for part in [
            "│ zone-a          ┆ 10     ┆ 9         ┆ 10    ┆ 400 ms",
            "│ zone-b (killed) ┆ 10     ┆ 0         ┆ 10    ┆ its clients were down with it",
            "│ all             ┆ 30     ┆ 18        ┆ 30    ┆ 400 ms",
            "400 ms after its start (150 ms to answer), 57 revisions missed",
            "lost                      0\n",
            "applied twice             0\n",
            "hash at revision 300      equal on 00000abc, 00000abc, 00000abc",
            "PASSED",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }

    #[test]
    fn a_loss_fails_with_an_example() {
        let mut report = report();
        report.audit.nodes[2].serializable.lost = 1;
        report.audit.nodes[2]
            .serializable
            .examples
            .push("k was acknowledged and is not there".to_owned());
        assert!(!report.passed());
        let text = report.to_string();
        assert!(
            text.contains("lost                      1\n") && text.contains("FAILED"),
            "{text}"
        );
        assert!(
            text.contains("node-3 (zone-c) (serializable): k was acknowledged"),
            "{text}"
        );
    }

    #[test]
    fn silence_is_no_success() {
        let mut report = report();
        let killed = report.killed;
        let acknowledged = &mut report.history.acknowledged;
        acknowledged.retain(|ack| ack.client != 2 || ack.at < killed);
        assert!(!report.passed());
        assert!(
            report
                .to_string()
                .contains("FAILED: no write was acknowledged through zone-c after"),
            "{report}"
        );
        let mut refused = self::report();
        refused.history.unknown("k", "v", "no");
        assert!(refused.passed(), "nothing is promised about it");
        refused.history.refused = std::mem::take(&mut refused.history.unknown);
        assert!(!refused.passed());
    }
}
