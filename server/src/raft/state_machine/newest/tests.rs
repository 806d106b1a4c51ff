//! What is remembered is what the store would show, and no more than may be.

use holdfast_mvcc::{Limits, StateMachine};
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{DeleteRangeRequest, PutRequest},
};
use proptest::prelude::*;

use super::*;
use crate::storage::{memory_engine::MemoryDisk, state::StateOptions, state::StateStore};

fn store(dir: &std::path::Path) -> StateStore {
    let options = StateOptions {
        engine: Arc::new(MemoryDisk::default()),
        ..StateOptions::default()
    };
    StateStore::open(dir, options).expect("a fresh state").store
}

fn put(key: &str, value: Vec<u8>) -> Command {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
        prev_kv: true,
        ..Default::default()
    };
    Command {
        op: Some(Op::Put(request)),
        min_version: 1,
        ..Default::default()
    }
}

fn delete(first: &str, end: &str) -> Command {
    let request = DeleteRangeRequest {
        key: Bytes::copy_from_slice(first.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        prev_kv: true,
    };
    Command {
        op: Some(Op::DeleteRange(request)),
        min_version: 1,
        ..Default::default()
    }
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let key = || prop::sample::select(vec!["a", "b", "ba", "c\0", "d"]);
    let length = prop::sample::select(vec![0, 8, limits::NEWEST_VERSION_RECORD_BYTES_MAX]);
    let command = prop_oneof![
        3 => (key(), length).prop_map(|(key, length)| put(key, vec![7; length])),
        1 => (key(), key()).prop_map(|(first, end)| delete(first, end)),
        1 => key().prop_map(|key| delete(key, "")),
    ];
    prop::collection::vec(command, 1..60)
}

proptest! {
    /// Two replicas, one of which remembers, and is told to forget now and then: the same answers and
    /// the same records.
    #[test]
    fn remembering_changes_no_answer(commands in commands(), forget_every in 1_usize..20) {
        let dir = tempfile::tempdir().expect("a directory");
        let (plain, remembering) = (store(&dir.path().join("a")), store(&dir.path().join("b")));
        let load = |store: &StateStore| {
            StateMachine::load(&store.view(), Limits::default()).expect("an empty state")
        };
        let (mut one, mut other) = (load(&plain), load(&remembering));
        let mut newest = NewestVersions::default();
        for (index, command) in commands.into_iter().enumerate() {
            if index % forget_every == 0 {
                newest.clear();
            }
            let index = index as u64 + 1;
            let expected = one.apply(&plain.view(), index, command.clone()).expect("it applies");
            let reader = Remembering::of(&newest, &remembering);
            let applied = other.apply(&reader, index, command).expect("it applies");
            prop_assert_eq!(&applied.answer, &expected.answer);
            prop_assert_eq!(&applied.writes, &expected.writes);
            newest.remember(&applied.writes);
            plain.write(expected.writes).expect("room");
            remembering.write(applied.writes).expect("room");
        }
    }
}

/// A state machine's writes for `keys` puts of `bytes` each.
fn writes(keys: std::ops::Range<usize>, bytes: usize) -> Vec<Write> {
    let mut machine = StateMachine::load(
        &holdfast_mvcc::memory::MemoryState::new(),
        Limits::default(),
    )
    .expect("an empty state");
    let empty = holdfast_mvcc::memory::MemoryState::new();
    keys.enumerate()
        .flat_map(|(index, key)| {
            let command = put(&format!("key-{key:06}"), vec![1; bytes]);
            let applied = machine.apply(&empty, index as u64 + 1, command);
            applied.expect("it applies").writes
        })
        .collect()
}

#[test]
fn what_is_remembered_stays_within_the_budget_and_is_given_back() {
    let budget = Arc::new(NewestBudget::default());
    let taken = || budget.0.load(Ordering::Relaxed);
    let mut first = NewestVersions::within(budget.clone());
    let mut second = NewestVersions::within(budget.clone());
    let record = limits::NEWEST_VERSION_RECORD_BYTES_MAX / 2;
    for round in 0..30 {
        for group in [&mut first, &mut second] {
            group.remember(&writes(round * 1_000..(round + 1) * 1_000, record));
            assert_eq!(
                group.young_bytes,
                group.young.iter().map(Newest::bytes).sum::<u64>()
            );
            assert_eq!(
                group.old_bytes,
                group.old.iter().map(Newest::bytes).sum::<u64>()
            );
        }
        assert_eq!(
            taken(),
            first.young_bytes + first.old_bytes + second.young_bytes + second.old_bytes
        );
        let slack = 8 * 1024;
        assert!(
            taken() <= limits::NEWEST_VERSIONS_BYTES_MAX + slack,
            "{} bytes",
            taken()
        );
    }
    assert!(
        first.young.len() + first.old.len() > 1_000,
        "it remembers something"
    );
    drop(second);
    assert_eq!(taken(), first.young_bytes + first.old_bytes);
    first.clear();
    assert_eq!((taken(), first.young.len(), first.old.len()), (0, 0, 0));
}

#[test]
fn a_long_record_is_not_remembered_and_takes_the_place_of_a_short_one() {
    let mut newest = NewestVersions::default();
    newest.remember(&writes(0..1, 10));
    assert_eq!(newest.young.len(), 1);
    newest.remember(&writes(0..1, limits::NEWEST_VERSION_RECORD_BYTES_MAX));
    assert_eq!((newest.young.len(), newest.young_bytes), (0, 0));
}
