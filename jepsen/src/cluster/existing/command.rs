//! Commands of users: run by `sh -c`, bounded in time, and quoted with what they wrote when they fail.

use std::{
    io::{Read, Seek},
    os::unix::process::CommandExt,
    process::Stdio,
    time::Duration,
};

use tokio::time::timeout;

use crate::{cluster::FaultError, history::NodeId};

/// Most characters of a command's output that an error shows.
const OUTPUT_CHARS_MAX: usize = 1000;

/// A command of the file, with its placeholders filled in.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// The node that it is about.
    pub(crate) node: NodeId,
    /// Its field in the file.
    pub(crate) name: &'static str,
    /// What it is, for errors.
    pub(crate) what: String,
    /// For `sh -c`.
    pub(crate) script: String,
    /// How long it may take.
    pub(crate) within: Duration,
}

impl Command {
    /// Runs it, and its error tells what it wrote.
    pub(crate) async fn run(&self) -> Result<(), FaultError> {
        let failed = |how: String| {
            FaultError::Failed(format!(
                "{} {how}; the command is: {}",
                self.what, self.script
            ))
        };
        let no_output = |error| failed(format!("has no place for its output: {error}"));
        // A file and no pipe: a node that the command starts may keep it open for ever.
        let mut output = tempfile::tempfile().map_err(no_output)?;
        let (stdout, stderr) = (output.try_clone(), output.try_clone());
        let mut command = std::process::Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(&self.script)
            .stdin(Stdio::null())
            .stdout(stdout.map_err(no_output)?)
            .stderr(stderr.map_err(no_output)?)
            .process_group(0);
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|error| failed(format!("does not start: {error}")))?;
        let mut group = Group(child.id());
        let waited = timeout(self.within, child.wait()).await;
        let status = match waited {
            Ok(status) => status.map_err(|error| failed(format!("is lost: {error}")))?,
            Err(_) => {
                drop(group);
                // The shell is killed with its group; this only collects it.
                let _ = child.wait().await;
                return Err(failed(format!("did not end within {:?}", self.within)));
            }
        };
        group.0 = None;
        if status.success() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        // Shown for what it is worth.
        let _ = output
            .rewind()
            .and_then(|()| output.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let skipped = text.trim().chars().count().saturating_sub(OUTPUT_CHARS_MAX);
        let tail: String = text.trim().chars().skip(skipped).collect();
        Err(failed(format!("ended with {status}: {tail}")))
    }
}

/// The process group of a shell that runs. It is killed when this is dropped, as when the command
/// takes too long or nobody waits for it any more.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: the call touches no memory. The shell that leads the group has not been
            // waited for, so the id still names this group.
            unsafe {
                libc::kill(-id, libc::SIGKILL);
            }
        }
    }
}
