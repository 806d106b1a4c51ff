//! A fault that has no effect is not a fault: commands that succeed and do nothing, and supervisors that
//! start again what a command has ended.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod nodes;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use holdfast_jepsen::cluster::{Cluster, local::LocalCluster, ports, target::Target};
use nodes::{holdfast, until};

fn run(file: &Path, out: &Path, nemesis: &str, time: &str, hold: &str) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_holdfast-jepsen"))
        .args(["run", "--cluster", "existing", "--nemesis", nemesis])
        .args(["--time", time, "--interval", "400ms", "--hold", hold])
        .args(["--rate", "30", "--concurrency", "3", "--seed", "7"])
        .arg("--cluster-file")
        .arg(file)
        .arg("--out")
        .arg(out)
        .output();
    run.unwrap()
}

fn results(out: &Path) -> serde_json::Value {
    let json = fs::read(out.join("results.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// Three nodes of this target whose commands all succeed and do nothing: no fault is made.
async fn commands_that_do_nothing_make_no_fault(target: Target, bin: std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let options = nodes::plain(target, bin, &dir.path().join("cluster"));
    let cluster = LocalCluster::start(options).await.unwrap();
    let commands = [
        "kill", "stop", "start", "pause", "resume", "isolate", "rejoin",
    ];
    let commands: String = commands.map(|name| format!("{name} = 'true'\n")).concat();
    let text = nodes::existing(&cluster, |_| commands.clone());
    let file = dir.path().join("existing.toml");
    fs::write(&file, text).unwrap();
    let out = dir.path().join("run");
    let nemeses = "kill-one,restart-one,pause-one,partition-one";
    let ended = run(&file, &out, nemeses, "40s", "2500ms");
    // What the run has written to a cluster that stays is gone.
    let client = holdfast_client::Client::connect([&cluster.nodes()[0].direct]);
    let left = client.await.unwrap().get("jepsen/").prefix().await.unwrap();
    assert_eq!(left.kvs.len(), 0, "{left:?}");
    assert!(left.header.unwrap().revision > 1);
    cluster.shut_down().await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let results = results(&out);
    for nemesis in nemeses.split(',') {
        let counts = &results["faults"]["by_nemesis"][nemesis];
        assert_eq!(counts["seen"], 0, "{nemesis}: {results:#}");
        assert!(
            counts["disproved"].as_u64() > Some(0),
            "{nemesis}: {counts}"
        );
    }
    // Whether a node hangs cannot be told while the machine is so busy that none answers; whether its
    // process has ended can.
    for nemesis in ["kill-one", "restart-one"] {
        let counts = &results["faults"]["by_nemesis"][nemesis];
        assert_eq!(counts["applied"], 0, "{nemesis}: {results:#}");
    }
    let reasons = results["reasons"].to_string();
    assert!(reasons.contains("and nothing of it was done"), "{reasons}");
    assert!(reasons.contains("goes on answering"), "{reasons}");
}

/// One cluster at a time: what a node does not answer in time must be the fault's doing.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_do_nothing_make_no_fault_of_holdfast() {
    let _alone = ALONE.lock().await;
    commands_that_do_nothing_make_no_fault(Target::Holdfast, holdfast()).await;
}

mod needs_etcd {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs etcd in PATH"]
    async fn commands_that_do_nothing_make_no_fault_of_etcd() {
        let _alone = ALONE.lock().await;
        let etcd = Target::Etcd.find(None).unwrap();
        commands_that_do_nothing_make_no_fault(Target::Etcd, etcd).await;
    }
}

/// A node that a shell starts again and again. It and its node end with this.
struct Supervised {
    shell: Child,
    pid: std::path::PathBuf,
}

impl Supervised {
    fn node(&self) -> Option<String> {
        let pid = fs::read_to_string(&self.pid).ok()?;
        Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if let Some(pid) = self.node() {
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
    }
}

#[tokio::test]
async fn a_node_that_a_supervisor_starts_again_was_killed_and_is_not_started_twice() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let held = ports::free(2).unwrap();
    let at = |number: usize| held[number].local_addr().unwrap().to_string();
    let (client, peer) = (at(0), at(1));
    drop(held);
    let pid = dir.path().join("pid");
    let script = format!(
        "while :; do {bin} start --id 1 --zone a --data-dir {data} --client-addr {client} \
         --peer-addr {peer} & echo $! > {pid}; wait $!; done",
        bin = holdfast().display(),
        data = dir.path().join("data").display(),
        pid = pid.display(),
    );
    let shell = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let supervised = Supervised { shell, pid };
    until("the node serves", async || {
        let asked = nodes::client(&client, Duration::from_secs(2))
            .get("k")
            .await;
        asked.map_err(|error| error.to_string())
    })
    .await;
    let twice = dir.path().join("started");
    let text = format!(
        "[[nodes]]\nid = 1\nzone = 'a'\nendpoint = '{client}'\nkill = 'kill -9 $(cat {})'\n\
         start = 'touch {}; exit 1'\n",
        supervised.pid.display(),
        twice.display()
    );
    let file = dir.path().join("existing.toml");
    fs::write(&file, text).unwrap();
    let out = dir.path().join("run");
    let ended = run(&file, &out, "kill-one", "50s", "15s");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let results = results(&out);
    let total = &results["faults"]["total"];
    assert!(total["applied"].as_u64() > Some(0), "{total}");
    assert_eq!(total["applied"], total["seen"], "{total}");
    assert!(!twice.exists(), "the command was run");
    let steps = results["availability"]["faults"].to_string();
    assert!(steps.contains("somebody else has started"), "{steps}");
}
