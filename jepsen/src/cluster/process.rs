//! The process of one node: started, stopped, paused, and never left behind.
//!
//! What holds here:
//!
//! - A process does not outlive the harness, not even when that is killed with SIGKILL: the kernel
//!   kills it when the thread that spawned it ends, and that thread lives as long as the harness.
//! - A signal reaches our own child or nobody: as long as it has not been waited for, its id is not
//!   given to another process.
//! - A terminal's Ctrl-C reaches the harness and not the nodes; they are in process groups of their
//!   own.

mod identity;

use std::{
    ffi::OsString,
    fs::File,
    io,
    mem::MaybeUninit,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::sleep;

pub use self::identity::Identity;

/// Time between two looks at a process that is about to end or to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long the kernel may take to end a process after SIGKILL. It is longer than any disk that
/// still answers keeps a process from ending.
const KILL_WITHIN: Duration = Duration::from_secs(30);
/// How long the threads of a process may take to stop after SIGSTOP.
const PAUSE_WITHIN: Duration = Duration::from_secs(30);

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Launch {
    /// File that is executed.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// Variables of the harness whose names begin with one of these are not passed on.
    pub withheld: Vec<String>,
    /// Variables that are added, or that replace those of the harness.
    pub env: Vec<(OsString, OsString)>,
    /// File that standard output and standard error are appended to.
    pub log: PathBuf,
    /// Most descriptors that the process may have open; as many as the harness may if it is not given.
    pub descriptors_max: Option<u64>,
}

impl Launch {
    /// The same, started by another program that ends up executing it in its own place (such as
    /// `ip netns exec NAME`): `words` are that program and its arguments.
    pub fn behind<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        let mut words = words.into_iter().map(Into::into);
        if let Some(outer) = words.next() {
            let inner = std::mem::replace(&mut self.program, outer.into());
            let args = std::mem::take(&mut self.args);
            self.args = words.chain([inner.into_os_string()]).chain(args).collect();
        }
        self
    }

    fn command(&self) -> io::Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if self.withheld.iter().any(|start| text.starts_with(start)) {
                command.env_remove(&name);
            }
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let harness = std::process::id();
        let descriptors_max = self.descriptors_max;
        // SAFETY: between fork and exec only system calls are made that are safe after a signal,
        // and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                die_with(harness)?;
                descriptors_max.map_or(Ok(()), limit_descriptors)
            });
        }
        Ok(command)
    }
}

/// Asks the kernel to kill the calling process when the thread that forked it ends.
pub(super) fn die_with(harness: u32) -> io::Result<()> {
    // SAFETY: the call takes a signal number and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has no arguments and cannot fail.
    let parent = unsafe { libc::getppid() };
    if u32::try_from(parent) != Ok(harness) {
        // The harness ended between fork and prctl, so no signal will come.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Lets the calling process have so many descriptors, and no more ever.
fn limit_descriptors(most: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the call reads a structure of ours.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that forks. The signal of a parent's death is tied to the forking thread and not to
/// its process; workers of a runtime may end any time, this thread ends with the harness.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || queue.into_iter().for_each(|job| job()))
        .expect("the harness can have one more thread");
    jobs
});

/// How a process ended that had been asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// What it ended with.
    pub status: ExitStatus,
    /// It took too long and was killed.
    pub killed: bool,
}

/// A process that was started. It is killed, and waited for, when this is dropped.
#[derive(Debug)]
pub struct Process {
    id: u32,
    child: Mutex<Child>,
}

