//! The counters of a keyspace and their records.

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::command::Settings;
use prost::Message;

use crate::{
    Reader, Write,
    error::{Corrupt, StateError},
    key,
    version::{Unknown, VERSION},
};

/// Key of the record of [`Revisions`]. Every change writes it, and nothing but loading reads it.
pub const REVISIONS: [u8; 2] = [key::META, 0x00];
const EVICTIONS: [u8; 2] = [key::META, 0x01];
const SETTINGS: [u8; 2] = [key::META, 0x02];
const FORMAT: u8 = 1;

/// Where a keyspace stands: published by whoever applies, so that reads run beside it.
///
/// - `compact <= current`.
/// - A fresh keyspace is at revision 1 and has never been compacted, as in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// Revision of the last change.
    pub current: i64,
    /// Oldest revision that can be read; -1 until the first compaction.
    pub compact: i64,
}

impl Default for Revisions {
    fn default() -> Self {
        Revisions {
            current: 1,
            compact: -1,
        }
    }
}

pub(crate) fn write_revisions(revisions: Revisions) -> Write {
    let Revisions { current, compact } = revisions;
    assert!(
        compact <= current,
        "compact revision {compact} after the current one {current}"
    );
    let mut value = BytesMut::with_capacity(17);
    value.put_u8(FORMAT);
    value.put_i64(current);
    value.put_i64(compact);
    Write::put(Bytes::from_static(&REVISIONS), value.freeze())
}

pub(crate) fn load_revisions<R: Reader>(reader: &R) -> Result<Revisions, StateError<R::Error>> {
    let Some(value) = reader.get(&REVISIONS).map_err(StateError::Read)? else {
        return Ok(Revisions::default());
    };
    match value.split_first() {
        Some((&FORMAT, rest)) if rest.len() == 16 => {
            let (current, compact) = rest.split_at(8);
            let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
            let (current, compact) = (number(current), number(compact));
            // The last number of all has no successor.
            if !(1..i64::MAX).contains(&current) || !(-1..=current).contains(&compact) {
                return Err(Corrupt::new(&REVISIONS, "revisions that cannot be").into());
            }
            Ok(Revisions { current, compact })
        }
        Some((&format, _)) if format != FORMAT => {
            Err(Corrupt::new(&REVISIONS, "unknown format of the state").into())
        }
        _ => Err(Corrupt::new(&REVISIONS, "bad length of the revisions").into()),
    }
}

pub(crate) fn write_evictions(evictions: u64) -> Write {
    Write::put(
        Bytes::from_static(&EVICTIONS),
        evictions.to_be_bytes().to_vec().into(),
    )
}

pub(crate) fn load_evictions<R: Reader>(reader: &R) -> Result<u64, StateError<R::Error>> {
    let Some(value) = reader.get(&EVICTIONS).map_err(StateError::Read)? else {
        return Ok(0);
    };
    let bytes = <[u8; 8]>::try_from(&value[..])
        .map_err(|_| Corrupt::new(&EVICTIONS, "bad length of the evictions"))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(crate) fn write_settings(settings: &Settings) -> Write {
    let value = settings.encode_to_vec().into();
    Write::put(Bytes::from_static(&SETTINGS), value)
}

/// `None` in a state of version 1.
pub(crate) fn load_settings<R: Reader>(
    reader: &R,
) -> Result<Option<Settings>, StateError<R::Error>> {
    let Some(value) = reader.get(&SETTINGS).map_err(StateError::Read)? else {
        return Ok(None);
    };
    let settings = Settings::decode(value)
        .map_err(|_| Corrupt::new(&SETTINGS, "bad settings of the state"))?;
    if settings.version > VERSION {
        let (what, needs) = ("the state", settings.version);
        return Err(Unknown::Later { what, needs }.into());
    }
    Ok(Some(settings))
}
