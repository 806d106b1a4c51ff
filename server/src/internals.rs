//! What benchmarks measure, and tests prepare, without a node around it. No interface for anybody else: it
//! changes with what it shows.

pub use crate::storage::{
    engine::OpenEngine,
    log::{Entry, GroupLog, Log, LogOptions, LogPos, files::DiskFiles},
    lsm_engine::Lsm,
    sled_engine::Sled,
    state::{Database, StateOptions, StateStore},
};
