//! The one thread that writes.
//!
//! ```text
//!   queue ─ take all ─▶ encode into the batch ─▶ one write ─▶ fdatasync ─▶ callbacks, in order ─▶ free segments
//!                        │ segment full: finish the batch, take the prepared segment,
//!                        ▼ start the next batch with a checkpoint of every group
//! ```
//!
//! While one batch is being synced the next one gathers in the queue: that is the group commit, and
//! it needs no timer. Only committed marks wait for company, and are written without a sync.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::format::{
    BatchBuffer, ENTRY_OVERHEAD_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentEnd,
    TERMINATOR_BYTES,
};
use super::group::{Group, Slot};
use super::queue::{Command, Completion, Op};
use super::segment::Segment;
use super::tracked::{Pins, Tracked};
use super::{dropped::DroppedGroups, entry::Entry, error::Failure, shared::Shared};
use crate::limits;
use crate::planted::planted;

/// Where the log ends, as recovery left it.
pub(super) struct Tail {
    pub active: Arc<Segment>,
    /// Offset of the next batch in the active segment.
    pub position: u64,
    /// Number of the next batch. Everything before it is synced.
    pub next_batch: u64,
    pub next_segment: u64,
    pub groups: BTreeMap<u64, Tracked>,
    pub pins: Pins,
    pub dropped: DroppedGroups,
    /// The segments before the active one.
    pub older: BTreeMap<u64, SegmentEnd>,
}

/// An entry in the batch that its group will be told the place of.
struct Placed {
    group: Arc<Group>,
    index: u64,
    came: Came,
    offset: u32,
    len: u32,
}

/// How an entry came into the batch, by which its group knows it again.
enum Came {
    Appended { ticket: u64 },
    Moved { from: Slot },
}

