//! Collector `tasks`: a walk through all tasks of the node, which counts them by cgroup and state.
//!
//! The kernel's own iterator over tasks shows only those of the reader's PID namespace: a container's reader
//! would see itself. So the iterator is only what starts this program; the program goes round the kernel's list
//! of processes and each one's list of threads by itself, from the reader's own process back to it.
//!
//! One run takes a few hundred steps, so that it does not hold its CPU for long, and the daemon starts runs until the walk has
//! come round. A run is one read-side critical section: members that leave the lists meanwhile still lead on. Between
//! two runs that does not hold. So the last few tasks that were met are remembered, and the next run goes on behind the
//! newest of them that is still in its list. Since new members come to a list's end alone, whatever was met after that one has
//! left: nothing is met twice and nothing is passed over. What remains:
//! - All that are remembered have gone between two runs: the walk is given up, which the daemon sees and counts.
//! - A thread that is not its process' first calls `execve` between two runs: it takes its leader's place in the list,
//!   and is counted once more if that was where the walk had stopped.

use core::cell::Cell;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    cty::{c_long, c_void},
    helpers::{bpf_get_current_task, bpf_loop},
    macros::map,
    maps::Array,
};
use podlens_common::tasks::{KEY_KERNEL, KEY_ROOT, TASK_RECORDS, TaskRecord, TaskState, TaskWalk};

use crate::{
    cells::{cells, element},
    hybrid,
    kernel::{
        ROOT_ID, is_kernel_thread_at,
        offsets::{self, half, is_linked, word},
    },
};

/// Tasks and processes that one run visits at most: 0.5 us each.
const STEPS: u32 = 512;
/// Tasks of each list that are remembered from one run to the next; a power of two.
const REMEMBERED: u32 = 8;
/// `TASK_UNINTERRUPTIBLE` of linux/sched.h.
const UNINTERRUPTIBLE: u32 = 0x2;
/// `TASK_NOLOAD` of linux/sched.h: idle, as kernel threads without work.
const NOLOAD: u32 = 0x400;

/// Not the key of any cgroup: it could not be told which of a task's two counts.
const KEY_UNKNOWN: u64 = u64::MAX;

/// What the walk found.
#[map]
static TASK_RECORDS_OF: Array<TaskRecord> = Array::with_max_entries(TASK_RECORDS, BPF_F_MMAPABLE);
/// How far it is. The daemon sets it to 0 to have a walk begin anew.
#[map]
static TASK_WALK: Array<TaskWalk> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Where the walk is. In a map, since it goes on at the next run, and since the verifier follows what is on the stack from
/// turn to turn of the loop.
#[map]
static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// A task that was met.
#[repr(C)]
#[derive(Clone, Copy)]
struct Met {
    /// Its address, at which there may be another task by now.
    task: u64,
    /// Its id, which tells that.
    pid: u64,
}

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
    tasks: [u32; TaskState::COUNT],
    unrecorded: [u32; TaskState::COUNT],
    records: u32,
    finished: u32,
    /// How many processes were met, and the last ones.
    processes: u32,
    /// How many threads of the present process were met, and the last ones.
    threads: u32,
    last_processes: [Met; REMEMBERED as usize],
    last_threads: [Met; REMEMBERED as usize],
}

cells! {
    /// Only one reader walks at a time.
    WalkCells of Walk {
        first: u64 = first;
        leader: u64 = leader;
        head: u64 = head;
        node: u64 = node;
        set: u64 = set;
        set_key: u64 = set_key;
        key: u64 = key;
        tasks: [u32; TaskState::COUNT] = tasks;
        unrecorded: [u32; TaskState::COUNT] = unrecorded;
        records: u32 = records;
        finished: u32 = finished;
        processes: u32 = processes;
        threads: u32 = threads;
    }
}

impl WalkCells {
    #[inline(always)]
    fn get() -> Option<Self> {
        Self::at(WALK.get_ptr_mut(0))
    }

