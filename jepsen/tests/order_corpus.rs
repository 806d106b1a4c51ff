//! Recorded histories, good and bad, and what the checkers of single keys must say of each.
//!
//! The name of a file is its claim: `good-…` is valid; `bad-<anomaly>-…` is invalid, and an anomaly
//! of this name is told. Each line is an event. Most are written by hand, as small as can be; those
//! called `simulated` come from the simulator.

use std::{fs, path::Path, time::Duration};

use holdfast_jepsen::{
    checker::{Finding, Verdict, linearizability, revision},
    history::{Event, History},
};

/// Every anomaly that the two checkers tell; none is the beginning of another.
const ANOMALIES: [&str; 12] = [
    "applied-twice",
    "duplicate-revision",
    "failed-write-seen",
    "future-read",
    "lost-write",
    "not-linearizable",
    "phantom-value",
    "revision-order",
    "stale-read",
    "unexplained-revision",
    "wrong-read",
    "wrong-version-counter",
];

fn read(path: &Path) -> History {
    let text = fs::read_to_string(path).expect("a file of the corpus can be read");
    let events: Result<Vec<Event>, _> = text.lines().map(serde_json::from_str).collect();
    let events = events.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    History { events }
}

/// Judges every file of a directory; the anomalies that were asked for.
fn walk(directory: &str, check: impl Fn(&History) -> Finding) -> Vec<&'static str> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(directory);
    let mut expected = Vec::new();
    let mut good = 0;
    for entry in fs::read_dir(&directory).expect("the corpus can be listed") {
        let path = entry.expect("the corpus can be listed").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let history = read(&path);
        let finding = check(&history);
        if name.starts_with("good-") {
            assert_eq!(finding.verdict, Verdict::Valid, "{name}: {finding:#?}");
            good += 1;
            continue;
        }
        let anomaly = ANOMALIES
            .into_iter()
            .find(|anomaly| name.starts_with(&format!("bad-{anomaly}-")))
            .unwrap_or_else(|| panic!("{name} names no anomaly"));
        assert_eq!(finding.verdict, Verdict::Invalid, "{name}: {finding:#?}");
        let told = finding
            .anomalies
            .iter()
            .find(|told| told.name == anomaly)
            .unwrap_or_else(|| panic!("{name}: {finding:#?}"));
        let last = history.events.len() as u64;
        assert!(!told.events.is_empty(), "{name}: {told:#?}");
        assert!(told.events.iter().all(|&at| at < last), "{name}: {told:#?}");
        assert!(
            told.edges
                .iter()
                .all(|edge| edge.from < last && edge.to < last),
            "{name}: {told:#?}"
        );
        expected.push(anomaly);
    }
    assert!(good > 0, "no good history in {}", directory.display());
    expected.sort_unstable();
    expected.dedup();
    expected
}

#[test]
fn revision_replay_judges_the_corpus() {
    let told = walk("revision", revision::check);
    let all = ANOMALIES
        .into_iter()
        .filter(|&name| name != "not-linearizable");
    assert!(told.into_iter().eq(all), "an anomaly has no history");
}

#[test]
fn linearizability_judges_the_corpus() {
    let limit = Duration::from_secs(60);
    let told = walk("linearizability", |history| {
        linearizability::check(history, limit)
    });
    assert_eq!(told, ["not-linearizable"]);
}
