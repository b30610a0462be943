//! Collector `tasks`: processes that begin and end, by slot; tasks by state come from a walk (walk.rs).
//!
//! Thread groups count, not threads. Both hooks are rare beside a context switch, so one entry a slot with
//! atomic additions does, and memory does not grow with the number of CPUs.

mod walk;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, map},
    maps::{Array, LruHashMap},
    programs::BtfTracePointContext,
};
use podlens_common::tasks::Processes;

use crate::{
    atomic,
    kernel::{Task, exit_tells_group},
    slots,
};

/// Counts, by slot.
#[map]
static PROCESSES: Array<Processes> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Thread groups whose end was counted, where the tracepoint does not tell who is the last: of two threads that
/// end at the same moment, both can see that nobody is left.
#[map]
static ENDED: LruHashMap<u32, u8> = LruHashMap::with_max_entries(1024, 0);

/// `sched_process_fork(parent, child)`: the child is in its cgroup, which need not be its parent's.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(context: BtfTracePointContext) -> i32 {
    let child = Task::from_raw(context.arg(1));
    let group = child.tgid();
    if child.pid() == group {
        if !exit_tells_group() {
            let _ = ENDED.remove(group);
        }
        if let Some(processes) = PROCESSES.get_ptr_mut(slot_of(child)) {
            // SAFETY: entries of a map outlive the program, and the count is a whole word.
            unsafe { atomic::add(&raw mut (*processes).created, 1) };
        }
    }
    0
}

/// `sched_process_exit(task[, group_dead])`, before the task leaves its cgroup.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(context: BtfTracePointContext) -> i32 {
    let task = Task::from_raw(context.arg(0));
    let last = if exit_tells_group() {
        context.arg::<u64>(1) & 1 != 0
    } else {
        is_alone(task) && ENDED.insert(task.tgid(), 1, u64::from(BPF_NOEXIST)).is_ok()
    };
    if last && let Some(processes) = PROCESSES.get_ptr_mut(slot_of(task)) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*processes).exited, 1) };
    }
    0
}

/// No thread of its group lives any more.
#[inline(always)]
fn is_alone(task: Task) -> bool {
    let signal = task.signal();
    !signal.is_null() && signal.living() == 0
}

#[inline(always)]
fn slot_of(task: Task) -> u32 {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    slots::of_task_in_any_context(task, cpu).slot()
}
