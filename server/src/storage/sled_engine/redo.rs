//! The redo file: one batch, durable before its first record goes into the database.
//!
//! The file is written over from its start, batch after batch, so that syncing it moves no metadata
//! once it has grown. The header goes in last; it names the batch and carries the checksum of the
//! body, so a header beside a body of another batch (a crash in mid-write) is told apart.
//!
//! ```text
//!   0   magic "HFREDO01"
//!   8   number of the batch        u64 le
//!   16  bytes of the body          u64 le
//!   24  crc32c of the body         u32 le
//!   28  crc32c of bytes 0..28      u32 le
//!   32  body: per record  key length u32 le, value length u32 le (all ones: delete), key, value
//! ```

#[cfg(test)]
mod fuzz;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};

use crate::storage::engine::{Batch, EngineError};

const MAGIC: &[u8; 8] = b"HFREDO01";
const HEADER_LEN: usize = 32;
const DELETED: u32 = u32::MAX;
/// Buffer of one write.
const WRITE_BYTES: usize = 256 * 1024;

pub(super) struct RedoFile {
    file: File,
    path: PathBuf,
}

impl RedoFile {
    pub(super) fn open(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join("redo");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| EngineError::io(&path, e))?;
        Ok(RedoFile { file, path })
    }

    /// Replaces the contents by batch `number`; durable on return.
    pub(super) fn write(&mut self, number: u64, batch: &Batch) -> Result<(), EngineError> {
        self.try_write(number, batch)
            .map_err(|e| EngineError::io(&self.path, e))
    }

    fn try_write(&mut self, number: u64, batch: &Batch) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(HEADER_LEN as u64))?;
        let mut body = Body {
            out: BufWriter::with_capacity(WRITE_BYTES, file),
            len: 0,
            crc: 0,
        };
        for (key, value) in batch {
            body.put(&length(key)?.to_le_bytes())?;
            let value_len = match value {
                Some(value) => length(value)?,
                None => DELETED,
            };
            body.put(&value_len.to_le_bytes())?;
            body.put(key)?;
            body.put(value.as_deref().unwrap_or_default())?;
        }
        body.out.flush()?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&body.len.to_le_bytes());
        header.extend_from_slice(&body.crc.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        self.file.write_all_at(&header, 0)?;
        self.file.sync_data()
    }

    /// Number of the batch that was last written, whole or not; 0 if there is none to be found.
    pub(super) fn number(&self) -> Result<u64, EngineError> {
        let mut header = [0; HEADER_LEN];
        match self.file.read_exact_at(&mut header, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            result => result.map_err(|e| EngineError::io(&self.path, e))?,
        }
        Ok(Header::decode(&header).map_or(0, |header| header.number))
    }

    /// Batch `number`, which must be there and whole.
    pub(super) fn read(&self, number: u64) -> Result<Batch, EngineError> {
        let damaged = |reason: String| EngineError::Corrupt {
            path: self.path.clone(),
            reason,
        };
        let io = |e| EngineError::io(&self.path, e);

        let mut contents = Vec::new();
        (&self.file).seek(SeekFrom::Start(0)).map_err(io)?;
        (&self.file).read_to_end(&mut contents).map_err(io)?;
        let contents = Bytes::from(contents);
        let Some(header) = contents.get(..HEADER_LEN).and_then(Header::decode) else {
            return Err(damaged(format!("batch {number} expected, found no header")));
        };
        if header.number != number {
            let found = header.number;
            return Err(damaged(format!(
                "batch {number} expected, found batch {found}"
            )));
        }
        let body = usize::try_from(header.len)
            .ok()
            .and_then(|len| HEADER_LEN.checked_add(len))
            .filter(|&end| end <= contents.len())
            .map(|end| contents.slice(HEADER_LEN..end))
            .filter(|body| crc32c::crc32c(body) == header.crc);
        body.and_then(decode)
            .ok_or_else(|| damaged(format!("batch {number} is not whole")))
    }
}

/// The checked header.
struct Header {
    number: u64,
    /// Bytes of the body, and their checksum.
    len: u64,
    crc: u32,
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.strip_prefix(MAGIC)?;
        let number = fields.try_get_u64_le().ok()?;
        let len = fields.try_get_u64_le().ok()?;
        let crc = fields.try_get_u32_le().ok()?;
        let header_crc = fields.try_get_u32_le().ok()?;
        (crc32c::crc32c(&bytes[..28]) == header_crc).then_some(Header { number, len, crc })
    }
}

/// Counts and sums what passes through.
struct Body<'a> {
    out: BufWriter<&'a File>,
    len: u64,
    crc: u32,
}

impl Body<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.out.write_all(bytes)
    }
}

fn length(bytes: &Bytes) -> io::Result<u32> {
    match u32::try_from(bytes.len()) {
        Ok(len) if len != DELETED => Ok(len),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a record of 4 GiB or more",
        )),
    }
}

fn decode(mut body: Bytes) -> Option<Batch> {
    let mut batch = Vec::new();
    while body.has_remaining() {
        let key_len = body.try_get_u32_le().ok()? as usize;
        let value_len = body.try_get_u32_le().ok()?;
        let mut take = |len: usize| (len <= body.len()).then(|| body.split_to(len));
        let key = take(key_len)?;
        let value = match value_len {
            DELETED => None,
            len => Some(take(len as usize)?),
        };
        batch.push((key, value));
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: u8) -> Batch {
        vec![
            (Bytes::from(vec![n]), Some(Bytes::from(vec![n; 100]))),
            (Bytes::from(vec![n, 1]), None),
            (Bytes::from(vec![n, 2]), Some(Bytes::new())),
        ]
    }

    #[test]
    fn gives_back_the_last_batch_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut redo = RedoFile::open(dir.path()).unwrap();
        redo.write(1, &[batch(1), batch(2)].concat()).unwrap();
        redo.write(2, &batch(3)).unwrap();
        let redo = RedoFile::open(dir.path()).unwrap();
        assert_eq!(redo.number().unwrap(), 2);
        assert_eq!(redo.read(2).unwrap(), batch(3));
        assert!(redo.read(1).unwrap_err().is_damage());
        assert!(redo.read(3).unwrap_err().is_damage());
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut redo = RedoFile::open(dir.path()).unwrap();
        redo.write(7, &batch(1)).unwrap();
        let path = dir.path().join("redo");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let error = RedoFile::open(dir.path()).unwrap().read(7).unwrap_err();
            assert!(error.is_damage(), "byte {at}: {error}");
        }
        for len in 0..good.len() {
            std::fs::write(&path, &good[..len]).unwrap();
            let error = RedoFile::open(dir.path()).unwrap().read(7).unwrap_err();
            assert!(error.is_damage(), "cut to {len}: {error}");
        }
    }
}
