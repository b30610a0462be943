//! Which record the sockets of a cgroup are summed up in: found by the cgroup's address within one run, by its key within
//! one walk.

use aya_ebpf::{macros::map, maps::Array};
use podlens_common::{
    cgroup::{CgroupKey, SLOT_UNATTRIBUTED},
    tcp::{Alive, KEY_NOBODY, KEY_ROOT, NO_SLOT, Place},
};

use super::{AtCells, TCP_ALIVE, WalkCells, offsets};
use crate::{
    kernel::{
        CGROUP_ONLINE,
        offsets::{self as kernel, half},
        slots_count,
    },
    slots,
};

/// Cgroups that are remembered during a run; a power of two.
pub(super) const REMEMBERED: u32 = 64;
/// Places of the table of keys that are looked at.
const PROBES: u32 = 16;

/// Which record a cgroup has.
#[map]
static TCP_PLACES: Array<Place> = Array::with_max_entries(1, 0);

/// A cgroup by its address, which is another one's in another run.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Known {
    cgroup: u64,
    run: u32,
    record: u32,
}

/// The number of a cgroup's record.
#[inline(always)]
pub(super) fn record_of(at: AtCells, cgroup: u64) -> u32 {
    let known = at.known(((cgroup >> 6) as u32).wrapping_mul(0x9e37_79b9) >> (u32::BITS - REMEMBERED.ilog2()));
    let run = at.run().get();
    let Known { cgroup: last, run: of_run, record } = known.get();
    if last == cgroup && of_run == run {
        return record;
    }
    let key = if cgroup == 0 { KEY_NOBODY } else { kernel::id_of(cgroup) };
    let is_online = u32::from(half(cgroup + offsets::cgroup_flags()) & CGROUP_ONLINE != 0);
    let record = place(key, is_online);
    known.set(Known { cgroup, run, record });
    record
}

/// The number of a key's record, made if there is none; that of nobody's if there is no room.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn place(key: CgroupKey, is_online: u32) -> u32 {
    let Some(walk) = WalkCells::get() else { return 0 };
    let number = walk.number().get();
    // Twice as many as there are slots.
    let count = slots_count() as u32 * 2;
    let hash = (key as u32).wrapping_mul(0x9e37_79b9);
    let first = ((u64::from(hash) * u64::from(count)) >> 32) as u32;
    let mut probe = 0;
    while probe < PROBES {
        let at = first + probe;
        let at = if at >= count { at - count } else { at };
        let Some(place) = TCP_PLACES.get_ptr_mut(at) else { break };
        // SAFETY: entries of a map outlive the program, and only one reader walks.
        let Place { key: placed, walk: of_walk, record } = unsafe { place.read_volatile() };
        if of_walk != number {
            let record = walk.records().get() as u32;
            let Some(alive) = TCP_ALIVE.get_ptr_mut(record) else { break };
            let slot = if key == KEY_NOBODY || key == KEY_ROOT { NO_SLOT } else { slot_of(key) };
            // SAFETY: as above.
            unsafe {
                alive.write(Alive { key, is_online, slot, ..Alive::EMPTY });
                place.write(Place { key, walk: number, record });
            }
            walk.records().update(|records| records + 1);
            return record;
        }
        if placed == key {
            return record;
        }
        probe += 1;
    }
    walk.unplaced().update(|unplaced| unplaced + 1);
    0
}

#[inline(always)]
fn slot_of(key: CgroupKey) -> u32 {
    let slot = slots::of_key(key).slot();
    if slot == SLOT_UNATTRIBUTED { NO_SLOT } else { slot }
}
