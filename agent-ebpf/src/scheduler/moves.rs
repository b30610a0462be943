//! Tasks that are moved to another cgroup while they run: their slice is split at each move.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use podlens_common::{
    cgroup::Holder,
    scheduler::{MOVES, Moved, Now},
};

use super::lane::{self, Lane};
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
    let holder = slots::of_task(task, here);
    let group = task.tgid();
    let mut cpu = 0;
    while u64::from(cpu) < cpus_count() {
        if let Some(other) = lane::entry(cpu) {
            // SAFETY: a message to that CPU, which holds only for the slice that began at `since_ns`. That is read before
            // anything else, and the message written last, so that a switch meanwhile makes it void. Moves come one at a
            // time: the kernel holds its cgroup lock.
            let now = unsafe { &mut (*other).now };
            let (since_ns, running) =
                unsafe { ((&raw const now.since_ns).read_volatile(), (&raw const now.task).read_volatile()) };
            let concerned = running == task.address() || whole_group && thread_group_at(running) == Some(group);
            // The kernel has charged the task up to the move.
            if concerned && let Some(executed_ns) = executed_ns_at(running) {
                let moves = now.moves();
                let last = now.list[moves.wrapping_sub(1) & (MOVES - 1)];
                let present = if moves == 0 { now.holder } else { last.holder };
                if moves >= MOVES {
                    now.list[MOVES - 1].holder = Holder::UNATTRIBUTED;
                } else if present != holder {
                    now.list[moves & (MOVES - 1)] = Moved { at_ns: clock_ns, executed_ns, holder };
                    let moved = Now::moved_times(since_ns, moves as u32 + 1);
                    unsafe { (&raw mut now.moved).write_volatile(moved) };
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
    let Some(mut lane) = Lane::locked(cpu) else { return 0 };
    let moves = lane.now.moves();
    let mut index = 0;
    while index < MOVES {
        if index >= moves {
            break;
        }
        let moved = lane.now.list[index];
        let since_ns = lane.now.since_ns;
        let is_within = moved.at_ns > since_ns && moved.at_ns < end_ns;
        let at_ns = if is_within { moved.at_ns } else { since_ns };
        lane.book_slice(at_ns, moved.executed_ns);
        lane.pass_on(at_ns, moved.holder);
        index += 1;
    }
    lane.now.moved = Now::UNMOVED;
    moves as u32
}
