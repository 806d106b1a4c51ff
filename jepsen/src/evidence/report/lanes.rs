//! The timeline of a run: who led, what was broken, and where it went wrong, on one axis.

use maud::{Markup, html};

use super::plots::{BOTTOM, LETTER, ROW, TimeAxis, WIDTH, shortened};
use crate::evidence::{
    availability::FaultReport,
    leadership::Leadership,
    page::{at, px},
    span::node_words,
};

/// A fault, where and when.
pub(super) fn fault_words(fault: &FaultReport) -> String {
    let healed = fault.healed_ns.map_or_else(
        || "never healed".to_owned(),
        |ns| format!("healed at {}", at(ns)),
    );
    format!(
        "{} {} {}: begun at {}, {healed}",
        fault.fault,
        fault.nemesis,
        node_words(&fault.nodes),
        at(fault.begin_ns)
    )
}

/// An anomaly on the time axis.
pub struct Mark {
    /// When it showed.
    pub at_ns: u64,
    /// Its name.
    pub words: String,
}

/// Leaders, faults as bars (one row for each nemesis, more if they overlap), and anomalies.
pub fn timeline(
    axis: &TimeAxis,
    leaders: &[Leadership],
    faults: &[FaultReport],
    marks: &[Mark],
) -> Markup {
    let mut rows: Vec<(&str, f64, Vec<&FaultReport>)> = Vec::new();
    for fault in faults {
        let left = axis.x(fault.begin_ns);
        let right = axis.x(fault.healed_ns.unwrap_or(if fault.applied() {
            u64::MAX
        } else {
            fault.begin_ns
        }));
        let free = rows
            .iter_mut()
            .find(|(nemesis, taken, _)| *nemesis == fault.nemesis && *taken <= left);
        match free {
            Some((_, taken, row)) => {
                *taken = right.max(left + 8.0);
                row.push(fault);
            }
            None => {
                let after = rows
                    .iter()
                    .rposition(|(nemesis, ..)| *nemesis == fault.nemesis)
                    .map_or(rows.len(), |at| at + 1);
                let row = (fault.nemesis.as_str(), right.max(left + 8.0), vec![fault]);
                rows.insert(after, row);
            }
        }
    }
    let top = 26.0;
    let faults_top = top + ROW;
    let marks_top = faults_top + ROW * rows.len() as f64;
    let bottom = marks_top + if marks.is_empty() { 0.0 } else { ROW };
    html! {
        svg class="plot" viewBox={ "0 0 " (WIDTH) " " (bottom + BOTTOM) } role="img" aria-label="Leaders, faults and anomalies over time" {
            text class="title" x="0" y="14" { "What happened when" }
            (axis.draw(top, bottom))
            text x="0" y=(top + 15.0) { "leader, term" }
            (leader_lane(axis, leaders, top))
            @for (number, (nemesis, _, faults)) in rows.iter().enumerate() {
                @let y = faults_top + ROW * number as f64;
                text x="0" y=(y + 15.0) {
                    (shortened(nemesis, 24))
                    title { (nemesis) }
                }
                @for (position, fault) in faults.iter().enumerate() {
                    (timeline_bar(axis, fault, faults.get(position + 1), y))
                }
            }
            @if !marks.is_empty() {
                text class="fault" x="0" y=(marks_top + 15.0) { "anomalies" }
                @for mark in marks {
                    @let x = axis.x(mark.at_ns);
                    line class="fault-line" x1=(px(x)) x2=(px(x)) y1=(top) y2=(bottom) {}
                    path class="mark" d={ "M" (px(x)) " " (marks_top + 4.0) "l7 7l-7 7l-7 -7z" } {
                        title { (mark.words) ", shown at " (at(mark.at_ns)) }
                    }
                }
            }
        }
    }
}

/// Who led, in which term, as far as a node said so.
fn leader_lane(axis: &TimeAxis, leaders: &[Leadership], y: f64) -> Markup {
    html! {
        @for (number, now) in leaders.iter().enumerate() {
            @if let Some(leader) = now.leader {
                @let left = axis.x(now.at_ns);
                @let right = axis.x(leaders.get(number + 1).map_or(u64::MAX, |next| next.at_ns)).max(left + 1.0);
                @let words = format!("n{leader} t{}", now.term);
                g {
                    title { "node " (leader) " leads in term " (now.term) " from " (at(now.at_ns)) }
                    rect class={ "leads leads-" (leader % 4) } x=(px(left)) y=(y + 4.0) width=(px(right - left)) height="14" {}
                    @if right - left > LETTER * words.chars().count() as f64 + 4.0 {
                        text class="in" x=(px(left + 4.0)) y=(y + 15.0) { (words) }
                    }
                }
            }
        }
    }
}

fn timeline_bar(
    axis: &TimeAxis,
    fault: &FaultReport,
    next: Option<&&FaultReport>,
    y: f64,
) -> Markup {
    let left = axis.x(fault.begin_ns);
    let room_until = next.map_or(WIDTH, |next| axis.x(next.begin_ns) - 4.0);
    let Some(broken) = fault.broken_ns.filter(|_| fault.applied()) else {
        return html! {
            circle class="fault-skip" cx=(px(left)) cy=(y + 11.0) r="4" {
                title {
                    (fault_words(fault)) ": "
                    (why_not(fault))
                }
            }
            @if left + 8.0 + 7.0 * LETTER <= room_until {
                text class="faint" x=(px(left + 8.0)) y=(y + 15.0) { @if fault.skipped.is_some() { "skipped" } @else { "not made" } }
            }
        };
    };
    let right = axis.x(fault.healed_ns.unwrap_or(u64::MAX)).max(left + 2.0);
    let solid_left = axis.x(broken).clamp(left, right);
    let solid_right = axis
        .x(fault.heal_ns.unwrap_or(u64::MAX))
        .clamp(solid_left, right);
    let labels = [
        format!("{} {}", fault.fault, node_words(&fault.nodes)),
        fault.fault.to_string(),
    ];
    let label = labels
        .into_iter()
        .find(|label| right + 4.0 + LETTER * label.chars().count() as f64 <= room_until);
    html! {
        g {
            title { (fault_words(fault)) }
            rect class="fault-edge" x=(px(left)) y=(y + 4.0) width=(px(right - left)) height="14" {}
            rect class="fault-bar" x=(px(solid_left)) y=(y + 4.0) width=(px((solid_right - solid_left).max(1.0))) height="14" {}
        }
        @if let Some(label) = label {
            text class="fault" x=(px(right + 4.0)) y=(y + 15.0) { (label) }
        }
    }
}

fn why_not(fault: &FaultReport) -> &str {
    let reasons = [&fault.disproved, &fault.skipped, &fault.error];
    let reason = reasons.into_iter().find_map(|reason| reason.as_deref());
    reason.unwrap_or("not made")
}
