//! What the allocator keeps of freed memory.
//!
//! glibc keeps what threads have freed in their arenas: after large answers, hundreds of MiB that only
//! the same threads would use again. It gives them back when it is asked to.

/// Has the allocator give the memory that is free back to the system. Takes some milliseconds, in which
/// allocations of other threads may wait.
pub fn give_back_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time, from any thread; it touches free memory only.
    // Whether it found any is of no interest.
    unsafe {
        libc::malloc_trim(0);
    }
}
