//! Collector `scheduler`: time on the CPU, waits for it, who ran meanwhile, and switches, by slot.
//!
//! One program on `sched_switch` does all of it. It reads the times that the kernel itself keeps for its
//! statistics, so it calls no clock and needs no hook on wakeups. Everything here runs under the lock of the
//! run queue that it accounts for, which makes each CPU's entries have one writer at a time.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    cgroup::{SLOT_FIRST, SLOT_IDLE},
    scheduler::{
        Account, CAUSE_IDLE, CAUSE_NEIGHBOR, CAUSE_POD, CAUSE_SELF, CAUSE_SYSTEM, CAUSE_UNKNOWN, Cpu, Culprits,
        HISTORY, Slice, THREADS, WAYS, Waited, bucket, culprit,
    },
};

use crate::{
    kernel::{CfsRq, Task, cpus_count, has_throttled, switch_has_state},
    slots::{self, Held},
};

/// Slices walked back before a random moment stands for the rest of a wait.
const WALK: u64 = 8;
const MASK: u64 = HISTORY as u64 - 1;

/// Accounts, by CPU and slot.
#[map]
static ACCOUNTS: Array<Account> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Who ran while a slot waited, by CPU and waiting slot.
#[map]
static CULPRITS: Array<Culprits> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// How long each thread had waited when it was last dispatched.
#[map]
static WAITED: Array<Waited> = Array::with_max_entries(THREADS, 0);
/// What each CPU is doing.
#[map]
static CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `sched_switch(preempt, prev, next[, prev_state])`, before the kernel updates the tasks' statistics.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let preempted = context.arg::<u64>(0) & 1 != 0;
    let previous = Task::from_raw(context.arg(1));
    let next = Task::from_raw(context.arg(2));
    let state = if switch_has_state() { context.arg::<u32>(3) } else { previous.state() };
    switch(previous, next, !preempted && state != 0);
    0
}

/// `sched_migrate_task(task, destination)`: a task that waited and is taken to another CPU leaves behind a
/// leg of its wait, which its next dispatch no longer shows.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate(context: BtfTracePointContext) -> i32 {
    let task = Task::from_raw(context.arg(0));
    if task.is_migrating() {
        finish_leg(task);
    }
    0
}

/// `cgroup_attach_task(cgroup, path, task, whole_group)`, after the move: a task that is running takes the
/// rest of its slice to its new cgroup.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach(context: BtfTracePointContext) -> i32 {
    let task = Task::from_raw(context.arg(2));
    let whole_group = context.arg::<u64>(3) & 1 != 0;
    split_running_slices(task, whole_group);
    0
}

#[inline(always)]
fn switch(previous: Task, next: Task, blocked: bool) {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let queue = previous.cfs_rq();
    if queue.is_null() {
        return;
    }
    let rq = queue.rq();
    if rq.is_null() {
        return;
    }
    let clock_ns = rq.clock_ns();
    let Some(this) = CPUS.get_ptr_mut(cpu) else { return };
    // SAFETY: this CPU's entry, and the lock of its run queue is held.
    let this = unsafe { &mut *this };
    begin_writing(this);

    let left = if this.since_ns == 0 { first_seen(previous, cpu) } else { finish_slice(this, clock_ns, cpu) };
    if left != SLOT_IDLE
        && let Some(account) = account(cpu, left)
    {
        if blocked {
            account.voluntary += 1;
        } else {
            account.involuntary += 1;
        }
        if has_throttled() && left >= SLOT_FIRST {
            let began_ns = queue.throttle_began_ns(clock_ns);
            if began_ns != 0 && account.throttle_began_ns == 0 {
                account.throttle_began_ns = began_ns;
            }
        }
    }

    let pid = next.pid();
    let held = if pid == 0 { Held { slot: SLOT_IDLE, generation: 0 } } else { slots::of_task(next, cpu) };
    this.slot = held.slot;
    this.generation = held.generation;
    this.pid = pid;
    this.tgid = next.tgid();
    this.since_ns = clock_ns;

    let queued_ns = next.queued_ns();
    if queued_ns != 0 && pid != 0 {
        if let Some(waited) = WAITED.get_ptr_mut(pid & (THREADS - 1)) {
            let total_ns = next.run_delay_ns().wrapping_add(clock_ns.wrapping_sub(queued_ns));
            // SAFETY: a thread is dispatched on one CPU at a time; of two threads with the same low bits one
            // stays, whole or not, and `finish_leg` then finds neither.
            unsafe { *waited = Waited { pid, dispatches: next.dispatches() as u32 + 1, total_ns } };
        }
        finish_wait(this, cpu, held, next.cfs_rq(), queued_ns, clock_ns);
    }
    end_writing(this);
}

