//! The writing side of one group's state: its tables, its mark, and when a table is cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use holdfast_mvcc::Write;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::database;
use super::generation::Generation;
use super::health::Health;
use super::table::Table;
use super::view::Layers;
use super::{MARK_KEY, Mark, StateError};
use crate::limits;

/// What the writer and the flusher share.
///
/// - Writes since the last mark are in `active` only: `clean` is false, and no table is cut.
/// - `frozen` is set exactly while the layers have a frozen table.
/// - `flushed <= mark.sequence`; equal means that the engine holds the last mark durably.
/// - `active_since` is set exactly while the database's queue has this table, or has just asked for it.
pub(super) struct Writer {
    pub(super) active: Arc<Table>,
    /// When `active` got its first write or mark.
    pub(super) active_since: Option<Instant>,
    pub(super) mark: Option<Mark>,
    /// Nothing was written since `mark`.
    pub(super) clean: bool,
    pub(super) frozen: Option<Frozen>,
    /// Sequence of the newest mark that is durable in the engine.
    pub(super) flushed: u64,
    /// Marks up to this sequence are wanted durable now.
    pub(super) flush_wanted: u64,
    /// `active` is to be cut at the next mark.
    cut_wanted: bool,
    /// The store is being closed: nothing is written to it any more.
    closing: bool,
    /// Nothing of the group goes down any more.
    closed: bool,
}

impl Writer {
    fn check_open(&self) -> Result<(), StateError> {
        match self.closing {
            true => Err(StateError::Closed),
            false => Ok(()),
        }
    }
}

/// A table on its way to the engine.
#[derive(Clone)]
pub(super) struct Frozen {
    pub(super) table: Arc<Table>,
    pub(super) mark: Mark,
    pub(super) base: Arc<Generation>,
}

/// One group's part of the database.
pub(super) struct Shared {
    pub(super) database: Arc<database::Shared>,
    id: u64,
    pub(super) writer: Mutex<Writer>,
    pub(super) layers: RwLock<Arc<Layers>>,
    pub(super) health: Arc<Health>,
    pub(super) durable: watch::Sender<u64>,
    /// Held while a replacement is loaded.
    pub(super) replacing: Mutex<()>,
}

