//! A wait that ends: the throttled part cut away, the rest entered by its length and split by who ran meanwhile.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use podlens_common::{
    cgroup::Holder,
    scheduler::{
        Account, CAUSE_IDLE, CAUSE_NEIGHBOR, CAUSE_POD, CAUSE_SELF, CAUSE_SYSTEM, CAUSE_UNKNOWN, Culprits, HISTORY,
        Throttles, WAYS, culprit, place,
    },
};

use super::lane::{self, Lane};
use crate::{
    atomic,
    kernel::{CfsRq, Task, has_throttled, slots_count},
    slots,
};

/// Slices walked back before random moments stand for the rest of a wait.
const WALK: u32 = 8;
/// Equal parts of that rest, each of which is charged to whoever ran at one random moment of it; a power of two.
const STRATA: u64 = 4;

/// Who ran while a slot waited, by CPU and waiting slot.
#[map]
static CULPRITS: Array<Culprits> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Throttles by their length, by slot.
#[map]
static THROTTLES: Array<Throttles> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Books a wait from `queued_ns` until now, less the time for which the waiting group was throttled.
#[inline(always)]
pub(super) fn finish_wait(
    lane: &mut Lane,
    account: &mut Account,
    holder: Holder,
    task: Task,
    queued_ns: u64,
    clock_ns: u64,
) {
    let mut from_ns = queued_ns;
    // Who has held the CPU all along was not throttled. Who comes to it without a wait may have been.
    let is_own = lane.now.holder == holder && lane.held_since_ns() < queued_ns;
    if !is_own && has_throttled(holder.slot()) {
        let queue = task.cfs_rq();
        let total_ns = queue.throttled_ns();
        if account.throttle_queue != queue.address() || account.throttle_total_ns != total_ns {
            throttled_more(account, holder.slot(), queue, total_ns, clock_ns);
        }
        if account.throttle_until_ns > queued_ns {
            from_ns += cut_throttled(account, queued_ns, clock_ns);
        }
    }
    let waited_ns = clock_ns.wrapping_sub(from_ns);
    account.waits[place(waited_ns) & 31] += 1;
    if is_own {
        account.wait_ns[CAUSE_SELF] += waited_ns;
    } else if waited_ns != 0 {
        blame(lane.now.cpu.into(), holder.slot(), from_ns, clock_ns);
    }
}

/// Notes the throttle by which the total of the group's queue has grown, or follows another queue.
///
/// The kernel's total of throttled time grows when a throttle ends. A growth seen at a dispatch is one
/// throttle that ended since this slot's last dispatch here; its beginning was noted at the switch away
/// from the group, so its end is known as well.
#[inline(never)]
fn throttled_more(account: &mut Account, slot: u32, queue: CfsRq, total_ns: u64, clock_ns: u64) {
    let length_ns = total_ns.wrapping_sub(account.throttle_total_ns);
    let began_ns = account.throttle_began_ns;
    account.throttle_total_ns = total_ns;
    account.throttle_began_ns = 0;
    if account.throttle_queue != queue.address() {
        account.throttle_queue = queue.address();
        account.throttle_until_ns = 0;
        return;
    }
    let noted_ns = began_ns.wrapping_add(length_ns);
    let until_ns = if began_ns != 0 && noted_ns < clock_ns { noted_ns } else { clock_ns };
    account.throttle_until_ns = until_ns;
    account.throttle_from_ns = until_ns.wrapping_sub(length_ns);
    enter_throttle(slot, length_ns);
}

/// How much of the wait the group was throttled for; that much is cut from the wait's beginning.
#[inline(always)]
fn cut_throttled(account: &mut Account, queued_ns: u64, clock_ns: u64) -> u64 {
    let from_ns = if account.throttle_from_ns > queued_ns { account.throttle_from_ns } else { queued_ns };
    let cut_ns = account.throttle_until_ns.wrapping_sub(from_ns);
    let waited_ns = clock_ns.wrapping_sub(queued_ns);
    let cut_ns = if cut_ns > waited_ns { waited_ns } else { cut_ns };
    account.throttled_ns += cut_ns;
    cut_ns
}

/// Enters a throttle by its length; gives whether there was room. Any CPU may do so for the same slot at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enter_throttle(slot: u32, length_ns: u64) -> u32 {
    if u64::from(slot) >= slots_count() {
        return 0;
    }
    let Some(throttles) = THROTTLES.get_ptr_mut(slot) else { return 0 };
    // SAFETY: the entry outlives the program, and both words are whole and aligned.
    unsafe {
        atomic::add(&raw mut (*throttles).lengths[place(length_ns) & 31], 1);
        atomic::add(&raw mut (*throttles).sum_ns, length_ns);
    }
    1
}

