//! An anomaly, drawn: operations as bars on the lanes of their processes, and the edges that
//! contradict each other.
//!
//! The horizontal axis keeps the order of the events, not their distances: an anomaly may span
//! microseconds and minutes. Every bar is as wide as its words, so that words never overlap, and a
//! bar begins and ends left or right of another's begin and end as it was in time.
//!
//! ```text
//!  process 3  ┌────────────┐        ┌──────────┐
//!             │ write 1 = 5│        │read 1: 4 │
//!             └─────────┬──┘        └──────────┘
//!                    wr ▼    ▲ rw
//!  process 7      ┌───────────┐
//!                 │ read 1: 5 │
//!                 └───────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use maud::{Markup, html};

use super::plots::shortened;
use crate::{
    checker::{Anomaly, Edge},
    evidence::{
        page::{at, px},
        span::{Span, answered, asked, drawn, kind_word},
    },
    history::{FaultEvent, History, Kind, Op, What},
};

/// Operations that are drawn.
const DRAWN_MAX: usize = 40;
/// Letters of an operation in its bar.
const LETTERS_MAX: usize = 56;
/// Width of a letter in a bar, at most, on average.
const LETTER: f64 = 6.6;
/// Where the lanes begin.
const LEFT: f64 = 100.0;
/// Between an event and the next.
const GAP: f64 = 16.0;
/// Narrowest drawing; wider ones scroll.
const WIDTH_MIN: f64 = 700.0;
/// Room for a point in time below the lanes.
const TIME_LABEL: f64 = 74.0;
/// Height of a bar.
const BAR: f64 = 26.0;
/// From a lane to the next; the edges live between.
const LANE: f64 = 84.0;
/// Room above the first lane: labels of faults, and edges within the lane.
const TOP: f64 = 62.0;

struct Bar<'a> {
    span: &'a Span<'a>,
    words: String,
    lane: usize,
    left: f64,
    right: f64,
    /// No completion was seen: it may take effect at any later time.
    open: bool,
}

impl Bar<'_> {
    fn top(&self) -> f64 {
        TOP + LANE * self.lane as f64
    }
}

/// Draws the operations that an anomaly names. Empty if it names none.
pub fn draw(anomaly: &Anomaly, history: &History, spans: &[Span<'_>]) -> Markup {
    let (mut bars, faults, left_out) = bars(anomaly, history, spans);
    if bars.is_empty() {
        return html! {};
    }
    let (faults, width) = lay_out(&mut bars, &faults);
    let lanes = bars.iter().map(|bar| bar.lane).max().unwrap_or(0) + 1;
    let bottom = TOP + LANE * (lanes - 1) as f64 + BAR + 18.0;
    let edges = edges(&anomaly.edges, &bars);
    let mut processes: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for bar in &bars {
        processes.insert(bar.lane, (bar.span.invoke.process, bar.span.invoke.node));
    }
    html! {
        div class="scroll" {
            svg width=(px(width)) height=(bottom + 26.0) viewBox={ "0 0 " (px(width)) " " (bottom + 26.0) } role="img" aria-label={ "Drawing of " (anomaly.name) } {
                @for (lane, (process, node)) in &processes {
                    @let y = TOP + LANE * *lane as f64 + BAR / 2.0;
                    line class="lane" x1=(LEFT - 8.0) x2=(px(width - 8.0)) y1=(y) y2=(y) {}
                    text x="0" y=(y) { "process " (process) }
                    @if *node > 0 {
                        text class="faint" x="0" y=(y + 15.0) { "node " (node) }
                    }
                }
                @for (x, row, words) in &faults {
                    line class="fault-line" x1=(px(*x)) x2=(px(*x)) y1=(14.0 + 13.0 * *row as f64) y2=(bottom) {}
                    text class="fault" x=(px(x + 4.0)) y=(11.0 + 13.0 * *row as f64) { (words) }
                }
                @for edge in &edges {
                    path class={ "edge " (edge.class) } d=(edge.path) marker-end={ "url(#head-" (edge.class) ")" } {}
                }
                @for bar in &bars { (draw_bar(bar)) }
                @for edge in &edges {
                    text class={ "edge-label middle " (edge.class) } x=(px(edge.label_at.0)) y=(px(edge.label_at.1 + 4.0)) { (edge.label) }
                }
                (times(&bars, bottom))
            }
        }
        @if left_out > 0 {
            p class="faint" { "Operations that are not drawn: " (left_out) }
        }
    }
}

/// Heads of the arrows, for all drawings of a page.
pub fn arrow_heads() -> Markup {
    html! {
        svg width="0" height="0" style="position:absolute" aria-hidden="true" {
            defs {
                @for class in ["ww", "wr", "rw", "rt", "other"] {
                    marker id={ "head-" (class) } viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto" {
                        path class={ "head " (class) } d="M0 0L10 5L0 10z" {}
                    }
                }
            }
        }
    }
}

