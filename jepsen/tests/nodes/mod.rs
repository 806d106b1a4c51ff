//! What the tests of real nodes have in common.

#![allow(dead_code, reason = "not every one of them needs all of it")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use holdfast_client::Client;
use holdfast_jepsen::cluster::{
    Cluster, Node,
    local::{LocalCluster, LocalOptions},
    target::Target,
};
use tokio::time::sleep;

/// How long a condition may take that has no bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request may take that is repeated until it has its answer.
const ONE_TRY: Duration = Duration::from_secs(4);

/// Probes until there is an answer.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(missing) if begun.elapsed() > PATIENCE => {
                panic!("not within {PATIENCE:?}: {what}; at last: {missing}")
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The program of Holdfast in the directory of this build; built if it is missing.
pub fn holdfast() -> PathBuf {
    if let Ok(bin) = Target::Holdfast.find(None) {
        return bin;
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "-p", "holdfast", "--bin", "holdfast"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let status = build.status().expect("cargo can be executed");
    assert!(
        status.success(),
        "the build of the server ends with {status}"
    );
    Target::Holdfast.find(None).expect("it has just been built")
}

/// Three nodes on this machine, plain ones.
pub fn plain(target: Target, bin: PathBuf, dir: &Path) -> LocalOptions {
    LocalOptions {
        target,
        bin: Some(bin),
        nodes: 3,
        zones: None,
        dir: dir.to_owned(),
        extra_args: Vec::new(),
        env: Vec::new(),
        preload: false,
        power_cuts: false,
        nofile: None,
        seed: 1,
    }
}

/// The processes of the nodes of a cluster that was just started in this directory, by the number of the
/// node.
pub fn processes(dir: &Path) -> Vec<u32> {
    let log = fs::read_to_string(dir.join("cluster.log")).unwrap();
    let pid = |node: u64| {
        let (_, rest) = log.split_once(&format!("node {node} is process "))?;
        Some(rest.lines().next()?.parse().unwrap())
    };
    (1..).map_while(pid).collect()
}

/// The file that describes a cluster as one that exists, with the commands that each node has.
pub fn existing(cluster: &LocalCluster, commands: impl Fn(&Node) -> String) -> String {
    let node = |node: &Node| {
        format!(
            "[[nodes]]\nid = {}\nzone = {:?}\nendpoint = {:?}\ndirect = {:?}\n{}\n",
            node.id,
            node.zone,
            node.endpoint,
            node.direct,
            commands(node)
        )
    };
    cluster.nodes().iter().map(node).collect()
}

/// A client of this endpoint alone.
pub fn client(endpoint: &str, patience: Duration) -> Client {
    Client::builder()
        .endpoints([endpoint])
        .discover(false)
        .timeout(patience)
        .connect_lazy()
        .expect("an endpoint of a cluster is one")
}

/// Writes a key whose value is its name.
pub async fn put(node: &Node, key: &str) {
    let client = client(&node.endpoint, PATIENCE);
    let put = client.put(key.to_owned(), key.to_owned()).await;
    put.unwrap_or_else(|error| panic!("node {} refuses {key}: {error}", node.id));
}

/// Writes a key whose value is its name; again, until a request is carried out.
///
/// For stores whose answer to a request that an election meets is that nobody knows what became of
/// it: to repeat this write changes nothing.
pub async fn put_soon(node: &Node, key: &str) {
    until("a write", async || {
        let client = client(&node.endpoint, ONE_TRY);
        let put = client.put(key.to_owned(), key.to_owned()).await;
        put.map(drop)
            .map_err(|error| format!("node {}, {key}: {error}", node.id))
    })
    .await;
}

/// The key is there, soon.
pub async fn expect_value(node: &Node, key: &str) {
    until("a read", async || {
        let client = client(&node.endpoint, ONE_TRY);
        match client.get(key.to_owned()).first().await {
            Ok(Some(found)) if found.value == key.as_bytes() => Ok(()),
            other => Err(format!("node {}: {other:?}", node.id)),
        }
    })
    .await;
}
