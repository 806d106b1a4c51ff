//! Where and on what a suite ran: figures mean nothing without it.

use std::{fmt, fs, path::Path, process::Command, time::SystemTime};

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

/// A program in words: what it says of its version, its name, size and age. Two builds of one version
/// differ in these.
pub fn program(version: &str, path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let known = fs::metadata(path).and_then(|file| Ok((file.len(), file.modified()?)));
    match known {
        Ok((bytes, built)) => {
            let built = humantime::format_rfc3339_seconds(built);
            format!("{version} ({name}, {bytes} bytes, of {built})")
        }
        Err(_) => format!("{version} ({name})"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_of_one_version_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let build = |content: &str| {
            let path = dir.path().join("holdfast");
            fs::write(&path, content).unwrap();
            program("holdfast 0.1.0", &path)
        };
        let (a, b) = (build("one"), build("other"));
        assert!(
            a.starts_with("holdfast 0.1.0 (holdfast, 3 bytes, of 2"),
            "{a}"
        );
        assert_ne!(a, b);
        let gone = program("etcd 3.5.16", Path::new("/nowhere/etcd"));
        assert_eq!(gone, "etcd 3.5.16 (etcd)");
    }
}
