//! Collector `scheduler`: who used the CPUs, who waited for them, and for whom.
//!
//! Reads what the kernel programs keep for each CPU and slot. Time of slices that still run is added at each
//! sweep, so that a busy task is not invisible until its next switch.

mod clock;
mod culprits;
mod losses;
pub mod metrics;
mod start;
mod totals;

use std::sync::Arc;

use podlens_common::{
    cgroup::Holder,
    scheduler::{Account, Now, SlotTotals, SwitchKind},
};

pub use self::start::{SPEC, SchedulerMaps};
use self::{
    clock::RunQueueClock,
    culprits::{Caused, Seen},
    totals::Totals,
};
use super::{Collector, Readings, SlotsInUse, Spec, Sweep, distribution};
use crate::signal::{Layout, Loss, Row};

/// Times that an entry is read anew if a program writes it at that moment; the programs take well below 1 us.
const LOOKS: u32 = 100;

/// What this kernel lets the programs see beyond slices, waits and switches. The rest has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Migrations.
    pub migrations: bool,
    /// Throttled time of a group.
    pub throttles: bool,
}

/// The collector at work.
pub struct Scheduler {
    maps: SchedulerMaps,
    offers: Offers,
    layout: Arc<Layout>,
    clock: RunQueueClock,
    seen: Seen,
    /// By slot its row, whose values only rise: an estimate of a running slice may be followed by a smaller exact value.
    rows: Vec<Option<Row>>,
    /// By slot: for how long others waited while it held the CPU.
    inflicted_ns: Vec<u64>,
    /// What the present sweep has found over all CPUs, one a slot in the order of the slots.
    totals: Vec<Totals>,
    /// The present slot's row.
    found: Row,
}

impl Collector for Scheduler {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if sweep.whole {
            self.set_clock();
        }
        self.sweep(sweep.wanted, sweep.generation, readings);
    }

    fn clear(&mut self, slot: u32) {
        Scheduler::clear(self, slot);
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        losses::counted(self.each_cpu())
    }

    fn unseen_ns(&self) -> u64 {
        Scheduler::unseen_ns(self)
    }
}

impl Scheduler {
    /// A collector over the programs' maps.
    #[must_use]
    pub fn new(layout: Arc<Layout>, maps: SchedulerMaps, offers: Offers) -> Self {
        Self {
            maps,
            offers,
            clock: RunQueueClock::default(),
            seen: Seen::default(),
            rows: Vec::new(),
            inflicted_ns: Vec::new(),
            totals: Vec::new(),
            found: layout.row(),
            layout,
        }
    }

    /// How its rows are laid out.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Sets the run queue's clock against this process's. Takes a fraction of a millisecond, asleep.
    pub fn set_clock(&mut self) {
        self.clock.set(&self.maps.cpus);
    }

    /// Reads the given slots: what each has used, and who held the CPU while its tasks waited since the last sweep.
    /// `generation` tells who has a slot at present.
    pub fn sweep(
        &mut self,
        slots: &SlotsInUse,
        generation: impl Fn(u32) -> Option<u32>,
        readings: &mut (impl Readings + ?Sized),
    ) {
        let slots: Vec<u32> = slots.iter().filter(|(_, slot)| slot.is_of_tasks()).map(|(number, _)| number).collect();
        let mut totals = std::mem::take(&mut self.totals);
        totals.clear();
        let of_slot = |slot: u32| usize::try_from(slot).ok().and_then(|slot| self.maps.totals.get(slot));
        totals.extend(slots.iter().map(|slot| Totals::of(&of_slot(*slot).unwrap_or(SlotTotals::EMPTY))));
        let mut caused = Vec::new();
        for cpu in 0..self.maps.cpu_count {
            self.sweep_cpu(cpu, &slots, &mut totals, &mut caused, &generation);
        }
        let Self { offers, layout, rows, inflicted_ns, found, .. } = self;
        for Caused { culprit, ns, .. } in &caused {
            let Ok(at) = usize::try_from(*culprit) else { continue };
            inflicted_ns.resize(inflicted_ns.len().max(at.saturating_add(1)), 0);
            if let Some(sum) = inflicted_ns.get_mut(at) {
                *sum += ns;
            }
        }
        for (slot, total) in slots.iter().zip(&totals) {
            found.clear();
            let at = usize::try_from(*slot).unwrap_or(usize::MAX);
            book(found, layout, *offers, total);
            found.add(layout, &metrics::CPU_WAIT_INFLICTED, 0, inflicted_ns.get(at).copied().unwrap_or(0));
            if at >= rows.len() {
                rows.resize(at.saturating_add(1), None);
            }
            let Some(row) = rows.get_mut(at) else { continue };
            let row = row.get_or_insert_with(|| layout.row());
            row.at_least(found);
            readings.slot(*slot, row);
        }
        for Caused { slot, culprit, ns } in caused {
            readings.caused(&metrics::CPU_WAIT_CAUSED, slot, culprit, ns);
        }
        self.totals = totals;
    }

