//! The programs that make namespaces and faults: found, run, and quoted when they fail.
//!
//! What holds here: a program that was run has ended, and a Ctrl-C in the terminal does not reach
//! it, so what the harness takes down it takes down to the end.

use std::{
    fmt,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::NetnsError;

/// Where the programs are although the `PATH` of many users does not say so.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The programs, by their files.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub ip: PathBuf,
    pub nft: PathBuf,
    /// Needed for delays alone.
    pub tc: Option<PathBuf>,
}

impl Tools {
    /// Looks in `PATH` and in the directories of system programs.
    pub fn find() -> Result<Self, NetnsError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = SYSTEM_DIRS.iter().map(PathBuf::from);
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(system).collect();
        Self::find_in(&dirs)
    }

    pub fn find_in(dirs: &[PathBuf]) -> Result<Self, NetnsError> {
        let look = |tool: &str| {
            let mut files = dirs.iter().map(|dir| dir.join(tool));
            files.find(|file| {
                std::fs::metadata(file)
                    .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
            })
        };
        let need = |tool: &'static str, package: &'static str| {
            look(tool).ok_or(NetnsError::NoTool { tool, package })
        };
        Ok(Self {
            ip: need("ip", "iproute2")?,
            nft: need("nft", "nftables")?,
            tc: look("tc"),
        })
    }
}

/// A program that did not do what it was told.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The command, as it would be typed.
    pub command: String,
    /// What it said, or how it ended.
    pub output: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.output)
    }
}

/// Runs a program to its end, with `input` as its standard input, and gives its standard output.
pub(super) fn run(program: &Path, args: &[&str], input: &str) -> Result<String, Refusal> {
    let refusal = |output: String| Refusal {
        command: format!("{} {}", program.display(), args.join(" ")),
        output,
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| refusal(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| refusal(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    Err(refusal(match said.is_empty() {
        true => output.status.to_string(),
        false => said.join("; "),
    }))
}
