//! Comparisons of a transaction.
//!
//! As in etcd, all comparisons of a transaction, those of nested transactions included, see the
//! state before its first operation.

use std::{cmp::Ordering, ops::ControlFlow};

use holdfast_proto::etcdserverpb::{
    Compare,
    compare::{CompareResult, CompareTarget, TargetUnion},
};

use crate::{
    Reader, StateError,
    key::{Revision, Span},
    live,
    record::Counters,
};

/// True if every comparison holds at the revision.
pub(crate) fn hold<R: Reader>(
    reader: &R,
    at: i64,
    compares: &[Compare],
) -> Result<bool, StateError<R::Error>> {
    for compare in compares {
        if !holds(reader, at, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds<R: Reader>(reader: &R, at: i64, compare: &Compare) -> Result<bool, StateError<R::Error>> {
    let (mut found, mut all) = (false, true);
    let span = Span::new(&compare.key, &compare.range_end);
    if let Some(span) = span.as_ref().filter(|span| span.single)
        && compare.target() != CompareTarget::Value
    {
        let counters = live::counters(reader, &span.start, at)?;
        let (revision, counters) = counters.unwrap_or(MISSING);
        return Ok(version_holds(compare, revision, &counters, &[]));
    }
    if let Some(span) = span {
        live::walk(reader, &span, at, None, |live| {
            found = true;
            let version = live.read()?.1;
            all = version_holds(compare, version.revision, &version.counters, &version.value);
            Ok(if all {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
    }
    if found {
        return Ok(all);
    }
    let (revision, counters) = MISSING;
    Ok(
        compare.target() != CompareTarget::Value
            && version_holds(compare, revision, &counters, &[]),
    )
}

/// The numbers of a missing key are 0. It has no value that could be compared, not even an empty one.
const MISSING: (Revision, Counters) = (
    Revision { main: 0, sub: 0 },
    Counters {
        create_revision: 0,
        version: 0,
        lease: 0,
    },
);

fn version_holds(compare: &Compare, revision: Revision, counters: &Counters, value: &[u8]) -> bool {
    let union = compare.target_union.as_ref();
    // A target without its operand is compared with zero or with the empty value.
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted = match union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            value.cmp(wanted)
        }
        Ok(CompareTarget::Create) => counters.create_revision.cmp(&match union {
            Some(&TargetUnion::CreateRevision(wanted)) => wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => revision.main.cmp(&match union {
            Some(&TargetUnion::ModRevision(wanted)) => wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Version) => counters.version.cmp(&match union {
            Some(&TargetUnion::Version(wanted)) => wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => counters.lease.cmp(&match union {
            Some(&TargetUnion::Lease(wanted)) => wanted,
            _ => 0,
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
