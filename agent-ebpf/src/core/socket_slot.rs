//! Whose a socket is, for every collector that meets one: it belongs to its own cgroup, which it has for life, and not to
//! the task that runs when something happens to it.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use podlens_common::cgroup::{SLOT_ROOT, SLOT_UNATTRIBUTED};

use super::{
    kernel::{Cgroup, ROOT_ID, ROOT_SERIAL, has_v1, offsets::id_of},
    slots,
};

/// The slot of a socket's cgroup, assigned now if it has none and is there.
#[inline(always)]
pub(crate) fn slot_of(cgroup: Cgroup) -> u32 {
    if cgroup.is_null() {
        return SLOT_UNATTRIBUTED;
    }
    let serial = cgroup.serial();
    if serial == ROOT_SERIAL {
        return of_root();
    }
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // One that was removed has the slot that it had, for a while.
    let holder =
        if cgroup.is_online() { slots::of_cgroup_in_any_context(cgroup, serial, cpu) } else { slots::held_by(cgroup) };
    holder.slot()
}

/// The slot that the cgroup at this address holds.
#[inline(always)]
pub(crate) fn slot_held_by(cgroup: u64) -> u32 {
    match id_of(cgroup) {
        ROOT_ID => of_root(),
        key => slots::of_key(key).slot(),
    }
}

/// With a version 1 hierarchy whoever is in the root may be in a container all the same.
#[inline(always)]
fn of_root() -> u32 {
    if has_v1() { SLOT_UNATTRIBUTED } else { SLOT_ROOT }
}
