//! Records of the collector `oom`, and whose limit can have led to a kill.

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
        /// Not known, since the kill's record was lost.
        Other = "other",
    }
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
const _: () = assert!(size_of::<Victim>() == 104 + 32 * LEVELS);
const _: () = assert!(size_of::<LastWords>() == 16);
