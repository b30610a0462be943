//! From a task to its slot: a cache of each CPU, a hash behind it, and the first assignment.
//!
//! A cgroup gets its slot in the kernel when its first task is dispatched, so nothing of a short life is
//! lost, directories that never hold tasks use no slot, and a key, which the kernel does not give twice, is
//! all that ties them. Called by every collector that meets a task.
//!
//! Interrupts. A program may be interrupted by another one on its CPU, so what belongs to a CPU has a rule each:
//! - `SLOT_CACHE`: programs on hooks where interrupts are off write it, and nothing comes between ([`of_task`],
//!   [`of_task_after`]). All others, be it in a system call, in an interrupt or in what follows one, only read it,
//!   and believe it where the slot's own record says the same ([`of_task_in_any_context`],
//!   [`of_cgroup_in_any_context`]). Whether interrupts are off is to hold under real-time preemption too, where
//!   a spinlock of the kernel's that is no raw one leaves them on.
//! - `ASCENT`: one program at a time, whatever its context; who comes second gets no slot this time, which is counted
//!   (podlens_common's claim.rs).
//! - The hash and the queue have locks of the kernel's own. A program that interrupts another which is about to take one is
//!   refused by some kernels: counted in the same way.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::bpf_probe_read_kernel_str_bytes,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, Queue},
};
use podlens_common::{
    cgroup::{
        Assigned, CACHE_ENTRIES, CgroupKey, Holder, KEY_MARKS, Losses, SLOT_KERNEL, SLOT_ROOT, Slot, cache_index,
        serial_of_both,
    },
    claim::{self, Users},
    path::{self, Lineage, Name},
};

use super::{
    atomic, hybrid,
    kernel::{
        Cgroup, CssSet, Current, ROOT_ID, ROOT_SERIAL, Task, has_v1,
        offsets::{self, word},
        slots_count,
    },
    log::debug,
};

/// Ancestors that are searched for the container and the pod of a cgroup.
const ANCESTORS: u32 = 16;
/// Bytes for a cgroup's name and its end; a power of two.
const NAME: usize = path::NAME_BYTES + 1;
/// `E2BIG` of asm-generic/errno-base.h, by which a hash says that it is full.
const FULL: i32 = -7;

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
/// Each CPU's buffer for a way up.
#[map]
static ASCENT: PerCpuArray<Ascent> = PerCpuArray::with_max_entries(1, 0);

/// A way up from a cgroup. In memory of its own, since the verifier would follow each value that it can have on the
/// stack, level by level.
struct Ascent {
    /// How many programs use it or ask for it.
    users: u64,
    /// The name of the cgroup that is met.
    name: [u8; NAME],
    /// What was met.
    lineage: Lineage,
}

const _: () = assert!(size_of::<Ascent>() == 328);

