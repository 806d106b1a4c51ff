//! The configuration of a node.
//!
//! A value comes from the last of these that gives it, and the error messages know which one did:
//!
//! ```text
//! defaults ◀─ TOML file (--config) ◀─ environment (HOLDFAST_*) ◀─ flags of `holdfast start`
//!                                                                        │
//!                        load::load: one merged table ──▶ Config ──▶ resolve(): what follows from
//!                                                                    other values, and all rules
//! ```
//!
//! Every value is documented once, in [`settings::SETTINGS`], which also makes the flags, the names
//! of the environment variables and `--help`. Unknown fields are refused, and so is a value that
//! breaks a rule: a node that starts with a configuration nobody meant is worse than one that does
//! not start. All broken rules are reported together, each with field, value and remedy.

mod error;
mod load;
pub mod quantity;
mod rules;
mod sections;
pub mod settings;

pub use error::{ConfigError, Origin, Problem};
pub use load::{Given, load, unknown_variables};
pub use sections::{
    ClusterConfig, Config, EngineName, LimitsConfig, LogConfig, LogFormat, Member, NodeConfig,
    RaftConfig, StorageConfig,
};

#[cfg(test)]
mod domain_tests;
#[cfg(test)]
mod tests;
