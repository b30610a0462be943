//! This process and the calling thread: limits, memory, clock, CPU, and descriptors that the runtime watches.

use std::{io, os::fd::OwnedFd};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::sched_getcpu,
    time::{ClockId, clock_gettime},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Raises the limit to what the process is allowed at most, and tells it. Nothing here uses `select`, for which
/// the lower limit is kept.
#[must_use]
pub fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let most = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    // None is without a limit.
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// A descriptor that the runtime watches.
///
/// # Errors
/// The runtime cannot watch it.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, until the result is dropped.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

/// Returns freed memory to the node. The C library of a static build does that by itself.
pub fn trim_memory() {
    // SAFETY: the call has no precondition.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The CPU on which the calling thread runs at this moment.
#[must_use]
pub fn current_cpu() -> usize {
    sched_getcpu()
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// `CLOCK_BOOTTIME` in nanoseconds.
#[must_use]
pub fn boot_ns() -> u64 {
    clock_ns(ClockId::Boottime)
}

/// CPU time of the calling thread, in nanoseconds.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
