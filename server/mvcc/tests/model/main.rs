//! The state machine against a naive model, on random histories.
//!
//! Two replicas apply every command. One is left alone; the other is scrubbed, loaded again and
//! rebuilt from snapshots between the commands, and remembers the newest versions of keys in between.
//! Both must answer as the model does, agree on events, counters and hashes, and no request with an id
//! may take effect twice.
//!
//! `HOLDFAST_TEST_SEED=n` chooses other histories, `PROPTEST_CASES=n` more of them.

// A failed unwrap is a failed test, in the helpers of a test as well.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod generate;
mod naive;
mod remembering;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_mvcc::{
    Applied, Limits, ReadError, ScrubCursor, StateMachine, hash, is_read_only, memory::MemoryState,
    range, read_txn, scrub, snapshot_versions, unversioned,
};
use holdfast_proto::{
    command::{Answer, Command, answer::Result as Outcome, command::Op, error::Kind},
    etcdserverpb::RangeRequest,
};
use naive::Model;
use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestRunner},
};
use prost::Message;
use remembering::Remembered;

/// Four clients send: either bound makes them give way to each other.
const LIMITS: [Limits; 2] = [
    Limits {
        clients_max: 2,
        retry_bytes_max: 1 << 20,
    },
    Limits {
        clients_max: 4,
        retry_bytes_max: 160,
    },
];

/// How a command is sent.
#[derive(Clone, Debug)]
enum Sending {
    Untracked,
    /// The client's next request arrives.
    Next(u8),
    /// The client's next request is lost on its way; it may be repeated.
    Lost(u8),
    /// Everything so far is answered and the client goes on a hundred requests later.
    Jump(u8),
    /// A request that was sent before comes again: that many back.
    Again(u8, u64),
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Sending, Option<Op>),
    Range(RangeRequest),
    Hash(i64),
    Scrub(usize),
    /// Some of what is remembered is forgotten.
    Forget(usize),
    Reload,
    Snapshot,
}

