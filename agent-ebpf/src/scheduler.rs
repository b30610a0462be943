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
    cgroup::{SLOT_FIRST, SLOT_IDLE, SLOT_UNSEEN},
    scheduler::{
        Account, CAUSE_IDLE, CAUSE_NEIGHBOR, CAUSE_POD, CAUSE_SELF, CAUSE_SYSTEM, CAUSE_UNKNOWN, Cpu, Culprits,
        HISTORY, History, Slice, THREADS, WAYS, Waited, bucket, culprit,
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

/// Each CPU's finished slices.
#[map]
static HISTORIES: Array<History> = Array::with_max_entries(1, 0);

/// The entries of the CPU whose run queue is locked.
struct Lane {
    cpu: u32,
    now: &'static mut Cpu,
    history: &'static mut History,
}

impl Lane {
    /// The lane of a CPU whose run queue lock the caller holds.
    #[inline(always)]
    fn locked(cpu: u32) -> Option<Self> {
        let (now, history) = (CPUS.get_ptr_mut(cpu)?, HISTORIES.get_ptr_mut(cpu)?);
        // SAFETY: entries of a map outlive the program, and the lock makes this the only writer.
        Some(unsafe { Self { cpu, now: &mut *now, history: &mut *history } })
    }

    /// The finished slice that is so many before the newest.
    #[inline(always)]
    fn slice(&self, distance: u64) -> Slice {
        self.history.slices[(self.history.newest.wrapping_sub(distance) & MASK) as usize]
    }

    /// Adds a finished slice; neighbours of one slot are one slice.
    #[inline(always)]
    fn push(&mut self, slice: Slice) {
        let newest = &mut self.history.slices[(self.history.newest & MASK) as usize];
        if newest.slot == slice.slot && newest.generation == slice.generation {
            newest.end_ns = slice.end_ns;
        } else {
            self.history.newest = self.history.newest.wrapping_add(1);
            self.history.slices[(self.history.newest & MASK) as usize] = slice;
        }
    }

    #[inline(always)]
    fn account(&self, slot: u32) -> Option<&'static mut Account> {
        // SAFETY: as in `locked`.
        ACCOUNTS.get_ptr_mut(slots::position(self.cpu, slot)).map(|account| unsafe { &mut *account })
    }

    /// Makes the sequence number odd: readers wait.
    #[inline(always)]
    fn begin_writing(&mut self) {
        // SAFETY: the field is valid and aligned; volatile keeps its place among the other stores.
        unsafe { (&raw mut self.now.sequence).write_volatile(self.now.sequence + 1) };
    }

    /// Makes the sequence number even: what was written belongs together.
    #[inline(always)]
    fn end_writing(&mut self) {
        // SAFETY: as above.
        unsafe { (&raw mut self.now.sequence).write_volatile(self.now.sequence + 1) };
    }

    /// Marsaglia's xorshift, stirred by something that differs at each call.
    #[inline(always)]
    fn random(&mut self, stir: u64) -> u64 {
        let mut random = self.now.random ^ stir.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.now.random = random;
        random >> 11
    }
}

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
    let Some(mut lane) = Lane::locked(cpu) else { return };
    let lane = &mut lane;
    lane.begin_writing();

    let stolen_ns = clock_ns.wrapping_sub(rq.clock_task_ns());
    let switches = rq.switches();
    let mut left = SLOT_IDLE;
    let mut left_account = None;
    if lane.now.since_ns == 0 {
        lane.push(Slice { end_ns: clock_ns, slot: SLOT_UNSEEN, generation: 0 });
    } else {
        let missed = switches.wrapping_sub(lane.now.switches).wrapping_sub(1);
        if missed != 0 {
            catch_up(lane, previous, queue, clock_ns, missed);
        }
        if lane.now.moved_in_ns == lane.now.since_ns {
            finish_moved(lane, clock_ns);
        }
        left = lane.now.slot;
        if left != SLOT_IDLE {
            left_account = lane.account(left);
        }
        book_slice(lane, left_account.as_deref_mut(), clock_ns, stolen_ns.wrapping_sub(lane.now.stolen_ns));
    }
    lane.now.switches = switches;
    lane.now.stolen_ns = stolen_ns;
    if let Some(account) = left_account.as_deref_mut() {
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
    lane.now.slot = held.slot;
    lane.now.generation = held.generation;
    lane.now.pid = pid;
    lane.now.tgid = next.tgid();
    lane.now.since_ns = clock_ns;

    let queued_ns = next.queued_ns();
    if queued_ns != 0 && pid != 0 {
        if let Some(waited) = waited(pid) {
            let total_ns = next.run_delay_ns().wrapping_add(clock_ns.wrapping_sub(queued_ns));
            *waited = Waited { pid, dispatches: next.dispatches() as u32 + 1, total_ns };
        }
        let account = if held.slot == left { left_account } else { lane.account(held.slot) };
        if let Some(account) = account {
            finish_wait(lane, account, held, next.cfs_rq(), queued_ns, clock_ns);
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
fn catch_up(lane: &mut Lane, previous: Task, queue: CfsRq, clock_ns: u64, missed: u64) {
    lane.now.missed += missed;
    let pid = previous.pid();
    let arrived_ns = if pid == 0 { clock_ns } else { previous.arrived_ns() };
    if arrived_ns < lane.now.since_ns || arrived_ns > clock_ns {
        return;
    }
    if missed == 1 && pid != 0 {
        // What was stolen since is taken from the slice that ends now.
        if lane.now.moved_in_ns == lane.now.since_ns {
            finish_moved(lane, arrived_ns);
        }
        let account = if lane.now.slot == SLOT_IDLE { None } else { lane.account(lane.now.slot) };
        book_slice(lane, account, arrived_ns, 0);
    } else {
        lane.now.missed_ns += arrived_ns.wrapping_sub(lane.now.since_ns);
        lane.push(Slice { end_ns: arrived_ns, slot: SLOT_UNSEEN, generation: 0 });
    }
    let held = if pid == 0 { Held { slot: SLOT_IDLE, generation: 0 } } else { slots::of_task(previous, lane.cpu) };
    lane.now.slot = held.slot;
    lane.now.generation = held.generation;
    lane.now.since_ns = arrived_ns;
    if pid != 0
        && let Some(leg_ns) = unbooked_wait(lane, previous, 1)
        && let Some(account) = lane.account(held.slot)
    {
        finish_wait(lane, account, held, queue, arrived_ns.wrapping_sub(leg_ns), arrived_ns);
    }
}

/// What the kernel has added to a task's waited time since it was last booked, and is booked now; none if that
/// is nothing or not known. `dispatches` is how many dispatches were not seen since.
#[inline(always)]
fn unbooked_wait(lane: &mut Lane, task: Task, unseen: u32) -> Option<u64> {
    let pid = task.pid();
    let dispatches = task.dispatches() as u32;
    let total_ns = task.run_delay_ns();
    let waited = waited(pid)?;
    let before_ns = if waited.pid == pid && waited.dispatches.wrapping_add(unseen) == dispatches {
        waited.total_ns
    } else if dispatches == unseen {
        0
    } else {
        lane.now.unknown_legs += 1;
        *waited = Waited { pid, dispatches, total_ns };
        return None;
    };
    *waited = Waited { pid, dispatches, total_ns };
    let leg_ns = total_ns.wrapping_sub(before_ns);
    (leg_ns != 0).then_some(leg_ns)
}

#[inline(always)]
fn waited(pid: u32) -> Option<&'static mut Waited> {
    // SAFETY: a thread is dispatched on one CPU at a time; of two threads with the same low bits one stays,
    // whole or not, and the other's next leg is then not known.
    WAITED.get_ptr_mut(pid & (THREADS - 1)).map(|waited| unsafe { &mut *waited })
}

/// The running slice was split by a move between cgroups: books its first part and leaves the second.
#[inline(never)]
fn finish_moved(lane: &mut Lane, clock_ns: u64) {
    let (since_ns, moved_ns) = (lane.now.since_ns, lane.now.moved_at_ns);
    let at_ns = if moved_ns > since_ns && moved_ns < clock_ns { moved_ns } else { since_ns };
    let account = if lane.now.slot == SLOT_IDLE { None } else { lane.account(lane.now.slot) };
    book_slice(lane, account, at_ns, 0);
    lane.now.slot = lane.now.moved_slot;
    lane.now.generation = lane.now.moved_generation;
    lane.now.since_ns = at_ns;
}

/// Books the slice that ends now. `stolen_ns` is what the CPU lost meanwhile to others than tasks.
#[inline(always)]
fn book_slice(lane: &mut Lane, account: Option<&mut Account>, end_ns: u64, stolen_ns: u64) {
    if let Some(account) = account {
        account.on_cpu_ns += end_ns.wrapping_sub(lane.now.since_ns).saturating_sub(stolen_ns);
    }
    lane.push(Slice { end_ns, slot: lane.now.slot, generation: lane.now.generation });
}

/// Books a wait from `queued_ns` until now, less the time for which the waiting group was throttled.
#[inline(always)]
fn finish_wait(lane: &mut Lane, account: &mut Account, held: Held, queue: CfsRq, queued_ns: u64, clock_ns: u64) {
    let mut from_ns = queued_ns;
    if has_throttled() && held.slot >= SLOT_FIRST && !queue.is_null() {
        from_ns += cut_throttled(account, queue, queued_ns, clock_ns);
    }
    let waited_ns = clock_ns.wrapping_sub(from_ns);
    account.waits[bucket(waited_ns) as usize & 31] += 1;
    if waited_ns == 0 {
        return;
    }
    let newest = lane.slice(0);
    if newest.slot == held.slot && lane.slice(1).end_ns <= from_ns && lane.now.since_ns >= clock_ns {
        account.wait_ns[CAUSE_SELF] += waited_ns;
    } else {
        blame(lane.cpu, held.slot, from_ns, clock_ns);
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

/// Splits a wait by who held the CPU meanwhile, and gives how many slices that took.
///
/// The slice that runs and the last few finished ones are charged exactly. Of an older rest, one random moment
/// decides for all of it: sums stay exact, shares are right on average, and the cost is bounded.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blame(cpu: u32, waiting: u32, from_ns: u64, clock_ns: u64) -> u32 {
    let Some(mut lane) = Lane::locked(cpu) else { return 0 };
    let lane = &mut lane;
    let Some(account) = lane.account(waiting) else { return 0 };
    let mut end_ns = clock_ns;
    if lane.now.since_ns < end_ns {
        let start_ns = if lane.now.since_ns > from_ns { lane.now.since_ns } else { from_ns };
        let running = Slice { end_ns, slot: lane.now.slot, generation: lane.now.generation };
        charge(lane, account, waiting, running, end_ns.wrapping_sub(start_ns));
        end_ns = start_ns;
    }
    let mut distance = 0u64;
    while distance < WALK {
        let slice = lane.slice(distance);
        let start_ns = lane.slice(distance + 1).end_ns;
        let start_ns = if start_ns > from_ns { start_ns } else { from_ns };
        if start_ns < end_ns {
            charge(lane, account, waiting, slice, end_ns - start_ns);
            end_ns = start_ns;
        }
        distance += 1;
        if end_ns <= from_ns {
            return distance as u32;
        }
    }
    let rest_ns = end_ns.wrapping_sub(from_ns);
    let moment_ns = from_ns + lane.random(clock_ns) % (rest_ns | 1);
    let mut step = HISTORY as u64 / 2;
    while step > 0 {
        let further = distance + step;
        if further < HISTORY as u64 && lane.slice(further).end_ns > moment_ns {
            distance = further;
        }
        step >>= 1;
    }
    if distance + 1 >= HISTORY as u64 {
        account.wait_ns[CAUSE_UNKNOWN] += rest_ns;
    } else {
        let slice = lane.slice(distance);
        charge(lane, account, waiting, slice, rest_ns);
    }
    distance as u32
}

/// Charges a part of a wait to the slot that ran.
#[inline(always)]
fn charge(lane: &mut Lane, account: &mut Account, waiting: u32, ran: Slice, part_ns: u64) {
    if ran.slot == waiting {
        account.wait_ns[CAUSE_SELF] += part_ns;
        return;
    }
    if ran.slot == SLOT_IDLE {
        account.wait_ns[CAUSE_IDLE] += part_ns;
        return;
    }
    let (Some(victim), Some(other)) = (slots::record(waiting), slots::record(ran.slot)) else {
        account.wait_ns[CAUSE_UNKNOWN] += part_ns;
        return;
    };
    if other.generation != ran.generation {
        account.wait_ns[CAUSE_UNKNOWN] += part_ns;
    } else if other.container != 0 && other.container == victim.container {
        account.wait_ns[CAUSE_SELF] += part_ns;
    } else if other.group != 0 && other.group == victim.group {
        account.wait_ns[CAUSE_POD] += part_ns;
    } else {
        let cause = if other.group == 0 { CAUSE_SYSTEM } else { CAUSE_NEIGHBOR };
        account.wait_ns[cause] += part_ns;
        let position = slots::position(lane.cpu, waiting);
        let random = lane.random(part_ns);
        remember(position, culprit(ran.slot, ran.generation), part_ns, random);
    }
}

/// Adds to the culprit's way, or lets it take one; gives whether it has one.
///
/// When all ways are held, a newcomer takes the lightest with the probability of its share in what the two
/// weigh together: heavy culprits keep their ways, and one that becomes heavy gets in. What is
/// not booked to a way is known as the difference to the cause's total.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remember(position: u32, culprit: u64, part_ns: u64, random: u64) -> u32 {
    let Some(culprits) = CULPRITS.get_ptr_mut(position) else { return 0 };
    // SAFETY: the caller holds the lock of the run queue that the entry belongs to.
    let culprits = unsafe { &mut *culprits };
    let mut way = 0;
    while way < WAYS {
        if culprits.culprit[way] == culprit {
            culprits.total_ns[way] += part_ns;
            return 1;
        }
        way += 1;
    }
    let mut way = 0;
    while way < WAYS {
        if culprits.culprit[way] == 0 {
            culprits.culprit[way] = culprit;
            culprits.total_ns[way] += part_ns;
            return 1;
        }
        way += 1;
    }
    let mut lightest = 0;
    let mut weight_ns = u64::MAX;
    let mut way = 0;
    while way < WAYS {
        let held_ns = culprits.total_ns[way].wrapping_sub(culprits.from_ns[way]);
        if held_ns < weight_ns {
            weight_ns = held_ns;
            lightest = way;
        }
        way += 1;
    }
    let lightest = lightest & (WAYS - 1);
    if random % (weight_ns.wrapping_add(part_ns) | 1) >= part_ns {
        return 0;
    }
    culprits.from_ns[lightest] = culprits.total_ns[lightest];
    culprits.culprit[lightest] = culprit;
    culprits.total_ns[lightest] += part_ns;
    1
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
    // The lock of the source's run queue is held until the task has left it.
    let Some(mut left) = Lane::locked(source) else { return };
    let left = &mut left;
    if left.now.since_ns == 0 {
        return;
    }
    // The kernel has added the leg to the task's total when it took the task from its queue.
    let Some(leg_ns) = unbooked_wait(left, task, 0) else { return };
    let clock_ns = rq.clock_ns();
    let held = slots::of_task(task, here);
    left.begin_writing();
    if let Some(account) = left.account(held.slot) {
        finish_wait(left, account, held, queue, clock_ns.wrapping_sub(leg_ns), clock_ns);
    }
    left.end_writing();
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
            let moved_before = other.moved_in_ns == other.since_ns;
            let present = if moved_before { other.moved_slot } else { other.slot };
            if concerned && present != held.slot {
                other.moved_slot = held.slot;
                other.moved_generation = held.generation;
                other.moved_at_ns = clock_ns;
                other.moved_in_ns = other.since_ns;
            }
        }
        cpu += 1;
    }
}
