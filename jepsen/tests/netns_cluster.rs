//! Real nodes in network namespaces, and the harness that starts itself in one: what is broken is
//! broken, what is healed is healed, and nothing is left behind. What a machine says that can have no such
//! network is tested in `command_line.rs`.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod nodes;

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use holdfast_jepsen::{
    cluster::{
        Cluster, End, Link, LinkFault, Node,
        netns::{NetnsCluster, NetnsOptions, Network, Topology, VARIABLE, run_in, run_inside},
        target::Target,
    },
    history::NodeId,
};
use nodes::{PATIENCE, client, expect_value, holdfast, put};

/// How long a request may take that is expected to fail.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// Tells the test `outer` what to run in the hub.
const SCRIPT: &str = "HOLDFAST_JEPSEN_TEST_SCRIPT";
/// A process has one network at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn network(nodes: usize) -> Network {
    Network::create(nodes).unwrap_or_else(|error| panic!("{error}"))
}

fn options(dir: &Path) -> NetnsOptions {
    NetnsOptions {
        target: Target::Holdfast,
        bin: Some(holdfast()),
        nodes: 3,
        zones: None,
        dir: dir.to_owned(),
        extra_args: Vec::new(),
        env: Vec::new(),
        nofile: None,
        tmpfs_bytes: Some(192 << 20),
        preload: false,
        power_cuts: false,
    }
}

async fn expect_no_put(node: &Node) {
    let client = client(&node.endpoint, GIVE_UP_AFTER);
    let put = client.put("refused", "refused").await;
    put.expect_err("it cannot commit");
}

fn between(a: End, b: End, fault: LinkFault) -> [(Link, LinkFault); 2] {
    [(a, b), (b, a)].map(|(from, to)| (Link { from, to }, fault))
}

fn isolation(node: NodeId, fault: LinkFault) -> Vec<(Link, LinkFault)> {
    let others = (1..=3).filter(|other| *other != node);
    others
        .flat_map(|other| between(End::Node(node), End::Node(other), fault))
        .collect()
}

const HEALTHY: LinkFault = LinkFault {
    cut: false,
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    bytes_per_second: 0,
    loss: 0.0,
    reset: false,
};
const CUT: LinkFault = LinkFault {
    cut: true,
    ..HEALTHY
};

/// Mounts and processes that mention a directory.
fn leavings(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(dir));
    let mut found: Vec<String> = mounts.map(str::to_owned).collect();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(dir) {
            found.push(words);
        }
    }
    found
}

/// Names of namespaces that were made by a process.
fn namespaces_of(owner: u32) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with(&format!("hf-{owner}-")))
        .collect()
}

