//! Which process: an id that no other process has, ever.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use serde::{Deserialize, Serialize};

/// A process by its id, which may be given to another one later, and what tells those two apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its process id.
    pub pid: u32,
    /// When it was started, in clock ticks since the machine was.
    pub started: u64,
    /// The start of the machine, as `/proc/sys/kernel/random/boot_id` names it.
    pub boot: String,
}

impl Identity {
    /// The process that runs under this id.
    ///
    /// # Errors
    ///
    /// There is none, or `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            started: started(pid)?,
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?
                .trim()
                .to_owned(),
        })
    }

    /// This process.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether it runs still; one that has ended and was not waited for does not.
    pub fn runs(&self) -> bool {
        let same = Self::of(self.pid).is_ok_and(|there| there == *self);
        let state = stat(self.pid).ok().and_then(|fields| fields.chars().next());
        same && !matches!(state, None | Some('Z' | 'X'))
    }

    /// SIGKILL to this process and to no other. Does nothing if it does not run.
    ///
    /// # Errors
    ///
    /// It belongs to somebody else.
    pub fn kill(&self) -> io::Result<()> {
        let Ok(pid) = i32::try_from(self.pid) else {
            return Ok(());
        };
        // SAFETY: the call takes two numbers and touches no memory of ours.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let Some(opened) = i32::try_from(opened).ok().filter(|fd| *fd >= 0) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ESRCH) => Ok(()),
                _ => Err(error),
            };
        };
        // SAFETY: the descriptor was opened above, and nobody else knows it.
        let process = unsafe { OwnedFd::from_raw_fd(opened) };
        // What the descriptor names now it names for ever: if the id was given to another process, that
        // is seen here.
        if !self.runs() {
            return Ok(());
        }
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and no information goes with the signal.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                process.as_raw_fd(),
                libc::SIGKILL,
                none,
                0,
            )
        };
        match sent {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// `/proc/PID/stat` from its third field on: the name of the program before that, in parentheses, may
/// hold anything.
fn stat(pid: u32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    Ok(after_name.unwrap_or_default().to_owned())
}

/// Field 22.
fn started(pid: u32) -> io::Result<u64> {
    let fields = stat(pid)?;
    let field = fields.split_whitespace().nth(19);
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_is_not_the_next_one_of_its_id() {
        let own = Identity::own().unwrap();
        assert!(own.runs());
        let earlier = Identity {
            started: own.started - 1,
            ..own.clone()
        };
        assert!(!earlier.runs());
        let before_reboot = Identity {
            boot: "another".into(),
            ..own
        };
        assert!(!before_reboot.runs());
    }
}
