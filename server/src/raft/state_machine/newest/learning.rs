//! Learns which keys a state has that was there before anybody remembered.
//!
//! What is written from now on is noted as it is applied, so when all that was there has been walked once, a
//! key that was not noted has no version. The walk begins with the first entry that is applied: a group that
//! is idle costs nothing at a start. It goes in pieces, one group of the node at a time, because a start has
//! more urgent work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use holdfast_mvcc::{Reader, version_prefix, versions_span};
use tokio::{task::JoinHandle, time::sleep};

use super::NewestVersions;
use crate::{
    limits,
    storage::state::{StateError, StateStore, View},
};

/// The walk of one group. Ends when it is dropped.
pub(super) struct Learning {
    is_complete: Arc<AtomicBool>,
    walk: JoinHandle<()>,
}

impl Learning {
    /// Everything that is written after this must be noted by whoever writes it. Needs a runtime.
    pub(super) fn start(versions: Arc<NewestVersions>, owner: u64, store: Arc<StateStore>) -> Self {
        let is_complete = Arc::new(AtomicBool::new(false));
        let walk = tokio::spawn(walk(versions, owner, store, is_complete.clone()));
        Learning { is_complete, walk }
    }

    /// One that walks nowhere and is complete when this says so. Needs a runtime.
    #[cfg(test)]
    pub(super) fn of(is_complete: Arc<AtomicBool>) -> Self {
        let walk = tokio::spawn(async {});
        Learning { is_complete, walk }
    }

    /// Whether what was never noted was never written.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }
}

impl Drop for Learning {
    fn drop(&mut self) {
        self.walk.abort();
    }
}

async fn walk(
    versions: Arc<NewestVersions>,
    owner: u64,
    store: Arc<StateStore>,
    is_complete: Arc<AtomicBool>,
) {
    let Ok(_turn) = versions.learning.acquire().await else {
        return;
    };
    let begun = Instant::now();
    let (mut from, mut records) = (Bytes::from_static(versions_span().0), 0);
    loop {
        let (noting, store) = (versions.clone(), store.clone());
        let piece = tokio::task::spawn_blocking(move || {
            // A view of its own for each piece: it holds memory.
            let records_max = limits::LEARNING_PIECE_RECORDS_MAX;
            note_piece(&noting, owner, &store.view(), from, records_max)
        });
        match piece.await {
            Ok(Ok(None)) => break,
            Ok(Ok(Some(next))) => from = next,
            // The store says so itself to all that need it.
            Ok(Err(_)) | Err(_) => return,
        }
        records += limits::LEARNING_PIECE_RECORDS_MAX;
        if records > limits::LEARNING_RECORDS_MAX {
            tracing::debug!(
                records,
                "too many versions to learn which keys were never written"
            );
            return;
        }
        sleep(limits::LEARNING_PAUSE).await;
    }
    is_complete.store(true, Ordering::Release);
    let took_ms = begun.elapsed().as_millis() as u64;
    tracing::debug!(records, took_ms, "learned which keys were ever written");
}

/// Notes the keys of the next `records_max` versions from `from` on. Gives where the next piece begins, if
/// there is more.
pub(super) fn note_piece(
    versions: &NewestVersions,
    owner: u64,
    view: &View,
    from: Bytes,
    records_max: usize,
) -> Result<Option<Bytes>, StateError> {
    let mut last = Bytes::new();
    for (records, record) in view.scan(&from, versions_span().1).enumerate() {
        let (key, _) = record?;
        if records == records_max {
            return Ok(Some(key));
        }
        if let Some(prefix) = version_prefix(&key)
            && prefix != &last[..]
        {
            versions.note(owner, prefix);
            last = key.slice(..prefix.len());
        }
    }
    Ok(None)
}
