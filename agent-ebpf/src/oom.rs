//! Collector `oom`: each task that the kernel marks as a victim of an OOM kill, with what the daemon needs to tell whether
//! that is a kill, and whose limit led to it. It decides nothing itself.
//!
//! Whether a cgroup's limit or the node led to a kill is in no structure that a program reaches there. But whoever wants
//! memory has just tried to free some, of the cgroup (`try_charge_memcg` and `memory_max_write` of mm/memcontrol.c) or of the
//! node (`__alloc_pages_slowpath` of mm/page_alloc.c), again and again: the last reclaim of the task tells.
//!
//! The kernel holds a mutex (`oom_lock`) over all marks of one OOM, so there is never a second one at work.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_MMAPABLE,
    helpers::{bpf_get_current_task, bpf_get_smp_processor_id, bpf_probe_read_kernel},
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    cgroup::{CgroupKey, KEY_V1},
    oom::{
        LAST_WORDS, LEVELS, LastWords, Level, NAME_BYTES, RECLAIM_TASKS, VICTIM, Victim, last_reclaim, reclaimed_by,
    },
    tasks::KEY_KERNEL,
};

use crate::{
    atomic, events, hybrid,
    kernel::{
        Cgroup, Current, ROOT_ID, Task, has_v1, is_kernel_thread_at, number,
        offsets::{self, word},
        structure,
    },
    slots,
};

/// How many tasks were marked.
#[map]
static OOM_MARKS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Last reclaims, by the low bits of the task's id. Of two tasks with the same low bits the later one's stays.
#[map]
static OOM_RECLAIMS: Array<u64> = Array::with_max_entries(RECLAIM_TASKS, 0);

structure! {
    /// `struct task_struct`, of a process and its memory
    Process {
        leader: Process = "task_struct.group_leader";
        id: u32 = "task_struct.tgid";
        started_ns: u64 = "task_struct.start_time";
        memory: Memory = "task_struct.mm";
        cgroups: CssSet = "task_struct.cgroups";
    }
}
structure! {
    /// `struct mm_struct`
    Memory {
        // Whose memory cgroup counts: of processes that share their memory only one's.
        owner: Process = "mm_struct.owner";
    }
}
structure! {
    /// `struct css_set`
    CssSet {
        memory: MemoryCss = "css_set.subsys[cgroup_subsys_id.memory_cgrp_id]";
    }
}
structure! {
    /// `struct cgroup_subsys_state`, a part of `struct mem_cgroup`
    MemoryCss {
        cgroup: Cgroup = "cgroup_subsys_state.cgroup";
        parent: MemoryCss = "cgroup_subsys_state.parent";
    }
}
structure! {
    /// `struct cgroup`
    RemovedCgroup {
        memory: MemoryCss = "cgroup.subsys[cgroup_subsys_id.memory_cgrp_id]";
    }
}

/// `mark_victim(task, uid)`: the kill, if it is one, has been counted, and nothing of the memory is freed yet.
#[btf_tracepoint(function = "mark_victim")]
pub fn oom_victim(context: BtfTracePointContext) -> i32 {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let mark = next_mark();
    let process = Process::from_raw(context.arg::<*const u8>(0)).leader();
    let memory = Process::from_raw(context.arg(0)).memory();
    if process.is_null() || memory.is_null() {
        return 0;
    }
    let owner = memory.owner();
    let cgroups = if owner.is_null() { process.cgroups() } else { owner.cgroups() };
    if cgroups.is_null() {
        return 0;
    }
    let css = cgroups.memory();
    if css.is_null() {
        return 0;
    }
    // SAFETY: the helper has no precondition.
    let current = unsafe { bpf_get_current_task() };
    let key = slots::key_of_task(Task::from_raw(context.arg(0)), cpu).unwrap_or(root_key());
    // Without its record the kill is found in the kernel's own count.
    let Some((group, container)) = slots::ids_of_lineage(css.cgroup()) else { return 0 };
    events::send_filled(VICTIM, key, |victim: *mut Victim| {
        // SAFETY: the place is the record's own; each field is written, and nothing is read.
        unsafe {
            (&raw mut (*victim).mark).write(mark);
            (&raw mut (*victim).process).write(process.id());
            (&raw mut (*victim).trigger).write(context.tgid());
            (&raw mut (*victim).started_ns).write(process.started_ns());
            (&raw mut (*victim).trigger_key).write(trigger_key(current));
            (&raw mut (*victim).kills).write(kills(css));
            (&raw mut (*victim).group).write(group);
            (&raw mut (*victim).container).write(container);
            (&raw mut (*victim).resident_pages).write(resident_pages(memory));
            (&raw mut (*victim).reclaim_of).write(reclaim_of_current());
            (&raw mut (*victim).name).write(name_of(process.address()));
            (&raw mut (*victim).trigger_name).write(name_of(word(current + offsets::task_leader())));
            write_levels(victim, css);
        }
    });
    0
}

/// `cgroup_rmdir(cgroup, path)`: the cgroup's controllers are still there.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn oom_last_words(context: BtfTracePointContext) -> i32 {
    let css = RemovedCgroup::from_raw(context.arg(0)).memory();
    if css.is_null() {
        return 0;
    }
    let kills = kills(css);
    if kills | ooms(css) != 0 {
        let cgroup = Cgroup::from_raw(context.arg(0));
        let id = cgroup.kn().id();
        // A tree of the memory controller alone has no keys.
        let key = cgroup.key_mark().map_or(0, |mark| id | mark);
        events::send(LAST_WORDS, key, LastWords { id, kills });
    }
    0
}

