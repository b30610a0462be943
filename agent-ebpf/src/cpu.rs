//! Collector `cpu`: a walk through the CPU controller's tree for quotas, what they did, and CPU time by mode; and the same of a
//! cgroup that is about to be removed, since its files are gone by then.
//!
//! A quota's counts lie in the cgroup's `task_group`. CPU time by mode is in version 1 each CPU's own count, cgroups below
//! included; in version 2 each CPU's count of the cgroup alone, which the kernel adds up, and to the cgroups above, when somebody
//! asks. What it has not added up yet is told apart, so that the daemon can.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    cty::c_void,
    helpers::generated::bpf_probe_read_kernel,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    cgroup::KEY_V1,
    cpu::{
        ACCOUNTS, Bandwidth, CpuFigures, CpuRecord, CpuTimes, CpuTimesAt, HAS_GROUP, HAS_TIMES, LAST_TIMES, LAST_WORDS,
    },
    tree::{BATCH, TreeWalk},
};

use crate::{
    cgroup_tree::{self, Tree},
    cpu_part::{CPUS, REMOVAL, WALK, cpu_part},
    events,
    kernel::{
        Cgroup, has_v1, number,
        offsets::{self, half, word},
    },
};

/// What the last run of the walk met.
#[map]
static CPU_RECORDS: Array<CpuRecord> = Array::with_max_entries(BATCH, BPF_F_MMAPABLE);
#[map]
static CPU_WALK: Array<TreeWalk> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The cgroup that is being read, by who reads it: [`WALK`] and [`REMOVAL`].
#[map]
static CPU_READ: Array<Reading> = Array::with_max_entries(2, 0);

/// More than the kernel's kinds of CPU time (`NR_STATS`).
const KINDS: usize = 16;

/// A cgroup that is being read.
struct Reading {
    figures: CpuFigures,
    /// The pointer that stands for all CPUs' counts.
    parts: u64,
    /// One CPU's counts by kind (version 1).
    kinds: [u64; KINDS],
}

struct CpuTree;

impl Tree for CpuTree {
    #[inline(always)]
    fn walk() -> Option<*mut TreeWalk> {
        CPU_WALK.get_ptr_mut(0)
    }

    #[inline(always)]
    fn of_set(set: u64, tree: u64) -> u64 {
        let cgroup = if !has_v1() {
            word(set + offsets::set_default())
        } else if tree == ACCOUNTS && number!("accounting ? 1 : 0") != 0 {
            let state = word(set + number!("u64 css_set.subsys[cgroup_subsys_id.cpuacct_cgrp_id]?accounting"));
            word(state + offsets::css_cgroup())
        } else {
            word(word(set + offsets::set_cpu()) + offsets::css_cgroup())
        };
        cgroup + number!("cgroup.self")
    }

    #[inline(always)]
    fn visit(state: u64, depth: u64, exists: bool, records: u64) -> u64 {
        if exists {
            u64::from(cpu_record(state, depth, records as u32))
        } else if has_v1() {
            records
        } else {
            u64::from(cpu_remains(state, depth, records as u32))
        }
    }
}

/// The walk: see [`cgroup_tree::run`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn cpu_walk(_context: *mut c_void) -> i32 {
    // Without it no CPU's count can be read.
    number!("enum bpf_func_id.BPF_FUNC_map_lookup_percpu_elem");
    cgroup_tree::run::<CpuTree>();
    // Not to be called for the next task.
    1
}

/// Writes a cgroup's record; gives how many there are then.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call; so are those below.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_record(state: u64, depth: u64, number: u32) -> u32 {
    cpu_figures(state - number!("cgroup.self"), WALK);
    let (Some(record), Some(read)) = (CPU_RECORDS.get_ptr_mut(number), CPU_READ.get_ptr(WALK)) else { return number };
    // SAFETY: only one reader walks at a time.
    unsafe {
        (*record).id = cgroup_tree::id_of(state);
        (*record).depth = depth;
        (*record).figures = (*read).figures;
    }
    number + 1
}

/// Writes a removed cgroup's record, if there is something that the kernel has not handed up.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_remains(state: u64, depth: u64, number: u32) -> u32 {
    let Some(read) = CPU_READ.get_ptr_mut(WALK) else { return number };
    // SAFETY: as above.
    unsafe { (*read).figures = NOTHING };
    cpu_times(state - number!("cgroup.self"), WALK);
    let Some(record) = CPU_RECORDS.get_ptr_mut(number) else { return number };
    // SAFETY: as above.
    unsafe {
        let CpuTimes { user, system, run } = (*read).figures.pending;
        if user | system | run == 0 {
            return number;
        }
        (*record).id = 0;
        (*record).depth = depth;
        (*record).figures = (*read).figures;
    }
    number + 1
}

