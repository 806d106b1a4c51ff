//! The mapping of the shared file, made once when the shim is loaded.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use crate::layout::{
    CONTROL_VARIABLE, Control, DATA_DIR_VARIABLE, HEAD_BYTES, MAGIC, SLOTS, SLOTS_AT, Slot,
};
use crate::sys;

static HEAD: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// Path of the shared file and the directory with the files of the node; of the process' environment.
static CONTROL_PATH: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
static DATA_DIR: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
/// This process is a fork of one that keeps the journal.
static FORKED: AtomicBool = AtomicBool::new(false);
/// The shared file, opened and locked when the process first changes a file of the node; -1 before.
static JOURNAL: AtomicI32 = AtomicI32::new(-1);

#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;

extern "C" fn forked() {
    FORKED.store(true, Ordering::Relaxed);
}

/// A copy of an environment variable that lives as long as the process: programs may change theirs.
fn variable(name: &str) -> *mut c_char {
    let mut key = [0u8; 64];
    key[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `key` is longer than any name, so it ends in a zero byte; a value that is found is a C
    // string, and nobody changes the environment while libraries are being loaded.
    unsafe {
        let value = sys::getenv(key.as_ptr().cast());
        if value.is_null() {
            return std::ptr::null_mut();
        }
        std::ffi::CStr::from_ptr(value).to_owned().into_raw()
    }
}

extern "C" fn load() {
    let path = variable(CONTROL_VARIABLE);
    if path.is_null() {
        return;
    }
    crate::clock::find_next();
    let fd = sys::open(path, sys::O_RDWR | sys::O_CLOEXEC);
    if fd < 0 {
        return;
    }
    // SAFETY: a new mapping of a file that the harness has made as long as this; the descriptor is
    // this function's own.
    let head = unsafe {
        let protection = sys::PROT_READ | sys::PROT_WRITE;
        let head = sys::mmap(
            std::ptr::null_mut(),
            HEAD_BYTES,
            protection,
            sys::MAP_SHARED,
            fd,
            0,
        );
        sys::close(fd);
        head
    };
    if head as isize == -1 {
        return;
    }
    // SAFETY: the mapping is that long, aligned to a page, and never unmapped.
    let control = unsafe { &*head.cast::<Control>() };
    if control.magic.load(Ordering::Relaxed) != MAGIC {
        return;
    }
    CONTROL_PATH.store(path, Ordering::Relaxed);
    DATA_DIR.store(variable(DATA_DIR_VARIABLE), Ordering::Relaxed);
    // SAFETY: the handler only stores into a static.
    unsafe { sys::pthread_atfork(None, None, Some(forked)) };
    control.loads.fetch_add(1, Ordering::Relaxed);
    HEAD.store(head, Ordering::Release);
}

/// The settings, if this process has any.
pub fn control() -> Option<&'static Control> {
    let head = HEAD.load(Ordering::Acquire);
    // SAFETY: not null means mapped, for as long as the process lives, and long enough.
    (!head.is_null()).then(|| unsafe { &*head.cast::<Control>() })
}

/// The slots; only where [`control`] is something.
pub fn slots() -> &'static [Slot] {
    let head = HEAD.load(Ordering::Acquire);
    assert!(
        !head.is_null(),
        "slots are asked for after the settings were found"
    );
    // SAFETY: the mapping holds that many from there on; their fields are atomic.
    unsafe { std::slice::from_raw_parts(head.byte_add(SLOTS_AT).cast::<Slot>(), SLOTS) }
}

/// The directory whose files are journalled.
pub fn data_dir() -> Option<&'static [u8]> {
    let dir = DATA_DIR.load(Ordering::Relaxed);
    // SAFETY: not null means a C string that is never freed.
    (!dir.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(dir) }.to_bytes())
}

/// The shared file for the records, if this process is the one that writes them.
pub fn journal() -> Option<c_int> {
    if FORKED.load(Ordering::Relaxed) {
        return None;
    }
    let fd = JOURNAL.load(Ordering::Acquire);
    (fd >= 0).then_some(fd)
}

/// Opens the shared file and makes this process the one that writes records, unless another one is.
/// One caller at a time.
pub fn claim_journal() -> Option<c_int> {
    if FORKED.load(Ordering::Relaxed) || journal().is_some() {
        return journal();
    }
    let fd = sys::open(
        CONTROL_PATH.load(Ordering::Relaxed),
        sys::O_RDWR | sys::O_CLOEXEC,
    );
    if fd < 0 {
        return None;
    }
    // SAFETY: descriptors of this function's own. Out of the way of the low numbers, which some
    // programs take for theirs.
    let fd = unsafe {
        match sys::fcntl(fd, sys::F_DUPFD_CLOEXEC, 500 as c_int) {
            high if high >= 0 => {
                sys::close(fd);
                high
            }
            _ => fd,
        }
    };
    // SAFETY: as above.
    if unsafe { sys::flock(fd, sys::LOCK_EX | sys::LOCK_NB) } != 0 {
        // SAFETY: as above.
        unsafe { sys::close(fd) };
        return None;
    }
    JOURNAL.store(fd, Ordering::Release);
    Some(fd)
}
