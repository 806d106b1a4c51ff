//! About how many bytes of a tree's files are for the records of a range: figures for operators, who ask for
//! one of several groups that share the files.
//!
//! ```text
//!   table within the range            its whole file
//!   table across an end of it         who holds few records in it: their bytes, counted
//!                                     who holds the rest: the rest of the file
//!                                     several who hold many: equal shares of the file
//! ```
//!
//! Tables of a tree that was merged lie across few ends, so little is shared out. Overwritten and deleted records
//! count until they are merged away, as they take up the files.

use std::ops::Bound::{Excluded, Included, Unbounded};

use lsm_tree::{AbstractTree as _, AnyTree, InternalValue, Slice, Table};

use crate::limits;

pub(super) fn of_range(tree: &AnyTree, start: &[u8], end: &[u8]) -> lsm_tree::Result<u64> {
    let tables = tree.current_version();
    tables
        .iter_tables()
        .map(|table| of_range_in(table, start, end))
        .sum()
}

fn of_range_in(table: &Table, start: &[u8], end: &[u8]) -> lsm_tree::Result<u64> {
    let (keys, file) = (&table.metadata.key_range, table.metadata.file_size);
    let (first, last): (&[u8], &[u8]) = (keys.min(), keys.max());
    if last < start || first >= end {
        return Ok(0);
    }
    if first >= start && last < end {
        return Ok(file);
    }
    let (start, end) = (Slice::from(start), Slice::from(end));
    let within = table.range((Included(start.clone()), Excluded(end.clone())));
    if let Some(bytes) = few(within)? {
        return Ok(bytes.min(file));
    }
    let before = few(table.range((Unbounded, Excluded(start))))?;
    let after = few(table.range((Included(end), Unbounded)))?;
    let rest = file.saturating_sub(before.unwrap_or(0) + after.unwrap_or(0));
    let shares = 1 + u64::from(before.is_none()) + u64::from(after.is_none());
    Ok(rest / shares)
}

/// Bytes of a few records; `None` if they are many.
fn few(
    records: impl Iterator<Item = lsm_tree::Result<InternalValue>>,
) -> lsm_tree::Result<Option<u64>> {
    let mut bytes = 0;
    for (counted, record) in records.enumerate() {
        if counted >= limits::SIZE_COUNTED_RECORDS_MAX {
            return Ok(None);
        }
        let record = record?;
        bytes += (record.key.user_key.len() + record.value.len()) as u64;
    }
    Ok(Some(bytes))
}