/// Counts one loss on this CPU.
macro_rules! lose {
    ($cpu:expr, $field:ident) => {
        if let Some(losses) = $crate::slots::losses($cpu) {
            // At once, since an interrupt may count here as well.
            // SAFETY: the entry outlives the program, and the field is a whole word.
            unsafe { $crate::atomic::add(&raw mut (*losses).$field, 1) };
        }
        $crate::log::debug!("lost: {}", stringify!($field));
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

/// The slot of a task, assigned now if its cgroup has none yet. For programs on hooks where interrupts are off, and stay off
/// under real-time preemption.
#[inline(always)]
pub(crate) fn of_task(task: Task, cpu: u32) -> Holder {
    of_task_after(&mut Assigned { ..Assigned::NONE }, task, cpu)
}

/// The same for a program in any context: in an interrupt, or where an interrupt may come. Not in an NMI.
#[inline(always)]
pub(crate) fn of_task_in_any_context(task: Task, cpu: u32) -> Holder {
    let (set, serial) = match cgroups_of(task, cpu) {
        Ok(found) => found,
        Err(fixed) => return fixed,
    };
    match hybrid::counting(set, cpu) {
        Some(cgroup) => of_cgroup_in_any_context(cgroup, serial, cpu),
        None => Holder::UNATTRIBUTED,
    }
}

/// The same of a cgroup that is no root, by its serial number.
#[inline(always)]
pub(crate) fn of_cgroup_in_any_context(cgroup: Cgroup, serial: u64, cpu: u32) -> Holder {
    let Some(key) = key_of(cgroup) else {
        return Holder::UNATTRIBUTED;
    };
    if let Some(cached) = cached(serial, cpu) {
        // SAFETY: entries of a map outlive the program, and the fields are whole words.
        let (found, holder) =
            unsafe { ((&raw const (*cached).serial).read_volatile(), (&raw const (*cached).holder).read_volatile()) };
        // An interrupt between the two makes the holder another cgroup's.
        if found == serial && is_held(holder, key) {
            return holder;
        }
    }
    find_or_assign(cgroup, cpu)
}

/// The slot's own record says that the cgroup of this key is who holds it, and that it is not about to lose it.
#[inline(always)]
fn is_held(holder: Holder, key: CgroupKey) -> bool {
    let Some(record) = SLOTS.get_ptr(holder.slot()) else { return false };
    // SAFETY: as above.
    let (held, generation, ending) = unsafe {
        (
            (&raw const (*record).key).read_volatile(),
            (&raw const (*record).generation).read_volatile(),
            (&raw const (*record).ending).read_volatile(),
        )
    };
    held == key && generation == holder.generation() && ending == 0
}

/// The slot of the task that runs, for a program in any context.
#[inline(always)]
pub(crate) fn of_current(current: Current, cpu: u32) -> Holder {
    match Current::typed() {
        Some(task) => of_task_in_any_context(task, cpu),
        None => find_current(current).unwrap_or(Holder::UNATTRIBUTED),
    }
}

/// The slot of the task that runs, by addresses alone: its cgroup has one since the task was dispatched, and none can be
/// given here.
#[inline(always)]
fn find_current(current: Current) -> Option<Holder> {
    match hybrid::key_at(current.cgroups())? {
        ROOT_ID => {
            let slot = if current.is_kernel_thread() { SLOT_KERNEL } else { SLOT_ROOT };
            Some(Holder::new(slot, 0))
        }
        key => find(key),
    }
}

/// The key of a task's cgroup; none if it is a root.
#[inline(always)]
pub(crate) fn key_of_task(task: Task, cpu: u32) -> Option<CgroupKey> {
    let (set, _) = cgroups_of(task, cpu).ok()?;
    key_of(hybrid::counting(set, cpu)?)
}

/// The key of a cgroup; none in a hierarchy that is not read.
#[inline(always)]
fn key_of(cgroup: Cgroup) -> Option<CgroupKey> {
    let mark = cgroup.key_mark()?;
    Some(cgroup.kn().id() | mark)
}

/// The same as [`of_task`], of a task that is likely to be of the cgroup that `recent` remembers.
#[inline(always)]
pub(crate) fn of_task_after(recent: &mut Assigned, task: Task, cpu: u32) -> Holder {
    let (set, serial) = match cgroups_of(task, cpu) {
        Ok(found) => found,
        Err(fixed) => return fixed,
    };
    if recent.serial == serial {
        return recent.holder;
    }
    let Some(holder) = of_cgroups(set, serial, cpu) else {
        return Holder::UNATTRIBUTED;
    };
    *recent = Assigned { serial, holder };
    holder
}

/// A task's cgroups and the number that tells them from all others, or the fixed holder of one that is in roots alone.
#[inline(always)]
fn cgroups_of(task: Task, cpu: u32) -> Result<(CssSet, u64), Holder> {
    let set = task.cgroups();
    if set.is_null() {
        return Err(without_cgroup(cpu));
    }
    let mut serial = set.default_cgroup().serial();
    if has_v1() {
        let css = set.cpu();
        if !css.is_null() {
            serial = serial_of_both(serial, css.cgroup().serial());
        }
    }
    if serial == ROOT_SERIAL {
        let slot = if task.is_kernel_thread() { SLOT_KERNEL } else { SLOT_ROOT };
        return Err(Holder::new(slot, 0));
    }
    Ok((set, serial))
}

/// The slot of a task's cgroups, by the number that tells them from all others; assigned now if the one that counts has none
/// yet, none if it cannot be.
#[inline(always)]
fn of_cgroups(set: CssSet, serial: u64, cpu: u32) -> Option<Holder> {
    // SAFETY: only this CPU writes the entry, with interrupts off.
    let mut cached = cached(serial, cpu).map(|cached| unsafe { &mut *cached });
    if let Some(cached) = &cached
        && cached.serial == serial
    {
        return Some(cached.holder);
    }
    let holder = find_or_assign_counting(set, cpu);
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

/// The slot of the cgroup that counts of a task's.
#[inline(never)]
fn find_or_assign_counting(set: CssSet, cpu: u32) -> Holder {
    match hybrid::counting(set, cpu) {
        Some(cgroup) => find_or_assign(cgroup, cpu),
        None => Holder::UNATTRIBUTED,
    }
}

/// The place in this CPU's cache; none on a CPU that came after the start. Processes and migrations are counted there as well.
#[inline(always)]
fn cached(serial: u64, cpu: u32) -> Option<*mut Assigned> {
    SLOT_CACHE.get_ptr_mut(cpu * CACHE_ENTRIES + cache_index(serial))
}

#[inline(never)]
fn find_or_assign(cgroup: Cgroup, cpu: u32) -> Holder {
    let Some(key) = key_of(cgroup) else {
        return Holder::UNATTRIBUTED;
    };
    if let Some(holder) = find(key) {
        return holder;
    }
    let Some(ascent) = ASCENT.get_ptr_mut(0) else {
        return Holder::UNATTRIBUTED;
    };
    // Whoever has it is on this CPU, and this program has interrupted it.
    if !claim::claim(&AscentUsers(ascent)) {
        lose!(cpu, slot_busy);
        return Holder::UNATTRIBUTED;
    }
    let holder = assign(cgroup, key, cpu);
    claim::release(&AscentUsers(ascent));
    holder
}

/// Those who use a CPU's buffer.
struct AscentUsers(*mut Ascent);

impl Users for AscentUsers {
    #[inline(always)]
    fn add(&self, amount: u64) {
        // SAFETY: the entry outlives the program, and the word is whole and aligned.
        unsafe { atomic::add(&raw mut (*self.0).users, amount) };
    }

    #[inline(always)]
    fn count(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).users).read_volatile() }
    }
}

