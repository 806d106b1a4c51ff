//! The tool as a user runs it: what it prints, and with which code it ends.

#[path = "../../tests/mock/mod.rs"]
mod mock;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use mock::{Fate, Mock};
use tonic::Status;

fn run(endpoints: &[String], args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfastctl"))
        .env_remove("HOLDFAST_KEYSPACE")
        .env_remove("HOLDFAST_ZONE")
        .env("HOLDFAST_ENDPOINTS", endpoints.join(","))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    // The tool need not read it all.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    child.wait_with_output().expect("the tool ends")
}

#[track_caller]
fn expect(output: &Output, code: i32, stdout: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*text),
        (Some(code), stdout),
        "stderr: {errors}"
    );
}

#[track_caller]
fn expect_error(output: &Output, code: i32, text: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {errors}");
    assert!(errors.contains(text), "stderr: {errors}");
    assert!(output.stdout.is_empty(), "nothing but the error");
}

#[test]
fn what_was_put_can_be_got_in_every_form() {
    let mock = Mock::holdfast(&["zone-a"]);
    let urls = mock.urls();
    expect(&run(&urls, &["put", "k", "v"], b""), 0, "OK\n");
    expect(&run(&urls, &["get", "k"], b""), 0, "k\nv\n");
    expect(
        &run(&urls, &["get", "k", "--print-value-only"], b""),
        0,
        "v\n",
    );
    expect(&run(&urls, &["get", "k", "--keys-only"], b""), 0, "k\n");
    expect(&run(&urls, &["get", "k", "--count-only"], b""), 0, "1\n");
    expect(&run(&urls, &["get", "k", "--base64"], b""), 2, "");
    expect(
        &run(&urls, &["get", "aw==", "--base64"], b""),
        0,
        "aw==\ndg==\n",
    );
    let json = r#"{"count":1,"header":{"cluster_id":7,"member_id":1,"raft_term":1,"revision":1},"kvs":[{"create_revision":0,"key":"k","lease":0,"mod_revision":1,"value":"v","version":0}],"more":false}"#;
    expect(
        &run(&urls, &["get", "k", "-o", "json"], b""),
        0,
        &format!("{json}\n"),
    );
    let table = run(&urls, &["get", "k", "-o", "table"], b"");
    let text = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(
        text.contains("│ key ┆ value ┆") && text.contains("│ k   ┆ v     ┆"),
        "{text}"
    );
}

#[test]
fn any_bytes_survive() {
    let mock = Mock::holdfast(&["zone-a"]);
    let urls = mock.urls();
    let all: Vec<u8> = (0..=255).collect();
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    expect(&run(&urls, &["put", "raw", "-"], &all), 0, "OK\n");
    let output = run(&urls, &["get", "raw", "--print-value-only"], b"");
    assert_eq!(output.stdout, [&all[..], b"\n"].concat());
    expect(
        &run(&urls, &["get", "726177", "--hex"], b""),
        0,
        &format!("726177\n{hex}\n"),
    );
    expect(&run(&urls, &["put", "--hex", "ff00", &hex], b""), 0, "OK\n");
    expect(
        &run(&urls, &["get", "--hex", "ff00"], b""),
        0,
        &format!("ff00\n{hex}\n"),
    );
}

#[test]
fn exit_codes() {
    let mut mock = Mock::holdfast(&["zone-a"]);
    let urls = mock.urls();
    // 5: not there. Counting it is no failure.
    expect(&run(&urls, &["get", "k"], b""), 5, "");
    expect(&run(&urls, &["get", "k", "--count-only"], b""), 0, "0\n");
    // 2: usage, and nothing sent.
    expect_error(&run(&urls, &["get"], b""), 2, "KEY");
    expect_error(
        &run(&urls, &["txn"], b"nonsense\n"),
        2,
        "line 1: a comparison looks like",
    );
    expect_error(
        &run(&urls, &["txn", "--json", "-"], b"[]"),
        2,
        "object is expected",
    );
    expect_error(
        &run(&urls, &["get", "k", "--endpoints", "https://x"], b""),
        2,
        "TLS",
    );
    expect_error(
        &run(&urls, &["get", "k", "--keyspace", "a b"], b""),
        2,
        "visible ASCII",
    );
    // 1: refused.
    let refuse =
        |message: &'static str| move |_: &_| Fate::Refused(Status::invalid_argument(message));
    mock.world
        .script(refuse("etcdserver: request is too large"));
    expect_error(&run(&urls, &["put", "k", "v"], b""), 1, "too large");
    // 3: perhaps done.
    mock.world.script(|_| Fate::Silence);
    let args = ["put", "k", "v", "--timeout", "300ms"];
    expect_error(&run(&urls, &args, b""), 3, "effect unknown");
    // 4: nobody there, or nobody who can.
    mock.world
        .script(|_| Fate::Refused(Status::unavailable("etcdserver: no leader")));
    // A refusal that the time overtakes on its way is one that may be done, on a slow machine.
    let refused = (0..10)
        .map(|_| run(&urls, &args, b""))
        .find(|run| run.status.code() != Some(3));
    expect_error(&refused.expect("one is in time"), 4, "no leader");
    mock.nodes[0].kill();
    expect_error(&run(&urls, &args, b""), 4, "cannot connect");
}

