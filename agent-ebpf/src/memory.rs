//! Collector `memory`: a walk through the memory controller's tree, and what had happened to a cgroup by its removal.
//!
//! Counters of pages, events and lists of pages are exact at any moment. The kernel's statistics (`memcg_vmstats`) are as of its
//! last flush, at most about 2 s ago; which word is which is not told by its types, so the daemon finds out.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    cty::c_void,
    helpers::generated::bpf_probe_read_kernel,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use podlens_common::{
    memory::{
        EndWord, EndWords, LAST_WORDS, LAST_WORDS_V1, LruList, MemoryEnd, MemoryEndAt, MemoryRecord, NODES, WORDS,
    },
    tree::{BATCH, TreeWalk},
};

use crate::{
    cgroup_tree::{self, Tree},
    cpu_part::{CPUS, REMOVAL, cpu_part},
    events,
    kernel::{Cgroup, number, offsets::word},
};

/// What the last run of the walk met.
#[map]
static MEMORY_RECORDS: Array<MemoryRecord> = Array::with_max_entries(BATCH, BPF_F_MMAPABLE);
#[map]
static MEMORY_WALK: Array<TreeWalk> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Where the statistics of last words stand; the daemon's.
#[map]
static MEMORY_WORDS: Array<EndWords> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Room for one memory node's lists.
#[map]
static MEMORY_LISTS: Array<Lists> = Array::with_max_entries(1, 0);
/// Statistics of the cgroup that is being removed.
#[map]
static MEMORY_PARTS: Array<Parts> = Array::with_max_entries(1, 0);

/// `MAX_NR_ZONES` of any configuration.
const ZONES: usize = 6;
/// `MAX_NR_GENS` of linux/mmzone.h, and the two types of pages.
const GENERATIONS: usize = 4;
const TYPES: usize = 2;
const GENERATION_CELLS: usize = GENERATIONS * TYPES * ZONES;

/// Pages by list of one memory node.
struct Lists {
    /// By zone and list.
    by_zone: [u64; ZONES * LruList::COUNT],
    /// By generation, type and zone.
    by_generation: [u64; GENERATION_CELLS],
}

/// Statistics of the cgroup that is being removed.
struct Parts {
    /// The pointer that stands for all CPUs' parts.
    parts: u64,
    sums: [u64; EndWord::COUNT],
}

/// The offset of the memory cgroup, from the address of its state.
#[inline(always)]
fn memcg(state: u64) -> u64 {
    state - number!("mem_cgroup.css")
}

struct MemoryTree;

impl Tree for MemoryTree {
    #[inline(always)]
    fn walk() -> Option<*mut TreeWalk> {
        MEMORY_WALK.get_ptr_mut(0)
    }

    #[inline(always)]
    fn of_set(set: u64, _tree: u64) -> u64 {
        word(set + number!("u64 css_set.subsys[cgroup_subsys_id.memory_cgrp_id]"))
    }

    #[inline(always)]
    fn visit(state: u64, depth: u64, exists: bool, records: u64) -> u64 {
        if exists {
            u64::from(memory_record(state, depth, records as u32))
        } else {
            u64::from(memory_remains(state, depth, records as u32))
        }
    }
}

/// The walk: see [`cgroup_tree::run`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn memory_walk(_context: *mut c_void) -> i32 {
    cgroup_tree::run::<MemoryTree>();
    // Not to be called for the next task.
    1
}

/// One event's count in `memory_events` or `memory_events_local`; the last one came in 5.17.
macro_rules! events {
    ($memcg:expr, $array:literal) => {
        [
            word($memcg + number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_LOW]")),
            word($memcg + number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_HIGH]")),
            word($memcg + number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_MAX]")),
            word($memcg + number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_OOM]")),
            word($memcg + number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_OOM_KILL]")),
            if number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_OOM_GROUP_KILL] ? 1 : 0") == 0 {
                0
            } else {
                word($memcg + number!("u64 mem_cgroup.", $array, "[memcg_memory_event.MEMCG_OOM_GROUP_KILL]?"))
            },
        ]
    };
}

