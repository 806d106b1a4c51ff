//! Walks over the keys that live at a revision.
//!
//! Family `20` lies in key order, each key's versions newest first. For every key the first
//! version at or before the wanted revision decides; the rest of the key is skipped, by stepping
//! while it is short and by a new seek when it is long.
//!
//! ```text
//!   a@9  a@7  a@2 │ b@8(deleted)  b@3 │ c@4          read at 7
//!   skip  ▲   skip   skip         ▲     ▲            → a@7, b@3, c@4
//! ```
//!
//! A transaction reads its own writes through [`Pending`], merged by key.
//!
//! Where one key alone is asked for, a reader may know its newest version ([`Reader::remembered`]): then
//! its value lies under a key that is known, and its counters need not be read at all.

use std::{
    collections::BTreeMap,
    ops::{
        Bound::{Excluded, Included},
        ControlFlow,
    },
};

use bytes::Bytes;

use crate::{
    Reader,
    error::{Corrupt, StateError},
    key::{self, Revision, Span},
    record::{self, Counters, Version},
};

/// Versions that are stepped over before a new seek is cheaper.
const STEPS_MAX: usize = 16;

/// The last state of the keys that a running transaction has written, by the prefix of the key; `None` for
/// one that it has deleted.
#[derive(Debug, Default)]
pub(crate) struct Pending(BTreeMap<Bytes, Option<Version>>);

impl Pending {
    pub fn get(&self, prefix: &[u8]) -> Option<&Option<Version>> {
        self.0.get(prefix)
    }

    pub fn insert(&mut self, prefix: Bytes, now: Option<Version>) {
        self.0.insert(prefix, now);
    }
}

/// A key that lives. Nothing of it is decoded or shared until it is read, so counting is cheap.
pub(crate) enum Live<'a> {
    /// A record of the store.
    Stored {
        /// Key of the record.
        key: &'a Bytes,
        /// Length of the prefix in `key`.
        length: usize,
        /// Revision in `key`.
        revision: Revision,
        /// Value of the record: not a tombstone.
        record: &'a Bytes,
    },
    /// A write of the running transaction.
    Pending {
        prefix: &'a Bytes,
        version: &'a Version,
    },
}

impl Live<'_> {
    /// The prefix of the key, of which `key::user_key` makes the key itself, and the version.
    pub fn read(&self) -> Result<(Bytes, Version), Corrupt> {
        match *self {
            Live::Stored {
                key,
                length,
                revision,
                record,
            } => {
                let version = record::decode(key, revision, record)?
                    .ok_or_else(|| Corrupt::new(key, "a deletion where a value was"))?;
                Ok((key.slice(..length), version))
            }
            Live::Pending { prefix, version } => Ok((prefix.clone(), version.clone())),
        }
    }
}

/// Whether a walk goes on.
pub(crate) type Walk<E> = Result<ControlFlow<()>, StateError<E>>;

/// The version of one key at a revision.
pub(crate) fn get<R: Reader>(
    reader: &R,
    prefix: &[u8],
    at: i64,
) -> Result<Option<Version>, StateError<R::Error>> {
    if let Some(newest) = reader.remembered(prefix)
        && newest.revision.main <= at
    {
        if newest.counters.is_none() {
            return Ok(None);
        }
        let key = key::version(key::copied(prefix), newest.revision);
        let record = reader.get(&key).map_err(StateError::Read)?;
        let record =
            record.ok_or_else(|| Corrupt::new(&key, "a version that was written is gone"))?;
        return Ok(record::decode(&key, newest.revision, &record)?);
    }
    let newest = reader.first(&key::visible_at(prefix, at), &key::prefix_end(prefix));
    let Some((key, value)) = newest.map_err(StateError::Read)? else {
        return Ok(None);
    };
    let (_, revision) = key::split_version(&key)?;
    Ok(record::decode(&key, revision, &value)?)
}

/// What [`get`] would find, without its value.
pub(crate) fn counters<R: Reader>(
    reader: &R,
    prefix: &[u8],
    at: i64,
) -> Result<Option<(Revision, Counters)>, StateError<R::Error>> {
    match reader.remembered(prefix) {
        Some(newest) if newest.revision.main <= at => {
            Ok(newest.counters.map(|counters| (newest.revision, counters)))
        }
        _ => Ok(get(reader, prefix, at)?.map(|version| (version.revision, version.counters))),
    }
}

/// Calls `each` for every key of the span that lives at the revision, in key order, with the
/// pending writes laid over it, until it breaks.
pub(crate) fn walk<R: Reader>(
    reader: &R,
    span: &Span,
    at: i64,
    pending: Option<&Pending>,
    mut each: impl FnMut(Live<'_>) -> Walk<R::Error>,
) -> Result<(), StateError<R::Error>> {
    if span.single {
        let version = match pending.and_then(|pending| pending.get(&span.start)) {
            Some(now) => now.clone(),
            None => get(reader, &span.start, at)?,
        };
        if let Some(version) = &version {
            let _ = each(Live::Pending {
                prefix: &span.start,
                version,
            })?;
        }
        return Ok(());
    }
    let mut overlay = pending
        .map(|pending| {
            pending
                .0
                .range::<[u8], _>((Included(&span.start[..]), Excluded(&span.end[..])))
        })
        .into_iter()
        .flatten()
        .peekable();
    let stored = walk_stored(reader, span, at, |key, length, revision, record| {
        let prefix = &key[..length];
        while let Some((prefix, now)) = overlay.next_if(|(pending, _)| pending[..] < *prefix) {
            if let Some(version) = now
                && each(Live::Pending { prefix, version })?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        if overlay
            .peek()
            .is_some_and(|(pending, _)| pending[..] == *prefix)
        {
            // The pending state of this key stands in its place, on the next turn.
            return Ok(ControlFlow::Continue(()));
        }
        each(Live::Stored {
            key,
            length,
            revision,
            record,
        })
    })?;
    if stored.is_break() {
        return Ok(());
    }
    for (prefix, now) in overlay {
        if let Some(version) = now
            && each(Live::Pending { prefix, version })?.is_break()
        {
            break;
        }
    }
    Ok(())
}

/// Calls `each` with key, length of the prefix, revision and value of the records that decide.
fn walk_stored<R: Reader>(
    reader: &R,
    span: &Span,
    at: i64,
    mut each: impl FnMut(&Bytes, usize, Revision, &Bytes) -> Walk<R::Error>,
) -> Result<ControlFlow<()>, StateError<R::Error>> {
    let mut start = span.start.to_vec();
    // Prefix of the key whose version is decided.
    let mut decided = Vec::new();
    loop {
        let mut steps = 0;
        let mut seek = None;
        for item in reader.scan(&start, &span.end) {
            let (key, record) = item.map_err(StateError::Read)?;
            let (length, revision) = key::split_version(&key)?;
            let same = key[..length] == decided[..];
            if same || revision.main > at {
                steps += 1;
                if steps > STEPS_MAX {
                    seek = Some(match same {
                        true => key::prefix_end(&decided),
                        false => key::visible_at(&key[..length], at),
                    });
                    break;
                }
                continue;
            }
            steps = 0;
            decided.clear();
            decided.extend_from_slice(&key[..length]);
            if !record::is_tombstone(&key, &record)?
                && each(&key, length, revision, &record)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        match seek {
            Some(next) => start = next,
            None => return Ok(ControlFlow::Continue(())),
        }
    }
}
