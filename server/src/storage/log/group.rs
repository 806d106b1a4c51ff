//! What readers see of one group: its state, and where each live entry is.
//!
//! This view runs ahead of the disk: a command changes it when it is accepted, before it is written.
//! The writer's own view, in record order, is [`Tracked`](super::tracked::Tracked).
//!
//! ```text
//!     purged │ first                                          last
//!            ├──────────────── slots (16 bytes each) ───────────┤
//!            │  segment, offset, length          │   pending    │
//!                            ├──── recent (entries in memory) ──┤
//! ```

mod replayed;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::entry::{Entry, GroupState, LogPos};
use super::format::ENTRY_OVERHEAD_BYTES;

/// What an entry in memory is charged beyond its payload.
const RECENT_OVERHEAD_BYTES: usize = 80;

/// Where an entry's record lies. Segment 0 does not exist: it stands for "not written yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub segment: u64,
    pub offset: u32,
    pub len: u32,
}

/// An entry in memory, with the ticket of the append that brought it.
struct Recent {
    ticket: u64,
    entry: Entry,
}

/// One group, shared between its handles and the writer.
pub(super) struct Group {
    pub id: u64,
    /// Held for moments only, never across I/O. Taken before the lock of the queue.
    pub view: Mutex<GroupView>,
}

/// The state of a group, as of the last accepted command.
///
/// - `slots[i]` is the entry of index `first + i`; nothing is missing between `first` and the last.
/// - `recent` covers the end of `slots` and every slot that is not written yet.
/// - With a purge mark, `first` is `purged.index + 1`.
/// - `terms` holds the first live index of each term, ascending in both.
#[derive(Default)]
pub(super) struct GroupView {
    purged: Option<LogPos>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    /// `committed` waits to be written.
    pub committed_dirty: bool,
    first: u64,
    slots: VecDeque<Slot>,
    recent: VecDeque<Recent>,
    terms: VecDeque<LogPos>,
    live_bytes: u64,
    /// The group is no more: it holds nothing and takes nothing.
    dropped: bool,
}

/// How to get one entry of a read.
pub(super) enum Source {
    Memory(Entry),
    Disk { index: u64, slot: Slot },
}

impl GroupView {
    /// Where in `slots` a live entry is.
    fn live(&self, index: u64) -> Option<usize> {
        let live = self.range().contains(&index);
        live.then(|| (index - self.first) as usize)
    }

    fn place(&mut self, at: usize, slot: Slot) {
        self.live_bytes += u64::from(slot.len);
        self.live_bytes -= u64::from(self.slots[at].len);
        self.slots[at] = slot;
    }

    /// Index and place of every live entry.
    pub fn located(&self) -> impl Iterator<Item = (u64, Slot)> {
        (self.first..).zip(self.slots.iter().copied())
    }

    pub fn is_dropped(&self) -> bool {
        self.dropped
    }

    /// Ends the group. Returns the bytes freed in memory.
    pub fn drop_all(&mut self) -> u64 {
        let freed = self.recent.iter().map(|recent| charge(&recent.entry)).sum();
        *self = GroupView {
            committed_dirty: self.committed_dirty,
            dropped: true,
            ..GroupView::default()
        };
        freed
    }

    pub fn state(&self) -> GroupState {
        GroupState {
            purged: self.purged,
            last: self.last(),
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        }
    }

    /// Bytes on disk of the live entries.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Indexes of the live entries.
    pub fn range(&self) -> Range<u64> {
        self.first..self.first + self.slots.len() as u64
    }

    /// The last entry, or the purge mark when there is none.
    fn last(&self) -> Option<LogPos> {
        match (self.slots.len() as u64, self.terms.back()) {
            (0, _) | (_, None) => self.purged,
            (len, Some(start)) => Some(LogPos {
                term: start.term,
                index: self.first + len - 1,
            }),
        }
    }

    pub fn set_vote(&mut self, vote: Bytes) {
        self.vote = Some(vote);
    }

