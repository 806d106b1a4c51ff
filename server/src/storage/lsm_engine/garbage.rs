//! When a tree is rewritten because much of it is deleted.
//!
//! A deletion is a record, and it frees the one that it hides when both meet in the last level. What takes
//! them there is that levels grow: once nothing more is written they stay where they are, and a keyspace whose
//! old versions were removed would keep their space until somebody writes as much again.
//!
//! ```text
//!   nothing to merge ─▶ many deletions, room for a copy? ─▶ all tables into the last level, without them
//! ```
//!
//! A rewrite costs as much as the tree is large, and is worth it because so much was deleted since the last.
//! It is not done on a tree beyond [`limits::LSM_REWRITE_BYTES_MAX`], which batches would wait for.

use std::path::Path;

use lsm_tree::{AbstractTree as _, AnyTree};

use crate::limits;
use crate::storage::room::Space;

/// Whether the tree in `dir` is to be rewritten now that there is nothing to merge.
pub(super) fn is_due(tree: &AnyTree, dir: &Path) -> bool {
    let (deletions, records) = (tree.tombstone_count(), tree.approximate_len() as u64);
    let many = deletions > records / limits::LSM_REWRITE_RECORDS_PER_DELETION;
    let bytes = tree.disk_space();
    many && bytes <= limits::LSM_REWRITE_BYTES_MAX
        // As much again as it may take, for what is written meanwhile.
        && Space::of(dir).is_ok_and(|space| space.free >= bytes.saturating_mul(2))
}
