//! `holdfast dev` with real processes: what it prints, what it keeps running, and how it ends.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

#[path = "../src/dev/cluster_file.rs"]
#[allow(dead_code, reason = "the tests only read it")]
mod cluster_file;

use cluster_file::ClusterFile;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// One cluster at a time: three nodes are enough for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn command(data_dir: &Path, base_port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .arg("dev")
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--base-port")
        .arg(base_port.to_string())
        .args(more);
    command
}

fn run(data_dir: &Path, base_port: u16, more: &[&str]) -> Output {
    command(data_dir, base_port, more).output().unwrap()
}

/// A base port whose six ports are free, below the range from which the system gives ports away.
fn free_base_port() -> u16 {
    let from = 10_000 + (std::process::id() % 500) as u16 * 30;
    let is_free = |base: &u16| {
        [0, 1, 10, 11, 20, 21]
            .iter()
            .all(|above| TcpListener::bind((Ipv4Addr::LOCALHOST, base + above)).is_ok())
    };
    (from..32_000)
        .step_by(30)
        .find(is_free)
        .expect("some ports are free")
}

/// A running `holdfast dev`, killed when it is dropped.
struct Dev {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Dev {
    fn start(data_dir: &Path, base_port: u16, more: &[&str]) -> Dev {
        let mut child = command(data_dir, base_port, more)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Dev {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line and returns it.
    fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line {what} in:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    fn signal(&self, signal: libc::c_int) {
        kill(self.child.id(), signal);
    }

    /// Reads to the end of the output and waits for the process.
    fn finish(mut self) -> (ExitStatus, Vec<String>) {
        while let Ok(line) = self.lines.recv_timeout(START_TIMEOUT) {
            self.seen.push(line);
        }
        let status = self.child.wait().unwrap();
        (status, std::mem::take(&mut self.seen))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(pid: u32, signal: libc::c_int) {
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

fn runs(pid: u32) -> bool {
    // A process that has ended and was not yet waited for is a zombie: state Z, after the name.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('Z')
    })
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn cluster(data_dir: &Path) -> ClusterFile {
    serde_json::from_str(&std::fs::read_to_string(data_dir.join("cluster.json")).unwrap()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (args, part) in [
        (&["--demo", "--restart=false"][..], "--restart=false"),
        (&["--demo", "--demo-time", "1s"], "give 3s or more"),
        (&["--demo-rate", "0"], "0 is not in 1..=2000"),
        (&["--restart-delay", "soon"], "give a time such as"),
        (&["--restart=maybe"], "maybe"),
        (&["txn-ops-max"], "unexpected argument"),
    ] {
        let output = run(dir.path(), 2379, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    let output = run(dir.path(), 65_515, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("65515 is not in 1..=65514"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was done"
    );
}

#[test]
fn a_port_in_use_is_named_before_anything_is_started() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 11)).unwrap();
    let output = run(dir.path(), base, &[]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "port {}, the peer port of node-2 (zone-b), is in use",
        base + 11
    );
    let message = stderr(&output);
    assert!(
        message.contains(&expected) && message.contains("--base-port"),
        "{message}"
    );
    assert!(!dir.path().join("cluster.json").exists());
}

#[test]
fn a_refused_configuration_is_shown_and_not_tried_again() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let output = run(
        dir.path(),
        free_base_port(),
        &["--restart-delay", "0", "--", "--txn-ops-max", "0"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no node is left running"),
        "{}",
        stderr(&output)
    );
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        lines
            .matches("limits.txn_ops_max = 0 (from --txn-ops-max)")
            .count(),
        3,
        "{lines}"
    );
    assert_eq!(
        lines
            .matches("is not started again: it refuses its configuration")
            .count(),
        3,
        "{lines}"
    );
}

/// The life of a cluster: ready, a second supervisor refused, a node killed and started again, a
/// graceful end, and the same data served again by the next run, which is killed.
#[test]
fn three_zones_come_up_survive_a_kill_and_stop() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let mut dev = Dev::start(dir.path(), base, &["--restart-delay", "500ms"]);
    dev.line("`ready`", |line| line == "ready");
    let before = cluster(dir.path());
    let zones: Vec<&str> = before.nodes.iter().map(|node| node.zone.as_str()).collect();
    assert_eq!(zones, ["zone-a", "zone-b", "zone-c"]);
    for (node, at) in before.nodes.iter().zip(0u16..) {
        assert_eq!(node.id, u64::from(at) + 1);
        assert_eq!(
            node.client_url,
            format!("http://127.0.0.1:{}", base + 10 * at)
        );
        assert_eq!(
            node.peer_url,
            format!("http://127.0.0.1:{}", base + 10 * at + 1)
        );
        assert!(
            node.data_dir.is_absolute() && node.data_dir.is_dir(),
            "{}",
            node.data_dir.display()
        );
        assert!(runs(node.pid));
    }

    let second = run(dir.path(), base + 1, &[]);
    assert_eq!(second.status.code(), Some(1));
    let message = stderr(&second);
    assert!(
        message.contains(&format!(
            "another `holdfast dev` (process {})",
            dev.child.id()
        )),
        "{message}"
    );

    kill(before.nodes[1].pid, libc::SIGKILL);
    dev.line("of the loss", |line| {
        line.contains("node-2 (zone-b) was killed (SIGKILL)")
    });
    dev.line("of the return", |line| {
        line.contains("node-2 (zone-b) is back after")
    });
    let after = cluster(dir.path());
    assert_ne!(after.nodes[1].pid, before.nodes[1].pid);
    assert!(runs(after.nodes[1].pid));
    assert_eq!(
        (&after.nodes[0], &after.nodes[2]),
        (&before.nodes[0], &before.nodes[2])
    );

    dev.signal(libc::SIGTERM);
    let (status, lines) = dev.finish();
    let lines = lines.join("\n");
    assert_eq!(status.code(), Some(0), "{lines}");
    for node in &after.nodes {
        let stopped = format!("node-{} ({}) has stopped", node.id, node.zone);
        assert!(lines.contains(&stopped), "`{stopped}` is not in:\n{lines}");
        assert!(!runs(node.pid));
    }
    assert!(
        !dir.path().join("cluster.json").exists(),
        "it would name processes that are gone"
    );

    let mut dev = Dev::start(dir.path(), base, &[]);
    dev.line("`ready` again", |line| line == "ready");
    let nodes = cluster(dir.path()).nodes;
    dev.signal(libc::SIGKILL);
    wait_for("the nodes die with their supervisor", || {
        nodes.iter().all(|node| !runs(node.pid))
    });
}

#[test]
fn the_demonstration_loses_nothing() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "--demo",
        "--demo-time",
        "4s",
        "--demo-rate",
        "100",
        "--restart-delay",
        "500ms",
    ];
    let output = run(dir.path(), free_base_port(), &args);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{lines}\n{}",
        stderr(&output)
    );
    for part in [
        "its zone is lost now (SIGKILL)",
        "has caught up",
        "lost                      0",
        "PASSED",
    ] {
        assert!(lines.contains(part), "`{part}` is not in:\n{lines}");
    }
}
