//! Collector `stalls`: how long tasks did not go on for want of memory, and how long they waited in major faults, by slot.
//!
//! Reclaim and compaction have tracepoints at their beginning and end, in the task that stalls. What `memory.high` does to a
//! task and the wait for a page that was evicted too early are sleeps: the program on `sched_switch` (scheduler/threads.rs) hands
//! over those that the kernel marks. They are told apart by a second mark, that of a sleep for a device, by whether a kill ends the
//! sleep, and by whether a cgroup of the task has a `memory.high` at all. A task that is not let into reclaim before others have freed memory sleeps as one above `memory.high` does,
//! but with the mark of one that frees memory.
//!
//! - Reclaim that a user asks for (`memory.reclaim`, `compact_memory`) passes the same tracepoints without the mark, and does
//!   not count. Without pressure stall information (`psi=0`) no task is ever marked: then all of it counts, and no sleep.
//! - Kernel threads do not count: nobody waits for them here.
//! - A sleep inside reclaim is a part of it and does not count twice.
//! - The two programs at the beginning of a reclaim serve the collector `oom` as well (oom.rs); the verifier removes the half that is
//!   switched off.
//! - A major fault is told at its end, in its task, by the kernel's software event. Its length is that of the task's last sleep for
//!   a device, if the task has had no other fault since.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, map, perf_event},
    maps::Array,
    programs::{BtfTracePointContext, PerfEventContext},
};
use podlens_common::{
    cgroup::SLOT_KERNEL,
    histogram::Lengths,
    oom::{RECLAIM_OF_CGROUP, RECLAIM_OF_NODE},
    scheduler::Thread,
    stalls::{Begun, FAULTS, NO_LIMIT_PAGES, STALL_TASKS, Slept, StallCounts, StallReason, Stalls},
};

use crate::{
    atomic,
    cells::cells,
    kernel::{
        Current, Task, monotonic_ns, number,
        offsets::{word, word_inline},
        slots_count,
    },
    oom, scheduler, slots,
};

/// Memory cgroups that are asked for a limit, from a task's own upwards.
const ABOVE: u32 = 16;

/// Stalls and major faults, by slot.
#[map]
static STALLS: Array<Stalls> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Stalls that have begun, by the low bits of the task's id.
#[map]
static STALLS_BEGUN: Array<Begun> = Array::with_max_entries(STALL_TASKS, 0);
/// Last sleeps for a device, likewise.
#[map]
static LAST_SLEEPS: Array<Slept> = Array::with_max_entries(STALL_TASKS, 0);
/// What could not be told.
#[map]
static STALL_COUNTS: Array<StallCounts> = Array::with_max_entries(1, BPF_F_MMAPABLE);

cells! {
    /// A task stalls on one CPU at a time. Of two tasks with the same low bits the later one's stall stays, and the end of the
    /// other's is counted as lost.
    BegunCells of Begun {
        of: u64 = of;
        at_ns: u64 = at_ns;
    }
}

cells! {
    /// As above, but that what stays of two tasks' sleeps is the later one.
    SleptCells of Slept {
        of: u64 = of;
        ns: u64 = ns;
    }
}

impl BegunCells {
    #[inline(always)]
    fn of_task(pid: u32) -> Option<Self> {
        Self::at(STALLS_BEGUN.get_ptr_mut(pid & (STALL_TASKS - 1)))
    }
}

impl SleptCells {
    #[inline(always)]
    fn of_task(pid: u32) -> Option<Self> {
        Self::at(LAST_SLEEPS.get_ptr_mut(pid & (STALL_TASKS - 1)))
    }
}

/// Counts one more.
macro_rules! count {
    ($field:ident) => {
        if let Some(losses) = STALL_COUNTS.get_ptr_mut(0) {
            // SAFETY: entries of a map outlive the program, and the word is whole and aligned.
            unsafe { atomic::add(&raw mut (*losses).$field, 1) };
        }
    };
}

/// `mm_vmscan_direct_reclaim_begin`, whose arguments and those of the following are of no use here.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
pub fn reclaim_begin(_context: BtfTracePointContext) -> i32 {
    oom::remember_reclaim(Current::pid(), RECLAIM_OF_NODE);
    begin(StallReason::DirectReclaim);
    0
}

