//! The spool of a snapshot on its way in: chunks kept on disk until all are there.
//!
//! A snapshot can be large and the connection can break, or the process can die; what has arrived is
//! kept, so that the sender goes on where it stopped. A group has one spool; a snapshot of another id
//! starts it over.
//!
//! ```text
//!   header   magic "HFSNAP01" · id length u32 le · crc32c of both and the id u32 le · id
//!   chunk    length u32 le · crc32c u32 le of number, length and bytes · number u64 le · bytes
//!   chunk    ...numbered 0, 1, 2 without a gap
//! ```
//!
//! On resuming, the file is cut at the first chunk that is not whole: what follows is sent again, so
//! nothing is lost by it. On reading back there is no such excuse: a chunk that does not match its
//! checksum is an error that names file and offset.

#[cfg(test)]
mod fuzz;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::limits;

const MAGIC: &[u8; 8] = b"HFSNAP01";
const FILE_HEADER_LEN: usize = 16;
const CHUNK_HEADER_LEN: usize = 16;

/// A failure of the spool.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// The operating system refused. A failed sync is final: start over.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The spool.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was read is not what was written. Remove the file and fetch the snapshot again.
    #[error("{path}: damaged at offset {offset}: {reason}", path = path.display())]
    Corrupt {
        /// The spool.
        path: PathBuf,
        /// Where the damaged chunk begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A chunk out of turn. Nothing was written; send the expected one.
    #[error("chunk {found} where chunk {expected} is due")]
    OutOfTurn {
        /// Number due.
        expected: u64,
        /// Number given.
        found: u64,
    },
    /// A chunk or id over its bound. Nothing was written.
    #[error("{what} of {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// `chunk` or `id`.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// The spool of one incoming snapshot.
///
/// - Chunks `0..next_seq` are in the file, whole and in order, and end at `len`.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    path: PathBuf,
    header_len: u64,
    len: u64,
    next_seq: u64,
}

impl SnapshotFile {
    /// Opens the spool at `path` for the snapshot `id`: goes on with what is there if it is of that id,
    /// begins it anew otherwise. [`SnapshotFile::next_seq`] says which chunk is due.
    pub fn open_or_resume(path: &Path, id: &str) -> Result<Self, SnapshotFileError> {
        if id.len() > limits::SNAPSHOT_ID_BYTES_MAX {
            let (what, bytes, max) = ("id", id.len(), limits::SNAPSHOT_ID_BYTES_MAX);
            return Err(SnapshotFileError::TooLarge { what, bytes, max });
        }
        let io = |source| SnapshotFileError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io)?;
        let header = file_header(id);
        let header_len = header.len() as u64;
        let mut spool = SnapshotFile {
            file,
            path: path.to_path_buf(),
            header_len,
            len: header_len,
            next_seq: 0,
        };

