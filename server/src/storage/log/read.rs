//! Reading entries: from memory when they are recent, else from their segments, in few reads.

use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::Entry;
use super::error::Corruption;
use super::format::{Record, decode_record};
use super::group::{Group, Slot, Source};
use super::segment::Segment;
use super::shared::Shared;
use crate::limits;

/// Entries of one segment that one read fetches.
struct Span {
    segment: Arc<Segment>,
    slots: Vec<(u64, Slot)>,
}

impl Span {
    fn bytes(&self) -> Range<usize> {
        let start = self
            .slots
            .first()
            .map_or(0, |(_, slot)| slot.offset as usize);
        let end = self
            .slots
            .last()
            .map_or(0, |(_, slot)| (slot.offset + slot.len) as usize);
        start..end
    }

    fn takes(&self, slot: Slot) -> bool {
        let (bytes, start) = (self.bytes(), slot.offset as usize);
        self.segment.sequence() == slot.segment
            && (bytes.end..=bytes.end + limits::LOG_READ_GAP_BYTES_MAX).contains(&start)
            && start + slot.len as usize - bytes.start <= limits::LOG_READ_SPAN_BYTES_MAX
    }

    fn read(self, group: u64, entries: &mut Vec<Entry>) -> io::Result<()> {
        let span = self.bytes();
        let mut bytes = vec![0; span.len()];
        self.segment
            .file
            .read_exact_at(&mut bytes, span.start as u64)?;
        let bytes = Bytes::from(bytes);
        for (index, slot) in self.slots {
            let start = slot.offset as usize - span.start;
            let record = bytes.slice(start..start + slot.len as usize);
            let found = match decode_record(&record, self.segment.place, u64::from(slot.offset)) {
                Ok((of, Record::Entry(entry) | Record::Moved(entry), _))
                    if (of, entry.index) == (group, index) =>
                {
                    entries.push(entry);
                    continue;
                }
                Ok((of, ..)) => format!("another record, of group {of}"),
                Err(invalid) => invalid.found,
            };
            return Err(Corruption {
                file: self.segment.path.clone(),
                offset: u64::from(slot.offset),
                expected: format!("entry {index} of group {group}"),
                found,
            }
            .into());
        }
        Ok(())
    }
}

/// The entries at these places, ascending. Those that are not live there any more are taken out.
pub(super) fn read_slots(
    shared: &Shared,
    group: &Group,
    slots: &mut Vec<(u64, Slot)>,
) -> io::Result<Vec<Entry>> {
    let mut spans: Vec<Span> = Vec::new();
    {
        let view = group.view.lock();
        slots.retain(|&(index, slot)| view.lies_at(index, slot));
        for &(index, slot) in slots.iter() {
            add(&mut spans, shared, index, slot);
        }
    }
    let mut entries = Vec::with_capacity(slots.len());
    for span in spans {
        span.read(group.id, &mut entries)?;
    }
    Ok(entries)
}

/// Adds a live entry to what is to be read. Under the lock of its group.
fn add(spans: &mut Vec<Span>, shared: &Shared, index: u64, slot: Slot) {
    match spans.last_mut() {
        Some(span) if span.takes(slot) => span.slots.push((index, slot)),
        _ => {
            let segment = shared.segments.read().get(&slot.segment).cloned();
            let segment = segment.expect("a live entry pins its segment");
            spans.push(Span {
                segment,
                slots: vec![(index, slot)],
            });
        }
    }
}

pub(super) fn read(
    shared: &Shared,
    group: &Group,
    range: Range<u64>,
    max_bytes: usize,
) -> io::Result<Vec<Entry>> {
    // Segments are taken under the lock: an entry that is live now pins its segment until then, and
    // whoever holds a segment can read it whatever becomes of the entry.
    let mut entries = Vec::new();
    let mut spans: Vec<Span> = Vec::new();
    let mut recent = Vec::new();
    {
        let view = group.view.lock();
        for source in view.sources(range, max_bytes) {
            match source {
                Source::Memory(entry) => recent.push(entry),
                Source::Disk { index, slot } => add(&mut spans, shared, index, slot),
            }
        }
    }
    for span in mem::take(&mut spans) {
        span.read(group.id, &mut entries)?;
    }
    entries.append(&mut recent);
    Ok(entries)
}