#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
pub fn reclaim_end(_context: BtfTracePointContext) -> i32 {
    end(StallReason::DirectReclaim);
    0
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
pub fn memcg_begin(_context: BtfTracePointContext) -> i32 {
    oom::remember_reclaim(Current::pid(), RECLAIM_OF_CGROUP);
    begin(StallReason::MemcgReclaim);
    0
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
pub fn memcg_end(_context: BtfTracePointContext) -> i32 {
    end(StallReason::MemcgReclaim);
    0
}

#[btf_tracepoint(function = "mm_compaction_begin")]
pub fn compact_begin(_context: BtfTracePointContext) -> i32 {
    begin(StallReason::Compaction);
    0
}

#[btf_tracepoint(function = "mm_compaction_end")]
pub fn compact_end(_context: BtfTracePointContext) -> i32 {
    end(StallReason::Compaction);
    0
}

/// `PERF_COUNT_SW_PAGE_FAULTS_MAJ`: a major fault of the task that runs is over, and the kernel has counted it.
#[perf_event]
pub fn major_fault(_context: PerfEventContext) -> i32 {
    let (current, pid) = (Current::get(), Current::pid());
    count!(told_faults);
    if let Some(slept) = SleptCells::of_task(pid) {
        let (of, mut length_ns) = (slept.of().get(), 0);
        if Slept::is_of_another(of, pid) {
            count!(faults);
        } else if of != 0 {
            if of == Slept::of(pid, current.faults().wrapping_sub(1)) {
                length_ns = slept.ns().get();
            }
            // Another fault came between, or it is told now.
            slept.of().set(0);
        }
        enter_stall(slot_of(current), FAULTS as u32, length_ns);
    }
    0
}

/// A task comes to the CPU after a sleep of that kind, for a device or for want of memory. Called for few switches, and so not
/// a part of the program of all.
#[inline(never)]
pub(crate) fn slept(task: Task, slot: u32, kind: u64, slept_ns: u64) {
    if slot == SLOT_KERNEL {
        return;
    }
    let pid = task.pid();
    let is_for = |mark| kind & mark != 0;
    if is_for(Thread::FOR_MEMORY) {
        let Some(begun) = BegunCells::of_task(pid) else { return };
        if Begun::is_of(begun.of().get(), pid) {
            return;
        }
        let reason = StallReason::of_sleep(kind, || task.frees_memory(), || has_high(task));
        enter_stall(slot, reason as u32, slept_ns);
    }
    if is_for(Thread::FOR_DEVICE)
        && let Some(slept) = SleptCells::of_task(pid)
    {
        slept.ns().set(slept_ns);
        slept.of().set(Slept::of(pid, task.faults()));
    }
}

/// A memory cgroup of the task, its own or one above it, has a `memory.high` or `memory.swap.high` at this moment, the end of its sleep.
/// Always so where the kernel's types do not tell; never in version 1, where all of them are as if set to `max`.
#[inline(always)]
fn has_high(task: Task) -> bool {
    if number!("high ? 1 : 0") == 0 {
        return true;
    }
    let set = task.cgroups();
    if set.is_null() {
        return true;
    }
    high_from(word_inline(set.address() + number!("u64 css_set.subsys[cgroup_subsys_id.memory_cgrp_id]?high"))) != 0
}

/// The same of the memory cgroup of which this is the address of its part that all controllers have.
///
/// A function of its own with plain numbers only, which the verifier proves once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn high_from(first: u64) -> u32 {
    let (mut css, mut level) = (first, 0);
    while level < ABOVE {
        // Above the root.
        if css == 0 {
            return 0;
        }
        let group = css - number!("mem_cgroup.css?high");
        let high = word(group + number!("u64 mem_cgroup.memory.high?high"));
        let swap_high = word(group + number!("u64 mem_cgroup.swap.high?high"));
        // What cannot be read is 0, and so as where the types do not tell.
        if high < NO_LIMIT_PAGES || swap_high < NO_LIMIT_PAGES {
            return 1;
        }
        css = word(css + number!("u64 cgroup_subsys_state.parent?high"));
        level += 1;
    }
    0
}

#[inline(always)]
fn begin(reason: StallReason) {
    if number!("COUNTS_STALLS") == 0 {
        return;
    }
    let current = Current::get();
    if current.is_kernel_thread() || !current.is_stalled_for_memory() {
        return;
    }
    let pid = Current::pid();
    let Some(begun) = BegunCells::of_task(pid) else { return };
    // The end of its last stall was not reported.
    if Begun::is_of(begun.of().get(), pid) {
        count!(stalls);
    }
    begun.at_ns().set(monotonic_ns());
    begun.of().set(Begun::of(pid, reason));
}

/// Only what counts has begun. The mark is the same here as at the beginning: the kernel sets it before and takes it away after.
#[inline(always)]
fn end(reason: StallReason) {
    let (current, pid) = (Current::get(), Current::pid());
    let Some(begun) = BegunCells::of_task(pid) else { return };
    if begun.of().get() == Begun::of(pid, reason) {
        begun.of().set(0);
        let length_ns = monotonic_ns().saturating_sub(begun.at_ns().get());
        enter_stall(slot_of(current), reason as u32, length_ns);
    } else if !current.is_kernel_thread() && current.is_stalled_for_memory() {
        count!(stalls);
    }
}

/// The slot of the task that runs: noted at its dispatch as a rule.
#[inline(always)]
fn slot_of(current: Current) -> u32 {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let noted = scheduler::holder_of_running(current.address(), cpu);
    noted.unwrap_or_else(|| slots::of_current(current, cpu)).slot()
}

/// Enters a stall of that reason, or a fault, by its length; gives whether there was room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enter_stall(slot: u32, which: u32, length_ns: u64) -> u32 {
    if u64::from(slot) >= slots_count() || which > FAULTS as u32 {
        return 0;
    }
    let Some(stalls) = STALLS.get_ptr_mut(slot) else { return 0 };
    // SAFETY: entries of a map outlive the program, and `which` is below the number of elements.
    unsafe { atomic::enter((&raw mut (*stalls).0).cast::<Lengths>().add(which as usize), length_ns) };
    1
}
