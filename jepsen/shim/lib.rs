//! Loaded into the nodes of a cluster under test by `LD_PRELOAD`: stands between an unmodified program
//! and the C library to slow down and fail its syncs, to note what it has written and not synced, and
//! to set its wall clock.
//!
//! ```text
//!   program ──▶ fsync, fdatasync ────────────▶ delay, EIO ─┐
//!           ──▶ write…, ftruncate, fallocate ──────────────┴▶ journal ──▶ kernel
//!           ──▶ clock_gettime, gettimeofday, time ──▶ clock ──▶ C library
//! ```
//!
//! What is wrong is read from a file that the harness shares with the process (see `layout`), so it
//! takes effect at once. While nothing is, a call costs a few loads more. A program that was not given
//! the file is left alone. Programs that make system calls themselves, as those in Go do, are out of
//! reach.
//!
//! Nothing here allocates, and no lock is held across a call that can wait for another process. A
//! signal handler must not write to a file of the node: it could interrupt a write to the same one.

mod clock;
mod control;
mod journal;
#[allow(dead_code, reason = "shared with the harness, which uses the rest")]
mod layout;
mod sys;

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::Ordering;

use journal::Change;
use sys::{Iovec, Timespec, nr};

/// How often a sync that is being delayed looks whether it still is.
const SLICE_US: u64 = 5_000;

fn delayed_and_failed() -> bool {
    let Some(control) = control::control() else {
        return false;
    };
    control.syncs.fetch_add(1, Ordering::Relaxed);
    if control.sync_delay_us.load(Ordering::Relaxed) > 0 {
        let began = clock::monotonic_ns();
        loop {
            let passed_us = (clock::monotonic_ns() - began) / 1000;
            let left_us = control
                .sync_delay_us
                .load(Ordering::Relaxed)
                .saturating_sub(passed_us);
            if left_us == 0 {
                break;
            }
            let nsec = left_us.min(SLICE_US) as i64 * 1000;
            // SAFETY: a timespec of this function's own. Interrupted, it is asked again.
            unsafe { sys::nanosleep(&Timespec { sec: 0, nsec }, std::ptr::null_mut()) };
        }
    }
    control.sync_fails.load(Ordering::Relaxed) != 0
}

fn sync(fd: c_int, call: c_long) -> c_int {
    if delayed_and_failed() {
        sys::set_errno(sys::EIO);
        return -1;
    }
    // SAFETY: no memory is touched.
    journal::sync(fd, || unsafe { sys::syscall(call, fd) as c_int })
}

/// # Safety
/// None needed; as for `fsync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, nr::FSYNC)
}

/// # Safety
/// None needed; as for `fdatasync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, nr::FDATASYNC)
}

/// # Safety
/// As for `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    let change = Change::Write {
        bytes: count as u64,
        flags: 0,
    };
    // SAFETY: the caller's promise; the kernel checks the addresses.
    journal::change(fd, change, || unsafe {
        sys::syscall(nr::WRITE, fd, bytes, count) as isize
    })
}

/// # Safety
/// As for `pwrite`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    let change = Change::WriteAt {
        at,
        bytes: count as u64,
        flags: 0,
    };
    // SAFETY: as for `write`.
    journal::change(fd, change, || unsafe {
        sys::syscall(nr::PWRITE64, fd, bytes, count, at) as isize
    })
}

/// # Safety
/// As for `pwrite`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the caller's promise.
    unsafe { pwrite(fd, bytes, count, at) }
}

/// Length of a vector of buffers; only looked at when something depends on it, because the kernel
/// tolerates a bad address and this does not.
///
/// # Safety
/// `buffers` points to that many.
unsafe fn total(buffers: *const Iovec, count: c_int) -> u64 {
    if !journal::is_on() || buffers.is_null() || count <= 0 {
        return 0;
    }
    // SAFETY: the caller's promise.
    let buffers = unsafe { std::slice::from_raw_parts(buffers, count as usize) };
    buffers.iter().map(|buffer| buffer.len as u64).sum()
}

/// # Safety
/// As for `writev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, buffers: *const Iovec, count: c_int) -> isize {
    // SAFETY: the caller's promise.
    let bytes = unsafe { total(buffers, count) };
    // SAFETY: as for `write`.
    journal::change(fd, Change::Write { bytes, flags: 0 }, || unsafe {
        sys::syscall(nr::WRITEV, fd, buffers, count) as isize
    })
}

/// # Safety
/// As for `pwritev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(fd: c_int, buffers: *const Iovec, count: c_int, at: i64) -> isize {
    // SAFETY: the caller's promise.
    let bytes = unsafe { total(buffers, count) };
    // SAFETY: as for `write`. The offset is one word, and the high half that follows it unused.
    journal::change(
        fd,
        Change::WriteAt {
            at,
            bytes,
            flags: 0,
        },
        || unsafe { sys::syscall(nr::PWRITEV, fd, buffers, count, at, 0 as c_long) as isize },
    )
}

/// # Safety
/// As for `pwritev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(
    fd: c_int,
    buffers: *const Iovec,
    count: c_int,
    at: i64,
) -> isize {
    // SAFETY: the caller's promise.
    unsafe { pwritev(fd, buffers, count, at) }
}

/// # Safety
/// As for `pwritev2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev2(
    fd: c_int,
    buffers: *const Iovec,
    count: c_int,
    at: i64,
    flags: c_int,
) -> isize {
    // SAFETY: the caller's promise.
    let bytes = unsafe { total(buffers, count) };
    let change = match at {
        // The file's own position.
        -1 => Change::Write { bytes, flags },
        _ => Change::WriteAt { at, bytes, flags },
    };
    // SAFETY: as for `pwritev`.
    journal::change(fd, change, || unsafe {
        sys::syscall(nr::PWRITEV2, fd, buffers, count, at, 0 as c_long, flags) as isize
    })
}

