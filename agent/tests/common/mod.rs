//! What tests against the running kernel need: cgroups of their own, loads in them, the agent as a process,
//! and the page that it serves.
//!
//! Everything here ends or disappears with its value, and touches only what it made. A test file uses it by
//! `mod common;`.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its own part of this module, and a test fails by panicking"
)]

mod account;
mod agent;
mod block_counts;
mod cgroup;
mod datagrams;
mod files;
mod helper_process;
mod hog;
mod kills;
mod load;
mod modules;
mod null_disk;
mod peer;
mod program;
mod record;
mod relay;
mod resolver;
mod sections;
mod statistics;

pub use account::{
    Account, Losses, UNSEEN_EACH_TIME, assert_nothing_lost, assert_seen, assert_sums_agree, attempted, caused,
    caused_by, culprits, slots_without_series, stolen_ns, unseen, unseen_requests,
};
pub use agent::{Agent, podlens, tested_binary};
pub use block_counts::{BlockCounts, count_in_version_1};
pub use cgroup::{TestCgroup, Throttled, Trees, container_id, pod_uid, remove_cgroup};
pub use files::{ColdFile, MappedFile, lock_in_memory, major_faults, minor_faults};
pub use helper_process::{HelperProcess, follow, orders};
pub use hog::{Hog, MemoryCgroup, is_logged_as_of_cgroup, logged_resident_bytes};
pub use kills::{Ballast, Doomed, Fate, Told, doomed, kill_fifty};
pub use load::{Figures, Load, Policy, Work, stay_on};
pub use modules::{load_module, run};
pub use null_disk::NullDisk;
pub use peer::{Network, Peer, Traffic, sockets_in};
pub use program::{Program, WebServer};
pub use record::{Record, Waits};
pub use relay::{Relay, Tunnel, syn};
pub use resolver::{Stream, Way};
pub use sections::{Recorded, Sections};
pub use statistics::{RunStatistics, assert_runs_are_short, longest_run, programs_of};
pub use testkit::{
    free_address,
    page::{Page, Sample},
};

use std::{
    env, io,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long anything may take that is quick on an idle machine, be it an emulated one.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Says that the running test finds nothing to test here, and why; it is then to return. The line goes past what the
/// test program keeps of a test's output, so that a person and `cargo xtask` see it.
pub fn skip(reason: &str) {
    let _ = writeln!(io::stdout(), "skipped: {reason}");
}

/// Whether no one else uses this machine, so that a test may take a part of it away from everybody.
pub fn machine_is_own() -> bool {
    ["PODLENS_TEST_OWN_MACHINE", "PODLENS_TEST_FULL"].iter().any(|name| env::var_os(name).is_some())
}

/// Whether a test may take all memory of this machine: only where nothing is lost with what the kernel kills then.
pub fn memory_is_own() -> bool {
    env::var_os("PODLENS_TEST_OWN_MACHINE").is_some()
}

/// Whether this machine is emulated and so much slower than usual that a load of many short parts is most of all the
/// kernel's work between them.
pub fn machine_is_slow() -> bool {
    env::var_os("PODLENS_TEST_SLOW_MACHINE").is_some()
}

/// How often the node's first process was switched from so far.
pub fn switches_of_first_process() -> u64 {
    let tasks = std::fs::read_dir("/proc/1/task").unwrap().filter_map(Result::ok);
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let of = |text: String| {
        let counts = text.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        counts.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum::<u64>()
    };
    texts.map(of).sum()
}

/// The CPUs of the machine that are online, whichever of them this process may use.
pub fn online_cpus() -> Vec<usize> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse::<usize>().unwrap()
    };
    online.trim().split(',').flat_map(range).collect()
}

/// A CPU that is not the first, where most loads run; none, said as skipped, on a machine with one alone.
pub fn second_cpu() -> Option<usize> {
    let second = online_cpus().into_iter().find(|cpu| *cpu != 0);
    if second.is_none() {
        skip("this machine has one CPU");
    }
    second
}

/// The first two numbers of this kernel's version.
pub fn kernel() -> [u32; 2] {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    [(); 2].map(|()| numbers.next().unwrap_or(0))
}

/// Looks until `found` has an answer; panics with its last refusal when the time is over.
pub fn wait_until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match found() {
            Ok(answer) => return answer,
            Err(refusal) if start.elapsed() >= limit => panic!("{what}: not within {limit:?}: {refusal}"),
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Fails unless two amounts differ by no more than the greater of the two allowances.
#[track_caller]
pub fn assert_near(what: &str, found: u64, expected: u64, percent: f64, absolute: u64) {
    let allowed = (expected as f64 * percent / 100.0).max(absolute as f64);
    let difference = found.abs_diff(expected);
    assert!(
        difference as f64 <= allowed,
        "{what}: found {found}, expected {expected}: {difference} apart, allowed are {allowed:.0}"
    );
}

/// What a thread, or what was caught, gave; where it panicked, this does so with its words.
#[track_caller]
pub fn given<T>(who: &str, outcome: thread::Result<T>) -> T {
    outcome.unwrap_or_else(|cause| {
        let words =
            cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
        panic!("{who}: {}", words.unwrap_or("it says nothing"))
    })
}

/// Does something when it goes, also in a panic: what another thread waits for, so that a test fails and does not hang.
pub struct OnDrop<F: Fn()>(pub F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
