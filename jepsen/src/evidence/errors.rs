//! Errors by their kind: what went wrong, without where and how often it did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::span::Span;
use crate::history::Kind;

/// Letters of a kind of error.
const LETTERS_MAX: usize = 100;
/// Kinds that are told apart; the rest is one.
const KINDS_MAX: usize = 40;
/// The kind of those that are not told apart.
const OTHERS: &str = "others";
/// What the client adds to an error whose effect it does not know.
const EFFECT: &str = " (effect unknown";

/// How many requests ended with an error of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Had no effect.
    pub fail: u64,
    /// May have had one.
    pub info: u64,
}

/// Errors of the load. What a correct store refuses is none.
pub fn errors(load: &[&Span<'_>]) -> BTreeMap<String, ErrorReport> {
    let mut errors: BTreeMap<String, ErrorReport> = BTreeMap::new();
    for span in load.iter().filter(|span| !span.is_refused()) {
        let error = span.completion.and_then(|event| event.error.as_deref());
        let kind = match (span.kind(), error) {
            (Kind::Ok | Kind::Invoke, _) => continue,
            (_, Some(error)) => kind(error),
            (_, None) => "no answer when the run ended".to_owned(),
        };
        let known = errors.len() < KINDS_MAX || errors.contains_key(&kind);
        let report = errors.entry(if known { kind } else { OTHERS.to_owned() });
        let report = report.or_default();
        match span.kind() {
            Kind::Fail => report.fail += 1,
            _ => report.info += 1,
        }
    }
    errors
}

/// An error without the address and the numbers in it.
fn kind(error: &str) -> String {
    let error = error.split(EFFECT).next().unwrap_or(error);
    let mut kind = String::new();
    let mut rest = error;
    // Addresses stand in brackets.
    while let Some((before, after)) = rest.split_once(" [http") {
        kind.push_str(before);
        rest = after.split_once(']').map_or("", |(_, rest)| rest);
    }
    kind.push_str(rest);
    let mut digits = false;
    let mut short = String::new();
    for letter in kind.trim().chars() {
        if letter.is_ascii_digit() {
            if !digits {
                short.push('#');
            }
        } else {
            short.push(letter);
        }
        digits = letter.is_ascii_digit();
    }
    short.chars().take(LETTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::span::spans,
        history::{ClientEvent, Event, History, Op, What},
        workload::store::REFUSALS,
    };

    /// A compare-and-set of its own process that fails for this reason.
    fn failed(process: u64, error: &str) -> [Event; 2] {
        let event = |index, kind, error: Option<&str>| Event {
            index,
            time: index,
            what: What::Client(ClientEvent {
                process,
                node: 1,
                kind,
                op: Op::Cas {
                    key: 1,
                    old: 1,
                    new: 2,
                },
                reply: None,
                error: error.map(str::to_owned),
                last: false,
            }),
        };
        [
            event(2 * process, Kind::Invoke, None),
            event(2 * process + 1, Kind::Fail, Some(error)),
        ]
    }

    #[test]
    fn what_a_correct_store_refuses_is_no_error() {
        let mut events = Vec::new();
        for (process, error) in [
            "Timeout expired [http://a:1]",
            "Timeout expired [http://b:2]",
        ]
        .iter()
        .chain(&REFUSALS)
        .enumerate()
        {
            events.extend(failed(process as u64, error));
        }
        let history = History { events };
        let spans = spans(&history);
        let load: Vec<&Span<'_>> = spans.iter().collect();
        let outcomes: Vec<&str> = load.iter().map(|span| span.outcome()).collect();
        assert_eq!(outcomes[..2], ["fail", "fail"]);
        assert!(outcomes[2..].iter().all(|outcome| *outcome == "refused"));
        let expected = ErrorReport { fail: 2, info: 0 };
        assert_eq!(
            errors(&load),
            [("Timeout expired".to_owned(), expected)].into()
        );
    }

    #[test]
    fn where_and_how_long_are_no_part_of_a_kind() {
        for (error, expected) in [
            (
                "etcdserver: request timed out [http://127.0.0.1:25914] (effect unknown: the request \
                 may have been carried out)",
                "etcdserver: request timed out",
            ),
            (
                "Timeout expired [http://127.0.0.1:29380]",
                "Timeout expired",
            ),
            ("revision 4711 is compacted", "revision # is compacted"),
            ("", ""),
        ] {
            assert_eq!(kind(error), expected);
        }
    }
}
