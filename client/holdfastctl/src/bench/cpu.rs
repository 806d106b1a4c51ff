//! CPU time of other processes, from `/proc/PID/stat` (Linux; proc_pid_stat(5)).

use std::{fs, time::Duration};

use crate::exit::Failure;

/// Unit of the times in `/proc/PID/stat`: USER_HZ, which is 100 on every architecture that Rust
/// programs run Linux on.
const TICK: Duration = Duration::from_millis(10);

/// User and system time that the processes have used together.
pub fn used(pids: &[u32]) -> Result<Duration, Failure> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path)
            .map_err(|error| Failure::usage(format!("--pids: {path}: {error}")))?;
        ticks +=
            parse(&stat).ok_or_else(|| Failure::usage(format!("--pids: {path} is not known")))?;
    }
    Ok(TICK * ticks)
}

/// `utime + stime`, fields 14 and 15. The second field, the name, is in parentheses and may hold
/// anything, so the count starts at the last closing one.
fn parse(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_added() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194560 9 8 7 6 250 31 0 0 20 0 1 0 99 1 1";
        assert_eq!(parse(stat), Some(281));
        assert_eq!(parse("12 (x) S 1"), None);
    }

    #[test]
    fn this_process_can_be_read_and_one_that_is_not_there_cannot() {
        assert!(used(&[std::process::id()]).is_ok());
        // Above the largest pid that Linux gives out (2^22).
        assert!(used(&[u32::MAX]).is_err());
    }
}
