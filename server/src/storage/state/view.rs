//! Reading: one look at the three layers, newest first.
//!
//! ```text
//!   active table ─┐
//!   frozen table ─┼─ merged by key; the newest layer that knows a key decides, deletions hide
//!   engine ───────┘
//! ```

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_mvcc::Reader;

use super::StateError;
use super::generation::Generation;
use super::health::Health;
use super::table::Table;
use crate::storage::engine::{EngineError, Scan};

/// The layers of one moment.
///
/// - A record that was in a layer when these were put together is found through them for as long as
///   they live: tables never lose a key, and the engine receives what a table held before any new
///   `Layers` goes without that table.
pub(super) struct Layers {
    pub(super) active: Arc<Table>,
    pub(super) frozen: Option<Arc<Table>>,
    pub(super) base: Arc<Generation>,
    pub(super) health: Arc<Health>,
}

/// A look at the store; cheap to take and to clone.
///
/// A view keeps the layers that it was made of. Writes made later show in it until the next table is
/// cut and some of them not at all, so it is not a point in time: versioned records that it showed
/// once it will show again, and a writer that must read what it has just written takes a new view.
/// It holds memory (at most two tables) and, after [`super::StateStore::replace`], the old
/// generation's records: not a thing to keep for long.
///
/// When the store was closed its views fail, because whoever opened the state again does not know of them
/// and may remove what they were to see. That is looked at after what was read: a read that could miss
/// something fails.
#[derive(Clone)]
pub struct View(pub(super) Arc<Layers>);

impl View {
    fn tables(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&*self.0.active).chain(self.0.frozen.as_deref())
    }

    fn failed(&self, error: EngineError) -> StateError {
        let error = StateError::Engine(error);
        self.0.health.poison(&error);
        error
    }

    fn find(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        for table in self.tables() {
            if let Some(found) = table.get(key) {
                return Ok(found);
            }
        }
        self.0.base.get(key).map_err(|error| self.failed(error))
    }

    fn find_first(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, StateError> {
        // Layers above the one looked at that hold anything of the range: only they can hide.
        let mut above: Vec<&Table> = Vec::new();
        let hidden = |above: &[&Table], key: &[u8]| above.iter().any(|t| t.get(key).is_some());
        for table in self.tables() {
            let mut holds_range = false;
            for (key, value) in
                table.range(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end))
            {
                holds_range = true;
                if let Some(value) = value
                    && !hidden(&above, &key)
                {
                    return Ok(Some((key, value)));
                }
            }
            if holds_range {
                above.push(table);
            }
        }
        for record in self.0.base.scan(start, end) {
            let (key, value) = record.map_err(|error| self.failed(error))?;
            if !hidden(&above, &key) {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }
}

impl Reader for View {
    type Error = StateError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self.find(key)?;
        self.0.health.check_open()?;
        Ok(found)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError>> + '_ {
        let tables = self
            .tables()
            .map(|table| {
                let range = table.range(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
                (Box::new(range) as TableRange<'_>).peekable()
            })
            .collect();
        let engine = self.0.base.scan(start, end).peekable();
        Merge {
            view: self,
            tables,
            engine,
            ended: false,
        }
    }

    fn first(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, StateError> {
        let found = self.find_first(start, end)?;
        self.0.health.check_open()?;
        Ok(found)
    }
}

type TableRange<'a> = Box<dyn Iterator<Item = (Bytes, Option<Bytes>)> + 'a>;

/// Merges the layers; `tables` are newest first.
struct Merge<'a> {
    view: &'a View,
    tables: Vec<Peekable<TableRange<'a>>>,
    engine: Peekable<Scan<'a>>,
    ended: bool,
}

impl Merge<'_> {
    fn next_record(&mut self) -> Result<Option<(Bytes, Bytes)>, StateError> {
        loop {
            if let Some(error) = self.engine.next_if(Result::is_err).and_then(Result::err) {
                return Err(self.view.failed(error));
            }
            let mut least: Option<Bytes> = match self.engine.peek() {
                Some(Ok((key, _))) => Some(key.clone()),
                _ => None,
            };
            for table in &mut self.tables {
                if let Some((key, _)) = table.peek()
                    && least.as_ref().is_none_or(|least| key < least)
                {
                    least = Some(key.clone());
                }
            }
            let Some(key) = least else {
                return Ok(None);
            };
            // Every layer moves past the key; the newest that has it decides.
            let mut decided: Option<Option<Bytes>> = None;
            for table in &mut self.tables {
                if let Some((_, value)) = table.next_if(|(k, _)| *k == key) {
                    decided.get_or_insert(value);
                }
            }
            if let Some(Ok((_, value))) = self
                .engine
                .next_if(|record| record.as_ref().is_ok_and(|(k, _)| *k == key))
            {
                decided.get_or_insert(Some(value));
            }
            if let Some(Some(value)) = decided {
                return Ok(Some((key, value)));
            }
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<(Bytes, Bytes), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.next_record();
        let open = self.view.0.health.check_open();
        let record = record.and_then(|record| open.map(|()| record)).transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}
