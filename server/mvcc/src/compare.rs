//! Comparisons of a transaction.
//!
//! As in etcd, all comparisons of a transaction, those of nested transactions included, see the
//! state before its first operation.

use std::{cmp::Ordering, ops::ControlFlow};

use bytes::Bytes;
use holdfast_proto::etcdserverpb::{
    Compare,
    compare::{CompareResult, CompareTarget, TargetUnion},
};

use crate::{Reader, StateError, key::Span, live, record::Version};

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
    if let Some(span) = Span::new(&compare.key, &compare.range_end) {
        live::walk(reader, &span, at, None, |live| {
            found = true;
            all = version_holds(compare, &live.read()?.1);
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
    // A missing key has no value that could be compared, not even an empty one; its numbers are 0.
    let missing = Version {
        create_revision: 0,
        mod_revision: 0,
        version: 0,
        lease: 0,
        value: Bytes::new(),
    };
    Ok(compare.target() != CompareTarget::Value && version_holds(compare, &missing))
}

fn version_holds(compare: &Compare, version: &Version) -> bool {
    let union = compare.target_union.as_ref();
    // A target without its operand is compared with zero or with the empty value.
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted = match union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            version.value[..].cmp(wanted)
        }
        Ok(CompareTarget::Create) => version.create_revision.cmp(&match union {
            Some(&TargetUnion::CreateRevision(wanted)) => wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => version.mod_revision.cmp(&match union {
            Some(&TargetUnion::ModRevision(wanted)) => wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Version) => version.version.cmp(&match union {
            Some(&TargetUnion::Version(wanted)) => wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => version.lease.cmp(&match union {
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
