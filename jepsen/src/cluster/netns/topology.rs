//! The network: namespaces, the bridge between them, and their addresses.
//!
//! ```text
//!  hf-<pid>-hub                                             hf-<pid>-n1
//!    hub0 198.18.0.254 ── clients ┐       ┌ n1 ───────────── eth0 198.18.0.1
//!         198.18.1.254            ├─ br0 ─┤                       198.18.1.1
//!    harness, workload            ┘       │                 hf-<pid>-n2
//!                                         └ n2 ───────────── eth0 198.18.0.2
//!                                                                 198.18.1.2
//! ```
//!
//! What holds here:
//!
//! - No namespace has a link to the machine's own network or a default route, so no packet leaves.
//! - Every packet between two ends passes the hub's bridge, one port for each end; the faults are
//!   made there and only on addresses in 198.18.0.0/24 (a range set aside for benchmarks, RFC
//!   2544). What the harness asks on its own account goes to 198.18.1.0/24.
//! - Packets are of the size of a frame: devices take no larger segments to split, so a share of
//!   packets that is lost is what it would be on a wire.
//! - A [`Network`] takes away what it has made when it is dropped, with the processes therein. What
//!   a process that is gone has left is taken away when the next one makes a network.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    NetnsError, tmpfs,
    tools::{Refusal, Tools, run},
};
use crate::{cluster::End, history::NodeId, terminal};

/// Beginning of the names of everything that is made.
const PREFIX: &str = "hf-";
/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// More than any sensible cluster on one machine; each has an address of its own in a /24.
pub const NODES_MAX: usize = 32;
/// How long processes in a namespace may take to end after SIGKILL.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
/// Environment variable with the description of the network, for the harness inside of the hub.
pub const VARIABLE: &str = "HOLDFAST_JEPSEN_NETNS";

/// Names and addresses of a network. As text, it is JSON: `{"owner":4711,"nodes":3}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    owner: u32,
    nodes: usize,
}

impl Topology {
    /// Number of nodes, whose ids are 1 and up.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Name of the namespace that the harness and the workload run in.
    pub fn hub(&self) -> String {
        format!("{PREFIX}{}-hub", self.owner)
    }

    /// Name of the namespace of a node.
    pub fn namespace(&self, node: NodeId) -> String {
        format!("{PREFIX}{}-n{node}", self.owner)
    }

    fn namespaces(&self) -> Vec<String> {
        let nodes = (1..=self.nodes as NodeId).map(|id| self.namespace(id));
        [self.hub()].into_iter().chain(nodes).collect()
    }

    /// Text for [`VARIABLE`].
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("two numbers can be written as JSON")
    }

    /// The network that this process was started in, as [`VARIABLE`] tells; `None` without one.
    pub fn from_environment() -> Result<Option<Self>, NetnsError> {
        let Some(text) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        let text = text.to_string_lossy();
        let topology: Self = serde_json::from_str(&text).map_err(|error| NetnsError::Variable {
            text: text.to_string(),
            reason: error.to_string(),
        })?;
        topology.check_inside()?;
        Ok(Some(topology))
    }

    /// Whether the calling thread is in the hub, else an error.
    pub fn check_inside(&self) -> Result<(), NetnsError> {
        let outside = || NetnsError::Outside { hub: self.hub() };
        let hub = identity(&namespace_file(&self.hub())).ok_or_else(outside)?;
        match identity(Path::new("/proc/thread-self/ns/net")) {
            Some(own) if own == hub => Ok(()),
            _ => Err(outside()),
        }
    }
}

/// Address of an end that is subject to faults.
pub(super) fn address(end: End) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, host(end))
}

/// Address of an end that no fault touches.
pub(super) fn direct_address(end: End) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 1, host(end))
}

fn host(end: End) -> u8 {
    match end {
        End::Node(id) => u8::try_from(id).expect("there are at most 32 nodes"),
        End::Clients => 254,
    }
}

/// Port of the bridge that all packets to and from an end pass.
pub(super) fn port(end: End) -> String {
    match end {
        End::Node(id) => format!("n{id}"),
        End::Clients => "clients".to_owned(),
    }
}

/// File of a namespace.
pub(super) fn namespace_file(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// What tells one namespace from another.
fn identity(file: &Path) -> Option<(u64, u64)> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.dev(), about.ino()))
}

