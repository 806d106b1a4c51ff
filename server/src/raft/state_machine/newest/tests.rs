//! A state machine that remembers answers as one that does not.

#[path = "../../../../mvcc/tests/model/generate.rs"]
mod generate;

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use holdfast_mvcc::{Limits, Revision, ScrubCursor, StateMachine, scrub, versions_span};
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{PutRequest, RangeRequest},
};
use proptest::prelude::*;

use super::{learning::note_piece, *};
use crate::limits;
use crate::storage::{memory_engine::MemoryDisk, state::StateOptions};

#[derive(Clone, Debug)]
enum Step {
    Apply(Option<Op>),
    /// Looks at so many records.
    Scrub(usize),
    /// What was written goes down to the engine.
    Flush,
    /// Learns which keys there are from so many records.
    Learn(usize),
    /// Forgets everything, as when a snapshot is installed.
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => generate::op().prop_map(Step::Apply),
        2 => (2usize..12).prop_map(Step::Scrub),
        2 => Just(Step::Flush),
        4 => (1usize..12).prop_map(Step::Learn),
        1 => Just(Step::Clear),
    ]
}

struct Replica {
    store: StateStore,
    machine: StateMachine,
    cursor: Option<ScrubCursor>,
}

impl Replica {
    fn new(dir: &std::path::Path) -> Self {
        let options = StateOptions {
            engine: Arc::new(MemoryDisk::default()),
            ..StateOptions::default()
        };
        let store = StateStore::open(dir, options).expect("a fresh state").store;
        let machine = StateMachine::load(&store.view(), Limits::default());
        Replica {
            machine: machine.expect("an empty state"),
            store,
            cursor: None,
        }
    }

    fn write(&self, index: u64, writes: Vec<Write>) {
        self.store.write(writes).expect("room");
        let marked = self.store.mark_applied(index, Bytes::new());
        marked.expect("room");
    }

    fn scrub(&mut self, index: u64, records_max: usize) {
        let compact = self.machine.revisions().compact;
        let cursor = self.cursor.take().unwrap_or_default();
        let step = scrub(&self.store.view(), cursor, compact, records_max);
        let (writes, next) = step.expect("it reads");
        self.cursor = next;
        self.write(index, writes);
    }

    fn records(&self) -> Vec<(Bytes, Bytes)> {
        let view = self.store.view();
        let records = view.scan(&[0x10], &[0xff]).map(|r| r.expect("it reads"));
        records.collect()
    }
}

fn command(op: Option<Op>) -> Command {
    Command {
        op,
        min_version: 1,
        ..Default::default()
    }
}

proptest! {
    /// Two replicas, one of which remembers, whatever was scrubbed and went down to the engine meanwhile: the
    /// same answers and the same records. What is remembered is what a reader would find.
    #[test]
    fn remembering_changes_no_answer(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let mut plain = Replica::new(&dir.path().join("a"));
        let mut remembering = Replica::new(&dir.path().join("b"));
        let mut newest = GroupNewest::within(Arc::default());
        // Where the next piece to be learned begins.
        let mut unlearned = Some(Bytes::from_static(versions_span().0));
        for (index, step) in (1_u64..).zip(steps) {
            match step {
                Step::Apply(op) => {
                    let command = command(op);
                    let view = plain.store.view();
                    let expected = plain.machine.apply(&view, index, command.clone());
                    let expected = expected.expect("it applies");
                    let reader = Remembering::of(&newest, &remembering.store);
                    let applied = remembering.machine.apply(&reader, index, command);
                    let applied = applied.expect("it applies");
                    prop_assert_eq!(&applied, &expected);
                    newest.remember(&applied.writes);
                    plain.write(index, expected.writes);
                    remembering.write(index, applied.writes);
                }
                Step::Scrub(records_max) => {
                    plain.scrub(index, records_max);
                    remembering.scrub(index, records_max);
                }
                Step::Flush => {
                    let flushed = runtime.block_on(remembering.store.flush());
                    flushed.expect("room");
                }
                Step::Learn(records_max) => {
                    let Some(from) = unlearned.take() else {
                        continue;
                    };
                    let (view, owner) = (remembering.store.view(), newest.owner);
                    let piece = note_piece(&newest.versions, owner, &view, from, records_max);
                    unlearned = piece.expect("it reads");
                    if unlearned.is_none() {
                        let _in_it = runtime.enter();
                        newest.learning = Some(Learning::of(Arc::new(true.into())));
                    }
                }
                Step::Clear => {
                    newest.clear();
                    unlearned = Some(Bytes::from_static(versions_span().0));
                }
            }
        }
        prop_assert_eq!(&plain.machine, &remembering.machine);
        prop_assert_eq!(plain.records(), remembering.records());
        let everything = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        let revisions = remembering.machine.revisions();
        let all = holdfast_mvcc::range(&remembering.store.view(), revisions, &everything);
        let all = all.expect("it reads").kvs;
        // Reads of one key go by what is remembered.
        let reader = Remembering::of(&newest, &remembering.store);
        for key in ["a", "a\0", "a\0\u{1}", "ab", "b", "c", "\u{7f}"] {
            let request = RangeRequest {
                key: Bytes::from_static(key.as_bytes()),
                ..Default::default()
            };
            let read = holdfast_mvcc::range(&reader, revisions, &request).expect("it reads");
            prop_assert_eq!(read.kvs.first(), all.iter().find(|kv| kv.key == key));
        }
    }
}

