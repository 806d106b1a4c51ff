//! The hash that replicas compare.

use crate::{ReadError, Reader, Revisions, range, retained};

/// CRC32C over what can be read at or before a revision (0: the present one) and after the
/// compact revision, and the revision hashed at.
///
/// Two replicas with equal compact revisions and equal contents agree on it, wherever their
/// scrubbers stand. Reads everything.
pub fn hash<R: Reader>(
    reader: &R,
    revisions: Revisions,
    at_revision: i64,
) -> Result<(u32, i64), ReadError<R::Error>> {
    let at = range::resolve(at_revision, revisions.current, revisions)?;
    let mut crc = 0;
    for item in retained::versions(reader, at, revisions.compact) {
        let (key, value) = item?;
        // The key tells its own end; the length tells the value's.
        crc = crc32c::crc32c_append(crc, &key);
        crc = crc32c::crc32c_append(crc, &(value.len() as u64).to_be_bytes());
        crc = crc32c::crc32c_append(crc, &value);
    }
    Ok((crc, at))
}