impl Shared {
    pub(super) fn new(
        database: Arc<database::Shared>,
        id: u64,
        generation: Generation,
        mark: Option<Mark>,
    ) -> Self {
        let active = Arc::new(Table::default());
        let health = Arc::new(Health::within(database.health.clone()));
        let layers = Layers {
            active: active.clone(),
            frozen: None,
            base: Arc::new(generation),
            health: health.clone(),
        };
        Shared {
            database,
            id,
            durable: watch::Sender::new(mark.as_ref().map_or(0, |mark| mark.index)),
            writer: Mutex::new(Writer {
                active,
                active_since: None,
                mark,
                clean: true,
                frozen: None,
                flushed: 0,
                flush_wanted: 0,
                cut_wanted: false,
                closing: false,
                closed: false,
            }),
            layers: RwLock::new(Arc::new(layers)),
            health,
            replacing: Mutex::new(()),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn base(&self) -> Arc<Generation> {
        self.layers.read().base.clone()
    }

    pub(super) fn write(self: &Arc<Self>, writes: Vec<Write>) -> Result<(), StateError> {
        self.health.check()?;
        if writes.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        writer.check_open()?;
        writer.clean = false;
        self.fill(&mut writer);
        let before = writer.active.bytes();
        assert!(
            writes.iter().all(|write| write.key != MARK_KEY),
            "the key of the applied mark belongs to the store"
        );
        writer.active.put(writes);
        // Less than before when a value was replaced by a smaller one.
        let more = writer.active.bytes().wrapping_sub(before);
        self.database
            .budget
            .active
            .fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn mark_applied(
        self: &Arc<Self>,
        index: u64,
        record: Bytes,
    ) -> Result<(), StateError> {
        self.health.check()?;
        let mut writer = self.writer.lock();
        writer.check_open()?;
        let last = writer.mark.as_ref();
        let last_index = last.map_or(0, |mark| mark.index);
        assert!(index >= last_index, "mark {index} after mark {last_index}");
        let sequence = last.map_or(0, |mark| mark.sequence) + 1;
        writer.mark = Some(Mark {
            index,
            record,
            sequence,
        });
        writer.clean = true;
        self.fill(&mut writer);
        self.cut_if_due(&mut writer);
        Ok(())
    }

    /// From the first record or mark of a table on, the flusher knows of it.
    fn fill(self: &Arc<Self>, writer: &mut Writer) {
        if writer.active_since.is_some() {
            return;
        }
        let now = Instant::now();
        writer.active_since = Some(now);
        let mut queue = self.database.queue.lock();
        queue.filling.push_back((now, Arc::downgrade(self)));
        queue.pressed |= queue.filling.len() >= limits::FILLING_TABLES_MAX;
        if queue.filling.len() == 1 || queue.pressed {
            // The flusher may sleep without an end.
            self.database.work.notify_one();
        }
    }

    /// Cuts the active table off if it stands at a mark that is not durable and is full, old, or
    /// wanted. Whoever holds the writer may call it at any time.
    fn cut_if_due(self: &Arc<Self>, writer: &mut Writer) {
        let database = &*self.database;
        let pressed = database.is_pressed();
        let due = pressed
            || writer.cut_wanted
            || writer.flush_wanted > writer.flushed
            || writer
                .active_since
                .is_some_and(|at| at.elapsed() >= database.options.flush_interval);
        if due && self.cut(writer) && pressed {
            // Others may hold more of the budget.
            database.queue.lock().pressed = true;
            database.work.notify_one();
        }
    }

    /// Cuts the active table off if it can be.
    fn cut(self: &Arc<Self>, writer: &mut Writer) -> bool {
        let flushed = writer.flushed;
        let mark = writer.mark.clone();
        let Some(mark) = mark.filter(|mark| mark.sequence > flushed) else {
            return false;
        };
        if !writer.clean || writer.frozen.is_some() || writer.closed {
            return false;
        }
        let table = std::mem::take(&mut writer.active);
        writer.active_since = None;
        writer.cut_wanted = false;
        let budget = &self.database.budget;
        budget.frozen.fetch_add(table.bytes(), Ordering::Relaxed);
        budget.active.fetch_sub(table.bytes(), Ordering::Relaxed);
        let mut layers = self.layers.write();
        let base = layers.base.clone();
        *layers = Arc::new(Layers {
            active: writer.active.clone(),
            frozen: Some(table.clone()),
            base: base.clone(),
            health: self.health.clone(),
        });
        drop(layers);
        let frozen = Frozen { table, mark, base };
        writer.frozen = Some(frozen.clone());
        self.database
            .queue
            .lock()
            .frozen
            .push((self.clone(), frozen));
        self.database.work.notify_one();
        true
    }

    /// Cuts the table that began to fill at `since`, now or at its next mark; one that began later is
    /// another.
    pub(super) fn cut_since(self: &Arc<Self>, since: Instant) {
        let mut writer = self.writer.lock();
        if writer.active_since == Some(since) && !self.cut(&mut writer) {
            writer.cut_wanted = true;
        }
    }

    /// Has what is marked so far cut as soon as it can be; gives the sequence of its mark.
    pub(super) fn want_flushed(self: &Arc<Self>) -> u64 {
        let mut writer = self.writer.lock();
        let wanted = writer.mark.as_ref().map_or(0, |mark| mark.sequence);
        writer.flush_wanted = writer.flush_wanted.max(wanted);
        self.cut_if_due(&mut writer);
        wanted
    }

    /// The engine has `frozen`.
    pub(super) fn flushed(self: &Arc<Self>, frozen: &Frozen) {
        let mut writer = self.writer.lock();
        // A replaced generation is nobody's concern any more.
        let current = writer
            .frozen
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(&current.table, &frozen.table));
        if !current {
            return;
        }
        writer.frozen = None;
        writer.flushed = frozen.mark.sequence;
        // The engine has it all: views from now on do without the table.
        *self.layers.write() = Arc::new(Layers {
            active: writer.active.clone(),
            frozen: None,
            base: frozen.base.clone(),
            health: self.health.clone(),
        });
        self.durable.send_replace(frozen.mark.index);
        // What became due meanwhile could not be cut beside the one that went down.
        self.cut_if_due(&mut writer);
    }

    /// The layers of a new generation take the place of those in use.
    pub(super) fn replace(&self, layers: Arc<Layers>, mark: Mark) -> Arc<Layers> {
        let mut writer = self.writer.lock();
        let sequence = writer.mark.as_ref().map_or(0, |mark| mark.sequence) + 1;
        let index = mark.index;
        self.give_up_active(&mut writer);
        writer.active = layers.active.clone();
        writer.clean = true;
        // The flusher has it still, and finds that it counts no more.
        writer.frozen = None;
        writer.flushed = sequence;
        writer.mark = Some(Mark { sequence, ..mark });
        let old = std::mem::replace(&mut *self.layers.write(), layers);
        self.durable.send_replace(index);
        old
    }

    /// Takes no more writes, and has what is marked go down. What follows the last mark cannot: it is of
    /// an entry that was not applied to its end, and is given up with all that is in its table.
    pub(super) fn begin_close(self: &Arc<Self>) {
        let mut writer = self.writer.lock();
        writer.closing = true;
        if writer.clean {
            let last = writer.mark.as_ref().map_or(0, |mark| mark.sequence);
            writer.flush_wanted = writer.flush_wanted.max(last);
            self.cut_if_due(&mut writer);
        } else {
            self.give_up(&mut writer);
        }
    }

    /// A store that takes no more writes has nothing on its way down, and nobody replaces its state.
    pub(super) fn is_at_rest(&self) -> bool {
        let writer = self.writer.lock();
        let last = writer.mark.as_ref().map_or(0, |mark| mark.sequence);
        let is_down = writer.closed || writer.flushed >= last;
        is_down && writer.frozen.is_none() && !self.replacing.is_locked()
    }

    /// `Err` from the beginning of closing on.
    pub(super) fn check_not_closing(&self) -> Result<(), StateError> {
        self.writer.lock().check_open()
    }

    /// Nothing of the group goes down any more, and nobody may use this any more.
    pub(super) fn close(&self) {
        self.give_up(&mut self.writer.lock());
        self.health.close();
    }

    fn give_up(&self, writer: &mut Writer) {
        writer.closing = true;
        writer.closed = true;
        self.give_up_active(writer);
        writer.active = Arc::default();
    }

    fn give_up_active(&self, writer: &mut Writer) {
        let bytes = writer.active.bytes();
        self.database
            .budget
            .active
            .fetch_sub(bytes, Ordering::Relaxed);
        writer.active_since = None;
        writer.cut_wanted = false;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What its tables held is not in memory any more.
        let bytes = self.writer.get_mut().active.bytes();
        self.database
            .budget
            .active
            .fetch_sub(bytes, Ordering::Relaxed);
    }
}
