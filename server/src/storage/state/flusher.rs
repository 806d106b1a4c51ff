//! The thread that takes frozen tables down to the engine: all that are ready in one batch.
//!
//! It also cuts tables that nobody marks any more: a group that falls silent still becomes durable
//! after the flush interval. With a table that is due go all that are half as old, so that groups which
//! are written now and then share their batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::database::{Queue, Shared};
use super::group::{self, Frozen};
use super::{MARK_KEY, StateError, catalogue, table};
use crate::planted::planted;
use crate::storage::engine::Change;

/// Keys of a batch are put together in pieces of memory of this size.
const KEYS_BYTES: usize = 64 * 1024;

/// The life of the thread.
pub(super) fn run(shared: &Shared) {
    while let Some(tables) = next(shared) {
        let began = Instant::now();
        if flush(shared, &tables).is_err() {
            // The database has ended, and everybody knows.
            return;
        }
        let (mut records, mut bytes) = (0, 0);
        for (group, frozen) in &tables {
            records += frozen.table.len();
            bytes += frozen.table.bytes();
            group.flushed(frozen);
        }
        shared.budget.frozen.fetch_sub(bytes, Ordering::Relaxed);
        shared.tick();
        tracing::debug!(
            groups = tables.len(),
            records,
            bytes,
            elapsed_ms = began.elapsed().as_millis() as u64,
            "state flushed"
        );
    }
}

/// Waits for frozen tables; `None` when the database closes.
fn next(shared: &Shared) -> Option<Vec<(Arc<group::Shared>, Frozen)>> {
    let mut queue = shared.queue.lock();
    loop {
        if queue.closing {
            return None;
        }
        let now = Instant::now();
        let interval = shared.options.flush_interval;
        let due = due(&mut queue, now, interval);
        if !due.is_empty() {
            // A group's writer is taken before the queue.
            drop(queue);
            for (since, group) in due {
                if let Some(group) = group.upgrade() {
                    group.cut_since(since);
                }
            }
            queue = shared.queue.lock();
        }
        if !queue.frozen.is_empty() {
            return Some(std::mem::take(&mut queue.frozen));
        }
        if queue.closing || queue.pressed {
            continue;
        }
        match queue.filling.front() {
            Some((since, _)) => {
                let wait = (*since + interval).saturating_duration_since(Instant::now());
                let wait = wait.max(Duration::from_millis(1));
                shared.work.wait_for(&mut queue, wait);
            }
            None => shared.work.wait(&mut queue),
        }
    }
}

type Due = Vec<(Instant, std::sync::Weak<group::Shared>)>;

/// Takes the tables out of the queue that are to be cut now.
fn due(queue: &mut Queue, now: Instant, interval: Duration) -> Due {
    if std::mem::take(&mut queue.pressed) {
        return queue.filling.drain(..).collect();
    }
    let oldest = queue.filling.front();
    if oldest.is_none_or(|(since, _)| now.saturating_duration_since(*since) < interval) {
        return Vec::new();
    }
    let old = |since: &Instant| now.saturating_duration_since(*since) >= interval / 2;
    let count = queue
        .filling
        .iter()
        .take_while(|(since, _)| old(since))
        .count();
    queue.filling.drain(..count).collect()
}

/// Takes down what still counts: a state that was replaced or dropped meanwhile is nobody's concern.
fn flush(shared: &Shared, tables: &[(Arc<group::Shared>, Frozen)]) -> Result<(), StateError> {
    let writing = shared.writing.lock();
    let mut counting: Vec<&Frozen> = {
        let catalogue = shared.catalogue.lock();
        let counts = |(group, frozen): &&(Arc<group::Shared>, Frozen)| {
            catalogue.generation(group.id()) == Some(frozen.base.number())
        };
        tables
            .iter()
            .filter(counts)
            .map(|(_, frozen)| frozen)
            .collect()
    };
    counting.sort_by_key(|frozen| frozen.base.prefix());
    planted!(TornBatch => shared.call(|engine| engine.apply_batch(counting.iter().map(|frozen| mark(frozen)).collect()))?);
    let new = shared.catalogue.lock().unwritten();
    let is_new = |frozen: &&&Frozen| new.contains(&frozen.base.group());
    let current = counting
        .iter()
        .filter(is_new)
        .map(|frozen| catalogue::current(frozen.base.group(), frozen.base.number()));
    let tables: Vec<_> = counting
        .iter()
        .map(|frozen| (*frozen, frozen.table.frozen()))
        .collect();
    let records = tables
        .iter()
        .flat_map(|(frozen, records)| changes(frozen, records));
    let mut changes = current.chain(records);
    shared.call(|engine| {
        engine.apply_sorted(&mut changes)?;
        engine.sync()
    })?;
    let mut catalogue = shared.catalogue.lock();
    for frozen in counting {
        catalogue.set_written(frozen.base.group());
    }
    drop(catalogue);
    drop(writing);
    Ok(())
}

/// The mark of a table and its records, under the keys of the database.
fn changes(frozen: &Frozen, records: &table::Frozen<'_>) -> impl Iterator<Item = Change> {
    let prefix = frozen.base.prefix();
    // One piece of memory for many keys, and the same one again once the engine is done with them.
    let mut keys = BytesMut::new();
    let records = records.iter().map(move |(key, value)| {
        let bytes = prefix.as_bytes().len() + key.len();
        if keys.capacity() < bytes {
            keys.reserve(bytes.max(KEYS_BYTES));
        }
        keys.extend_from_slice(prefix.as_bytes());
        keys.extend_from_slice(key);
        (keys.split().freeze(), value.clone())
    });
    std::iter::once(mark(frozen)).chain(records)
}

fn mark(frozen: &Frozen) -> (Bytes, Option<Bytes>) {
    let key = frozen.base.prefix().key(MARK_KEY).into();
    (key, Some(frozen.mark.encode()))
}
