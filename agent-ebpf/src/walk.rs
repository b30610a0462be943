//! Collector `tasks`: a walk through all tasks of the node, which counts them by cgroup and state.
//!
//! The kernel's own iterator over tasks shows only those of the reader's PID namespace: a container's reader
//! would see itself. So the iterator is only what starts this program; the program goes round the kernel's list
//! of processes and each one's list of threads by itself, from the reader's own process back to it. It runs in
//! one read-side critical section, in which members that leave the lists meanwhile still lead on.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    cty::{c_long, c_void},
    helpers::{bpf_get_current_task, bpf_loop, bpf_probe_read_kernel},
    macros::map,
    maps::Array,
};
use podlens_common::{
    cgroup::KEY_V1,
    tasks::{
        KEY_KERNEL, KEY_ROOT, STATE_DISK, STATE_RUNNING, STATE_SLEEPING, STATE_WAITING, STATES, TASK_RECORDS,
        TaskRecord, TaskWalk,
    },
};

use crate::kernel::{ROOT_ID, has_v1, offsets};

/// Tasks and processes that are visited at most: 0.3 us each.
const STEPS: u32 = 1 << 17;
/// `PF_KTHREAD` of linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `TASK_UNINTERRUPTIBLE` of linux/sched.h.
const UNINTERRUPTIBLE: u32 = 0x2;
/// `TASK_NOLOAD` of linux/sched.h: idle, as kernel threads without work.
const NOLOAD: u32 = 0x400;

/// What the walk found.
#[map]
static TASK_RECORDS_OF: Array<TaskRecord> = Array::with_max_entries(TASK_RECORDS, BPF_F_MMAPABLE);
/// How it ended.
#[map]
static TASK_WALK: Array<TaskWalk> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Where the walk is. In a map and not on the stack, since the verifier follows what is on the stack from turn to
/// turn of the loop.
#[map]
static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// Where the walk is.
#[repr(C)]
struct Walk {
    /// The process at which it began.
    first: u64,
    /// The present process' leader.
    leader: u64,
    /// The head of its list of threads.
    head: u64,
    /// The present member of that list.
    node: u64,
    /// The last set of cgroups, and the key that it has.
    set: u64,
    set_key: u64,
    /// Tasks of one key met one after another.
    key: u64,
    tasks: [u32; STATES],
    records: u32,
    unrecorded: [u32; STATES],
    finished: u32,
}

/// Called for the first task that the reader may see; ends its reading.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn task_walk(_context: *mut c_void) -> i32 {
    // SAFETY: the helper has no precondition.
    let reader = unsafe { bpf_get_current_task() };
    let leader = word(reader + offsets::task_leader());
    let Some(walk) = walk() else { return 1 };
    *walk = Walk {
        first: leader,
        leader,
        head: 0,
        node: 0,
        set: 0,
        set_key: KEY_KERNEL,
        key: KEY_KERNEL,
        tasks: [0; STATES],
        records: 0,
        unrecorded: [0; STATES],
        finished: 0,
    };
    enter(walk);
    let step: extern "C" fn(u32, *mut c_void) -> c_long = step;
    offsets::needs_loop();
    // SAFETY: the callback has the form that the kernel calls.
    unsafe { bpf_loop(STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    write(walk);
    if let Some(result) = TASK_WALK.get_ptr_mut(0) {
        // SAFETY: only one reader walks at a time, and reads after the end.
        unsafe {
            (*result).records = u64::from(walk.records);
            (*result).unrecorded = walk.unrecorded;
            (*result).finished = u64::from(walk.finished);
        }
    }
    // Not to be called for the next task.
    1
}

/// One thread, or the way from one process to the next.
extern "C" fn step(_index: u32, _context: *mut c_void) -> c_long {
    let Some(walk) = walk() else { return 1 };
    if walk.node == 0 {
        // Something could not be read: the lists are not what they are taken for.
        return 1;
    }
    if walk.node != walk.head {
        visit(walk, walk.node - offsets::task_thread_node());
        walk.node = word(walk.node);
        return 0;
    }
    let next = word(walk.leader + offsets::task_tasks());
    if next == 0 {
        return 1;
    }
    walk.leader = next - offsets::task_tasks();
    if walk.leader == walk.first {
        walk.finished = 1;
        return 1;
    }
    enter(walk);
    0
}

#[inline(always)]
fn walk() -> Option<&'static mut Walk> {
    // SAFETY: only one reader walks at a time, and entries of a map outlive the program.
    WALK.get_ptr_mut(0).map(|walk| unsafe { &mut *walk })
}

/// Begins with a process' threads. The list's own head is the idle task, which is no process: it has none here.
#[inline(always)]
fn enter(walk: &mut Walk) {
    walk.head = word(walk.leader + offsets::task_signal()) + offsets::signal_threads();
    let is_idle = half(walk.leader + offsets::task_pid()) == 0;
    walk.node = if is_idle { walk.head } else { word(walk.head) };
}

#[inline(always)]
fn visit(walk: &mut Walk, task: u64) {
    if half(task + offsets::task_exit_state()) != 0 {
        return;
    }
    let state = half(task + offsets::task_state());
    // A whole word until 7.2 made it a byte among others.
    let state = if half(task + offsets::task_on_cpu()) & 0xff != 0 {
        STATE_RUNNING
    } else if state == 0 {
        STATE_WAITING
    } else if state & (UNINTERRUPTIBLE | NOLOAD) == UNINTERRUPTIBLE {
        STATE_DISK
    } else {
        STATE_SLEEPING
    };
    let set = word(task + offsets::task_cgroups());
    if set != walk.set {
        walk.set = set;
        walk.set_key = key_of(set);
    }
    let mut key = walk.set_key;
    if key == KEY_ROOT && half(task + offsets::task_flags()) & PF_KTHREAD != 0 {
        key = KEY_KERNEL;
    }
    if key != walk.key {
        write(walk);
        walk.key = key;
    }
    walk.tasks[state & (STATES - 1)] += 1;
}

/// The key of a set of cgroups, by the rule of `slots::of_task`.
#[inline(always)]
fn key_of(set: u64) -> u64 {
    let id = id_of(word(set + offsets::set_default()));
    if id != ROOT_ID {
        return id;
    }
    if has_v1() {
        let id = id_of(word(word(set + offsets::set_cpu()) + offsets::css_cgroup()));
        if id != ROOT_ID {
            return id | KEY_V1;
        }
    }
    KEY_ROOT
}

#[inline(always)]
fn id_of(cgroup: u64) -> u64 {
    word(word(cgroup + offsets::cgroup_kn()) + offsets::kn_id())
}

/// Writes what was met of one key.
#[inline(always)]
fn write(walk: &mut Walk) {
    let [running, waiting, sleeping, disk] = walk.tasks;
    if running | waiting | sleeping | disk == 0 {
        return;
    }
    if let Some(record) = TASK_RECORDS_OF.get_ptr_mut(walk.records) {
        // SAFETY: only one reader walks at a time.
        unsafe { *record = TaskRecord { key: walk.key, tasks: walk.tasks } };
        walk.records += 1;
    } else {
        walk.unrecorded[STATE_RUNNING] += running;
        walk.unrecorded[STATE_WAITING] += waiting;
        walk.unrecorded[STATE_SLEEPING] += sleeping;
        walk.unrecorded[STATE_DISK] += disk;
    }
    walk.tasks = [0; STATES];
}

/// 64 bits of kernel memory; 0 where nothing is.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn word(address: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.unwrap_or(0)
}

/// 32 bits of kernel memory; 0 where nothing is. As above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn half(address: u64) -> u32 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.unwrap_or(0)
}