/// Gives a cgroup a slot. The caller has claimed this CPU's buffer.
#[inline(always)]
fn assign(cgroup: Cgroup, key: CgroupKey, cpu: u32) -> Holder {
    let slot = match FREE_SLOTS.pop() {
        Ok(Some(slot)) => slot,
        Ok(None) => {
            lose!(cpu, no_free_slot);
            return Holder::UNATTRIBUTED;
        }
        Err(_) => {
            lose!(cpu, slot_busy);
            return Holder::UNATTRIBUTED;
        }
    };
    let Some(record) = SLOTS.get_ptr_mut(slot) else {
        return Holder::UNATTRIBUTED;
    };
    let (group, container) = lineage(cgroup, key);
    // SAFETY: a slot from the queue belongs to nobody but this run of the program. Other CPUs look here once the hash leads
    // to it.
    let holder = unsafe {
        (*record).group = group;
        (*record).container = container;
        Holder::new(slot, (*record).generation)
    };
    if let Err(refusal) = SLOT_OF.insert(key, holder.0, u64::from(BPF_NOEXIST)) {
        if FREE_SLOTS.push(slot, 0).is_err() {
            lose!(cpu, slot_stuck);
        }
        // Another CPU may have dispatched the cgroup's second task at this same moment.
        if let Some(holder) = find(key) {
            return holder;
        }
        if refusal == FULL {
            lose!(cpu, table_full);
        } else {
            lose!(cpu, slot_busy);
        }
        return Holder::UNATTRIBUTED;
    }
    // SAFETY: as above; `key` last, since the daemon takes a slot with a key for held.
    unsafe { (&raw mut (*record).key).write_volatile(key) };
    debug!("slot {} is given to cgroup {}", slot, key);
    holder
}

