//! Who shares an entry with whom, and that each gets what is its own.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use holdfast_proto::{
    command::{self, Command, Settings, answer::Result as Outcome, command::Op},
    etcdserverpb::{PutRequest, RangeRequest},
};
use prost::Message;

use super::*;
use crate::raft::{
    Voter,
    scripted::{
        Nobody, of_a_lasting_leader, open_log, open_state, start, until_led, within_a_minute,
    },
};

fn waiting(
    sizes: &[usize],
) -> (
    Vec<Waiting>,
    Vec<oneshot::Receiver<Result<Committed, ProposeError>>>,
) {
    let each = sizes.iter().map(|size| {
        let (answer, answered) = oneshot::channel();
        let command = vec![0; *size].into();
        (Waiting { command, answer }, answered)
    });
    each.unzip()
}

fn sizes(waiting: Vec<Waiting>, may_share: bool) -> Vec<Vec<usize>> {
    entries(waiting, may_share)
        .map(|(commands, callers)| {
            assert_eq!(commands.len(), callers.len());
            commands.iter().map(Bytes::len).collect()
        })
        .collect()
}

#[test]
fn commands_share_entries_in_order_within_the_bounds_and_not_for_those_who_have_gone() {
    let large = limits::ENTRY_SHARED_BYTES_MAX as usize;
    let (commands, _callers) = waiting(&[1, 2, 3]);
    assert_eq!(sizes(commands, true), [vec![1, 2, 3]]);
    let (commands, _callers) = waiting(&[1, 2, 3]);
    assert_eq!(sizes(commands, false), [vec![1], vec![2], vec![3]]);
    let (commands, _callers) = waiting(&[1, large, 2, large + 1, 3]);
    assert_eq!(
        sizes(commands, true),
        [vec![1], vec![large], vec![2], vec![large + 1], vec![3]]
    );
    let many = limits::ENTRY_COMMANDS_MAX;
    let (commands, _callers) = waiting(&vec![1; many + 1]);
    assert_eq!(sizes(commands, true), [vec![1; many], vec![1]]);
    let (commands, mut callers) = waiting(&[1, 2, 3]);
    callers.remove(1);
    assert_eq!(sizes(commands, true), [vec![1, 3]]);
}

#[test]
fn each_caller_gets_its_own_answer_and_all_of_them_an_error() {
    let (commands, mut callers) = waiting(&[1, 1]);
    let those = |commands| entries(commands, true).next().expect("one entry").1;
    let answers = [1, 2].map(|revision| Answer {
        result: Some(Outcome::Register(command::Registered {
            client_id: vec![revision].into(),
        })),
    });
    let applied = Applied {
        term: 4,
        index: 7,
        answers: answers.to_vec(),
    };
    super::answer(those(commands), Ok(applied));
    for (caller, answer) in callers.iter_mut().zip(answers) {
        let committed = caller
            .try_recv()
            .expect("it was answered")
            .expect("it was applied");
        assert_eq!(
            (committed.term, committed.index, committed.answer),
            (4, 7, answer)
        );
    }
    let (commands, callers) = waiting(&[1, 1]);
    super::answer(those(commands), Err(ProposeError::NotLeader(Some(3))));
    for mut caller in callers {
        let refused = caller.try_recv().expect("it was answered");
        assert!(matches!(refused, Err(ProposeError::NotLeader(Some(3)))));
    }
}

fn put(key: &str, client: &Bytes, seq: u64) -> Bytes {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: "v".into(),
        ..Default::default()
    };
    let command = Command {
        client_id: client.clone(),
        request_seq: seq,
        op: Some(Op::Put(request)),
        ..Default::default()
    };
    command.encode_to_vec().into()
}

fn revision(committed: &Committed) -> i64 {
    match &committed.answer.result {
        Some(Outcome::Put(put)) => put.header.as_ref().expect("a header").revision,
        other => panic!("{other:?}"),
    }
}

/// One worker, so that all who propose have had their turn before the task that takes what they left.
#[tokio::test]
async fn what_is_proposed_together_shares_an_entry_and_is_answered_and_remembered_one_by_one() {
    const TOGETHER: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir.path().join("log"));
    let store = open_state(&dir.path().join("state"));
    let nobody = Arc::new(Nobody);
    let raft = start(1, &log, store, nobody, of_a_lasting_leader(), dir.path()).await;
    let alone = BTreeMap::from([(1, Voter::default())]);
    raft.initialize(alone).await.unwrap();
    until_led(&raft, 1).await;
    let untracked = Bytes::new();
    let together = |from: usize, client: &Bytes| {
        let commands = (from..from + TOGETHER).map(|i| put(&format!("k{i}"), client, i as u64));
        let proposed = commands.map(|command| raft.propose_shared(command));
        within_a_minute("answers", join_all(proposed.collect::<Vec<_>>()))
    };
    let each = |answers: Vec<Result<Committed, ProposeError>>| -> Vec<Committed> {
        answers.into_iter().map(|answer| answer.unwrap()).collect()
    };
    let indexes = |answers: &[Committed]| {
        let mut indexes: Vec<u64> = answers.iter().map(|done| done.index).collect();
        indexes.dedup();
        indexes.len()
    };

    // A state of version 1 knows no batches.
    let before = each(together(0, &untracked).await);
    assert_eq!(indexes(&before), TOGETHER, "an entry for each");

    for op in [
        Op::SetSettings(Settings {
            version: mvcc::BATCHES,
            ..Default::default()
        }),
        Op::Register(command::Register { nonce: 7 }),
    ] {
        let command = Command {
            min_version: mvcc::needed(&op),
            op: Some(op),
            ..Default::default()
        };
        let done = raft.propose(command.encode_to_vec().into()).await.unwrap();
        let Some(Outcome::Register(registered)) = done.answer.result else {
            continue;
        };
        let client = registered.client_id;
        let first = each(together(100, &client).await);
        assert_eq!(indexes(&first), 1, "all share one entry");
        let revisions: Vec<_> = first.iter().map(revision).collect();
        let ascending = (revisions[0]..).take(TOGETHER);
        assert_eq!(revisions, ascending.collect::<Vec<_>>(), "in order");
        // Those that are sent again, beside new ones, are answered as before and change nothing.
        let again = each(together(110, &client).await);
        let repeated = again[..10].iter().map(revision);
        assert!(repeated.eq(revisions[10..].iter().copied()));
        let (published, view) = raft.shared().read();
        assert_eq!(
            published.revisions.current,
            revisions[0] + TOGETHER as i64 - 1 + 10
        );
        let all = RangeRequest {
            key: "k".into(),
            range_end: "l".into(),
            count_only: true,
            ..Default::default()
        };
        let found = mvcc::range(&view, published.revisions, &all).unwrap();
        assert_eq!(found.count, 2 * TOGETHER as i64 + 10);
        return;
    }
    panic!("the client was not registered");
}
