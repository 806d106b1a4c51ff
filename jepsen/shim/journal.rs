//! The undo journal: before a file of the node changes, what was there is written down; a sync of the
//! file forgets what was written down before the sync began.
//!
//! ```text
//!   change   lock of the file ─▶ record at `end` ─▶ end += its length ─▶ the change itself ─▶ unlock
//!   sync     mark = end ─▶ the sync itself ─▶ start = mark
//! ```
//!
//! What holds:
//!
//! - A change and its record are one step for other changes and for syncs of the same file, so undoing
//!   the records from the last to the first gives exactly what the sync saw.
//! - Killed anywhere, the process leaves a journal that can be undone: a record whose change was not
//!   made puts back what is there.
//! - When the journal cannot be kept it says so (`Control::broken`), and the program goes on.
//!
//! What it does not see: writes through mappings, C's buffered streams, io_uring. Names (files created,
//! renamed and removed) count as durable at once. An injected failure of a sync leaves the changes
//! as unsynced as they were: a later sync makes them durable.

use std::ffi::{c_char, c_int};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

use crate::control::{self, control};
use crate::layout::{
    BROKEN_FULL, BROKEN_PROCESSES, BROKEN_READ, BROKEN_SLOTS, BROKEN_WRITE, Control, KIND_RESIZE,
    KIND_WRITE, RECORD_HEADER_BYTES, RECORDS_BYTES_MAX, RING_BYTES, RecordHeader, SLOTS, Slot,
    ring_at,
};
use crate::sys;

/// Old bytes are copied in pieces of this size.
const COPY_BYTES: usize = 64 * 1024;
/// Files share this many locks.
const LOCKS: usize = 16;
/// How far from its place by hash a file's slot may be.
const PROBES: usize = 64;
/// Space of a ring is given back in steps of at least this.
const FREE_BYTES: u64 = 8 << 20;
/// Files outside the directory that are remembered as such.
const OUTSIDE: usize = 64;

/// Held while a file changes; also what old bytes are copied through.
static CHANGING: [Mutex<[u8; COPY_BYTES]>; LOCKS] = [const { Mutex::new([0; COPY_BYTES]) }; LOCKS];
/// Held while slots get files, before [`CHANGING`] and never while waiting for it.
static OUTSIDERS: Mutex<[Id; OUTSIDE]> = Mutex::new([Id::NONE; OUTSIDE]);

/// A change that is about to be made to an open file.
#[derive(Clone, Copy)]
pub enum Change {
    /// Bytes are written where the file's position is.
    Write { bytes: u64, flags: c_int },
    /// Bytes are written at an offset.
    WriteAt { at: i64, bytes: u64, flags: c_int },
    /// The file gets another length.
    Resize { to: i64 },
    /// `fallocate`.
    Allocate { mode: c_int, at: i64, bytes: i64 },
}

/// Which file it is, whatever its name is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Id {
    dev: u64,
    ino: u64,
    born_ns: u64,
}

impl Id {
    const NONE: Id = Id {
        dev: 0,
        ino: 0,
        born_ns: 0,
    };

    /// A regular file and its length.
    fn of(fd: c_int) -> Option<(Id, u64)> {
        let found = sys::stat(fd)?;
        if found.mode & sys::S_IFMT != sys::S_IFREG {
            return None;
        }
        let (major, minor) = (u64::from(found.dev_major), u64::from(found.dev_minor));
        let born_ns = match found.mask & 0x800 {
            0 => 0,
            _ => found.btime.sec as u64 * 1_000_000_000 + u64::from(found.btime.nsec),
        };
        let id = Id {
            // As the C library composes it.
            dev: (minor & 0xff)
                | (major & 0xfff) << 8
                | (minor & !0xff) << 12
                | (major & !0xfff) << 32,
            ino: found.ino,
            born_ns,
        };
        Some((id, found.size))
    }