/// Makes the sequence number odd: readers wait.
#[inline(always)]
fn begin_writing(this: &mut Cpu) {
    // SAFETY: the field is valid and aligned; volatile keeps its place among the other stores.
    unsafe { (&raw mut this.sequence).write_volatile(this.sequence + 1) };
}

/// Makes the sequence number even: what was written belongs together.
#[inline(always)]
fn end_writing(this: &mut Cpu) {
    // SAFETY: as above.
    unsafe { (&raw mut this.sequence).write_volatile(this.sequence + 1) };
}

/// The slot that leaves at the first switch that the program sees on this CPU: its slice was not recorded.
#[inline(always)]
fn first_seen(previous: Task, cpu: u32) -> u32 {
    if previous.pid() == 0 { SLOT_IDLE } else { slots::of_task(previous, cpu).slot }
}

/// Books the slice that ends now and gives its slot.
#[inline(always)]
fn finish_slice(this: &mut Cpu, clock_ns: u64, cpu: u32) -> u32 {
    if this.moved_in_ns == this.since_ns {
        let moved = Held { slot: this.moved_slot, generation: this.moved_generation };
        let at_ns = if this.moved_at_ns > this.since_ns && this.moved_at_ns < clock_ns {
            this.moved_at_ns
        } else {
            this.since_ns
        };
        book_slice(this, at_ns, cpu);
        this.slot = moved.slot;
        this.generation = moved.generation;
        this.since_ns = at_ns;
    }
    book_slice(this, clock_ns, cpu);
    this.slot
}

#[inline(always)]
fn book_slice(this: &mut Cpu, end_ns: u64, cpu: u32) {
    if this.slot != SLOT_IDLE
        && let Some(account) = account(cpu, this.slot)
    {
        account.on_cpu_ns += end_ns.wrapping_sub(this.since_ns);
    }
    let newest = &mut this.history[(this.newest & MASK) as usize];
    if newest.slot == this.slot && newest.generation == this.generation {
        newest.end_ns = end_ns;
    } else {
        this.newest = this.newest.wrapping_add(1);
        this.history[(this.newest & MASK) as usize] = Slice { end_ns, slot: this.slot, generation: this.generation };
    }
}

/// Books a wait from `queued_ns` until now, less the time for which the waiting group was throttled.
#[inline(always)]
fn finish_wait(this: &mut Cpu, cpu: u32, held: Held, queue: CfsRq, queued_ns: u64, clock_ns: u64) {
    let Some(account) = account(cpu, held.slot) else { return };
    let mut from_ns = queued_ns;
    if has_throttled() && held.slot >= SLOT_FIRST && !queue.is_null() {
        from_ns += cut_throttled(account, queue, queued_ns, clock_ns);
    }
    let waited_ns = clock_ns.wrapping_sub(from_ns);
    account.waits[bucket(waited_ns) as usize & 31] += 1;
    if waited_ns != 0 {
        blame(this, account, cpu, held, from_ns, clock_ns);
    }
}

/// How much of the wait the group was throttled for; that much is cut from the wait's beginning.
///
/// The kernel's total of throttled time grows when a throttle ends. A growth seen at a dispatch is one
/// throttle that ended since this slot's last dispatch here; its beginning was noted at the switch away
/// from the group, so its end is known as well.
#[inline(always)]
fn cut_throttled(account: &mut Account, queue: CfsRq, queued_ns: u64, clock_ns: u64) -> u64 {
    let total_ns = queue.throttled_ns();
    if account.throttle_queue != queue.address() {
        account.throttle_queue = queue.address();
        account.throttle_total_ns = total_ns;
        account.throttle_began_ns = 0;
        account.throttle_until_ns = 0;
        return 0;
    }
    if total_ns != account.throttle_total_ns {
        let length_ns = total_ns.wrapping_sub(account.throttle_total_ns);
        let noted_ns = account.throttle_began_ns.wrapping_add(length_ns);
        let until_ns = if account.throttle_began_ns != 0 && noted_ns < clock_ns { noted_ns } else { clock_ns };
        account.throttle_total_ns = total_ns;
        account.throttle_until_ns = until_ns;
        account.throttle_from_ns = until_ns.wrapping_sub(length_ns);
        account.throttle_began_ns = 0;
    }
    if account.throttle_until_ns <= queued_ns {
        return 0;
    }
    let from_ns = if account.throttle_from_ns > queued_ns { account.throttle_from_ns } else { queued_ns };
    let cut_ns = account.throttle_until_ns.wrapping_sub(from_ns);
    let waited_ns = clock_ns.wrapping_sub(queued_ns);
    let cut_ns = if cut_ns > waited_ns { waited_ns } else { cut_ns };
    account.throttled_ns += cut_ns;
    cut_ns
}

