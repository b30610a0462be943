//! Tasks and what the threads of a process share.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use podlens_common::scheduler::Thread;

use super::{
    cgroup::CssSet,
    number, offsets,
    sched::{CfsRq, Rq},
    structure,
};

/// `PF_KTHREAD` of linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_MEMALLOC` of the same: the task frees memory, and may take what is kept back for that.
const PF_MEMALLOC: u32 = 0x800;
/// `SIGNAL_GROUP_EXIT` of linux/sched/signal.h.
const SIGNAL_GROUP_EXIT: u32 = 4;
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
        // The same for a program that needs it in any case.
        signals: Signal = "task_struct.signal";
        leader: Task = "task_struct.group_leader";
        exit_code: u32 = "task_struct.exit_code";
        thread_pid: Pid = "task_struct.thread_pid";
        minor_faults: u64 = "task_struct.min_flt";
        major_faults: u64 = "task_struct.maj_flt";
        // Bit fields, of which a kernel without pressure stall information has the second only.
        waits_for: u32 = "task_struct.in_memstall+in_iowait|task_struct.in_iowait";
        // Where the tracepoint does not carry it. Its upper half, where it is 64 bits wide, is 0; the machine is little
        // endian.
        state: u32 = "task_struct.__state|task_struct.state unless sched_switch(4)";
    }
}
structure! {
    /// `struct signal_struct`: what the threads of a process share
    Signal {
        living: u32 = "signal_struct.live.counter unless sched_process_exit(2)";
        flags: u32 = "signal_struct.flags";
        exit_code: u32 = "signal_struct.group_exit_code";
    }
}
structure! {
    /// `struct pid`: a process' numbers, one in each namespace from the host's down to its own
    Pid {
        level: u32 = "pid.level";
    }
}

impl Pid {
    /// The process' number in its own namespace.
    #[inline(always)]
    pub(crate) fn number(self) -> Option<u32> {
        // `struct upid` is a number and a pointer.
        let at = self.address() + number!("pid.numbers") + u64::from(self.level()) * 16;
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(at as *const u32) }.ok()
    }
}

impl Signal {
    /// How the process ended, as wait_task_zombie() of kernel/exit.c chooses: as the whole of it was told to, or as its main
    /// thread did. Both are read in any case, since the verifier of 5.10 does not follow an optional value on the stack.
    #[inline(always)]
    pub(crate) fn status(self, leader: Task) -> u32 {
        let (of_all, of_leader) = (self.exit_code(), leader.exit_code());
        if self.flags() & SIGNAL_GROUP_EXIT != 0 { of_all } else { of_leader }
    }
}

/// Whether the task at an address is a kernel thread.
#[inline(always)]
pub(crate) fn is_kernel_thread_at(task: u64) -> bool {
    offsets::half(task + offsets::task_flags()) & PF_KTHREAD != 0
}

impl Task {
    /// A kernel thread.
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// It frees memory, or waits until it may: within `__perform_reclaim` of mm/page_alloc.c, and not where it sleeps for
    /// `memory.high`.
    #[inline(always)]
    pub(crate) fn frees_memory(self) -> bool {
        self.flags() & PF_MEMALLOC != 0
    }

    /// The task was taken from one run queue and is not yet on another.
    #[inline(always)]
    pub(crate) fn is_migrating(self) -> bool {
        self.on_rq() == TASK_ON_RQ_MIGRATING
    }

    /// The kind of a sleep in state disk that it begins, and that a kill ends or not: see [`Thread::blocked`].
    #[inline(always)]
    pub(crate) fn disk_sleep(self, is_killable: bool) -> u64 {
        let bits = u64::from(self.waits_for());
        let mut kind = Thread::OFF_CPU;
        if bits & number!("mask u32 task_struct.in_iowait") != 0 {
            kind |= Thread::FOR_DEVICE;
        }
        if number!("memstall ? 1 : 0") != 0 && bits & number!("mask u32 task_struct.in_memstall?memstall") != 0 {
            kind |= Thread::FOR_MEMORY;
            // The kernel's own way of sleeping for `memory.high` is `schedule_timeout_killable`.
            if kind & Thread::FOR_DEVICE == 0 && !is_killable {
                kind = Thread::AMID_READING;
            }
        }
        kind
    }

    /// The kernel counts it as stalled for want of memory. Not where the kernel does not count that.
    #[inline(always)]
    pub(crate) fn is_stalled_for_memory(self) -> bool {
        u64::from(self.waits_for()) & number!("mask u32 task_struct.in_memstall?memstall") != 0
    }

    /// Page faults that it has had, modulo 2^32.
    #[inline(always)]
    pub(crate) fn faults(self) -> u32 {
        (self.minor_faults() + self.major_faults()) as u32
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

/// The id of a task that may be gone by now; none if nothing is there any more.
#[inline(always)]
pub(crate) fn thread_at(task: u64) -> Option<u32> {
    let address = task + number!("u32 task_struct.pid");
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.ok()
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
