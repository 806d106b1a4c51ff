//! How a refused configuration is reported: with field, value, source and remedy.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the default"),
            Origin::File(path) => write!(f, "from {}", path.display()),
            Origin::Environment(name) => write!(f, "from the environment variable {name}"),
            Origin::Flag(flag) => write!(f, "from {flag}"),
        }
    }
}

/// One value that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `raft.heartbeat_interval_ms`.
    pub field: String,
    /// The value it has, as text; empty when it was not given.
    pub value: String,
    /// What would be right, and how to get there.
    pub remedy: String,
    /// Where the value came from, when that is known.
    pub origin: Option<Origin>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        match &self.value {
            value if value.is_empty() => f.write_str(" is not given")?,
            value => write!(f, " = {value}")?,
        }
        match &self.origin {
            Some(origin) if !self.value.is_empty() => write!(f, " ({origin})")?,
            _ => {}
        }
        write!(f, ": {}", self.remedy)
    }
}

/// Why there is no configuration to run with. None of these is worth retrying: the operator must
/// change something.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file is not TOML, has an unknown field or a value of the wrong kind.
    #[error("the configuration file {} is refused: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// Values that are refused.
    #[error("the configuration is refused:{}", list(.0))]
    Invalid(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}
