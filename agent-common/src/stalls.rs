//! Stalls for memory and major faults, by slot; and what is remembered of a task from a stall's beginning to its end.

use bytemuck::{Pod, Zeroable};

use crate::{histogram::Lengths, label::label, scheduler::Thread};

label! {
    /// What a task that wants memory does instead of going on.
    StallReason {
        /// It frees memory, since the node is short of it.
        DirectReclaim = "direct_reclaim",
        /// It frees memory of its cgroup, which is at a limit or above `memory.high`.
        MemcgReclaim = "memcg_reclaim",
        /// It was put to sleep, since its cgroup is above `memory.high`.
        MemoryHigh = "memory_high",
        /// It moves pages together, so that a large one is free.
        Compaction = "compaction",
        /// It waits for a page that was in memory a short while ago, or in swap.
        Refault = "refault",
    }
}

impl StallReason {
    /// What a sleep for want of memory is, by its kind in [`Thread::blocked`]. The kernel marks a reading of a page that comes back as a
    /// whole, with whatever the file system waits for in it: for a device, for a lock or, as FUSE does, for its turn, which a kill
    /// ends as it does a sleep for `memory.high`. That can only be where a cgroup has one, which is asked last.
    #[inline(always)]
    #[must_use]
    pub fn of_sleep(kind: u64, frees_memory: impl FnOnce() -> bool, has_high: impl FnOnce() -> bool) -> Self {
        if kind & Thread::FOR_DEVICE != 0 || kind == Thread::AMID_READING {
            Self::Refault
        } else if frees_memory() {
            // `throttle_direct_reclaim` of mm/vmscan.c, before the tracepoint.
            Self::DirectReclaim
        } else if has_high() {
            Self::MemoryHigh
        } else {
            Self::Refault
        }
    }
}

/// A number of pages that is no limit: what `max` stands for is the largest number of bytes in pages, by their size.
pub const NO_LIMIT_PAGES: u64 = 1 << 46;

/// Where in [`Stalls`] the major faults are: behind the reasons.
pub const FAULTS: usize = StallReason::COUNT;

/// One slot's stalls by [`StallReason`], then its major faults.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Stalls(pub [Lengths; FAULTS + 1]);

impl Stalls {
    /// None.
    pub const EMPTY: Self = Self([Lengths::EMPTY; FAULTS + 1]);
}

/// Tasks that are remembered, by the low bits of their id; a power of two.
pub const STALL_TASKS: u32 = 1 << 13;

/// A stall that has begun.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Begun {
    /// The task and its reason: see [`Begun::of`]; 0 for none.
    pub of: u64,
    /// When, by the monotonic clock.
    pub at_ns: u64,
}

impl Begun {
    /// What tells whose stall it is.
    #[inline(always)]
    #[must_use]
    pub const fn of(task: u32, reason: StallReason) -> u64 {
        (task as u64) << 32 | reason as u64
    }

    /// Whether it is this task's, for whatever reason. The idle tasks, whose id is 0, never stall.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(of: u64, task: u32) -> bool {
        of >> 32 == task as u64
    }
}

/// A task's last sleep for a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Slept {
    /// The task and how many faults it had had by then: see [`Slept::of`]; 0 for none.
    pub of: u64,
    /// How long.
    pub ns: u64,
}

impl Slept {
    /// What tells in which of its faults a task slept, by how many it had had before, modulo 2^32.
    #[inline(always)]
    #[must_use]
    pub const fn of(task: u32, faults: u32) -> u64 {
        (task as u64) << 32 | faults as u64
    }

    /// Whether it is another task's.
    #[inline(always)]
    #[must_use]
    pub const fn is_of_another(of: u64, task: u32) -> bool {
        of != 0 && of >> 32 != task as u64
    }
}

/// What could not be told. Any CPU adds to it, by atomic additions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct StallCounts {
    /// Stalls of which the beginning or the end is not known.
    pub stalls: u64,
    /// Major faults of which it is not known whether their task slept.
    pub faults: u64,
    /// No loss: major faults that the program was told of. Less than the kernel has counted, if the program was left out.
    pub told_faults: u64,
}

const _: () = assert!(size_of::<Stalls>() == 816);
const _: () = assert!(size_of::<Begun>() == 16);
const _: () = assert!(size_of::<Slept>() == 16);

#[cfg(test)]
mod tests {
    use super::{Begun, Slept, StallReason, Thread};

    #[test]
    fn a_stall_is_its_tasks_and_has_its_reason() {
        let direct = Begun::of(77, StallReason::DirectReclaim);
        assert!(Begun::is_of(direct, 77) && !Begun::is_of(direct, 78) && !Begun::is_of(0, 77));
        assert_ne!(direct, Begun::of(77, StallReason::Compaction));
        assert_ne!(direct, 0);
    }

    #[test]
    fn a_sleep_is_for_memory_high_only_where_a_cgroup_has_one_and_nothing_else_tells_what_it_is() {
        let killable = Thread::OFF_CPU | Thread::FOR_MEMORY;
        for (kind, frees_memory, has_high, reason) in [
            (killable, false, true, StallReason::MemoryHigh),
            // A file system's own wait amid a reading.
            (killable, false, false, StallReason::Refault),
            (killable, true, true, StallReason::DirectReclaim),
            (killable, true, false, StallReason::DirectReclaim),
            // On a lock, whatever the cgroup has.
            (Thread::AMID_READING, false, true, StallReason::Refault),
            (killable | Thread::FOR_DEVICE, false, true, StallReason::Refault),
            (killable | Thread::FOR_DEVICE, true, true, StallReason::Refault),
        ] {
            let found = StallReason::of_sleep(kind, || frees_memory, || has_high);
            assert_eq!(found, reason, "{kind} {frees_memory} {has_high}");
        }
    }

    #[test]
    fn a_sleep_is_of_one_fault_of_one_task() {
        let slept = Slept::of(77, u32::MAX);
        assert!(!Slept::is_of_another(slept, 77) && Slept::is_of_another(slept, 78) && !Slept::is_of_another(0, 77));
        assert_ne!(slept, Slept::of(77, 0));
    }
}