/// Splits a wait by who held this CPU meanwhile.
///
/// The last few slices are charged exactly. Of an older rest, one random moment decides for all of it:
/// sums stay exact, shares are right on average, and the cost is bounded.
#[inline(always)]
fn blame(this: &mut Cpu, account: &mut Account, cpu: u32, held: Held, from_ns: u64, clock_ns: u64) {
    let mut end_ns = clock_ns;
    let mut distance = 0u64;
    while distance < WALK {
        let slice = this.history[(this.newest.wrapping_sub(distance) & MASK) as usize];
        let start_ns = this.history[(this.newest.wrapping_sub(distance + 1) & MASK) as usize].end_ns;
        if start_ns <= from_ns {
            charge(this, account, cpu, held, slice, end_ns.wrapping_sub(from_ns));
            return;
        }
        if start_ns < end_ns {
            charge(this, account, cpu, held, slice, end_ns - start_ns);
            end_ns = start_ns;
        }
        distance += 1;
    }
    let rest_ns = end_ns.wrapping_sub(from_ns);
    let moment_ns = from_ns + next_random(this, clock_ns) % (rest_ns | 1);
    let mut step = HISTORY as u64 / 2;
    while step > 0 {
        let further = distance + step;
        if further < HISTORY as u64
            && this.history[(this.newest.wrapping_sub(further) & MASK) as usize].end_ns > moment_ns
        {
            distance = further;
        }
        step >>= 1;
    }
    if distance + 1 >= HISTORY as u64 {
        account.wait_ns[CAUSE_UNKNOWN] += rest_ns;
        return;
    }
    let slice = this.history[(this.newest.wrapping_sub(distance) & MASK) as usize];
    charge(this, account, cpu, held, slice, rest_ns);
}

/// Charges a part of a wait to the slot that ran.
#[inline(always)]
fn charge(this: &mut Cpu, account: &mut Account, cpu: u32, waiting: Held, ran: Slice, part_ns: u64) {
    if ran.slot == waiting.slot {
        account.wait_ns[CAUSE_SELF] += part_ns;
        return;
    }
    if ran.slot == SLOT_IDLE {
        account.wait_ns[CAUSE_IDLE] += part_ns;
        return;
    }
    let (Some(victim), Some(other)) = (slots::record(waiting.slot), slots::record(ran.slot)) else {
        return;
    };
    let cause = if other.generation != ran.generation {
        CAUSE_UNKNOWN
    } else if other.container != 0 && other.container == victim.container {
        CAUSE_SELF
    } else if other.group == 0 {
        CAUSE_SYSTEM
    } else if other.group == victim.group {
        CAUSE_POD
    } else {
        CAUSE_NEIGHBOR
    };
    if let Some(wait_ns) = account.wait_ns.get_mut(cause) {
        *wait_ns += part_ns;
    }
    if cause == CAUSE_NEIGHBOR || cause == CAUSE_SYSTEM {
        remember(this, cpu, waiting.slot, culprit(ran.slot, ran.generation), part_ns);
    }
}

