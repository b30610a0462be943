//! Records of the collector `oom`, what is remembered of a task that frees memory, and whose limit can have led to a kill.

use bytemuck::{Pod, Zeroable};

use crate::{cgroup::CgroupKey, event, label::label};

/// The kernel has marked a task as a victim of an OOM kill: [`Victim`]. It marks threads, not kills: a thread that still
/// allocates after its process was killed, and one that was about to end anyway, are marked as well.
pub const VICTIM: u32 = event::kind("oom.victim");
/// A memory cgroup with kills or OOMs of its own is about to be removed: [`LastWords`]. Comes before the removal.
pub const LAST_WORDS: u32 = event::kind("oom.last_words");

/// Memory cgroups that a record has, from the victim's own on upwards.
pub const LEVELS: usize = 16;
/// Bytes of a task's name, the 0 at its end included.
pub const NAME_BYTES: usize = 16;

label! {
    /// Whose limit led to a kill.
    OomScope {
        /// That of the victim's container or unit, or of a cgroup inside it.
        Container = "container",
        /// That of its pod.
        Pod = "pod",
        /// That of a cgroup above.
        Ancestor = "ancestor",
        /// No cgroup's: the node was short of memory.
        Node = "node",
        /// Not known: the kill's record was lost, or does not decide it.
        Other = "other",
    }
}

/// Tasks whose last reclaim is remembered, by the low bits of their id; a power of two.
pub const RECLAIM_TASKS: u32 = 1 << 10;
/// A task's last reclaim freed memory of the node, since the node was short of it.
pub const RECLAIM_OF_NODE: u64 = 1;
/// A task's last reclaim freed memory of a cgroup, since that was at its limit.
pub const RECLAIM_OF_CGROUP: u64 = 2;

/// A task's last reclaim, as one word.
#[inline(always)]
#[must_use]
pub const fn last_reclaim(task: u32, of: u64) -> u64 {
    (task as u64) << 32 | of
}

/// Whose memory it freed; 0 if the word tells of another task or of none.
#[inline(always)]
#[must_use]
pub const fn reclaimed_by(word: u64, task: u32) -> u64 {
    if word >> 32 == task as u64 { word & 0xffff_ffff } else { 0 }
}

/// One memory cgroup at a kill.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Level {
    /// Its id in the tree of the memory controller: without a mark, also where that is a tree of its own.
    pub id: u64,
    /// What it and those below it have.
    pub usage_pages: u64,
    /// What it may have; without a limit more than any machine has.
    pub limit_pages: u64,
    /// How often its own limit could not be kept by reclaim.
    pub ooms: u64,
}

/// A task that was marked, and the moment at which that was.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Victim {
    /// How many marks there have been, this one included: a gap tells that a record was lost.
    pub mark: u64,
    /// Id of the process.
    pub process: u32,
    /// Id of the process that wanted memory.
    pub trigger: u32,
    /// When the process began, nanoseconds of `CLOCK_MONOTONIC`: tells two of one id apart.
    pub started_ns: u64,
    /// The cgroup of its task that did; [`crate::tasks::KEY_KERNEL`] for a kernel thread.
    pub trigger_key: CgroupKey,
    /// Kills that the kernel has counted so far in the memory cgroup of the process.
    pub kills: u64,
    /// The memory cgroup of its pod, or of its container where that is in no pod; 0 for none.
    pub group: u64,
    /// The memory cgroup of its container, of its pod where it is in none, or of its unit; 0 for none.
    pub container: u64,
    /// Resident memory of the process, without what CPUs have not yet added to the sum.
    pub resident_pages: u64,
    /// What the last reclaim of the task that wanted memory was of: [`RECLAIM_OF_NODE`] or [`RECLAIM_OF_CGROUP`], 0 where that is
    /// not known. Nobody is killed before the task has tried to free memory of the very one that is short.
    pub reclaim_of: u64,
    /// How many of `levels` there are.
    pub level_count: u32,
    /// The levels, one bit each, whose processes the kernel kills together.
    pub killed_together: u32,
    /// Name of the process, up to the first 0.
    pub name: [u8; NAME_BYTES],
    /// Name of the process that wanted memory.
    pub trigger_name: [u8; NAME_BYTES],
    /// The memory cgroup of the process and those above it.
    pub levels: [Level; LEVELS],
}

/// What a memory cgroup has counted by its removal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct LastWords {
    /// Its id in the tree of the memory controller.
    pub id: u64,
    /// Kills of processes in it.
    pub kills: u64,
}

const _: () = assert!(size_of::<Level>() == 32);
const _: () = assert!(size_of::<Victim>() == 112 + 32 * LEVELS);
const _: () = assert!(size_of::<LastWords>() == 16);

#[cfg(test)]
mod tests {
    use super::{RECLAIM_OF_CGROUP, RECLAIM_OF_NODE, last_reclaim, reclaimed_by};

    #[test]
    fn a_reclaim_is_its_tasks_alone() {
        let word = last_reclaim(u32::MAX, RECLAIM_OF_CGROUP);
        assert_eq!((reclaimed_by(word, u32::MAX), reclaimed_by(word, 7)), (RECLAIM_OF_CGROUP, 0));
        assert_eq!(reclaimed_by(last_reclaim(7, RECLAIM_OF_NODE), 7), RECLAIM_OF_NODE);
        assert_eq!(reclaimed_by(0, 7), 0);
    }
}
