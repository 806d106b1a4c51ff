//! The Holdfast node as a library: the binary and the tests are built on it.

pub mod allocator;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod detector;
pub mod dev;
pub mod group;
pub mod identity;
pub mod keyspace;
pub mod limits;
pub mod logging;
pub mod node;
pub mod planted;
pub mod raft;
pub mod service;
pub mod stop;
pub mod storage;