    /// Empties a slot whose cgroup is gone, on all CPUs.
    pub fn clear(&mut self, slot: u32) {
        let at = usize::try_from(slot).unwrap_or(usize::MAX);
        if let Some(row) = self.rows.get_mut(at) {
            *row = None;
        }
        if let Some(sum) = self.inflicted_ns.get_mut(at) {
            *sum = 0;
        }
        self.maps.totals.set(at, SlotTotals::EMPTY);
        for cpu in 0..self.maps.cpu_count {
            if let Some(position) = self.position(cpu, slot) {
                self.seen.forget(position);
                self.maps.accounts.set(position, Account::EMPTY);
            }
        }
    }

    /// Time for which it is not known who held a CPU.
    #[must_use]
    pub fn unseen_ns(&self) -> u64 {
        self.each_cpu().map(|cpu| cpu.missed_ns).sum()
    }

    fn each_cpu(&self) -> impl Iterator<Item = Now> {
        (0..self.maps.cpu_count).filter_map(|cpu| self.cpu(cpu))
    }

    /// Adds one CPU's accounts to the totals, and its running slice.
    fn sweep_cpu(
        &mut self,
        cpu: u32,
        slots: &[u32],
        totals: &mut [Totals],
        caused: &mut Vec<Caused>,
        generation: &impl Fn(u32) -> Option<u32>,
    ) {
        let Some(before) = self.cpu(cpu) else { return };
        // A slice that ends while the accounts are read would be missing in an account that was read before it:
        // the slot that runs now comes last.
        for is_running in [false, true] {
            for (slot, total) in slots.iter().zip(&mut *totals) {
                if (*slot == before.holder.slot()) != is_running {
                    continue;
                }
                let Some(position) = self.position(cpu, *slot) else { continue };
                let Some(account) = self.steady(cpu, || self.maps.accounts.get(position)) else { continue };
                total.add(&account);
                self.seen.collect(position, *slot, &account.culprits, generation, caused);
            }
        }
        let Some(now) = self.steady(cpu, || self.cpu(cpu)) else { return };
        if now.holder != Holder::IDLE && now.since_ns != 0 {
            now.running(self.clock.now_ns(), |holder, ns| {
                let total = slots.binary_search(&holder.slot()).ok().and_then(|at| totals.get_mut(at));
                if let Some(total) = total {
                    total.on_cpu_ns += ns;
                }
            });
        }
    }

    /// What a CPU's entries are at one moment: the programs make its sequence number odd while they write.
    fn steady<T>(&self, cpu: u32, look: impl Fn() -> Option<T>) -> Option<T> {
        let cpu = usize::try_from(cpu).ok()?;
        let mut looks = 0;
        loop {
            let before = self.maps.cpus.first_word(cpu)?;
            let found = look()?;
            let after = self.maps.cpus.first_word(cpu)?;
            looks += 1;
            if (before == after && before & 1 == 0) || looks == LOOKS {
                return Some(found);
            }
        }
    }

    fn cpu(&self, cpu: u32) -> Option<Now> {
        self.maps.cpus.get(usize::try_from(cpu).ok()?)
    }

    fn position(&self, cpu: u32, slot: u32) -> Option<usize> {
        usize::try_from(cpu * self.maps.slot_count + slot).ok()
    }
}

/// Enters one slot's figures over all CPUs.
fn book(row: &mut Row, layout: &Layout, offers: Offers, total: &Totals) {
    let mut enter = |metric, values: &[u64]| row.add_all(layout, metric, values);
    enter(&metrics::CPU, &[total.on_cpu_ns]);
    let switches = SwitchKind::ALL.map(|kind| match kind {
        SwitchKind::Voluntary => total.voluntary,
        SwitchKind::Involuntary => total.involuntary,
    });
    enter(&metrics::CONTEXT_SWITCHES, &switches);
    enter(&metrics::OFF_CPU, &total.off_cpu_ns);
    enter(&metrics::CPU_WAIT, &total.wait_ns);
    // The programs keep the sum only by cause, so that the two can never disagree.
    let sum_ns = total.wait_ns.iter().sum();
    enter(&metrics::RUN_QUEUE_LATENCY, &distribution(&total.waits, sum_ns));
    if offers.migrations {
        enter(&metrics::MIGRATIONS, &[total.migrations]);
    }
    if offers.throttles {
        enter(&metrics::THROTTLED_WAIT, &[total.throttled_wait_ns]);
        enter(&metrics::THROTTLE_LATENCY, &distribution(&total.throttles, total.throttles_ns));
    }
}
