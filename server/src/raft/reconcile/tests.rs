//! Every way in which a log and a state can lie to each other, and what consensus then starts with.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_proto::snapshot as wire;
use prost::Message;
use tempfile::TempDir;

use super::*;
use crate::{
    raft::{
        RaftGroup, Voter,
        codec::KIND_COMMAND,
        restore_state,
        scripted::{self, Nobody, open_log, put, within_a_minute},
        type_config::{LeaderId, Vote},
    },
    storage::log::{Entry, GroupState, Log},
};

fn pos(term: u64, index: u64) -> LogPos {
    LogPos { term, index }
}

/// A state that has applied this position.
fn state(dir: &Path, applied: LogPos) -> Arc<StateStore> {
    let store = scripted::open_state(dir);
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
        let group = log.group(1).unwrap();
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
    Ok(open_log(&log_dir).group(1).unwrap().state())
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

/// Node 1 of a group of its own, in a new term.
async fn leads(log: &Log, store: &Arc<StateStore>, dir: &Path, term: u64) -> RaftGroup {
    let (store, nobody) = (store.clone(), Arc::new(Nobody));
    let raft = scripted::start(1, log, store, nobody, scripted::quiet(), dir).await;
    match term {
        1 => raft.initialize([(1, Voter::default())].into()).await,
        _ => raft.elect().await.map_err(|_| unreachable!("it runs")),
    }
    .unwrap();
    scripted::until_led(&raft, term).await;
    raft
}

/// Entries up to `last` in a log that is purged up to 2, which a leader of `term` sent, in the log of a
/// node that has voted for a leader of term `voted`.
async fn written(log: &Log, term: u64, last: u64, voted: u64) -> GroupLog {
    let group = log.group(1).unwrap();
    let mut written = LogStore::new(group.clone());
    let vote = Vote {
        leader_id: LeaderId {
            term: voted,
            voted_for: 2,
        },
        committed: true,
    };
    written.save_vote(&vote).await.unwrap();
    written.purge(log_id(1, 2)).await.unwrap();
    let entries = (3..=last).map(|index| Entry {
        term,
        index,
        kind: KIND_COMMAND,
        payload: put(),
    });
    let appended = group.append(entries.collect(), Box::new(|_| {})).await;
    appended.unwrap();
    group
}

/// The state is lost and fetched from a peer, and the log reaches past it with what nobody committed.
#[tokio::test(flavor = "multi_thread")]
async fn consensus_starts_on_a_fetched_state_below_the_end_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // The peer has seen three leaders.
    let (log, store) = (open_log(&path("log")), scripted::open_state(&path("state")));
    for term in 1..3 {
        let raft = leads(&log, &store, dir.path(), term).await;
        raft.propose(put()).await.unwrap();
        raft.shutdown().await;
    }
    let peer = leads(&log, &store, dir.path(), 3).await;
    let committed = peer.propose(put()).await.unwrap();
    let theirs = peer.shared().read().0;
    // A tail of an earlier term than the state's last entry, of the same, and of a later one.
    // The one of the same term is the leader's own, and stays.
    for (tail, kept) in [(2, 0), (3, 4), (5, 0)] {
        let (log_dir, state_dir) = (path(&format!("log-{tail}")), path(&format!("state-{tail}")));
        let (log, store) = (open_log(&log_dir), scripted::open_state(&state_dir));
        let written = written(&log, tail, committed.index + 4, tail.max(3)).await;
        let chunks = peer.stream_snapshot().await.unwrap();
        let chunks = chunks.map(|chunk| chunk.unwrap());
        let spool = path(&format!("spool-{tail}"));
        let restored = restore_state(store.clone(), spool, Box::pin(chunks), 2).await;
        assert_eq!(restored.unwrap(), committed.index);

        let raft = scripted::start(
            1,
            &log,
            store,
            Arc::new(Nobody),
            scripted::quiet(),
            dir.path(),
        )
        .await;
        assert_eq!(raft.shared().read().0, theirs, "nothing of the tail {tail}");
        raft.elect().await.unwrap();
        scripted::until_led(&raft, 4).await;
        let next = within_a_minute("answer", raft.propose(put()))
            .await
            .unwrap();
        assert!(next.term > tail.max(3), "{next:?} after the tail {tail}");
        let now = raft.shared().read().0;
        assert_eq!(now.index, Some(next.index));
        assert_eq!(now.revisions.current, theirs.revisions.current + kept + 1);
        assert_eq!(written.state().last, Some(pos(next.term, next.index)));
        raft.shutdown().await;
    }
    peer.shutdown().await;
}
