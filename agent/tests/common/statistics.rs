//! How long kernel programs run, according to the kernel's own statistics, which are on while the value lives.

use std::{os::fd::OwnedFd, time::Duration};

use aya::programs::{ProgramInfo, loaded_programs};

/// Has them switched on while it lives.
#[derive(Debug)]
pub struct RunStatistics(#[expect(dead_code, reason = "it is only kept")] OwnedFd);

impl RunStatistics {
    /// Switches them on.
    pub fn start() -> Self {
        Self(aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("root may switch them on"))
    }

    /// Time and runs of the newest program of that name; to be asked while they are on.
    pub fn of(name: &str) -> (Duration, u64) {
        let programs = loaded_programs().filter_map(Result::ok);
        let of_name = programs.filter(|program| program.name_as_str() == Some(name));
        let newest = of_name.max_by_key(ProgramInfo::id).expect("it is loaded");
        (newest.run_time(), newest.run_count())
    }
}