const NO_TIME: CpuTimes = CpuTimes { user: 0, system: 0, run: 0 };
const NOTHING: CpuFigures = CpuFigures {
    known: 0,
    quota_ns: 0,
    period_ns: 0,
    bandwidth: Bandwidth { periods: 0, throttled_periods: 0, throttled_ns: 0 },
    handed_up: NO_TIME,
    pending: NO_TIME,
    told: [0; 2],
};

/// Reads what is known of a cgroup.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_figures(cgroup: u64, reader: u32) -> u32 {
    let Some(read) = CPU_READ.get_ptr_mut(reader) else { return 0 };
    // SAFETY: each reader has an entry of its own.
    unsafe { (*read).figures = NOTHING };
    cpu_times(cgroup, reader);
    if number!("bandwidth ? 1 : 0") == 0 {
        return 0;
    }
    let state = word(cgroup + number!("u64 cgroup.subsys[cgroup_subsys_id.cpu_cgrp_id]?bandwidth"));
    if state == 0 {
        return 0;
    }
    let group = state - number!("task_group.css?bandwidth");
    // SAFETY: as above.
    unsafe {
        (*read).figures.known |= HAS_GROUP;
        (*read).figures.quota_ns = word(group + number!("u64 task_group.cfs_bandwidth.quota?bandwidth"));
        (*read).figures.period_ns = word(group + number!("u64 task_group.cfs_bandwidth.period?bandwidth"));
        (*read).figures.bandwidth = Bandwidth {
            periods: u64::from(half(group + number!("u32 task_group.cfs_bandwidth.nr_periods?bandwidth"))),
            throttled_periods: u64::from(half(group + number!("u32 task_group.cfs_bandwidth.nr_throttled?bandwidth"))),
            throttled_ns: word(group + number!("u64 task_group.cfs_bandwidth.throttled_time?bandwidth")),
        };
    }
    0
}

/// Reads CPU time by mode.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cpu_times(cgroup: u64, reader: u32) -> u32 {
    let Some(read) = CPU_READ.get_ptr_mut(reader) else { return 0 };
    let mut parts = 0;
    if has_v1() {
        if number!("accounting ? 1 : 0") != 0 {
            let state = word(cgroup + number!("u64 cgroup.subsys[cgroup_subsys_id.cpuacct_cgrp_id]?accounting"));
            // 0 where the controller has a hierarchy of its own.
            if state != 0 {
                parts = word(state - number!("cpuacct.css?accounting") + number!("u64 cpuacct.cpustat?accounting"));
            }
        }
    } else if number!("times ? 1 : 0") != 0 {
        // First what the kernel has added up: what it adds meanwhile is then in neither, and never in both.
        let (total, handed_up) =
            (cgroup + number!("cgroup.bstat.cputime?times"), cgroup + number!("cgroup.last_bstat.cputime?times"));
        // SAFETY: as above.
        unsafe {
            (*read).figures.handed_up =
                CpuTimes { user: user(handed_up), system: system(handed_up), run: run(handed_up) };
            (*read).figures.pending = CpuTimes {
                user: user(total).wrapping_sub((*read).figures.handed_up.user),
                system: system(total).wrapping_sub((*read).figures.handed_up.system),
                run: run(total).wrapping_sub((*read).figures.handed_up.run),
            };
            (*read).figures.told = [
                word(cgroup + number!("u64 cgroup.prev_cputime.utime?times")),
                word(cgroup + number!("u64 cgroup.prev_cputime.stime?times")),
            ];
        }
        parts = word(cgroup + number!("u64 cgroup.rstat_base_cpu|cgroup.rstat_cpu?times"));
    }
    if parts == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*read).parts = parts };
    let mut cpu = 0;
    while cpu < CPUS {
        if add_times(cpu, reader) == 0 {
            break;
        }
        cpu += 1;
    }
    if cpu > 0 {
        // SAFETY: as above.
        unsafe { (*read).figures.known |= HAS_TIMES };
    }
    0
}

#[inline(always)]
fn user(times: u64) -> u64 {
    word(times + number!("u64 task_cputime.utime?times"))
}

#[inline(always)]
fn system(times: u64) -> u64 {
    word(times + number!("u64 task_cputime.stime?times"))
}

#[inline(always)]
fn run(times: u64) -> u64 {
    word(times + number!("u64 task_cputime.sum_exec_runtime?times"))
}

/// Adds one CPU's count. 0 if there is no such CPU.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_times(cpu: u32, reader: u32) -> u32 {
    let Some(read) = CPU_READ.get_ptr_mut(reader) else { return 0 };
    let distance = cpu_part(cpu, reader);
    if distance == 0 {
        return 0;
    }
    // SAFETY: as above.
    let part = unsafe { (*read).parts }.wrapping_add(distance);
    if has_v1() { add_kinds(part, reader) } else { add_base(part, reader) }
}