/// # Safety
/// As for `pwritev2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64v2(
    fd: c_int,
    buffers: *const Iovec,
    count: c_int,
    at: i64,
    flags: c_int,
) -> isize {
    // SAFETY: the caller's promise.
    unsafe { pwritev2(fd, buffers, count, at, flags) }
}

/// # Safety
/// None needed; as for `ftruncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, to: i64) -> c_int {
    // SAFETY: no memory is touched.
    journal::change(fd, Change::Resize { to }, || unsafe {
        sys::syscall(nr::FTRUNCATE, fd, to) as c_int
    })
}

/// # Safety
/// None needed; as for `ftruncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, to: i64) -> c_int {
    // SAFETY: as there.
    unsafe { ftruncate(fd, to) }
}

/// # Safety
/// As for `truncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate(path: *const c_char, to: i64) -> c_int {
    let fd = sys::open(path, sys::O_WRONLY | sys::O_CLOEXEC);
    if fd < 0 {
        return -1;
    }
    // SAFETY: a descriptor of this function's own.
    unsafe {
        let result = ftruncate(fd, to);
        let error = sys::errno();
        sys::close(fd);
        sys::set_errno(error);
        result
    }
}

/// # Safety
/// As for `truncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate64(path: *const c_char, to: i64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { truncate(path, to) }
}

/// # Safety
/// None needed; as for `fallocate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: i64, bytes: i64) -> c_int {
    // SAFETY: no memory is touched.
    journal::change(fd, Change::Allocate { mode, at, bytes }, || unsafe {
        sys::syscall(nr::FALLOCATE, fd, mode, at, bytes) as c_int
    })
}

/// # Safety
/// None needed; as for `fallocate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: i64, bytes: i64) -> c_int {
    // SAFETY: as there.
    unsafe { fallocate(fd, mode, at, bytes) }
}

/// Where the file system cannot allocate this says so, as musl's does, and writes nothing.
///
/// # Safety
/// None needed; as for `posix_fallocate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_fallocate(fd: c_int, at: i64, bytes: i64) -> c_int {
    let before = sys::errno();
    // SAFETY: as for `fallocate`.
    let result = match unsafe { fallocate(fd, 0, at, bytes) } {
        0 => 0,
        _ => sys::errno(),
    };
    sys::set_errno(before);
    result
}

/// # Safety
/// None needed; as for `posix_fallocate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_fallocate64(fd: c_int, at: i64, bytes: i64) -> c_int {
    // SAFETY: as there.
    unsafe { posix_fallocate(fd, at, bytes) }
}

/// # Safety
/// As for `openat`. The mode is passed as a variable argument, which is the same on the machines that
/// the shim is built for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: the caller's promise.
    let open = |flags: c_int| unsafe { sys::syscall(nr::OPENAT, dir, path, flags, mode) as c_int };
    let truncates = flags & sys::O_TRUNC != 0 && flags & sys::O_ACCMODE != sys::O_RDONLY;
    if !truncates || !journal::is_on() {
        return open(flags);
    }
    let fd = open(flags & !sys::O_TRUNC);
    if fd >= 0 && sys::stat(fd).is_some_and(|file| file.mode & sys::S_IFMT == sys::S_IFREG) {
        // SAFETY: the descriptor just opened; it fails as the opening would have.
        unsafe {
            if ftruncate(fd, 0) != 0 {
                let error = sys::errno();
                sys::close(fd);
                sys::set_errno(error);
                return -1;
            }
        }
    }
    fd
}

/// # Safety
/// As for `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { openat(dir, path, flags, mode) }
}

/// # Safety
/// As for `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { openat(sys::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As for `openat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { openat(sys::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As for `creat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat(path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open(path, sys::O_CREAT | sys::O_WRONLY | sys::O_TRUNC, mode) }
}

/// # Safety
/// As for `creat`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat64(path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { creat(path, mode) }
}

fn refused<T: From<i8>>(error: c_int) -> T {
    sys::set_errno(error);
    T::from(-1)
}

/// # Safety
/// As for `copy_file_range`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_at: *mut i64,
    to: c_int,
    to_at: *mut i64,
    count: usize,
    flags: c_uint,
) -> isize {
    if journal::is_journalled(to) {
        return refused(sys::ENOSYS);
    }
    // SAFETY: the caller's promise.
    unsafe { sys::syscall(nr::COPY_FILE_RANGE, from, from_at, to, to_at, count, flags) as isize }
}

/// # Safety
/// As for `sendfile`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(to: c_int, from: c_int, at: *mut i64, count: usize) -> isize {
    if journal::is_journalled(to) {
        return refused(sys::EINVAL);
    }
    // SAFETY: the caller's promise.
    unsafe { sys::syscall(nr::SENDFILE, to, from, at, count) as isize }
}

/// # Safety
/// As for `sendfile`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(to: c_int, from: c_int, at: *mut i64, count: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe { sendfile(to, from, at, count) }
}

/// # Safety
/// As for `splice`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn splice(
    from: c_int,
    from_at: *mut i64,
    to: c_int,
    to_at: *mut i64,
    count: usize,
    flags: c_uint,
) -> isize {
    if journal::is_journalled(to) {
        return refused(sys::EINVAL);
    }
    // SAFETY: the caller's promise.
    unsafe { sys::syscall(nr::SPLICE, from, from_at, to, to_at, count, flags) as isize }
}
