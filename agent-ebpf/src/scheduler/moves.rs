//! Tasks that are moved to another cgroup while they run: their slice is split at each move.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use podlens_common::{
    cgroup::Holder,
    scheduler::{MOVES, Moved, Now},
};

use super::state::CpuState;
use crate::{
    kernel::{Task, cpus_count, executed_ns_at, thread_group_at},
    slots,
};

/// Leaves a message for each CPU that runs the task, or a thread of its group: the rest of that slice is the new cgroup's.
#[inline(always)]
pub(super) fn split_running_slices(task: Task, whole_group: bool) {
    // SAFETY: the helper has no precondition.
    let here = unsafe { bpf_get_smp_processor_id() };
    let Some(rq) = task.rq() else { return };
    let clock_ns = rq.clock_ns();
    // Under real-time preemption the kernel's lock around this hook leaves interrupts on.
    let holder = slots::of_task_in_any_context(task, here);
    let group = task.tgid();
    let mut cpu = 0;
    while u64::from(cpu) < cpus_count() {
        if let Some(other) = CpuState::of(cpu) {
            // A message to that CPU, which holds only for the slice that began at `since_ns`. That is read before anything
            // else, and the message written last, so that a switch meanwhile makes it void. Moves come one at a time: the
            // kernel holds its cgroup lock.
            let since_ns = other.clock_ns();
            // SAFETY: the field is valid and aligned.
            let running = unsafe { other.task().as_ptr().read_volatile() };
            let concerned = running == task.address() || whole_group && thread_group_at(running) == Some(group);
            // The kernel has charged the task up to the move.
            if concerned && let Some(executed_ns) = executed_ns_at(running) {
                let moves = Now::moves(other.moved().get(), other.since_ns().get());
                let last = other.moved_at(moves.wrapping_sub(1)).get();
                let present = if moves == 0 { other.holder().get() } else { last.holder };
                if moves >= MOVES {
                    other.moved_at(MOVES - 1).update(|last| Moved { holder: Holder::UNATTRIBUTED, ..last });
                } else if present != holder {
                    other.moved_at(moves).set(Moved { at_ns: clock_ns, executed_ns, holder });
                    let moved = Now::moved_times(since_ns, moves as u32 + 1);
                    // SAFETY: as above.
                    unsafe { other.moved().as_ptr().write_volatile(moved) };
                }
            }
        }
        cpu += 1;
    }
}

/// A message was left: if it is for the slice that runs, books its parts up to the last move and leaves the rest. Gives how
/// many moves.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn finish_moved(cpu: u32, end_ns: u64) -> u32 {
    let Some(state) = CpuState::of(cpu) else { return 0 };
    let moves = Now::moves(state.moved().get(), state.since_ns().get());
    let mut index = 0;
    while index < MOVES {
        if index >= moves {
            break;
        }
        let moved = state.moved_at(index).get();
        let at_ns = moved.split_ns(state.since_ns().get(), end_ns);
        state.book_slice(at_ns, moved.executed_ns);
        state.pass_on(at_ns, moved.holder);
        index += 1;
    }
    state.moved().set(Now::UNMOVED);
    moves as u32
}