/// Writes a cgroup's record; gives how many there are then.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call; so are those below.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn memory_record(state: u64, depth: u64, number: u32) -> u32 {
    let Some(record) = MEMORY_RECORDS.get_ptr_mut(number) else { return number };
    let memcg = memcg(state);
    // SAFETY: only one reader walks at a time.
    unsafe {
        (*record).id = cgroup_tree::id_of(state);
        (*record).depth = depth;
        (*record).usage = word(memcg + number!("u64 mem_cgroup.memory.usage.counter"));
        (*record).peak = word(memcg + number!("u64 mem_cgroup.memory.watermark"));
        (*record).max = word(memcg + number!("u64 mem_cgroup.memory.max"));
        (*record).high = word(memcg + number!("u64 mem_cgroup.memory.high"));
        (*record).low = word(memcg + number!("u64 mem_cgroup.memory.low"));
        (*record).min = word(memcg + number!("u64 mem_cgroup.memory.min"));
        (*record).swap = word(memcg + number!("u64 mem_cgroup.swap.usage.counter"));
        (*record).events = events!(memcg, "memory_events");
        (*record).local_events = events!(memcg, "memory_events_local");
        (*record).lists = [0; LruList::COUNT];
    }
    memory_words(memcg, number);
    add_lists(memcg, number);
    number + 1
}

/// Adds up what removed cgroups still hold: next to each other, all of one place in the tree are one record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn memory_remains(state: u64, depth: u64, number: u32) -> u32 {
    let last = number.wrapping_sub(1);
    if let Some(record) = MEMORY_RECORDS.get_ptr_mut(last) {
        // SAFETY: as above.
        if unsafe { (*record).id == 0 && (*record).depth <= depth } {
            add_lists(memcg(state), last);
            return number;
        }
    }
    let Some(record) = MEMORY_RECORDS.get_ptr_mut(number) else { return number };
    // SAFETY: as above. The rest of it means nothing.
    unsafe {
        (*record).id = 0;
        (*record).depth = depth;
        (*record).lists = [0; LruList::COUNT];
    }
    add_lists(memcg(state), number);
    number + 1
}

/// Copies the kernel's statistics into a record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn memory_words(memcg: u64, number: u32) -> u32 {
    let Some(record) = MEMORY_RECORDS.get_ptr_mut(number) else { return 0 };
    if number!("words ? 1 : 0") == 0 {
        return 0;
    }
    let stats = word(memcg + number!("mem_cgroup.vmstats")) + number!("memcg_vmstats.state?words");
    // They end where the next member begins.
    let bytes =
        number!("memcg_vmstats.state_local|memcg_vmstats.state_pending?words") - number!("memcg_vmstats.state?words");
    let bytes = if bytes > (WORDS * 8) as u64 { (WORDS * 8) as u64 } else { bytes };
    // SAFETY: the helper checks the address, and the record has room for so much.
    unsafe { bpf_probe_read_kernel((&raw mut (*record).words).cast(), bytes as u32, stats as *const c_void) };
    0
}

