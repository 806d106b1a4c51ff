//! Exit codes: what a script may rely on.

use std::{fmt, io, process::ExitCode};

use holdfast_client::{Effect, Error, ErrorKind};

/// Shown under `--help`.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  the request failed and changed nothing
  2  the command line or the input is wrong; nothing was sent
  3  the request failed and may or may not have taken effect
  4  no node of the cluster could be reached or was able to serve in time; nothing was changed
  5  get: no such key";

/// - The numbers are part of the interface and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    EffectUnknown = 3,
    Unreachable = 4,
    NotFound = 5,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// Why a command ended without success.
#[derive(Debug)]
pub enum Failure {
    Request(Error),
    /// The input is wrong.
    Usage(String),
    /// Reading or writing on this machine failed.
    Io(io::Error),
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(message.into())
    }

    pub fn code(&self) -> Code {
        match self {
            Failure::Usage(_) => Code::Usage,
            Failure::Io(_) => Code::Failed,
            Failure::Request(error) => of_request(error),
        }
    }

    /// The reader of the output has gone, as `head` does: no reason to complain.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn of_request(error: &Error) -> Code {
    match error.kind() {
        _ if error.effect() == Effect::Unknown => Code::EffectUnknown,
        ErrorKind::InvalidEndpoint { .. } | ErrorKind::InvalidKeyspace(_) => Code::Usage,
        _ if error.is_unavailable() => Code::Unreachable,
        _ => Code::Failed,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Request(error) => error.fmt(f),
            Failure::Usage(message) => f.write_str(message),
            Failure::Io(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Request(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}
