//! Failures of the machine: they leave the state machine as it was, and garbage is named.

// A failed unwrap is a failed test, in the helpers of a test as well.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::cell::Cell;

use bytes::Bytes;
use holdfast_mvcc::{
    Counters, Limits, Newest, ReadError, Reader, Revision, ScrubCursor, StateError, StateMachine,
    Unknown, VERSION, Write, hash, memory::MemoryState, range, scrub, snapshot_versions,
    unversioned,
};
use holdfast_proto::{
    command::{Command, Settings, command::Op},
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        request_op::Request,
    },
};
use prost::Message;

const LIMITS: Limits = clients(1);

const fn clients(clients_max: usize) -> Limits {
    Limits {
        clients_max,
        retry_bytes_max: 1 << 20,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is on fire")]
struct OnFire;

/// Fails every read from the n-th on; an item of a scan counts as one.
struct Failing<'a> {
    inner: &'a MemoryState,
    left: Cell<usize>,
}

impl Failing<'_> {
    fn spend(&self) -> Result<(), OnFire> {
        self.left.set(self.left.get().checked_sub(1).ok_or(OnFire)?);
        Ok(())
    }
}

impl Reader for Failing<'_> {
    type Error = OnFire;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, OnFire> {
        self.spend()?;
        Ok(self.inner.get(key).unwrap())
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), OnFire>> + '_ {
        let first = self.spend().err().map(Err);
        let items = self.inner.scan(start, end).map(|item| {
            self.spend()?;
            Ok(item.unwrap())
        });
        first.into_iter().chain(items)
    }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

fn command(client: &'static str, seq: u64, op: Op) -> Command {
    Command {
        client_id: client.into(),
        request_seq: seq,
        op: Some(op),
        ..Default::default()
    }
}

fn all() -> RangeRequest {
    RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    }
}

/// A keyspace with a history, a client, and something to compact.
fn keyspace() -> (MemoryState, StateMachine) {
    let mut state = MemoryState::new();
    let mut machine = StateMachine::load(&state, LIMITS).unwrap();
    let ops = [
        Op::Put(put("a", "1")),
        Op::Put(put("b", "1")),
        Op::Put(put("a", "2")),
        Op::Compact(CompactionRequest {
            revision: 4,
            physical: false,
        }),
    ];
    for (index, op) in (1..).zip(ops) {
        let applied = machine
            .apply(&state, index, command("first", index, op))
            .unwrap();
        state.write(applied.writes);
    }
    (state, machine)
}

#[test]
fn a_failed_apply_leaves_the_machine_as_it_was() {
    let (state, machine) = keyspace();
    let everything = DeleteRangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        prev_kv: true,
    };
    let txn = TxnRequest {
        success: vec![
            RequestOp {
                request: Some(Request::RequestPut(put("c", "1"))),
            },
            RequestOp {
                request: Some(Request::RequestRange(all())),
            },
            RequestOp {
                request: Some(Request::RequestDeleteRange(everything.clone())),
            },
        ],
        ..Default::default()
    };
    let commands = [
        // A new client: another one is evicted.
        command("second", 1, Op::Put(put("a", "3"))),
        command("second", 1, Op::DeleteRange(everything)),
        command("second", 1, Op::Txn(txn)),
        // A repeat.
        command("first", 1, Op::Put(put("a", "1"))),
    ];
    for command in commands {
        let mut expected = machine.clone();
        let applied = expected.apply(&state, 9, command.clone()).unwrap();
        let mut failures = 0;
        loop {
            let reader = Failing {
                inner: &state,
                left: Cell::new(failures),
            };
            let mut trial = machine.clone();
            match trial.apply(&reader, 9, command.clone()) {
                Ok(done) => {
                    assert_eq!((done, trial), (applied, expected));
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, StateError::Read(OnFire)), "{error}");
                    assert_eq!(trial, machine, "after {failures} reads");
                }
            }
            failures += 1;
        }
        assert!(failures > 0, "{command:?} reads nothing");
    }
}

#[test]
fn reads_pass_a_failure_on() {
    let (state, machine) = keyspace();
    let revisions = machine.revisions();
    let reader = |left| Failing {
        inner: &state,
        left: Cell::new(left),
    };
    for left in [0, 1] {
        let error = range(&reader(left), revisions, &all()).unwrap_err();
        assert!(
            matches!(error, ReadError::State(StateError::Read(OnFire))),
            "{error}"
        );
        let error = hash(&reader(left), revisions, 0).unwrap_err();
        assert!(
            matches!(error, ReadError::State(StateError::Read(OnFire))),
            "{error}"
        );
        let error = StateMachine::load(&reader(left), LIMITS).unwrap_err();
        assert!(matches!(error, StateError::Read(OnFire)), "{error}");
        let error = scrub(&reader(left), ScrubCursor::default(), 4, 9).unwrap_err();
        assert!(matches!(error, StateError::Read(OnFire)), "{error}");
        assert!(unversioned(&reader(left)).is_err());
        assert!(snapshot_versions(&reader(left), revisions).any(|record| record.is_err()));
    }
}

