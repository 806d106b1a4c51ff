//! The semantics written a second time, as simply as they can be: every revision is a whole map,
//! a read is a filter over a map, and nothing is ever encoded, indexed or removed.

use std::{cmp::Ordering, collections::BTreeMap};

use bytes::Bytes;
use holdfast_mvcc::Limits;
use holdfast_proto::{
    command::{Answer, Command, Error, answer::Result as Outcome, command::Op, error::Kind},
    etcdserverpb::{
        CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
        TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};

type Map = BTreeMap<Bytes, KeyValue>;

#[derive(Clone, Debug)]
struct Life {
    /// slot → (seq, answer, bytes of the record)
    slots: BTreeMap<u64, (u64, Answer, usize)>,
    last_index: u64,
    uncertain_through: u64,
}

#[derive(Clone, Debug)]
pub struct Model {
    /// The map at each revision; revisions 0 and 1 are empty.
    history: Vec<Map>,
    pub compact: i64,
    clients: BTreeMap<Bytes, Life>,
    limits: Limits,
    evicted: bool,
}

fn varint(number: u64) -> usize {
    (64 - number.max(1).leading_zeros() as usize).div_ceil(7)
}

/// A command at work on a copy of the newest map.
struct Work<'a> {
    before: &'a Map,
    now: Map,
    revision: i64,
    compact: i64,
    history: &'a [Map],
    events: Vec<Event>,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}

fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

