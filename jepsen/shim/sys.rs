//! What the shim needs of the system, by hand: it is built with nothing but a toolchain.
//!
//! Calls that the shim replaces are made as system calls, so the shim never comes back to itself, and
//! nothing needs to be looked up before the first of them.

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};

#[cfg(target_arch = "x86_64")]
pub mod nr {
    use std::ffi::c_long;
    pub const WRITE: c_long = 1;
    pub const PWRITE64: c_long = 18;
    pub const WRITEV: c_long = 20;
    pub const SENDFILE: c_long = 40;
    pub const FSYNC: c_long = 74;
    pub const FDATASYNC: c_long = 75;
    pub const FTRUNCATE: c_long = 77;
    pub const CLOCK_GETTIME: c_long = 228;
    pub const OPENAT: c_long = 257;
    pub const SPLICE: c_long = 275;
    pub const FALLOCATE: c_long = 285;
    pub const PWRITEV: c_long = 296;
    pub const COPY_FILE_RANGE: c_long = 326;
    pub const PWRITEV2: c_long = 328;
}

#[cfg(target_arch = "aarch64")]
pub mod nr {
    use std::ffi::c_long;
    pub const FTRUNCATE: c_long = 46;
    pub const FALLOCATE: c_long = 47;
    pub const OPENAT: c_long = 56;
    pub const WRITE: c_long = 64;
    pub const WRITEV: c_long = 66;
    pub const PWRITE64: c_long = 68;
    pub const PWRITEV: c_long = 70;
    pub const SENDFILE: c_long = 71;
    pub const SPLICE: c_long = 76;
    pub const FSYNC: c_long = 82;
    pub const FDATASYNC: c_long = 83;
    pub const CLOCK_GETTIME: c_long = 113;
    pub const COPY_FILE_RANGE: c_long = 285;
    pub const PWRITEV2: c_long = 287;
}

pub const EINTR: c_int = 4;
pub const EIO: c_int = 5;
pub const EBADF: c_int = 9;
pub const EINVAL: c_int = 22;
pub const ENOSYS: c_int = 38;

pub const AT_FDCWD: c_int = -100;
pub const AT_EMPTY_PATH: c_int = 0x1000;
pub const O_RDONLY: c_int = 0;
pub const O_WRONLY: c_int = 1;
pub const O_RDWR: c_int = 2;
pub const O_ACCMODE: c_int = 3;
pub const O_CREAT: c_int = 0o100;
pub const O_TRUNC: c_int = 0o1000;
pub const O_APPEND: c_int = 0o2000;
pub const O_DSYNC: c_int = 0o10000;
pub const O_CLOEXEC: c_int = 0o2000000;
pub const RWF_DSYNC: c_int = 2;
pub const RWF_APPEND: c_int = 16;
pub const F_GETFL: c_int = 3;
pub const F_DUPFD_CLOEXEC: c_int = 1030;
pub const LOCK_EX: c_int = 2;
pub const LOCK_NB: c_int = 4;
pub const SEEK_CUR: c_int = 1;
pub const PROT_READ: c_int = 1;
pub const PROT_WRITE: c_int = 2;
pub const MAP_SHARED: c_int = 1;
pub const FALLOC_KEEP_SIZE: c_int = 1;
pub const FALLOC_PUNCH_HOLE: c_int = 2;
pub const FALLOC_COLLAPSE_RANGE: c_int = 8;
pub const FALLOC_INSERT_RANGE: c_int = 0x20;
pub const CLOCK_REALTIME: c_int = 0;
pub const CLOCK_MONOTONIC: c_int = 1;
pub const CLOCK_REALTIME_COARSE: c_int = 5;
/// Type, inode, size and time of creation.
pub const STATX_WANTED: c_uint = 0x1 | 0x100 | 0x200 | 0x800;
pub const S_IFMT: u16 = 0o170000;
pub const S_IFREG: u16 = 0o100000;
pub const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Iovec {
    pub base: *const c_void,
    pub len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct StatxTime {
    pub sec: i64,
    pub nsec: u32,
    pub reserved: i32,
}

/// `struct statx`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Statx {
    pub mask: u32,
    pub blksize: u32,
    pub attributes: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    pub spare0: u16,
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub attributes_mask: u64,
    pub atime: StatxTime,
    pub btime: StatxTime,
    pub ctime: StatxTime,
    pub mtime: StatxTime,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub rest: [u64; 14],
}

