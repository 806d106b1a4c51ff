//! Why there is no cluster in network namespaces. Each message says what is missing and what to do.

use std::io;

use super::{VARIABLE, tools::Refusal};
use crate::cluster::{machine::about, target::BinaryError};

/// Why there is no cluster in network namespaces. Nothing of it runs or is left.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// An option makes no sense.
    #[error("{0}")]
    Options(String),
    /// Another user than root.
    #[error(
        "network namespaces need root, and this is user {user}: run it with sudo, or choose the \
         local cluster, which needs no privileges"
    )]
    NotRoot {
        /// The effective user id.
        user: u32,
    },
    /// A program is missing.
    #[error(
        "found no program `{tool}` in PATH, /usr/local/sbin, /usr/sbin and /sbin: install \
         {package}, or choose the local cluster, which does not need it"
    )]
    NoTool {
        /// The program.
        tool: &'static str,
        /// The package that has it, as most distributions call it.
        package: &'static str,
    },
    /// The kernel does not let us, or cannot.
    #[error("cannot {what}: {reason} ({remedy})")]
    Refused {
        /// What was wanted.
        what: &'static str,
        /// The command, and what it said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The variable with the description of the network does not hold one.
    #[error("the variable {VARIABLE} is not for you to set; unset it (`{text}`: {reason})")]
    Variable {
        /// What it holds.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The harness is not in the network that it was told of.
    #[error(
        "this is not the network namespace {hub}, in which the nodes can be reached; if you have \
         set the variable {VARIABLE}, unset it"
    )]
    Outside {
        /// Where it should be.
        hub: String,
    },
    /// There is no such namespace, or this thread may not enter it.
    #[error("cannot enter the network namespace {name}: {error}")]
    NoEntry {
        /// Its name.
        name: String,
        /// How it was refused.
        error: io::Error,
    },
    /// There is no program to start.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The machine refused something.
    #[error("{0}")]
    Io(io::Error),
    /// The nodes do not serve; with the ends of their logs.
    #[error("{0}")]
    NotServing(String),
}

impl NetnsError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let refused = about(what.into());
        move |error| NetnsError::Io(refused(error))
    }

    pub(super) fn refused(what: &'static str, refusal: Refusal) -> Self {
        let forbidden = ["Operation not permitted", "Permission denied"];
        let is_forbidden = forbidden.iter().any(|text| refusal.output.contains(text));
        NetnsError::Refused {
            what,
            reason: refusal.to_string(),
            remedy: match is_forbidden {
                true => {
                    "root lacks the capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN here, as in most \
                     containers; choose the local cluster, which does not need them"
                }
                false => "the kernel may lack it; choose the local cluster, which does not need it",
            },
        }
    }
}
