//! Plots over the time of a run: latencies and rates. Both share the time axis and shade
//! the same intervals.
//!
//! Their size does not grow with the history: points that fall on one cell of a grid are drawn once,
//! and rates and quantiles are taken over at most [`BUCKETS_MAX`] buckets.

use std::{collections::HashSet, fmt::Write as _};

use maud::{Markup, html};

use super::lanes::fault_words;
use crate::evidence::{
    availability::{FaultReport, quantile},
    page::{clock, count, duration, px},
    span::Span,
};

/// Width of the drawing area, in units of the drawing.
pub(super) const WIDTH: f64 = 1060.0;
/// Where the time axis begins.
pub(super) const LEFT: f64 = 150.0;
/// Where it ends.
const RIGHT: f64 = WIDTH - 10.0;
/// Room above a plot: its title, and two rows of labels of faults.
const TOP: f64 = 54.0;
/// Height of the latency and rate plots.
const HEIGHT: f64 = 230.0;
/// Height of one row of the timeline.
pub(super) const ROW: f64 = 22.0;
/// Room for the labels of the time axis.
pub(super) const BOTTOM: f64 = 38.0;
/// Edge of the cells of the scatter plot.
const CELL: f64 = 3.0;
/// Width of a letter of the labels, at most, on average.
pub(super) const LETTER: f64 = 6.4;
/// Buckets of rates and quantiles.
const BUCKETS_MAX: u64 = 200;

/// How operations end; see [`Span::outcome`].
const OUTCOMES: [&str; 4] = ["ok", "refused", "fail", "info"];

/// The time axis that all plots share.
pub struct TimeAxis {
    end_ns: u64,
    began_unix_ms: u64,
}

impl TimeAxis {
    /// From 0, which is so many milliseconds after 1970 if that is known, to the end of the history.
    pub fn until(end_ns: u64, began_unix_ms: u64) -> Self {
        Self {
            end_ns: end_ns.max(1_000_000),
            began_unix_ms,
        }
    }

    pub(super) fn x(&self, ns: u64) -> f64 {
        let share = ns.min(self.end_ns) as f64 / self.end_ns as f64;
        LEFT + share * (RIGHT - LEFT)
    }

    pub(super) fn draw(&self, top: f64, bottom: f64) -> Markup {
        const STEPS_MS: [u64; 18] = [
            1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000,
            60_000, 300_000, 900_000,
        ];
        let step = STEPS_MS
            .into_iter()
            .map(|ms| ms * 1_000_000)
            .find(|step| self.end_ns / step <= 12)
            .unwrap_or(self.end_ns.div_ceil(12));
        html! {
            @for tick in (0..=self.end_ns / step).map(|tick| tick * step) {
                line class="grid" x1=(px(self.x(tick))) x2=(px(self.x(tick))) y1=(top) y2=(bottom) {}
                text class="faint middle" x=(px(self.x(tick))) y=(bottom + 16.0) { (tick_words(tick)) }
                @if let Some(clock) = clock(self.began_unix_ms, tick) {
                    text class="faint middle clock" x=(px(self.x(tick))) y=(bottom + 30.0) { (clock.trim_end_matches(" UTC")) }
                }
            }
        }
    }

    /// Shades the intervals in which something was broken, with labels above that do not overlap.
    fn shade(&self, faults: &[FaultReport], bottom: f64) -> Markup {
        let applied: Vec<&FaultReport> = faults.iter().filter(|fault| fault.applied()).collect();
        let labels = self.labels(&applied, |fault| {
            format!("{} {}", fault.fault, fault.nemesis)
        });
        // Where not all names find room, numbers say more.
        let labels = if labels.len() == applied.len() {
            labels
        } else {
            self.labels(&applied, |fault| fault.fault.to_string())
        };
        html! {
            @for fault in &applied {
                @let left = self.x(fault.begin_ns);
                @let right = self.x(fault.healed_ns.unwrap_or(self.end_ns));
                rect class="shade" x=(px(left)) y=(TOP) width=(px((right - left).max(1.0))) height=(px(bottom - TOP)) {
                    title { (fault_words(fault)) }
                }
            }
            @for (x, row, label) in &labels {
                text class="fault" x=(px(*x)) y=(TOP - 18.0 + 13.0 * *row as f64) { (label) }
            }
        }
    }