    #[inline(always)]
    fn tasks_of(self, state: TaskState) -> &'static Cell<u32> {
        // SAFETY: entries of a map outlive the program, and the mask keeps the index inside.
        unsafe { element(&raw mut (*self.0.as_ptr()).tasks, state.index() & (TaskState::COUNT - 1)) }
    }

    #[inline(always)]
    fn process(self, number: u32) -> &'static Cell<Met> {
        // SAFETY: as above.
        unsafe { element(&raw mut (*self.0.as_ptr()).last_processes, (number & (REMEMBERED - 1)) as usize) }
    }

    #[inline(always)]
    fn thread(self, number: u32) -> &'static Cell<Met> {
        // SAFETY: as above.
        unsafe { element(&raw mut (*self.0.as_ptr()).last_threads, (number & (REMEMBERED - 1)) as usize) }
    }
}

/// Called for the first task that the reader may see; ends its reading.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn task_walk(_context: *mut c_void) -> i32 {
    let (Some(walk), Some(result)) = (WalkCells::get(), TASK_WALK.get_ptr_mut(0)) else { return 1 };
    // SAFETY: only one reader walks at a time, and the daemon looks when the run has ended.
    let runs = unsafe { (*result).runs };
    let goes_on = if runs == 0 {
        begin(walk);
        true
    } else {
        go_on(walk)
    };
    if goes_on {
        let step: extern "C" fn(u32, *mut c_void) -> c_long = step;
        offsets::needs_loop();
        // SAFETY: the callback has the form that the kernel calls.
        unsafe { bpf_loop(STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    }
    if walk.finished().get() != 0 {
        write(walk);
    }
    // Something could not be read: the lists are not what they are taken for.
    let is_lost = !goes_on || walk.node().get() == 0;
    // SAFETY: as above.
    unsafe {
        (*result).records = u64::from(walk.records().get());
        (*result).unrecorded = walk.unrecorded().get();
        (*result).finished = u64::from(walk.finished().get());
        (*result).lost = u64::from(is_lost);
        (*result).runs = runs + 1;
    }
    // Not to be called for the next task.
    1
}

#[inline(always)]
fn begin(walk: WalkCells) {
    // SAFETY: the helper has no precondition.
    let reader = unsafe { bpf_get_current_task() };
    let leader = word(reader + offsets::task_leader());
    walk.first().set(leader);
    walk.set().set(0);
    walk.set_key().set(KEY_KERNEL);
    walk.key().set(KEY_KERNEL);
    walk.tasks().set([0; TaskState::COUNT]);
    walk.unrecorded().set([0; TaskState::COUNT]);
    walk.records().set(0);
    walk.finished().set(0);
    walk.processes().set(0);
    enter(walk, leader);
}

/// Goes on behind the newest of the tasks last met that is still there; not if none is.
#[inline(always)]
fn go_on(walk: WalkCells) -> bool {
    // Between two runs a set may be freed and its address given to another.
    walk.set().set(0);
    walk.set_key().set(KEY_KERNEL);
    let processes = walk.processes().get();
    let mut gone = 0;
    while gone < REMEMBERED {
        if gone >= processes {
            return false;
        }
        let met = walk.process(processes.wrapping_sub(1).wrapping_sub(gone)).get();
        if is_member(met.task, met.pid, offsets::task_tasks()) != 0 {
            if gone == 0 {
                return go_on_in_process(walk);
            }
            // The present process has ended: on with the one behind the newest that has not.
            walk.processes().set(processes - gone);
            walk.leader().set(met.task);
            walk.head().set(met.task);
            walk.node().set(met.task);
            return true;
        }
        gone += 1;
    }
    false
}

#[inline(always)]
fn go_on_in_process(walk: WalkCells) -> bool {
    if walk.node().get() == walk.head().get() {
        return true;
    }
    let threads = walk.threads().get();
    let mut gone = 0;
    while gone < REMEMBERED {
        if gone >= threads {
            break;
        }
        let met = walk.thread(threads.wrapping_sub(1).wrapping_sub(gone)).get();
        if is_member(met.task, met.pid, offsets::task_thread_node()) != 0 {
            walk.node().set(word(met.task + offsets::task_thread_node()));
            return true;
        }
        gone += 1;
    }
    if gone < threads {
        return false;
    }
    // All that were met have ended.
    walk.node().set(word(walk.head().get()));
    true
}

/// Whether at that address is still the task of that id, and a member of the list whose node lies at that offset.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_member(task: u64, pid: u64, offset: u64) -> u32 {
    u32::from(is_linked(task + offset) && u64::from(half(task + offsets::task_pid())) == pid)
}

