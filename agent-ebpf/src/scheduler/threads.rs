//! What is remembered of a thread from one switch to the next: what it had waited, and since when it sleeps.

use podlens_common::scheduler::{Account, OFF_DISK, OFF_SLEEP, THREADS as ENTRIES, Thread};

use super::lane::Lane;
use crate::kernel::Task;

/// `TASK_UNINTERRUPTIBLE` and `TASK_NOLOAD` of linux/sched.h.
const UNINTERRUPTIBLE: u32 = 0x0002;
const NO_LOAD: u32 = 0x0400;

/// Each thread, by the low bits of its id. No map, since the compiler then knows where it is and need not call for it.
static mut THREADS: [Thread; ENTRIES as usize] = [Thread { stage: 0, total_ns: 0, blocked: 0 }; ENTRIES as usize];

#[inline(always)]
fn entry(pid: u32) -> &'static mut Thread {
    // SAFETY: a thread is dispatched on one CPU at a time; of two threads with the same low bits one stays,
    // whole or not. What the other's entry would have told is then not known, and `slept` refuses what cannot be.
    unsafe { &mut *(&raw mut THREADS).cast::<Thread>().add((pid & (ENTRIES - 1)) as usize) }
}

/// When a thread blocks and how, in that state: see [`Thread::blocked`].
#[inline(always)]
pub(super) fn blocked(task: Task, state: u32, clock_ns: u64) -> u64 {
    let is_disk = state & (UNINTERRUPTIBLE | NO_LOAD) == UNINTERRUPTIBLE;
    Thread::blocked(clock_ns.wrapping_sub(task.run_delay_ns()), if is_disk { OFF_DISK } else { OFF_SLEEP })
}

/// A thread leaves the CPU.
#[inline(always)]
pub(super) fn leave(task: Task, blocked: u64) {
    let pid = task.pid();
    *entry(pid) = Thread { stage: Thread::stage(pid, task.dispatches()), total_ns: task.run_delay_ns(), blocked };
}

/// A thread is dispatched that was queued then: books how long it had slept until that.
#[inline(always)]
pub(super) fn dispatch(lane: &mut Lane, account: &mut Account, task: Task, queued_ns: u64, clock_ns: u64) {
    let pid = task.pid();
    let thread = entry(pid);
    let dispatches = task.dispatches();
    if thread.stage == Thread::stage(pid, dispatches) {
        if thread.blocked != 0 {
            let lag_ns = queued_ns.wrapping_sub(task.run_delay_ns());
            // It was running when it blocked.
            slept(lane, account, thread.blocked, lag_ns, clock_ns.wrapping_sub(task.arrived_ns()));
        }
    } else if thread.stage != 0 && dispatches != 0 {
        lane.now.unknown_sleeps += 1;
    }
}

/// Books a sleep, by how much the thread's clock lags now and lagged when it began; no longer than `longest_ns`.
#[inline(always)]
fn slept(lane: &mut Lane, account: &mut Account, blocked: u64, lag_ns: u64, longest_ns: u64) {
    let slept_ns = (lag_ns & !1).wrapping_sub(blocked & !1);
    if slept_ns <= longest_ns {
        account.off_cpu_ns[(blocked & 1) as usize] += slept_ns;
    } else if slept_ns <= i64::MAX as u64 {
        lane.now.unknown_sleeps += 1;
    }
    // Two CPUs' clocks may differ by a little, so that a short sleep ends before it began.
}

/// What the kernel has added to a task's waited time since it was last booked, and is booked now; none if that
/// is nothing or not known. `unseen` is how many dispatches were not seen since.
#[inline(always)]
pub(super) fn unbooked_wait(lane: &mut Lane, task: Task, unseen: u64) -> Option<u64> {
    let pid = task.pid();
    let dispatches = task.dispatches();
    let total_ns = task.run_delay_ns();
    let thread = entry(pid);
    let known = thread.stage == Thread::stage(pid, dispatches.wrapping_sub(unseen));
    let before_ns = if known {
        thread.total_ns
    } else if dispatches == unseen {
        0
    } else {
        lane.now.unknown_legs += 1;
        total_ns
    };
    thread.stage = Thread::stage(pid, dispatches);
    thread.total_ns = total_ns;
    if !known {
        thread.blocked = 0;
    }
    let leg_ns = total_ns.wrapping_sub(before_ns);
    (leg_ns != 0).then_some(leg_ns)
}

/// The dispatch of a thread was not seen: books now how long it had slept until then.
#[inline(always)]
pub(super) fn dispatched_unseen(lane: &mut Lane, account: &mut Account, task: Task, arrived_ns: u64) {
    let pid = task.pid();
    let thread = entry(pid);
    if thread.stage as u32 == pid && thread.blocked != 0 {
        // The arrival before this one is not known any more: any sleep since the clock began can be.
        slept(lane, account, thread.blocked, arrived_ns.wrapping_sub(thread.total_ns), arrived_ns);
        thread.blocked = 0;
    }
}
