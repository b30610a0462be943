//! Collector `scheduler`: time on the CPU and off it, waits for it, who ran meanwhile, and switches, by slot.
//!
//! One program on `sched_switch` does nearly all of it. It reads the times that the kernel itself keeps for its
//! statistics, so it calls no clock and needs no hook on wakeups. Everything here runs under the lock of the
//! run queue that it accounts for, which makes each CPU's entries have one writer at a time.
//!
//! Rules of this folder, each with the test that guards it:
//! - All parts of a wait add up to it, and what is cut of it lies in a throttle: podlens_common's
//!   `the_parts_of_a_wait_add_up_to_it_and_are_few` and `what_is_cut_of_a_wait_is_what_lies_in_the_throttle`.
//! - Time is told of its culprit once, or has no name: `nothing_is_told_twice_or_of_somebody_else`.
//! - Waits by cause are whole, whether a culprit or the account holds them: `waits_by_cause_are_whole_whoever_has_a_place`.
//! - What another CPU says of a slice holds for that slice alone: `moves_of_an_earlier_slice_are_void`.
//! - A slice is as long as the kernel has charged its task for: `the_whole_time_of_short_processes_is_counted` and the rest of
//!   agent/tests/scheduler.rs.
//! - No counter decreases: `no_counter_ever_decreases`.
//! - A switch needs less than 64 bytes of stack: `a_switch_needs_no_stack_apart` (docs/adr/0009).
//! - Functions are never `#[cold]`: `functions_lie_in_the_section_that_calls_are_resolved_in`.
//! - No program grows unseen: `each_programs_size_is_the_recorded_one` (docs/programs.md).
//! - Records are reached by cells alone, so that no two `&mut` are of one (cells.rs); the one exception is
//!   [`state::CpuState::recent`], of which one function has one for as long as it runs.

mod moves;
mod state;
mod threads;
mod totals;
mod wait;

use aya_ebpf::{
    EbpfContext as _, helpers::bpf_get_smp_processor_id, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use podlens_common::{
    cgroup::Holder,
    scheduler::{Now, Thread},
};

pub(crate) use self::state::holder_of_running;
use self::{
    state::{AccountCells, CpuState},
    wait::finish_wait,
};
use crate::{
    kernel::{Task, has_throttled, switch_has_state},
    slots,
};

/// `sched_switch(preempt, prev, next[, prev_state])`, before the kernel updates the tasks' statistics.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    Switch(context).account();
    0
}

/// `sched_migrate_task(task, destination)`, before the move. A task that waited leaves behind a segment of its
/// wait, which its next dispatch no longer shows.
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

/// One switch, of which everything is read where it is needed and none kept: with 64 bytes of stack and more, kernels
/// since 6.13 give a program a stack apart for each CPU, whose memory is cold at each switch.
struct Switch(BtfTracePointContext);

impl Switch {
    #[inline(always)]
    fn account(&self) {
        // SAFETY: the helper has no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let Some(state) = CpuState::of(cpu) else { return without_room(cpu) };
        let rq = self.previous().cfs_rq().rq();
        let clock_ns = rq.clock_ns();
        // While the kernel sets a task up it has no queue, and what is read of none is 0.
        if clock_ns == 0 {
            return;
        }
        state.begin_writing();
        let switches = rq.switches() as u32;
        let missed = switches.wrapping_sub(state.switches().get()).wrapping_sub(1);
        state.switches().set(switches);
        // One test, since both are rare.
        if missed | (state.moved().get() ^ Now::UNMOVED) != 0 {
            make_good(cpu, self.previous(), clock_ns, missed);
        }
        state.since_ns().set(clock_ns);
        let mut account = self.end_slice(state);
        let next = self.next();
        state.executed_ns().set(next.executed_ns());
        state.task().set(next.address());
        let is_idle = next.pid() == 0;
        // SAFETY: nothing else looks at what this refers to while the function runs.
        let recent = unsafe { &mut *state.recent() };
        let holder = if is_idle { Holder::IDLE } else { slots::of_task_after(recent, next, cpu) };
        if holder != state.holder().get() {
            if let Some(account) = account {
                self.leave_group(state, account);
            }
            state.pass_on(clock_ns, holder);
            account = state.running_account();
        }
        self.begin_slice(state, account);
        state.end_writing();
    }

    /// Books the time of the task that leaves, and how it leaves; none if that is the idle task. Gives its account.
    #[inline(always)]
    fn end_slice(&self, state: CpuState) -> Option<AccountCells> {
        let account = state.running_account()?;
        // The kernel has charged the task by now: without what interrupts and the hypervisor took, and without its own
        // search for another task to run.
        let ran_ns = self.previous().executed_ns().wrapping_sub(state.executed_ns().get());
        account.on_cpu_ns().update(|sum_ns| sum_ns + ran_ns);
        let task_state = self.task_state();
        let blocked = if task_state != 0 {
            account.voluntary().update(|count| count + 1);
            threads::blocked(self.previous(), task_state, state.clock_ns())
        } else {
            account.involuntary().update(|count| count + 1);
            Thread::COULD_GO_ON
        };
        threads::leave(self.previous(), blocked);
        Some(account)
    }

    /// The holder changes: notes when the throttle began for which the one that leaves may have to.
    #[inline(always)]
    fn leave_group(&self, state: CpuState, account: AccountCells) {
        if has_throttled(state.holder().get().slot()) {
            let began_ns = self.previous().cfs_rq().throttle_began_ns(state.clock_ns());
            if began_ns != 0 && account.throttle_began_ns().get() == 0 {
                account.throttle_began_ns().set(began_ns);
            }
        }
    }