/// Adds to the culprit's way, or lets it take one.
///
/// When all ways are held, a newcomer takes the lightest with the probability of its share in what the two
/// weigh together, so that heavy culprits keep their ways and one that becomes heavy gets in. What is not
/// booked to a way is known as the difference to the cause's total.
#[inline(always)]
fn remember(this: &mut Cpu, cpu: u32, waiting: u32, culprit: u64, part_ns: u64) {
    let Some(culprits) = CULPRITS.get_ptr_mut(slots::position(cpu, waiting)) else { return };
    // SAFETY: this CPU's entry, and the lock of its run queue is held.
    let culprits = unsafe { &mut *culprits };
    let mut way = 0;
    while way < WAYS {
        if culprits.culprit[way] == culprit {
            culprits.total_ns[way] += part_ns;
            return;
        }
        way += 1;
    }
    let mut lightest = 0;
    let mut weight_ns = u64::MAX;
    let mut way = 0;
    while way < WAYS {
        let held_ns = if culprits.culprit[way] == 0 { 0 } else { culprits.total_ns[way] - culprits.from_ns[way] };
        if held_ns < weight_ns {
            weight_ns = held_ns;
            lightest = way;
        }
        way += 1;
    }
    let lightest = lightest & (WAYS - 1);
    if next_random(this, part_ns) % (weight_ns.wrapping_add(part_ns) | 1) < part_ns {
        culprits.from_ns[lightest] = culprits.total_ns[lightest];
        culprits.culprit[lightest] = culprit;
        culprits.total_ns[lightest] += part_ns;
    }
}

/// Marsaglia's xorshift, stirred by something that differs at each call.
#[inline(always)]
fn next_random(this: &mut Cpu, stir: u64) -> u64 {
    let mut random = this.random ^ stir.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    this.random = random;
    random >> 11
}

#[inline(always)]
fn finish_leg(task: Task) {
    // SAFETY: the helper has no precondition.
    let here = unsafe { bpf_get_smp_processor_id() };
    let queue = task.cfs_rq();
    if queue.is_null() {
        return;
    }
    let rq = queue.rq();
    if rq.is_null() {
        return;
    }
    let source = rq.cpu();
    let Some(left) = CPUS.get_ptr_mut(source) else { return };
    // SAFETY: the lock of the source run queue is held until the task has left it.
    let left = unsafe { &mut *left };
    // The kernel has added the leg to the task's total when it took the task from its queue.
    let pid = task.pid();
    let dispatches = task.dispatches() as u32;
    let total_ns = task.run_delay_ns();
    let Some(waited) = WAITED.get_ptr_mut(pid & (THREADS - 1)) else { return };
    // SAFETY: as at its dispatch.
    let waited = unsafe { &mut *waited };
    let before_ns = if waited.pid == pid && waited.dispatches == dispatches {
        waited.total_ns
    } else if dispatches == 0 {
        0
    } else {
        left.unknown_legs += 1;
        return;
    };
    *waited = Waited { pid, dispatches, total_ns };
    let leg_ns = total_ns.wrapping_sub(before_ns);
    if leg_ns == 0 {
        return;
    }
    let clock_ns = rq.clock_ns();
    let held = slots::of_task(task, here);
    begin_writing(left);
    finish_wait(left, source, held, queue, clock_ns.wrapping_sub(leg_ns), clock_ns);
    end_writing(left);
}

#[inline(always)]
fn split_running_slices(task: Task, whole_group: bool) {
    // SAFETY: the helper has no precondition.
    let here = unsafe { bpf_get_smp_processor_id() };
    let queue = task.cfs_rq();
    if queue.is_null() {
        return;
    }
    let rq = queue.rq();
    if rq.is_null() {
        return;
    }
    let clock_ns = rq.clock_ns();
    let held = slots::of_task(task, here);
    let (tgid, pid) = (task.tgid(), task.pid());
    let mut cpu = 0;
    while cpu < cpus_count() {
        if let Some(other) = CPUS.get_ptr_mut(cpu) {
            // SAFETY: a message to that CPU: it is read at its next switch and holds only for the slice that
            // began at `since_ns`, so a switch meanwhile makes it void.
            let other = unsafe { &mut *other };
            let concerned = if whole_group { other.tgid == tgid } else { other.pid == pid };
            if concerned && other.slot != held.slot {
                other.moved_slot = held.slot;
                other.moved_generation = held.generation;
                other.moved_at_ns = clock_ns;
                other.moved_in_ns = other.since_ns;
            }
        }
        cpu += 1;
    }
}

#[inline(always)]
fn account(cpu: u32, slot: u32) -> Option<&'static mut Account> {
    // SAFETY: one writer at a time: the holder of the CPU's run queue lock.
    ACCOUNTS.get_ptr_mut(slots::position(cpu, slot)).map(|account| unsafe { &mut *account })
}