        let mut found = Vec::with_capacity(header.len());
        (&spool.file)
            .take(header_len)
            .read_to_end(&mut found)
            .map_err(io)?;
        if found == header {
            spool.resume()?;
        } else {
            spool.file.set_len(0).map_err(io)?;
            spool.file.seek(SeekFrom::Start(0)).map_err(io)?;
            spool.file.write_all(&header).map_err(io)?;
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or(Path::new(".")))
                .and_then(|dir| dir.sync_all())
                .map_err(io)?;
        }
        Ok(spool)
    }

    /// Counts the whole chunks and cuts off the rest.
    fn resume(&mut self) -> Result<(), SnapshotFileError> {
        let mut chunks = self.chunks()?;
        let damage = loop {
            match chunks.next() {
                Some(Ok(_)) => {}
                Some(Err(SnapshotFileError::Corrupt { reason, .. })) => break Some(reason),
                Some(Err(error)) => return Err(error),
                None => break None,
            }
        };
        let (len, next_seq, file_len) = (chunks.offset, chunks.seq, chunks.len);
        drop(chunks);
        (self.len, self.next_seq) = (len, next_seq);
        if let Some(reason) = damage {
            tracing::warn!(
                path = %self.path.display(),
                offset = len,
                cut_bytes = file_len - len,
                %reason,
                "incomplete end of a snapshot cut off; it is fetched again"
            );
            self.file.set_len(len).map_err(|e| self.io(e))?;
        }
        Ok(())
    }

    /// Number of the chunk that is due.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Appends chunk `seq`, which must be the one due. Not durable before [`SnapshotFile::sync`].
    pub fn append(&mut self, seq: u64, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        if seq != self.next_seq {
            return Err(SnapshotFileError::OutOfTurn {
                expected: self.next_seq,
                found: seq,
            });
        }
        let Some(len) = u32::try_from(bytes.len())
            .ok()
            .filter(|_| bytes.len() <= limits::SNAPSHOT_CHUNK_BYTES_MAX)
        else {
            let (what, bytes, max) = ("chunk", bytes.len(), limits::SNAPSHOT_CHUNK_BYTES_MAX);
            return Err(SnapshotFileError::TooLarge { what, bytes, max });
        };
        let mut chunk = BytesMut::with_capacity(CHUNK_HEADER_LEN + bytes.len());
        chunk.put_u32_le(len);
        chunk.put_u32_le(chunk_crc(seq, len, bytes));
        chunk.put_u64_le(seq);
        chunk.put_slice(bytes);
        // From the known end, so that a chunk that failed half-way is written over.
        self.file
            .seek(SeekFrom::Start(self.len))
            .map_err(|e| self.io(e))?;
        self.file.write_all(&chunk).map_err(|e| self.io(e))?;
        self.len += chunk.len() as u64;
        self.next_seq += 1;
        Ok(())
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> Result<(), SnapshotFileError> {
        self.file.sync_data().map_err(|e| self.io(e))
    }

    /// The chunks from the first, each checked; ends after the first error.
    pub fn chunks(&self) -> Result<Chunks, SnapshotFileError> {
        let io = |source| self.io(source);
        let mut file = File::open(&self.path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        file.seek(SeekFrom::Start(self.header_len)).map_err(io)?;
        Ok(Chunks {
            file: BufReader::with_capacity(256 * 1024, file),
            path: self.path.clone(),
            offset: self.header_len,
            len,
            seq: 0,
            failed: false,
        })
    }

    /// Removes the file: the snapshot is installed, or given up.
    pub fn remove(self) -> Result<(), SnapshotFileError> {
        fs::remove_file(&self.path).map_err(|e| self.io(e))
    }

    fn io(&self, source: io::Error) -> SnapshotFileError {
        SnapshotFileError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Reads a spool back.
pub struct Chunks {
    file: BufReader<File>,
    path: PathBuf,
    /// Where the next chunk begins.
    offset: u64,
    /// Where the file ended when reading began.
    len: u64,
    seq: u64,
    failed: bool,
}

impl Chunks {
    fn read(&mut self) -> Result<Bytes, SnapshotFileError> {
        let left = self.len - self.offset;
        if left < CHUNK_HEADER_LEN as u64 {
            return Err(self.corrupt(format!("the file ends {left} bytes into a chunk")));
        }
        let mut header = [0; CHUNK_HEADER_LEN];
        self.read_exact(&mut header)?;
        let [a, b, c, d, e, f, g, h, number @ ..] = header;
        let len = u32::from_le_bytes([a, b, c, d]);
        let crc = u32::from_le_bytes([e, f, g, h]);
        let seq = u64::from_le_bytes(number);
        let len_bytes = len as usize;
        if len_bytes > limits::SNAPSHOT_CHUNK_BYTES_MAX {
            return Err(self.corrupt(format!("a chunk of {len} bytes")));
        }
        if u64::from(len) > left - CHUNK_HEADER_LEN as u64 {
            return Err(self.corrupt(format!("the file ends within a chunk of {len} bytes")));
        }
        let mut bytes = vec![0; len_bytes];
        self.read_exact(&mut bytes)?;
        if chunk_crc(seq, len, &bytes) != crc {
            return Err(self.corrupt("the checksum does not match".into()));
        }
        if seq != self.seq {
            return Err(self.corrupt(format!("chunk {seq} where chunk {} is due", self.seq)));
        }
        self.seq += 1;
        self.offset += (CHUNK_HEADER_LEN + len_bytes) as u64;
        Ok(bytes.into())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), SnapshotFileError> {
        self.file
            .read_exact(buffer)
            .map_err(|source| SnapshotFileError::Io {
                path: self.path.clone(),
                source,
            })
    }

    fn corrupt(&self, reason: String) -> SnapshotFileError {
        SnapshotFileError::Corrupt {
            path: self.path.clone(),
            offset: self.offset,
            reason,
        }
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, SnapshotFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.offset == self.len {
            return None;
        }
        let chunk = self.read();
        self.failed = chunk.is_err();
        Some(chunk)
    }
}

fn file_header(id: &str) -> Vec<u8> {
    let mut header = Vec::with_capacity(FILE_HEADER_LEN + id.len());
    header.extend_from_slice(MAGIC);
    // Checked by the caller to be small.
    header.extend_from_slice(&(id.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header), id.as_bytes());
    header.extend_from_slice(&crc.to_le_bytes());
    header.extend_from_slice(id.as_bytes());
    header
}

fn chunk_crc(seq: u64, len: u32, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&seq.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &len.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(seq: u64) -> Vec<u8> {
        vec![seq as u8; 10 + 7 * seq as usize]
    }

    fn filled(path: &Path, chunks: u64) -> SnapshotFile {
        let mut spool = SnapshotFile::open_or_resume(path, "one").unwrap();
        for seq in 0..chunks {
            spool.append(seq, &chunk(seq)).unwrap();
        }
        spool.sync().unwrap();
        spool
    }

    fn contents(spool: &SnapshotFile) -> Vec<Bytes> {
        spool.chunks().unwrap().map(Result::unwrap).collect()
    }

    fn expected(chunks: u64) -> Vec<Bytes> {
        (0..chunks).map(|seq| chunk(seq).into()).collect()
    }

    #[test]
    fn resumes_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incoming");
        drop(filled(&path, 3));
        let mut spool = SnapshotFile::open_or_resume(&path, "one").unwrap();
        assert_eq!(spool.next_seq(), 3);
        spool.append(3, &chunk(3)).unwrap();
        assert_eq!(contents(&spool), expected(4));
        spool.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn another_id_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incoming");
        drop(filled(&path, 3));
        let spool = SnapshotFile::open_or_resume(&path, "another").unwrap();
        assert_eq!(spool.next_seq(), 0);
        assert_eq!(contents(&spool), expected(0));
    }

    #[test]
    fn refuses_what_is_out_of_turn_or_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = filled(&dir.path().join("incoming"), 2);
        let len = spool.len;
        for seq in [0, 1, 3] {
            let error = spool.append(seq, b"x").unwrap_err();
            assert!(
                matches!(error, SnapshotFileError::OutOfTurn { expected: 2, found } if found == seq)
            );
        }
        let error = spool
            .append(2, &vec![0; limits::SNAPSHOT_CHUNK_BYTES_MAX + 1])
            .unwrap_err();
        assert!(matches!(
            error,
            SnapshotFileError::TooLarge { what: "chunk", .. }
        ));
        let error = SnapshotFile::open_or_resume(&dir.path().join("other"), &"x".repeat(1025));
        assert!(matches!(
            error.unwrap_err(),
            SnapshotFileError::TooLarge { what: "id", .. }
        ));
        assert_eq!(spool.len, len);
        spool
            .append(2, &vec![7; limits::SNAPSHOT_CHUNK_BYTES_MAX])
            .unwrap();
        assert_eq!(contents(&spool).len(), 3);
    }

    #[test]
    fn a_torn_end_is_cut_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incoming");
        let whole = filled(&path, 4).len;
        let bytes = fs::read(&path).unwrap();
        let ends: Vec<u64> = (0..=4).map(|n| filled_len(dir.path(), n)).collect();
        assert_eq!(ends[4], whole);
        for len in 0..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let mut spool = SnapshotFile::open_or_resume(&path, "one").unwrap();
            let kept = ends
                .iter()
                .filter(|&&end| end <= len as u64)
                .count()
                .saturating_sub(1);
            assert_eq!(spool.next_seq(), kept as u64, "torn at {len}");
            for seq in spool.next_seq()..4 {
                spool.append(seq, &chunk(seq)).unwrap();
            }
            assert_eq!(contents(&spool), expected(4), "torn at {len}");
            assert_eq!(spool.len, whole);
        }
    }

    fn filled_len(dir: &Path, chunks: u64) -> u64 {
        let path = dir.join(format!("filled-{chunks}"));
        filled(&path, chunks).len
    }

    #[test]
    fn every_damaged_byte_is_reported_with_file_and_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incoming");
        let spool = filled(&path, 3);
        let good = fs::read(&path).unwrap();
        for at in spool.header_len as usize..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let results: Vec<_> = spool.chunks().unwrap().collect();
            let error = results.last().unwrap().as_ref().unwrap_err();
            let SnapshotFileError::Corrupt {
                path: named,
                offset,
                ..
            } = error
            else {
                panic!("byte {at}: {error}");
            };
            assert_eq!(named, &path);
            assert!(*offset <= at as u64, "byte {at} reported at {offset}");
            let whole = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(whole, results.len() - 1, "byte {at}");

            // Resuming keeps what is before it.
            let resumed = SnapshotFile::open_or_resume(&path, "one").unwrap();
            assert_eq!(resumed.next_seq(), whole as u64);
            assert_eq!(resumed.len, *offset);
        }
    }
}