pub fn range_of(map: &Map, request: &RangeRequest, revision: i64) -> RangeResponse {
    let mut kvs: Vec<KeyValue> = map
        .values()
        .filter(|kv| within(&kv.key, &request.key, &request.range_end))
        .cloned()
        .collect();
    let count = kvs.len() as i64;
    if request.count_only {
        return RangeResponse {
            header: header(revision),
            kvs: vec![],
            more: false,
            count,
        };
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    // etcd's oddity: without an order and filters the limit (and one) cuts before the sort.
    if request.sort_order() == SortOrder::None && filters == [0; 4] && request.limit > 0 {
        kvs.truncate(request.limit as usize + 1);
    }
    let [min_mod, max_mod, min_create, max_create] = filters;
    kvs.retain(|kv| min_mod == 0 || kv.mod_revision >= min_mod);
    kvs.retain(|kv| max_mod == 0 || kv.mod_revision <= max_mod);
    kvs.retain(|kv| min_create == 0 || kv.create_revision >= min_create);
    kvs.retain(|kv| max_create == 0 || kv.create_revision <= max_create);
    let by = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match request.sort_target() {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    kvs.sort_by(|a, b| match request.sort_order() {
        SortOrder::Descend => by(b, a),
        _ => by(a, b),
    });
    let more = request.limit > 0 && kvs.len() > request.limit as usize;
    if more {
        kvs.truncate(request.limit as usize);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeResponse {
        header: header(revision),
        kvs,
        more,
        count,
    }
}

fn compare_holds(map: &Map, compare: &Compare) -> bool {
    let one = |kv: &KeyValue| {
        let ordering = match (compare.target(), compare.target_union.clone()) {
            (CompareTarget::Value, Some(TargetUnion::Value(v))) => kv.value.cmp(&v),
            (CompareTarget::Version, Some(TargetUnion::Version(n))) => kv.version.cmp(&n),
            (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => {
                kv.create_revision.cmp(&n)
            }
            (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => kv.mod_revision.cmp(&n),
            (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => kv.lease.cmp(&n),
            other => panic!("the generator makes no such comparison: {other:?}"),
        };
        match compare.result() {
            CompareResult::Equal => ordering == Ordering::Equal,
            CompareResult::NotEqual => ordering != Ordering::Equal,
            CompareResult::Greater => ordering == Ordering::Greater,
            CompareResult::Less => ordering == Ordering::Less,
        }
    };
    let found: Vec<_> = map
        .values()
        .filter(|kv| within(&kv.key, &compare.key, &compare.range_end))
        .collect();
    if found.is_empty() {
        return compare.target() != CompareTarget::Value && one(&KeyValue::default());
    }
    found.into_iter().all(one)
}

impl Work<'_> {
    fn header(&self) -> Option<ResponseHeader> {
        header(self.revision + i64::from(!self.events.is_empty()))
    }

    fn event(&mut self, kind: EventType, kv: KeyValue) {
        self.events.push(Event {
            r#type: kind.into(),
            kv: Some(kv),
            prev_kv: None,
        });
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Kind> {
        if request.lease != 0 {
            return Err(Kind::LeaseNotFound);
        }
        let previous = self.now.get(&request.key).cloned();
        if (request.ignore_lease || request.ignore_value) && previous.is_none() {
            return Err(Kind::KeyNotFound);
        }
        let mut kv = previous.clone().unwrap_or_else(|| KeyValue {
            key: request.key.clone(),
            create_revision: self.revision + 1,
            ..Default::default()
        });
        kv.mod_revision = self.revision + 1;
        kv.version += 1;
        if !request.ignore_value {
            kv.value = request.value.clone();
        }
        self.now.insert(request.key.clone(), kv.clone());
        self.event(EventType::Put, kv);
        Ok(PutResponse {
            header: self.header(),
            prev_kv: previous.filter(|_| request.prev_kv),
        })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> = self
            .now
            .values()
            .filter(|kv| within(&kv.key, &request.key, &request.range_end))
            .cloned()
            .collect();
        for kv in &gone {
            self.now.remove(&kv.key);
            let key = kv.key.clone();
            let mod_revision = self.revision + 1;
            self.event(
                EventType::Delete,
                KeyValue {
                    key,
                    mod_revision,
                    ..Default::default()
                },
            );
        }
        DeleteRangeResponse {
            header: self.header(),
            deleted: gone.len() as i64,
            prev_kvs: if request.prev_kv { gone } else { vec![] },
        }
    }

    fn branch<'r>(&self, request: &'r TxnRequest) -> (bool, &'r [RequestOp]) {
        let holds = request
            .compare
            .iter()
            .all(|compare| compare_holds(self.before, compare));
        (
            holds,
            if holds {
                &request.success
            } else {
                &request.failure
            },
        )
    }

    /// All puts, then all ranges; of a put the key, then the lease.
    fn check(&self, request: &TxnRequest) -> Result<(), Kind> {
        let mut ops = vec![];
        self.flatten(request, &mut ops)?;
        for op in &ops {
            if let Request::RequestPut(put) = op {
                let needs_key = put.ignore_value || put.ignore_lease;
                if needs_key && !self.before.contains_key(&put.key) {
                    return Err(Kind::KeyNotFound);
                }
                if put.lease != 0 {
                    return Err(Kind::LeaseNotFound);
                }
            }
        }
        for op in &ops {
            if let Request::RequestRange(range) = op {
                if range.revision > self.revision {
                    return Err(Kind::FutureRevision);
                }
                if range.revision != 0 && range.revision < self.compact {
                    return Err(Kind::Compacted);
                }
            }
        }
        Ok(())
    }

    /// The operations on the path, without the transactions around them.
    fn flatten<'b>(&self, request: &'b TxnRequest, ops: &mut Vec<&'b Request>) -> Result<(), Kind> {
        for op in self.branch(request).1 {
            match op.request.as_ref().ok_or(Kind::Malformed)? {
                Request::RequestTxn(txn) => self.flatten(txn, ops)?,
                op => ops.push(op),
            }
        }
        Ok(())
    }

    fn run(&mut self, request: &TxnRequest) -> Result<TxnResponse, Kind> {
        let (succeeded, ops) = self.branch(request);
        let mut responses = vec![];
        for op in ops {
            let response = match op.request.as_ref().ok_or(Kind::Malformed)? {
                Request::RequestRange(range) => {
                    let map = match range.revision {
                        ..=0 => &self.now,
                        old => &self.history[old as usize],
                    };
                    let revision = self.header().unwrap().revision;
                    Response::ResponseRange(range_of(map, range, revision))
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)?),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete(delete))
                }
                Request::RequestTxn(txn) => Response::ResponseTxn(self.run(txn)?),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            header: header(0),
            succeeded,
            responses,
        })
    }
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Model {
            history: vec![Map::new(), Map::new()],
            compact: -1,
            clients: BTreeMap::new(),
            limits,
            evicted: false,
        }
    }

    pub fn revision(&self) -> i64 {
        self.history.len() as i64 - 1
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Kind> {
        let now = self.revision();
        let at = if request.revision <= 0 {
            now
        } else {
            request.revision
        };
        if at > now {
            return Err(Kind::FutureRevision);
        }
        if at < self.compact {
            return Err(Kind::Compacted);
        }
        Ok(range_of(&self.history[at as usize], request, now))
    }

    fn evict_oldest_but(&mut self, spared: &Bytes) {
        let others = self.clients.iter().filter(|(id, _)| *id != spared);
        let oldest = others.min_by_key(|(_, life)| life.last_index);
        let oldest = oldest.unwrap().0.clone();
        self.clients.remove(&oldest);
        self.evicted = true;
    }

    pub fn retry_bytes(&self) -> u64 {
        let lives = self.clients.values();
        let records = lives.flat_map(|life| life.slots.values());
        records.map(|(_, _, bytes)| *bytes as u64).sum()
    }

    /// `answer_bytes` is the length of the encoded answer: the words of an error are the machine's.
    pub fn apply(
        &mut self,
        index: u64,
        command: &Command,
        answer_bytes: usize,
    ) -> (Answer, Vec<Event>) {
        let (id, seq) = (&command.client_id, command.request_seq);
        let slot = seq % 128;
        if !id.is_empty() {
            match self.clients.get(id) {
                None if command.retried && self.evicted => {
                    return (error(Kind::RetryForgotten), vec![]);
                }
                None => {}
                Some(life) => match life.slots.get(&slot) {
                    Some((held, answer, _)) if *held == seq => return (answer.clone(), vec![]),
                    Some((held, ..)) if *held > seq => {
                        return (error(Kind::RetryForgotten), vec![]);
                    }
                    _ if command.retried && seq <= life.uncertain_through => {
                        return (error(Kind::RetryForgotten), vec![]);
                    }
                    _ => {}
                },
            }
        }
        let (answer, events) = self.execute(command.op.as_ref());
        if !id.is_empty() {
            if !self.clients.contains_key(id) {
                while self.clients.len() >= self.limits.clients_max {
                    self.evict_oldest_but(id);
                }
                let uncertain_through = if self.evicted && seq != 1 {
                    seq + 127
                } else {
                    0
                };
                let life = Life {
                    slots: BTreeMap::new(),
                    last_index: 0,
                    uncertain_through,
                };
                self.clients.insert(id.clone(), life);
            }
            let life = self.clients.get_mut(id).unwrap();
            life.last_index = index;
            // The first byte, the id with its end, the slot; three numbers, the kind, the answer.
            let zeros = id.iter().filter(|byte| **byte == 0).count();
            let key_bytes = 1 + id.len() + zeros + 2 + 1;
            let numbers = [seq, index, life.uncertain_through].map(varint);
            let bytes = key_bytes + numbers.iter().sum::<usize>() + 1 + answer_bytes;
            life.slots.insert(slot, (seq, answer.clone(), bytes));
            while self.retry_bytes() > self.limits.retry_bytes_max && self.clients.len() > 1 {
                self.evict_oldest_but(id);
            }
        }
        (answer, events)
    }

    fn execute(&mut self, op: Option<&Op>) -> (Answer, Vec<Event>) {
        let revision = self.revision();
        let before = self.history.last().unwrap();
        let mut work = Work {
            before,
            now: before.clone(),
            revision,
            compact: self.compact,
            history: &self.history,
            events: vec![],
        };
        let outcome = match op {
            Some(Op::Register(_) | Op::SetSettings(_) | Op::Batch(_)) | None => {
                unreachable!("the model draws operations on the contents")
            }
            Some(Op::Put(request)) => work.put(request).map(Outcome::Put),
            Some(Op::DeleteRange(request)) => Ok(Outcome::DeleteRange(work.delete(request))),
            Some(Op::Txn(request)) => work.check(request).and_then(|()| {
                let mut response = work.run(request)?;
                response.header = work.header();
                Ok(Outcome::Txn(response))
            }),
            Some(Op::Compact(request)) if request.revision <= self.compact => Err(Kind::Compacted),
            Some(Op::Compact(request)) if request.revision > revision => Err(Kind::FutureRevision),
            Some(Op::Compact(request)) => {
                self.compact = request.revision;
                let response = CompactionResponse {
                    header: header(revision),
                };
                return (
                    Answer {
                        result: Some(Outcome::Compact(response)),
                    },
                    vec![],
                );
            }
        };
        let (now, events) = (work.now, work.events);
        match outcome {
            Err(kind) => (error(kind), vec![]),
            Ok(outcome) => {
                if !events.is_empty() {
                    self.history.push(now);
                }
                (
                    Answer {
                        result: Some(outcome),
                    },
                    events,
                )
            }
        }
    }
}

fn error(kind: Kind) -> Answer {
    let error = Error {
        kind: kind.into(),
        message: String::new(),
    };
    Answer {
        result: Some(Outcome::Error(error)),
    }
}
