//! Which of a task's two cgroups counts where a version 1 CPU hierarchy is mounted beside the version 2 tree: the one whose path
//! says more of whose it is ([docs/adr/0013](../../../docs/adr/0013-hybrid-nodes.md)).
//!
//! 1. A root says nothing; where both do, the task is in no cgroup.
//! 2. A pod's path counts before that of a container outside pods, and this before any other: a runtime that knows version 1
//!    alone leaves its containers' tasks in its own unit of the version 2 tree.
//! 3. Otherwise version 2: a manager makes a unit's directory in version 1 only where it needs one, and leaves the unit's tasks
//!    in the slice above.
//!
//! Called by slots.rs where a task's cgroups are not in the CPU's cache, and by the walk through all tasks. What a path says
//! stands in the table `SAID`, since to read its names takes microseconds.

use aya_ebpf::{macros::map, maps::Array};
use podlens_common::cgroup::{CACHE_ENTRIES, CgroupKey, KEY_V1, cache_index};

use crate::{
    kernel::{
        Cgroup, CssSet, ROOT_SERIAL, has_v1,
        offsets::{self, id_of, word},
    },
    slots::{self, lose},
};

/// What the paths of cgroups say, by their serial numbers: each in one word, so that whoever reads it needs no lock, with
/// what it says in the two lowest bits. Where two cgroups want one entry the later one has it.
#[map]
static SAID: Array<u64> = Array::with_max_entries(CACHE_ENTRIES, 0);

/// Answers of [`counts`]: it cannot be told at this moment, as this CPU's buffer for names is in use by what this program has
/// interrupted.
const UNKNOWN: u32 = 0;
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 2;

/// The cgroup of a set that counts; none where that cannot be told at this moment, which is counted.
#[inline(always)]
pub(crate) fn counting(set: CssSet, cpu: u32) -> Option<Cgroup> {
    if !has_v1() {
        return Some(set.default_cgroup());
    }
    let (v2, v1) = set.addresses();
    match counts(v2, v1) {
        VERSION_1 => Some(set.cpu().cgroup()),
        VERSION_2 => Some(set.default_cgroup()),
        _ => {
            lose!(cpu, slot_busy);
            None
        }
    }
}

/// The key of the cgroup that counts of a set at an address, the root's own id where all are roots; none where that cannot be told
/// at this moment.
#[inline(always)]
pub(crate) fn key_at(set: u64) -> Option<CgroupKey> {
    let v2 = word(set + offsets::set_default());
    if has_v1() {
        let v1 = word(word(set + offsets::set_cpu()) + offsets::css_cgroup());
        match counts(v2, v1) {
            VERSION_1 => return Some(id_of(v1) | KEY_V1),
            VERSION_2 => {}
            _ => return None,
        }
    }
    Some(id_of(v2))
}

/// Which of two cgroups counts, by their addresses.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn counts(v2: u64, v1: u64) -> u32 {
    let serial = |cgroup: u64| word(cgroup + offsets::cgroup_serial());
    let (of_v2, of_v1) = (serial(v2), serial(v1));
    if v1 == 0 || of_v1 == ROOT_SERIAL {
        return VERSION_2;
    }
    if of_v2 == ROOT_SERIAL {
        return VERSION_1;
    }
    match (says(v2, of_v2), says(v1, of_v1)) {
        (Some(of_v2), Some(of_v1)) if of_v1 > of_v2 => VERSION_1,
        (Some(_), Some(_)) => VERSION_2,
        _ => UNKNOWN,
    }
}

/// What the path of a cgroup says of whose it is.
#[inline(always)]
fn says(cgroup: u64, serial: u64) -> Option<u32> {
    let entry = SAID.get_ptr_mut(cache_index(serial));
    // SAFETY: entries of a map outlive the program, and a word is read and written whole.
    let known = entry.map_or(0, |entry| unsafe { entry.read_volatile() });
    if known >> 2 == serial {
        return Some(known as u32 & 3);
    }
    let says = slots::path_says(cgroup)?;
    if let Some(entry) = entry {
        // SAFETY: as above.
        unsafe { entry.write_volatile(serial << 2 | u64::from(says)) };
    }
    Some(says)
}