#[inline(always)]
fn find(key: CgroupKey) -> Option<Holder> {
    // SAFETY: the value is copied at once; the daemon deletes it only when its cgroup is gone.
    unsafe { SLOT_OF.get(key) }.copied().map(Holder)
}

/// The pod's and the container's cgroup of a cgroup in any hierarchy, by their ids; none where this CPU's buffer is in use.
#[inline(always)]
pub(crate) fn ids_of_lineage(cgroup: Cgroup) -> Option<(u64, u64)> {
    let ascent = ASCENT.get_ptr_mut(0)?;
    if !claim::claim(&AscentUsers(ascent)) {
        return None;
    }
    let ids = lineage(cgroup, 0);
    claim::release(&AscentUsers(ascent));
    Some(ids)
}

/// The pod's and the container's cgroup of a cgroup, by the names on the way up to the root. The caller has claimed this CPU's
/// buffer.
#[inline(always)]
fn lineage(cgroup: Cgroup, key: CgroupKey) -> (CgroupKey, CgroupKey) {
    let Some(ascent) = ASCENT.get_ptr_mut(0) else {
        return (0, 0);
    };
    // SAFETY: the memory outlives the program, which has claimed it.
    unsafe { (*ascent).lineage = Lineage::START };
    let mark = key & KEY_MARKS;
    let mut at = cgroup;
    let mut level = 0;
    while level < ANCESTORS {
        let above = at.parent();
        let node = at.kn();
        // The root has no name.
        if above.is_null() || node.is_null() {
            break;
        }
        if meet(denotes(node.name().as_ptr()), node.id() | mark) != 0 {
            break;
        }
        at = above;
        level += 1;
    }
    // SAFETY: as above.
    unsafe { (*ascent).lineage }.end()
}

/// What the path of the cgroup at an address says of whose it is; none where this CPU's buffer is in use.
#[inline(always)]
pub(crate) fn path_says(cgroup: u64) -> Option<u32> {
    let ascent = ASCENT.get_ptr_mut(0)?;
    if !claim::claim(&AscentUsers(ascent)) {
        return None;
    }
    // SAFETY: the memory outlives the program, which has claimed it.
    unsafe { (*ascent).lineage = Lineage::START };
    let mut at = cgroup;
    let mut level = 0;
    while level < ANCESTORS {
        let above = word(at + offsets::cgroup_above());
        // The root has no name.
        if above == 0 {
            break;
        }
        let node = word(at + offsets::cgroup_kn());
        // Any key but 0 does: whose the cgroup is matters, not which one on the way is the container.
        if meet(denotes(word(node + offsets::kn_name()) as *const u8), 1) != 0 {
            break;
        }
        at = word(above + offsets::css_cgroup());
        level += 1;
    }
    // SAFETY: as above.
    let says = unsafe { (*ascent).lineage }.says();
    claim::release(&AscentUsers(ascent));
    Some(says)
}

/// Meets one cgroup; not 0 if what is further up does not matter.
///
/// This and the following are functions of their own with plain numbers only, which the verifier proves once and not at
/// each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn meet(kind: u32, key: u64) -> u32 {
    // SAFETY: the memory outlives the program, which has claimed it.
    ASCENT.get_ptr_mut(0).map_or(1, |ascent| u32::from(unsafe { (*ascent).lineage.meet(kind, key) }))
}