const _: () = assert!(size_of::<Statx>() == 256);

#[link(name = "dl")]
unsafe extern "C" {
    pub fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

unsafe extern "C" {
    pub fn syscall(number: c_long, ...) -> c_long;
    pub fn statx(
        dir: c_int,
        path: *const c_char,
        flags: c_int,
        mask: c_uint,
        buffer: *mut Statx,
    ) -> c_int;
    pub fn pread64(fd: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize;
    pub fn lseek64(fd: c_int, offset: i64, whence: c_int) -> i64;
    pub fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    pub fn flock(fd: c_int, operation: c_int) -> c_int;
    pub fn close(fd: c_int) -> c_int;
    pub fn readlink(path: *const c_char, buffer: *mut c_char, len: usize) -> isize;
    pub fn getenv(name: *const c_char) -> *const c_char;
    pub fn mmap(
        at: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    pub fn nanosleep(time: *const Timespec, left: *mut Timespec) -> c_int;
    pub fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
    fn __errno_location() -> *mut c_int;
}

pub fn errno() -> c_int {
    // SAFETY: the address is that of this thread's errno, always valid.
    unsafe { *__errno_location() }
}

pub fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *__errno_location() = value }
}

/// Opens a file without the shim's attention.
pub fn open(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's path ends in a zero byte; the kernel checks the rest.
    unsafe { syscall(nr::OPENAT, AT_FDCWD, path, flags, 0 as c_uint) as c_int }
}

/// What an open file is; `None` if the system does not say.
pub fn stat(fd: c_int) -> Option<Statx> {
    let mut found = Statx::default();
    // SAFETY: `found` is a whole `struct statx`, and the path an empty C string.
    let result = unsafe { statx(fd, c"".as_ptr(), AT_EMPTY_PATH, STATX_WANTED, &mut found) };
    (result == 0).then_some(found)
}

/// `/proc/self/fd/N` as a C string.
pub fn descriptor_path(fd: c_int) -> [u8; 32] {
    let mut path = [0; 32];
    let prefix = b"/proc/self/fd/";
    path[..prefix.len()].copy_from_slice(prefix);
    let mut digits = [0; 10];
    let (mut left, mut count) = (fd.max(0) as u32, 0);
    while count == 0 || left > 0 {
        digits[count] = b'0' + (left % 10) as u8;
        (left, count) = (left / 10, count + 1);
    }
    for (at, digit) in digits[..count].iter().rev().enumerate() {
        path[prefix.len() + at] = *digit;
    }
    path
}

/// Reads all of a range of a file; the error of the system, or `EIO` where the file ends.
pub fn read_fully(fd: c_int, mut buffer: &mut [u8], mut offset: u64) -> Result<(), c_int> {
    while !buffer.is_empty() {
        // SAFETY: a buffer with its length.
        let read = unsafe {
            pread64(
                fd,
                buffer.as_mut_ptr().cast::<c_void>(),
                buffer.len(),
                offset as i64,
            )
        };
        match read {
            0 => return Err(EIO),
            1.. => {
                buffer = &mut buffer[read as usize..];
                offset += read as u64;
            }
            _ if errno() == EINTR => {}
            _ => return Err(errno()),
        }
    }
    Ok(())
}

/// Writes all of some bytes to a range of a file, without the shim's attention; whether it could.
pub fn write_fully(fd: c_int, mut bytes: &[u8], mut offset: u64) -> bool {
    while !bytes.is_empty() {
        // SAFETY: a buffer with its length.
        let written: c_long =
            unsafe { syscall(nr::PWRITE64, fd, bytes.as_ptr(), bytes.len(), offset as i64) };
        match written {
            1.. => {
                bytes = &bytes[written as usize..];
                offset += written as u64;
            }
            _ if written < 0 && errno() == EINTR => {}
            _ => return false,
        }
    }
    true
}
