//! Recorded histories and what each checker must say of them.
//!
//! `testdata/<checker>/good-<name>.jsonl` is valid; `bad-<anomaly>-<name>.jsonl` is invalid with
//! that anomaly. The name has no dash in it. Each line is an event; for convergence, what a node
//! said.

use std::path::{Path, PathBuf};

use holdfast_jepsen::{
    checker::{Finding, Verdict, append, bank, convergence, counter, loss, set, stale},
    history::History,
};
use serde::de::DeserializeOwned;

fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).expect("a recorded history");
    text.lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))
        })
        .collect()
}

fn walk(checker: &str, check: impl Fn(&Path) -> Finding) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(checker);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the recorded histories of a checker")
        .map(|entry| entry.expect("an entry of the directory").path())
        .collect();
    files.sort();
    let (mut good, mut bad) = (0, 0);
    for path in files {
        let finding = check(&path);
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a plain name");
        assert_eq!(finding.checker, checker);
        if let Some(rest) = stem.strip_prefix("bad-") {
            bad += 1;
            let (anomaly, _) = rest.rsplit_once('-').expect("bad-<anomaly>-<name>");
            assert_eq!(finding.verdict, Verdict::Invalid, "{stem}: {finding:#?}");
            let first = &finding.anomalies[0];
            assert!(
                finding.anomalies.iter().any(|found| found.name == anomaly),
                "{stem}: the first is {}: {finding:#?}",
                first.name
            );
        } else {
            assert!(stem.starts_with("good-"), "{stem}");
            good += 1;
            assert_eq!(finding.verdict, Verdict::Valid, "{stem}: {finding:#?}");
        }
    }
    assert!(good > 0 && bad > 0, "{checker}: {good} good, {bad} bad");
}

fn walk_histories(checker: &str, check: fn(&History) -> Finding) {
    walk(checker, |path| {
        check(&History {
            events: lines(path),
        })
    });
}

#[test]
fn append_histories() {
    walk_histories("append", append::check);
}

#[test]
fn set_histories() {
    walk_histories("set", set::check);
}

#[test]
fn bank_histories() {
    walk_histories("bank", bank::check);
}

#[test]
fn counter_histories() {
    walk_histories("counter", counter::check);
}

#[test]
fn stale_histories() {
    walk_histories("stale", stale::check);
}

#[test]
fn convergence_states() {
    walk("convergence", |path| {
        let states: Vec<convergence::NodeState> = lines(path);
        let nodes: Vec<_> = states.iter().map(|state| state.node).collect();
        convergence::check(&History::default(), &nodes, &states)
    });
}

/// Good histories, and bad ones of a loss.
const GOOD: usize = 46;
const LOST: usize = 18;
/// Losses that are no acknowledged write's, or of a write of which only its place between others
/// shows that it is gone.
const UNCOUNTED: [&str; 3] = [
    "bad-lost-unknownseen",
    "bad-lost-write-counted-out",
    "bad-not-linearizable-lost-update",
];

/// Nothing is lost in a good history, and what was recorded as lost is counted.
#[test]
fn losses_are_those_of_the_histories_that_lost_something() {
    let (mut good, mut lost) = (0, 0);
    for checker in [
        "append",
        "bank",
        "counter",
        "linearizability",
        "revision",
        "set",
        "stale",
    ] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(checker);
        for entry in std::fs::read_dir(&directory).expect("the recorded histories of a checker") {
            let path = entry.expect("an entry of the directory").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let stem = stem.expect("a plain name");
            let history = History {
                events: lines(&path),
            };
            let loss = loss::measure(&history, &[]);
            if stem.starts_with("good-") {
                good += 1;
                assert_eq!(loss.count, 0, "{checker}/{stem}: {loss:?}");
            } else if stem.contains("-lost-") {
                lost += 1;
                let expected = u64::from(!UNCOUNTED.contains(&stem));
                assert_eq!(loss.count, expected, "{checker}/{stem}: {loss:?}");
            }
        }
    }
    assert_eq!((good, lost), (GOOD, LOST));
}
