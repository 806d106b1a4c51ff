//! What the state machine needs from a store: ordered bytes to read, and records to write.

use bytes::Bytes;

use crate::Newest;

/// Ordered byte keys; the newest state is readable at once.
///
/// A scan need not show one point in time: every read of this crate names the revision it wants
/// and ignores what is newer.
pub trait Reader {
    /// A failure of the store, never of a request.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;

    /// Records of `[start, end)`, ascending.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Self::Error>> + '_;

    /// First record of `[start, end)`.
    ///
    /// The caller promises that within the range newer records sort before older ones, so a
    /// store of layers may stop at the first layer that has one.
    fn first(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, Self::Error> {
        self.scan(start, end).next().transpose()
    }

    /// The newest of the versions whose keys begin with `prefix`, if the reader knows it without
    /// looking for it: a write needs what it counts, and mostly not its value.
    ///
    /// It is exactly what the store holds, except that the record of a deletion may have been
    /// scrubbed since. See [`crate::version_written`], and [`Newest::NEVER_WRITTEN`] for a key of which
    /// the store holds no version.
    fn remembered(&self, prefix: &[u8]) -> Option<Newest> {
        let _ = prefix;
        None
    }

    /// Told before an answer takes up `bytes` more of what was read. A reader that bounds the memory
    /// of answers may fail here, which ends the read.
    fn keep(&self, bytes: usize) -> Result<(), Self::Error> {
        let _ = bytes;
        Ok(())
    }

    /// Told when an answer under way gives up `bytes` of what it has kept.
    fn let_go(&self, bytes: usize) {
        let _ = bytes;
    }
}

/// One record to write. Within a list of writes the order counts: readers beside the writer must
/// never see a later one without the earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Key with its family byte.
    pub key: Bytes,
    /// The new value; `None` deletes the record.
    pub value: Option<Bytes>,
}

impl Write {
    pub(crate) fn put(key: Bytes, value: Bytes) -> Self {
        Write {
            key,
            value: Some(value),
        }
    }

    pub(crate) fn delete(key: Bytes) -> Self {
        Write { key, value: None }
    }
}