async fn break_and_heal(cluster: &NetnsCluster) {
    let nodes = cluster.nodes();
    let begun = Instant::now();
    let told = |what: &str| println!("{:?}: {what}", begun.elapsed());
    for node in nodes {
        put(node, &format!("put-{}", node.id)).await;
        expect_value(node, "put-1").await;
    }

    // A node that nobody of its kind hears, but clients do.
    cluster.set_links(&isolation(1, CUT)).await.unwrap();
    expect_no_put(&nodes[0]).await;
    put(&nodes[1], "without-1").await;
    cluster.heal_links().await.unwrap();
    expect_value(&nodes[0], "without-1").await;
    told("one node was isolated");

    // A node that no client reaches, but the harness does.
    let cut = between(End::Clients, End::Node(2), CUT);
    cluster.set_links(&cut).await.unwrap();
    expect_no_put(&nodes[1]).await;
    let direct = client(&nodes[1].direct, PATIENCE);
    direct.put("direct", "direct").await.unwrap();
    cluster.heal_links().await.unwrap();
    expect_value(&nodes[1], "direct").await;
    told("the clients of one node were cut off");

    // Loss and resets slow everything down and lose nothing.
    let mut links = isolation(
        3,
        LinkFault {
            loss: 0.1,
            ..HEALTHY
        },
    );
    links.extend(between(
        End::Node(1),
        End::Node(2),
        LinkFault {
            reset: true,
            ..HEALTHY
        },
    ));
    cluster.set_links(&links).await.unwrap();
    for count in 0..20 {
        put(&nodes[count % 3], &format!("rough-{count}")).await;
    }
    cluster.heal_links().await.unwrap();
    for count in 0..20 {
        expect_value(&nodes[2], &format!("rough-{count}")).await;
    }
    told("loss and resets");

    // The process itself, not one that stands before it.
    cluster.pause(3).await.unwrap();
    put(&nodes[0], "paused-3").await;
    let asked = client(&nodes[2].direct, GIVE_UP_AFTER);
    asked
        .get("paused-3")
        .first()
        .await
        .expect_err("it is paused");
    cluster.resume(3).await.unwrap();
    expect_value(&nodes[2], "paused-3").await;
    cluster.kill(3).await.unwrap();
    cluster.kill(3).await.unwrap();
    assert!(!cluster.is_running(3).await);
    cluster.start(3).await.unwrap();
    cluster.start(3).await.unwrap();
    assert!(cluster.is_running(3).await);
    expect_value(&nodes[2], "rough-19").await;
    cluster.stop(2).await.unwrap();
    put(&nodes[2], "stopped-2").await;
    cluster.start(2).await.unwrap();
    expect_value(&nodes[1], "stopped-2").await;
    told("one was paused, killed, stopped");

    // A disk that is full is the node's alone.
    cluster.fill_disk(1, true).await.unwrap();
    let probe = cluster.data_dir(1).unwrap().join("probe");
    let error = fs::write(&probe, [1; 4096]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    let _ = fs::remove_file(&probe);
    put(&nodes[1], "full-1").await;
    cluster.fill_disk(1, false).await.unwrap();
    cluster.kill(1).await.unwrap();
    cluster.start(1).await.unwrap();
    expect_value(&nodes[0], "full-1").await;
    told("a disk was full");

    // What it was not made for.
    for error in [
        cluster.cut_power(&[1]).await.unwrap_err(),
        cluster.pause(4).await.unwrap_err(),
        cluster.fill_disk(4, true).await.unwrap_err(),
    ] {
        println!("{error}");
    }
}

/// Not a test of its own: the others start it as the outer of two processes.
#[test]
#[ignore = "started by other tests"]
fn outer() -> ExitCode {
    let Ok(script) = std::env::var(SCRIPT) else {
        println!("{SCRIPT} is not set");
        return ExitCode::SUCCESS;
    };
    let words = ["/bin/sh", "-c", &script].map(OsString::from);
    match run_inside(2, &words) {
        // The exit code of a test is not its own.
        Ok(code) => std::process::exit(i32::from(code)),
        Err(error) => panic!("{error}"),
    }
}

fn start_outer(script: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "outer", "--ignored", "--nocapture"])
        .env(SCRIPT, script)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The rest of the first line of its output that has a word.
fn line_after(child: &mut Child, word: &str) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let mut texts = lines.map(Result::unwrap);
    let found = texts.find_map(|line| Some(line.split_once(word)?.1.trim().to_owned()));
    found.unwrap_or_else(|| panic!("no line with `{word}`"))
}

