use std::{fs, os::unix::process::ExitStatusExt};

use super::*;

fn shell(dir: &Path, script: &str) -> Launch {
    Launch {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        withheld: Vec::new(),
        env: Vec::new(),
        log: dir.join("log"),
        descriptors_max: None,
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

fn log_has(launch: &Launch, text: &str) -> bool {
    fs::read_to_string(&launch.log).is_ok_and(|log| log.contains(text))
}

/// State letter of a process, or `None` when there is none.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn output_is_appended_and_the_status_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let launch = shell(dir.path(), "echo out; echo err >&2; exit 3");
    fs::write(&launch.log, "before\n").unwrap();
    let process = Process::spawn(&launch).unwrap();
    let status = process.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(!process.is_running());
    assert_eq!(
        fs::read_to_string(&launch.log).unwrap(),
        "before\nout\nerr\n"
    );
    // All of them do nothing to a process that has ended.
    process.pause().await.unwrap();
    process.resume().unwrap();
    assert_eq!(process.kill().await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn variables_are_withheld_and_added() {
    let dir = tempfile::tempdir().unwrap();
    let mut launch = shell(dir.path(), r#"echo "[$CARGO_PKG_NAME][$CARGO_MARK]""#);
    launch.withheld = vec!["CARGO_".to_owned()];
    launch.env = vec![("CARGO_MARK".into(), "kept".into())];
    let process = Process::spawn(&launch).unwrap();
    process.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(fs::read_to_string(&launch.log).unwrap(), "[][kept]\n");
}

#[tokio::test]
async fn a_paused_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::spawn(&shell(dir.path(), "exec sleep 1000")).unwrap();
    // Twice in a row, and again after it went on: each time it has stopped at once.
    for _ in 0..20 {
        for _ in 0..2 {
            process.pause().await.unwrap();
            assert_eq!(state(process.id()), Some('T'));
        }
        process.resume().unwrap();
    }
    process.pause().await.unwrap();
    assert!(process.is_running());
    let status = process.kill().await.unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[tokio::test]
async fn a_paused_process_is_resumed_to_terminate() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::spawn(&shell(dir.path(), "exec sleep 1000")).unwrap();
    process.pause().await.unwrap();
    assert_eq!(state(process.id()), Some('T'));
    let stopped = process.terminate(Duration::from_secs(20)).await.unwrap();
    assert!(!stopped.killed);
    assert_eq!(stopped.status.signal(), Some(libc::SIGTERM));
}

#[tokio::test]
async fn who_does_not_terminate_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let launch = shell(dir.path(), "trap '' TERM; echo set; exec sleep 1000");
    let process = Process::spawn(&launch).unwrap();
    until("the trap is set", || log_has(&launch, "set")).await;
    let stopped = process.terminate(Duration::from_millis(50)).await.unwrap();
    assert!(stopped.killed);
    assert_eq!(stopped.status.signal(), Some(libc::SIGKILL));
}

#[tokio::test]
async fn dropping_kills() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::spawn(&shell(dir.path(), "exec sleep 1000")).unwrap();
    let pid = process.id();
    drop(process);
    assert_eq!(state(pid), None);
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut launch = shell(dir.path(), "");
    launch.program = "/nonexistent/program".into();
    let error = Process::spawn(&launch).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/program"), "{error}");
}

#[test]
fn a_wrapper_comes_first() {
    let launch = shell(Path::new("/"), "true").behind(["ip", "netns", "exec", "n1"]);
    assert_eq!(launch.program, Path::new("ip"));
    assert_eq!(
        launch.args,
        ["netns", "exec", "n1", "/bin/sh", "-c", "true"]
    );
}

/// Variable that makes the test below play the harness that is killed: the directory of its node.
const VICTIM: &str = "HOLDFAST_JEPSEN_TEST_VICTIM";

#[tokio::test]
async fn nothing_outlives_a_killed_harness() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        let launch = shell(Path::new(&dir), "echo pid=$$; exec sleep 1000");
        // Spawned by a thread that ends at once: that must not end the process.
        let spawned = std::thread::spawn(move || Process::spawn(&launch).unwrap());
        let _process = spawned.join().unwrap();
        sleep(Duration::from_secs(1000)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch {
        program: std::env::current_exe().unwrap(),
        args: [
            "--exact",
            "cluster::process::tests::nothing_outlives_a_killed_harness",
            "--nocapture",
        ]
        .map(OsString::from)
        .to_vec(),
        withheld: Vec::new(),
        env: vec![(VICTIM.into(), dir.path().into())],
        log: dir.path().join("harness.log"),
        descriptors_max: None,
    };
    let harness = Process::spawn(&launch).unwrap();
    let log = dir.path().join("log");
    let mut pid = None;
    until("the node starts", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        pid = text
            .strip_prefix("pid=")
            .and_then(|pid| pid.strip_suffix('\n'))
            .map(|pid| pid.parse::<u32>().unwrap());
        pid.is_some()
    })
    .await;
    let pid = pid.unwrap();
    assert!(state(pid).is_some_and(|state| state != 'Z'));
    harness.kill().await.unwrap();
    until("the node is gone", || {
        state(pid).is_none_or(|state| state == 'Z')
    })
    .await;
}

#[tokio::test]
async fn a_process_has_the_descriptors_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut launch = shell(dir.path(), "ulimit -n; ulimit -Hn");
    launch.descriptors_max = Some(77);
    let process = Process::spawn(&launch).unwrap();
    process.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(fs::read_to_string(&launch.log).unwrap(), "77\n77\n");
}
