//! Reads that wait for no writer.
//!
//! The tree exchanges its list of tables under a lock that its reads take, and syncs the new list while it
//! holds it: with a disk that stalls, every read would stall, and the threads that serve peers with it. So
//! readers have the tables of the newest finished exchange, which whoever makes one renews afterwards.
//!
//! ```text
//!   batch, compaction ─▶ tree: exchange, synced under its lock ─▶ renew()
//!   reader ─▶ the tables of the last renewal, under a lock that is held for one pointer
//! ```
//!
//! What is called here of the tree is public and not documented, so its version is pinned.

use std::ops::Bound;
use std::sync::Arc;

use lsm_tree::table::filter::standard_bloom::Builder;
use lsm_tree::{AbstractTree as _, AnyTree, SeqNo, Slice, Tree};
use parking_lot::{Mutex, RwLock};

/// Reads see everything in the tables that they have.
const NEWEST: SeqNo = SeqNo::MAX;

type Found<T> = lsm_tree::Result<Option<T>>;
/// Records of a range, ascending.
pub(super) type Records = Box<dyn Iterator<Item = lsm_tree::Result<(Slice, Slice)>> + Send>;

type Get = dyn Fn(&[u8]) -> Found<Slice> + Send + Sync;
type Range = dyn Fn((Bound<Slice>, Bound<Slice>)) -> Records + Send + Sync;

/// Some tables. Closures, because the tree does not let others name the type of a list of tables.
struct Tables {
    get: Box<Get>,
    range: Box<Range>,
}

impl Tables {
    fn newest(tree: &AnyTree) -> Self {
        let tables = tree.current_version();
        let get = move |key: &[u8]| {
            let hash = Builder::get_hash(key);
            // Newest first: the first that knows the key decides.
            for run in tables.iter_levels().flat_map(|level| level.iter()) {
                if let Some(table) = run.get_for_key(key)
                    && let Some(record) = table.get(key, NEWEST, hash)?
                {
                    return Ok((!record.is_tombstone()).then_some(record.value));
                }
            }
            Ok(None)
        };
        let lists = tree.get_version_history_lock().latest_version();
        let range = move |bounds: (Bound<Slice>, Bound<Slice>)| -> Records {
            let records = Tree::create_internal_range(lists.clone(), &bounds, NEWEST, None);
            Box::new(records.map(|record| record.map(|r| (r.key.user_key, r.value))))
        };
        Tables {
            get: Box::new(get),
            range: Box::new(range),
        }
    }
}

/// The tables that readers have.
pub(super) struct Reads {
    tables: RwLock<Arc<Tables>>,
    /// Held from the look at the tree until readers have what was seen, so that nobody puts an older
    /// list in place of a newer one. Waits for the disk as the tree does.
    renewing: Mutex<()>,
}

impl Reads {
    pub(super) fn of(tree: &AnyTree) -> Self {
        Reads {
            tables: RwLock::new(Arc::new(Tables::newest(tree))),
            renewing: Mutex::new(()),
        }
    }

    /// From the return of this on, reads see what the tree holds.
    pub(super) fn renew(&self, tree: &AnyTree) {
        let _one_at_a_time = self.renewing.lock();
        let newest = Arc::new(Tables::newest(tree));
        let old = std::mem::replace(&mut *self.tables.write(), newest);
        // Files may go with it: not under the lock.
        drop(old);
    }

    pub(super) fn get(&self, key: &[u8]) -> Found<Slice> {
        let tables = self.tables.read().clone();
        (tables.get)(key)
    }

    pub(super) fn range(&self, bounds: (Bound<Slice>, Bound<Slice>)) -> Records {
        let tables = self.tables.read().clone();
        (tables.range)(bounds)
    }
}
