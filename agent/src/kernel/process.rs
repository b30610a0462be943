//! This process and the calling thread: limits, memory, clock, CPU, and descriptors that the runtime watches.

use std::{io, num::NonZeroU64, os::fd::OwnedFd};

use rustix::{
    mm::{Advice, madvise},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{sched_getcpu, set_current_timer_slack},
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

/// Runs what sleeps for moments: its sleeps end when they should, and not with others up to 50 us later.
pub fn without_timer_slack<T>(run: impl FnOnce() -> T) -> T {
    // Where this is refused, sleeps are longer.
    let _ = set_current_timer_slack(Some(NonZeroU64::MIN));
    let done = run();
    let _ = set_current_timer_slack(None);
    done
}

/// Gives back the pages of the program itself that are mapped: the start runs through megabytes of code and constants that
/// nothing needs again. Whatever is used later is mapped again, from the page cache.
pub fn release_program() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, bytes) in unwritten(&maps) {
        // SAFETY: the pages are those of a file that cannot change while it runs, none can be written to, and none was:
        // the kernel maps the same bytes again wherever they are looked at.
        let _ = unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), bytes, Advice::LinuxDontNeed) };
    }
}

/// Start and length of each mapping of a file, in the format of `/proc/PID/smaps`, that is private, cannot be written to and
/// has no page that differs from the file.
fn unwritten(maps: &str) -> Vec<(usize, usize)> {
    let (mut present, mut found) = (None, Vec::new());
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => found.extend(present.take()),
            (Some(range), Some("r--p" | "r-xp")) if !range.ends_with(':') => {
                let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
                let range = range.split_once('-').and_then(|(start, end)| hexadecimal(start).zip(hexadecimal(end)));
                let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                present = range.filter(|_| is_file).and_then(|(start, end)| Some((start, end.checked_sub(start)?)));
            }
            (Some(word), _) if !word.ends_with(':') => present = None,
            _ => {}
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use super::unwritten;

    #[test]
    fn only_what_is_a_files_own_and_was_never_written_is_given_back() {
        let mapping = |range: &str, rights: &str, file: &str, anonymous_kb: u32| {
            format!(
                "{range} {rights} 00000000 fe:00 22 {file}\nSize: 8 kB\nAnonymous: {anonymous_kb} kB\nVmFlags: rd mr\n"
            )
        };
        let maps = [
            mapping("1000-3000", "r--p", "/bin/a", 0),
            mapping("3000-7000", "r-xp", "/bin/a", 0),
            mapping("7000-8000", "r--p", "/bin/a", 4),
            mapping("8000-9000", "rw-p", "/bin/a", 0),
            mapping("9000-a000", "r--p", "", 0),
            mapping("a000-b000", "r--s", "anon_inode:bpf-map", 0),
            mapping("b000-c000", "r-xp", "[vdso]", 0),
        ];
        assert_eq!(unwritten(&maps.concat()), [(0x1000, 0x2000), (0x3000, 0x4000)]);
    }
}