    /// Books what the task that comes to the CPU did before; none if that is the idle task.
    #[inline(always)]
    fn begin_slice(&self, state: CpuState, account: Option<AccountCells>) {
        let Some(account) = account else { return };
        let queued_ns = self.next().queued_ns();
        if queued_ns == 0 {
            return;
        }
        let clock_ns = state.clock_ns();
        threads::dispatch(state, account, self.next(), queued_ns, clock_ns);
        let holder = state.holder().get();
        finish_wait(state, account, holder, self.next(), queued_ns, clock_ns);
    }

    #[inline(always)]
    fn previous(&self) -> Task {
        Task::from_raw(self.argument(1) as *const u8)
    }

    #[inline(always)]
    fn next(&self) -> Task {
        Task::from_raw(self.argument(2) as *const u8)
    }

    /// The state of the task that leaves; 0 if it could go on.
    #[inline(always)]
    fn task_state(&self) -> u32 {
        let state = if switch_has_state() { self.argument(3) as u32 } else { self.previous().state() };
        if self.argument(0) & 1 != 0 { 0 } else { state }
    }

    #[inline(always)]
    fn argument(&self, number: usize) -> u64 {
        // SAFETY: each argument has 8 bytes, and the verifier knows how many there are.
        unsafe { self.0.as_ptr().cast::<u64>().add(number).read_volatile() }
    }
}

/// A CPU came online after the start, beyond those for which there is room.
#[inline(never)]
fn without_room(cpu: u32) {
    slots::lose!(cpu, late_cpu);
}

/// What is rarely needed before a slice is ended: switches were missed, its task was moved, or it is the first.
#[inline(never)]
fn make_good(cpu: u32, previous: Task, clock_ns: u64, missed: u32) {
    catch_up(cpu, previous, clock_ns, missed);
    moves::finish_moved(cpu, clock_ns);
    // Whatever a message told, no task has run for less than nothing since.
    if let Some(state) = CpuState::of(cpu) {
        state.executed_ns().update(|executed_ns| executed_ns.min(previous.executed_ns()));
    }
}

/// Begins the account of a CPU, and makes good for switches that the run queue counted and the tracepoint did not
/// report.
///
/// After a single one the kernel's own figures tell everything but the kind of switch: the recorded slice
/// ended when the task that leaves now had arrived, and what that task had waited is the growth of its total.
/// Where that is not known, the time between is nobody's.
#[inline(always)]
fn catch_up(cpu: u32, previous: Task, clock_ns: u64, missed: u32) {
    let Some(state) = CpuState::of(cpu) else { return };
    let since_ns = state.since_ns().get();
    if since_ns == 0 {
        state.cpu().set(cpu as u16);
        state.since_ns().set(clock_ns);
        state.holder().set(Holder::UNSEEN);
        return;
    }
    if missed == 0 {
        return;
    }
    state.missed().update(|count| count + u64::from(missed));
    let pid = previous.pid();
    let arrived_ns = if pid == 0 { clock_ns } else { previous.arrived_ns() };
    let is_known = arrived_ns >= since_ns && arrived_ns <= clock_ns;
    let began_ns = if is_known { arrived_ns } else { since_ns };
    // Nobody noted it then; as if nothing but this task had taken the CPU since.
    let executed_ns = previous.executed_ns().wrapping_sub(clock_ns.wrapping_sub(began_ns));
    if !is_known {
        state.executed_ns().set(executed_ns);
        state.moved().set(Now::UNMOVED);
        return;
    }
    if missed == 1 && pid != 0 {
        moves::finish_moved(cpu, arrived_ns);
        // The kernel's total of its task is not at hand any more: by the clock, with what interrupts took.
        let ran_ns = arrived_ns.wrapping_sub(state.since_ns().get());
        state.book_slice(arrived_ns, state.executed_ns().get().wrapping_add(ran_ns));
    } else {
        state.moved().set(Now::UNMOVED);
        state.missed_ns().update(|sum_ns| sum_ns + arrived_ns.wrapping_sub(since_ns));
        state.pass_on(since_ns, Holder::UNSEEN);
        state.since_ns().set(arrived_ns);
    }
    state.executed_ns().set(executed_ns);
    let holder = if pid == 0 { Holder::IDLE } else { slots::of_task(previous, cpu) };
    state.pass_on(arrived_ns, holder);
    if pid != 0
        && let Some(account) = state.running_account()
    {
        let segment_ns = threads::unbooked_wait(state, previous, 1);
        threads::dispatched_unseen(state, account, previous, arrived_ns);
        if let Some(segment_ns) = segment_ns {
            finish_wait(state, account, holder, previous, arrived_ns.wrapping_sub(segment_ns), arrived_ns);
        }
    }
}

/// Counts a migration, and books the segment of a wait that ends with it.
#[inline(always)]
fn migrate(task: Task) {
    // SAFETY: the helper has no precondition.
    let here = unsafe { bpf_get_smp_processor_id() };
    let holder = slots::of_task(task, here);
    totals::migrated(holder.slot());
    if !task.is_migrating() {
        return;
    }
    let Some(rq) = task.rq() else { return };
    // The lock of the source's run queue is held until the task has left it.
    let Some(left) = CpuState::of(rq.cpu()) else { return };
    if left.since_ns().get() == 0 {
        return;
    }
    // The kernel has added the segment to the task's total when it took the task from its queue.
    let Some(segment_ns) = threads::unbooked_wait(left, task, 0) else { return };
    let clock_ns = rq.clock_ns();
    left.begin_writing();
    if let Some(account) = AccountCells::of(left.cpu().get().into(), holder.slot()) {
        finish_wait(left, account, holder, task, clock_ns.wrapping_sub(segment_ns), clock_ns);
    }
    left.end_writing();
}
