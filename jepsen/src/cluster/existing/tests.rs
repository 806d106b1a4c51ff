use std::time::Instant;

use super::*;

fn write(dir: &Path, text: &str) -> PathBuf {
    let file = dir.join("cluster.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// Three nodes; each has these fields besides.
fn nodes(fields: &str) -> String {
    let node = |id| {
        format!("[[nodes]]\nid = {id}\nzone = 'z{id}'\nendpoint = '10.0.0.{id}:2379'\n{fields}\n")
    };
    (1..=3).map(node).collect()
}

fn cluster(dir: &Path, fields: &str) -> ExistingCluster {
    let path = write(
        dir,
        &format!("command_within_seconds = 20\n{}", nodes(fields)),
    );
    let journal = Journal::open(dir).unwrap();
    ExistingCluster::assemble(&path, File::load(&path).unwrap(), journal)
}

fn refusal(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), text);
    let error = File::load(&file).unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
    error
}

fn isolation(node: NodeId) -> Vec<(Link, LinkFault)> {
    let cut = LinkFault {
        cut: true,
        ..LinkFault::default()
    };
    let others = (1..=3).filter(|other| *other != node);
    let ends = others.map(|other| (End::Node(node), End::Node(other)));
    ends.flat_map(|(a, b)| [(a, b), (b, a)])
        .map(|(from, to)| (Link { from, to }, cut))
        .collect()
}

