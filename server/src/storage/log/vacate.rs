//! Making room: which segments hold little, and how they are emptied.
//!
//! Groups share the segments, so a group that writes little leaves a few live entries in each of many
//! segments that are otherwise dead. Such entries are written again at the end of the log; nothing but
//! their place changes, and the segment that they leave is freed once the new records are synced.
//!
//! ```text
//!   segment 7      ░░░░█░░░░░░░░░░░  ─ read ─▶ moved ─▶ end of the log, synced ─▶ segment 7 is free
//!                      one live entry
//! ```
//!
//! After a crash either both places are valid, and the later one counts, or only the old one: a
//! segment is freed behind the sync that made the new place durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::group::{Group, GroupView, Slot};
use super::queue::{Op, closed};
use super::shared::Shared;
use super::{GroupLog, Log, read};
use crate::limits;

/// What is live in one segment before the active one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    /// Number of the segment; they ascend with age.
    pub segment: u64,
    /// Bytes of its live entries.
    pub live_bytes: u64,
    /// What each group has there.
    pub held: BTreeMap<u64, Held>,
}

/// What is live of one group in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of the entries.
    pub bytes: u64,
    /// The last of their indexes.
    pub last: u64,
}

impl Log {
    /// What is live in each segment before the active one, the oldest first. Looks at every live entry.
    pub fn segment_uses(&self) -> Vec<SegmentUse> {
        let mut uses: BTreeMap<u64, SegmentUse> = {
            let segments = self.shared.segments.read();
            let older = segments.keys().rev().skip(1);
            let empty = |&segment| SegmentUse {
                segment,
                live_bytes: 0,
                held: BTreeMap::new(),
            };
            older.map(|segment| (*segment, empty(segment))).collect()
        };
        for group in self.known_groups() {
            for (index, slot) in group.view.lock().located() {
                if let Some(used) = uses.get_mut(&slot.segment) {
                    used.live_bytes += u64::from(slot.len);
                    let held = used.held.entry(group.id).or_default();
                    held.bytes += u64::from(slot.len);
                    held.last = index;
                }
            }
        }
        uses.into_values().collect()
    }

    /// Writes the live entries of a segment again at the end of the log, so that the segment goes. Reads
    /// from disk, which blocks, and waits until the entries are durable at their new place. Entries that
    /// die or are replaced meanwhile stay behind.
    pub async fn vacate(&self, segment: u64) -> io::Result<()> {
        for group in self.known_groups() {
            let mut slots = group.view.lock().lying_in(segment);
            while !slots.is_empty() {
                let mut bytes = 0;
                let fits = slots.iter().take_while(|(_, slot)| {
                    bytes += u64::from(slot.len);
                    bytes <= limits::LOG_MOVE_BYTES_MAX
                });
                let rest = slots.split_off(fits.count().max(1));
                self.move_entries(&group, std::mem::replace(&mut slots, rest))
                    .await?;
            }
        }
        Ok(())
    }

    async fn move_entries(
        &self,
        group: &Arc<Group>,
        mut slots: Vec<(u64, Slot)>,
    ) -> io::Result<()> {
        let entries = read::read_slots(&self.shared, group, &mut slots)?;
        let bytes = slots.iter().map(|(_, slot)| slot.len as usize).sum();
        let handle = GroupLog {
            group: group.clone(),
            log: self.clone(),
        };
        let (tx, moved) = oneshot::channel();
        // Whoever waits may be gone; the entries are where they are all the same.
        let done = Box::new(move |result| drop(tx.send(result)));
        let change = move |_: &Shared, view: &mut GroupView| {
            // Under the lock that orders commands: what is live here is live when it is written.
            let entries = entries.into_iter().zip(slots);
            let live = entries.filter(|(_, (index, slot))| view.lies_at(*index, *slot));
            let live = live.map(|(entry, (_, slot))| (entry, slot));
            Ok(Op::Move(live.collect()))
        };
        handle.submit(bytes, done, change).await?;
        match moved.await {
            Ok(moved) => moved,
            Err(_) => Err(closed()),
        }
    }

    pub(super) fn known_groups(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.shared.groups.read().known.values().cloned().collect();
        groups.sort_unstable_by_key(|group| group.id);
        groups
    }
}
