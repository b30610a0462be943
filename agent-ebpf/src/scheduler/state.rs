//! One CPU's entries, used while its run queue is locked: what it does now, its history, its accounts.

use core::{cell::Cell, mem::offset_of};

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use podlens_common::{
    cgroup::{Assigned, Holder, SLOT_KERNEL},
    scheduler::{Account, Cause, Cpu, HISTORY, MOVES, Moved, Now, OffCpu, Slice},
};

use crate::{
    cells::{cells, element},
    kernel::slots_count,
    slots,
};

/// Accounts, by CPU and slot.
#[map]
static ACCOUNTS: Array<Account> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What each CPU is doing and did lately.
#[map]
static CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The slot of the task that runs on this CPU, at this address, as noted when it was dispatched; none if it was not, as where the
/// collector is off, or if the task has no slot or was moved to another cgroup since. For programs in any context.
#[inline(always)]
pub(crate) fn holder_of_running(task: u64, cpu: u32) -> Option<Holder> {
    CpuState::of(cpu)?.holder_while(task)
}

cells! {
    /// The account of one slot on one CPU, which is written under the lock of that CPU's run queue.
    AccountCells of Account {
        throttle_queue: u64 = throttle_queue;
        throttle_total_ns: u64 = throttle_total_ns;
        throttle_until_ns: u64 = throttle_until_ns;
        throttle_began_ns: u64 = throttle_began_ns;
        throttle_from_ns: u64 = throttle_from_ns;
        on_cpu_ns: u64 = on_cpu_ns;
        voluntary: u64 = voluntary;
        involuntary: u64 = involuntary;
        of_node: u32 = culprits.of_node;
    }
}

impl AccountCells {
    /// The account of a slot; none for what is no slot.
    #[inline(always)]
    pub(super) fn of(cpu: u32, slot: u32) -> Option<Self> {
        Self::at(ACCOUNTS.get_ptr_mut(slots::position(cpu, slot)?))
    }

    /// Time off the CPU.
    #[inline(always)]
    pub(super) fn off_cpu_ns(self, state: usize) -> &'static Cell<u64> {
        // SAFETY: entries of a map outlive the program, and the mask keeps the index inside.
        unsafe { element(&raw mut (*self.0.as_ptr()).off_cpu_ns, state & (OffCpu::COUNT - 1)) }
    }

    /// Time waited.
    #[inline(always)]
    pub(super) fn wait_ns(self, cause: Cause) -> &'static Cell<u64> {
        // SAFETY: as above; there is an element for each cause.
        unsafe { element(&raw mut (*self.0.as_ptr()).wait_ns, cause.index()) }
    }

    /// The word of the culprit that has a place. This and the rest of a place is read and written by [`wait`](super::wait) alone.
    #[inline(always)]
    pub(super) fn culprit(self, place: usize) -> &'static Cell<u32> {
        // SAFETY: entries of a map outlive the program, and places are counted to less than `TRACKED`.
        unsafe { element(&raw mut (*self.0.as_ptr()).culprits.culprit, place) }
    }

    /// The low bits of how long it has held the CPU.
    #[inline(always)]
    pub(super) fn held_low(self, place: usize) -> &'static Cell<u32> {
        // SAFETY: as above.
        unsafe { element(&raw mut (*self.0.as_ptr()).culprits.held_low, place) }
    }

    /// The high bits.
    #[inline(always)]
    pub(super) fn held_high(self, place: usize) -> &'static Cell<u16> {
        // SAFETY: as above.
        unsafe { element(&raw mut (*self.0.as_ptr()).culprits.held_high, place) }
    }

    /// Waits of a length.
    #[inline(always)]
    pub(super) fn waits(self, hashed_bucket: usize) -> &'static Cell<u32> {
        // SAFETY: as above, with the mask.
        unsafe { element(&raw mut (*self.0.as_ptr()).waits, hashed_bucket & 31) }
    }
}

cells! {
    /// What one CPU does and did. All but the messages of [`moves`](super::moves) is written under the lock of its run queue.
    CpuState of Cpu {
        sequence: u32 = now.sequence;
        switches: u32 = now.switches;
        since_ns: u64 = now.since_ns;
        holder: Holder = now.holder;
        executed_ns: u64 = now.executed_ns;
        moved: u32 = now.moved;
        cpu: u16 = now.cpu;
        newest: u16 = now.newest;
        task: u64 = now.task;
        random_state: u64 = now.random;
        unknown_segments: u64 = now.unknown_segments;
        unknown_sleeps: u64 = now.unknown_sleeps;
        missed: u64 = now.missed;
        missed_ns: u64 = now.missed_ns;
    }
}

impl CpuState {
    /// The entries of a CPU. The caller holds the lock of its run queue, or leaves it no more than a message.
    #[inline(always)]
    pub(super) fn of(cpu: u32) -> Option<Self> {
        Self::at(CPUS.get_ptr_mut(cpu))
    }

