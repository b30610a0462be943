//! What is too rare for an account on each CPU: one slot's totals, to which any CPU adds at any time.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use podlens_common::{histogram::hashed_bucket, scheduler::SlotTotals};

use crate::{atomic, kernel::slots_count};

/// Totals, by slot.
#[map]
static SLOT_TOTALS: Array<SlotTotals> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[inline(always)]
fn of(slot: u32) -> Option<*mut SlotTotals> {
    if u64::from(slot) < slots_count() { SLOT_TOTALS.get_ptr_mut(slot) } else { None }
}

/// A task was taken to another CPU.
#[inline(always)]
pub(super) fn migrated(slot: u32) {
    if let Some(totals) = of(slot) {
        // SAFETY: the entry outlives the program, and the word is whole and aligned.
        unsafe { atomic::add(&raw mut (*totals).migrations, 1) };
    }
}

/// Enters a throttle by its length; gives whether there was room.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn enter_throttle(slot: u32, length_ns: u64) -> u32 {
    let Some(totals) = of(slot) else { return 0 };
    // SAFETY: as above; the mask keeps the index inside.
    unsafe {
        atomic::add(&raw mut (*totals).throttles[hashed_bucket(length_ns) & 31], 1);
        atomic::add(&raw mut (*totals).throttles_ns, length_ns);
    }
    1
}

/// Enters what of a wait lay in a throttle; gives whether there was room.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn enter_throttled_wait(slot: u32, length_ns: u64) -> u32 {
    let Some(totals) = of(slot) else { return 0 };
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*totals).throttled_wait_ns, length_ns) };
    1
}

/// A count of waits has reached its limit on some CPU; gives whether there was room.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn carry_waits(slot: u32, hashed_bucket: u32) -> u32 {
    let Some(totals) = of(slot) else { return 0 };
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*totals).carried_waits[(hashed_bucket & 31) as usize], 1) };
    1
}
