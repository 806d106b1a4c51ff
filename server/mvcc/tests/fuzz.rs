//! Commands from the log and records of a state that nobody meant to write: whatever they are, applying
//! and reading them ends in an answer or an error.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

#[path = "../../src/fuzz.rs"]
mod fuzz;

use bytes::Bytes;
use holdfast_mvcc::{
    Limits, ScrubCursor, StateMachine, decode, hash, memory::MemoryState, range, scrub,
};
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
    },
};
use prost::Message as _;

fn put(key: &'static [u8], value: &'static [u8]) -> PutRequest {
    PutRequest {
        key: Bytes::from_static(key),
        value: Bytes::from_static(value),
        ..Default::default()
    }
}

fn commands() -> Vec<Command> {
    let of = |op| Command {
        op: Some(op),
        ..Default::default()
    };
    let txn = TxnRequest {
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(put(b"b", b"2"))),
        }],
        ..Default::default()
    };
    let delete = DeleteRangeRequest {
        key: Bytes::from_static(b"a"),
        ..Default::default()
    };
    vec![
        of(Op::Put(put(b"a", b"1"))),
        of(Op::Txn(txn)),
        of(Op::DeleteRange(delete)),
    ]
}

fn state() -> (StateMachine, MemoryState) {
    let mut state = MemoryState::new();
    let mut machine = StateMachine::load(&state, Limits::default()).unwrap();
    for (index, command) in (1..).zip(commands()) {
        let applied = machine.apply(&state, index, command).unwrap();
        state.write(applied.writes);
    }
    (machine, state)
}

#[test]
fn fuzz_commands() {
    let seeds = commands()
        .into_iter()
        .map(|command| command.encode_to_vec());
    fuzz::check("command", seeds, |bytes| {
        let Ok(command) = decode(Bytes::copy_from_slice(bytes)) else {
            return;
        };
        let (mut machine, mut state) = state();
        if let Ok(applied) = machine.apply(&state, 9, command) {
            state.write(applied.writes);
        }
    });
}

/// All records, each with the lengths of its key and value before it.
fn encode(state: &MemoryState) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in state.records() {
        for part in [key, value] {
            bytes.push(u8::try_from(part.len()).unwrap());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

fn records(mut bytes: &[u8]) -> MemoryState {
    let mut parts = Vec::new();
    while let Some((len, rest)) = bytes.split_first() {
        let (part, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        parts.push(Bytes::copy_from_slice(part));
        bytes = rest;
    }
    let pairs = parts
        .chunks_exact(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    pairs.collect()
}

#[test]
fn fuzz_states() {
    let (_, state) = state();
    assert_eq!(records(&encode(&state)), state);
    fuzz::check("state", [encode(&state)], |bytes| {
        let state = records(bytes);
        let Ok(mut machine) = StateMachine::load(&state, Limits::default()) else {
            return;
        };
        let all = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        let _ = range(&state, machine.revisions(), &all);
        let _ = hash(&state, machine.revisions(), 0);
        let _ = scrub(&state, ScrubCursor::default(), 2, 100);
        for command in commands() {
            let _ = machine.apply(&state, 9, command);
        }
    });
}
