//! The calling thread: its CPU and its clock.

/// The CPU on which the calling thread runs at this moment.
#[must_use]
pub fn current_cpu() -> Option<usize> {
    // SAFETY: the call has no precondition.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
