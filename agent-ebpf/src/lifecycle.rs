//! Collector `lifecycle`: tells the daemon of births and removals of cgroups, and how a container's first process ended.

use aya_ebpf::{helpers::bpf_get_smp_processor_id, macros::btf_tracepoint, programs::BtfTracePointContext};
use podlens_common::{
    event::{CGROUP_BORN, CGROUP_REMOVED},
    lifecycle::{INIT_ENDED, InitEnd},
};

use crate::{
    events,
    kernel::{self, Cgroup, Task, exit_tells_group},
    slots,
};

/// `cgroup_mkdir(cgroup, path)`: before any task can enter the group.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    if let Some(mark) = cgroup.key_mark() {
        events::send_path(CGROUP_BORN, cgroup.kn().id() | mark, context.arg(1));
    }
    0
}

/// `cgroup_rmdir(cgroup, path)`: when no task can enter it again. Its controllers go later. The daemon attaches it behind
/// other collectors' programs on this hook, so that their last words come before the removal.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    if let Some(mark) = cgroup.key_mark() {
        events::send_path(CGROUP_REMOVED, cgroup.kn().id() | mark, context.arg(1));
    }
    0
}

/// `sched_process_exit(task[, group_dead])`, before the task leaves its cgroup: tells the end of a process that is the
/// first of a PID namespace below the host's, and so all of a container's.
///
/// Attached beside the collector `tasks`' own program only where somebody takes events. Where the tracepoint does not
/// tell who is the last thread, two that end at the same moment may tell the same end twice.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn init_exit(context: BtfTracePointContext) -> i32 {
    let task = Task::from_raw(context.arg(0));
    let (leader, signal) = (task.leader(), task.signals());
    if leader.is_null() || signal.is_null() {
        return 0;
    }
    let last = if exit_tells_group() { context.arg::<u64>(1) & 1 != 0 } else { signal.living() == 0 };
    if last {
        tell_end(task, leader, signal);
    }
    0
}

#[inline(always)]
fn tell_end(task: Task, leader: Task, signal: kernel::Signal) {
    let pid = leader.thread_pid();
    if pid.is_null() || pid.level() == 0 || pid.number() != Some(1) {
        return;
    }
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(key) = slots::key_of_task(task, cpu) else { return };
    events::send(INIT_ENDED, key, InitEnd { status: signal.status(leader), level: pid.level() });
}