impl Process {
    /// Starts a process. Blocks for the milliseconds that takes.
    ///
    /// Fails if the log file cannot be opened or the program cannot be executed; the error names
    /// the file.
    pub fn spawn(launch: &Launch) -> io::Result<Self> {
        let named = |error: io::Error, what: &str, file: &Path| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", file.display()))
        };
        let mut command = launch
            .command()
            .map_err(|error| named(error, "cannot open the log file", &launch.log))?;
        let (reply, answer) = mpsc::sync_channel(1);
        let job = move || {
            // Nobody listens only if the caller has panicked.
            let _ = reply.send(command.spawn());
        };
        SPAWNER
            .send(Box::new(job))
            .expect("the spawner lives as long as the harness");
        let child = answer
            .recv()
            .expect("the spawner answers every job")
            .map_err(|error| named(error, "cannot execute", &launch.program))?;
        Ok(Self {
            id: child.id(),
            child: Mutex::new(child),
        })
    }

    /// Its process id. It may belong to another process once this one has ended.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it has not ended, be it paused or not.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// What it ended with, by itself or by a signal; `None` as long as it has not ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        ended(&mut self.child.lock())
    }

    /// SIGKILL, without waiting for the end; works on a paused process too. Does nothing if it has
    /// ended.
    pub fn send_kill(&self) -> io::Result<()> {
        self.send(&[libc::SIGKILL])
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// Fails if it is not gone after half a minute.
    pub async fn kill(&self) -> io::Result<ExitStatus> {
        self.send_kill()?;
        self.wait(KILL_WITHIN).await.ok_or_else(|| {
            let text = format!("process {} lives on {KILL_WITHIN:?} after SIGKILL", self.id);
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }

    /// SIGTERM, and waits so long for the process to end; then kills it. A paused process is
    /// resumed, as it could not notice otherwise.
    pub async fn terminate(&self, patience: Duration) -> io::Result<Stopped> {
        self.send(&[libc::SIGTERM, libc::SIGCONT])?;
        match self.wait(patience).await {
            Some(status) => Ok(Stopped {
                status,
                killed: false,
            }),
            None => Ok(Stopped {
                status: self.kill().await?,
                killed: true,
            }),
        }
    }

    /// SIGSTOP, and waits until all threads hang; the connections stay. Does nothing if the process has
    /// ended.
    ///
    /// The signal takes effect when the thread that is to take it is scheduled, which on a busy machine
    /// may be seconds later; until then the others go on. Fails if it is not obeyed, and takes it back.
    pub async fn pause(&self) -> io::Result<()> {
        self.send(&[libc::SIGSTOP])?;
        let begun = Instant::now();
        while !self.is_stopped()? && self.is_running() {
            if begun.elapsed() >= PAUSE_WITHIN {
                self.resume()?;
                let text = format!("process {} goes on {PAUSE_WITHIN:?} after SIGSTOP", self.id);
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether all its threads are stopped by a signal.
    fn is_stopped(&self) -> io::Result<bool> {
        let mut child = self.child.lock();
        if ended(&mut child).is_some() {
            return Ok(false);
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the process is our child and, under the lock, has not been waited for; `info` is ours,
        // and zeros are a value of it, which stay where there is nothing to tell.
        let stopped = unsafe {
            match libc::waitid(libc::P_PID, self.id, info.as_mut_ptr(), options) {
                0 => info.assume_init().si_pid() != 0,
                _ => return Err(io::Error::last_os_error()),
            }
        };
        Ok(stopped)
    }

    /// SIGCONT. Does nothing if it has ended.
    pub fn resume(&self) -> io::Result<()> {
        self.send(&[libc::SIGCONT])
    }

    /// Waits at most so long for the process to end.
    pub async fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            let status = self.exit_status();
            if status.is_some() || begun.elapsed() >= patience {
                return status;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn send(&self, signals: &[i32]) -> io::Result<()> {
        let mut child = self.child.lock();
        if ended(&mut child).is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.id).expect("process ids are positive");
        for signal in signals {
            // SAFETY: the process is our child and, under the lock, has not been waited for, so
            // the id is still its own.
            if unsafe { libc::kill(pid, *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    child
        .try_wait()
        .expect("a child can be waited for, and its status is remembered")
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Both do nothing if the process has ended and was waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests;
