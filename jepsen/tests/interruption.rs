//! A run that is ended from outside leaves no cluster broken: signals heal and write what there is, and
//! what a harness could not heal that was killed itself is mended from its journal. Of clusters that the
//! harness has started itself, nothing is left.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod nodes;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use holdfast_jepsen::cluster::{Cluster, local::LocalCluster, target::Target};
use nodes::{PATIENCE, holdfast};

/// A cluster that exists, and what the harness may do to it.
struct Existing {
    cluster: LocalCluster,
    pids: Vec<u32>,
    dir: tempfile::TempDir,
}

impl Existing {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cluster");
        let options = nodes::plain(Target::Holdfast, holdfast(), &at);
        let cluster = LocalCluster::start(options).await.unwrap();
        let pids = nodes::processes(&at);
        Self { cluster, pids, dir }
    }

    /// The file that describes it; before a node is resumed, `delay` is run.
    fn file(&self, name: &str, delay: &str) -> PathBuf {
        let text = nodes::existing(&self.cluster, |node| {
            let pid = self.pids[usize::try_from(node.id).unwrap() - 1];
            format!("pause = 'kill -STOP {pid}'\nresume = '{delay}kill -CONT {pid}'")
        });
        let file = self.dir.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// Starts a run that pauses a node for as long as it goes on, and waits until one is paused.
    fn run(&self, file: &Path, out: &Path) -> Child {
        let mut run = Command::new(env!("CARGO_BIN_EXE_holdfast-jepsen"));
        // SAFETY: `signal` may be called between fork and exec, and touches nothing of this process.
        unsafe {
            run.pre_exec(|| {
                // Whoever runs the tests may have had them ignored, which children inherit: nohup the first, a
                // shell that runs them in the background the others.
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            })
        };
        let run = run
            .args(["run", "--cluster", "existing", "--nemesis", "pause-one"])
            .args(["--time", "300s", "--interval", "300ms", "--hold", "250s"])
            .args(["--rate", "30", "--concurrency", "3", "--seed", "7"])
            .arg("--cluster-file")
            .arg(file)
            .arg("--out")
            .arg(out)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let broken = || {
            let history = fs::read_to_string(out.join("history.jsonl")).unwrap_or_default();
            history.contains("\"broken\"") && self.paused() == 1
        };
        wait("a node is paused", broken);
        run
    }

    /// How many nodes hang.
    fn paused(&self) -> usize {
        let hangs = |pid: &&u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        self.pids.iter().filter(hangs).count()
    }
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: the process is our child and was not waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Networks are taken away whosever they were: what one test has left must not be taken away by another's.
static HEALING: Mutex<()> = Mutex::new(());

fn heal(dir: &Path) -> Output {
    let _alone = HEALING.lock();
    heal_alone(dir)
}

fn heal_alone(dir: &Path) -> Output {
    let heal = Command::new(env!("CARGO_BIN_EXE_holdfast-jepsen"))
        .arg("heal")
        .arg(dir)
        .output();
    heal.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_heals_and_writes_what_there_is() {
    let existing = Existing::start().await;
    let file = existing.file("existing.toml", "");
    for (name, signal) in [("hup", libc::SIGHUP), ("quit", libc::SIGQUIT)] {
        let out = existing.dir.path().join(name);
        let mut run = existing.run(&file, &out);
        // As when the terminal goes away: nobody reads any more.
        drop((run.stdout.take(), run.stderr.take()));
        send(&run, signal);
        let status = run.wait().unwrap();
        assert_eq!(status.code(), Some(2), "{name}");
        assert_eq!(existing.paused(), 0, "{name}");
        let results = fs::read_to_string(out.join("results.json")).unwrap();
        assert!(results.contains("it was interrupted"), "{name}: {results}");
        assert!(out.join("report.html").exists(), "{name}");
        let healed = heal(&out);
        assert!(healed.status.success(), "{name}: {healed:?}");
        assert!(text(&healed.stdout).contains("nothing is broken"));
    }
    existing.cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_harness_left_broken_is_mended_from_its_journal() {
    let existing = Existing::start().await;
    let file = existing.file("existing.toml", "");
    let out = existing.dir.path().join("runs/killed");
    let run = existing.run(&file, &out);
    // As long as it runs, it is its own affair.
    let refused = heal(&out);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(text(&refused.stderr).contains("the run goes on"));
    send(&run, libc::SIGKILL);
    run.wait_with_output().unwrap();
    assert_eq!(existing.paused(), 1);
    // The journal needs neither the file nor the exact directory.
    fs::remove_file(&file).unwrap();
    let healed = heal(&existing.dir.path().join("runs"));
    assert!(healed.status.success(), "{healed:?}");
    assert!(text(&healed.stdout).contains("is paused: mended by `resume`"));
    assert_eq!(existing.paused(), 0);
    existing.cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_says_what_is_left_broken() {
    let existing = Existing::start().await;
    let file = existing.file("slow.toml", "sleep 25; ");
    let out = existing.dir.path().join("twice");
    let run = existing.run(&file, &out);
    send(&run, libc::SIGTERM);
    let healing = || {
        let history = fs::read_to_string(out.join("history.jsonl")).unwrap_or_default();
        history.contains("\"heal\"")
    };
    wait("it begins to heal", healing);
    send(&run, libc::SIGTERM);
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let told = text(&ended.stderr);
    assert!(told.contains("left broken: node "), "{told}");
    assert!(told.contains("is paused"), "{told}");
    let mends = format!("holdfast-jepsen heal {}", out.display());
    assert!(told.contains(&mends), "{told}");
    existing.cluster.shut_down().await;
}

/// Starts a run on a cluster of the harness itself, with a fault that lasts, and kills the harness as soon
/// as a node is paused. Returns what it was killed as, and the processes of the nodes.
fn killed_amid_a_fault(out: &Path, cluster: &[&str]) -> (u32, Vec<u32>) {
    let mut run = Command::new(env!("CARGO_BIN_EXE_holdfast-jepsen"))
        .args(["run", "--nemesis", "pause-one", "--cluster"])
        .args(cluster)
        .args(["--time", "300s", "--interval", "300ms", "--hold", "250s"])
        .args(["--rate", "30", "--concurrency", "3", "--seed", "7"])
        .arg("--bin")
        .arg(holdfast())
        .arg("--out")
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let broken = || {
        let history = fs::read_to_string(out.join("history.jsonl")).unwrap_or_default();
        assert_eq!(run.try_wait().unwrap(), None, "it goes on");
        history.contains("\"broken\"")
    };
    wait("a node is paused", broken);
    let pids = nodes::processes(out);
    assert_eq!(pids.len(), 3);
    let hang = pids.iter().filter(|pid| state(**pid) == Some('T')).count();
    assert_eq!(hang, 1);
    run.kill().unwrap();
    run.wait().unwrap();
    (run.id(), pids)
}

/// What the system says of a process; a zombie is none.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next().filter(|state| !"ZX".contains(*state))
}

fn expect_nothing_broken(dir: &Path) {
    let healed = heal(dir);
    assert!(healed.status.success(), "{healed:?}");
    let told = text(&healed.stdout);
    assert!(told.contains("nothing is broken"), "{told}");
}

#[test]
fn a_local_cluster_ends_with_a_harness_that_is_killed_and_heal_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let (_, pids) = killed_amid_a_fault(&out, &["local"]);
    // The kernel sees to that, and the one that hangs is no exception.
    wait("the nodes have ended", || {
        pids.iter().all(|pid| state(*pid).is_none())
    });
    let healed = heal(dir.path());
    assert!(healed.status.success(), "{healed:?}");
    let told = text(&healed.stdout);
    for (node, pid) in (1..).zip(&pids) {
        let ended = format!("node {node} runs as process {pid}: it has ended");
        assert!(told.contains(&ended), "{told}");
    }
    expect_nothing_broken(dir.path());
}

mod needs_netns {
    use super::*;

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn networks_of_a_harness_that_is_killed_are_taken_away_by_heal() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let alone = HEALING.lock();
        let (harness, pids) = killed_amid_a_fault(&out, &["netns", "--disk-mib", "256"]);
        wait("the nodes have ended", || {
            pids.iter().all(|pid| state(*pid).is_none())
        });
        let networks = || {
            let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut ours: Vec<String> = names
                .filter(|name| name.starts_with(&format!("hf-{harness}-")))
                .collect();
            ours.sort();
            ours
        };
        let mounts = || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let out = out.display().to_string();
            mounts.lines().filter(|line| line.contains(&out)).count()
        };
        let left = networks();
        assert_eq!(left.len(), 4, "{left:?}");
        // The disks were mounted where the harness was alone, and went with it.
        assert_eq!(mounts(), 0);
        let healed = heal_alone(dir.path());
        drop(alone);
        assert!(healed.status.success(), "{healed:?}");
        let told = text(&healed.stdout);
        for name in left {
            let taken = format!("network {name}: taken away");
            assert!(told.contains(&taken), "{told}");
        }
        for (node, pid) in (1..).zip(&pids) {
            let ended = format!("node {node} runs as process {pid}: it has ended");
            assert!(told.contains(&ended), "{told}");
        }
        assert_eq!(networks(), Vec::<String>::new());
        expect_nothing_broken(dir.path());
    }
}
