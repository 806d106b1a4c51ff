//! How records bring back the view of a group when the log is opened.
//!
//! Segments that were freed are missing, so what is replayed may speak of entries that lie nowhere. They
//! get a slot in segment 0 until a later record says that they are dead, or where they were moved.

use super::{GroupView, Slot};
use crate::storage::log::LogPos;
use crate::storage::log::format::{Checkpoint, Invalid};

impl GroupView {
    /// Replays an entry record: it replaces what was at its index and after.
    pub fn replay_entry(&mut self, pos: LogPos, slot: Slot) -> Result<(), Invalid> {
        if self.slots.is_empty() {
            if self.purged.is_none() {
                self.first = pos.index;
            }
        } else if pos.index < self.range().end {
            self.truncate_after(pos.index.checked_sub(1));
        }
        if pos.index != self.range().end {
            let expected = format!("entry {} or an earlier one", self.range().end);
            return Err(Invalid {
                expected,
                found: format!("entry {}", pos.index),
            });
        }
        self.push(pos, slot);
        Ok(())
    }

    /// Replays an entry that was written again: only its place changes. One that is dead by now was
    /// moved before it died, and one whose segment is gone is known from here on.
    pub fn replay_moved(&mut self, pos: LogPos, slot: Slot) -> Result<(), Invalid> {
        let Some(at) = self.live(pos.index) else {
            let expected = format!("an entry of {:?}", self.range());
            let found = format!("{pos}, moved");
            return Err(Invalid { expected, found });
        };
        if self.slots[at].segment == 0 {
            self.set_term(pos);
        } else if self.term_of(pos.index) != Some(pos.term) {
            let expected = format!("the term {:?}", self.term_of(pos.index));
            let found = format!("{pos}, moved");
            return Err(Invalid { expected, found });
        }
        self.place(at, slot);
        Ok(())
    }

    /// Replays the state at the head of a segment, some segment before which is gone. Entries that lie
    /// there get a slot in segment 0, and must be dead in the end, or have been moved.
    pub fn replay_checkpoint(&mut self, state: Checkpoint) {
        match (state.runs.first(), state.last) {
            (Some(&(_, first)), Some(last)) => {
                while !self.slots.is_empty() && self.first < first {
                    self.pop_front();
                }
                self.cut_terms();
                if self.first > first {
                    self.truncate_after(None);
                }
                self.truncate_after(Some(last.index));
                if self.slots.is_empty() {
                    self.first = first;
                }
                let unknown = Slot {
                    segment: 0,
                    offset: 0,
                    len: 0,
                };
                for index in first..=last.index {
                    let run = state.runs.partition_point(|&(_, first)| first <= index) - 1;
                    let term = last.term;
                    match self.live(index) {
                        Some(at) if [0, state.runs[run].0].contains(&self.slots[at].segment) => {}
                        Some(at) => {
                            self.place(at, unknown);
                            self.set_term(LogPos { term, index });
                        }
                        None => self.push(LogPos { term, index }, unknown),
                    }
                }
            }
            _ => {
                self.truncate_after(None);
                self.first = state.purged.map_or(0, |purged| purged.index + 1);
            }
        }
        (self.purged, self.vote, self.committed) = (state.purged, state.vote, state.committed);
    }

    /// Whether a checkpoint says what the records before it say. Terms of entries that lie in missing
    /// segments are not known; where its entries lie is not compared.
    pub fn agrees_with(&self, state: &Checkpoint) -> bool {
        let last = self.last_entry();
        let same_last = match self.slots.back() {
            Some(slot) if slot.segment == 0 => {
                last.map(|last| last.index) == state.last.map(|last| last.index)
            }
            _ => last == state.last,
        };
        let first = last.map(|_| self.first);
        same_last
            && first == state.runs.first().map(|&(_, first)| first)
            && (self.purged, &self.vote, &self.committed)
                == (state.purged, &state.vote, &state.committed)
    }

    /// Corrects the term of one live entry.
    fn set_term(&mut self, pos: LogPos) {
        let before = self
            .live(pos.index.wrapping_sub(1))
            .and(pos.index.checked_sub(1));
        let before = before.and_then(|before| self.term_of(before));
        let next = pos.index + 1;
        let after = self.live(next).and_then(|_| self.term_of(next));
        self.terms
            .retain(|start| start.index != pos.index && start.index != next);
        let at = self.terms.partition_point(|start| start.index < pos.index);
        if let Some(term) = after.filter(|&after| after != pos.term) {
            self.terms.insert(at, LogPos { term, index: next });
        }
        if before != Some(pos.term) {
            self.terms.insert(at, pos);
        }
    }
}