/// One thread, or the way from one process to the next.
extern "C" fn step(_index: u32, _context: *mut c_void) -> c_long {
    let Some(walk) = WalkCells::get() else { return 1 };
    let node = walk.node().get();
    if node == 0 {
        return 1;
    }
    if node != walk.head().get() {
        let task = node - offsets::task_thread_node();
        let threads = walk.threads().get();
        walk.thread(threads).set(Met { task, pid: half(task + offsets::task_pid()).into() });
        walk.threads().set(threads.wrapping_add(1));
        visit(walk, task);
        walk.node().set(word(node));
        return 0;
    }
    let next = word(walk.leader().get() + offsets::task_tasks());
    if next == 0 {
        walk.node().set(0);
        return 1;
    }
    let leader = next - offsets::task_tasks();
    if leader == walk.first().get() {
        walk.finished().set(1);
        return 1;
    }
    enter(walk, leader);
    0
}

/// Begins with a process' threads. The list's own head is the idle task, which is no process: it has none here.
#[inline(always)]
fn enter(walk: WalkCells, leader: u64) {
    let pid = half(leader + offsets::task_pid());
    let processes = walk.processes().get();
    walk.process(processes).set(Met { task: leader, pid: pid.into() });
    walk.processes().set(processes.wrapping_add(1));
    walk.threads().set(0);
    walk.leader().set(leader);
    let head = word(leader + offsets::task_signal()) + offsets::signal_threads();
    walk.head().set(head);
    walk.node().set(if pid == 0 { head } else { word(head) });
}

#[inline(always)]
fn visit(walk: WalkCells, task: u64) {
    if half(task + offsets::task_exit_state()) != 0 {
        return;
    }
    let state = half(task + offsets::task_state());
    // A whole word until 7.2 made it a byte among others.
    let state = if half(task + offsets::task_on_cpu()) & 0xff != 0 {
        TaskState::Running
    } else if state == 0 {
        TaskState::Waiting
    } else if state & (UNINTERRUPTIBLE | NOLOAD) == UNINTERRUPTIBLE {
        TaskState::Disk
    } else {
        TaskState::Sleeping
    };
    let set = word(task + offsets::task_cgroups());
    if set != walk.set().get() {
        walk.set().set(set);
        walk.set_key().set(match hybrid::key_at(set) {
            Some(ROOT_ID) => KEY_ROOT,
            Some(key) => key,
            None => KEY_UNKNOWN,
        });
    }
    let mut key = walk.set_key().get();
    if key == KEY_ROOT && is_kernel_thread_at(task) {
        key = KEY_KERNEL;
    }
    if key != walk.key().get() {
        write(walk);
        walk.key().set(key);
    }
    walk.tasks_of(state).update(|count| count + 1);
}

/// Writes what was met of one key.
#[inline(always)]
fn write(walk: WalkCells) {
    let tasks = walk.tasks().get();
    let [running, waiting, sleeping, disk] = tasks;
    if running | waiting | sleeping | disk == 0 {
        return;
    }
    if walk.key().get() != KEY_UNKNOWN
        && let Some(record) = TASK_RECORDS_OF.get_ptr_mut(walk.records().get())
    {
        // SAFETY: only one reader walks at a time.
        unsafe { record.write(TaskRecord { key: walk.key().get(), tasks }) };
        walk.records().update(|count| count + 1);
    } else {
        walk.unrecorded().update(|[more_running, more_waiting, more_sleeping, more_disk]| {
            [more_running + running, more_waiting + waiting, more_sleeping + sleeping, more_disk + disk]
        });
    }
    walk.tasks().set([0; TaskState::COUNT]);
}
