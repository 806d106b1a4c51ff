//! The Holdfast node as a library: the program `holdfast` and its tests are built on it.
//!
//! What is public here is all that they need: the configuration, the node with the reasons for which it
//! ends, and the bounds. Everything else is private to this crate, so the compiler reports what nobody
//! uses. Benchmarks, and tests that prepare a data directory, see the stores with the feature `internals`.

pub mod config;
pub mod exit;
#[cfg(feature = "internals")]
pub mod internals;
pub mod limits;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod stop;

mod descriptors;
mod detector;
#[cfg(test)]
mod fuzz;
mod group;
mod identity;
mod keyspace;
mod node;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod raft;
mod service;
mod storage;

pub use self::{
    descriptors::raise as raise_open_files,
    keyspace::{DEFAULT as DEFAULT_KEYSPACE, SYSTEM as SYSTEM_KEYSPACE, SYSTEM_GROUP},
    node::{Node, NodeFailure, StartError},
};
