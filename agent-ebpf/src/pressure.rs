//! Collector `pressure`: a walk through the version 2 tree for the kernel's totals of stalls, and a cgroup's stalls up to its
//! removal.
//!
//! The kernel adds each CPU's times to the totals every 2 s while something happens, weighted with the time in which the CPU had
//! something to do (`collect_percpu_times` of kernel/sched/psi.c). At the removal the same is done here.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    cty::c_void,
    helpers::generated::bpf_probe_read_kernel,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    pressure::{LAST_WORDS, PressureRecord, STATES, Stalls},
    tree::{BATCH, TreeWalk},
};

use crate::{
    cgroup_tree::{self, Tree},
    cpu_part::{CPUS, REMOVAL, cpu_part},
    events,
    kernel::{
        Cgroup, number,
        offsets::{self, word},
    },
};

/// What the last run of the walk met.
#[map]
static PRESSURE_RECORDS: Array<PressureRecord> = Array::with_max_entries(BATCH, BPF_F_MMAPABLE);
#[map]
static PRESSURE_WALK: Array<TreeWalk> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The CPUs' parts of the cgroup that is being removed.
#[map]
static PRESSURE_PARTS: Array<Parts> = Array::with_max_entries(1, 0);

/// The CPUs' parts of the cgroup that is being removed.
struct Parts {
    /// The pointer that stands for all CPUs' parts.
    parts: u64,
    /// The sum of the weights.
    weight: u64,
    /// Times by state, each by its CPU's weight.
    weighted: [u64; STATES],
    /// One CPU's times, and those that it has handed on.
    times: [u32; STATES],
    handed_on: [u32; STATES],
}

struct UnifiedTree;

impl Tree for UnifiedTree {
    #[inline(always)]
    fn walk() -> Option<*mut TreeWalk> {
        PRESSURE_WALK.get_ptr_mut(0)
    }

    #[inline(always)]
    fn of_set(set: u64, _tree: u64) -> u64 {
        word(set + offsets::set_default()) + number!("cgroup.self")
    }

    #[inline(always)]
    fn visit(state: u64, _depth: u64, exists: bool, records: u64) -> u64 {
        if exists { u64::from(pressure_record(state, records as u32)) } else { records }
    }
}

/// The walk: see [`cgroup_tree::run`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn pressure_walk(_context: *mut c_void) -> i32 {
    cgroup_tree::run::<UnifiedTree>();
    // Not to be called for the next task.
    1
}

/// Where a cgroup has the pointer to the kernel's totals. Since 6.1 they are a structure of their own, which a kernel without
/// pressure does not make.
#[inline(always)]
fn offset_of_group() -> u64 {
    // What came with that.
    number!("psi_group.parent");
    number!("cgroup.psi")
}

/// Writes a cgroup's record; gives how many there are then.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call; so are those below.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pressure_record(state: u64, number: u32) -> u32 {
    let Some(record) = PRESSURE_RECORDS.get_ptr_mut(number) else { return number };
    let group = word(state - number!("cgroup.self") + offset_of_group());
    // Where somebody has switched it off for a cgroup, its totals stand still (`cgroup.pressure`).
    if group == 0 || word(group + number!("psi_group.enabled")) & 0xff == 0 {
        return number;
    }
    let totals = group + number!("psi_group.total");
    // SAFETY: the helper checks the address, and the record has room for so much; only one reader walks at a time.
    let failed = unsafe {
        (*record).id = cgroup_tree::id_of(state);
        bpf_probe_read_kernel((&raw mut (*record).stalls).cast(), size_of::<Stalls>() as u32, totals as *const c_void)
    };
    if failed == 0 { number + 1 } else { number }
}

/// `cgroup_rmdir(cgroup, path)`: the totals are still there.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn pressure_last_words(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    if cgroup.root().hierarchy() != 0 {
        return 0;
    }
    let group = cgroup_tree::pointer_in(cgroup, offset_of_group());
    if group != 0 && collect(group) != 0 {
        events::send_filled::<Stalls>(LAST_WORDS, cgroup.kn().id(), |stalls| fill(stalls, group));
    }
    0
}

#[inline(always)]
fn fill(stalls: *mut Stalls, group: u64) {
    let Some(parts) = PRESSURE_PARTS.get_ptr(0) else { return };
    let totals = group + number!("psi_group.total");
    let mut state = 0;
    while state < STATES {
        // SAFETY: the index is below the number of states; the place is the program's own until it is submitted, and the kernel
        // calls programs on this hook one at a time.
        unsafe {
            let weight = (*parts).weight;
            let weighted = (&raw const (*parts).weighted).cast::<u64>().add(state).read();
            let since = weighted.checked_div(weight).unwrap_or(0);
            let total = word(totals + state as u64 * 8) + since;
            (&raw mut (*stalls).ns).cast::<u64>().add(state).write(total);
        }
        state += 1;
    }
}

/// Collects the CPUs' parts; 0 if they cannot be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn collect(group: u64) -> u32 {
    let Some(parts) = PRESSURE_PARTS.get_ptr_mut(0) else { return 0 };
    // Without it nothing of this can be done.
    number!("enum bpf_func_id.BPF_FUNC_map_lookup_percpu_elem");
    // SAFETY: as above.
    unsafe {
        (*parts).parts = word(group + number!("u64 psi_group.pcpu"));
        (*parts).weight = 0;
        (*parts).weighted = [0; STATES];
    }
    let mut cpu = 0;
    while cpu < CPUS {
        if collect_part(cpu) == 0 {
            break;
        }
        cpu += 1;
    }
    cpu
}

/// One CPU's part. 0 if there is no such CPU.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn collect_part(cpu: u32) -> u32 {
    let Some(parts) = PRESSURE_PARTS.get_ptr_mut(0) else { return 0 };
    let distance = cpu_part(cpu, REMOVAL);
    let (states, nonidle) = (number!("enum psi_states.NR_PSI_STATES"), number!("enum psi_states.PSI_NONIDLE"));
    if distance == 0 || states > STATES as u64 || nonidle >= STATES as u64 {
        return 0;
    }
    // SAFETY: the helper checks the addresses, and there is room for so much; the rest as above.
    unsafe {
        let part = (*parts).parts.wrapping_add(distance);
        let bytes = states as u32 * 4;
        let (times, handed_on) = (part + number!("psi_group_cpu.times"), part + number!("psi_group_cpu.times_prev"));
        let failed = bpf_probe_read_kernel((&raw mut (*parts).times).cast(), bytes, times as *const c_void)
            | bpf_probe_read_kernel((&raw mut (*parts).handed_on).cast(), bytes, handed_on as *const c_void);
        if failed != 0 {
            return 0;
        }
        let (times, handed_on) =
            ((&raw const (*parts).times).cast::<u32>(), (&raw const (*parts).handed_on).cast::<u32>());
        let since = |state: usize| u64::from(times.add(state).read().wrapping_sub(handed_on.add(state).read()));
        // The kernel's own weight, but in microseconds: its ticks leave out who was busy for less than one.
        let weight = since(nonidle as usize) / 1000 + 1;
        (*parts).weight += weight;
        let weighted = (&raw mut (*parts).weighted).cast::<u64>();
        let mut state = 0;
        while state < STATES {
            let sum = weighted.add(state);
            sum.write(sum.read() + since(state) * weight);
            state += 1;
        }
    }
    1
}