fn sending() -> impl Strategy<Value = Sending> {
    let client = || 0u8..4;
    prop_oneof![
        4 => Just(Sending::Untracked),
        6 => client().prop_map(Sending::Next),
        2 => client().prop_map(Sending::Lost),
        1 => client().prop_map(Sending::Jump),
        4 => (client(), 0u64..6).prop_map(|(client, back)| Sending::Again(client, back)),
        1 => (client(), 90u64..140).prop_map(|(client, back)| Sending::Again(client, back)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (sending(), generate::op()).prop_map(|(sending, op)| Step::Apply(sending, op)),
        6 => generate::range().prop_map(Step::Range),
        2 => (0i64..35).prop_map(Step::Hash),
        3 => (0usize..12).prop_map(Step::Scrub),
        2 => (0usize..3).prop_map(Step::Forget),
        1 => Just(Step::Reload),
        1 => Just(Step::Snapshot),
    ]
}

struct Replica {
    state: MemoryState,
    machine: StateMachine,
    cursor: Option<ScrubCursor>,
    /// `None` for a replica that remembers nothing.
    remembered: Option<Remembered>,
}

impl Replica {
    fn new(limits: Limits) -> Self {
        let state = MemoryState::new();
        let machine = StateMachine::load(&state, limits).unwrap();
        Replica {
            state,
            machine,
            cursor: None,
            remembered: None,
        }
    }

    fn remembering(limits: Limits) -> Self {
        Replica {
            remembered: Some(Remembered::default()),
            ..Self::new(limits)
        }
    }

    fn apply(&mut self, index: u64, command: Command) -> Applied {
        let Replica {
            machine,
            state,
            remembered,
            ..
        } = self;
        match remembered {
            Some(remembered) => {
                let applied = machine.apply(&remembered.over(state), index, command);
                let applied = applied.unwrap();
                remembered.remember(&applied.writes);
                applied
            }
            None => machine.apply(state, index, command).unwrap(),
        }
    }

    /// Begins anew from its records.
    fn reload(&mut self, limits: Limits) {
        self.machine = StateMachine::load(&self.state, limits).unwrap();
        self.cursor = None;
        self.remembered = self.remembered.take().map(|_| Remembered::default());
    }

    /// Bytes of the records of the retry table.
    fn retry_bytes(&self) -> u64 {
        let records = self.state.records();
        let retries = records.filter(|(key, _)| key[0] == 0x40);
        retries.map(|(k, v)| (k.len() + v.len()) as u64).sum()
    }

    fn hash(&self, at: i64) -> Result<(u32, i64), Kind> {
        hash(&self.state, self.machine.revisions(), at).map_err(kind)
    }

    fn scrub(&mut self, records_max: usize) {
        let compact = self.machine.revisions().compact;
        let cursor = self.cursor.take().unwrap_or_default();
        let (writes, next) = scrub(&self.state, cursor, compact, records_max).unwrap();
        self.state.write(writes);
        self.cursor = next;
    }

    fn snapshot(&self) -> MemoryState {
        let versions = snapshot_versions(&self.state, self.machine.revisions());
        unversioned(&self.state)
            .unwrap()
            .into_iter()
            .chain(versions.map(Result::unwrap))
            .collect()
    }
}

fn kind<E: std::fmt::Debug>(error: ReadError<E>) -> Kind {
    match error {
        ReadError::Compacted { .. } => Kind::Compacted,
        ReadError::FutureRevision { .. } => Kind::FutureRevision,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// The model says what kind of error it is, not in which words.
fn without_words(mut answer: Answer) -> Answer {
    if let Some(Outcome::Error(error)) = &mut answer.result {
        error.message.clear();
    }
    answer
}

/// What the clients have sent, and what of it has taken effect.
#[derive(Default)]
struct Clients {
    sent: BTreeMap<u8, BTreeSet<u64>>,
    effective: BTreeSet<(u8, u64)>,
}

impl Clients {
    /// The client, number and mark of a sending; `None` if nothing arrives.
    fn send(&mut self, sending: &Sending) -> Option<(Option<u8>, u64, bool)> {
        let (client, skip, arrives) = match *sending {
            Sending::Untracked => return Some((None, 0, false)),
            Sending::Again(client, back) => {
                let sent = self.sent.entry(client).or_default();
                let seq = *sent.iter().rev().nth(back as usize % sent.len().max(1))?;
                return Some((Some(client), seq, true));
            }
            Sending::Next(client) => (client, 1, true),
            Sending::Lost(client) => (client, 1, false),
            Sending::Jump(client) => (client, 100, true),
        };
        let sent = self.sent.entry(client).or_default();
        let (seq, arrives) = match sent.last() {
            // A client has the answer to its first request before it goes on.
            None => (1, true),
            Some(last) => (last + skip, arrives),
        };
        if skip > 1 {
            // What is answered is not sent again.
            sent.clear();
        }
        sent.insert(seq);
        arrives.then_some((Some(client), seq, false))
    }
}

fn run(steps: &[Step], limits: Limits) {
    let mut model = Model::new(limits);
    let (mut plain, mut busy) = (Replica::new(limits), Replica::remembering(limits));
    let mut clients = Clients::default();
    for (index, step) in (1..).zip(steps) {
        match step {
            Step::Apply(sending, op) => {
                let Some((client, request_seq, retried)) = clients.send(sending) else {
                    continue;
                };
                let client_id = client.map(|client| vec![client]).unwrap_or_default().into();
                let command = Command {
                    client_id,
                    request_seq,
                    retried,
                    min_version: 0,
                    op: op.clone(),
                };
                if let Some(Op::Txn(txn)) = op
                    && client.is_none()
                    && is_read_only(txn)
                {
                    let read = read_txn(&busy.state, busy.machine.revisions(), txn)
                        .map(|response| Some(Outcome::Txn(response)))
                        .map_err(kind);
                    let read = read.map(|result| Answer { result });
                    let (expected, _) = model.clone().apply(index, &command, 0);
                    match read {
                        Ok(answer) => assert_eq!(answer, expected),
                        Err(kind) => assert!(is_error(&expected, kind), "{kind:?} {expected:?}"),
                    }
                }
                let applied = plain.apply(index, command.clone());
                let answer_bytes = applied.answer.encoded_len();
                let (answer, events) = model.apply(index, &command, answer_bytes);
                let again = busy.apply(index, command);
                assert_eq!(applied, again, "replicas differ");
                assert_eq!(applied.events(), events);
                assert_eq!(without_words(applied.answer), answer);
                if let Some(client) = client
                    && !events.is_empty()
                {
                    let first = clients.effective.insert((client, request_seq));
                    assert!(
                        first,
                        "request {request_seq} of client {client} took effect twice"
                    );
                }
                plain.state.write(applied.writes);
                busy.state.write(again.writes);
            }
            Step::Range(request) => {
                let expected = model.range(request);
                for replica in [&plain, &busy] {
                    let revisions = replica.machine.revisions();
                    let answer = range(&replica.state, revisions, request).map_err(kind);
                    assert_eq!(answer, expected);
                }
            }
            Step::Hash(at) => assert_eq!(plain.hash(*at), busy.hash(*at)),
            Step::Scrub(records_max) => busy.scrub(*records_max),
            Step::Forget(first) => {
                if let Some(remembered) = &mut busy.remembered {
                    remembered.forget(*first);
                }
            }
            Step::Reload => busy.reload(limits),
            Step::Snapshot => {
                assert_eq!(plain.snapshot(), busy.snapshot());
                busy.state = busy.snapshot();
                busy.reload(limits);
            }
        }
        assert_eq!(plain.machine, busy.machine);
        assert_eq!(plain.retry_bytes(), model.retry_bytes());
        let revisions = plain.machine.revisions();
        assert_eq!(
            (revisions.current, revisions.compact),
            (model.revision(), model.compact)
        );
    }
    assert_eq!(plain.hash(0), busy.hash(0));
    assert_eq!(plain.snapshot(), busy.snapshot());
    // When everything is scrubbed, nothing but the snapshot is left.
    busy.cursor = None;
    loop {
        busy.scrub(50);
        if busy.cursor.is_none() {
            break;
        }
    }
    assert_eq!(busy.state, busy.snapshot());
    assert_eq!(plain.hash(0), busy.hash(0));
}

fn is_error(answer: &Answer, kind: Kind) -> bool {
    matches!(&answer.result, Some(Outcome::Error(error)) if error.kind() == kind)
}

#[test]
fn every_history_is_that_of_the_model() {
    let seed = std::env::var("HOLDFAST_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    println!("HOLDFAST_TEST_SEED={seed}");
    let config = ProptestConfig {
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..80), |steps| {
            for limits in LIMITS {
                run(&steps, limits);
            }
            Ok(())
        })
        .unwrap();
}
