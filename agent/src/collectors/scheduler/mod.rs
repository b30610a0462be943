//! Collector `scheduler`: who used the CPUs, who waited for them, and for whom.
//!
//! Reads what the kernel programs keep for each CPU and slot. Time of slices that still run is added at each
//! sweep, so that a busy task is not invisible until its next switch.

mod clock;
mod culprits;
pub mod metrics;

use std::collections::HashMap;

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::Holder,
    scheduler::{Account, Culprits, Now, Throttles, bucket},
};

use self::{
    clock::RunQueueClock,
    culprits::{Caused, Ways},
};
use super::{Collector, CollectorSpec, Readings, SlotsInUse, Sweep};
use crate::{
    kernel::object::SchedulerMaps,
    signal::{Histogram, Layout, Row},
};

/// The collector.
pub static SPEC: CollectorSpec = CollectorSpec {
    name: "scheduler",
    about: "CPU time, waits for a CPU and their causes, time off the CPU, migrations, context switches",
    metrics: &[
        &metrics::CPU,
        &metrics::RUN_QUEUE_LATENCY,
        &metrics::CPU_WAIT,
        &metrics::CPU_WAIT_CAUSED,
        &metrics::THROTTLED_WAIT,
        &metrics::THROTTLE_LATENCY,
        &metrics::OFF_CPU,
        &metrics::MIGRATIONS,
        &metrics::CONTEXT_SWITCHES,
    ],
};

/// Times that an entry is read anew if a program writes it at that moment; the programs take well below 1 us.
const LOOKS: u32 = 100;

/// Programs without which it does not run.
pub const PROGRAMS: &[(&str, &str)] = &[("cgroup_attach", "cgroup_attach_task"), ("sched_switch", "sched_switch")];
/// The program for the legs of waits that end in a migration.
pub const LEGS_PROGRAM: (&str, &str) = ("sched_migrate", "sched_migrate_task");

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
    layout: Layout,
    clock: RunQueueClock,
    ways: Ways,
    /// Each slot's row, whose values only rise: an estimate of a running slice may be followed by a smaller exact
    /// value.
    rows: HashMap<u32, Row, RandomState>,
    /// What the present sweep has found over all CPUs, one a slot in the order of the slots.
    totals: Vec<Account>,
    /// The present slot's row.
    found: Row,
}

impl Collector for Scheduler {
    fn spec(&self) -> &'static CollectorSpec {
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

    fn lost(&self) -> Vec<(&'static str, u64)> {
        Scheduler::lost(self).to_vec()
    }

    fn unseen_ns(&self) -> u64 {
        Scheduler::unseen_ns(self)
    }
}

