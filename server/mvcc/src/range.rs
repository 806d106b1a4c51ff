//! Range requests: which revision, which keys, in which order, how many.

use std::{cmp::Ordering, ops::ControlFlow};

use holdfast_proto::{
    etcdserverpb::{
        RangeRequest, RangeResponse, ResponseHeader,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

use crate::{
    ReadError, Reader, Revisions, StateError,
    error::{Fail, Refusal},
    key::{self, Span},
    live::{self, Pending},
};

/// Answers a range request from the state at `revisions`.
///
/// May run beside `apply`. If superseded versions are removed meanwhile, the caller must look at
/// the published compact revision again afterwards: when it has passed the revision that was
/// read, the answer may lack keys and the request is to be answered as compacted.
///
/// `count` is the number of keys in the range before filters and limit. As in etcd, a sort target
/// without an order sorts ascending, but only what the limit (and one more) let through; with an
/// order or a filter the limit comes last.
pub fn range<R: Reader>(
    reader: &R,
    revisions: Revisions,
    request: &RangeRequest,
) -> Result<RangeResponse, ReadError<R::Error>> {
    let at = resolve(request.revision, revisions.current, revisions)?;
    Ok(select(reader, request, at, revisions.current, None)?)
}

/// The revision that a request reads at: `now` unless it names one that can be read.
pub(crate) fn resolve<E>(requested: i64, now: i64, revisions: Revisions) -> Result<i64, Fail<E>> {
    if requested > now {
        return Err(Refusal::FutureRevision {
            requested,
            current: now,
        }
        .into());
    }
    let at = if requested <= 0 { now } else { requested };
    if at < revisions.compact {
        return Err(Refusal::Compacted {
            requested: at,
            compact: revisions.compact,
        }
        .into());
    }
    Ok(at)
}

/// Reads the range at a revision that can be read. `now` goes into the header.
pub(crate) fn select<R: Reader>(
    reader: &R,
    request: &RangeRequest,
    at: i64,
    now: i64,
    pending: Option<&Pending>,
) -> Result<RangeResponse, Fail<R::Error>> {
    let mut response = RangeResponse {
        header: Some(ResponseHeader {
            revision: now,
            ..Default::default()
        }),
        ..Default::default()
    };
    let Some(span) = Span::new(&request.key, &request.range_end) else {
        return Ok(response);
    };
    let mut selection = Selection::new(reader, request);
    live::walk(reader, &span, at, pending, |live| {
        response.count += 1;
        if selection.wants_more() {
            selection.take(&live)?;
        }
        Ok(ControlFlow::Continue(()))
    })
    .map_err(|error: StateError<R::Error>| Fail::State(error))?;
    (response.kvs, response.more) = selection.finish();
    Ok(response)
}

/// The keys that an answer keeps while the range is walked.
///
/// - With a limit, at most a few times as many keys are kept as it lets through, whatever the order:
///   `more` needs one beyond it, and sorting now and then drops what cannot come first.
/// - Values that the answer does not show are kept only for as long as they are sorted by.
struct Selection<'a, R> {
    reader: &'a R,
    request: &'a RangeRequest,
    filter: Filter,
    /// Keys to keep: one more than the limit.
    keep_max: usize,
    /// The order of the answer is not the one of the keys.
    sorts: bool,
    /// The limit cuts what is sorted; else it cuts before.
    sorts_first: bool,
    kvs: Vec<KeyValue>,
}

/// Keys that are kept before it is worth sorting them to drop the last.
const SORT_AT_MIN: usize = 64;

impl<'a, R: Reader> Selection<'a, R> {
    fn new(reader: &'a R, request: &'a RangeRequest) -> Self {
        let filter = Filter::new(request);
        let keep_max = match usize::try_from(request.limit) {
            _ if request.count_only => 0,
            Ok(limit) if limit > 0 => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let by_key = request.sort_target() == SortTarget::Key;
        let sorts = !by_key || request.sort_order() == SortOrder::Descend;
        let sorts_first = sorts && (request.sort_order() != SortOrder::None || filter.is_active());
        Selection {
            reader,
            request,
            filter,
            keep_max,
            sorts,
            sorts_first,
            kvs: Vec::new(),
        }
    }

    /// Whether a key that comes later can still be part of the answer.
    fn wants_more(&self) -> bool {
        self.keep_max > 0 && (self.sorts_first || self.kvs.len() < self.keep_max)
    }

    fn take(&mut self, live: &live::Live<'_>) -> Result<(), StateError<R::Error>> {
        let (prefix, version) = live.read()?;
        if !self.filter.admits(&version) {
            return Ok(());
        }
        let mut kv = version.into_key_value(key::user_key(&prefix));
        if self.request.keys_only && self.request.sort_target() != SortTarget::Value {
            kv.value.clear();
        }
        self.reader.keep(bytes(&kv)).map_err(StateError::Read)?;
        self.kvs.push(kv);
        if self.sorts_first && self.kvs.len() / 2 >= self.keep_max.max(SORT_AT_MIN) {
            self.sort();
            self.cut(self.keep_max);
        }
        Ok(())
    }

    fn cut(&mut self, length: usize) {
        if self.kvs.len() > length {
            self.reader
                .let_go(self.kvs[length..].iter().map(bytes).sum());
            self.kvs.truncate(length);
        }
    }

    /// The keys in their order, and whether there are more of them.
    fn finish(mut self) -> (Vec<KeyValue>, bool) {
        if self.sorts {
            self.sort();
        }
        let limit = self.keep_max.saturating_sub(1);
        let more = self.kvs.len() > limit && self.keep_max > 0;
        self.cut(limit);
        if self.request.keys_only {
            self.kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        (self.kvs, more)
    }

    /// Ties keep key order, so that every replica and every page agrees.
    fn sort(&mut self) {
        let target = self.request.sort_target();
        let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
            match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            }
        };
        match self.request.sort_order() {
            SortOrder::None | SortOrder::Ascend => self.kvs.sort_by(compare),
            SortOrder::Descend => self.kvs.sort_by(|a, b| compare(b, a)),
        }
    }
}

/// What a key takes up in an answer.
fn bytes(kv: &KeyValue) -> usize {
    size_of::<KeyValue>() + kv.key.len() + kv.value.len()
}

/// Bounds on the revisions of the keys to return; 0 is no bound.
struct Filter {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filter {
    fn new(request: &RangeRequest) -> Self {
        Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        }
    }

    fn is_active(&self) -> bool {
        [self.min_mod, self.max_mod, self.min_create, self.max_create] != [0; 4]
    }

    fn admits(&self, version: &crate::record::Version) -> bool {
        let within = |revision: i64, min: i64, max: i64| {
            (min == 0 || revision >= min) && (max == 0 || revision <= max)
        };
        within(version.revision.main, self.min_mod, self.max_mod)
            && within(
                version.counters.create_revision,
                self.min_create,
                self.max_create,
            )
    }
}
