//! How the harness gets into its network: it starts itself a second time, in the hub.
//!
//! Only what runs in the hub reaches the nodes, and the harness as a whole should: its clients, its
//! questions to nodes, its runtime. So there are two processes of one program:
//!
//! ```text
//!  outer: enter() ── makes the network ── ip netns exec hf-<pid>-hub SELF SAME-ARGUMENTS
//!             │                                  │  HOLDFAST_JEPSEN_NETNS={"owner":<pid>,"nodes":N}
//!             │                                  ▼
//!             │◀─ ends with its exit code ── inner: enter() answers Inside ── NetnsCluster::attach
//!             ▼
//!          takes everything away, ends with the same code
//! ```
//!
//! - Input, output and the working directory are the same for both.
//! - SIGINT, SIGTERM, SIGHUP and SIGQUIT to the outer process are passed on to the inner one, which should
//!   stop its nodes, write what it has and end. A second signal, or [`GRACE`] after the first, kills
//!   it. A terminal's Ctrl-C reaches the outer process alone.
//! - If the outer process is killed, the kernel kills the inner one, and so on to the nodes. Empty
//!   namespaces stay and are taken away by the next [`Network::create`].
//! - `ip netns exec` gives the inner process a view of mounts of its own: the disks of nodes exist
//!   only there, and go with the last process that sees them.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus},
    time::Duration,
};

use tokio::{
    process::Child,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{NetnsError, Network, Topology, VARIABLE};
use crate::cluster::process::die_with;

/// How long the inner process may take to end when asked: it has nodes to stop and a history to
/// judge and write.
pub const GRACE: Duration = Duration::from_secs(120);

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Entered {
    /// The inner one: go on, with [`super::NetnsCluster::attach`].
    Inside(Topology),
    /// The outer one, after the inner one has ended and all was taken away: end with this code. It
    /// is 128 and the signal's number if a signal ended the inner process.
    Done(u8),
}

/// Makes a network for so many nodes and runs this program in it a second time, with the same
/// arguments; in that second process, tells the network. Blocks until the second process has ended.
///
/// Call it early: what is done before is done by both processes. Must not be called by a thread that
/// runs tasks of a tokio runtime.
///
/// # Errors
///
/// Those of [`Network::create`]; that this program cannot be started; and, in the inner process,
/// that the variable is not what this function writes. Nothing is left behind.
pub fn enter(nodes: usize) -> Result<Entered, NetnsError> {
    if let Some(topology) = Topology::from_environment()? {
        return Ok(Entered::Inside(topology));
    }
    let program = std::env::current_exe().map_err(NetnsError::io("cannot find this program"))?;
    let words: Vec<OsString> = [program.into()]
        .into_iter()
        .chain(std::env::args_os().skip(1))
        .collect();
    run_inside(nodes, &words).map(Entered::Done)
}

/// Makes a network, runs a program in its hub as [`enter`] runs this one, and takes the network away.
/// `words` are the program and its arguments. Returns what the program ended with, as an exit code.
///
/// # Errors
///
/// The namespaces cannot be had, as with [`enter`].
pub fn run_inside(nodes: usize, words: &[OsString]) -> Result<u8, NetnsError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NetnsError::io("cannot wait for a process"))?;
    // Signals are caught before there is anything to leave behind.
    let mut signals = runtime
        .block_on(async { Signals::catch() })
        .map_err(NetnsError::io("cannot catch signals"))?;
    let network = Network::create(nodes)?;
    let status = runtime.block_on(async {
        let child = start(&network, words)?;
        attend(child, &mut signals).await
    });
    drop(network);
    let status = status.map_err(NetnsError::io("cannot run this program in its network"))?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|number| 128 + number));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(2))
}

fn start(network: &Network, words: &[OsString]) -> std::io::Result<Child> {
    let topology = network.topology();
    let mut command = Command::new(network.ip());
    command
        .args(["netns", "exec", &topology.hub()])
        .args(words)
        .env(VARIABLE, topology.to_text())
        .process_group(0);
    let own = std::process::id();
    // SAFETY: between fork and exec only system calls are made that are safe after a signal, and
    // nothing is allocated.
    unsafe {
        command.pre_exec(move || die_with(own));
    }
    tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
}

/// The signals that end a program.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.hang_up.recv() => libc::SIGHUP,
            _ = self.quit.recv() => libc::SIGQUIT,
        }
    }
}

/// Waits until a process ends, passing signals on to it.
async fn attend(mut child: Child, signals: &mut Signals) -> std::io::Result<ExitStatus> {
    let mut deadline: Option<Instant> = None;
    loop {
        let asked = deadline.is_some();
        let late = sleep_until(deadline.unwrap_or_else(Instant::now));
        tokio::select! {
            status = child.wait() => return status,
            number = signals.next() => {
                if asked {
                    child.start_kill()?;
                } else {
                    pass_on(&child, number)?;
                    deadline = Some(Instant::now() + GRACE);
                }
            }
            () = late, if asked => {
                child.start_kill()?;
                return child.wait().await;
            }
        }
    }
}

fn pass_on(child: &Child, number: i32) -> std::io::Result<()> {
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return Ok(());
    };
    // SAFETY: the process is our child and has not been waited for, so the id is still its own.
    match unsafe { libc::kill(id, number) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