impl Scheduler {
    /// A collector over the programs' maps.
    #[must_use]
    pub fn new(maps: SchedulerMaps, offers: Offers) -> Self {
        let layout = Layout::new(SPEC.metrics);
        Self {
            maps,
            offers,
            clock: RunQueueClock::default(),
            ways: Ways::default(),
            rows: HashMap::default(),
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
        let slots: Vec<u32> = slots.iter().map(|(number, _)| number).collect();
        let mut totals = std::mem::take(&mut self.totals);
        totals.clear();
        totals.resize(slots.len(), Account::EMPTY);
        let mut caused = Vec::new();
        for cpu in 0..self.maps.cpu_count {
            self.sweep_cpu(cpu, &slots, &mut totals, &mut caused, &generation);
        }
        let Self { maps, offers, layout, rows, found, .. } = self;
        for (slot, total) in slots.iter().zip(&totals) {
            let throttles = usize::try_from(*slot).ok().and_then(|slot| maps.throttles.get(slot));
            found.clear();
            book(found, layout, *offers, total, &throttles.unwrap_or(Throttles::EMPTY));
            let row = rows.entry(*slot).or_insert_with(|| layout.row());
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
        self.rows.remove(&slot);
        self.maps.throttles.set(usize::try_from(slot).unwrap_or(usize::MAX), Throttles::EMPTY);
        for cpu in 0..self.maps.cpu_count {
            if let Some(position) = self.position(cpu, slot) {
                self.ways.forget(position);
                self.maps.culprits.set(position, Culprits::EMPTY);
                self.maps.accounts.set(position, Account::EMPTY);
            }
        }
    }

    /// What the programs could not tell, by reason.
    #[must_use]
    pub fn lost(&self) -> [(&'static str, u64); 3] {
        let sum = |count: fn(&Now) -> u64| self.each_cpu().map(|cpu| count(&cpu)).sum();
        [
            ("unknown_leg", sum(|cpu| cpu.unknown_legs)),
            ("unknown_sleep", sum(|cpu| cpu.unknown_sleeps)),
            ("missed_switch", sum(|cpu| cpu.missed)),
        ]
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
        totals: &mut [Account],
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
                let look = || Some((self.maps.accounts.get(position)?, self.maps.culprits.get(position)?));
                let Some((account, ways)) = self.steady(cpu, look) else { continue };
                add(total, &account);
                self.ways.collect(position, *slot, &ways, generation, caused);
            }
        }
        let Some(now) = self.steady(cpu, || self.cpu(cpu)) else { return };
        if now.holder != Holder::IDLE && now.since_ns != 0 {
            for (slot, ns) in running(&now, self.clock.now_ns()) {
                let total = slots.binary_search(&slot).ok().and_then(|at| totals.get_mut(at));
                if let Some(total) = total {
                    total.on_cpu_ns += ns;
                }
            }
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

/// Adds what one CPU has accounted.
fn add(total: &mut Account, account: &Account) {
    let sums = [
        (&mut total.on_cpu_ns, account.on_cpu_ns),
        (&mut total.voluntary, account.voluntary),
        (&mut total.involuntary, account.involuntary),
        (&mut total.migrations, account.migrations),
        (&mut total.throttled_ns, account.throttled_ns),
    ];
    let lists = (total.off_cpu_ns.iter_mut().zip(account.off_cpu_ns))
        .chain(total.wait_ns.iter_mut().zip(account.wait_ns))
        .chain(total.waits.iter_mut().zip(account.waits));
    for (sum, more) in sums.into_iter().chain(lists) {
        *sum = sum.wrapping_add(more);
    }
}

/// Enters one slot's figures over all CPUs.
fn book(row: &mut Row, layout: &Layout, offers: Offers, total: &Account, throttles: &Throttles) {
    let mut enter = |metric, values: &[u64]| row.add_all(layout, metric, values);
    enter(&metrics::CPU, &[total.on_cpu_ns]);
    enter(&metrics::CONTEXT_SWITCHES, &[total.voluntary, total.involuntary]);
    enter(&metrics::OFF_CPU, &total.off_cpu_ns);
    enter(&metrics::CPU_WAIT, &total.wait_ns);
    // The programs keep the sum only by cause, so that the two can never disagree.
    let sum_ns = total.wait_ns.iter().sum();
    enter(&metrics::RUN_QUEUE_LATENCY, &distribution(&total.waits, sum_ns));
    if offers.migrations {
        enter(&metrics::MIGRATIONS, &[total.migrations]);
    }
    if offers.throttles {
        enter(&metrics::THROTTLED_WAIT, &[total.throttled_ns]);
        enter(&metrics::THROTTLE_LATENCY, &distribution(&throttles.lengths, throttles.sum_ns));
    }
}

/// A distribution's cells: its buckets, from what is counted at each place, then its sum.
fn distribution(places: &[u64; Histogram::BUCKETS], sum_ns: u64) -> [u64; Histogram::CELLS] {
    let mut cells = [0; Histogram::CELLS];
    for (place, count) in places.iter().enumerate() {
        if let Some(cell) = bucket(place).and_then(|bucket| cells.get_mut(bucket)) {
            *cell = *count;
        }
    }
    if let Some(sum) = cells.last_mut() {
        *sum = sum_ns;
    }
    cells
}

/// The running slice's parts: one slot's, or several where its task was moved between cgroups meanwhile.
fn running(cpu: &Now, now_ns: u64) -> Vec<(u32, u64)> {
    let mut parts = Vec::new();
    let (mut slot, mut since_ns, mut executed_ns) = (cpu.holder.slot(), cpu.since_ns, cpu.executed_ns);
    for moved in cpu.list.iter().take(cpu.moves()) {
        parts.push((slot, moved.executed_ns.saturating_sub(executed_ns)));
        (slot, since_ns, executed_ns) = (moved.holder.slot(), moved.at_ns, moved.executed_ns);
    }
    parts.push((slot, now_ns.saturating_sub(since_ns)));
    parts
}
