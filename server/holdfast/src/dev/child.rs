//! One node as a child process.
//!
//! ```text
//! supervisor ─ spawn ─▶ process ── output ──▶ <data-dir>/node-N.log
//!      │                   ▲
//!      └─ signal(SIGTERM) ─┴─ task `attend` owns the process: signals it, waits for it, and
//!                             reports how it ended
//! ```
//!
//! The task that waits for the process is also the only one that signals it, so a signal can never
//! reach a process that has taken over the number of a dead one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::layout::{NodePlan, start_args};
use holdfast_server::config::settings::SETTINGS;

/// A log file larger than this is moved aside (one old file is kept) before the node starts.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most bytes that [`Process::output_tail`] looks at.
const TAIL_BYTES_MAX: u64 = 8 * 1024;
/// Most lines that [`Process::output_tail`] returns.
const TAIL_LINES_MAX: usize = 12;

/// A running node, or one whose end has not been reported yet.
#[derive(Debug)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// The task has room for all the signals a supervisor ever sends to one process; beyond that
    /// they would say nothing new and are dropped.
    signals: mpsc::Sender<libc::c_int>,
    log_file: PathBuf,
    log_start: u64,
}

impl Process {
    /// Starts a node. `ended` is called once, with how it ended.
    ///
    /// Must be called on a thread that lives as long as the supervisor, because the kernel binds
    /// the parent-death signal to the thread that forked and not to its process: the supervisor
    /// calls it on the main thread.
    pub fn spawn(
        node: &NodePlan,
        all: &[NodePlan],
        node_flags: &[String],
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<Process> {
        let (log, log_start) = open_log(&node.log_file)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(start_args(node, all, node_flags))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for the supervisor, which stops the nodes one by one.
            .process_group(0)
            .kill_on_drop(true);
        // Who and where a node is comes from the plan, whatever the surroundings say.
        command.env_remove("HOLDFAST_CONFIG");
        for setting in SETTINGS
            .iter()
            .filter(|setting| ["node", "cluster"].contains(&setting.section))
        {
            command.env_remove(setting.variable());
        }
        die_with_this_process(&mut command);
        let child = command.spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the process ended while it was started"))?;
        let (signals, orders) = mpsc::channel(8);
        tokio::spawn(attend(child, orders, ended));
        Ok(Process {
            pid,
            signals,
            log_file: node.log_file.clone(),
            log_start,
        })
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(&self, signal: libc::c_int) {
        let _ = self.signals.try_send(signal);
    }

    /// The last lines that the process wrote.
    pub fn output_tail(&self) -> String {
        tail(&self.log_file, self.log_start).unwrap_or_default()
    }
}

/// Waits for the process and passes signals on. When the supervisor is gone, the process is dropped
/// and with it killed.
async fn attend(
    mut child: Child,
    mut orders: mpsc::Receiver<libc::c_int>,
    ended: impl FnOnce(ExitStatus),
) {
    loop {
        tokio::select! {
            status = child.wait() => {
                match status {
                    Ok(status) => ended(status),
                    // The process is out of reach; for the supervisor that is the same as dead.
                    Err(_) => ended(ExitStatus::from_raw(libc::SIGKILL)),
                }
                return;
            }
            order = orders.recv() => {
                let Some(signal) = order else { return };
                // Known until `wait` has returned, so it is still this process's number.
                if let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
                    // SAFETY: kill takes two integers and touches no memory of ours.
                    unsafe { libc::kill(pid, signal) };
                }
            }
        }
    }
}

/// Has the kernel kill the child when this process dies, even by SIGKILL: nodes that nobody
/// supervises would keep the ports.
#[cfg(target_os = "linux")]
fn die_with_this_process(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG takes integers only and is async-signal-safe.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // If the parent died before the call above, no signal will come: this process has another
        // parent by now.
        // SAFETY: getppid has no arguments and cannot fail.
        if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called: the closure
    // calls prctl and getppid, and neither allocates nor takes a lock, in its errors neither.
    unsafe { command.pre_exec(prepare) };
}

/// Elsewhere the kernel knows no such thing; `kill_on_drop` covers all ends but SIGKILL.
#[cfg(not(target_os = "linux"))]
fn die_with_this_process(_command: &mut Command) {}

/// Opens the log to append to it. Returns where the new output begins.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let start = file.metadata()?.len();
    Ok((file, start))
}

/// The last lines of a file, from an offset on.
fn tail(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let start = from.max(end.saturating_sub(TAIL_BYTES_MAX));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].join("\n"))
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "has stopped".to_owned(),
        (Some(code), _) => format!("has failed with exit code {code}"),
        (None, Some(libc::SIGKILL)) => "was killed (SIGKILL)".to_owned(),
        (None, Some(libc::SIGTERM)) => "was killed (SIGTERM)".to_owned(),
        (None, Some(libc::SIGABRT)) => "has aborted (SIGABRT)".to_owned(),
        (None, Some(libc::SIGSEGV)) => "has crashed (SIGSEGV)".to_owned(),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_what_this_run_wrote_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");
        std::fs::write(&path, "of an earlier run\n").unwrap();
        let (_, start) = open_log(&path).unwrap();
        assert_eq!(start, 18);
        let lines: Vec<String> = (0..20).map(|line| format!("line {line}")).collect();
        std::fs::write(&path, format!("of an earlier run\n{}\n", lines.join("\n"))).unwrap();
        assert_eq!(tail(&path, start).unwrap(), lines[8..].join("\n"));
        std::fs::write(&path, "of an earlier run\nnew\n").unwrap();
        assert_eq!(tail(&path, start).unwrap(), "new");
    }

    #[test]
    fn a_large_log_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.log");
        File::create(&path)
            .unwrap()
            .set_len(LOG_BYTES_MAX + 1)
            .unwrap();
        let (_, start) = open_log(&path).unwrap();
        assert_eq!(start, 0);
        assert_eq!(
            std::fs::metadata(dir.path().join("node-1.log.1"))
                .unwrap()
                .len(),
            LOG_BYTES_MAX + 1
        );
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(0)), "has stopped");
        assert_eq!(
            describe(ExitStatus::from_raw(2 << 8)),
            "has failed with exit code 2"
        );
        assert_eq!(
            describe(ExitStatus::from_raw(libc::SIGKILL)),
            "was killed (SIGKILL)"
        );
        assert_eq!(
            describe(ExitStatus::from_raw(libc::SIGBUS)),
            format!("was killed by signal {}", libc::SIGBUS)
        );
    }
}