fn exists(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits for its parent and runs no more.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn wait_until_gone(pid: &str) {
    let begun = Instant::now();
    while exists(pid) {
        assert!(begun.elapsed() < PATIENCE, "{pid} lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, number: i32) {
    // SAFETY: the process is our child and has not been waited for.
    let sent = unsafe { libc::kill(i32::try_from(child.id()).unwrap(), number) };
    assert_eq!(sent, 0);
}

mod needs_netns {
    use super::*;

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn three_nodes_are_broken_and_healed() {
        let _turn = ONE_AT_A_TIME.lock();
        let network = network(3);
        let topology = network.topology().clone();
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        run_in(&topology.hub(), || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let begun = Instant::now();
                let cluster = NetnsCluster::attach(topology.clone(), options)
                    .await
                    .unwrap_or_else(|error| panic!("{error}"));
                println!("three nodes serve after {:?}", begun.elapsed());
                break_and_heal(&cluster).await;
                cluster.shut_down().await;
                assert_eq!(leavings(dir.path()), Vec::<String>::new());
                assert!(fs::metadata(cluster.log_file(1).unwrap()).unwrap().len() > 0);
            });
        })
        .unwrap();
        drop(network);
        assert_eq!(namespaces_of(std::process::id()), Vec::<String>::new());
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn options_that_do_not_fit_are_refused() {
        let _turn = ONE_AT_A_TIME.lock();
        let network = network(2);
        let topology = network.topology().clone();
        let dir = tempfile::tempdir().unwrap();
        let attach = |options: NetnsOptions| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            match runtime.block_on(NetnsCluster::attach(topology.clone(), options)) {
                Ok(_) => panic!("it started"),
                Err(error) => error.to_string(),
            }
        };
        let mut options = NetnsOptions {
            bin: Some("/bin/bash".into()),
            ..options(dir.path())
        };
        let text = attach(options.clone());
        assert!(text.contains("is not the network namespace"), "{text}");
        run_in(&topology.hub(), || {
            let text = attach(options.clone());
            assert!(text.contains("do not fit a network of 2"), "{text}");
            options.nodes = 2;
            let text = attach(options.clone());
            // What bash says about the first argument.
            assert!(text.contains("start: No such file"), "{text}");
            let text = attach(options.clone());
            assert!(text.contains("another directory"), "{text}");
        })
        .unwrap();
        assert_eq!(leavings(dir.path()), Vec::<String>::new());
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn the_inner_process_has_the_network_and_gives_its_exit_code() {
        let _turn = ONE_AT_A_TIME.lock();
        let script =
            format!("echo \"told ${VARIABLE}\"; echo \"in $(ip netns identify $$)\"; exit 42");
        let mut outer = start_outer(&script);
        let told = line_after(&mut outer, "told ");
        let hub = line_after(&mut outer, "in ");
        let id = outer.id();
        assert_eq!(told, format!("{{\"owner\":{id},\"nodes\":2}}"));
        assert_eq!(hub, format!("hf-{id}-hub"));
        assert_eq!(outer.wait().unwrap().code(), Some(42));
        assert_eq!(namespaces_of(id), Vec::<String>::new());
        // Without the variable there is none.
        assert!(Topology::from_environment().unwrap().is_none());
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn signals_are_passed_on_and_nothing_is_left() {
        let _turn = ONE_AT_A_TIME.lock();
        for (number, name) in [(libc::SIGINT, "INT"), (libc::SIGTERM, "TERM")] {
            // The sleeper in the namespace outlives the shell, but not the network.
            let script = format!(
                "trap 'exit 7' {name}; sleep 600 & echo \"sleeper $!\"; while :; do sleep 0.02; done"
            );
            let mut outer = start_outer(&script);
            let sleeper = line_after(&mut outer, "sleeper ");
            assert_eq!(namespaces_of(outer.id()).len(), 3);
            signal(&outer, number);
            assert_eq!(outer.wait().unwrap().code(), Some(7));
            assert_eq!(namespaces_of(outer.id()), Vec::<String>::new());
            assert!(!exists(&sleeper));
        }
        // One that does not want to go is killed by the second signal.
        let script =
            "trap 'echo \"asked $$\"' TERM; echo \"ready $$\"; while :; do sleep 0.02; done";
        let mut outer = start_outer(script);
        let inner = line_after(&mut outer, "ready ");
        signal(&outer, libc::SIGTERM);
        assert_eq!(line_after(&mut outer, "asked "), inner);
        signal(&outer, libc::SIGTERM);
        assert_eq!(outer.wait().unwrap().code(), Some(128 + libc::SIGKILL));
        assert_eq!(namespaces_of(outer.id()), Vec::<String>::new());
        assert!(!exists(&inner));
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn what_a_killed_harness_leaves_is_swept_by_the_next() {
        let _turn = ONE_AT_A_TIME.lock();
        let script = "sleep 600 & echo \"ids $$ $!\"; wait";
        let mut outer = start_outer(script);
        let ids = line_after(&mut outer, "ids ");
        let (inner, sleeper) = ids.split_once(' ').unwrap();
        outer.kill().unwrap();
        outer.wait().unwrap();
        // The kernel sees to the inner process, and the next network to what that has started.
        wait_until_gone(inner);
        assert_eq!(namespaces_of(outer.id()).len(), 3);
        drop(network(1));
        assert_eq!(namespaces_of(outer.id()), Vec::<String>::new());
        assert!(!exists(sleeper));
    }
}