/// The operations to draw, in the order of their invocations, the faults among the events, and how
/// many operations found no place.
fn bars<'a>(
    anomaly: &Anomaly,
    history: &'a History,
    spans: &'a [Span<'a>],
) -> (Vec<Bar<'a>>, Vec<(u64, &'a FaultEvent)>, usize) {
    let mut named: BTreeSet<u64> = anomaly.events.iter().copied().collect();
    for edge in &anomaly.edges {
        named.extend([edge.from, edge.to]);
    }
    // The ends of edges come first: without them the edges cannot be drawn.
    let ends: BTreeSet<u64> = anomaly
        .edges
        .iter()
        .flat_map(|edge| [edge.from, edge.to])
        .collect();
    let found: Vec<&Span<'_>> = spans
        .iter()
        .filter(|span| {
            named.contains(&span.invoked)
                || span.completed.is_some_and(|index| named.contains(&index))
        })
        .collect();
    let mut wanted: Vec<&Span<'_>> = found.clone();
    wanted.sort_by_key(|span| (!ends.contains(&span.invoked), span.invoked));
    wanted.truncate(DRAWN_MAX);
    wanted.sort_by_key(|span| span.invoked);
    let mut lanes: HashMap<u64, usize> = HashMap::new();
    let bars: Vec<Bar<'_>> = wanted
        .into_iter()
        .map(|span| {
            let next = lanes.len();
            Bar {
                span,
                words: shortened(&drawn(span), LETTERS_MAX),
                lane: *lanes.entry(span.invoke.process).or_insert(next),
                left: 0.0,
                right: 0.0,
                open: span.kind() == Kind::Info,
            }
        })
        .collect();
    let faults = history
        .faults()
        .filter(|(event, _)| named.contains(&event.index))
        .map(|(event, fault)| (event.index, fault))
        .collect();
    let left_out = found.len() - bars.len();
    (bars, faults, left_out)
}

