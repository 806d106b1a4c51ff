//! The shell of every page, and how figures are spelled on it.
//!
//! A page is one file: style inside, no script, nothing from the network. What is put into it is
//! escaped by the templates ([`maud`]); only the style, which is part of the program, is not.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::checker::Verdict;

/// A page with a title.
pub fn page(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// The word for a verdict, which is also its class in the style.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unknown => "unknown",
        Verdict::Invalid => "invalid",
    }
}

/// A verdict as a small coloured sign.
pub fn badge(verdict: Verdict) -> Markup {
    let word = verdict_word(verdict);
    html! { span class={ "badge " (word) } { (word) } }
}

/// A length of time with three digits and a fitting unit: `870 µs`, `12.3 ms`, `4.07 s`, `12 min 5 s`.
pub fn duration(ns: u64) -> String {
    let seconds = ns as f64 / 1e9;
    let (value, unit) = match ns {
        0 => return "0 s".to_owned(),
        1..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (ns as f64 / 1e3, "µs"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ if seconds < 119.5 => (seconds, "s"),
        _ => {
            let whole = seconds.round() as u64;
            let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
            return match (hours, seconds) {
                (0, 0) => format!("{minutes} min"),
                (0, _) => format!("{minutes} min {seconds} s"),
                _ => format!("{hours} h {minutes} min"),
            };
        }
    };
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// A duration that may be missing.
pub fn duration_or_dash(ns: Option<u64>) -> String {
    ns.map_or_else(|| "–".to_owned(), duration)
}

/// A point in time of the run, in seconds: `12.345 s`.
pub fn at(ns: u64) -> String {
    format!("{:.3} s", ns as f64 / 1e9)
}

/// The time of day, UTC, of a point in time of a run that began so many milliseconds after 1970; `None`
/// if that is not known.
pub fn clock(began_unix_ms: u64, ns: u64) -> Option<String> {
    let ms = began_unix_ms.checked_add(ns / 1_000_000)?;
    let seconds = ms / 1_000 % 86_400;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    (began_unix_ms > 0).then(|| format!("{hours:02}:{minutes:02}:{seconds:02} UTC"))
}

/// A number with its thousands set apart: `1 234 567`, by spaces that do not break.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A coordinate, rounded to a tenth of a pixel.
pub fn px(value: f64) -> f64 {
    // Adding zero makes -0 to 0.
    (value * 10.0).round() / 10.0 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (ns, text) in [
            (0, "0 s"),
            (999, "999 ns"),
            (1_500, "1.50 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (12_340_000, "12.3 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1.00 s"),
            (9_999_000_000, "10.0 s"),
            (100_000_000_000, "100 s"),
            (120_000_000_000, "2 min"),
            (725_000_000_000, "12 min 5 s"),
            (3_723_000_000_000, "1 h 2 min"),
        ] {
            assert_eq!(duration(ns), text, "{ns}");
        }
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(clock(0, 5), None);
        let noon = 1_764_000_000_000 - 1_764_000_000_000 % 86_400_000 + 43_200_000;
        assert_eq!(clock(noon, 1_999_000_000).unwrap(), "12:00:01 UTC");
        assert_eq!(px(-0.01).to_string(), "0");
    }

    #[test]
    fn a_title_is_escaped() {
        let page = page("<a> & \"b\"", &html! {});
        assert!(page.contains("<title>&lt;a&gt; &amp; &quot;b&quot;</title>"));
    }
}
