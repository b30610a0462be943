//! Processes by slot, and tasks by state as of the last walk through all of them.

use bytemuck::{Pod, Zeroable};

use crate::{cgroup::CgroupKey, label::label};

/// Processes that began and ended in one slot's cgroup. Any CPU adds to it, by atomic additions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Processes {
    /// Thread groups that were created.
    pub created: u64,
    /// Thread groups that ended.
    pub exited: u64,
}

label! {
    /// What a task does.
    TaskState {
        /// On a CPU.
        Running = "running",
        /// Wants a CPU and has none.
        Waiting = "waiting",
        /// Blocked, and a signal or nothing at all is waited for: sleeping, idle, stopped, traced.
        Sleeping = "sleeping",
        /// Blocked in what no signal interrupts, as disk input and output.
        Disk = "disk",
    }
}

/// In a record: kernel threads in the root cgroup.
pub const KEY_KERNEL: CgroupKey = 0;
/// In a record: other tasks in the root cgroup.
pub const KEY_ROOT: CgroupKey = 1;

/// Records that a walk can write.
pub const TASK_RECORDS: u32 = 16_384;

/// Tasks of one cgroup that a walk met one after another; a cgroup may have several records.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TaskRecord {
    /// The cgroup, or one of the two keys above.
    pub key: CgroupKey,
    /// Tasks by state.
    pub tasks: [u32; TaskState::COUNT],
}

/// How far the walk is, as of the end of its last run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TaskWalk {
    /// Runs that it took so far; 0 has the next one begin anew.
    pub runs: u64,
    /// 1: it came round to where it began.
    pub finished: u64,
    /// 1: it cannot go on.
    pub lost: u64,
    /// Records that it wrote.
    pub records: u64,
    /// Tasks by state for which there was no record left.
    pub unrecorded: [u32; TaskState::COUNT],
}

const _: () = assert!(size_of::<Processes>() == 16);
const _: () = assert!(size_of::<TaskRecord>() == 24);
const _: () = assert!(size_of::<TaskWalk>() == 48);
