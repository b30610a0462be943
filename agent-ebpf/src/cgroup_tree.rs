//! A walk through a tree of cgroups, in the order in which each comes before those below it. Collectors say which tree, and what
//! they write of each cgroup.
//!
//! As with the walk through tasks, the kernel's iterator only starts the program, which goes along the kernel's lists by itself. A
//! run is one read-side critical section and meets a limited number of cgroups. Between two runs the cgroup at which the walk
//! stopped may go; then it is given up, and the daemon begins another one.
//!
//! Lists have removed cgroups as well, for as long as something of theirs is still in use.

use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::{bpf_get_current_task, bpf_loop},
};
use podlens_common::tree::{BATCH, TreeWalk};

use crate::kernel::{
    Cgroup, number,
    offsets::{self, half, is_linked, word},
};

/// Steps of one run at most: each cgroup is one, and each way up. More than a run of [`BATCH`] cgroups takes, so that the
/// number of cgroups ends it.
const STEPS: u32 = 512;
/// Levels from the reader's cgroup to the root.
const LEVELS: u32 = 32;
const _: () = assert!(STEPS > 2 * BATCH + LEVELS);
/// `CSS_ONLINE` and `CSS_DYING` of linux/cgroup-defs.h.
const ONLINE: u32 = 1 << 1;
const DYING: u32 = 1 << 4;

/// A tree and what is to be written of its cgroups.
pub(crate) trait Tree {
    /// How far the walk is. Only one reader walks at a time.
    fn walk() -> Option<*mut TreeWalk>;

    /// The state (`cgroup_subsys_state`) of one cgroup of the tree, from a task's set of cgroups. `tree`: which one, of several.
    fn of_set(set: u64, tree: u64) -> u64;

    /// Writes what is wanted of a cgroup, `depth` below the root, as the record of that number; gives how many there are then.
    fn visit(state: u64, depth: u64, exists: bool, records: u64) -> u64;
}

/// One run.
#[inline(always)]
pub(crate) fn run<T: Tree>() {
    offsets::needs_loop();
    let Some(walk) = T::walk() else { return };
    // SAFETY: only one reader walks at a time, here and below, and the daemon looks when the run has ended.
    let begins = unsafe { (*walk).runs } == 0;
    let goes_on = if begins { begin::<T>(walk) } else { is_there(walk) };
    // SAFETY: as above.
    unsafe {
        (*walk).runs += 1;
        (*walk).records = 0;
        (*walk).met = 0;
        (*walk).lost = u64::from(!goes_on);
    }
    if goes_on {
        let step: extern "C" fn(u32, *mut c_void) -> c_long = step::<T>;
        // SAFETY: the callback has the form that the kernel calls.
        unsafe { bpf_loop(STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    }
}

/// Begins at the root above the reader's own cgroup in that tree.
#[inline(always)]
fn begin<T: Tree>(walk: *mut TreeWalk) -> bool {
    // SAFETY: the helper has no precondition.
    let reader = unsafe { bpf_get_current_task() };
    // SAFETY: as above.
    let tree = unsafe { (*walk).tree };
    let mut root = T::of_set(word(reader + offsets::task_cgroups()), tree);
    let mut level = 0;
    while level < LEVELS {
        let above = word(root + number!("u64 cgroup_subsys_state.parent"));
        if above == 0 {
            break;
        }
        root = above;
        level += 1;
    }
    // SAFETY: as above.
    unsafe {
        (*walk).root = root;
        (*walk).at = root;
        (*walk).serial = 0;
        (*walk).above = 0;
        (*walk).depth = 0;
        (*walk).climbs = 0;
        (*walk).finished = 0;
    }
    root != 0 && level < LEVELS
}

/// The cgroup at which the last run stopped is still in its list.
#[inline(always)]
fn is_there(walk: *mut TreeWalk) -> bool {
    // SAFETY: as above.
    let (root, at, serial) = unsafe { ((*walk).root, (*walk).at, (*walk).serial) };
    at == root || is_listed(at, serial) != 0
}

/// Whether at that address is still the state with that serial number, and a member of its list.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_listed(state: u64, serial: u64) -> u32 {
    let is_member = is_linked(state + number!("cgroup_subsys_state.sibling"));
    u32::from(is_member && word(state + number!("u64 cgroup_subsys_state.serial_nr")) == serial)
}

/// One cgroup, or the way from one up to the one above it.
extern "C" fn step<T: Tree>(_index: u32, _context: *mut c_void) -> c_long {
    let Some(walk) = T::walk() else { return 1 };
    // SAFETY: as in `run`, here and below.
    let TreeWalk { root, at, above, depth, climbs, met, most, records, .. } = unsafe { walk.read() };
    if met >= most {
        // The run ends here, and the next one looks whether it is still there.
        unsafe { (*walk).serial = word(at + number!("u64 cgroup_subsys_state.serial_nr")) };
        return 1;
    }
    let below = at + number!("cgroup_subsys_state.children");
    let first = if climbs == 0 { word(below) } else { below };
    let (next, above, depth) = if first != below {
        (first, at, depth + 1)
    } else if at == root {
        unsafe { (*walk).finished = 1 };
        return 1;
    } else {
        let next = word(at + number!("cgroup_subsys_state.sibling"));
        if above != 0 && next == above + number!("cgroup_subsys_state.children") {
            unsafe {
                (*walk).at = above;
                (*walk).above = word(above + number!("u64 cgroup_subsys_state.parent"));
                (*walk).depth = depth - 1;
                (*walk).climbs = 1;
            }
            return 0;
        }
        (if above == 0 { 0 } else { next }, above, depth)
    };
    if next == 0 {
        // Something could not be read: the lists are not what they are taken for.
        unsafe { (*walk).lost = 1 };
        return 1;
    }
    let state = next - number!("cgroup_subsys_state.sibling");
    let exists = half(state + number!("u32 cgroup_subsys_state.flags")) & (ONLINE | DYING) == ONLINE;
    let records = T::visit(state, depth, exists, records);
    unsafe {
        (*walk).at = state;
        (*walk).above = above;
        (*walk).depth = depth;
        (*walk).climbs = 0;
        (*walk).met = met + 1;
        (*walk).records = records;
    }
    0
}

/// The id of the cgroup whose state it is.
#[inline(always)]
pub(crate) fn id_of(state: u64) -> u64 {
    offsets::id_of(word(state + offsets::css_cgroup()))
}

/// A pointer among the members of a cgroup that the kernel has handed to the program, as a number, which the functions that are
/// proved once take; 0 where nothing is.
#[inline(always)]
pub(crate) fn pointer_in(cgroup: Cgroup, offset: u64) -> u64 {
    offsets::word_inline(cgroup.address() + offset)
}
