//! The forms of a scoreboard.

use super::*;

fn board() -> Scoreboard {
    let row = Row {
        scenario: "register-kill".to_owned(),
        workload: "register".to_owned(),
        nemesis: "kill,partition".to_owned(),
        verdict: Verdict::Valid,
        expected: Verdict::Valid,
        checked: 12_345,
        faults_applied: 7,
        faults_skipped: 0,
        rto_p50_ns: Some(310_000_000),
        rto_max_ns: Some(1_240_000_000),
        lost: 0,
        lost_certainty: Certainty::Exact,
        duration_seconds: 61.5,
        seed: 42,
        dir: PathBuf::from("/runs/a"),
        note: String::new(),
    };
    let bad = Row {
        scenario: "set|<b>".to_owned(),
        nemesis: String::new(),
        verdict: Verdict::Invalid,
        faults_skipped: 2,
        rto_p50_ns: None,
        rto_max_ns: None,
        lost: 3,
        lost_certainty: Certainty::AtLeast,
        note: "set: 3 anomalies *found*".to_owned(),
        ..row.clone()
    };
    Scoreboard {
        suite: "quick".to_owned(),
        started_at: "2026-03-01T12:00:00Z".to_owned(),
        tested: "holdfast 0.1.0 (holdfast, 7 bytes, of 2026-03-01T11:00:00Z)".to_owned(),
        commit: "0123abcd".to_owned(),
        machine: "2 cores, 24 GiB".to_owned(),
        rows: vec![row, bad],
    }
}

#[test]
fn markdown() {
    let thin = '\u{202f}';
    assert_eq!(
        board().markdown(),
        format!(
            "# Suite `quick`\n\n\
             2026-03-01T12:00:00Z · tested: holdfast 0.1.0 (holdfast, 7 bytes, of 2026-03-01T11:00:00Z) · harness at commit 0123abcd · 2 cores, 24 GiB\n\n\
             1 of 2 runs as expected; 24{thin}690 operations checked, 14 faults made, \
             longest time without writes 1.24 s, writes lost: at least 3; 2 min 3 s in all.\n\n\
             | Scenario | Workload | Nemesis | Verdict | Checked | Faults | RTO p50 | RTO max | Lost | Took | Seed | Directory |\n\
             | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n\
             | register-kill | register | kill, partition | valid | 12{thin}345 | 7 | 310 ms | 1.24 s | 0 | 61.5 s | 42 | a |\n\
             | set\\|\\<b> | register | – | invalid, expected valid | 12{thin}345 | 7 (+2 skipped) | – | – | at least 3 | 61.5 s | 42 | a |\n\
             \n\
             - set\\|\\<b>: set: 3 anomalies \\*found\\*\n"
        )
    );
}

#[test]
fn terminal() {
    let text = board().terminal();
    for cell in [
        "register-kill",
        "kill, partition",
        "310 ms",
        "7 (+2 skipped)",
    ] {
        assert!(text.contains(cell), "{cell} is missing:\n{text}");
    }
    assert!(
        text.contains("set|<b>: set: 3 anomalies *found* (/runs/a)\n"),
        "{text}"
    );
    assert!(text.trim_end().ends_with("2 min 3 s in all"), "{text}");
}

#[test]
fn html_links_to_the_reports() {
    let page = board().html(Path::new("/runs"));
    assert!(page.contains("href=\"a/report.html\""), "{page}");
    assert!(page.contains("set|&lt;b&gt;"));
    assert!(!page.contains("<b>"));
    assert!(page.contains("banner invalid"));
}

#[test]
fn a_planted_bug_that_is_caught_is_a_pass() {
    let mut board = board();
    assert!(!board.passed());
    board.rows[1].expected = Verdict::Invalid;
    assert!(board.passed());
    board.rows.clear();
    assert!(!board.passed());
}
