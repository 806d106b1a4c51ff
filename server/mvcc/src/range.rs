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
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let filter = Filter::new(request);
    let ordered_by_key = is_key_order(request);
    let collect_max = match limit {
        _ if request.count_only => 0,
        // Everything must be seen before the limit can cut.
        _ if !ordered_by_key || filter.is_active() => usize::MAX,
        0 => usize::MAX,
        limit => limit.saturating_add(1),
    };
    let mut kvs: Vec<KeyValue> = Vec::new();
    live::walk(reader, &span, at, pending, |live| {
        response.count += 1;
        if kvs.len() < collect_max {
            let (prefix, version) = live.read()?;
            if filter.admits(&version) {
                kvs.push(version.into_key_value(key::user_key(&prefix)));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
    .map_err(|error: StateError<R::Error>| Fail::State(error))?;
    sort(&mut kvs, request);
    if limit > 0 && kvs.len() > limit {
        kvs.truncate(limit);
        response.more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    response.kvs = kvs;
    Ok(response)
}

fn is_key_order(request: &RangeRequest) -> bool {
    match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    }
}

/// Ties keep key order, so that every replica and every page agrees.
fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let target = request.sort_target();
    if target == SortTarget::Key {
        if request.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
        return;
    }
    let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match request.sort_order() {
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(compare),
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
    }
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
        within(version.mod_revision, self.min_mod, self.max_mod)
            && within(version.create_revision, self.min_create, self.max_create)
    }
}
