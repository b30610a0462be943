//! This process's memory.

/// Returns freed memory to the node. The C library of a static build does that by itself.
pub fn give_back() {
    // SAFETY: the call has no precondition.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}