#[test]
fn what_a_group_has_cleared_is_not_remembered_and_neither_is_what_others_wrote() {
    let versions = Arc::new(NewestVersions::default());
    let mut one = GroupNewest::within(versions.clone());
    let mut other = GroupNewest::within(versions);
    let put = PutRequest {
        key: Bytes::from_static(b"key"),
        ..Default::default()
    };
    let empty = holdfast_mvcc::memory::MemoryState::new();
    let mut machine = StateMachine::load(&empty, Limits::default()).expect("an empty state");
    let applied = machine.apply(&empty, 1, command(Some(Op::Put(put))));
    let writes = applied.expect("it applies").writes;
    let (prefix, written) = version_written(&writes[0]).expect("a version");
    assert_eq!(written.revision, Revision { main: 2, sub: 0 });
    one.remember(&writes);
    assert_eq!((one.get(prefix), other.get(prefix)), (Some(written), None));
    other.remember(&writes);
    one.clear();
    assert_eq!((one.get(prefix), other.get(prefix)), (None, Some(written)));
}

/// A group that is opened again knows after a while which keys there are none of, without a look for them;
/// after its state was replaced, only when the new one was walked.
#[tokio::test]
async fn keys_that_were_never_written_are_known_once_all_others_were_learned() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut replica = Replica::new(dir.path());
    // More than one piece, each key with two versions.
    let key = |number: usize| Bytes::from(format!("key-{number}"));
    let keys = limits::LEARNING_PIECE_RECORDS_MAX;
    for index in 0..2 * keys {
        let put = PutRequest {
            key: key(index % keys),
            ..Default::default()
        };
        let (view, index) = (replica.store.view(), index as u64 + 1);
        let applied = replica
            .machine
            .apply(&view, index, command(Some(Op::Put(put))));
        replica.write(index, applied.expect("it applies").writes);
    }
    let store = Arc::new(replica.store);
    let prefix = |key: &Bytes| [b"\x20", &key[..], b"\0\x01"].concat();
    let mut newest = GroupNewest::within(Arc::default());
    let never = |newest: &GroupNewest, number| newest.get(&prefix(&key(number)));
    assert_eq!(never(&newest, keys), None, "nothing was learned");
    for _ in 0..2 {
        newest.learn(&store);
        let learned = async {
            while !newest.is_complete() {
                tokio::time::sleep(limits::LEARNING_PAUSE).await;
            }
        };
        let learned = tokio::time::timeout(Duration::from_secs(60), learned).await;
        learned.expect("the walk over the state does not end");
        let known = (keys..2 * keys).filter(|&number| never(&newest, number).is_some());
        // The filter takes few for written.
        assert!(known.count() > keys * 9 / 10);
        assert!((0..keys).all(|number| never(&newest, number).is_none()));
        newest.clear();
        assert_eq!(never(&newest, keys), None, "it was another state");
    }
}

/// A walk may note a key and end between the two looks of whoever asks for the key.
#[tokio::test]
async fn a_key_that_is_noted_last_is_never_taken_for_one_that_was_not_written() {
    const ROUNDS: usize = 50_000;
    let versions = Arc::new(NewestVersions::default());
    let prefix = b"\x20key\0\x01";
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let is_complete = Arc::new(AtomicBool::new(false));
            let mut newest = GroupNewest::within(versions.clone());
            newest.learning = Some(Learning::of(is_complete.clone()));
            (newest, is_complete)
        })
        .collect();
    let together = Barrier::new(2);
    let mut wrong = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for (newest, is_complete) in &rounds {
                together.wait();
                versions.note(newest.owner, prefix);
                is_complete.store(true, Ordering::Release);
            }
        });
        for (newest, is_complete) in &rounds {
            together.wait();
            while !is_complete.load(Ordering::Relaxed) {
                wrong += usize::from(newest.get(prefix).is_some());
            }
        }
    });
    assert_eq!(wrong, 0, "of {ROUNDS} keys");
}
