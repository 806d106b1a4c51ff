//! What a run leaves behind, from the recorder to the page, for a made-up run.

mod sample;

use std::{collections::BTreeMap, fs, path::Path};

use holdfast_jepsen::{
    checker::{Finding, Verdict},
    evidence::{Results, compare::Comparison, report, scoreboard, story, write_all},
    history::{What, jsonl},
};

const SEED: u64 = 7;

/// The page of a history is kept in cargo's directory for such files, to be looked at.
fn keep(name: &str, page: &str) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::write(dir.join(name), page).expect("cargo made its directory");
}

/// A page loads nothing: no script, no address in an attribute but places on the page itself.
fn assert_self_contained(page: &str) {
    for forbidden in [
        "<script", "<link", "<img", "<iframe", "@import", "http://", "https://", "//cdn",
    ] {
        assert!(!page.contains(forbidden), "the page has {forbidden}");
    }
    for attribute in ["src=\"", "url("] {
        for (at, _) in page.match_indices(attribute) {
            let target = &page[at + attribute.len()..];
            assert!(target.starts_with('#'), "{}", &target[..40]);
        }
    }
}

/// Every element that is opened is closed, in order.
fn assert_balanced(page: &str) {
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[..end];
        rest = &rest[end..];
        let name = tag.split_whitespace().next().expect("a tag has a name");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if name.starts_with('!') || name == "meta" => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_run_leaves_its_files() {
    println!("seed {SEED}");
    let dir = tempfile::tempdir().unwrap();
    let sample = sample::history(SEED, 6_000);
    let path = dir.path().join("history.jsonl");
    let recorder = jsonl::Recorder::create(&path).unwrap();
    for event in &sample.events {
        recorder.record(event.what.clone());
    }
    let recorded = recorder.finish().unwrap();
    let whats = |history: &holdfast_jepsen::history::History| -> Vec<What> {
        history
            .events
            .iter()
            .map(|event| event.what.clone())
            .collect()
    };
    assert_eq!(whats(&recorded), whats(&sample));
    assert_eq!(jsonl::read(&path).unwrap(), recorded);

    let results = Results::new(sample::run(SEED), &sample, sample::findings(&sample));
    write_all(dir.path(), &sample, &results).unwrap();
    assert_eq!(results.verdict(), Verdict::Invalid);
    assert_eq!(results.exit_code, 1);
    assert_eq!(results.lost, 1);
    assert_eq!(results.lost_words(), "at least 1");
    assert_eq!(results.faults.total.applied, 5);
    assert_eq!(results.faults.total.skipped, 2);

    let read = Results::read(&dir.path().join("results.json")).unwrap();
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        serde_json::to_value(&results).unwrap()
    );
    let edn = fs::read_to_string(dir.path().join("history.edn")).unwrap();
    assert_eq!(edn.lines().count(), sample.events.len());

    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    keep("report.html", &page);
    assert_self_contained(&page);
    assert_balanced(&page);
    assert!(page.contains("saw &lt;neither&gt; &amp; &quot;less&quot;"));
    assert!(!page.contains("<neither>"));
    assert!(page.contains("&lt;planted-bugs&gt;"));
    assert!(page.contains("--seed 7"));
    assert!(page.contains("at least 1"));
    for label in ["rw", "wr", "realtime"] {
        assert!(page.contains(&format!(">{label}</text>")), "{label}");
    }
}

/// Where a text is in a page.
fn place(page: &str, text: &str) -> usize {
    page.find(text)
        .unwrap_or_else(|| panic!("{text} is not there"))
}

#[test]
fn an_invalid_report_tells_its_story_first() {
    println!("seed {SEED}");
    let sample = sample::history(SEED, 6_000);
    let results = Results::new(sample::run(SEED), &sample, sample::findings(&sample));
    let page = report::render(&sample, &results);
    let sentence = story::tell(&sample, &results);
    for part in [
        "At least 1 acknowledged write is gone",
        "after fault",
        "proved by event",
    ] {
        assert!(sentence.contains(part), "{sentence}");
    }
    let order = [
        sentence.as_str(),
        "leader, term",
        "n3 t3",
        "class=\"mark\"",
        "Drawing and events",
        "Latency and rate",
        "What was run",
        "--seed 7",
    ];
    let places = order.map(|text| place(&page, text));
    assert!(places.is_sorted(), "{places:?}");
    // What follows the timeline is folded.
    let after = &page[place(&page, "Drawing and events")..];
    assert!(!after.contains("<details class=\"part\" open>"));
    assert!(page.contains(" UTC"));
    // A valid one shows its figures.
    let valid = sample::valid_findings();
    let results = Results::new(sample::run(SEED), &sample, valid);
    let page = report::render(&sample, &results);
    keep("report-valid.html", &page);
    assert!(page.contains("<details class=\"part\" open>"));
    assert_balanced(&page);
}

#[test]
fn two_runs_of_one_seed_stand_side_by_side() {
    println!("seed {SEED}");
    let sample = sample::history(SEED, 6_000);
    let holdfast = Results::new(sample::run(SEED), &sample, sample::findings(&sample));
    let mut run = sample::run(SEED);
    run.cluster.target = "etcd".to_owned();
    run.options.insert("rate".to_owned(), "1000".to_owned());
    let etcd = Results::new(run, &sample, sample::valid_findings());
    let comparison = Comparison::of(&holdfast, &etcd).unwrap();
    let text = comparison.text();
    println!("{text}");
    let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(lines("verdict"), 1);
    assert_eq!(lines("write: p99"), 1);
    assert_eq!(lines("RTO, longest"), 1);
    assert_eq!(lines("RPO: writes lost"), 1);
    assert!(text.contains("invalid") && text.contains("warning: --rate differs"));
    for fault in &holdfast.availability.faults {
        assert_eq!(lines(&format!("{} {}", fault.fault, fault.nemesis)), 1);
    }
    let page = comparison.html();
    keep("comparison.html", &page);
    assert_self_contained(&page);
    assert_balanced(&page);

    let other = Results::new(sample::run(SEED + 1), &sample, Vec::new());
    let refused = Comparison::of(&holdfast, &other).unwrap_err().to_string();
    assert!(refused.contains("seed 7 and 8"), "{refused}");
}