    /// Labels of faults that find room in one of two rows: left end, row, words.
    fn labels(
        &self,
        faults: &[&FaultReport],
        words: impl Fn(&FaultReport) -> String,
    ) -> Vec<(f64, usize, String)> {
        let mut taken = [f64::MIN; 2];
        let mut labels = Vec::new();
        for fault in faults {
            let label = words(fault);
            let width = LETTER * label.chars().count() as f64;
            // At the right end a label ends where the axis does.
            let left = self.x(fault.begin_ns).min(WIDTH - width);
            if let Some(row) = taken.iter().position(|taken| left >= *taken) {
                taken[row] = left + width + 6.0;
                labels.push((left, row, label));
            }
        }
        labels
    }

    /// Buckets of equal length that cover the axis, no shorter than `shortest_ns`.
    fn bucket_ns(&self, shortest_ns: u64) -> u64 {
        self.end_ns.div_ceil(BUCKETS_MAX).max(shortest_ns)
    }
}

fn tick_words(ns: u64) -> String {
    match ns {
        0 => "0".to_owned(),
        _ if ns.is_multiple_of(60_000_000_000) => format!("{} min", ns / 60_000_000_000),
        _ if ns.is_multiple_of(1_000_000_000) => format!("{} s", ns / 1_000_000_000),
        _ => format!("{} ms", ns / 1_000_000),
    }
}

/// The beginning of a text, of at most so many letters.
pub fn shortened(text: &str, letters_max: usize) -> String {
    if text.chars().count() <= letters_max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(letters_max - 1).collect();
    short.push('…');
    short
}