/// Runs something on a thread of its own that is in a namespace, and so are the threads and processes
/// that it starts, and the sockets that it opens, wherever they go. A panic is passed on.
///
/// # Errors
///
/// There is no such namespace, or this process may not enter it.
pub fn run_in<T: Send>(namespace: &str, what: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let no_entry = |error| NetnsError::NoEntry {
        name: namespace.to_owned(),
        error,
    };
    let file = File::open(namespace_file(namespace)).map_err(no_entry)?;
    let inside = || {
        // SAFETY: the descriptor is open for the time of the call, which changes this thread alone.
        match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(what()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let result = std::thread::scope(|scope| scope.spawn(inside).join());
    match result {
        Ok(done) => done.map_err(no_entry),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Set while this process has a network: names are by process, so it can have one at a time.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A network that exists. Dropping it kills the processes in it and takes it away; blocks
/// meanwhile, at most 10 s for each namespace.
#[derive(Debug)]
pub struct Network {
    topology: Topology,
    tools: Tools,
}

impl Network {
    /// Makes the namespaces and links for so many nodes. Before that, takes away what harnesses
    /// that are gone have left.
    ///
    /// # Errors
    ///
    /// Each says what is missing and what to do; nothing is left behind then.
    pub fn create(nodes: usize) -> Result<Self, NetnsError> {
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(NetnsError::Options(format!(
                "{nodes} nodes make no cluster in network namespaces; there must be 1 to \
                 {NODES_MAX}"
            )));
        }
        let tools = tools_of_root()?;
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(NetnsError::Options(
                "this process has a cluster in network namespaces already".to_owned(),
            ));
        }
        sweep(&tools);
        let owner = std::process::id();
        let network = Self {
            topology: Topology { owner, nodes },
            tools,
        };
        network.lay()?;
        Ok(network)
    }

    /// Its names and addresses.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The file of `ip`.
    pub(super) fn ip(&self) -> &Path {
        &self.tools.ip
    }

    fn lay(&self) -> Result<(), NetnsError> {
        let cannot = |what: &'static str| move |refusal| NetnsError::refused(what, refusal);
        let hub = self.topology.hub();
        let names = self.topology.namespaces();
        let add: String = names
            .iter()
            .map(|name| format!("netns add {name}\n"))
            .collect();
        self.batch(None, &add)
            .map_err(cannot("make network namespaces"))?;

        let mut links = format!(
            "link set lo up\n\
             link add br0 type bridge\n\
             link set br0 up\n\
             link add hub0 type veth peer name {clients}\n\
             link set {clients} master br0 up\n\
             {hub0}",
            clients = port(End::Clients),
            hub0 = device("hub0", End::Clients),
        );
        let ids = 1..=self.topology.nodes as NodeId;
        for id in ids.clone() {
            let (port, namespace) = (port(End::Node(id)), self.topology.namespace(id));
            links += &format!(
                "link add {port} type veth peer name eth0 netns {namespace}\n\
                 link set {port} master br0 up\n"
            );
        }
        let bridge = cannot("join network namespaces by a bridge and veth pairs");
        self.batch(Some(&hub), &links).map_err(bridge)?;
        for id in ids {
            let namespace = self.topology.namespace(id);
            let links = format!("link set lo up\n{}", device("eth0", End::Node(id)));
            let address = cannot("give a network namespace its addresses");
            self.batch(Some(&namespace), &links).map_err(address)?;
        }
        super::rules::probe(&self.tools, &hub)
            .map_err(cannot("filter what passes a bridge by nftables"))
    }

    /// Gives `ip` one command a line, in a namespace.
    fn batch(&self, namespace: Option<&str>, commands: &str) -> Result<(), Refusal> {
        let mut args = Vec::new();
        if let Some(name) = namespace {
            args.extend(["-n", name]);
        }
        args.extend(["-batch", "-"]);
        run(&self.tools.ip, &args, commands).map(|_| ())
    }
}

/// Commands that bring up the device of an end, for `ip -batch`.
fn device(name: &str, end: End) -> String {
    format!(
        "link set {name} gso_max_segs 1 up\n\
         addr add {}/24 dev {name}\n\
         addr add {}/24 dev {name}\n",
        address(end),
        direct_address(end)
    )
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.topology.namespaces() {
            remove(&self.tools, &name);
        }
        tmpfs::unmount_all_of(&|owner| owner == self.topology.owner);
        TAKEN.store(false, Ordering::SeqCst);
    }
}

/// The process that made what has this name, such as `hf-4711-n1`.
pub(super) fn owner_of(name: &str) -> Option<u32> {
    let (owner, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let node = rest.strip_prefix('n').map(str::parse::<NodeId>);
    match rest == "hub" || matches!(node, Some(Ok(_))) {
        true => owner.parse().ok(),
        false => None,
    }
}

/// Takes away the networks and mounts of harnesses that are gone, with what runs in them. Returns the
/// names of the network namespaces.
///
/// # Errors
///
/// There are some, and this user or machine cannot take them away.
pub fn take_away_left() -> Result<Vec<String>, NetnsError> {
    let left = left();
    if left.is_empty() {
        return Ok(left);
    }
    // SAFETY: the call has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    if user != 0 {
        return Err(NetnsError::NotRoot { user });
    }
    sweep(&Tools::find()?);
    Ok(left)
}

/// Namespaces of processes that are gone.
fn left() -> Vec<String> {
    let entries = std::fs::read_dir(NAMESPACES).into_iter().flatten();
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let gone = |owner: u32| !Path::new("/proc").join(owner.to_string()).exists();
    names
        .filter(|name| owner_of(name).is_some_and(gone))
        .collect()
}

/// Takes away what processes that are gone have left, and an earlier process of our own id.
fn sweep(tools: &Tools) {
    let gone = |owner: u32| {
        owner == std::process::id() || !Path::new("/proc").join(owner.to_string()).exists()
    };
    let entries = std::fs::read_dir(NAMESPACES).into_iter().flatten();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner_of(&name).is_some_and(gone) {
            remove(tools, &name);
        }
    }
    tmpfs::unmount_all_of(&gone);
}

