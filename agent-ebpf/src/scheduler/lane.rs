//! One CPU's entries, used while its run queue is locked: what it does now, its history, its accounts.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use podlens_common::{
    cgroup::Holder,
    scheduler::{Account, Cpu, HISTORY, Now, Slice},
};

use crate::slots;

const MASK: u32 = HISTORY as u32 - 1;

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
    ACCOUNTS.get_ptr_mut(slots::position(cpu, slot)).map(|account| unsafe { &mut *account })
}

/// The entries of the CPU whose run queue is locked.
pub(super) struct Lane {
    pub(super) cpu: u32,
    pub(super) now: &'static mut Now,
    history: &'static mut [Slice; HISTORY],
}

impl Lane {
    /// The lane of a CPU whose run queue lock the caller holds.
    #[inline(always)]
    pub(super) fn locked(cpu: u32) -> Option<Self> {
        let entry = entry(cpu)?;
        // SAFETY: entries of a map outlive the program, and the lock makes this the only writer.
        let entry = unsafe { &mut *entry };
        Some(Self { cpu, now: &mut entry.now, history: &mut entry.history })
    }

    /// The finished slice that is so many before the newest.
    #[inline(always)]
    pub(super) fn slice(&self, distance: u32) -> Slice {
        self.history[(self.now.newest.wrapping_sub(distance) & MASK) as usize]
    }

    /// Adds a finished slice; neighbours of one holder are one slice.
    #[inline(always)]
    pub(super) fn push(&mut self, slice: Slice) {
        let newest = &mut self.history[(self.now.newest & MASK) as usize];
        if newest.holder == slice.holder {
            newest.end_ns = slice.end_ns;
        } else {
            self.now.newest = self.now.newest.wrapping_add(1);
            self.history[(self.now.newest & MASK) as usize] = slice;
        }
    }

    /// The account of who holds the CPU; none for the idle task.
    #[inline(always)]
    pub(super) fn running_account(&self) -> Option<&'static mut Account> {
        if self.now.holder == Holder::IDLE { None } else { account(self.cpu, self.now.holder.slot()) }
    }

    /// Books the slice that ends now. `stolen_ns` is what the CPU lost meanwhile to others than tasks.
    #[inline(always)]
    pub(super) fn book_slice(&mut self, account: Option<&mut Account>, end_ns: u64, stolen_ns: u64) {
        if let Some(account) = account {
            account.on_cpu_ns += end_ns.wrapping_sub(self.now.since_ns).saturating_sub(stolen_ns);
        }
        self.push(Slice { end_ns, holder: self.now.holder });
    }

    /// Begins a slice.
    #[inline(always)]
    pub(super) fn begin_slice(&mut self, holder: Holder, since_ns: u64) {
        self.now.holder = holder;
        self.now.since_ns = since_ns;
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