#[test]
fn the_timeout_that_was_given_holds_at_first_contact() {
    let mock = Mock::holdfast(&["zone-a"]);
    let urls = mock.urls();
    mock.nodes[0].stall();
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| run(&urls, &["put", "k", "v", "--timeout", "60s"], b""));
        // Longer than the two seconds that a client waits by itself.
        std::thread::sleep(std::time::Duration::from_secs(3));
        mock.nodes[0].resume();
        expect(&patient.join().expect("the tool was run"), 0, "OK\n");
    });
}

#[test]
fn members_are_shown_with_their_zones() {
    let mock = Mock::holdfast(&["zone-a", "zone-b"]);
    let urls = mock.urls();
    let expected: String = urls
        .iter()
        .zip(["zone-a", "zone-b"])
        .zip(1..)
        .map(|((url, zone), id)| format!("{id}\tn{id}\t{zone}\t\t{url}\tfalse\n"))
        .collect();
    expect(&run(&urls, &["members"], b""), 0, &expected);
    expect(&run(&urls, &["move-leader", "2"], b""), 0, "leader: 2\n");
}

#[test]
fn bench_measures_and_reports() {
    let mock = Mock::holdfast(&["zone-a", "zone-b"]);
    let pid = std::process::id().to_string();
    let args = [
        "bench",
        "mixed",
        "--concurrency",
        "1,8",
        "--duration",
        "200ms",
        "--warmup",
        "50ms",
        "--keys",
        "10",
        "--pids",
        &pid,
        "-o",
        "json",
    ];
    let runs = bench(&mock, &args);
    assert_eq!(runs.len(), 2);
    for (run, concurrency) in runs.iter().zip([1, 8]) {
        assert_eq!(
            (&run["op"], &run["concurrency"]),
            (&"mixed".into(), &concurrency.into())
        );
        assert!(run["operations"].as_u64() > Some(0), "{run}");
        assert_eq!(run["errors"], 0);
        assert!(run["p50_ms"].as_f64() <= run["p99_ms"].as_f64(), "{run}");
        assert!(run["cpu_ms_per_1000_ops"].is_number(), "{run}");
    }
    let state = mock.world.state.lock();
    assert!(
        state.reads.len() == 2,
        "both endpoints were used: {:?}",
        state.reads
    );
}

/// The figures that a load gives as JSON.
fn bench(mock: &Mock, args: &[&str]) -> Vec<serde_json::Value> {
    let output = run(&mock.urls(), args, b"");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_fill_puts_every_key_once_whoever_is_down() {
    let mut mock = Mock::holdfast(&["zone-a", "zone-b"]);
    let args = [
        "bench",
        "fill",
        "--concurrency",
        "8",
        "--keys",
        "200",
        "-o",
        "json",
    ];
    let whole = &bench(&mock, &args)[0];
    assert_eq!(whole["op"], "fill");
    assert_eq!(
        (&whole["operations"], &whole["errors"]),
        (&200.into(), &0.into())
    );
    assert!(whole["stall_ms"].as_f64() > Some(0.0), "{whole}");

    mock.nodes[1].kill();
    let half = &bench(&mock, &args)[0];
    assert_eq!(half["operations"], 200);
    assert!(half["errors"].as_u64() > Some(0), "{half}");
}

#[test]
fn completions_and_help_need_no_cluster() {
    let nobody = ["127.0.0.1:1".to_owned()];
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&nobody, &["completions", shell], b"");
        assert_eq!(output.status.code(), Some(0));
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("move-leader"),
            "{shell}"
        );
    }
    let help = run(&nobody, &["--help"], b"");
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes:"));
}
