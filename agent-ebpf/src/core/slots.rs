//! From a task to its slot: a cache of each CPU, a hash behind it, and the first assignment.
//!
//! A cgroup gets its slot in the kernel when its first task is dispatched, so nothing of a short life is
//! lost, directories that never hold tasks use no slot, and a key, which the kernel does not give twice, is
//! all that ties them. Called by every collector that meets a task.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::bpf_probe_read_kernel_str_bytes,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, Queue},
};
use podlens_common::cgroup::{
    Assigned, CACHE_ENTRIES, CgroupKey, Holder, KEY_V1, Losses, SLOT_KERNEL, SLOT_ROOT, Slot,
};

use super::kernel::{Cgroup, KernfsNode, ROOT_SERIAL, Task, has_v1, slots_count};

/// Ancestors that are searched for the container and the pod of a cgroup.
const ANCESTORS: u32 = 10;
/// Bytes of a cgroup's name that are read; longer names are no container's or pod's.
const NAME: usize = 128;

/// Who holds each slot.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Slots that can be given; filled by the daemon.
#[map]
static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1, 0);
/// Which slot a cgroup has, as a [`Holder`].
#[map]
static SLOT_OF: HashMap<CgroupKey, u64> = HashMap::with_max_entries(1, 0);
/// Each CPU's own copy of a part of `SLOT_OF`. The kernel puts the entries of an array that can be mapped at the
/// beginning of a page, so that none lies in two cache lines.
#[map]
static SLOT_CACHE: Array<Assigned> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What went wrong, a CPU that can exist.
#[map]
static LOSSES: Array<Losses> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static NAME_BUFFER: PerCpuArray<[u8; NAME]> = PerCpuArray::with_max_entries(1, 0);

/// Counts one loss on this CPU.
macro_rules! lose {
    ($cpu:expr, $field:ident) => {
        if let Some(losses) = $crate::slots::losses($cpu) {
            // SAFETY: only this CPU writes the entry, and the map outlives the program.
            unsafe { (*losses).$field += 1 };
        }
    };
}
pub(crate) use lose;

#[inline(always)]
pub(crate) fn losses(cpu: u32) -> Option<*mut Losses> {
    LOSSES.get_ptr_mut(cpu)
}

/// Who holds `slot`.
#[inline(always)]
pub(crate) fn record(slot: u32) -> Option<&'static Slot> {
    SLOTS.get(slot)
}

/// The slot of a task, assigned now if its cgroup has none yet.
#[inline(always)]
pub(crate) fn of_task(task: Task, cpu: u32) -> Holder {
    of_task_after(&mut Assigned { ..Assigned::NONE }, task, cpu)
}

/// The same, of a task that is likely to be of the cgroup that `recent` remembers.
#[inline(always)]
pub(crate) fn of_task_after(recent: &mut Assigned, task: Task, cpu: u32) -> Holder {
    let sets = task.cgroups();
    if sets.is_null() {
        return without_cgroup(cpu);
    }
    let mut cgroup = sets.default_cgroup();
    let mut serial = cgroup.serial();
    if serial == ROOT_SERIAL && has_v1() {
        let css = sets.cpu();
        if !css.is_null() {
            cgroup = css.cgroup();
            serial = cgroup.serial();
        }
    }
    if serial == ROOT_SERIAL {
        let slot = if task.is_kernel_thread() { SLOT_KERNEL } else { SLOT_ROOT };
        return Holder::new(slot, 0);
    }
    if recent.serial == serial {
        return recent.holder;
    }
    let Some(holder) = of_cgroup(cgroup, serial, cpu) else {
        return Holder::UNATTRIBUTED;
    };
    *recent = Assigned { serial, holder };
    holder
}

/// The slot of a cgroup that is no root, by its serial number; assigned now if it has none yet, none if it cannot be.
#[inline(always)]
pub(crate) fn of_cgroup(cgroup: Cgroup, serial: u64, cpu: u32) -> Option<Holder> {
    // None on a CPU that came after the start. Processes and migrations are counted there as well.
    let cached = SLOT_CACHE.get_ptr_mut(cpu * CACHE_ENTRIES + cache_index(serial));
    // SAFETY: only this CPU writes the entry, with preemption off.
    let mut cached = cached.map(|cached| unsafe { &mut *cached });
    if let Some(cached) = &cached
        && cached.serial == serial
    {
        return Some(cached.holder);
    }
    let holder = find_or_assign(cgroup, cpu);
    if holder == Holder::UNATTRIBUTED {
        return None;
    }
    if let Some(cached) = &mut cached {
        **cached = Assigned { serial, holder };
    }
    Some(holder)
}

#[inline(never)]
fn without_cgroup(cpu: u32) -> Holder {
    lose!(cpu, no_cgroup);
    Holder::UNATTRIBUTED
}

/// Fibonacci hashing: serial numbers come at near-constant distances, which low bits alone would fold.
#[inline(always)]
fn cache_index(serial: u64) -> u32 {
    (serial as u32).wrapping_mul(0x9e37_79b9) >> (u32::BITS - CACHE_ENTRIES.ilog2())
}

