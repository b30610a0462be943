//! Records of the collector `cpu`.

use bytemuck::{Pod, Zeroable};

use crate::event;

/// What a quota has done to a cgroup that is about to be removed: [`Bandwidth`]. Comes before the removal.
pub const LAST_WORDS: u32 = event::kind("cpu.last_words");

/// What a CPU quota has done to a cgroup so far, as cpu.stat tells it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bandwidth {
    /// Periods of the quota in which the cgroup had something to run.
    pub periods: u64,
    /// Those in which it was stopped.
    pub throttled_periods: u64,
    /// For how long it was stopped, summed over CPUs.
    pub throttled_ns: u64,
}

const _: () = assert!(size_of::<Bandwidth>() == 24);