    fn hash(self) -> usize {
        (self.ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
    }

    fn is_in(self, slot: &Slot, epoch: u64) -> bool {
        slot.epoch.load(Ordering::Acquire) == epoch
            && slot.ino.load(Ordering::Relaxed) == self.ino
            && slot.dev.load(Ordering::Relaxed) == self.dev
            && slot.born_ns.load(Ordering::Relaxed) == self.born_ns
    }
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    // The shim aborts on a panic, so no lock is poisoned.
    lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether an open file lies below the node's directory.
fn is_below(fd: c_int) -> bool {
    let Some(dir) = control::data_dir() else {
        return false;
    };
    let mut target = [0u8; 4096];
    // SAFETY: a C string, and a buffer with its length.
    let len = unsafe {
        sys::readlink(
            sys::descriptor_path(fd).as_ptr().cast(),
            target.as_mut_ptr().cast::<c_char>(),
            target.len(),
        )
    };
    let target = &target[..len.max(0) as usize];
    target.starts_with(dir) && target.get(dir.len()) == Some(&b'/')
}

fn is_empty(slot: &Slot) -> bool {
    slot.start.load(Ordering::Acquire) >= slot.end.load(Ordering::Acquire)
}

/// Whether a slot is needed: by this journal, or by one that was begun since.
fn is_taken(slot: &Slot, epoch: u64) -> bool {
    slot.epoch.load(Ordering::Acquire) >= epoch && !is_empty(slot)
}

/// The slot of a file that has one.
fn find(id: Id, epoch: u64) -> Option<usize> {
    let slots = control::slots();
    (0..PROBES)
        .map(|probe| (id.hash() + probe) % SLOTS)
        .find(|&at| id.is_in(&slots[at], epoch))
}

/// The slot of a file, a new one if need be; `None` if the file is no business of ours.
fn find_or_claim(fd: c_int, id: Id, epoch: u64) -> Result<Option<usize>, u64> {
    let found = find(id, epoch);
    if found.is_some() && control::journal().is_some() {
        return Ok(found);
    }
    let mut outsiders = locked(&OUTSIDERS);
    if let Some(at) = find(id, epoch) {
        // Of an earlier process, or of another thread that was quicker.
        control::claim_journal().ok_or(BROKEN_PROCESSES)?;
        return Ok(Some(at));
    }
    let outsider = &mut outsiders[id.hash() % OUTSIDE];
    if *outsider == id {
        return Ok(None);
    }
    if !is_below(fd) {
        *outsider = id;
        return Ok(None);
    }
    control::claim_journal().ok_or(BROKEN_PROCESSES)?;
    let slots = control::slots();
    for at in (0..PROBES).map(|probe| (id.hash() + probe) % SLOTS) {
        let slot = &slots[at];
        if is_taken(slot, epoch) {
            continue;
        }
        // Whoever changes the file that had the slot looks at it again once it has this lock.
        let Ok(_unused) = CHANGING[at % LOCKS].try_lock() else {
            continue;
        };
        if is_taken(slot, epoch) {
            continue;
        }
        slot.epoch.store(0, Ordering::Release);
        slot.dev.store(id.dev, Ordering::Relaxed);
        slot.ino.store(id.ino, Ordering::Relaxed);
        slot.born_ns.store(id.born_ns, Ordering::Relaxed);
        reset(slot);
        slot.epoch.store(epoch, Ordering::Release);
        return Ok(Some(at));
    }
    Err(BROKEN_SLOTS)
}

fn reset(slot: &Slot) {
    slot.resets.fetch_add(1, Ordering::Relaxed);
    slot.end.store(0, Ordering::Release);
    slot.start.store(0, Ordering::Release);
    slot.freed.store(0, Ordering::Relaxed);
}

/// Says that the journal is not whole.
fn give_up(control: &Control, epoch: u64, why: u64) {
    if control.journal.load(Ordering::Acquire) == epoch {
        control.broken.store(why, Ordering::Release);
    }
}

/// The journal that is being kept, if one is.
fn epoch(control: &Control) -> Option<u64> {
    let epoch = control.journal.load(Ordering::Acquire);
    (epoch != 0 && control.broken.load(Ordering::Relaxed) == 0).then_some(epoch)
}

/// Makes a change, having written down what it replaces.
pub fn change<T>(fd: c_int, change: Change, make: impl FnOnce() -> T) -> T {
    let Some(control) = control() else {
        return make();
    };
    let Some(epoch) = epoch(control) else {
        return make();
    };
    loop {
        let Some((id, _)) = Id::of(fd) else {
            return make();
        };
        let at = match find_or_claim(fd, id, epoch) {
            Ok(Some(at)) => at,
            Ok(None) => return make(),
            Err(why) => {
                give_up(control, epoch, why);
                return make();
            }
        };
        let slot = &control::slots()[at];
        let mut buffer = locked(&CHANGING[at % LOCKS]);
        if !id.is_in(slot, epoch) {
            continue;
        }
        let mark = Recorder {
            fd,
            at,
            slot,
            buffer: &mut buffer,
        }
        .record(change);
        if let Err(why) = mark {
            give_up(control, epoch, why);
            return make();
        }
        control.changes.fetch_add(1, Ordering::Relaxed);
        let made = make();
        let error = sys::errno();
        if matches!(mark, Ok(true)) {
            // Durable on return, and taken for a sync of the whole file.
            forget(slot, at, slot.end.load(Ordering::Relaxed));
        }
        drop(buffer);
        sys::set_errno(error);
        return made;
    }
}

/// Syncs, and forgets what was written down before if that succeeds.
pub fn sync(fd: c_int, make: impl FnOnce() -> c_int) -> c_int {
    let Some(control) = control() else {
        return make();
    };
    let marked = epoch(control).and_then(|epoch| {
        let (id, _) = Id::of(fd)?;
        let at = find(id, epoch)?;
        let slot = &control::slots()[at];
        let _still = locked(&CHANGING[at % LOCKS]);
        id.is_in(slot, epoch).then(|| {
            let resets = slot.resets.load(Ordering::Relaxed);
            (at, slot, resets, slot.end.load(Ordering::Relaxed))
        })
    });
    let result = make();
    if result == 0
        && let Some((at, slot, resets, mark)) = marked
    {
        let _still = locked(&CHANGING[at % LOCKS]);
        // Else all that the mark covers was forgotten meanwhile.
        if slot.resets.load(Ordering::Relaxed) == resets {
            forget(slot, at, mark);
        }
    }
    result
}

/// Forgets the records before `mark`. The file's lock is held.
fn forget(slot: &Slot, at: usize, mark: u64) {
    let freed = slot.freed.load(Ordering::Relaxed);
    if mark <= slot.start.load(Ordering::Relaxed) {
        return;
    }
    slot.start.store(mark, Ordering::Release);
    if mark - freed >= FREE_BYTES
        && let Some(fd) = control::journal()
    {
        // Where this fails the space stays taken until the run is over.
        in_ring(at, freed, mark - freed, |offset, len| {
            let mode = sys::FALLOC_PUNCH_HOLE | sys::FALLOC_KEEP_SIZE;
            // SAFETY: no memory is touched.
            unsafe { sys::syscall(sys::nr::FALLOCATE, fd, mode, offset as i64, len as i64) };
        });
        slot.freed.store(mark, Ordering::Relaxed);
    }
    if mark == slot.end.load(Ordering::Relaxed) {
        reset(slot);
    }
}

/// Where in the shared file a part of a ring is: one piece, or two if it goes over the end.
fn in_ring(at: usize, position: u64, bytes: u64, mut piece: impl FnMut(u64, u64)) {
    let from = position % RING_BYTES;
    let first = bytes.min(RING_BYTES - from);
    piece(ring_at(at) + from, first);
    if bytes > first {
        piece(ring_at(at), bytes - first);
    }
}

struct Recorder<'a> {
    fd: c_int,
    at: usize,
    slot: &'a Slot,
    buffer: &'a mut [u8; COPY_BYTES],
}

impl Recorder<'_> {
    /// Writes a change down; whether it will be durable by itself.
    fn record(&mut self, change: Change) -> Result<bool, u64> {
        let (_, size) = Id::of(self.fd).ok_or(BROKEN_READ)?;
        let header = |kind, old: std::ops::Range<u64>, change_at: u64, change_bytes| RecordHeader {
            kind,
            old_at: old.start,
            old_bytes: old.end.saturating_sub(old.start),
            old_len: size,
            change_at,
            change_bytes,
        };
        let whole = |from: u64, bytes: u64| from..from.saturating_add(bytes).min(size);
        match change {
            Change::Write { flags, .. } | Change::WriteAt { flags, .. } => {
                // SAFETY: no memory is touched.
                let (mode, position) = unsafe {
                    (
                        sys::fcntl(self.fd, sys::F_GETFL),
                        sys::lseek64(self.fd, 0, sys::SEEK_CUR),
                    )
                };
                let (at, bytes) = match change {
                    Change::WriteAt { at, bytes, .. } => (at, bytes),
                    Change::Write { bytes, .. } => (position, bytes),
                    _ => return Ok(false),
                };
                // Appending ignores the offset, even one that is given.
                let at = match mode & sys::O_APPEND != 0 || flags & sys::RWF_APPEND != 0 {
                    true => size,
                    false => at.max(0) as u64,
                };
                if bytes > 0 {
                    self.put(header(KIND_WRITE, whole(at, bytes), at, bytes))?;
                }
                Ok(mode & sys::O_DSYNC != 0 || flags & sys::RWF_DSYNC != 0)
            }
            Change::Resize { to } => {
                let to = to.max(0) as u64;
                if to != size {
                    let bytes = to.abs_diff(size);
                    self.put(header(KIND_RESIZE, to..size.max(to), to.min(size), bytes))?;
                }
                Ok(false)
            }
            Change::Allocate { mode, at, bytes } => {
                let (at, bytes) = (at.max(0) as u64, bytes.max(0) as u64);
                let moves = mode & (sys::FALLOC_COLLAPSE_RANGE | sys::FALLOC_INSERT_RANGE) != 0;
                if mode == sys::FALLOC_KEEP_SIZE {
                    // Reserves space; there is nothing to see of it.
                } else if mode == 0 {
                    if at.saturating_add(bytes) > size {
                        self.put(header(KIND_RESIZE, size..size, size, at + bytes - size))?;
                    }
                } else if moves {
                    self.put(header(KIND_RESIZE, at.min(size)..size, at, bytes))?;
                } else {
                    self.put(header(KIND_WRITE, whole(at, bytes), at, bytes))?;
                }
                Ok(false)
            }
        }
    }

