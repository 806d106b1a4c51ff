//! The harness' end of the file that it shares with the shim in one node.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::layout::{Control, HEAD_BYTES, MAGIC, SLOTS, SLOTS_AT, Slot, ring_at};

/// A mapped shared file.
pub(super) struct Shared {
    path: PathBuf,
    file: File,
    head: NonNull<u8>,
}

// SAFETY: everything in the mapping that is used is atomic, and it stays for as long as `self`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Makes the file anew.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(ring_at(SLOTS))?;
        // SAFETY: a new mapping, of a file that is longer than it.
        let head = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                HEAD_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if head == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let head = NonNull::new(head.cast()).ok_or_else(io::Error::last_os_error)?;
        let shared = Shared { path, file, head };
        shared.control().magic.store(MAGIC, Ordering::Release);
        Ok(shared)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// With the rings.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn control(&self) -> &Control {
        // SAFETY: the mapping begins with one, is aligned to a page, and lives as long as `self`; all
        // fields are atomic and any bits are values of theirs.
        unsafe { self.head.cast().as_ref() }
    }

    pub fn slots(&self) -> &[Slot] {
        // SAFETY: as for `control`; `HEAD_BYTES` covers that many slots.
        unsafe { std::slice::from_raw_parts(self.head.add(SLOTS_AT).cast().as_ptr(), SLOTS) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped in `create` with this length; references to it borrow `self`.
        unsafe { libc::munmap(self.head.as_ptr().cast(), HEAD_BYTES) };
        // It looks larger than any disk, which alarms whoever finds it; the next run makes its own.
        let _ = std::fs::remove_file(&self.path);
    }
}