/// Reads a cgroup's name into this CPU's buffer and tells what it denotes.
#[inline(always)]
fn denotes(name: *const u8) -> u32 {
    let Some(ascent) = ASCENT.get_ptr_mut(0) else {
        return path::OTHER;
    };
    // SAFETY: the program has claimed the buffer, and the kernel copies at most its length.
    match unsafe { bpf_probe_read_kernel_str_bytes(name, &mut (*ascent).name) } {
        Ok(name) => denoted(name.len() as u32),
        Err(_) => path::OTHER,
    }
}

/// The name in this CPU's buffer.
#[derive(Clone, Copy)]
struct BufferedName {
    ascent: *const Ascent,
    bytes: usize,
}

impl BufferedName {
    #[inline(always)]
    fn new(bytes: u32) -> Option<Self> {
        Some(Self { ascent: ASCENT.get_ptr(0)?, bytes: bytes as usize })
    }
}

impl Name for BufferedName {
    #[inline(always)]
    fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline(always)]
    fn byte(&self, index: usize) -> u8 {
        // SAFETY: the buffer outlives the program, which has claimed it; the mask keeps the index inside.
        unsafe { (*self.ascent).name.get(index & (NAME - 1)).copied().unwrap_or(0) }
    }

    #[inline(always)]
    fn byte_behind(&self, from: usize, index: usize) -> u8 {
        let mut at = from;
        // So that the compiler cannot let a loop count by this sum, of which the verifier knows no end.
        // SAFETY: an addition.
        unsafe { asm!("{at} += {index}", at = inout(reg) at, index = in(reg) index, options(pure, nomem, nostack)) };
        self.byte(at)
    }

    #[inline(always)]
    fn all(&self, from: usize, to: usize, class: u32) -> bool {
        name_all(from as u32, to as u32, class) != 0
    }

    #[inline(always)]
    fn is_pod(&self, end: usize) -> bool {
        name_is_pod(end as u32) != 0
    }

    #[inline(always)]
    fn last_colon(&self, end: usize) -> usize {
        name_last_colon(end as u32) as usize & (NAME - 1)
    }

    #[inline(always)]
    fn last_pod(&self, end: usize) -> usize {
        name_last_pod(end as u32) as usize & (NAME - 1)
    }
}

/// What the name in the buffer denotes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn denoted(name_bytes: u32) -> u32 {
    BufferedName::new(name_bytes).map_or(path::OTHER, |name| path::denoted(&name))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn name_all(from: u32, to: u32, class: u32) -> u32 {
    BufferedName::new(0).map_or(0, |name| u32::from(path::all(&name, from as usize, to as usize, class)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn name_is_pod(end: u32) -> u32 {
    BufferedName::new(0).map_or(0, |name| u32::from(path::is_pod(&name, end as usize)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn name_last_colon(end: u32) -> u32 {
    BufferedName::new(0).map_or(0, |name| path::last_colon(&name, end as usize) as u32)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn name_last_pod(end: u32) -> u32 {
    BufferedName::new(0).map_or(0, |name| path::last_pod(&name, end as usize) as u32)
}

/// The position of one CPU's entry for `slot` in a table of CPUs by slots; none for what is no slot.
#[inline(always)]
pub(crate) fn position(cpu: u32, slot: u32) -> Option<u32> {
    let count = slots_count() as u32;
    if slot < count { Some(cpu * count + slot) } else { None }
}

/// The slot that a cgroup holds.
#[inline(always)]
pub(crate) fn held_by(cgroup: Cgroup) -> Holder {
    key_of(cgroup).map_or(Holder::UNATTRIBUTED, of_key)
}

/// The slot that is held under a key.
#[inline(always)]
pub(crate) fn of_key(key: CgroupKey) -> Holder {
    find(key).unwrap_or(Holder::UNATTRIBUTED)
}
