//! What a node keeps on disk.

pub mod cause;
pub mod engine;
#[cfg(test)]
pub mod fault_engine;
mod guard;
pub mod log;
pub mod lsm_engine;
#[cfg(test)]
pub mod memory_engine;
pub mod room;
pub mod sled_engine;
pub mod snapshot_file;
pub mod state;