    pub fn set_committed(&mut self, committed: Bytes) {
        self.committed = Some(committed);
    }

    pub fn committed(&self) -> Option<Bytes> {
        self.committed.clone()
    }

    /// Terms of the live entries, with the first live index of each; the purge mark comes first.
    pub fn term_starts(&self) -> Vec<LogPos> {
        self.purged
            .into_iter()
            .chain(self.terms.iter().copied())
            .collect()
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        if let Some(purged) = self.purged
            && purged.index == index
        {
            return Some(purged.term);
        }
        if !self.range().contains(&index) {
            return None;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        Some(self.terms[after.checked_sub(1)?].term)
    }

    /// Refuses entries that do not follow the last one.
    pub fn check_append(&self, entries: &[Entry]) -> io::Result<()> {
        let mut last = self.last();
        for entry in entries {
            match last {
                Some(last) if entry.index != last.index + 1 => {
                    return Err(refused(format!(
                        "append of index {} after {last}",
                        entry.index
                    )));
                }
                Some(last) if entry.term < last.term => {
                    return Err(refused(format!(
                        "append of term {} at {} after {last}",
                        entry.term, entry.index
                    )));
                }
                _ => last = Some(entry.pos()),
            }
        }
        Ok(())
    }

    /// Appends entries that were checked. Returns the bytes they occupy in memory.
    pub fn append(&mut self, ticket: u64, entries: &[Entry]) -> u64 {
        let mut charged = 0;
        for entry in entries {
            if self.slots.is_empty() {
                self.first = entry.index;
            }
            let len = (ENTRY_OVERHEAD_BYTES + entry.payload.len()) as u32;
            self.push(
                entry.pos(),
                Slot {
                    segment: 0,
                    offset: 0,
                    len,
                },
            );
            charged += charge(entry);
            self.recent.push_back(Recent {
                ticket,
                entry: entry.clone(),
            });
        }
        charged
    }

    fn push(&mut self, pos: LogPos, slot: Slot) {
        assert_eq!(pos.index, self.range().end, "entries are contiguous");
        if self.terms.back().is_none_or(|start| start.term != pos.term) {
            self.terms.push_back(pos);
        }
        self.slots.push_back(slot);
        self.live_bytes += u64::from(slot.len);
    }

    /// Drops the first entry. Returns the bytes freed in memory.
    fn pop_front(&mut self) -> u64 {
        let cached = self.recent.len() == self.slots.len();
        let recent = if cached {
            self.recent.pop_front()
        } else {
            None
        };
        if let Some(slot) = self.slots.pop_front() {
            self.live_bytes -= u64::from(slot.len);
        }
        self.first += 1;
        recent.map_or(0, |recent| charge(&recent.entry))
    }

    /// Lets the terms begin at the first entry: the one that was cut in two goes on from there.
    fn cut_terms(&mut self) {
        let mut cut = None;
        while self
            .terms
            .front()
            .is_some_and(|start| start.index < self.first)
        {
            cut = self.terms.pop_front();
        }
        if let Some(cut) = cut
            && !self.slots.is_empty()
            && self
                .terms
                .front()
                .is_none_or(|start| start.index > self.first)
        {
            self.terms.push_front(LogPos {
                term: cut.term,
                index: self.first,
            });
        }
    }

    /// Refuses to truncate what was purged.
    pub fn check_truncate(&self, keep: Option<u64>) -> io::Result<()> {
        match self.purged {
            Some(purged) if keep.is_none_or(|keep| keep < purged.index) => Err(refused(format!(
                "truncation to {keep:?}, but the log is purged up to {purged}"
            ))),
            _ => Ok(()),
        }
    }

    /// The last live entry.
    pub fn last_entry(&self) -> Option<LogPos> {
        if self.slots.is_empty() {
            None
        } else {
            self.last()
        }
    }

    /// Drops what comes after `keep`. Returns the bytes freed in memory.
    pub fn truncate_after(&mut self, keep: Option<u64>) -> u64 {
        let end = keep.map_or(self.first, |keep| {
            keep.saturating_add(1).clamp(self.first, self.range().end)
        });
        let mut freed = 0;
        while self.range().end > end {
            if let Some(slot) = self.slots.pop_back() {
                self.live_bytes -= u64::from(slot.len);
            }
            freed += self
                .recent
                .pop_back()
                .map_or(0, |recent| charge(&recent.entry));
        }
        while self.terms.back().is_some_and(|start| start.index >= end) {
            self.terms.pop_back();
        }
        freed
    }

    /// Drops everything up to `pos`; a mark that moves back is ignored. Returns the bytes freed in memory.
    pub fn purge(&mut self, pos: LogPos) -> u64 {
        if self.purged.is_some_and(|purged| purged.index >= pos.index) {
            return 0;
        }
        let mut freed = 0;
        while !self.slots.is_empty() && self.first <= pos.index {
            freed += self.pop_front();
        }
        self.first = pos.index + 1;
        self.purged = Some(pos);
        self.cut_terms();
        freed
    }

    /// Notes where an entry was written, unless another one has taken its index.
    pub fn locate(&mut self, ticket: u64, index: u64, slot: Slot) {
        if !self.range().contains(&index) {
            return;
        }
        let at = (index - self.first) as usize;
        let cached_from = self.slots.len() - self.recent.len();
        if at >= cached_from && self.recent[at - cached_from].ticket == ticket {
            assert_eq!(
                self.slots[at].len, slot.len,
                "length of the record of entry {index}"
            );
            self.slots[at] = slot;
        }
    }

    /// Notes that an entry was written again, unless it is dead or has moved on.
    pub fn relocate(&mut self, index: u64, from: Slot, to: Slot) {
        if let Some(at) = self.live(index)
            && self.slots[at] == from
        {
            self.place(at, to);
        }
    }

    /// The live entries that lie in `segment`: index and place.
    pub fn lying_in(&self, segment: u64) -> Vec<(u64, Slot)> {
        let located = self.located();
        located
            .filter(|(_, slot)| slot.segment == segment)
            .collect()
    }

    /// The entry at `index` is live, and lies there.
    pub fn lies_at(&self, index: u64, slot: Slot) -> bool {
        self.live(index).is_some_and(|at| self.slots[at] == slot)
    }

    /// Drops from memory what `ticket` and earlier appends brought; it is all written.
    /// Returns the bytes freed.
    pub fn evict(&mut self, ticket: u64) -> u64 {
        let mut freed = 0;
        while self
            .recent
            .front()
            .is_some_and(|recent| recent.ticket <= ticket)
        {
            let index = self.range().end - self.recent.len() as u64;
            let slot = self.slots[(index - self.first) as usize];
            assert_ne!(
                slot.segment, 0,
                "entry {index} leaves memory before it is written"
            );
            freed += self
                .recent
                .pop_front()
                .map_or(0, |recent| charge(&recent.entry));
        }
        freed
    }

    /// Where the live entries of `range` are, as many as fit into `max_bytes` of payload, at least one.
    pub fn sources(&self, range: Range<u64>, max_bytes: usize) -> Vec<Source> {
        let live = self.range();
        let wanted = range.start.max(live.start)..range.end.min(live.end);
        let cached_from = live.end - self.recent.len() as u64;
        let mut sources = Vec::new();
        let mut bytes = 0;
        for index in wanted {
            let slot = self.slots[(index - self.first) as usize];
            bytes += slot.len as usize - ENTRY_OVERHEAD_BYTES;
            if bytes > max_bytes && !sources.is_empty() {
                break;
            }
            sources.push(match index.checked_sub(cached_from) {
                Some(at) => Source::Memory(self.recent[at as usize].entry.clone()),
                None => Source::Disk { index, slot },
            });
        }
        sources
    }
}

fn charge(entry: &Entry) -> u64 {
    (RECENT_OVERHEAD_BYTES + entry.payload.len()) as u64
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
