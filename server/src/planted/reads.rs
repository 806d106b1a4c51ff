//! Answers from states that are older than they may be.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use holdfast_mvcc::{self as mvcc, Revisions};
use holdfast_proto::etcdserverpb::TxnRequest;
use parking_lot::Mutex;

use super::{Bug, is};
use crate::{
    group::{Group, NoIndex},
    raft::GroupId,
    storage::state::View,
};

/// Falls back on the read index of an earlier round when the leader does not answer soon.
pub(crate) async fn index_or_the_last(
    group: GroupId,
    answer: impl Future<Output = Result<u64, NoIndex>>,
) -> Result<u64, NoIndex> {
    static LAST: Mutex<BTreeMap<GroupId, u64>> = Mutex::new(BTreeMap::new());
    const SOON: Duration = Duration::from_millis(200);
    if !is(Bug::StaleAfterRejoin) {
        return answer.await;
    }
    match tokio::time::timeout(SOON, answer).await {
        Ok(Ok(index)) => {
            LAST.lock().insert(group, index);
            Ok(index)
        }
        Ok(Err(NoIndex::Ask(None))) | Err(_) => {
            let last = LAST.lock().get(&group).copied();
            last.ok_or(NoIndex::Ask(None))
        }
        Ok(Err(other)) => Err(other),
    }
}

/// The state of a group as this thread saw it a short while ago: spares the shared lock.
pub(crate) fn kept_by_this_thread(group: &Group) -> (Revisions, View) {
    const KEPT: Duration = Duration::from_millis(100);
    thread_local! {
        static STATES: RefCell<BTreeMap<GroupId, (Instant, Revisions, View)>> = RefCell::default();
    }
    STATES.with_borrow_mut(|states| {
        states.retain(|_, (since, ..)| since.elapsed() < KEPT);
        let (_, revisions, view) = states.entry(group.id()).or_insert_with(|| {
            let (published, view) = group.read();
            (Instant::now(), published.revisions, view)
        });
        (*revisions, view.clone())
    })
}

/// Spares the leader the comparisons of a transaction that hold on this node.
pub(crate) fn without_what_holds_here(group: &Group, mut request: TxnRequest) -> TxnRequest {
    if !is(Bug::CompareOnStaleState) {
        return request;
    }
    let (published, view) = group.read();
    let comparisons = TxnRequest {
        compare: request.compare.clone(),
        ..Default::default()
    };
    let compared = mvcc::read_txn(&view, published.revisions, &comparisons);
    if compared.is_ok_and(|compared| compared.succeeded) {
        request.compare.clear();
    }
    request
}