#[inline(never)]
fn find_or_assign(cgroup: Cgroup, cpu: u32) -> Holder {
    let Some(mark) = cgroup.key_mark() else {
        return Holder::UNATTRIBUTED;
    };
    let key = cgroup.kn().id() | mark;
    lose!(cpu, cache_misses);
    if let Some(holder) = find(key) {
        return holder;
    }
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        lose!(cpu, no_free_slot);
        return Holder::UNATTRIBUTED;
    };
    let Some(record) = SLOTS.get_ptr_mut(slot) else {
        return Holder::UNATTRIBUTED;
    };
    // SAFETY: a slot from the queue belongs to nobody but this run of the program.
    let holder = Holder::new(slot, unsafe { (*record).generation });
    if SLOT_OF.insert(key, holder.0, u64::from(BPF_NOEXIST)).is_err() {
        let _ = FREE_SLOTS.push(slot, 0);
        // Another CPU dispatched the cgroup's second task at this same moment, or the table is full.
        return find(key).unwrap_or_else(|| {
            lose!(cpu, table_full);
            Holder::UNATTRIBUTED
        });
    }
    let (group, container) = lineage(cgroup, key);
    // SAFETY: as above; `key` last, since the daemon takes a slot with a key for held.
    unsafe {
        (*record).group = group;
        (*record).container = container;
        (&raw mut (*record).key).write_volatile(key);
    }
    holder
}

#[inline(always)]
fn find(key: CgroupKey) -> Option<Holder> {
    // SAFETY: the value is copied at once; the daemon deletes it only when its cgroup is gone.
    unsafe { SLOT_OF.get(key) }.copied().map(Holder)
}

/// The pod's and the container's cgroup on the way from a cgroup to the root, the deepest of each.
#[inline(always)]
fn lineage(cgroup: Cgroup, key: CgroupKey) -> (CgroupKey, CgroupKey) {
    let mark = key & KEY_V1;
    let (mut container, mut unit) = (0, 0);
    let mut at = cgroup;
    let mut level = 0;
    while level < ANCESTORS {
        if at.is_null() {
            break;
        }
        let node = at.kn();
        if node.is_null() {
            break;
        }
        match denotes(node) {
            POD => return (node.id() | mark, container),
            CONTAINER if container == 0 => container = node.id() | mark,
            UNIT if unit == 0 => unit = node.id() | mark,
            _ => {}
        }
        at = at.parent();
        level += 1;
    }
    if container == 0 { (0, unit) } else { (container, container) }
}

/// What a cgroup is by its name alone.
const OTHER: u32 = 0;
const POD: u32 = 1;
const CONTAINER: u32 = 2;
const UNIT: u32 = 3;

/// Reads a cgroup's name into this CPU's buffer and tells what it denotes.
#[inline(always)]
fn denotes(node: KernfsNode) -> u32 {
    let Some(buffer) = NAME_BUFFER.get_ptr_mut(0) else {
        return OTHER;
    };
    // SAFETY: the buffer is this CPU's, and the kernel copies at most its length.
    match unsafe { bpf_probe_read_kernel_str_bytes(node.name().as_ptr(), &mut *buffer) } {
        Ok(name) => denoted(name.len() as u32),
        Err(_) => OTHER,
    }
}

/// Knows a pod by `pod<uid>` or `...-pod<uid>.slice`, a container by its 64 digits, alone or behind `-` or
/// `:`, with or without `.scope`, and a unit by `.service` or `.scope`. The daemon's path grammar knows more;
/// this decides only which waits count as caused inside one pod or container.
///
/// A function of its own with plain numbers only, which the verifier proves once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn denoted(name_bytes: u32) -> u32 {
    let Some(buffer) = NAME_BUFFER.get_ptr(0) else {
        return OTHER;
    };
    let bytes = name_bytes as usize;
    // SAFETY: the buffer is this CPU's; the mask keeps the index inside.
    let byte = |index: usize| unsafe { (*buffer).get(index & (NAME - 1)).copied().unwrap_or(0) };
    let starts_with_pod = byte(0) == b'p' && byte(1) == b'o' && byte(2) == b'd';
    if starts_with_pod && (bytes == 3 + 36 || bytes == 3 + 32) {
        return POD;
    }
    let suffixed = bytes > 6 && byte(bytes - 6) == b'.' && byte(bytes - 1) == b'e';
    let end = if suffixed { bytes - 6 } else { bytes };
    if suffixed && byte(bytes - 5) == b's' && byte(bytes - 4) == b'l' {
        let pod_before = |uid: usize| {
            end >= uid + 4
                && byte(end - uid - 4) == b'-'
                && byte(end - uid - 3) == b'p'
                && byte(end - uid - 2) == b'o'
                && byte(end - uid - 1) == b'd'
        };
        return if pod_before(36) || pod_before(32) { POD } else { OTHER };
    }
    let separated = end > 64 && (byte(end - 65) == b'-' || byte(end - 65) == b':');
    if end == 64 || separated {
        let hexadecimal = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        if hexadecimal(byte(end - 64)) && hexadecimal(byte(end - 32)) && hexadecimal(byte(end - 1)) {
            return CONTAINER;
        }
    }
    let service = bytes > 8 && byte(bytes - 8) == b'.' && byte(bytes - 7) == b's' && byte(bytes - 1) == b'e';
    let scope = suffixed && byte(bytes - 5) == b's' && byte(bytes - 4) == b'c';
    if service || scope { UNIT } else { OTHER }
}

/// The position of one CPU's entry for `slot` in a table of CPUs by slots; none for what is no slot.
#[inline(always)]
pub(crate) fn position(cpu: u32, slot: u32) -> Option<u32> {
    let count = slots_count() as u32;
    if slot < count { Some(cpu * count + slot) } else { None }
}