    /// Adds a record with the old bytes that it names.
    fn put(&mut self, mut header: RecordHeader) -> Result<(), u64> {
        if header.old_at >= header.old_len {
            (header.old_at, header.old_bytes) = (header.old_len, 0);
        }
        let fd = control::journal().ok_or(BROKEN_PROCESSES)?;
        let start = self.slot.start.load(Ordering::Relaxed);
        let end = self.slot.end.load(Ordering::Relaxed);
        let bytes = RECORD_HEADER_BYTES as u64 + header.old_bytes;
        if end - start + bytes > RING_BYTES {
            return Err(BROKEN_FULL);
        }
        // All files together are looked at now and then only.
        if (end + bytes) >> 20 != end >> 20 && unsynced_bytes() + bytes > RECORDS_BYTES_MAX {
            return Err(BROKEN_FULL);
        }
        self.buffer[..RECORD_HEADER_BYTES].copy_from_slice(&header.encode());
        let mut filled = RECORD_HEADER_BYTES;
        let (mut read, mut written) = (0, 0);
        loop {
            let want = (header.old_bytes - read).min((COPY_BYTES - filled) as u64) as usize;
            self.read_old(header.old_at + read, filled, want)?;
            read += want as u64;
            filled += want;
            self.append(fd, end + written, filled)?;
            written += filled as u64;
            filled = 0;
            if read == header.old_bytes {
                break;
            }
        }
        self.slot.end.store(end + bytes, Ordering::Release);
        Ok(())
    }

