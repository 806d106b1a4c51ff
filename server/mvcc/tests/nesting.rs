//! Transactions are nested so deep and no deeper.

// A failed unwrap is a failed test, in the helpers of a test as well.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use holdfast_mvcc::{
    Limits, StateMachine, TXN_LEVELS_MAX,
    memory::MemoryState,
    validate::{self, Invalid},
};
use holdfast_proto::{
    command::{Answer, Command, answer::Result as Outcome, command::Op, error::Kind},
    etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request},
};
use prost::Message;

fn nested(levels: usize) -> TxnRequest {
    let put = PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    };
    let range = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let ops = [Request::RequestPut(put), Request::RequestRange(range)];
    let innermost = ops
        .into_iter()
        .map(|op| RequestOp { request: Some(op) })
        .collect();
    let mut txn = TxnRequest {
        success: innermost,
        ..Default::default()
    };
    for _ in 1..levels {
        let op = RequestOp {
            request: Some(Request::RequestTxn(txn)),
        };
        txn = TxnRequest {
            success: vec![op],
            ..Default::default()
        };
    }
    txn
}

fn command(levels: usize) -> Command {
    let op = Some(Op::Txn(nested(levels)));
    Command {
        client_id: "me".into(),
        request_seq: levels as u64,
        op,
        ..Default::default()
    }
}

#[test]
fn the_deepest_txn_is_decoded_applied_and_remembered() {
    assert_eq!(validate::txn(&nested(TXN_LEVELS_MAX), 128), Ok(()));
    let command = command(TXN_LEVELS_MAX);
    let decoded = Command::decode(&command.encode_to_vec()[..]).unwrap();
    assert_eq!(decoded, command);
    let mut state = MemoryState::new();
    let mut machine = StateMachine::load(&state, Limits::default()).unwrap();
    let applied = machine.apply(&state, 1, decoded).unwrap();
    assert!(
        matches!(applied.answer.result, Some(Outcome::Txn(_))),
        "{:?}",
        applied.answer
    );
    assert_eq!(applied.events().len(), 1);
    state.write(applied.writes);
    let again = machine.apply(&state, 2, command).unwrap();
    assert_eq!(again.answer, applied.answer);
    assert!(again.writes.is_empty() && again.events().is_empty());
}

#[test]
fn a_deeper_txn_is_refused_and_changes_nothing() {
    assert_eq!(
        validate::txn(&nested(TXN_LEVELS_MAX + 1), 128),
        Err(Invalid::TooDeep)
    );
    let state = MemoryState::new();
    let mut machine = StateMachine::load(&state, Limits::default()).unwrap();
    let applied = machine
        .apply(&state, 1, command(TXN_LEVELS_MAX + 1))
        .unwrap();
    assert!(applied.events().is_empty());
    let Answer {
        result: Some(Outcome::Error(error)),
    } = applied.answer
    else {
        panic!("not refused: {:?}", applied.answer);
    };
    assert_eq!(error.kind(), Kind::Malformed);
    assert_eq!(machine.revisions().current, 1);
}