/// Kills what runs in a namespace and takes its name away; the kernel takes the rest. Nothing
/// happens if it does not exist.
fn remove(tools: &Tools, name: &str) {
    let file = namespace_file(name);
    if !file.exists() {
        return;
    }
    if let Some(namespace) = identity(&file) {
        let begun = Instant::now();
        while kill_inhabitants(namespace) > 0 && begun.elapsed() < EMPTY_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if let Err(refusal) = run(&tools.ip, &["netns", "delete", name], "") {
        // Another harness may have swept it at the same moment.
        if file.exists() {
            terminal::note(format_args!(
                "cannot take away network namespace {name}: {refusal}"
            ));
        }
    }
}

/// SIGKILL to all processes in a namespace but this one. Returns how many there were.
fn kill_inhabitants(namespace: (u64, u64)) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let ids = entries.flatten().filter_map(|entry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        let is_other = u32::try_from(id) != Ok(std::process::id());
        is_other.then_some(id)
    });
    ids.filter(|id| kill_inhabitant(*id, namespace)).count()
}

/// SIGKILL to a process if it is in a namespace. Returns whether it is.
fn kill_inhabitant(id: i32, namespace: (u64, u64)) -> bool {
    let inside = || identity(Path::new(&format!("/proc/{id}/ns/net"))) == Some(namespace);
    if !inside() {
        return false;
    }
    // SAFETY: the call takes numbers and returns a new descriptor or -1.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
    let Ok(handle) = i32::try_from(handle) else {
        return false;
    };
    if handle < 0 {
        return false;
    }
    // The handle stays with its process when the id is given to another one. That the id is in the
    // namespace after the handle was made, shows that it is the handle's.
    let is_inside = inside();
    if is_inside {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and a null pointer asks for the usual signal information.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                handle,
                libc::SIGKILL,
                no_info,
                0,
            );
        }
    }
    // SAFETY: the descriptor is our own and is not used afterwards.
    unsafe { libc::close(handle) };
    is_inside
}

/// Tells why this user or machine can make no network at all, as far as that is known before trying.
///
/// # Errors
///
/// The user is not root, or a program is missing.
pub fn possible() -> Result<(), NetnsError> {
    tools_of_root().map(drop)
}

fn tools_of_root() -> Result<Tools, NetnsError> {
    // SAFETY: the call has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    match user {
        0 => Tools::find(),
        user => Err(NetnsError::NotRoot { user }),
    }
}