    /// Who holds the CPU, if its task is the one at this address and was not moved since it came. Nothing else than that task's own
    /// next switch writes what is read here, or a move, so the task itself and whoever interrupts it may ask.
    #[inline(always)]
    fn holder_while(self, task: u64) -> Option<Holder> {
        // SAFETY: the fields are valid and aligned.
        let (noted, moved, holder) = unsafe {
            (
                self.task().as_ptr().read_volatile(),
                self.moved().as_ptr().read_volatile(),
                self.holder().as_ptr().read_volatile(),
            )
        };
        let has_slot = (SLOT_KERNEL.into()..slots_count()).contains(&holder.slot().into());
        (noted == task && moved == Now::UNMOVED && has_slot).then_some(holder)
    }

    /// The cgroup that ran last, for the one function that reads and writes it.
    #[inline(always)]
    pub(super) fn recent(self) -> *mut Assigned {
        // SAFETY: entries of a map outlive the program.
        unsafe { &raw mut (*self.0.as_ptr()).now.recent }
    }

    /// The finished slice of a position, modulo the length of the history.
    #[inline(always)]
    fn finished(self, position: u16) -> *mut Slice {
        let at = usize::from(position % HISTORY as u16);
        // The history's place comes last and so becomes a part of each load. Indexed as the array that it is, it would
        // have an address of its own to keep.
        // SAFETY: the mask keeps the index inside the history, which is one of the structure's members.
        unsafe { self.0.as_ptr().cast::<Slice>().add(at).byte_add(offset_of!(Cpu, history)) }
    }

    /// The finished slice that is so many before the newest.
    #[inline(always)]
    pub(super) fn slice(self, distance: u32) -> Slice {
        // SAFETY: the place is in the history.
        unsafe { self.finished(self.newest().get().wrapping_sub(distance as u16)).read() }
    }

    /// A move of the slice that runs, modulo as many as there can be.
    #[inline(always)]
    pub(super) fn moved_at(self, index: usize) -> &'static Cell<Moved> {
        // SAFETY: entries of a map outlive the program, and the mask keeps the index inside.
        unsafe { element(&raw mut (*self.0.as_ptr()).now.list, index & (MOVES - 1)) }
    }

    /// Who holds the CPU from that moment on. One holder's slices, one after the other, are one slice in the history.
    #[inline(always)]
    pub(super) fn pass_on(self, at_ns: u64, holder: Holder) {
        let present = self.holder().get();
        if holder != present {
            self.newest().update(|newest| newest.wrapping_add(1));
            // SAFETY: the place is in the history.
            unsafe { self.finished(self.newest().get()).write(Slice { end_ns: at_ns, holder: present }) };
            self.holder().set(holder);
        }
    }

    /// Since when the present holder has had the CPU.
    #[inline(always)]
    pub(super) fn held_since_ns(self) -> u64 {
        self.slice(0).end_ns
    }

    /// The account of who holds the CPU; none for the idle task.
    #[inline(always)]
    pub(super) fn running_account(self) -> Option<AccountCells> {
        AccountCells::of(self.cpu().get().into(), self.holder().get().slot())
    }

    /// Ends the running slice at a moment, by which the kernel's total of its task is that, and books all of it.
    #[inline(always)]
    pub(super) fn book_slice(self, end_ns: u64, executed_ns: u64) {
        let ran_ns = executed_ns.saturating_sub(self.executed_ns().get());
        self.since_ns().set(end_ns);
        self.executed_ns().set(executed_ns);
        if let Some(account) = self.running_account() {
            account.on_cpu_ns().update(|sum_ns| sum_ns + ran_ns);
        }
    }

    /// The run queue's clock in this switch, by when the slice that runs now began.
    #[inline(always)]
    pub(super) fn clock_ns(self) -> u64 {
        // SAFETY: the field is valid and aligned.
        unsafe { self.since_ns().as_ptr().read_volatile() }
    }

    /// Makes the sequence number odd: readers wait.
    #[inline(always)]
    pub(super) fn begin_writing(self) {
        // SAFETY: the field is valid and aligned; volatile keeps its place among the other stores.
        unsafe { self.sequence().as_ptr().write_volatile(self.sequence().get() + 1) };
    }

    /// Makes the sequence number even: what was written belongs together.
    #[inline(always)]
    pub(super) fn end_writing(self) {
        // SAFETY: as above.
        unsafe { self.sequence().as_ptr().write_volatile(self.sequence().get() + 1) };
    }

    /// Marsaglia's xorshift, stirred by something that differs at each call.
    #[inline(always)]
    pub(super) fn random(self, stir: u64) -> u64 {
        let mut random = self.random_state().get() ^ stir.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random_state().set(random);
        random >> 11
    }
}