/// Version 1: one CPU's counts by kind.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_kinds(part: u64, reader: u32) -> u32 {
    let Some(read) = CPU_READ.get_ptr_mut(reader) else { return 0 };
    if number!("accounting ? 1 : 0") == 0 {
        return 0;
    }
    let (user, nice, system) = (
        number!("enum cpu_usage_stat.CPUTIME_USER"),
        number!("enum cpu_usage_stat.CPUTIME_NICE"),
        number!("enum cpu_usage_stat.CPUTIME_SYSTEM"),
    );
    let (interrupt, soft_interrupt) =
        (number!("enum cpu_usage_stat.CPUTIME_IRQ"), number!("enum cpu_usage_stat.CPUTIME_SOFTIRQ"));
    // As far as the last of them.
    let kinds = user.max(nice).max(system).max(interrupt).max(soft_interrupt) + 1;
    if kinds > KINDS as u64 {
        return 0;
    }
    let counts = part + number!("kernel_cpustat.cpustat?accounting");
    // SAFETY: the helper checks the address, and there is room for so much; the rest as above.
    unsafe {
        let place = (&raw mut (*read).kinds).cast::<u64>();
        if bpf_probe_read_kernel(place.cast(), kinds as u32 * 8, counts as *const c_void) != 0 {
            return 0;
        }
        let of = |kind: u64| if kind < KINDS as u64 { place.add(kind as usize).read() } else { 0 };
        // As `cpuacct_cpuusage_read` of kernel/sched/cpuacct.c does.
        (*read).figures.handed_up.user += of(user) + of(nice);
        (*read).figures.handed_up.system += of(system) + of(interrupt) + of(soft_interrupt);
    }
    1
}

/// Version 2: what one CPU has counted since the kernel has added it up.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_base(part: u64, reader: u32) -> u32 {
    let Some(read) = CPU_READ.get_ptr_mut(reader) else { return 0 };
    if number!("times ? 1 : 0") == 0 {
        return 0;
    }
    let counted = part + number!("cgroup_rstat_base_cpu.bstat.cputime|cgroup_rstat_cpu.bstat.cputime?times");
    let added = part + number!("cgroup_rstat_base_cpu.last_bstat.cputime|cgroup_rstat_cpu.last_bstat.cputime?times");
    let (user, system, run) =
        (since(user(counted), user(added)), since(system(counted), system(added)), since(run(counted), run(added)));
    // SAFETY: as above.
    unsafe {
        (*read).figures.pending.user += user;
        (*read).figures.pending.system += system;
        (*read).figures.pending.run += run;
    }
    1
}

/// The second may be of a later moment.
#[inline(always)]
fn since(counted: u64, added: u64) -> u64 {
    counted.saturating_sub(added)
}

/// `cgroup_rmdir(cgroup, path)`: the cgroup's controllers are still there.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cpu_last_words(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    let mark = if has_v1() { KEY_V1 } else { 0 };
    let counts = cgroup.key_mark() == Some(mark);
    if !counts && !is_account(cgroup) {
        return 0;
    }
    // Its own address, as a number.
    let address = cgroup_tree::pointer_in(cgroup, number!("cgroup.self") + offsets::css_cgroup());
    cpu_figures(address, REMOVAL);
    let Some(read) = CPU_READ.get_ptr(REMOVAL) else { return 0 };
    // SAFETY: as above.
    let figures = unsafe { &(*read).figures };
    let CpuTimes { user, system, run } = figures.handed_up;
    let has_run = user | system | run | figures.pending.run != 0;
    if !counts {
        if has_run {
            let path: *const u8 = context.arg(1);
            // SAFETY: the place is the event's own until it is submitted.
            events::send_filled::<CpuTimesAt>(LAST_TIMES, cgroup.kn().id(), |place| unsafe {
                (*place).times = figures.handed_up;
                events::write_path(&raw mut (*place).path, path);
            });
        }
    } else if has_run || figures.bandwidth.periods > 0 {
        // SAFETY: the place is the event's own until it is submitted.
        events::send_filled::<CpuFigures>(LAST_WORDS, cgroup.kn().id() | mark, |place| unsafe { *place = *figures });
    }
    0
}

/// A cgroup of the cpuacct controller's own hierarchy, if it is none of the CPU controller's.
#[inline(always)]
fn is_account(cgroup: Cgroup) -> bool {
    has_v1()
        && number!("accounting ? 1 : 0") != 0
        && cgroup_tree::pointer_in(cgroup, number!("u64 cgroup.subsys[cgroup_subsys_id.cpuacct_cgrp_id]?accounting"))
            != 0
}
