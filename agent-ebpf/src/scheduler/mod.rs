//! Collector `scheduler`: time on the CPU and off it, waits for it, who ran meanwhile, and switches, by slot.
//!
//! One program on `sched_switch` does nearly all of it. It reads the times that the kernel itself keeps for its
//! statistics, so it calls no clock and needs no hook on wakeups. Everything here runs under the lock of the
//! run queue that it accounts for, which makes each CPU's entries have one writer at a time.

mod lane;
mod moves;
mod threads;
mod wait;

use aya_ebpf::{helpers::bpf_get_smp_processor_id, macros::btf_tracepoint, programs::BtfTracePointContext};
use podlens_common::{
    cgroup::{Holder, SLOT_FIRST},
    scheduler::Slice,
};

use self::{lane::Lane, wait::finish_wait};
use crate::{
    kernel::{CfsRq, Task, has_throttled, switch_has_state},
    slots,
};

/// `sched_switch(preempt, prev, next[, prev_state])`, before the kernel updates the tasks' statistics.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let preempted = context.arg::<u64>(0) & 1 != 0;
    let previous = Task::from_raw(context.arg(1));
    let next = Task::from_raw(context.arg(2));
    let state = if switch_has_state() { context.arg::<u32>(3) } else { previous.state() };
    switch(previous, next, if preempted { 0 } else { state });
    0
}

/// `sched_migrate_task(task, destination)`, before the move. A task that waited leaves behind a leg of its wait,
/// which its next dispatch no longer shows.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate(context: BtfTracePointContext) -> i32 {
    migrate(Task::from_raw(context.arg(0)));
    0
}

/// `cgroup_attach_task(cgroup, path, task, whole_group)`, after the move: a task that is running takes the
/// rest of its slice to its new cgroup.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach(context: BtfTracePointContext) -> i32 {
    let task = Task::from_raw(context.arg(2));
    let whole_group = context.arg::<u64>(3) & 1 != 0;
    moves::split_running_slices(task, whole_group);
    0
}

/// `state` is that of the task that leaves; 0 if it could go on.
#[inline(always)]
fn switch(previous: Task, next: Task, state: u32) {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some((queue, rq)) = previous.queues() else { return };
    let clock_ns = rq.clock_ns();
    let Some(mut lane) = Lane::locked(cpu) else { return };
    let lane = &mut lane;
    lane.begin_writing();

    let stolen_ns = clock_ns.wrapping_sub(rq.clock_task_ns());
    let switches = rq.switches() as u32;
    let mut left_account = None;
    if lane.now.since_ns == 0 {
        lane.push(Slice { end_ns: clock_ns, holder: Holder::UNSEEN });
        lane.now.holder = Holder::UNSEEN;
    } else {
        let missed = switches.wrapping_sub(lane.now.switches).wrapping_sub(1);
        if missed != 0 {
            catch_up(lane, previous, queue, clock_ns, missed);
        }
        if lane.now.moved != 0 {
            moves::finish_moved(cpu, clock_ns);
        }
        left_account = lane.running_account();
        lane.book_slice(left_account.as_deref_mut(), clock_ns, stolen_ns.wrapping_sub(lane.now.stolen_ns));
    }
    lane.now.switches = switches;
    lane.now.stolen_ns = stolen_ns;
    let left = lane.now.holder;
    if let Some(account) = left_account.as_deref_mut() {
        if state != 0 {
            account.voluntary += 1;
            threads::block(lane, previous, state, clock_ns);
        } else {
            account.involuntary += 1;
        }
        if has_throttled() && left.slot() >= SLOT_FIRST {
            let began_ns = queue.throttle_began_ns(clock_ns);
            if began_ns != 0 && account.throttle_began_ns == 0 {
                account.throttle_began_ns = began_ns;
            }
        }
    }

    let pid = next.pid();
    let holder = if pid == 0 { Holder::IDLE } else { slots::of_task_after(&mut lane.now.last, next, cpu) };
    lane.begin_slice(holder, clock_ns);
    lane.now.task = next.address();

    let queued_ns = next.queued_ns();
    if queued_ns != 0 && pid != 0 {
        let account = if holder == left { left_account } else { lane.running_account() };
        if let Some(account) = account {
            threads::dispatch(lane, account, next, pid, queued_ns, clock_ns);
            finish_wait(lane, account, holder, next.cfs_rq(), queued_ns, clock_ns);
        }
    }
    lane.end_writing();
}

/// Makes good for switches that the run queue counted and the tracepoint did not report.
///
/// After a single one the kernel's own figures tell everything but the kind of switch: the recorded slice
/// ended when the task that leaves now had arrived, and what that task had waited is the growth of its total.
/// Where that is not known, the time between is nobody's.
#[inline(never)]
fn catch_up(lane: &mut Lane, previous: Task, queue: CfsRq, clock_ns: u64, missed: u32) {
    lane.now.missed += u64::from(missed);
    let pid = previous.pid();
    let arrived_ns = if pid == 0 { clock_ns } else { previous.arrived_ns() };
    if arrived_ns < lane.now.since_ns || arrived_ns > clock_ns {
        return;
    }
    if missed == 1 && pid != 0 {
        // What was stolen since is taken from the slice that ends now.
        if lane.now.moved != 0 {
            moves::finish_moved(lane.cpu, arrived_ns);
        }
        let account = lane.running_account();
        lane.book_slice(account, arrived_ns, 0);
    } else {
        lane.now.missed_ns += arrived_ns.wrapping_sub(lane.now.since_ns);
        lane.push(Slice { end_ns: arrived_ns, holder: Holder::UNSEEN });
    }
    let holder = if pid == 0 { Holder::IDLE } else { slots::of_task(previous, lane.cpu) };
    lane.begin_slice(holder, arrived_ns);
    if pid != 0
        && let Some(account) = lane.running_account()
    {
        let leg_ns = threads::unbooked_wait(lane, previous, 1);
        threads::dispatched_unseen(lane, account, previous, arrived_ns);
        if let Some(leg_ns) = leg_ns {
            finish_wait(lane, account, holder, queue, arrived_ns.wrapping_sub(leg_ns), arrived_ns);
        }
    }
}

/// Counts a migration, and books the leg of a wait that ends with it.
#[inline(always)]
fn migrate(task: Task) {
    // SAFETY: the helper has no precondition.
    let here = unsafe { bpf_get_smp_processor_id() };
    let holder = slots::of_task(task, here);
    // No other CPU writes this field of this CPU's accounts, and interrupts are off.
    if let Some(account) = lane::account(here, holder.slot()) {
        account.migrations += 1;
    }
    if !task.is_migrating() {
        return;
    }
    let Some((queue, rq)) = task.queues() else { return };
    // The lock of the source's run queue is held until the task has left it.
    let Some(mut left) = Lane::locked(rq.cpu()) else { return };
    let left = &mut left;
    if left.now.since_ns == 0 {
        return;
    }
    // The kernel has added the leg to the task's total when it took the task from its queue.
    let Some(leg_ns) = threads::unbooked_wait(left, task, 0) else { return };
    let clock_ns = rq.clock_ns();
    left.begin_writing();
    if let Some(account) = lane::account(left.cpu, holder.slot()) {
        finish_wait(left, account, holder, queue, clock_ns.wrapping_sub(leg_ns), clock_ns);
    }
    left.end_writing();
}
