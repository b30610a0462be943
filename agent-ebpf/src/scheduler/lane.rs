//! One CPU's entries, used while its run queue is locked: what it does now, its history, its accounts.

use core::{
    mem::offset_of,
    ops::{Deref, DerefMut},
};

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use podlens_common::{
    cgroup::Holder,
    scheduler::{Account, Cpu, HISTORY, Slice},
};

use crate::slots;

/// Accounts, by CPU and slot.
#[map]
static ACCOUNTS: Array<Account> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What each CPU is doing and did lately.
#[map]
static CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The entry of a CPU, for whoever leaves it a message.
#[inline(always)]
pub(super) fn entry(cpu: u32) -> Option<*mut Cpu> {
    CPUS.get_ptr_mut(cpu)
}

/// The account of one slot on one CPU.
#[inline(always)]
pub(super) fn account(cpu: u32, slot: u32) -> Option<&'static mut Account> {
    // SAFETY: entries of a map outlive the program. Fields have one writer at a time: what is written under
    // the lock of the CPU's run queue, and what only that CPU itself writes.
    ACCOUNTS.get_ptr_mut(slots::position(cpu, slot)?).map(|account| unsafe { &mut *account })
}

/// The entries of the CPU whose run queue is locked.
pub(super) struct Lane(&'static mut Cpu);

impl Deref for Lane {
    type Target = Cpu;

    #[inline(always)]
    fn deref(&self) -> &Cpu {
        self.0
    }
}

impl DerefMut for Lane {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Cpu {
        self.0
    }
}

impl Lane {
    /// The lane of a CPU whose run queue lock the caller holds.
    #[inline(always)]
    pub(super) fn locked(cpu: u32) -> Option<Self> {
        // SAFETY: entries of a map outlive the program, and the lock makes this the only writer.
        entry(cpu).map(|entry| Self(unsafe { &mut *entry }))
    }

    /// The finished slice of a position, modulo the length of the history.
    #[inline(always)]
    fn finished(&mut self, position: u16) -> &mut Slice {
        let at = usize::from(position % HISTORY as u16);
        // The history's place comes last and so becomes a part of each load. Indexed as the array that it is, it would
        // have an address of its own to keep.
        // SAFETY: the mask keeps the index inside the history, which is one of the structure's members.
        unsafe {
            let indexed = core::ptr::from_mut(&mut *self.0).cast::<Slice>().add(at);
            &mut *indexed.byte_add(offset_of!(Cpu, history))
        }
    }

    /// The finished slice that is so many before the newest.
    #[inline(always)]
    pub(super) fn slice(&mut self, distance: u32) -> Slice {
        *self.finished(self.now.newest.wrapping_sub(distance as u16))
    }

    /// Who holds the CPU from that moment on. One holder's slices, one after the other, are one slice in the history.
    #[inline(always)]
    pub(super) fn pass_on(&mut self, at_ns: u64, holder: Holder) {
        if holder != self.now.holder {
            self.now.newest = self.now.newest.wrapping_add(1);
            *self.finished(self.now.newest) = Slice { end_ns: at_ns, holder: self.now.holder };
            self.now.holder = holder;
        }
    }

    /// Since when the present holder has had the CPU.
    #[inline(always)]
    pub(super) fn held_since_ns(&mut self) -> u64 {
        self.slice(0).end_ns
    }

    /// The account of who holds the CPU; none for the idle task.
    #[inline(always)]
    pub(super) fn running_account(&self) -> Option<&'static mut Account> {
        account(self.now.cpu.into(), self.now.holder.slot())
    }

    /// Ends the running slice at a moment, by which the kernel's total of its task is that, and books all of it.
    #[inline(always)]
    pub(super) fn book_slice(&mut self, end_ns: u64, executed_ns: u64) {
        let ran_ns = executed_ns.saturating_sub(self.now.executed_ns);
        self.now.since_ns = end_ns;
        self.now.executed_ns = executed_ns;
        if let Some(account) = self.running_account() {
            account.on_cpu_ns += ran_ns;
        }
    }

    /// The run queue's clock in this switch, by when the slice that runs now began.
    #[inline(always)]
    pub(super) fn clock_ns(&self) -> u64 {
        // SAFETY: the field is valid and aligned.
        unsafe { (&raw const self.now.since_ns).read_volatile() }
    }

    /// Makes the sequence number odd: readers wait.
    #[inline(always)]
    pub(super) fn begin_writing(&mut self) {
        // SAFETY: the field is valid and aligned; volatile keeps its place among the other stores.
        unsafe { (&raw mut self.now.sequence).write_volatile(self.now.sequence + 1) };
    }

    /// Makes the sequence number even: what was written belongs together.
    #[inline(always)]
    pub(super) fn end_writing(&mut self) {
        // SAFETY: as above.
        unsafe { (&raw mut self.now.sequence).write_volatile(self.now.sequence + 1) };
    }

    /// Marsaglia's xorshift, stirred by something that differs at each call.
    #[inline(always)]
    pub(super) fn random(&mut self, stir: u64) -> u64 {
        let mut random = self.now.random ^ stir.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.now.random = random;
        random >> 11
    }
}
