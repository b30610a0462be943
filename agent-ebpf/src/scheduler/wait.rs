//! A wait that ends: the throttled part cut away, the rest entered by its length and split by who ran meanwhile. The
//! arithmetic is podlens_common's; here are the places that it reads and writes.

use podlens_common::{
    cgroup::Holder,
    histogram::hashed_bucket,
    scheduler::{
        Cause, Slice, WAITS_LIMIT,
        cause::cause,
        culprits::{self, Places, TRACKED, culprit},
        throttle::Throttle,
        wait::{self, Timeline},
    },
};

use super::{
    state::{AccountCells, CpuState},
    totals,
};
use crate::{
    kernel::{CfsRq, Task, has_throttled},
    slots,
};

/// Books a wait from `queued_ns` until now, less the time for which the waiting group was throttled.
#[inline(always)]
pub(super) fn finish_wait(
    state: CpuState,
    account: AccountCells,
    holder: Holder,
    task: Task,
    queued_ns: u64,
    clock_ns: u64,
) {
    let mut from_ns = queued_ns;
    // Who has held the CPU all along was not throttled. Who comes to it without a wait may have been. Those without a slot are
    // many.
    let is_own = state.holder().get() == holder && holder != Holder::UNATTRIBUTED && state.held_since_ns() < queued_ns;
    if !is_own && has_throttled(holder.slot()) {
        let queue = task.cfs_rq();
        let total_ns = queue.throttled_ns();
        if account.throttle_queue().get() != queue.address() || account.throttle_total_ns().get() != total_ns {
            throttled_more(account, holder.slot(), queue, total_ns, clock_ns);
        }
        if account.throttle_until_ns().get() > queued_ns {
            from_ns += cut_throttled(account, holder.slot(), queued_ns, clock_ns);
        }
    }
    let waited_ns = clock_ns.wrapping_sub(from_ns);
    if is_own {
        account.wait_ns(Cause::Own).update(|sum_ns| sum_ns + waited_ns);
    } else if waited_ns != 0 {
        charge_all(state, account, holder.slot(), from_ns, clock_ns);
    }
    // Last, so that nothing has to be kept over a call.
    count_wait(account, holder, waited_ns);
}

/// Charges all of a wait. As a rule that is one addition: whoever leaves the CPU now has had it all the while, and is nobody or
/// has been waited for before.
///
/// A function of its own, so that a switch within a cgroup has none of it between what it runs.
#[inline(never)]
fn charge_all(state: CpuState, account: AccountCells, waiting: u32, from_ns: u64, clock_ns: u64) {
    let last = state.slice(0);
    if last.end_ns == clock_ns && state.slice(1).end_ns <= from_ns {
        let part_ns = clock_ns.wrapping_sub(from_ns);
        if last.holder == Holder::IDLE {
            account.book(Cause::Idle, part_ns);
            return;
        }
        if culprits::add(&account, culprit(last.holder), part_ns) {
            return;
        }
    }
    blame(state.cpu().get().into(), waiting, from_ns, clock_ns);
}

#[inline(always)]
fn count_wait(account: AccountCells, holder: Holder, waited_ns: u64) {
    let bucket = hashed_bucket(waited_ns);
    let count = account.waits(bucket).get() + 1;
    account.waits(bucket).set(count);
    if count == WAITS_LIMIT {
        account.waits(bucket).set(0);
        totals::carry_waits(holder.slot(), bucket as u32);
    }
}

/// Notes the throttle by which the total of the group's queue has grown, or follows another queue.
///
/// The kernel's total of throttled time grows when a throttle ends. A growth seen at a dispatch is one
/// throttle that ended since this slot's last dispatch here; its beginning was noted at the switch away
/// from the group, so its end is known as well.
#[inline(never)]
fn throttled_more(account: AccountCells, slot: u32, queue: CfsRq, total_ns: u64, clock_ns: u64) {
    let length_ns = total_ns.wrapping_sub(account.throttle_total_ns().get());
    let began_ns = account.throttle_began_ns().get();
    account.throttle_total_ns().set(total_ns);
    account.throttle_began_ns().set(0);
    if account.throttle_queue().get() != queue.address() {
        account.throttle_queue().set(queue.address());
        account.throttle_until_ns().set(0);
        return;
    }
    let throttle = Throttle::ended(began_ns, length_ns, clock_ns);
    account.throttle_until_ns().set(throttle.until_ns);
    account.throttle_from_ns().set(throttle.from_ns);
    totals::enter_throttle(slot, length_ns);
}