    /// Reads old bytes of the file into the buffer, from `into` on.
    fn read_old(&mut self, offset: u64, into: usize, bytes: usize) -> Result<(), u64> {
        let buffer = &mut self.buffer[into..into + bytes];
        match sys::read_fully(self.fd, buffer, offset) {
            Err(sys::EBADF) => {
                // Opened for writing only.
                let path = sys::descriptor_path(self.fd);
                let fd = sys::open(path.as_ptr().cast(), sys::O_RDONLY | sys::O_CLOEXEC);
                if fd < 0 {
                    return Err(BROKEN_READ);
                }
                let result = sys::read_fully(fd, buffer, offset);
                // SAFETY: a descriptor of this function's own.
                unsafe { sys::close(fd) };
                result.map_err(|_| BROKEN_READ)
            }
            result => result.map_err(|_| BROKEN_READ),
        }
    }

    /// Writes the first bytes of the buffer into the ring.
    fn append(&self, fd: c_int, position: u64, bytes: usize) -> Result<(), u64> {
        let (mut done, mut whole) = (0, true);
        in_ring(self.at, position, bytes as u64, |offset, len| {
            let piece = &self.buffer[done..done + len as usize];
            whole &= sys::write_fully(fd, piece, offset);
            done += len as usize;
        });
        whole.then_some(()).ok_or(BROKEN_WRITE)
    }
}

/// Length of all records.
fn unsynced_bytes() -> u64 {
    let slots = control::slots().iter();
    slots
        .map(|slot| {
            slot.end
                .load(Ordering::Relaxed)
                .saturating_sub(slot.start.load(Ordering::Relaxed))
        })
        .sum()
}

/// Whether an open file is one whose changes are being journalled, so that calls that copy into it
/// inside the kernel are refused, and their callers read and write instead.
pub fn is_journalled(fd: c_int) -> bool {
    let Some(epoch) = control().and_then(epoch) else {
        return false;
    };
    Id::of(fd).is_some_and(|(id, _)| find(id, epoch).is_some() || is_below(fd))
}

/// Whether changes are being journalled at all.
pub fn is_on() -> bool {
    control().and_then(epoch).is_some()
}
