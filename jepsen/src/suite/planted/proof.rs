//! When a bug had shown: the end of the shortest beginning of a history that is wrong already.
//!
//! The events that an anomaly names do not tell. A write that is missing later may have been
//! answered seconds before it was lost.

use std::time::Duration;

use super::report::Caught;
use crate::{
    checker::{Anomaly, Verdict},
    history::History,
    run::judge::judge,
};

/// How long a search in one beginning may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The first anomaly that a checker finds in the shortest beginning that is wrong. `None` if the
/// history alone is not wrong, as when only the states of the nodes are.
///
/// What is wrong stays wrong when more happens, so the end of that beginning is found by bisection.
pub(super) fn first(mut history: History) -> Option<Caught> {
    let mut found = wrong(&history)?;
    let mut events = std::mem::take(&mut history.events);
    // The first `wrong_with` events are wrong, and the first `right_with` are not.
    let (mut right_with, mut wrong_with) = (0, events.len());
    while wrong_with - right_with > 1 {
        let middle = right_with.midpoint(wrong_with);
        history.events = events[..middle].to_vec();
        match wrong(&history) {
            Some(earlier) => (found, wrong_with) = (earlier, middle),
            None => right_with = middle,
        }
    }
    let completing = events.swap_remove(wrong_with - 1);
    let (checker, anomaly) = found;
    Some(Caught {
        seconds: completing.time as f64 / 1e9,
        checker,
        anomaly: anomaly.name,
    })
}

fn wrong(history: &History) -> Option<(String, Anomaly)> {
    let findings = judge(history, None, LIMIT);
    let mut invalid = findings
        .into_iter()
        .filter(|f| f.verdict == Verdict::Invalid);
    let finding = invalid.next()?;
    Some((finding.checker, finding.anomalies.into_iter().next()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::history::jsonl;

    fn recorded(name: &str) -> History {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        jsonl::read(&dir.join(name)).unwrap()
    }

    #[test]
    fn nothing_less_is_a_proof_and_what_comes_after_does_not_delay_it() {
        for name in [
            "revision/bad-stale-read-register.jsonl",
            "revision/bad-wrong-version-counter-increment.jsonl",
            "linearizability/bad-not-linearizable-lost-update.jsonl",
            "set/bad-lost-simulated.jsonl",
            "bank/bad-wrong-total-simulated.jsonl",
            "counter/bad-applied-twice-simulated.jsonl",
            "stale/bad-went-back-simulated.jsonl",
        ] {
            let history = recorded(name);
            let until = |seconds: f64, inclusive: bool| {
                let mut events = history.events.clone();
                events.retain(|event| {
                    let at = event.time as f64 / 1e9;
                    at < seconds || inclusive && at == seconds
                });
                History { events }
            };
            let proof = first(history.clone()).unwrap();
            assert!(first(until(proof.seconds, false)).is_none(), "{name}");
            let shortest = first(until(proof.seconds, true)).unwrap();
            assert_eq!(shortest.seconds, proof.seconds, "{name}");
        }
    }

    #[test]
    fn no_beginning_of_a_good_history_proves_anything() {
        for name in [
            "append/good-simulated.jsonl",
            "bank/good-simulated.jsonl",
            "counter/good-simulated.jsonl",
            "linearizability/good-simulated-register.jsonl",
            "revision/good-simulated-register.jsonl",
            "revision/good-simulated-set.jsonl",
            "set/good-simulated.jsonl",
            "stale/good-simulated.jsonl",
        ] {
            let history = recorded(name);
            for end in 0..=history.events.len() {
                let events = history.events[..end].to_vec();
                let found = first(History { events });
                assert!(found.is_none(), "{name}, {end} events: {found:?}");
            }
        }
    }
}
