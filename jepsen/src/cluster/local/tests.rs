use super::*;

fn options(dir: &Path) -> LocalOptions {
    LocalOptions {
        target: Target::Holdfast,
        bin: Some("/bin/sh".into()),
        nodes: 3,
        zones: None,
        dir: dir.to_owned(),
        extra_args: Vec::new(),
        env: Vec::new(),
        nofile: None,
        preload: false,
        power_cuts: false,
        seed: 1,
    }
}

async fn refusal(options: LocalOptions) -> String {
    match LocalCluster::start(options).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn options_that_make_no_cluster_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (nodes, zones) in [(0, None), (3, Some(0)), (3, Some(4))] {
        let mut options = options(dir.path());
        (options.nodes, options.zones) = (nodes, zones);
        let text = refusal(options).await;
        assert!(text.contains("make no cluster"), "{text}");
    }
    let mut missing = options(dir.path());
    missing.bin = Some("/nonexistent/holdfast".into());
    let text = refusal(missing).await;
    assert!(text.contains("/nonexistent/holdfast"), "{text}");
}

#[tokio::test]
async fn the_data_of_another_cluster_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("node-1")).unwrap();
    let mut options = options(dir.path());
    // Any program that tells a version.
    options.bin = Some("/bin/bash".into());
    let text = refusal(options).await;
    assert!(text.contains("another directory"), "{text}");
}

#[tokio::test]
async fn a_program_that_is_no_node_is_told_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.bin = Some("/bin/bash".into());
    let text = refusal(options).await;
    assert!(text.contains("ended by itself"), "{text}");
    // What bash says about the first argument.
    assert!(text.contains("start: No such file"), "{text}");
}
