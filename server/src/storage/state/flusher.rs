//! The thread that takes frozen tables down to the engine.
//!
//! It also cuts tables that nobody marks any more: a group that falls silent still becomes durable
//! after the flush interval.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::view::Layers;
use super::{Frozen, MARK_KEY, Shared, StateError};
use crate::planted::{self, Bug};

pub(super) fn spawn(shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("state-flush".into())
        .spawn(move || run(&shared))
}

fn run(shared: &Shared) {
    while let Some(frozen) = next(shared) {
        let started = Instant::now();
        let result = flush(&frozen);
        let mut writer = shared.writer.lock();
        // A replaced generation is nobody's concern any more, whatever became of the flush.
        let current = writer
            .frozen
            .as_ref()
            .is_some_and(|current| current.base.number() == frozen.base.number());
        if !current {
            continue;
        }
        if let Err(error) = result {
            drop(writer);
            shared.health.poison(&error);
            shared.tick();
            return;
        }
        writer.frozen = None;
        writer.flushed = frozen.mark.sequence;
        // The engine has it all: views from now on do without the table.
        *shared.layers.write() = Arc::new(Layers {
            active: writer.active.clone(),
            frozen: None,
            base: frozen.base.clone(),
            health: shared.health.clone(),
        });
        shared.durable.send_replace(frozen.mark.index);
        drop(writer);
        shared.tick();
        tracing::debug!(
            index = frozen.mark.index,
            records = frozen.table.len(),
            bytes = frozen.table.bytes(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "state flushed"
        );
    }
}

/// Waits for a frozen table; `None` when the store closes.
fn next(shared: &Shared) -> Option<Frozen> {
    let mut writer = shared.writer.lock();
    loop {
        if writer.closing {
            return None;
        }
        shared.cut_if_due(&mut writer);
        if let Some(frozen) = &writer.frozen {
            return Some(frozen.clone());
        }
        let interval = shared.options.flush_interval;
        // An old table between two marks is cut by its mark, so there is nothing to wake up for.
        let sleep = match writer.active_since {
            Some(since) if writer.clean => interval.saturating_sub(since.elapsed()),
            _ => interval,
        };
        shared
            .work
            .wait_for(&mut writer, sleep.max(Duration::from_millis(1)));
    }
}

fn flush(frozen: &Frozen) -> Result<(), StateError> {
    let mut batch = Vec::with_capacity(frozen.table.len() + 1);
    batch.extend(frozen.table.iter());
    if planted::is(Bug::TornBatch) {
        let mark = (Bytes::from_static(MARK_KEY), Some(frozen.mark.encode()));
        frozen.base.engine().apply_batch(vec![mark])?;
    }
    let at = batch.partition_point(|(key, _)| key.as_ref() < MARK_KEY);
    batch.insert(
        at,
        (Bytes::from_static(MARK_KEY), Some(frozen.mark.encode())),
    );
    let engine = frozen.base.engine();
    engine.apply_batch(batch)?;
    Ok(engine.sync()?)
}