/// Latency of each operation at the time it completed, with the median and the 99th percentile of
/// those that were *ok*.
pub fn latency(axis: &TimeAxis, spans: &[Span<'_>], faults: &[FaultReport]) -> Markup {
    let points: Vec<(&str, u64, u64)> = spans
        .iter()
        .filter_map(|span| {
            let latency = span.latency()?.max(10_000);
            Some((span.outcome(), span.completed_at?, latency))
        })
        .collect();
    let lowest = points.iter().map(|point| point.2).min().unwrap_or(100_000);
    let highest = points
        .iter()
        .map(|point| point.2)
        .max()
        .unwrap_or(1_000_000);
    // Whole decades.
    let low = (lowest as f64).log10().floor();
    let high = (highest as f64).log10().ceil().max(low + 1.0);
    let bottom = TOP + HEIGHT;
    let y = |ns: f64| bottom - (ns.log10() - low) / (high - low) * HEIGHT;
    let dots = OUTCOMES.map(|kind| {
        let mut cells = HashSet::new();
        let mut path = String::new();
        for &(_, at, ns) in points.iter().filter(|point| point.0 == kind) {
            let cell = (
                (axis.x(at) / CELL).round() as i32,
                (y(ns as f64) / CELL).round() as i32,
            );
            if cells.insert(cell) {
                write!(
                    path,
                    "M{} {}h0",
                    f64::from(cell.0) * CELL,
                    f64::from(cell.1) * CELL
                )
                .expect("a string takes every write");
            }
        }
        (kind, path)
    });
    let bucket = axis.bucket_ns(250_000_000);
    let mut buckets = vec![Vec::new(); (axis.end_ns / bucket + 1) as usize];
    for &(kind, at, ns) in &points {
        if kind == OUTCOMES[0] {
            buckets[(at.min(axis.end_ns) / bucket) as usize].push(ns);
        }
    }
    for bucket in &mut buckets {
        bucket.sort_unstable();
    }
    let line = |share: f64| {
        let mut path = String::new();
        let mut pen = 'M';
        for (number, latencies) in buckets.iter().enumerate() {
            let Some(ns) = quantile(latencies, share) else {
                pen = 'M';
                continue;
            };
            let x = axis.x(bucket * number as u64 + bucket / 2);
            let y = px(y(ns as f64));
            match pen {
                // A point without neighbours is a dot.
                'M' => write!(path, "M{} {y}h0", px(x)),
                _ => write!(path, "L{} {y}", px(x)),
            }
            .expect("a string takes every write");
            pen = 'L';
        }
        path
    };
    html! {
        svg class="plot" viewBox={ "0 0 " (WIDTH) " " (bottom + BOTTOM) } role="img" aria-label="Latency over time" {
            text class="title" x="0" y="14" { "Latency" }
            (legend(&[("dots ok", "ok"), ("dots refused", "refused"), ("dots fail", "fail"), ("dots info", "info"), ("quantile", "p50 of ok"), ("quantile p99", "p99 of ok")]))
            (axis.shade(faults, bottom))
            (axis.draw(TOP, bottom))
            @for decade in low as i32..=high as i32 {
                @let ns = 10f64.powi(decade);
                line class="grid" x1=(LEFT) x2=(RIGHT) y1=(px(y(ns))) y2=(px(y(ns))) {}
                text class="faint end" x=(LEFT - 8.0) y=(px(y(ns) + 4.0)) { (decade_words(decade)) }
            }
            @for (class, path) in &dots {
                @if !path.is_empty() {
                    path class={ "dots " (class) } d=(path) {}
                }
            }
            path class="quantile" d=(line(0.5)) {}
            path class="quantile p99" d=(line(0.99)) {}
        }
    }
}

fn decade_words(decade: i32) -> String {
    duration(10u64.saturating_pow(decade.max(0).unsigned_abs()))
        .replace(".00", "")
        .replace(".0", "")
}

/// Completions a second, by outcome, stacked.
pub fn rate(axis: &TimeAxis, spans: &[Span<'_>], faults: &[FaultReport]) -> Markup {
    let bucket = axis.bucket_ns(500_000_000);
    let seconds = bucket as f64 / 1e9;
    let mut counts = vec![[0u64; OUTCOMES.len()]; (axis.end_ns / bucket + 1) as usize];
    for span in spans {
        let Some(at) = span.completed_at else {
            continue;
        };
        let outcome = OUTCOMES.iter().position(|known| *known == span.outcome());
        if let Some(outcome) = outcome {
            counts[(at.min(axis.end_ns) / bucket) as usize][outcome] += 1;
        }
    }
    let highest = counts
        .iter()
        .map(|counts| counts.iter().sum::<u64>() as f64 / seconds)
        .fold(1.0, f64::max);
    let step = round_step(highest / 4.0);
    let top_value = (highest / step).ceil() * step;
    let bottom = TOP + HEIGHT;
    let y = |rate: f64| bottom - rate / top_value * HEIGHT;
    // The area of one outcome lies on those before it.
    let area = |upto: usize| {
        let height =
            |counts: &[u64], kinds: usize| y(counts[..kinds].iter().sum::<u64>() as f64 / seconds);
        let mut path = String::new();
        for (number, counts) in counts.iter().enumerate() {
            let (low, high) = (height(counts, upto), height(counts, upto + 1));
            if low - high < 0.05 {
                continue;
            }
            let left = axis.x(bucket * number as u64);
            let right = axis.x(bucket * (number as u64 + 1));
            write!(
                path,
                "M{} {}H{}V{}H{}z",
                px(left),
                px(low),
                px(right),
                px(high),
                px(left)
            )
            .expect("a string takes every write");
        }
        path
    };
    html! {
        svg class="plot" viewBox={ "0 0 " (WIDTH) " " (bottom + BOTTOM) } role="img" aria-label="Operations per second over time" {
            text class="title" x="0" y="14" { "Operations per second" }
            (legend(&[("area ok", "ok"), ("area refused", "refused"), ("area fail", "fail"), ("area info", "info")]))
            (axis.shade(faults, bottom))
            (axis.draw(TOP, bottom))
            @for tick in 0..=(top_value / step).round() as u64 {
                @let rate = tick as f64 * step;
                line class="grid" x1=(LEFT) x2=(RIGHT) y1=(px(y(rate))) y2=(px(y(rate))) {}
                text class="faint end" x=(LEFT - 8.0) y=(px(y(rate) + 4.0)) {
                    @if step < 1.0 { (rate) } @else { (count(rate.round() as u64)) }
                }
            }
            @for (kind, class) in OUTCOMES.into_iter().enumerate() {
                path class={ "area " (class) } d=(area(kind)) {}
            }
        }
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is no less.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(0.25).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

fn legend(items: &[(&str, &str)]) -> Markup {
    let mut x = LEFT + 60.0;
    let placed: Vec<(f64, &str, &str)> = items
        .iter()
        .map(|&(class, words)| {
            let here = x;
            x += 36.0 + LETTER * words.chars().count() as f64;
            (here, class, words)
        })
        .collect();
    html! {
        @for (x, class, words) in placed {
            @if class.starts_with("area") {
                rect class=(class) x=(px(x)) y="4" width="12" height="12" {}
            } @else if class.starts_with("dots") {
                path class=(class) style="opacity:1;stroke-width:6" d={ "M" (px(x + 6.0)) " 10h0" } {}
            } @else {
                path class=(class) d={ "M" (px(x - 6.0)) " 10h18" } {}
            }
            text class="faint" x=(px(x + 17.0)) y="14" { (words) }
        }
    }
}
