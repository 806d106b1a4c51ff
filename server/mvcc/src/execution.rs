//! Runs operations against a fixed state and collects what they change.
//!
//! A command is one execution, whatever it nests:
//!
//! ```text
//!   decide    all comparisons, nested ones too, on the state before    → a path of branches
//!   check     every operation on the path: revisions, leases, missing keys
//!   run       in order; reads see the writes before them through `Pending`
//! ```
//!
//! Nothing leaves an execution before it is complete, so an operation that is refused at any
//! moment leaves no trace.

use std::ops::ControlFlow;

use bytes::BytesMut;
use holdfast_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op::Request,
    response_op::Response,
};

use crate::{
    ReadError, Reader, Revisions, StateError, Unknown, Write, compare,
    error::{Fail, Refusal},
    key::{self, Revision, Span},
    live::{self, Pending},
    range,
    record::{self, Counters, Version},
};

/// Levels of a transaction, the outermost one included. A command or answer with as many still
/// decodes, for prost stops at 100 nested messages and each level takes two.
pub const TXN_LEVELS_MAX: usize = 32;

/// One command on its way.
///
/// - `changes` counts the version records in `writes`; the position among them is the sub-revision.
/// - In a transaction `pending` holds the last state of every key that is written. An operation that is alone
///   has nobody after it who would look.
pub(crate) struct Execution<'a, R> {
    reader: &'a R,
    begin: Revisions,
    pending: Option<Pending>,
    writes: Vec<Write>,
    changes: u64,
}

/// The branches that a transaction takes, decided before it runs.
struct Path {
    succeeded: bool,
    /// One for each nested transaction in the branch, in order.
    nested: Vec<Path>,
}

impl<'a, R: Reader> Execution<'a, R> {
    pub fn new(reader: &'a R, begin: Revisions) -> Self {
        Execution {
            reader,
            begin,
            pending: None,
            writes: Vec::new(),
            changes: 0,
        }
    }

    /// The revision as the operations so far have left it.
    pub fn now(&self) -> i64 {
        self.begin.current + i64::from(self.changes > 0)
    }

