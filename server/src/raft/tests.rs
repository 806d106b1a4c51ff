//! openraft's own suite on the log and the state machine, and the retry table across a snapshot.

use std::sync::Arc;

use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::{LogStore, state_machine::GroupStateMachine, types::TypeConfig};
use crate::storage::{
    log::{Log, LogOptions, files::DiskFiles},
    memory_engine::MemoryDisk,
    sled_engine::Sled,
    state::{StateOptions, StateStore},
};

/// What keeps a store alive during one test.
struct Kept {
    _log: Log,
    _dir: TempDir,
}

fn build(options: StateOptions) -> (Kept, LogStore, GroupStateMachine) {
    let dir = tempfile::tempdir().unwrap();
    let log_options = LogOptions {
        segment_bytes: 64 * 1024,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(&dir.path().join("log"), log_options, Arc::new(DiskFiles)).unwrap();
    let store = StateStore::open(&dir.path().join("state"), options)
        .unwrap()
        .store;
    let machine = GroupStateMachine::open(1, Arc::new(store)).unwrap();
    let log_store = LogStore::new(log.group(1));
    let kept = Kept {
        _log: log,
        _dir: dir,
    };
    (kept, log_store, machine)
}

struct OnMemory;

impl StoreBuilder<TypeConfig, LogStore, GroupStateMachine, Kept> for OnMemory {
    async fn build(
        &self,
    ) -> Result<(Kept, LogStore, GroupStateMachine), openraft::StorageError<TypeConfig>> {
        Ok(build(StateOptions {
            engine: Arc::new(MemoryDisk::default()),
            ..StateOptions::default()
        }))
    }
}

struct OnSled;

impl StoreBuilder<TypeConfig, LogStore, GroupStateMachine, Kept> for OnSled {
    async fn build(
        &self,
    ) -> Result<(Kept, LogStore, GroupStateMachine), openraft::StorageError<TypeConfig>> {
        Ok(build(StateOptions {
            engine: Arc::new(Sled {
                cache_bytes: 4 << 20,
            }),
            ..StateOptions::default()
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_on_the_memory_engine() {
    Suite::test_all(OnMemory).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_on_sled() {
    Suite::test_all(OnSled).await.unwrap();
}
