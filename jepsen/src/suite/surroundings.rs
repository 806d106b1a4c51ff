//! Where and on what a suite ran: figures mean nothing without it.

use std::{fmt, fs, process::Command, time::SystemTime};

use serde::Serialize;

use super::planted::SOURCE;

/// Time, machine and commit.
#[derive(Clone, Debug, Serialize)]
pub struct Surroundings {
    /// When it began, in the form of RFC 3339.
    pub time: String,
    /// Cores and memory, in words.
    pub machine: String,
    /// Commit of the source; empty if there is none. `-dirty` if it had been changed since.
    pub commit: String,
}

impl Surroundings {
    /// Here and now.
    pub fn here() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = match memory_gib() {
            Some(gib) => format!(", {gib:.0} GiB of memory"),
            None => String::new(),
        };
        Self {
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            machine: format!("{cores} cores{memory}"),
            commit: commit().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.time, self.machine)?;
        if !self.commit.is_empty() {
            write!(f, ", commit {}", self.commit)?;
        }
        Ok(())
    }
}

/// Linux tells it; elsewhere the cores must do.
fn memory_gib() -> Option<f64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / f64::from(1 << 20))
}

fn commit() -> Option<String> {
    let described = Command::new("git")
        .args([
            "-C",
            SOURCE,
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
        ])
        .output()
        .ok()?;
    let text = String::from_utf8(described.stdout).ok()?;
    described.status.success().then(|| text.trim().to_owned())
}
