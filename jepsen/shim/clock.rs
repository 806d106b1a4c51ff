//! The wall clock, off by what the settings say. Other clocks are left alone, so timeouts and the
//! machine's scheduling are as they were.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::control::control;
use crate::sys::{self, Timespec};

const NANOS: i128 = 1_000_000_000;

/// The C library's `clock_gettime`, which needs no system call; null until the shim is loaded.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Finds the C library's `clock_gettime`.
pub fn find_next() {
    // SAFETY: a C string and the handle that means "behind this library".
    let found = unsafe { sys::dlsym(sys::RTLD_NEXT, c"clock_gettime".as_ptr()) };
    NEXT.store(found, Ordering::Relaxed);
}

/// # Safety
/// `time` points to a timespec or is null, as for `clock_gettime`.
unsafe fn true_time(clock: c_int, time: *mut Timespec) -> c_int {
    let next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        // SAFETY: the kernel checks the address.
        return unsafe { sys::syscall(sys::nr::CLOCK_GETTIME, clock, time) as c_int };
    }
    // SAFETY: what `dlsym` found under that name is that function.
    unsafe {
        let next: unsafe extern "C" fn(c_int, *mut Timespec) -> c_int = std::mem::transmute(next);
        next(clock, time)
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let mut now = Timespec::default();
    // SAFETY: a timespec of this function's own.
    unsafe { true_time(sys::CLOCK_MONOTONIC, &mut now) };
    now.sec as u64 * NANOS as u64 + now.nsec as u64
}

/// How far the clock is off now, in nanoseconds; `None` if it is right.
fn off_by() -> Option<i128> {
    let control = control()?;
    if control.clock_read.load(Ordering::Relaxed) == 0 {
        control.clock_read.store(1, Ordering::Relaxed);
    }
    // The harness sets the values in less time than a few rounds take, unless it dies meanwhile.
    for round in 0.. {
        let version = control.clock_version.load(Ordering::Acquire);
        let faulty = control.clock_faulty.load(Ordering::Acquire) != 0;
        let offset = control.clock_offset_ns.load(Ordering::Acquire);
        let drift = control.clock_drift_ppb.load(Ordering::Acquire);
        let since = control.clock_since_ns.load(Ordering::Acquire);
        let consistent =
            version % 2 == 0 && control.clock_version.load(Ordering::Acquire) == version;
        if consistent || round == 10_000 {
            let gained = match drift {
                0 => 0,
                _ => i128::from(monotonic_ns()) - i128::from(since),
            };
            return faulty.then_some(i128::from(offset) + gained * i128::from(drift) / NANOS);
        }
        std::hint::spin_loop();
    }
    None
}

/// # Safety
/// As for `clock_gettime`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { true_time(clock, time) };
    if result == 0
        && matches!(clock, sys::CLOCK_REALTIME | sys::CLOCK_REALTIME_COARSE)
        && let Some(off) = off_by()
    {
        // SAFETY: the call succeeded, so there is a timespec.
        let time = unsafe { &mut *time };
        // The time before 1970 is nothing that programs expect of a clock.
        let shown = (i128::from(time.sec) * NANOS + i128::from(time.nsec) + off).max(0);
        (time.sec, time.nsec) = ((shown / NANOS) as i64, (shown % NANOS) as i64);
    }
    result
}

/// `struct timeval`.
#[repr(C)]
pub struct Timeval {
    sec: i64,
    usec: i64,
}

/// # Safety
/// As for `gettimeofday`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut Timeval, zone: *mut c_void) -> c_int {
    let mut now = Timespec::default();
    // SAFETY: the caller's promise; a time zone, which nobody asks for any more, is two integers.
    unsafe {
        let result = clock_gettime(sys::CLOCK_REALTIME, &mut now);
        if !time.is_null() {
            *time = Timeval {
                sec: now.sec,
                usec: now.nsec / 1000,
            };
        }
        if !zone.is_null() {
            zone.cast::<[c_int; 2]>().write([0; 2]);
        }
        result
    }
}

/// # Safety
/// As for `time`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(into: *mut i64) -> i64 {
    let mut now = Timespec::default();
    // SAFETY: a timespec of this function's own; the caller's promise.
    unsafe {
        clock_gettime(sys::CLOCK_REALTIME, &mut now);
        if !into.is_null() {
            *into = now.sec;
        }
    }
    now.sec
}

/// # Safety
/// As for `timespec_get`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timespec_get(time: *mut Timespec, base: c_int) -> c_int {
    const TIME_UTC: c_int = 1;
    // SAFETY: the caller's promise.
    if base != TIME_UTC || unsafe { clock_gettime(sys::CLOCK_REALTIME, time) } != 0 {
        return 0;
    }
    base
}