/// The writer.
///
/// - Everything before the active segment is synced.
/// - `tail.groups` and `tail.dropped` are the state after the last record in the batch, so a checkpoint is always exact.
/// - Callbacks wait in `answers` until the sync that covers the last record of their command.
/// - A segment is freed only after a sync, when no group has a live entry in it.
pub(super) struct Writer {
    shared: Arc<Shared>,
    tail: Tail,
    batch: BatchBuffer,
    placed: Vec<Placed>,
    answers: Vec<(Completion, u32)>,
    /// Taken from the queue, not encoded yet.
    commands: VecDeque<Command>,
    /// Appends whose records are in the batch and that the cache learns of when it is written.
    written: Vec<(Arc<Group>, u64)>,
    cache: VecDeque<(Arc<Group>, u64)>,
    /// Batches written since the last sync.
    unsynced: bool,
    synced_through: u64,
    /// Records of the batch that are the checkpoint at the head of a segment.
    checkpoint_records: u32,
    /// The last synced batch is followed by one that says so.
    attested: bool,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, tail: Tail) -> Self {
        let batch = BatchBuffer::new(tail.active.place, tail.position);
        let synced_through = tail.next_batch - 1;
        Writer {
            shared,
            tail,
            batch,
            placed: Vec::new(),
            answers: Vec::new(),
            commands: VecDeque::new(),
            written: Vec::new(),
            cache: VecDeque::new(),
            unsynced: false,
            synced_through,
            checkpoint_records: 0,
            // What recovery found is synced, but nothing behind it says so.
            attested: synced_through == 0,
        }
    }

    /// The body of the thread: runs until the log is closed or fails.
    pub fn run(&mut self) -> Result<(), Failure> {
        let lazy_delay = self.shared.options.lazy_delay;
        let mut lazy: Vec<Arc<Group>> = Vec::new();
        let mut deadline = (!self.attested).then(|| Instant::now() + lazy_delay);
        loop {
            let mut work = self.shared.queue.take(deadline);
            lazy.append(&mut work.lazy);
            let due = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if !work.commands.is_empty() || due || work.closing {
                self.commands = work.commands;
                self.perform(mem::take(&mut lazy))?;
                deadline = (!self.attested).then(|| Instant::now() + lazy_delay);
            } else if deadline.is_none() && !lazy.is_empty() {
                deadline = Some(Instant::now() + lazy_delay);
            }
            if work.closing {
                return self.finish();
            }
        }
    }

    /// Writes what was taken: commands with a sync, committed marks with them or alone without one.
    fn perform(&mut self, lazy: Vec<Arc<Group>>) -> Result<(), Failure> {
        let sync = !self.commands.is_empty();
        while let Some(command) = self.commands.pop_front() {
            self.encode(command)?;
        }
        for group in lazy {
            self.encode_committed(&group)?;
        }
        if sync || self.batch.records() > 0 {
            return self.flush(sync);
        }
        // Idle after a sync: an empty batch attests it, so that damage to the last synced batch cannot
        // pass for a torn write. Not worth a new segment.
        if !self.attested && self.has_room(0) {
            self.flush(false)?;
        }
        self.attested = true;
        Ok(())
    }

    /// Leaves a log whose every batch is known to be synced.
    fn finish(&mut self) -> Result<(), Failure> {
        if self.unsynced {
            self.sync()?;
        }
        if !self.attested && self.has_room(0) {
            self.flush(true)?;
        }
        Ok(())
    }

    /// The callbacks that no sync has covered, in order.
    pub fn unanswered(&mut self) -> impl Iterator<Item = Completion> {
        let taken = self.answers.drain(..).map(|(done, _)| done);
        taken.chain(self.commands.drain(..).map(|command| command.done))
    }

    // ---- encoding ---------------------------------------------------------------------------------

    fn encode(&mut self, command: Command) -> Result<(), Failure> {
        let Command {
            group,
            op,
            done,
            permits,
        } = command;
        let result = self.encode_op(&group, op);
        // Only now: a sync on the way covers no more than a part of the command.
        self.answers.push((done, permits));
        result
    }

    fn encode_op(&mut self, group: &Arc<Group>, op: Op) -> Result<(), Failure> {
        match op {
            Op::Append { ticket, entries } => {
                for entry in &entries {
                    self.encode_entry(group, ticket, entry)?;
                }
                self.written.push((group.clone(), ticket));
            }
            Op::Vote(vote) => {
                self.make_room(vote.len())?;
                self.batch.vote(group.id, &vote);
                self.tracked(group.id).0.vote = Some(vote);
            }
            Op::Truncate { keep, last } => {
                self.make_room(16)?;
                self.batch.truncate(group.id, keep);
                let (tracked, pins) = self.tracked(group.id);
                tracked.truncate(last, pins);
            }
            Op::Purge(pos) => {
                self.make_room(16)?;
                self.batch.purge(group.id, pos);
                let (tracked, pins) = self.tracked(group.id);
                tracked.purge(pos, pins);
            }
            Op::Move(entries) => {
                // A batch is written for it though none of its entries lives any more.
                self.make_room(0)?;
                for (entry, from) in &entries {
                    self.encode_moved(group, entry, *from)?;
                }
            }
            Op::Drop => {
                self.make_room(0)?;
                self.batch.drop_group(group.id);
                let tail = &mut self.tail;
                if let Some(mut tracked) = tail.groups.remove(&group.id) {
                    tracked.truncate(None, &mut tail.pins);
                }
                tail.dropped.insert(group.id);
            }
        }
        Ok(())
    }

    fn encode_entry(
        &mut self,
        group: &Arc<Group>,
        ticket: u64,
        entry: &Entry,
    ) -> Result<(), Failure> {
        self.make_room(ENTRY_OVERHEAD_BYTES + entry.payload.len())?;
        let (offset, len) = self.batch.entry(group.id, entry);
        self.placed.push(Placed {
            group: group.clone(),
            index: entry.index,
            came: Came::Appended { ticket },
            offset,
            len,
        });
        let segment = self.tail.active.sequence();
        let (tracked, pins) = self.tracked(group.id);
        tracked.append(entry.pos(), segment, pins);
        Ok(())
    }

    /// Writes a live entry again. The record is of the same length, so nothing else changes.
    fn encode_moved(
        &mut self,
        group: &Arc<Group>,
        entry: &Entry,
        from: Slot,
    ) -> Result<(), Failure> {
        self.make_room(ENTRY_OVERHEAD_BYTES + entry.payload.len())?;
        let (offset, len) = self.batch.moved(group.id, entry);
        self.placed.push(Placed {
            group: group.clone(),
            index: entry.index,
            came: Came::Moved { from },
            offset,
            len,
        });
        let segment = self.tail.active.sequence();
        let (tracked, pins) = self.tracked(group.id);
        tracked.moved(entry.index, segment, pins);
        Ok(())
    }

    fn encode_committed(&mut self, group: &Arc<Group>) -> Result<(), Failure> {
        let committed = {
            let mut view = group.view.lock();
            view.committed_dirty = false;
            view.committed()
        };
        if let Some(committed) = committed {
            self.make_room(committed.len())?;
            self.batch.committed(group.id, &committed);
            self.tracked(group.id).0.committed = Some(committed);
        }
        Ok(())
    }

    fn tracked(&mut self, group: u64) -> (&mut Tracked, &mut Pins) {
        (
            self.tail.groups.entry(group).or_default(),
            &mut self.tail.pins,
        )
    }

    fn has_room(&self, record: usize) -> bool {
        let end = self.tail.position as usize + self.batch.len() + record + TERMINATOR_BYTES;
        end <= self.shared.options.segment_bytes as usize
    }

    /// Makes the batch ready for a record with a body of at most `body` bytes: begins it, and ends the
    /// batch or the segment before it when they are full.
    fn make_room(&mut self, body: usize) -> Result<(), Failure> {
        let record = RECORD_HEADER_BYTES + body;
        self.begin();
        if self.batch_is_bare() {
            // A record too large for any segment makes a fresh one longer.
            if self.has_room(record) || self.tail.position == SEGMENT_HEADER_BYTES as u64 {
                return Ok(());
            }
        } else if self.batch.len() + record > self.shared.options.batch_bytes as usize {
            self.flush(true)?;
        }
        if !self.has_room(record) {
            if self.batch.records() > 0 {
                self.flush(true)?;
            } else if self.unsynced {
                self.sync()?;
            }
            if self.tail.position > SEGMENT_HEADER_BYTES as u64 {
                self.roll()?;
            }
        }
        self.begin();
        Ok(())
    }

    /// Nothing but the checkpoint is in the batch.
    fn batch_is_bare(&self) -> bool {
        self.batch.records() == self.checkpoint_records
    }

    /// Starts the first batch of a segment with the list of older segments, the dropped groups and a
    /// checkpoint of every other, so that no record of an older segment but live entries is needed any more.
    fn begin(&mut self) {
        if self.batch.records() > 0 || self.tail.position != SEGMENT_HEADER_BYTES as u64 {
            return;
        }
        self.batch.segments(self.tail.older.values().copied());
        if !self.tail.dropped.is_empty() {
            self.batch.dropped(&self.tail.dropped);
        }
        for (&group, tracked) in &self.tail.groups {
            self.batch.checkpoint(group, &tracked.checkpoint());
        }
        self.checkpoint_records = self.batch.records();
    }

    // ---- writing ----------------------------------------------------------------------------------

    /// Writes the batch, and syncs if asked to.
    fn flush(&mut self, sync: bool) -> Result<(), Failure> {
        self.begin();
        let (number, position) = (self.tail.next_batch, self.tail.position);
        let len = self.batch.len() as u64;
        let bytes = self.batch.seal(number, self.synced_through);
        let end = position + bytes.len() as u64;
        let (file, vitals) = (&self.tail.active.file, &self.shared.options.vitals);
        let written = vitals.while_the_log_works(|| file.write_all_at(bytes, position));
        written.map_err(failed("write a batch"))?;
        self.tail.active.bytes.fetch_max(end, Ordering::Relaxed);
        let counters = &self.shared.counters;
        counters.batches.fetch_add(1, Ordering::Relaxed);
        counters.written_bytes.fetch_add(len, Ordering::Relaxed);
        self.tail.next_batch += 1;
        self.tail.position += len;
        self.unsynced = true;
        self.attested = true;
        self.batch
            .restart(self.tail.active.place, self.tail.position);
        self.checkpoint_records = 0;
        self.batch
            .shrink_to(2 * self.shared.options.batch_bytes as usize);
        self.publish_places();
        planted!(AckBeforeFsync => self.answer());
        if sync {
            self.sync()?;
        }
        Ok(())
    }

    /// Syncs what was written, answers, frees segments.
    fn sync(&mut self) -> Result<(), Failure> {
        let (file, vitals) = (&self.tail.active.file, &self.shared.options.vitals);
        let synced = vitals.while_the_log_works(|| file.sync());
        synced.map_err(|error| Failure::of_sync("sync a batch", &error))?;
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.synced_through = self.tail.next_batch - 1;
        self.unsynced = false;
        self.attested = false;
        self.answer();
        if mem::take(&mut self.tail.pins.released) {
            self.free_segments();
        }
        Ok(())
    }

    /// Calls back everybody whose command is as durable as it will be.
    fn answer(&mut self) {
        for (done, permits) in self.answers.drain(..) {
            self.shared.queue.release(permits);
            done.finish(Ok(()));
        }
    }

    /// Tells the groups where their entries are, and bounds what they keep in memory.
    fn publish_places(&mut self) {
        let segment = self.tail.active.sequence();
        for same_group in self.placed.chunk_by(|a, b| a.group.id == b.group.id) {
            let mut view = same_group[0].group.view.lock();
            for placed in same_group {
                let slot = Slot {
                    segment,
                    offset: placed.offset,
                    len: placed.len,
                };
                match placed.came {
                    Came::Appended { ticket } => view.locate(ticket, placed.index, slot),
                    Came::Moved { from } => view.relocate(placed.index, from, slot),
                }
            }
        }
        self.placed.clear();
        self.cache.extend(self.written.drain(..));
        let cached = &self.shared.cached_bytes;
        let full = |cache: &VecDeque<_>| {
            cache.len() > limits::LOG_CACHED_APPENDS_MAX
                || cached.load(Ordering::Relaxed) > self.shared.options.cache_bytes
        };
        while full(&self.cache)
            && let Some((group, ticket)) = self.cache.pop_front()
        {
            let mut view = group.view.lock();
            cached.fetch_sub(view.evict(ticket), Ordering::Relaxed);
        }
    }

    /// Goes on in the prepared segment. The active one is synced, and the batch is empty.
    fn roll(&mut self) -> Result<(), Failure> {
        assert!(
            !self.unsynced && self.batch.records() == 0,
            "a segment ends synced, between batches"
        );
        let segment = Arc::new(
            self.shared
                .spares
                .take(self.tail.next_segment)
                .map_err(failed("prepare a segment"))?,
        );
        let tail = &mut self.tail;
        let end = SegmentEnd {
            sequence: tail.active.sequence(),
            end: tail.position as u32,
            last_batch: tail.next_batch - 1,
        };
        tail.older.insert(end.sequence, end);
        self.shared
            .segments
            .write()
            .insert(segment.sequence(), segment.clone());
        tail.next_segment = segment.sequence() + 1;
        tail.active = segment;
        tail.position = SEGMENT_HEADER_BYTES as u64;
        self.shared.spares.want(tail.next_segment);
        self.batch.restart(tail.active.place, tail.position);
        // The segment left behind may hold nothing live already.
        tail.pins.released = true;
        Ok(())
    }

    /// Frees every segment before the active one in which no entry is live. The checkpoint at the
    /// head of the active segment is synced, so nothing else in them is needed.
    fn free_segments(&mut self) {
        let pins = &self.tail.pins;
        let free: Vec<u64> = self
            .tail
            .older
            .keys()
            .copied()
            .filter(|&sequence| !pins.holds(sequence))
            .collect();
        for sequence in free {
            self.tail.older.remove(&sequence);
            if let Some(segment) = self.shared.segments.write().remove(&sequence) {
                self.shared.spares.discard(segment);
            }
        }
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(operation, &error)
}