/// Adds a cgroup's pages by list, over all memory nodes, to a record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_lists(memcg: u64, number: u32) -> u32 {
    let Some(walk) = MEMORY_WALK.get_ptr(0) else { return 0 };
    // SAFETY: the daemon has written it before the run.
    let nodes = unsafe { (*walk).nodes } as u32;
    let mut node = 0;
    while node < NODES {
        if node >= nodes {
            break;
        }
        let of_node = word(memcg + number!("mem_cgroup.nodeinfo") + u64::from(node) * 8);
        if of_node != 0 {
            add_lists_of_node(of_node, number);
        }
        node += 1;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_lists_of_node(node: u64, number: u32) -> u32 {
    let (Some(record), Some(lists)) = (MEMORY_RECORDS.get_ptr_mut(number), MEMORY_LISTS.get_ptr_mut(0)) else {
        return 0;
    };
    let zones = number!("enum zone_type.__MAX_NR_ZONES") as usize;
    if zones > ZONES {
        return 0;
    }
    let mut sums = [0_u64; LruList::COUNT];
    let sizes = node + number!("mem_cgroup_per_node.lru_zone_size");
    // SAFETY: the helper checks the address, and there is room for so much; nobody else uses the memory meanwhile.
    let failed = unsafe {
        let place = (&raw mut (*lists).by_zone).cast();
        bpf_probe_read_kernel(place, (zones * LruList::COUNT * 8) as u32, sizes as *const c_void)
    };
    if failed == 0 {
        let mut zone = 0;
        while zone < ZONES {
            if zone >= zones {
                break;
            }
            // SAFETY: the index is below the number of cells.
            let cell = |list: usize| unsafe {
                (&raw const (*lists).by_zone).cast::<u64>().add(zone * LruList::COUNT + list).read()
            };
            sums[0] += cell(0);
            sums[1] += cell(1);
            sums[2] += cell(2);
            sums[3] += cell(3);
            sums[4] += cell(4);
            zone += 1;
        }
    }
    // SAFETY: as above.
    unsafe {
        (*record).lists[0] += sums[0];
        (*record).lists[1] += sums[1];
        (*record).lists[2] += sums[2];
        (*record).lists[3] += sums[3];
        (*record).lists[4] += sums[4];
    }
    if number!("generations ? 1 : 0") != 0 {
        add_generations(node, number);
    }
    0
}

/// With the multi-generational LRU the lists by zone have only what cannot be reclaimed: the rest counts by generation, of which
/// the two youngest are the active ones.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_generations(node: u64, number: u32) -> u32 {
    let (Some(record), Some(lists)) = (MEMORY_RECORDS.get_ptr_mut(number), MEMORY_LISTS.get_ptr_mut(0)) else {
        return 0;
    };
    let zones = number!("enum zone_type.__MAX_NR_ZONES") as usize;
    if zones > ZONES || number!("generations ? 1 : 0") == 0 {
        return 0;
    }
    let youngest = word(node + number!("u64 mem_cgroup_per_node.lruvec.lrugen.max_seq?generations"));
    let pages = node + number!("mem_cgroup_per_node.lruvec.lrugen.nr_pages?generations");
    // SAFETY: the helper checks the address, and there is room for so much; nobody else uses the memory meanwhile.
    let failed = unsafe {
        let place = (&raw mut (*lists).by_generation).cast();
        bpf_probe_read_kernel(place, (GENERATIONS * TYPES * zones * 8) as u32, pages as *const c_void)
    };
    if failed != 0 {
        return 0;
    }
    let mut generation = 0;
    while generation < GENERATIONS as u64 {
        let is_active = generation == youngest & 3 || generation == youngest.wrapping_sub(1) & 3;
        let mut kind = 0;
        while kind < TYPES {
            let mut sum = 0_i64;
            let mut zone = 0;
            while zone < ZONES {
                if zone >= zones {
                    break;
                }
                let at = (generation as usize * TYPES + kind) * zones + zone;
                if at < GENERATION_CELLS {
                    // SAFETY: the index is below the number of cells.
                    sum += unsafe { (&raw const (*lists).by_generation).cast::<i64>().add(at).read() };
                }
                zone += 1;
            }
            // Batches of several CPUs can be a moment apart.
            let sum = if sum < 0 { 0 } else { sum as u64 };
            // SAFETY: as above.
            unsafe {
                match (kind, is_active) {
                    (0, false) => (*record).lists[0] += sum,
                    (0, true) => (*record).lists[1] += sum,
                    (_, false) => (*record).lists[2] += sum,
                    (_, true) => (*record).lists[3] += sum,
                }
            }
            kind += 1;
        }
        generation += 1;
    }
    0
}