#[test]
fn the_annotated_example_is_right() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/jepsen/existing-cluster.toml");
    let file = File::load(&file).unwrap();
    assert_eq!(file.nodes.len(), 3);
    assert!(file.nodes[0].isolate.is_some());
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() {
    let good = nodes("");
    for (text, told) in [
        ("", vec!["nodes = []", "one [[nodes]] section"]),
        ("nodes = 3", vec!["nodes = 3", "expected a sequence"]),
        (
            &nodes("pauze = 'x'"),
            vec!["pauze", "expected one of", "`pause`"],
        ),
        (
            &nodes("kill = 'x'"),
            vec!["nodes[0].kill", "\"x\"", "`start`"],
        ),
        (
            &nodes("pause = ' '\nresume = 'x'"),
            vec!["nodes[0].pause", "command for sh"],
        ),
        (
            &good.replace("id = 2", "id = 1"),
            vec!["nodes[1].id = 1", "another for each node"],
        ),
        (
            &good.replace("'z3'", "''"),
            vec!["nodes[2].zone", "failure domain"],
        ),
        (
            &good.replace("'10.0.0.2:2379'", "'http://10.0.0.2:2379'"),
            vec!["nodes[1].endpoint", "\"http://10.0.0.2:2379\"", "host:port"],
        ),
        (
            &nodes("direct = 'localhost'"),
            vec!["nodes[0].direct", "host:port"],
        ),
        (
            &format!("command_within_seconds = 0\n{good}"),
            vec!["command_within_seconds = 0", "above 0"],
        ),
    ] {
        let error = refusal(text);
        for part in told {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
    let missing = File::load(Path::new("/nonexistent/cluster.toml")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/cluster.toml"));
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_named_with_their_errors() {
    let held = crate::cluster::ports::free(3).unwrap();
    let addrs: Vec<String> = held
        .into_iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let mut text = nodes("");
    for (index, addr) in addrs.iter().enumerate() {
        text = text.replace(&format!("10.0.0.{}:2379", index + 1), addr);
    }
    let file = write(dir.path(), &text);
    let Err(error) = ExistingCluster::connect(&file, Journal::open(dir.path()).unwrap()).await
    else {
        panic!("nobody listens");
    };
    let error = error.to_string();
    for (index, addr) in addrs.iter().enumerate() {
        let named = format!("node {} at {addr}: ", index + 1);
        assert!(error.contains(&named), "{error}");
    }
    println!("{error}");
}

#[tokio::test]
async fn commands_have_the_values_of_their_node_and_run_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let echo = |word: &str| {
        format!(
            "{word} = 'echo {word} {{id}} {{zone}} {{endpoint}} ${{HOME:+x}} >> {}'",
            log.display()
        )
    };
    let words = ["kill", "stop", "start", "pause", "resume"];
    let cluster = cluster(dir.path(), &words.map(echo).join("\n"));
    cluster.kill(2).await.unwrap();
    cluster.kill(2).await.unwrap();
    cluster.stop(2).await.unwrap();
    assert!(!cluster.is_running(2).await);
    assert!(matches!(
        cluster.pause(2).await,
        Err(FaultError::Skipped(_))
    ));
    cluster.start(2).await.unwrap();
    cluster.resume(3).await.unwrap();
    cluster.pause(3).await.unwrap();
    cluster.pause(3).await.unwrap();
    cluster.stop(1).await.unwrap();
    // What is still broken is undone, in this order.
    cluster.shut_down().await;
    cluster.shut_down().await;
    let told = std::fs::read_to_string(&log).unwrap();
    let told: Vec<&str> = told
        .lines()
        .map(|line| line.trim_end_matches(" x"))
        .collect();
    assert_eq!(
        told,
        [
            "kill 2 z2 10.0.0.2:2379",
            "start 2 z2 10.0.0.2:2379",
            "pause 3 z3 10.0.0.3:2379",
            "stop 1 z1 10.0.0.1:2379",
            "start 1 z1 10.0.0.1:2379",
            "resume 3 z3 10.0.0.3:2379",
        ]
    );
}

#[tokio::test]
async fn a_missing_command_skips_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path(), "");
    for (name, outcome) in [
        ("kill", cluster.kill(1).await),
        ("stop", cluster.stop(1).await),
        ("pause", cluster.pause(1).await),
        ("resume", cluster.resume(1).await),
        ("isolate", cluster.set_links(&isolation(1)).await),
    ] {
        match outcome {
            Err(FaultError::Skipped(text)) => {
                assert!(text.contains(&format!("no `{name}`")), "{text}");
                assert!(text.contains("cluster.toml"), "{text}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    cluster.heal_links().await.unwrap();
    assert!(matches!(cluster.kill(4).await, Err(FaultError::Failed(_))));
}

#[tokio::test]
async fn a_command_that_fails_or_hangs_is_told_with_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let fields = format!(
        "kill = 'echo no such machine >&2; exit 4'\nstart = 'true'\n\
         pause = 'sleep 1000 & echo $! > {}; wait'\nresume = 'true'",
        pid.display()
    );
    let mut cluster = cluster(dir.path(), &fields);
    let text = cluster.kill(1).await.unwrap_err().to_string();
    for part in ["`kill` of node 1", "exit status: 4", "no such machine"] {
        assert!(text.contains(part), "{text}");
    }
    cluster.command_within = Duration::from_millis(500);
    let text = cluster.pause(2).await.unwrap_err().to_string();
    assert!(
        text.contains("`pause` of node 2 did not end within 500ms"),
        "{text}"
    );
    // What the shell has started is killed with it.
    let pid = std::fs::read_to_string(&pid).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    let begun = Instant::now();
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_node_that_a_command_leaves_running_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let fields = format!(
        "kill = 'kill -9 $(cat {0})'\nstart = 'sleep 1000 & echo $! > {0}'",
        pid.display()
    );
    let cluster = cluster(dir.path(), &fields);
    cluster.broken.lock().down.insert(1);
    let begun = Instant::now();
    cluster.start(1).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    cluster.kill(1).await.unwrap();
}

#[tokio::test]
async fn only_whole_isolations_are_made_and_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let echo = |word: &str| format!("{word} = 'echo {word} {{id}} >> {}'", log.display());
    let cluster = cluster(dir.path(), &["isolate", "rejoin"].map(echo).join("\n"));
    let told = || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .replace('\n', ";")
    };
    let one_way = &isolation(1)[..1];
    let mut slow = isolation(1);
    slow[0].1.delay = Duration::from_millis(1);
    let clients = Link {
        from: End::Clients,
        to: End::Node(1),
    };
    for skipped in [one_way, &slow, &[(clients, isolation(1)[0].1)]] {
        let outcome = cluster.set_links(skipped).await;
        assert!(
            matches!(outcome, Err(FaultError::Skipped(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(told(), "");
    cluster.set_links(&isolation(1)).await.unwrap();
    cluster.set_links(&isolation(1)).await.unwrap();
    assert_eq!(told(), "isolate 1;");
    assert!(cluster.is_running(1).await);
    // The node is healed link by link, but only all of them together can be.
    let healed: Vec<_> = isolation(1)
        .into_iter()
        .map(|(link, _)| (link, LinkFault::default()))
        .collect();
    assert!(cluster.set_links(&healed[..1]).await.is_err());
    cluster.set_links(&healed).await.unwrap();
    assert_eq!(told(), "isolate 1;rejoin 1;");
    // Everybody from everybody: with two of three cut off, the third is alone as well.
    cluster.set_links(&isolation(3)).await.unwrap();
    cluster.set_links(&isolation(2)).await.unwrap();
    cluster.shut_down().await;
    let told = told();
    let (mut made, mut undone) = (BTreeSet::new(), BTreeSet::new());
    for step in told.split_terminator(';') {
        match step.split_once(' ').unwrap() {
            ("isolate", node) => assert!(made.insert(node.to_owned()) || undone.remove(node)),
            (_, node) => assert!(undone.insert(node.to_owned())),
        }
    }
    assert_eq!(made, undone, "{told}");
}
