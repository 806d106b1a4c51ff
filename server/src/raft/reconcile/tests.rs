//! Every way in which a log and a state can lie to each other, and what consensus then starts with.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use holdfast_proto::snapshot as wire;
use prost::Message;
use tempfile::TempDir;

use super::*;
use crate::storage::{
    log::{Entry, GroupState, Log, LogOptions, files::DiskFiles},
    memory_engine::MemoryDisk,
    state::StateOptions,
};

fn pos(term: u64, index: u64) -> LogPos {
    LogPos { term, index }
}

fn open_log(dir: &Path) -> Log {
    let options = LogOptions {
        segment_bytes: 64 * 1024,
        ..LogOptions::default()
    };
    Log::open(dir, options, Arc::new(DiskFiles)).unwrap().0
}

/// A state that has applied this position.
fn state(dir: &Path, applied: LogPos) -> StateStore {
    let options = StateOptions {
        engine: Arc::new(MemoryDisk::default()),
        ..StateOptions::default()
    };
    let store = StateStore::open(dir, options).unwrap().store;
    let record = wire::AppliedRecord {
        term: applied.term,
        index: applied.index,
        has_applied: true,
        ..Default::default()
    };
    let record = Bytes::from(record.encode_to_vec());
    store.mark_applied(applied.index, record).unwrap();
    store
}

/// What the log holds after it was purged up to `purged`, got entries with these terms behind it, and
/// was brought in line with a state at `applied`. Read back from the disk.
async fn reconciled(purged: LogPos, terms: &[u64], applied: LogPos) -> io::Result<GroupState> {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("log");
    {
        let log = open_log(&log_dir);
        let group = log.group(1);
        let mut written = LogStore::new(group.clone());
        written.purge(log_id(purged.term, purged.index)).await?;
        let entries = terms.iter().zip(purged.index + 1..);
        let entries = entries.map(|(&term, index)| Entry {
            term,
            index,
            kind: 0,
            payload: Bytes::from_static(b"entry"),
        });
        group.append(entries.collect(), Box::new(|_| {})).await?;
        let store = state(&dir.path().join("state"), applied);
        reconcile(&group, &store).await?;
        let once = group.state();
        reconcile(&group, &store).await?;
        assert_eq!(group.state(), once, "a second time changes nothing");
        log.close();
    }
    Ok(open_log(&log_dir).group(1).state())
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_behind_the_state_stay() {
    let after = reconciled(pos(1, 10), &[1, 2, 2, 3], pos(2, 12))
        .await
        .unwrap();
    assert_eq!(
        (after.purged, after.last),
        (Some(pos(1, 10)), Some(pos(3, 14)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncommitted_tail_that_reaches_past_the_state_is_cut_off() {
    // A former leader of term 2 sent 11 to 14; 13 was committed by the leader of term 3.
    let after = reconciled(pos(1, 10), &[2, 2, 2, 2], pos(3, 13))
        .await
        .unwrap();
    assert_eq!(
        (after.purged, after.last),
        (Some(pos(3, 13)), Some(pos(3, 13)))
    );
    // The same with a tail of a higher term, which nobody committed either.
    let after = reconciled(pos(1, 10), &[2, 5, 5, 5], pos(3, 13))
        .await
        .unwrap();
    assert_eq!(
        (after.purged, after.last),
        (Some(pos(3, 13)), Some(pos(3, 13)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_the_state_goes_on_behind_it() {
    for term in [1, 3, 7] {
        let after = reconciled(pos(1, 10), &[term], pos(3, 13)).await.unwrap();
        assert_eq!(
            (after.purged, after.last),
            (Some(pos(3, 13)), Some(pos(3, 13)))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_last_entry_is_the_states_stays_as_it_is() {
    let after = reconciled(pos(1, 10), &[2, 2], pos(2, 12)).await.unwrap();
    assert_eq!(
        (after.purged, after.last),
        (Some(pos(1, 10)), Some(pos(2, 12)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_another_history_than_the_purged_log_is_refused() {
    let refused = reconciled(pos(1, 10), &[2, 2], pos(2, 10)).await;
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
}