/// Splits a wait by who held the CPU meanwhile, and gives how many slices that took.
///
/// Who holds the CPU now and the last few before are charged exactly. An older rest is cut into equal parts,
/// and one random moment decides for each: sums stay exact, shares are right on average, and the cost is bounded.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blame(cpu: u32, waiting: u32, from_ns: u64, clock_ns: u64) -> u32 {
    let Some(mut lane) = Lane::locked(cpu) else { return 0 };
    let mut end_ns = clock_ns;
    let held_since_ns = lane.held_since_ns();
    if held_since_ns < end_ns {
        let start_ns = if held_since_ns > from_ns { held_since_ns } else { from_ns };
        charge(cpu, waiting, lane.now.holder.0, end_ns.wrapping_sub(start_ns));
        end_ns = start_ns;
    }
    let mut distance = 0;
    while distance < WALK {
        let slice = lane.slice(distance);
        let start_ns = lane.slice(distance + 1).end_ns;
        let start_ns = if start_ns > from_ns { start_ns } else { from_ns };
        if start_ns < end_ns {
            charge(cpu, waiting, slice.holder.0, end_ns - start_ns);
            end_ns = start_ns;
        }
        distance += 1;
        if end_ns <= from_ns {
            return distance;
        }
    }
    let part_ns = end_ns.wrapping_sub(from_ns) / STRATA;
    let mut stratum = 0;
    while stratum < STRATA {
        let part_ns = if stratum + 1 == STRATA { end_ns.wrapping_sub(from_ns) } else { part_ns };
        end_ns = end_ns.wrapping_sub(part_ns);
        let moment_ns = end_ns + lane.random(clock_ns) % (part_ns | 1);
        distance = slice_at(cpu, distance, moment_ns);
        // What is older than the history was nobody's that is known.
        let is_older = distance + 1 >= HISTORY as u32;
        let holder = if is_older { Holder::UNSEEN } else { lane.slice(distance).holder };
        charge(cpu, waiting, holder.0, part_ns);
        stratum += 1;
    }
    distance
}

/// The finished slice of that moment, as its distance from the newest; the oldest one's if the moment is
/// older. `distance` is that of a slice which ended after the moment.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slice_at(cpu: u32, distance: u32, moment_ns: u64) -> u32 {
    let Some(mut lane) = Lane::locked(cpu) else { return 0 };
    let mut distance = distance;
    let mut step = HISTORY as u32 / 2;
    while step > 0 {
        let further = distance.wrapping_add(step);
        if further < HISTORY as u32 && lane.slice(further).end_ns > moment_ns {
            distance = further;
        }
        step >>= 1;
    }
    distance
}

/// Charges a part of a wait to who held the CPU; gives the cause.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn charge(cpu: u32, waiting: u32, holder: u64, part_ns: u64) -> u32 {
    let holder = Holder(holder);
    let Some(account) = lane::account(cpu, waiting) else { return CAUSE_UNKNOWN as u32 };
    let cause = cause(waiting, holder);
    if let Some(wait_ns) = account.wait_ns.get_mut(cause) {
        *wait_ns += part_ns;
    }
    if cause == CAUSE_NEIGHBOR || cause == CAUSE_SYSTEM {
        remember(cpu, waiting, culprit(holder), part_ns);
    }
    cause as u32
}

/// What a wait is caused by while that holder of a slot runs.
#[inline(always)]
fn cause(waiting: u32, holder: Holder) -> usize {
    if holder.slot() == waiting {
        return CAUSE_SELF;
    }
    if holder == Holder::IDLE {
        return CAUSE_IDLE;
    }
    let (Some(victim), Some(other)) = (slots::record(waiting), slots::record(holder.slot())) else {
        return CAUSE_UNKNOWN;
    };
    if other.generation != holder.generation() {
        CAUSE_UNKNOWN
    } else if other.container != 0 && other.container == victim.container {
        CAUSE_SELF
    } else if other.group != 0 && other.group == victim.group {
        CAUSE_POD
    } else if other.group == 0 {
        CAUSE_SYSTEM
    } else {
        CAUSE_NEIGHBOR
    }
}

/// Adds to the culprit's way, or lets it take one.
#[inline(always)]
fn remember(cpu: u32, waiting: u32, culprit: u64, part_ns: u64) {
    let Some(position) = slots::position(cpu, waiting) else { return };
    let Some(culprits) = CULPRITS.get_ptr_mut(position) else { return };
    // SAFETY: the caller holds the lock of the run queue that the entry belongs to.
    let culprits = unsafe { &mut *culprits };
    let mut way = 0;
    while way < WAYS {
        if culprits.culprit[way] == culprit {
            culprits.total_ns[way] += part_ns;
            return;
        }
        way += 1;
    }
    compete(cpu, position, culprit, part_ns);
}

/// Lets a culprit without a way take a free one, or the lightest; gives whether it has one.
///
/// When all ways are held, a newcomer takes the lightest with the probability of its share in what the two
/// weigh together: heavy culprits keep their ways, and one that becomes heavy gets in. What is
/// not booked to a way is known as the difference to the cause's total.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn compete(cpu: u32, position: u32, culprit: u64, part_ns: u64) -> u32 {
    let (Some(mut lane), Some(culprits)) = (Lane::locked(cpu), CULPRITS.get_ptr_mut(position)) else { return 0 };
    // SAFETY: as above.
    let culprits = unsafe { &mut *culprits };
    let mut lightest = 0;
    let mut weight_ns = u64::MAX;
    let mut way = 0;
    while way < WAYS {
        let held_ns = culprits.total_ns[way].wrapping_sub(culprits.from_ns[way]);
        if culprits.culprit[way] == 0 {
            culprits.culprit[way] = culprit;
            culprits.total_ns[way] += part_ns;
            return 1;
        }
        if held_ns < weight_ns {
            weight_ns = held_ns;
            lightest = way;
        }
        way += 1;
    }
    let lightest = lightest & (WAYS - 1);
    if lane.random(part_ns) % (weight_ns.wrapping_add(part_ns) | 1) >= part_ns {
        return 0;
    }
    culprits.from_ns[lightest] = culprits.total_ns[lightest];
    culprits.culprit[lightest] = culprit;
    culprits.total_ns[lightest] += part_ns;
    1
}