/// Gives every bar its place; returns the places of the faults with their rows and words, and the
/// width of the drawing.
fn lay_out(
    bars: &mut [Bar<'_>],
    faults: &[(u64, &FaultEvent)],
) -> (Vec<(f64, usize, String)>, f64) {
    #[derive(Clone, Copy)]
    enum Mark {
        Begin(usize),
        End(usize),
        Fault(usize),
    }
    let mut marks: Vec<(u64, Mark)> = Vec::new();
    for (number, bar) in bars.iter().enumerate() {
        marks.push((bar.span.invoked, Mark::Begin(number)));
        if let (false, Some(completed)) = (bar.open, bar.span.completed) {
            marks.push((completed, Mark::End(number)));
        }
    }
    for (number, (index, _)) in faults.iter().enumerate() {
        marks.push((*index, Mark::Fault(number)));
    }
    marks.sort_by_key(|mark| mark.0);
    let needs = |bar: &Bar<'_>| LETTER * bar.words.chars().count() as f64 + 18.0;
    let mut fault_places = vec![0.0; faults.len()];
    let mut x = LEFT - GAP;
    for (_, mark) in marks {
        x += GAP;
        match mark {
            Mark::Begin(number) => bars[number].left = x,
            Mark::End(number) => {
                let bar = &mut bars[number];
                x = x.max(bar.left + needs(bar));
                bar.right = x;
            }
            Mark::Fault(number) => fault_places[number] = x,
        }
    }
    x += GAP;
    for bar in bars.iter().filter(|bar| bar.open) {
        x = x.max(bar.left + needs(bar));
    }
    for bar in bars.iter_mut().filter(|bar| bar.open) {
        bar.right = x;
    }
    // A small drawing is pulled apart a little, to give the edges room.
    let pull = ((WIDTH_MIN - TIME_LABEL - LEFT) / (x - LEFT)).clamp(1.0, 1.6);
    let pulled = |x: f64| LEFT + (x - LEFT) * pull;
    let mut width = (pulled(x) + TIME_LABEL).max(WIDTH_MIN);
    for bar in bars.iter_mut() {
        (bar.left, bar.right) = (pulled(bar.left), pulled(bar.right));
    }
    let mut taken = [f64::MIN; 2];
    let mut placed = Vec::new();
    for ((_, fault), x) in faults.iter().zip(fault_places) {
        let x = pulled(x);
        let words = format!("{} {} {:?}", fault.fault, fault.nemesis, fault.phase).to_lowercase();
        let end = x + 10.0 + LETTER * words.chars().count() as f64;
        let row = taken.iter().position(|taken| *taken <= x);
        let words = if row.is_some() { words } else { String::new() };
        let row = row.unwrap_or(0);
        if !words.is_empty() {
            taken[row] = end;
            width = width.max(end);
        }
        placed.push((x, row, words));
    }
    (placed, width)
}

fn draw_bar(bar: &Bar<'_>) -> Markup {
    let (top, width) = (bar.top(), bar.right - bar.left);
    let event = bar.span.completion.unwrap_or(bar.span.invoke);
    html! {
        g {
            title {
                "event " (bar.span.invoked) ", " (kind_word(bar.span.kind())) ": " (asked(bar.span.op()))
                @let answer = answered(event);
                @if !answer.is_empty() { ": " (answer) }
            }
            @if bar.open {
                // No right end.
                path class="bar info" d={ "M" (px(bar.right)) " " (top) "H" (px(bar.left)) "v" (BAR) "H" (px(bar.right)) } {}
            } @else {
                rect class={ "bar " (bar.span.outcome()) } x=(px(bar.left)) y=(top) width=(px(width)) height=(BAR) rx="3" {}
            }
            text x=(px(bar.left + 9.0)) y=(top + 17.0) { (bar.words) }
        }
    }
}

/// The time of the invocations, where there is room.
fn times(bars: &[Bar<'_>], bottom: f64) -> Markup {
    let mut marks: Vec<(f64, u64)> = bars
        .iter()
        .map(|bar| (bar.left, bar.span.invoked_at))
        .collect();
    marks.extend(
        bars.iter()
            .filter(|bar| !bar.open)
            .filter_map(|bar| Some((bar.right, bar.span.completed_at?))),
    );
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut taken = f64::MIN;
    marks.retain(|(x, _)| {
        let fits = *x >= taken;
        if fits {
            taken = x + TIME_LABEL;
        }
        fits
    });
    html! {
        @for (x, ns) in marks {
            line class="grid" x1=(px(x)) x2=(px(x)) y1=(bottom - 2.0) y2=(bottom + 4.0) {}
            text class="faint" x=(px(x)) y=(bottom + 18.0) { (at(ns)) }
        }
    }
}

struct DrawnEdge {
    class: &'static str,
    path: String,
    label: String,
    label_at: (f64, f64),
}

/// Left, top, right, bottom.
type Rectangle = (f64, f64, f64, f64);

/// The lower or the upper side of a bar.
type Side = (usize, bool);

/// Where an edge touches a side.
struct Port {
    /// Where the edge goes to or comes from, across.
    other: f64,
    edge: usize,
    leaves: bool,
}

fn overlap(a: &Rectangle, b: &Rectangle) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

fn class(label: &str) -> &'static str {
    match label {
        "ww" => "ww",
        "wr" => "wr",
        "rw" => "rw",
        "realtime" | "rt" | "process" => "rt",
        _ => "other",
    }
}

fn edges(edges: &[Edge], bars: &[Bar<'_>]) -> Vec<DrawnEdge> {
    let by_index: HashMap<u64, usize> = bars
        .iter()
        .enumerate()
        .flat_map(|(number, bar)| {
            [Some(bar.span.invoked), bar.span.completed]
                .into_iter()
                .flatten()
                .map(move |index| (index, number))
        })
        .collect();
    // An edge leaves and enters at the sides of the bars that face each other; within a lane, above.
    let ends: Vec<(&Edge, usize, usize)> = edges
        .iter()
        .filter_map(|edge| Some((edge, *by_index.get(&edge.from)?, *by_index.get(&edge.to)?)))
        .collect();
    let faces_down = |from: usize, to: usize| bars[to].lane > bars[from].lane;
    let middle = |bar: usize| f64::midpoint(bars[bar].left, bars[bar].right);
    // Ports on a side, in the order of where their edges go, so that edges do not cross at a bar.
    let mut ports: HashMap<Side, Vec<Port>> = HashMap::new();
    for (number, &(_, from, to)) in ends.iter().enumerate() {
        for (bar, other, leaves) in [(from, to, true), (to, from, false)] {
            let side = ports.entry((bar, faces_down(bar, other))).or_default();
            side.push(Port {
                other: middle(other),
                edge: number,
                leaves,
            });
        }
    }
    let mut places: HashMap<(usize, bool), (f64, f64)> = HashMap::new();
    for ((bar, down), side) in &mut ports {
        side.sort_by(|a, b| a.other.total_cmp(&b.other).then(a.edge.cmp(&b.edge)));
        let count = side.len() as f64;
        let bar = &bars[*bar];
        let y = if *down { bar.top() + BAR } else { bar.top() };
        for (position, port) in side.iter().enumerate() {
            let share = (position as f64 + 1.0) / (count + 1.0);
            let x = bar.left + (bar.right - bar.left) * share;
            places.insert((port.edge, port.leaves), (x, y));
        }
    }
    let mut taken: Vec<Rectangle> = bars
        .iter()
        .map(|bar| (bar.left, bar.top(), bar.right, bar.top() + BAR))
        .collect();
    ends.iter()
        .enumerate()
        .map(|(number, &(edge, from, to))| {
            let start = places[&(number, true)];
            let end = places[&(number, false)];
            let same_lane = bars[from].lane == bars[to].lane;
            let (bend_start, bend_end) = if same_lane {
                (-38.0, -38.0)
            } else {
                let bend = (end.1 - start.1) * 0.5;
                (bend, -bend)
            };
            let control = [
                start,
                (start.0, start.1 + bend_start),
                (end.0, end.1 + bend_end),
                end,
            ];
            let label = shortened(&edge.label, 24);
            let half = LETTER * label.chars().count() as f64 / 2.0 + 2.0;
            let place = |(x, y): (f64, f64)| (x - half, y - 8.0, x + half, y + 8.0);
            let free = [0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.78]
                .into_iter()
                .map(|t| bezier(&control, t))
                .find(|point| !taken.iter().any(|other| overlap(other, &place(*point))));
            let label_at = free.unwrap_or_else(|| bezier(&control, 0.5));
            taken.push(place(label_at));
            let [a, b, c, d] = control.map(|(x, y)| format!("{} {}", px(x), px(y)));
            DrawnEdge {
                class: class(&edge.label),
                path: format!("M{a}C{b} {c} {d}"),
                label,
                label_at,
            }
        })
        .collect()
}

fn bezier(control: &[(f64, f64); 4], t: f64) -> (f64, f64) {
    let weights = [
        (1.0 - t).powi(3),
        3.0 * t * (1.0 - t).powi(2),
        3.0 * t * t * (1.0 - t),
        t.powi(3),
    ];
    control
        .iter()
        .zip(weights)
        .fold((0.0, 0.0), |(x, y), (point, weight)| {
            (x + point.0 * weight, y + point.1 * weight)
        })
}

/// Rows of the table of events: index, time, who, kind, words.
pub struct EventRow {
    /// Index of the event.
    pub index: u64,
    /// Its time.
    pub at_ns: u64,
    /// The process, or the nemesis.
    pub who: String,
    /// Kind or phase.
    pub kind: String,
    /// What was asked, done or answered.
    pub words: String,
}

/// The events that an anomaly names, in order, at most `rows_max`.
pub fn event_rows(anomaly: &Anomaly, history: &History, rows_max: usize) -> Vec<EventRow> {
    anomaly
        .events
        .iter()
        .filter_map(|index| history.events.get(usize::try_from(*index).ok()?))
        .take(rows_max)
        .map(|event| match &event.what {
            What::Client(client) => EventRow {
                index: event.index,
                at_ns: event.time,
                who: match client.node {
                    0 => format!("process {}", client.process),
                    node => format!("process {}, n{node}", client.process),
                },
                kind: kind_word(client.kind).to_owned(),
                words: match answered(client) {
                    answer if answer.is_empty() => asked(&client.op),
                    // The answer repeats the steps.
                    answer if matches!(client.op, Op::Txn { .. }) && client.reply.is_some() => {
                        answer
                    }
                    answer => format!("{}: {answer}", asked(&client.op)),
                },
            },
            What::Fault(fault) => EventRow {
                index: event.index,
                at_ns: event.time,
                who: format!("fault {}, {}", fault.fault, fault.nemesis),
                kind: format!("{:?}", fault.phase).to_lowercase(),
                words: fault.detail.clone(),
            },
        })
        .collect()
}
