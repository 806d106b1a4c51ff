//! Sizes and bounds that a log is given, and those that it reports.

use std::{sync::Arc, time::Duration};

use super::error::OpenError;
use crate::{detector::Vitals, limits};

/// Sizes and bounds of a log; the defaults are those of [`crate::limits`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Length of a segment file in bytes: 4 KiB to 1 GiB. A larger record makes a longer segment.
    pub segment_bytes: u32,
    /// Bytes of commands that may wait for the writer; at the bound callers wait.
    pub queue_bytes: u32,
    /// Commands that may wait for the writer; at the bound callers wait.
    pub queue_items: usize,
    /// Bytes of one batch, that is of one write and its sync; more takes several.
    pub batch_bytes: u32,
    /// Bytes of recent entries kept in memory for readers, all groups together; at the bound the
    /// oldest leave and are read from disk. Entries that are not written yet come on top.
    pub cache_bytes: u64,
    /// Files of purged segments kept to be used again; more are deleted.
    pub free_segments: usize,
    /// How long a committed mark may wait for another write to ride with, and how long after a sync an
    /// idle log attests it.
    pub lazy_delay: Duration,
    /// Where the writer says what it is doing.
    pub vitals: Arc<Vitals>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: limits::LOG_SEGMENT_BYTES_DEFAULT as u32,
            queue_bytes: limits::LOG_QUEUE_BYTES_MAX,
            queue_items: limits::LOG_QUEUE_COMMANDS_MAX,
            batch_bytes: limits::LOG_BATCH_BYTES_MAX,
            cache_bytes: limits::LOG_CACHE_BYTES_MAX,
            free_segments: limits::LOG_FREE_SEGMENTS_MAX,
            lazy_delay: limits::LOG_MARK_DELAY_MAX,
            vitals: Arc::default(),
        }
    }
}

impl LogOptions {
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let refuse = |field, reason: &str| {
            Err(OpenError::Options {
                field,
                reason: reason.to_owned(),
            })
        };
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return refuse("segment_bytes", "must be from 4 KiB to 1 GiB");
        }
        if self.queue_bytes == 0 || self.queue_items == 0 {
            return refuse("queue_bytes, queue_items", "must not be 0");
        }
        if self.batch_bytes == 0 {
            return refuse("batch_bytes", "must not be 0");
        }
        Ok(())
    }
}

/// Sizes and counts of a log.
#[cfg(test)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments in use, the active one included.
    pub segments: usize,
    /// Bytes of all files of the log, prepared and free ones included.
    pub disk_bytes: u64,
    /// Bytes of entries in memory.
    pub cached_bytes: u64,
    /// Batches written since the log was opened.
    pub batches: u64,
    /// `fdatasync` calls that covered batches since the log was opened.
    pub syncs: u64,
    /// Bytes of the batches written since the log was opened.
    pub written_bytes: u64,
    /// One item per group, ascending by id.
    pub groups: Vec<GroupStats>,
}

/// Sizes of one group.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Group id.
    pub group: u64,
    /// First and last live index.
    pub range: Option<(u64, u64)>,
    /// Bytes on disk of the live entries.
    pub live_bytes: u64,
}