/// `cgroup_rmdir(cgroup, path)`: the memory controller's state is still there.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn memory_last_words(context: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::from_raw(context.arg(0));
    let state = cgroup_tree::pointer_in(cgroup, number!("u64 cgroup.subsys[cgroup_subsys_id.memory_cgrp_id]"));
    if state == 0 {
        return 0;
    }
    let memcg = memcg(state);
    let known = end_words(memcg);
    if cgroup.root().hierarchy() == 0 {
        events::send_filled::<MemoryEnd>(LAST_WORDS, cgroup.kn().id(), |end| fill_end(end, memcg, known));
    } else {
        let path: *const u8 = context.arg(1);
        events::send_filled::<MemoryEndAt>(LAST_WORDS_V1, cgroup.kn().id(), |end| {
            // SAFETY: the place is the event's own until it is submitted.
            unsafe {
                fill_end(&raw mut (*end).end, memcg, known);
                events::write_path(&raw mut (*end).path, path);
            }
        });
    }
    0
}

#[inline(always)]
fn fill_end(end: *mut MemoryEnd, memcg: u64, known: u32) {
    // SAFETY: the place is the program's own until it is submitted.
    unsafe {
        (*end).events = events!(memcg, "memory_events");
        (*end).local_events = events!(memcg, "memory_events_local");
        (*end).words = match MEMORY_PARTS.get_ptr(0) {
            Some(parts) => (*parts).sums,
            None => [0; EndWord::COUNT],
        };
        (*end).known = u64::from(known);
        (*end).peak = word(memcg + number!("u64 mem_cgroup.memory.watermark"));
    }
}

/// Adds up those statistics of which the daemon knows where they are; gives a bit for each. They are as of the last flush and what
/// each CPU has counted since.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn end_words(memcg: u64) -> u32 {
    let (Some(words), Some(parts)) = (MEMORY_WORDS.get_ptr(0), MEMORY_PARTS.get_ptr_mut(0)) else { return 0 };
    if number!("parts ? 1 : 0") == 0 {
        return 0;
    }
    let stats = word(memcg + number!("mem_cgroup.vmstats")) + number!("memcg_vmstats.state?parts");
    let mut known = 0;
    let mut at = 0;
    while at < EndWord::COUNT {
        // SAFETY: the index is below the number of words; the kernel calls programs on this hook one at a time.
        unsafe {
            let position = (&raw const (*words).positions).cast::<u64>().add(at).read_volatile();
            let sum = if position == 0 { 0 } else { word(stats + (position - 1) * 8) };
            (&raw mut (*parts).sums).cast::<u64>().add(at).write(sum);
            known |= u32::from(position != 0) << at;
        }
        at += 1;
    }
    if known != 0 {
        // SAFETY: as above.
        unsafe { (*parts).parts = word(memcg + number!("mem_cgroup.vmstats_percpu?parts")) };
        let mut cpu = 0;
        while cpu < CPUS {
            if add_part(cpu) == 0 {
                break;
            }
            cpu += 1;
        }
    }
    known
}

/// One CPU's part: what it has counted less what it has handed on. 0 if there is no such CPU.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_part(cpu: u32) -> u32 {
    let (Some(words), Some(parts)) = (MEMORY_WORDS.get_ptr(0), MEMORY_PARTS.get_ptr_mut(0)) else { return 0 };
    let distance = cpu_part(cpu, REMOVAL);
    if distance == 0 || number!("parts ? 1 : 0") == 0 {
        return 0;
    }
    // SAFETY: as above.
    let part = unsafe { (*parts).parts }.wrapping_add(distance);
    let (counted, handed_on) =
        (part + number!("memcg_vmstats_percpu.state?parts"), part + number!("memcg_vmstats_percpu.state_prev?parts"));
    let mut at = 0;
    while at < EndWord::COUNT {
        // SAFETY: as above.
        unsafe {
            let position = (&raw const (*words).positions).cast::<u64>().add(at).read_volatile();
            if position != 0 {
                let offset = (position - 1) * 8;
                let more = word(counted + offset).wrapping_sub(word(handed_on + offset));
                let sum = (&raw mut (*parts).sums).cast::<u64>().add(at);
                sum.write(sum.read().wrapping_add(more));
            }
        }
        at += 1;
    }
    1
}