#[test]
fn garbage_is_named() {
    let (state, machine) = keyspace();
    let revisions = machine.revisions();
    let version = |suffix: &[u8]| [b"\x20x\0\x01", suffix].concat();
    let revision = &[
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let cases: [(&str, Vec<u8>, &[u8]); 10] = [
        ("the revisions are short", vec![0x10, 0], &[1, 2, 3]),
        ("the format is unknown", vec![0x10, 0], &[9; 17]),
        ("the evictions are short", vec![0x10, 1], &[0]),
        (
            "a version without a revision",
            vec![0x20, b'x', 0, 1],
            &[0, 2, 1, 0],
        ),
        (
            "a version with unknown flags",
            version(revision),
            &[2, 2, 1, 0],
        ),
        ("a version that is cut off", version(revision), &[0, 2]),
        ("an empty version", version(revision), &[]),
        ("a deletion with a value", version(revision), &[1, 1]),
        (
            "a retry slot without a client",
            vec![0x40, 1],
            &[1, 1, 0, 0],
        ),
        (
            "a retry slot of unknown kind",
            vec![0x40, b'c', 0, 1, 1],
            &[1, 1, 0, 7],
        ),
    ];
    for (name, key, value) in cases {
        let mut broken = state.clone();
        let value = Some(Bytes::copy_from_slice(value));
        broken.write([Write {
            key: key.clone().into(),
            value,
        }]);
        let loaded = StateMachine::load(&broken, LIMITS).map(|_| ());
        let read = range(&broken, revisions, &all()).map(|_| ());
        let error = match (loaded, read) {
            (Err(StateError::Corrupt(corrupt)), _) => corrupt,
            (Ok(()), Err(ReadError::State(StateError::Corrupt(corrupt)))) => corrupt,
            other => panic!("{name}: {other:?}"),
        };
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(error.key, hex, "{name}: {error}");
    }
}

#[test]
fn a_lowered_bound_evicts_with_the_next_new_client() {
    let mut state = MemoryState::new();
    let mut machine = StateMachine::load(&state, clients(3)).unwrap();
    for (index, client) in (1..).zip(["a", "b", "c"]) {
        let applied = machine.apply(&state, index, command(client, 1, Op::Put(put("k", "v"))));
        state.write(applied.unwrap().writes);
    }
    let mut machine = StateMachine::load(&state, clients(2)).unwrap();
    let applied = machine
        .apply(&state, 4, command("d", 1, Op::Put(put("k", "v"))))
        .unwrap();
    state.write(applied.writes);
    let slots: Vec<_> = state
        .records()
        .filter(|(key, _)| key[0] == 0x40)
        .map(|(key, _)| key[1])
        .collect();
    assert_eq!(slots, b"cd");
    assert_eq!(StateMachine::load(&state, clients(2)).unwrap(), machine);
}

/// A program of an earlier version must not go on with it: it does not know what holds there.
#[test]
fn a_state_of_a_later_version_is_not_loaded() {
    let settings = Settings {
        version: VERSION + 1,
        ..Default::default()
    };
    let mut state = MemoryState::new();
    state.write([Write {
        key: Bytes::from_static(&[0x10, 0x02]),
        value: Some(settings.encode_to_vec().into()),
    }]);
    let error = StateMachine::load(&state, LIMITS).unwrap_err();
    assert!(
        matches!(&error, StateError::Unknown(Unknown::Later { needs, .. }) if *needs == VERSION + 1),
        "{error}"
    );
}

/// Knows of a version that the store has lost.
struct Bereft(MemoryState);

impl Reader for Bereft {
    type Error = OnFire;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, OnFire> {
        Ok(self.0.get(key).unwrap())
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), OnFire>> + '_ {
        self.0.scan(start, end).map(|item| Ok(item.unwrap()))
    }

    fn remembered(&self, _: &[u8]) -> Option<Newest> {
        Some(Newest {
            revision: Revision { main: 4, sub: 0 },
            counters: Some(Counters {
                create_revision: 2,
                version: 2,
                lease: 0,
            }),
        })
    }
}

#[test]
fn a_version_that_is_remembered_and_gone_is_damage_and_not_a_key_that_does_not_exist() {
    let (mut state, mut machine) = keyspace();
    let versions = state.scan(&[0x20], &[0x21]).map(|item| item.unwrap().0);
    let lost: Vec<_> = versions.map(|key| Write { key, value: None }).collect();
    state.write(lost);
    let reader = Bereft(state);
    let with_previous = PutRequest {
        prev_kv: true,
        ..put("a", "3")
    };
    let applied = machine.apply(&reader, 9, command("first", 9, Op::Put(with_previous)));
    assert!(
        matches!(applied, Err(StateError::Corrupt(_))),
        "{applied:?}"
    );
    // What counts is known.
    let applied = machine.apply(&reader, 9, command("first", 9, Op::Put(put("a", "3"))));
    let kv = applied.unwrap().events()[0].kv.clone().unwrap();
    assert_eq!((kv.create_revision, kv.version), (2, 3));
}
