//! Nodes for these tests: `holdfast start` processes that end with their owner.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use holdfast_proto::etcdserverpb::{
    StatusRequest, StatusResponse, cluster_client::ClusterClient, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// How long a cluster may take to answer: much longer than on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A cluster, killed and removed when it is dropped.
pub struct Nodes {
    processes: Vec<Child>,
    ports: Vec<u16>,
    _data: TempDir,
}

/// A port below the range from which the system gives them away, free and not given out before.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 11_000 + (std::process::id() % 400) as u16 * 50;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Nodes {
    /// A cluster of so many nodes, each in a zone of its own, that answers.
    pub async fn start(count: usize) -> Nodes {
        let data = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
        let members: Vec<_> = (1..)
            .zip(&ports)
            .map(|(id, (client, peer))| {
                format!("{id}=zone-{id}=http://127.0.0.1:{peer}=http://127.0.0.1:{client}")
            })
            .collect();
        let mut nodes = Nodes {
            processes: Vec::new(),
            ports: ports.iter().map(|(client, _)| *client).collect(),
            _data: data,
        };
        for (id, (client, peer)) in (1..).zip(&ports) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("HOLDFAST_") {
                    command.env_remove(name);
                }
            }
            let process = command
                .args([
                    "start",
                    "--id",
                    &format!("{id}"),
                    "--zone",
                    &format!("zone-{id}"),
                ])
                .arg("--data-dir")
                .arg(nodes._data.path().join(format!("{id}")))
                .args(["--initial-cluster", &members.join(",")])
                .args(["--client-addr", &format!("127.0.0.1:{client}")])
                .args(["--peer-addr", &format!("127.0.0.1:{peer}")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            nodes.processes.push(process);
        }
        for node in 0..count {
            nodes
                .until(node, "has a leader", |status| status.leader != 0)
                .await;
        }
        nodes
    }

    /// Waits until the status of a node fulfils a condition.
    pub async fn until(
        &self,
        node: usize,
        what: &str,
        condition: impl Fn(&StatusResponse) -> bool,
    ) -> StatusResponse {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.maintenance(node).status(StatusRequest {}).await;
            match answer {
                Ok(answer) if condition(answer.get_ref()) => return answer.into_inner(),
                last => assert!(Instant::now() < deadline, "node {node} {what}: {last:?}"),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.processes[node].kill().unwrap();
        self.processes[node].wait().unwrap();
    }

    pub fn port(&self, node: usize) -> u16 {
        self.ports[node]
    }

    pub fn endpoint(&self, node: usize) -> Endpoint {
        format!("http://127.0.0.1:{}", self.ports[node])
            .parse()
            .unwrap()
    }

    pub fn channel(&self, node: usize) -> Channel {
        self.endpoint(node).connect_lazy()
    }

    pub fn kv(&self, node: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(node))
    }

    pub fn cluster(&self, node: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel(node))
    }

    pub fn maintenance(&self, node: usize) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel(node))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has been killed already is no error.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