#[test]
fn time_without_writes_is_the_outage() {
    println!("seed {SEED}");
    let sample = sample::history(SEED, 6_000);
    let results = Results::new(sample::run(SEED), &sample, vec![]);
    for (fault, (nemesis, _, outage, _)) in results.availability.faults.iter().zip(sample::OUTAGES)
    {
        assert_eq!(fault.nemesis, nemesis);
        let rto = fault.rto_ns.unwrap() as f64 / 1e9;
        // A write may be answered up to 40 ms later than it could, and writes are 20 ms apart.
        assert!(
            (outage..outage + 0.35).contains(&rto),
            "fault {}: {rto} s for {outage} s",
            fault.fault
        );
        assert!(!fault.rto_open);
    }
}

#[test]
fn the_page_of_a_long_history_stays_small() {
    println!("seed {SEED}");
    let sample = sample::history(SEED, 100_000);
    let results = Results::new(sample::run(SEED), &sample, sample::findings(&sample));
    let operations: u64 = results
        .availability
        .operations
        .values()
        .map(|op| op.invoked)
        .sum();
    assert!(operations > 50_000, "{operations}");
    let page = report::render(&sample, &results);
    keep("report-long.html", &page);
    println!("{operations} operations, {} bytes", page.len());
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    assert_self_contained(&page);
}

/// An hour with a fault every ten seconds: labels that would lie on others are left out.
#[test]
fn labels_of_many_faults_do_not_overlap() {
    println!("seed {SEED}");
    let sample = sample::long_history(360);
    let results = Results::new(sample::run(SEED), &sample, vec![]);
    assert_eq!(results.faults.total.applied, 360);
    let page = report::render(&sample, &results);
    keep("report-hour.html", &page);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    let mut labels = 0;
    for svg in page.split("<svg class=\"plot\"").skip(1) {
        let mut ends: BTreeMap<&str, f64> = BTreeMap::new();
        for label in svg.split("<text class=\"fault\" x=\"").skip(1) {
            let (x, rest) = label.split_once("\" y=\"").unwrap();
            let (row, rest) = rest.split_once("\">").unwrap();
            let (words, _) = rest.split_once('<').unwrap();
            let x: f64 = x.parse().unwrap();
            let end = ends.entry(row).or_insert(0.0);
            assert!(
                x >= *end,
                "{words} at {x} lies on the label before, which ends at {end}"
            );
            *end = x + 6.0 * words.len() as f64;
            assert!(*end <= 1060.0, "{words} leaves the drawing");
            labels += 1;
        }
    }
    // Two plots with two rows of numbers.
    assert!(labels > 2 * 2 * 20, "{labels}");
}

#[test]
fn a_run_without_anything_has_a_page() {
    let empty = holdfast_jepsen::history::History::default();
    let mut run = sample::run(SEED);
    run.nemeses.clear();
    run.options = BTreeMap::new();
    let results = Results::new(run, &empty, vec![]);
    assert_eq!(results.verdict(), Verdict::Unknown);
    let page = report::render(&empty, &results);
    assert_balanced(&page);
    assert!(page.contains("no checker looked at the history"));
    let mut words = page.split(|c: char| !c.is_alphanumeric());
    assert!(!words.any(|word| word == "NaN" || word == "inf"));
}

#[test]
fn a_suite_leaves_its_scoreboard() {
    println!("seed {SEED}");
    let dir = tempfile::tempdir().unwrap();
    let sample = sample::history(SEED, 3_000);
    let mut rows = Vec::new();
    for (scenario, findings) in [
        (
            "register-kill",
            vec![Finding::new("revision", 2_900, "", vec![])],
        ),
        ("append-<partition>|ring", sample::findings(&sample)),
        (
            "bank-pause",
            vec![Finding::unknown("bank", 0, "nothing was read")],
        ),
    ] {
        let mut run = sample::run(SEED);
        if scenario == "register-kill" {
            run.nemeses.pop();
        }
        let results = Results::new(run, &sample, findings);
        let run_dir = dir.path().join(scenario);
        rows.push(scoreboard::Row::new(
            scenario,
            Verdict::Valid,
            &results,
            &run_dir,
        ));
    }
    let board = scoreboard::Scoreboard {
        suite: "quick".to_owned(),
        started_at: "2026-03-01T12:00:00Z".to_owned(),
        tested: "holdfast 0.1.0".to_owned(),
        commit: "0123abcd".to_owned(),
        machine: "2 cores, 24 GiB".to_owned(),
        rows,
    };
    board.write_all(dir.path()).unwrap();
    println!("{}", board.terminal());
    let page = fs::read_to_string(dir.path().join("scoreboard.html")).unwrap();
    keep("scoreboard.html", &page);
    assert_self_contained(&page);
    assert_balanced(&page);
    assert!(page.contains("href=\"register-kill/report.html\""));
    assert!(!page.contains("<partition>"));
    let read: scoreboard::Scoreboard =
        serde_json::from_str(&fs::read_to_string(dir.path().join("scoreboard.json")).unwrap())
            .unwrap();
    assert_eq!(read, board);
}
