//! What is remembered of a thread from one switch to the next: what it had waited, and since when it sleeps.

use core::ptr::NonNull;

use podlens_common::scheduler::{THREADS as ENTRIES, Thread};

use super::state::{AccountCells, CpuState};
use crate::{cells::cells, kernel::Task, stalls};

/// `TASK_UNINTERRUPTIBLE`, `TASK_WAKEKILL` and `TASK_NOLOAD` of linux/sched.h.
const UNINTERRUPTIBLE: u32 = 0x0002;
const WAKE_KILL: u32 = 0x0100;
const NO_LOAD: u32 = 0x0400;

/// Each thread, by the low bits of its id. No map, since the compiler then knows where it is and need not call for it.
static mut THREADS: [Thread; ENTRIES as usize] = [Thread { dispatch_id: 0, total_ns: 0, blocked: 0 }; ENTRIES as usize];

cells! {
    /// A thread is dispatched on one CPU at a time. Of two threads with the same low bits one stays, whole or not. What the
    /// other's entry would have told is then not known, and `slept` refuses what cannot be.
    ThreadCells of Thread {
        dispatch_id: u64 = dispatch_id;
        total_ns: u64 = total_ns;
        blocked: u64 = blocked;
    }
}

#[inline(always)]
fn entry(pid: u32) -> ThreadCells {
    // SAFETY: the mask keeps the place inside the table.
    let place = unsafe { (&raw mut THREADS).cast::<Thread>().add((pid & (ENTRIES - 1)) as usize) };
    // SAFETY: the table is not at address 0.
    ThreadCells(unsafe { NonNull::new_unchecked(place) })
}

/// When a thread blocks and how, in that state: see [`Thread::blocked`].
#[inline(always)]
pub(super) fn blocked(task: Task, state: u32, clock_ns: u64) -> u64 {
    let is_disk = state & (UNINTERRUPTIBLE | NO_LOAD) == UNINTERRUPTIBLE;
    // In this order, since what is read first would have to be kept meanwhile.
    let kind = if is_disk { task.disk_sleep(state & WAKE_KILL != 0) } else { 0 };
    Thread::blocked(clock_ns.wrapping_sub(task.run_delay_ns()), kind)
}

/// A thread leaves the CPU.
#[inline(always)]
pub(super) fn leave(task: Task, blocked: u64) {
    let pid = task.pid();
    let thread = entry(pid);
    thread.dispatch_id().set(Thread::dispatch_id(pid, task.dispatches()));
    thread.total_ns().set(task.run_delay_ns());
    thread.blocked().set(blocked);
}

/// On the dispatch of a thread that was queued at `queued_ns`: accounts the sleep that ended then.
#[inline(always)]
pub(super) fn dispatch(state: CpuState, account: AccountCells, task: Task, queued_ns: u64, clock_ns: u64) {
    let pid = task.pid();
    let thread = entry(pid);
    let dispatches = task.dispatches();
    if thread.dispatch_id().get() == Thread::dispatch_id(pid, dispatches) {
        let blocked = thread.blocked().get();
        if blocked != Thread::COULD_GO_ON {
            let lag_ns = queued_ns.wrapping_sub(task.run_delay_ns());
            // It was running when it blocked.
            slept(state, account, task, blocked, lag_ns, clock_ns.wrapping_sub(task.arrived_ns()));
        }
    } else if thread.dispatch_id().get() != 0 && dispatches != 0 {
        state.unknown_sleeps().update(|count| count + 1);
    }
}

/// Books a sleep, by how much the thread's clock lags now and lagged when it began; no longer than `longest_ns`.
#[inline(always)]
fn slept(state: CpuState, account: AccountCells, task: Task, blocked: u64, lag_ns: u64, longest_ns: u64) {
    let slept_ns = Thread::slept_ns(blocked, lag_ns);
    if slept_ns <= longest_ns {
        let kind = Thread::kind(blocked);
        account.off_cpu_ns(Thread::off_cpu(kind)).update(|sum_ns| sum_ns + slept_ns);
        if kind > Thread::OFF_CPU {
            stalls::slept(task, state.holder().get().slot(), kind, slept_ns);
        }
    } else if slept_ns <= i64::MAX as u64 {
        state.unknown_sleeps().update(|count| count + 1);
    }
    // Two CPUs' clocks may differ by a little, so that a short sleep ends before it began.
}

/// What the kernel has added to a task's waited time since it was last booked, and is booked now; none if that
/// is nothing or not known. `unseen` is how many dispatches were not seen since.
#[inline(always)]
pub(super) fn unbooked_wait(state: CpuState, task: Task, unseen: u64) -> Option<u64> {
    let pid = task.pid();
    let dispatches = task.dispatches();
    let total_ns = task.run_delay_ns();
    let thread = entry(pid);
    let known = thread.dispatch_id().get() == Thread::dispatch_id(pid, dispatches.wrapping_sub(unseen));
    let before_ns = if known {
        thread.total_ns().get()
    } else if dispatches == unseen {
        0
    } else {
        state.unknown_segments().update(|count| count + 1);
        total_ns
    };
    thread.dispatch_id().set(Thread::dispatch_id(pid, dispatches));
    thread.total_ns().set(total_ns);
    if !known {
        thread.blocked().set(Thread::COULD_GO_ON);
    }
    let segment_ns = total_ns.wrapping_sub(before_ns);
    (segment_ns != 0).then_some(segment_ns)
}

/// The dispatch of a thread was not seen: books now how long it had slept until then.
#[inline(always)]
pub(super) fn dispatched_unseen(state: CpuState, account: AccountCells, task: Task, arrived_ns: u64) {
    let pid = task.pid();
    let thread = entry(pid);
    let blocked = thread.blocked().get();
    if thread.dispatch_id().get() as u32 == pid && blocked != Thread::COULD_GO_ON {
        // The arrival before this one is not known any more: any sleep since the clock began can be.
        slept(state, account, task, blocked, arrived_ns.wrapping_sub(thread.total_ns().get()), arrived_ns);
        thread.blocked().set(Thread::COULD_GO_ON);
    }
}
