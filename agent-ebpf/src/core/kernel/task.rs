//! Tasks and what the threads of a process share.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use super::{
    cgroup::CssSet,
    number,
    sched::{CfsRq, Rq},
    structure,
};

/// `PF_KTHREAD` of linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `TASK_ON_RQ_MIGRATING` of kernel/sched/sched.h.
const TASK_ON_RQ_MIGRATING: u8 = 2;

structure! {
    /// `struct task_struct`
    Task {
        pid: u32 = "task_struct.pid";
        tgid: u32 = "task_struct.tgid";
        flags: u32 = "task_struct.flags";
        on_rq: u8 = "task_struct.on_rq";
        cgroups: CssSet = "task_struct.cgroups";
        cfs_rq: CfsRq = "task_struct.se.cfs_rq";
        queued_ns: u64 = "task_struct.sched_info.last_queued";
        arrived_ns: u64 = "task_struct.sched_info.last_arrival";
        executed_ns: u64 = "task_struct.se.sum_exec_runtime";
        run_delay_ns: u64 = "task_struct.sched_info.run_delay";
        dispatches: u64 = "task_struct.sched_info.pcount";
        // Where the tracepoint does not tell who is the last of its process.
        signal: Signal = "task_struct.signal unless sched_process_exit(2)";
        // Where the tracepoint does not carry it. Its upper half, where it is 64 bits wide, is 0; the machine is little
        // endian.
        state: u32 = "task_struct.__state|task_struct.state unless sched_switch(4)";
    }
}
structure! {
    /// `struct signal_struct`: what the threads of a process share
    Signal {
        living: u32 = "signal_struct.live.counter unless sched_process_exit(2)";
    }
}

impl Task {
    /// A kernel thread.
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// The task was taken from one run queue and is not yet on another.
    #[inline(always)]
    pub(crate) fn is_migrating(self) -> bool {
        self.on_rq() == TASK_ON_RQ_MIGRATING
    }

    /// The run queue of its task group's queue; none while the kernel sets it up.
    #[inline(always)]
    pub(crate) fn rq(self) -> Option<Rq> {
        let queue = self.cfs_rq();
        if queue.is_null() {
            return None;
        }
        let rq = queue.rq();
        if rq.is_null() { None } else { Some(rq) }
    }
}

/// `sched_switch` carries the state of the task that leaves (5.18 and later).
#[inline(always)]
pub(crate) fn switch_has_state() -> bool {
    number!("sched_switch(4) ? 1 : 0") != 0
}

/// `sched_process_exit` tells whether the thread is its group's last (6.16 and later).
#[inline(always)]
pub(crate) fn exit_tells_group() -> bool {
    number!("sched_process_exit(2) ? 1 : 0") != 0
}

/// The thread group of a task that may be gone by now; none if nothing is there any more.
#[inline(always)]
pub(crate) fn thread_group_at(task: u64) -> Option<u32> {
    let address = task + number!("u32 task_struct.tgid");
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.ok()
}

/// The CPU time of a task that may be gone by now; none if nothing is there any more.
#[inline(always)]
pub(crate) fn executed_ns_at(task: u64) -> Option<u64> {
    let address = task + number!("u64 task_struct.se.sum_exec_runtime");
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.ok()
}
