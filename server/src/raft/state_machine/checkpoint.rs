//! A point of the state that is made durable, so that the log before it may go.

use std::{io, sync::Arc};

use openraft::RaftSnapshotBuilder;

use super::{SharedState, Snapshot};
use crate::{
    planted::planted,
    raft::{
        snapshot::SnapshotData,
        type_config::{SnapshotMeta, TypeConfig},
    },
};

/// What openraft calls building a snapshot: making a point of the state durable, so that the log
/// before it may go. The data itself is read only when a peer needs it.
/// - It holds no data, so applying does not wait for any to be copied.
pub struct Checkpoint {
    /// Taken by the one call that builds.
    pub(super) mark: Option<SnapshotMeta>,
    shared: Arc<SharedState>,
}

impl Checkpoint {
    /// At the applied entry that `mark` names.
    pub(super) fn at(mark: SnapshotMeta, shared: Arc<SharedState>) -> Self {
        Checkpoint {
            mark: Some(mark),
            shared,
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Checkpoint {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = self
            .mark
            .take()
            .ok_or_else(|| io::Error::other("a checkpoint is built once"))?;
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotData::Checkpoint,
        };
        planted!(LogPurgedPastDurable => return Ok(snapshot));
        let durable = self.shared.store.flush().await.map_err(io::Error::other)?;
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        assert!(
            durable >= index,
            "a flush made index {durable} durable, but {index} was applied before it"
        );
        Ok(snapshot)
    }
}