    /// The records to write, counters aside.
    pub fn finish(self) -> Vec<Write> {
        self.writes
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.now(),
            ..Default::default()
        })
    }

    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Fail<R::Error>> {
        check_lease(request)?;
        let revision = self.next_revision();
        let mut memory = record::memory(&request.key, request.value.len());
        let version_key = key::version_in(&mut memory, &request.key, revision);
        let prefix = key::prefix_of(&version_key);
        // Most need of the version before only what it counts.
        let (before, previous) = if request.prev_kv || request.ignore_value {
            let previous = self.version(prefix)?;
            (
                previous.as_ref().map(|previous| previous.counters),
                previous,
            )
        } else {
            (self.counters(prefix)?, None)
        };
        if (request.ignore_value || request.ignore_lease) && before.is_none() {
            return Err(Refusal::KeyNotFound.into());
        }
        let version = Version {
            revision,
            counters: Counters {
                create_revision: before.map_or(revision.main, |before| before.create_revision),
                version: before.map_or(0, |before| before.version) + 1,
                lease: match before {
                    Some(before) if request.ignore_lease => before.lease,
                    _ => request.lease,
                },
            },
            value: match &previous {
                Some(previous) if request.ignore_value => previous.value.clone(),
                _ => request.value.clone(),
            },
        };
        let (record, version) = version.encode_in(&mut memory);
        let prev_kv = previous
            .filter(|_| request.prev_kv)
            .map(|previous| previous.into_key_value(request.key.clone()));
        let write = Write::put(version_key, record);
        self.record(memory, revision, write, &request.key, Some(version));
        Ok(PutResponse {
            header: self.header(),
            prev_kv,
        })
    }

    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Fail<R::Error>> {
        // Prefixes, and the versions that the answer shows.
        let mut found = Vec::new();
        if let Some(span) = Span::new(&request.key, &request.range_end) {
            if span.single && !request.prev_kv {
                let exists = self.counters(&span.start)?.is_some();
                found.extend(exists.then_some((span.start, None)));
            } else {
                live::walk(
                    self.reader,
                    &span,
                    self.begin.current,
                    self.pending.as_ref(),
                    |live| {
                        let (prefix, version) = live.read()?;
                        found.push((prefix, Some(version).filter(|_| request.prev_kv)));
                        Ok(ControlFlow::Continue(()))
                    },
                )?;
            }
        }
        let mut response = DeleteRangeResponse {
            deleted: found.len() as i64,
            ..Default::default()
        };
        for (prefix, previous) in found {
            let user_key = key::user_key(&prefix);
            if let Some(previous) = previous {
                let previous = previous.into_key_value(user_key.clone());
                response.prev_kvs.push(previous);
            }
            let revision = self.next_revision();
            let mut memory = record::memory(&user_key, 0);
            let version_key = key::version_in(&mut memory, &user_key, revision);
            let deletion = Write::put(version_key, record::tombstone());
            self.record(memory, revision, deletion, &user_key, None);
        }
        response.header = self.header();
        Ok(response)
    }

    /// Runs a transaction: decided and checked as a whole first.
    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Fail<R::Error>> {
        let path = self.decide(request, TXN_LEVELS_MAX)?;
        self.check(request, &path)?;
        self.pending = Some(Pending::default());
        let mut response = self.run(request, &path)?;
        response.header = self.header();
        Ok(response)
    }

    fn decide(&self, request: &TxnRequest, levels: usize) -> Result<Path, Fail<R::Error>> {
        if levels == 0 {
            return Err(Refusal::Malformed("the transactions are nested too deeply").into());
        }
        let succeeded = compare::hold(self.reader, self.begin.current, &request.compare)?;
        let mut nested = Vec::new();
        for op in branch(request, succeeded) {
            if let Some(Request::RequestTxn(request)) = &op.request {
                nested.push(self.decide(request, levels - 1)?);
            }
        }
        Ok(Path { succeeded, nested })
    }

    /// Checks every operation on the path: as in etcd, first all puts, then all ranges.
    fn check(&self, request: &TxnRequest, path: &Path) -> Result<(), Fail<R::Error>> {
        self.check_each(request, path, &|op| match op {
            Request::RequestPut(request) => self.check_put(request),
            _ => Ok(()),
        })?;
        self.check_each(request, path, &|op| match op {
            Request::RequestRange(request) => Ok(self.check_range(request)?),
            _ => Ok(()),
        })
    }

    fn check_each(
        &self,
        request: &TxnRequest,
        path: &Path,
        check: &impl Fn(&Request) -> Result<(), Fail<R::Error>>,
    ) -> Result<(), Fail<R::Error>> {
        let mut nested = path.nested.iter();
        for op in branch(request, path.succeeded) {
            match &op.request {
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("a path for every nested transaction");
                    self.check_each(request, path, check)?;
                }
                Some(op) => check(op)?,
                None => return Err(StateError::from(Unknown::Operation).into()),
            }
        }
        Ok(())
    }

    /// A range inside a transaction may not name the revision that the transaction makes, and a
    /// negative revision counts as one, unlike outside: both as in etcd.
    fn check_range(&self, request: &RangeRequest) -> Result<(), Refusal> {
        let requested = request.revision;
        let Revisions { current, compact } = self.begin;
        if requested == 0 {
            Ok(())
        } else if requested > current {
            Err(Refusal::FutureRevision { requested, current })
        } else if requested < compact {
            Err(Refusal::Compacted { requested, compact })
        } else {
            Ok(())
        }
    }

    /// Inside a transaction a missing key comes before a missing lease, unlike outside: both as in
    /// etcd.
    fn check_put(&self, request: &PutRequest) -> Result<(), Fail<R::Error>> {
        if request.ignore_value || request.ignore_lease {
            let prefix = key::prefix(&request.key);
            if live::counters(self.reader, &prefix, self.begin.current)?.is_none() {
                return Err(Refusal::KeyNotFound.into());
            }
        }
        Ok(check_lease(request)?)
    }

    fn run(&mut self, request: &TxnRequest, path: &Path) -> Result<TxnResponse, Fail<R::Error>> {
        let mut nested = path.nested.iter();
        let ops = branch(request, path.succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match &op.request {
                Some(Request::RequestRange(request)) => {
                    Response::ResponseRange(self.range(request)?)
                }
                Some(Request::RequestPut(request)) => Response::ResponsePut(self.put(request)?),
                Some(Request::RequestDeleteRange(request)) => {
                    Response::ResponseDeleteRange(self.delete_range(request)?)
                }
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("a path for every nested transaction");
                    Response::ResponseTxn(self.run(request, path)?)
                }
                None => return Err(StateError::from(Unknown::Operation).into()),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        // etcd leaves the header of a nested transaction empty; the outermost one is filled in.
        let header = Some(ResponseHeader::default());
        Ok(TxnResponse {
            header,
            succeeded: path.succeeded,
            responses,
        })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Fail<R::Error>> {
        let now = self.now();
        let at = range::resolve(request.revision, now, self.begin)?;
        let pending = self.pending.as_ref().filter(|_| at > self.begin.current);
        range::select(self.reader, request, at, now, pending)
    }

    fn next_revision(&self) -> Revision {
        Revision {
            main: self.begin.current + 1,
            sub: self.changes,
        }
    }

    fn pending(&self, prefix: &[u8]) -> Option<&Option<Version>> {
        self.pending.as_ref()?.get(prefix)
    }

    /// The version of a key as the operations so far have left it.
    fn version(&self, prefix: &[u8]) -> Result<Option<Version>, Fail<R::Error>> {
        match self.pending(prefix) {
            Some(now) => Ok(now.clone()),
            None => Ok(live::get(self.reader, prefix, self.begin.current)?),
        }
    }

    /// What [`Self::version`] would give, without its value.
    fn counters(&self, prefix: &[u8]) -> Result<Option<Counters>, Fail<R::Error>> {
        match self.pending(prefix) {
            Some(now) => Ok(now.as_ref().map(|now| now.counters)),
            None => {
                let stored = live::counters(self.reader, prefix, self.begin.current)?;
                Ok(stored.map(|(_, counters)| counters))
            }
        }
    }

    /// Adds the record of a version and its entry in the index; `now` is the version, `None` for a deletion.
    fn record(
        &mut self,
        mut memory: BytesMut,
        revision: Revision,
        version: Write,
        user_key: &[u8],
        now: Option<Version>,
    ) {
        assert_eq!(revision, self.next_revision(), "sub-revisions are dense");
        let index_key = key::index_in(&mut memory, revision);
        let entry = record::index_entry_in(&mut memory, now.is_none(), user_key);
        if let Some(pending) = &mut self.pending {
            let prefix = version.key.slice(..key::prefix_of(&version.key).len());
            pending.insert(prefix, now);
        } else if self.changes == 0 {
            // Most are alone: two records, and the counters.
            self.writes.reserve_exact(3);
        }
        self.writes.push(version);
        self.writes.push(Write::put(index_key, entry));
        self.changes += 1;
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

/// No lease exists yet, so every lease that is named is missing.
fn check_lease(request: &PutRequest) -> Result<(), Refusal> {
    match request.lease {
        0 => Ok(()),
        lease => Err(Refusal::LeaseNotFound { lease }),
    }
}

/// True if no branch of the transaction holds anything but ranges, so that it needs no proposal.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| match &op.request {
            Some(Request::RequestRange(_)) => true,
            Some(Request::RequestTxn(request)) => is_read_only(request),
            _ => false,
        })
}

/// Answers a transaction that [`is_read_only`] from the state at `revisions`.
///
/// What [`crate::range`] says about running beside `apply` and scrubbing holds here too.
pub fn read_txn<R: Reader>(
    reader: &R,
    revisions: Revisions,
    request: &TxnRequest,
) -> Result<TxnResponse, ReadError<R::Error>> {
    if !is_read_only(request) {
        return Err(ReadError::NotReadOnly);
    }
    Ok(Execution::new(reader, revisions).txn(request)?)
}