/// How much of the wait the group was throttled for; that much is cut from the wait's beginning.
#[inline(never)]
fn cut_throttled(account: AccountCells, slot: u32, queued_ns: u64, clock_ns: u64) -> u64 {
    let throttle = Throttle { from_ns: account.throttle_from_ns().get(), until_ns: account.throttle_until_ns().get() };
    let cut_ns = throttle.of_wait_ns(queued_ns, clock_ns);
    totals::enter_throttled_wait(slot, cut_ns);
    cut_ns
}

/// Splits a wait by who held the CPU meanwhile, and gives how many slices that took.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blame(cpu: u32, waiting: u32, from_ns: u64, clock_ns: u64) -> u32 {
    let Some(state) = CpuState::of(cpu) else { return 0 };
    wait::split(&Waiting { state, cpu, waiting }, from_ns, clock_ns)
}

/// A slot that waits for a CPU.
struct Waiting {
    state: CpuState,
    cpu: u32,
    waiting: u32,
}

impl Timeline for Waiting {
    #[inline(always)]
    fn holder(&self) -> Holder {
        self.state.holder().get()
    }

    #[inline(always)]
    fn finished(&self, distance: u32) -> Slice {
        self.state.slice(distance)
    }

    #[inline(always)]
    fn slice_at(&self, distance: u32, moment_ns: u64) -> u32 {
        slice_at(self.cpu, distance, moment_ns)
    }

    #[inline(always)]
    fn random(&self, stir: u64) -> u64 {
        self.state.random(stir)
    }

    #[inline(always)]
    fn charge(&self, holder: Holder, part_ns: u64) {
        charge(self.cpu, self.waiting, holder.0, part_ns);
    }
}

/// [`wait::slice_at`] of a CPU's history, as a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slice_at(cpu: u32, distance: u32, moment_ns: u64) -> u32 {
    let Some(state) = CpuState::of(cpu) else { return 0 };
    wait::slice_at(distance, moment_ns, |distance| state.slice(distance).end_ns)
}

/// Charges a part of a wait to who held the CPU; gives whether there was room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn charge(cpu: u32, waiting: u32, holder: u64, part_ns: u64) -> u32 {
    let holder = Holder(holder);
    let Some(account) = AccountCells::of(cpu, waiting) else { return 0 };
    if holder != Holder::IDLE && culprits::add(&account, culprit(holder), part_ns) {
        return 1;
    }
    let cause = cause(waiting, holder, slots::record);
    if cause == Cause::Neighbor || cause == Cause::System {
        compete(cpu, waiting, culprit(holder), cause as u32, part_ns);
    } else {
        account.book(cause, part_ns);
    }
    1
}

impl Places for AccountCells {
    #[inline(always)]
    fn culprit(&self, place: usize) -> u32 {
        AccountCells::culprit(*self, place).get()
    }

    #[inline(always)]
    fn set_culprit(&self, place: usize, culprit: u32) {
        AccountCells::culprit(*self, place).set(culprit);
    }

    #[inline(always)]
    fn held_low(&self, place: usize) -> u32 {
        AccountCells::held_low(*self, place).get()
    }

    #[inline(always)]
    fn set_held_low(&self, place: usize, low: u32) {
        AccountCells::held_low(*self, place).set(low);
    }

    #[inline(always)]
    fn held_high(&self, place: usize) -> u16 {
        AccountCells::held_high(*self, place).get()
    }

    #[inline(always)]
    fn set_held_high(&self, place: usize, high: u16) {
        AccountCells::held_high(*self, place).set(high);
    }

    #[inline(always)]
    fn of_node(&self) -> u32 {
        AccountCells::of_node(*self).get()
    }

    #[inline(always)]
    fn set_of_node(&self, of_node: u32) {
        AccountCells::of_node(*self).set(of_node);
    }

    #[inline(always)]
    fn carry(&self, place: usize, more: u32) {
        carry_held(*self, place, more);
    }

    #[inline(always)]
    fn book(&self, cause: Cause, ns: u64) {
        self.wait_ns(cause).update(|sum_ns| sum_ns + ns);
    }
}

/// [`culprits::carry`], so rare that it is a function of its own.
#[inline(never)]
fn carry_held(account: AccountCells, place: usize, more: u32) {
    if place < TRACKED {
        culprits::carry(&account, place, more);
    }
}

/// [`culprits::compete`] in a slot's account, as a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn compete(cpu: u32, waiting: u32, culprit: u32, cause: u32, part_ns: u64) -> u32 {
    let (Some(state), Some(account)) = (CpuState::of(cpu), AccountCells::of(cpu, waiting)) else {
        return 0;
    };
    let cause = if cause == Cause::System as u32 { Cause::System } else { Cause::Neighbor };
    culprits::compete(&account, culprit, cause, part_ns, || state.random(part_ns)).into()
}