/// The task that runs begins to free memory: of the node, or of a cgroup. The collector `stalls` has the programs that are told
/// (stalls.rs), since a second one on a hook costs as much again as the first.
#[inline(always)]
pub(crate) fn remember_reclaim(task: u32, of: u64) {
    if number!("COUNTS_OOM") == 0 {
        return;
    }
    if let Some(word) = OOM_RECLAIMS.get_ptr_mut(task & (RECLAIM_TASKS - 1)) {
        // SAFETY: the word outlives the program. Whoever reads it meanwhile gets one task's whole word.
        unsafe { word.write_volatile(last_reclaim(task, of)) };
    }
}

/// What the last reclaim of this task was of; 0 where that is not known.
#[inline(always)]
fn reclaim_of_current() -> u64 {
    let task = Current::pid();
    let Some(word) = OOM_RECLAIMS.get_ptr(task & (RECLAIM_TASKS - 1)) else { return 0 };
    // SAFETY: as above.
    reclaimed_by(unsafe { word.read_volatile() }, task)
}

/// The number of this mark; 0 where there is none.
#[inline(always)]
fn next_mark() -> u64 {
    let Some(marks) = OOM_MARKS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the word outlives the program. The daemon reads it at any time; nobody else adds.
    unsafe {
        atomic::add(marks, 1);
        marks.read_volatile()
    }
}

/// Writes the memory cgroups from this one on upwards, and what they have to do with the kill.
///
/// # Safety
/// The record is valid for writes.
#[inline(always)]
unsafe fn write_levels(victim: *mut Victim, mut css: MemoryCss) {
    // SAFETY: the caller's.
    let levels = unsafe { (&raw mut (*victim).levels).cast::<Level>() };
    let (mut count, mut together, mut at) = (0_u32, 0_u32, 0);
    while at < LEVELS {
        let mut level = Level { id: 0, usage_pages: 0, limit_pages: 0, ooms: 0 };
        if !css.is_null() {
            let group = group_of(css);
            level = Level {
                id: css.cgroup().kn().id(),
                usage_pages: at_address(group + number!("u64 mem_cgroup.memory.usage.counter")),
                limit_pages: at_address(group + number!("u64 mem_cgroup.memory.max")),
                ooms: ooms(css),
            };
            together |= u32::from(at_address::<u8>(group + number!("u8 mem_cgroup.oom_group")) & 1) << at;
            count += 1;
            css = css.parent();
        }
        // SAFETY: `at` is less than the array's length.
        unsafe { levels.add(at).write(level) };
        at += 1;
    }
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*victim).level_count).write(count);
        (&raw mut (*victim).killed_together).write(together);
    }
}

/// Kills of processes in a memory cgroup, those below it not included.
#[inline(always)]
fn kills(css: MemoryCss) -> u64 {
    at_address(group_of(css) + number!("u64 mem_cgroup.memory_events_local[memcg_memory_event.MEMCG_OOM_KILL]"))
}

/// How often the limit of a memory cgroup could not be kept, those above and below it not included.
#[inline(always)]
fn ooms(css: MemoryCss) -> u64 {
    at_address(group_of(css) + number!("u64 mem_cgroup.memory_events_local[memcg_memory_event.MEMCG_OOM]"))
}

/// The memory cgroup that this is part of.
#[inline(always)]
fn group_of(css: MemoryCss) -> u64 {
    css.address() - number!("mem_cgroup.css")
}

/// Pages of files, anonymous ones and shared ones. Until 6.2 they are atomic words, one after another, then counters with
/// parts on each CPU.
#[inline(always)]
fn resident_pages(memory: Memory) -> u64 {
    let first = memory.address() + number!("mm_struct.rss_stat");
    let (first, next) = if number!("mm_struct.rss_stat.count ? 1 : 0") != 0 {
        (first, 8)
    } else {
        // The last member of a counter is a pointer.
        (first + number!("u64 percpu_counter.count"), number!("percpu_counter.counters") + 8)
    };
    // `MM_FILEPAGES`, `MM_ANONPAGES` and `MM_SHMEMPAGES` of linux/mm_types_task.h. A sum of parts may be below 0.
    let pages = |index: u64| at_address::<i64>(first + index * next).max(0) as u64;
    pages(0) + pages(1) + pages(3)
}

#[inline(always)]
fn name_of(task: u64) -> [u8; NAME_BYTES] {
    at_address(task + number!("task_struct.comm"))
}

/// The cgroup of a task that wants memory.
#[inline(always)]
fn trigger_key(task: u64) -> CgroupKey {
    if is_kernel_thread_at(task) {
        return KEY_KERNEL;
    }
    match hybrid::key_at(word(task + offsets::task_cgroups())) {
        Some(ROOT_ID) => root_key(),
        Some(key) => key,
        None => 0,
    }
}

/// The root of a tree that is there in any case.
#[inline(always)]
fn root_key() -> CgroupKey {
    if has_v1() { ROOT_ID | KEY_V1 } else { ROOT_ID }
}

/// What lies at an address of the kernel; nothing where nothing can be read.
#[inline(always)]
fn at_address<T: Default>(address: u64) -> T {
    // SAFETY: the helper checks the address; all that is read so is made of numbers.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}
