//! What a range keeps while it walks: the right keys in every order, and few more than its limit.

use std::{cell::Cell, cmp::Ordering};

use bytes::Bytes;
use holdfast_mvcc::{
    Limits, ReadError, Reader, StateError, StateMachine, memory::MemoryState, range,
};
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{
        PutRequest, RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};
use proptest::prelude::*;

const KEYS: usize = 1_000;

/// A store that bounds what an answer keeps.
struct Bounded {
    state: MemoryState,
    bytes_max: usize,
    kept: Cell<usize>,
    most: Cell<usize>,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the answer is too large")]
struct TooLarge;

impl Reader for Bounded {
    type Error = TooLarge;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TooLarge> {
        Ok(self.state.get(key).expect("memory does not fail"))
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), TooLarge>> + '_ {
        let records = self.state.scan(start, end);
        records.map(|record| Ok(record.expect("memory does not fail")))
    }

    fn keep(&self, bytes: usize) -> Result<(), TooLarge> {
        let kept = self.kept.get() + bytes;
        if kept > self.bytes_max {
            return Err(TooLarge);
        }
        self.kept.set(kept);
        self.most.set(self.most.get().max(kept));
        Ok(())
    }

    fn let_go(&self, bytes: usize) {
        self.kept.set(self.kept.get() - bytes);
    }
}

/// Keys written in an order that is not theirs, some of them twice, with values that repeat.
fn written() -> (MemoryState, StateMachine) {
    let mut state = MemoryState::new();
    let mut machine = StateMachine::load(&state, Limits::default()).expect("an empty store");
    for n in 0..KEYS + KEYS / 3 {
        let put = PutRequest {
            key: format!("key-{:04}", n * 617 % KEYS).into(),
            value: format!("{:0100}", n * 31 % 97).into(),
            ..Default::default()
        };
        let command = Command {
            op: Some(Op::Put(put)),
            ..Default::default()
        };
        let applied = machine
            .apply(&state, n as u64 + 1, command)
            .expect("memory does not fail");
        state.write(applied.writes);
    }
    (state, machine)
}

fn all() -> RangeRequest {
    RangeRequest {
        key: "key".into(),
        range_end: "kez".into(),
        ..Default::default()
    }
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// The same answer from all keys at once.
fn expected(mut kvs: Vec<KeyValue>, request: &RangeRequest) -> (Vec<KeyValue>, bool) {
    let (order, target) = (request.sort_order(), request.sort_target());
    let limit = match request.limit {
        0 => usize::MAX,
        limit => limit as usize,
    };
    let filtered = request.min_mod_revision != 0;
    kvs.retain(|kv| kv.mod_revision >= request.min_mod_revision);
    if order == SortOrder::None && !filtered {
        // etcd sorts what the limit and one more let through.
        kvs.truncate(limit.saturating_add(1));
    }
    match order {
        SortOrder::Descend => kvs.sort_by(|a, b| compare(target, b, a)),
        _ => kvs.sort_by(|a, b| compare(target, a, b)),
    }
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    (kvs, more)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_limit_bounds_what_is_kept_in_every_order(
        limit in prop_oneof![Just(0_i64), 1..30_i64, 100..1_500_i64],
        (order, target) in (0..3_i32, 0..5_i32),
        min_mod_revision in prop_oneof![Just(0_i64), 1..1_400_i64],
        keys_only: bool,
    ) {
        thread_local!(static WRITTEN: (MemoryState, StateMachine) = written());
        WRITTEN.with(|(state, machine)| {
            let reader = Bounded {
                state: state.clone(),
                bytes_max: usize::MAX,
                kept: Cell::new(0),
                most: Cell::new(0),
            };
            let every = range(&reader, machine.revisions(), &all()).unwrap().kvs;
            prop_assert_eq!(every.len(), KEYS);
            reader.kept.set(0);
            reader.most.set(0);
            let request = RangeRequest {
                limit,
                sort_order: order,
                sort_target: target,
                min_mod_revision,
                keys_only,
                ..all()
            };
            let answer = range(&reader, machine.revisions(), &request).unwrap();
            prop_assert_eq!(answer.count, KEYS as i64);
            let (kvs, more) = expected(every, &request);
            prop_assert_eq!((answer.more, answer.kvs.len()), (more, kvs.len()));
            prop_assert_eq!(answer.kvs, kvs);
            if limit > 0 {
                // Twice the limit and one, or a small number of keys; each with less than 300 bytes.
                let keys_max = 2 * (limit as usize + 2).max(64);
                prop_assert!(reader.most.get() <= keys_max * 300, "{}", reader.most.get());
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_count_keeps_nothing_and_a_reader_that_refuses_ends_the_read() {
    let (state, machine) = written();
    let reader = Bounded {
        state,
        bytes_max: 10_000,
        kept: Cell::new(0),
        most: Cell::new(0),
    };
    let count = RangeRequest {
        count_only: true,
        ..all()
    };
    let answer = range(&reader, machine.revisions(), &count).unwrap();
    assert_eq!((answer.count, reader.most.get()), (KEYS as i64, 0));
    let refused = range(&reader, machine.revisions(), &all());
    assert!(
        matches!(refused, Err(ReadError::State(StateError::Read(TooLarge)))),
        "{refused:?}"
    );
}
