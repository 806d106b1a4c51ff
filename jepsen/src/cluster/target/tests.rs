use super::*;

fn members() -> Vec<Member> {
    (1..=2)
        .map(|id| Member {
            id,
            zone: format!("zone-{id}"),
            client_url: format!("http://127.0.0.1:100{id}"),
            peer_url: format!("http://127.0.0.1:200{id}"),
        })
        .collect()
}

fn arguments(target: Target) -> String {
    let members = members();
    let words = target.arguments(&NodeArguments {
        node: &members[1],
        data_dir: Path::new("/data/node-2"),
        client_addr: ([127, 0, 0, 1], 3002).into(),
        peer_addr: ([127, 0, 0, 1], 4002).into(),
        members: &members,
        extra: &["--log-level=debug".to_owned()],
    });
    let words = words.iter().map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn holdfast_is_told_all_of_its_members() {
    assert_eq!(
        arguments(Target::Holdfast),
        "start --id 2 --zone zone-2 --data-dir /data/node-2 --client-addr 127.0.0.1:3002 \
         --peer-addr 127.0.0.1:4002 --advertise-client-url http://127.0.0.1:1002 \
         --advertise-peer-url http://127.0.0.1:2002 --initial-cluster \
         1=zone-1=http://127.0.0.1:2001=http://127.0.0.1:1001,\
         2=zone-2=http://127.0.0.1:2002=http://127.0.0.1:1002 --log-level=debug"
    );
}

#[test]
fn etcd_is_told_all_of_its_members() {
    assert_eq!(
        arguments(Target::Etcd),
        "--name node-2 --data-dir /data/node-2 --listen-client-urls http://127.0.0.1:3002 \
         --advertise-client-urls http://127.0.0.1:1002 --listen-peer-urls http://127.0.0.1:4002 \
         --initial-advertise-peer-urls http://127.0.0.1:2002 --initial-cluster \
         node-1=http://127.0.0.1:2001,node-2=http://127.0.0.1:2002 --initial-cluster-state new \
         --log-level=debug"
    );
}

#[test]
fn a_program_that_cannot_run_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etcd");
    let find = |file: &Path| Target::Etcd.find(Some(file)).unwrap_err().to_string();
    let path = file.display().to_string();
    let error = find(&file);
    assert!(
        error.contains(&path) && error.contains("no such file"),
        "{error}"
    );
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let error = find(&file);
    assert!(
        error.contains(&path) && error.contains("not executable"),
        "{error}"
    );
    assert!(error.contains("--bin"), "{error}");
    assert!(find(dir.path()).contains("not a file"));
    let error = find(Path::new("no-program-has-this-name"));
    assert!(error.contains("PATH"), "{error}");
}

#[test]
fn a_name_is_looked_for_in_the_path() {
    let found = Target::Etcd.find(Some(Path::new("sh"))).unwrap();
    assert!(found.is_absolute() && found.ends_with("sh"), "{found:?}");
}

#[test]
fn targets_are_read_as_they_are_written() {
    for target in [Target::Holdfast, Target::Etcd] {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    let error = "consul".parse::<Target>().unwrap_err();
    assert!(
        error.contains("consul") && error.contains("holdfast or etcd"),
        "{error}"
    );
}

#[tokio::test]
async fn a_version_is_one_line_and_a_failure_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let program = |name: &str, script: &str| {
        let file = dir.path().join(name);
        // Written by a shell of its own, so that no test that forks in between holds the file
        // open for writing, which would keep it from being executed.
        let write = format!("printf '%s' '#!/bin/sh\n{script}' > \"$0\" && chmod +x \"$0\"");
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", &write])
            .arg(&file)
            .status();
        assert!(status.unwrap().success());
        file
    };
    let good = program("good", "echo one; echo two");
    assert_eq!(Target::Holdfast.version(&good).await.unwrap(), "one; two");
    assert_eq!(Target::Etcd.version(&good).await.unwrap(), "one");
    let bad = program("bad", "echo broken >&2; exit 7");
    let error = Target::Holdfast
        .version(&bad)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("broken") && error.contains("7") && error.contains("bad"),
        "{error}"
    );
}
