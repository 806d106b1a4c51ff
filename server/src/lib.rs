//! The Holdfast node as a library: the binary and the tests are built on it.

pub mod config;
pub mod limits;
pub mod logging;
pub mod storage;
