//! What is remembered of a thread from one switch to the next: what it had waited, and since when it sleeps.

use aya_ebpf::{macros::map, maps::Array};
use podlens_common::scheduler::{Account, OFF_DISK, OFF_SLEEP, THREADS as ENTRIES, Thread};

use super::lane::Lane;
use crate::kernel::Task;

/// `TASK_UNINTERRUPTIBLE`, `TASK_DEAD` and `TASK_NOLOAD` of linux/sched.h.
const UNINTERRUPTIBLE: u32 = 0x0002;
const DEAD: u32 = 0x0080;
const NO_LOAD: u32 = 0x0400;

/// Each thread, by the low bits of its id.
#[map]
static THREADS: Array<Thread> = Array::with_max_entries(ENTRIES, 0);

#[inline(always)]
fn entry(pid: u32) -> Option<&'static mut Thread> {
    // SAFETY: a thread is dispatched on one CPU at a time; of two threads with the same low bits one stays,
    // whole or not. What the other's entry would have told is then not known, and `slept` refuses what cannot be.
    THREADS.get_ptr_mut(pid & (ENTRIES - 1)).map(|thread| unsafe { &mut *thread })
}

/// A thread leaves the CPU and sleeps.
#[inline(always)]
pub(super) fn block(lane: &mut Lane, task: Task, state: u32) {
    let pid = task.pid();
    if state & DEAD != 0 {
        return;
    }
    let Some(thread) = entry(pid) else { return };
    if thread.stage as u32 != pid {
        lane.now.unknown_sleeps += 1;
        return;
    }
    let is_disk = state & UNINTERRUPTIBLE != 0 && state & NO_LOAD == 0;
    let state = if is_disk { OFF_DISK } else { OFF_SLEEP } as u64;
    thread.blocked = lane.clock_ns().wrapping_sub(thread.total_ns) & !1 | state;
}

/// A thread is dispatched: books how long it slept and remembers what it has waited, the wait that ends now included.
#[inline(always)]
pub(super) fn dispatch(lane: &mut Lane, account: &mut Account, task: Task, queued_ns: u64, clock_ns: u64) {
    let pid = task.pid();
    let Some(thread) = entry(pid) else { return };
    let total_ns = task.run_delay_ns().wrapping_add(clock_ns.wrapping_sub(queued_ns));
    let dispatches = task.dispatches();
    if thread.blocked != 0 {
        let known = thread.stage == Thread::stage(pid, dispatches);
        slept(lane, account, thread, known, total_ns, clock_ns, || task.arrived_ns());
    }
    *thread = Thread { stage: Thread::stage(pid, dispatches.wrapping_add(1)), total_ns, blocked: 0 };
}

/// Books a sleep: the time since it began, less what was waited since.
#[inline(always)]
fn slept(
    lane: &mut Lane,
    account: &mut Account,
    thread: &Thread,
    known: bool,
    total_ns: u64,
    clock_ns: u64,
    arrived_ns: impl Fn() -> u64,
) {
    let slept_ns = (clock_ns.wrapping_sub(total_ns) & !1).wrapping_sub(thread.blocked & !1);
    // Two CPUs' clocks may differ by a little, so that a short sleep ends before it began.
    if slept_ns > i64::MAX as u64 && known {
        return;
    }
    // It was running when it blocked.
    if known && slept_ns <= clock_ns.wrapping_sub(arrived_ns()) {
        account.off_cpu_ns[(thread.blocked & 1) as usize] += slept_ns;
    } else {
        lane.now.unknown_sleeps += 1;
    }
}

/// What the kernel has added to a task's waited time since it was last booked, and is booked now; none if that
/// is nothing or not known. `unseen` is how many dispatches were not seen since.
#[inline(always)]
pub(super) fn unbooked_wait(lane: &mut Lane, task: Task, unseen: u64) -> Option<u64> {
    let pid = task.pid();
    let dispatches = task.dispatches();
    let total_ns = task.run_delay_ns();
    let thread = entry(pid)?;
    let known = thread.stage == Thread::stage(pid, dispatches.wrapping_sub(unseen));
    let before_ns = if known {
        thread.total_ns
    } else if dispatches == unseen {
        0
    } else {
        lane.now.unknown_legs += 1;
        total_ns
    };
    let blocked = if known { thread.blocked } else { 0 };
    *thread = Thread { stage: Thread::stage(pid, dispatches), total_ns, blocked };
    let leg_ns = total_ns.wrapping_sub(before_ns);
    (leg_ns != 0).then_some(leg_ns)
}

/// The dispatch of a thread was not seen: books now how long it had slept until then.
#[inline(always)]
pub(super) fn dispatched_unseen(lane: &mut Lane, account: &mut Account, task: Task, arrived_ns: u64) {
    let pid = task.pid();
    let Some(thread) = entry(pid) else { return };
    if thread.stage as u32 == pid && thread.blocked != 0 {
        // The arrival before this one is not known any more: any sleep since the clock began can be.
        slept(lane, account, thread, true, thread.total_ns, arrived_ns, || 0);
        thread.blocked = 0;
    }
}
