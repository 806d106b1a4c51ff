//! One node: its process, its files, the ways to ask it and to harm it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use holdfast_proto::{
    etcdserverpb::{kv_client::KvClient, maintenance_client::MaintenanceClient},
    v1::{
        GroupsRequest, GroupsResponse, admin_client::AdminClient, sessions_client::SessionsClient,
    },
};
use holdfast_server::config::Config;
use tonic::transport::{Channel, Endpoint};

use super::{PATIENCE, until, within};

/// Longest answer that a test reads: all keys at once.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long a question about the node's state may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Lines of its log that a failed test prints for each node.
const LOG_TAIL_LINES: usize = 40;

/// A node of a cluster under test.
///
/// - `child` is there exactly while the test believes that the process runs.
/// - Its process is killed when this is dropped.
pub struct Node {
    pub id: u64,
    pub config: Config,
    child: Option<Child>,
    channel: Channel,
}

impl Node {
    pub fn new(config: Config) -> Self {
        let url = format!("http://{}", config.node.client_addr);
        Self {
            id: config.node.id,
            channel: channel(&url),
            config,
            child: None,
        }
    }

    /// Starts the process with the node's configuration.
    pub fn start(&mut self) {
        self.start_as(|_| {});
    }

    /// Starts the process with changes to how it is run: other outputs, other limits.
    pub fn start_as(&mut self, change: impl FnOnce(&mut Command)) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let file = self.file("toml");
        fs::write(&file, self.config.to_toml()).expect("the configuration is written");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("the log file opens");
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        command
            .arg("start")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file has two users"))
            .stderr(log);
        change(&mut command);
        self.child = Some(command.spawn().expect("the binary starts"));
    }

    /// SIGKILL, as when the power goes.
    pub fn kill9(&mut self) {
        self.send(libc::SIGKILL);
        let mut child = self.child.take().expect("send() has checked it");
        child.wait().expect("a killed process ends");
    }

    /// Sends a signal, and does not wait.
    pub fn signal(&self, signal: i32) {
        self.send(signal);
    }

    /// SIGTERM, and waits for the process to end.
    pub async fn term(&mut self) -> ExitStatus {
        self.send(libc::SIGTERM);
        self.exit(Duration::from_secs(20)).await
    }

    /// SIGSTOP: the process hangs, its connections stay. On a busy machine its threads run on for a
    /// while after the signal was sent, so this returns when all have stopped.
    pub fn pause(&self) {
        self.send(libc::SIGSTOP);
        let begun = Instant::now();
        while !self.is_stopped() {
            assert!(begun.elapsed() < PATIENCE, "node {} runs on", self.id);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(self.proc("task")).expect("the node runs");
        let stats = threads.flatten().map(|thread| thread.path().join("stat"));
        // A thread that ends meanwhile has no file any more.
        let mut stats = stats.flat_map(fs::read_to_string);
        // The state follows the name, which may hold brackets itself.
        stats.all(|stat| matches!(stat.rsplit_once(") "), Some((_, rest)) if rest.starts_with('T')))
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.send(libc::SIGCONT);
    }

    /// Waits until the process ends by itself.
    pub async fn exit(&mut self, patience: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        let id = self.id;
        // The guard is taken out; should the wait fail, the process must still go.
        let guard = Guard(&mut child);
        until("a process ends", patience, async || {
            match guard.0.try_wait().expect("a child can be waited for") {
                Some(status) => Ok(status),
                None => Err(format!("node {id} still runs")),
            }
        })
        .await
    }

    fn send(&self, signal: i32) {
        let child = self.child.as_ref();
        let child = child.unwrap_or_else(|| panic!("node {} does not run", self.id));
        let pid = i32::try_from(child.id()).expect("process ids are small");
        // SAFETY: the process is our child and has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the signal is sent");
    }

    /// A line of `/proc/PID/status` in KiB, as `VmRSS`.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("the node runs");
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|n| n.parse().ok()).expect("a line in kB")
    }

    /// Processor time that the process has used.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).expect("the node runs");
        // The name of the process may hold blanks; user and system time are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|n| n.parse::<u64>().expect("a number")).sum();
        // Linux tells times to programs in hundredths of a second on every architecture.
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, file: &str) -> String {
        let child = self.child.as_ref().expect("the node runs");
        format!("/proc/{}/{file}", child.id())
    }

    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// An error if the process has ended although nobody asked it to.
    pub fn check_alive(&mut self) -> Result<(), String> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        match child.try_wait().expect("a child can be waited for") {
            None => Ok(()),
            Some(status) => Err(format!("node {} ended by itself: {status}", self.id)),
        }
    }

    /// Somebody else has one of the node's ports.
    pub fn lacks_its_ports(&self) -> bool {
        self.log().contains("Address already in use")
    }

    pub fn client_url(&self) -> String {
        format!("http://{}", self.config.node.client_addr)
    }

    pub fn peer_url(&self) -> String {
        format!("http://{}", self.config.node.peer_addr)
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.node.data_dir
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    pub fn sessions(&self) -> SessionsClient<Channel> {
        SessionsClient::new(self.channel.clone())
    }

    /// Other settings, from its next start on.
    pub fn configure(&mut self, change: impl Fn(&mut Config)) {
        change(&mut self.config);
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    /// The groups as the node sees them.
    pub async fn groups(&self) -> Result<GroupsResponse, String> {
        let mut admin = self.admin();
        let answer = within(ANSWER_WITHIN, admin.groups(GroupsRequest {})).await;
        answer.map_err(|status| format!("node {}: {status}", self.id))
    }

    /// All that the node has written to its output since the cluster was made.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn print_log_tail(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        println!("--- node {}: the end of its log", self.id);
        for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
            println!("{line}");
        }
    }

    fn log_path(&self) -> PathBuf {
        self.file("log")
    }

    /// A file beside the data directory.
    fn file(&self, extension: &str) -> PathBuf {
        self.data_dir().with_extension(extension)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(Guard(child));
        }
    }
}

/// Kills a process on drop, if it still runs.
struct Guard<'a>(&'a mut Child);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Both fail only if the process has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection that is made when it is needed, and again after it broke.
pub fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_string())
        .expect("an address with a port is a URL")
        .connect_timeout(Duration::from_secs(1))
        .connect_lazy()
}
