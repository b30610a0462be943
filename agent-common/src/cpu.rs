//! Records of the collector `cpu`.

use bytemuck::{Pod, Zeroable};

use crate::event::{self, EndPath};

/// What was known of a cgroup that is about to be removed: [`CpuFigures`]. Comes before the removal.
pub const LAST_WORDS: u32 = event::kind("cpu.last_words");
/// The same of a cgroup in a hierarchy of the cpuacct controller's own: [`CpuTimesAt`]. May come after the removal.
pub const LAST_TIMES: u32 = event::kind("cpu.last_times");

/// [`crate::tree::TreeWalk::tree`]: that of the CPU controller.
pub const QUOTAS: u64 = 0;
/// The same: the cpuacct controller's, where version 1 has it in a hierarchy of its own.
pub const ACCOUNTS: u64 = 1;

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

/// CPU time, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CpuTimes {
    /// In user mode, by the kernel's ticks.
    pub user: u64,
    /// In kernel mode, likewise.
    pub system: u64,
    /// In both, by the scheduler's clock; 0 where the kernel does not split that by mode (version 1).
    pub run: u64,
}

/// CPU times of a cgroup of the cpuacct controller's own hierarchy, with its path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CpuTimesAt {
    /// All that it has used.
    pub times: CpuTimes,
    /// Its path.
    pub path: EndPath,
}

/// What the kernel's memory has of a cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CpuFigures {
    /// [`HAS_GROUP`] and [`HAS_TIMES`]: what of this is known.
    pub known: u64,
    /// The quota, [`NO_QUOTA`] where there is none.
    pub quota_ns: u64,
    /// In each period of this length.
    pub period_ns: u64,
    /// What the quota did.
    pub bandwidth: Bandwidth,
    /// CPU time, cgroups below included, that the kernel has added to the cgroup above; in version 1 all there is.
    pub handed_up: CpuTimes,
    /// That of the cgroup itself, and that of cgroups below which was added to it, beyond [`Self::handed_up`].
    pub pending: CpuTimes,
    /// What the kernel told whoever read cpu.stat last: user and system.
    pub told: [u64; 2],
}

/// The cgroup has a CPU controller: quota, period and bandwidth are known.
pub const HAS_GROUP: u64 = 1;
/// CPU times are known.
pub const HAS_TIMES: u64 = 2;
/// `RUNTIME_INF` of kernel/sched/sched.h.
pub const NO_QUOTA: u64 = u64::MAX;

/// One cgroup that the walk has met.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CpuRecord {
    /// Its id; 0 for one that was removed, of which only the times not handed up are told.
    pub id: u64,
    /// How far it is below the root.
    pub depth: u64,
    /// What is known of it.
    pub figures: CpuFigures,
}

const _: () = assert!(size_of::<Bandwidth>() == 24);
const _: () = assert!(size_of::<CpuFigures>() == 112);
const _: () = assert!(size_of::<CpuRecord>() == 128);
const _: () = assert!(size_of::<CpuTimesAt>() == 24 + EndPath::BYTES);
