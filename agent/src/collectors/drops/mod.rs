//! Collector `drops`: packets that the kernel dropped, by the cgroup of their socket and the kernel's own reasons.
//!
//! Few of the many reasons occur, so the program counts in a table by slot and reason, which a sweep reads as a whole.

pub mod metrics;
mod start;

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use podlens_common::drops::DropKey;

pub use self::start::SPEC;
use super::{Collector, Readings, Spec, Sweep};
use crate::{
    kernel::{mapped::MappedArray, missed::MissedRuns, table::Table},
    signal::{Layout, Loss, Row},
};

/// Reasons and how often each was met, by slot.
type BySlot = HashMap<u32, Vec<(u32, u64)>, RandomState>;

/// The collector at work.
pub struct Drops {
    layout: Arc<Layout>,
    counts: Table<DropKey, u64>,
    lost: MappedArray<u64>,
    missed: MissedRuns,
    /// What the last reading found: which entries a slot has.
    counted: BySlot,
    /// The present slot's row.
    found: Row,
}

impl Drops {
    /// A collector over the program's maps.
    #[must_use]
    pub fn new(layout: Arc<Layout>, counts: Table<DropKey, u64>, lost: MappedArray<u64>, missed: MissedRuns) -> Self {
        let found = layout.row();
        Self { layout, counts, lost, missed, counted: BySlot::default(), found }
    }
}

impl Collector for Drops {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        let Self { layout, counts, counted, found, .. } = self;
        // If the table cannot be read, what it had before is told.
        if let Ok(all) = counts.read() {
            *counted = by_slot(all);
        }
        for (number, _) in sweep.wanted.iter() {
            let Some(reasons) = counted.get(&number) else { continue };
            found.clear();
            book(found, layout, reasons);
            readings.slot(number, found);
        }
    }

    fn clear(&mut self, slot: u32) {
        self.clear_all(&[slot]);
    }

    fn clear_all(&mut self, slots: &[u32]) {
        // What there is now: a reason that the last reading did not find would be the next holder's.
        let now = self.counts.read().map_or_else(|_| std::mem::take(&mut self.counted), by_slot);
        for (slot, reason) in of_slots(&now, slots) {
            self.counts.remove(&DropKey { slot, reason });
        }
        self.counted = now;
        self.counted.retain(|slot, _| !slots.contains(slot));
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::MISSED_DROP, self.missed.count()), (&start::NO_ROOM, self.lost.get(0).unwrap_or_default())]
    }
}

fn by_slot(counts: Vec<(DropKey, u64)>) -> BySlot {
    let mut by_slot = BySlot::default();
    for (DropKey { slot, reason }, count) in counts {
        by_slot.entry(slot).or_default().push((reason, count));
    }
    by_slot
}

/// The entries that these slots have.
fn of_slots<'a>(counts: &'a BySlot, slots: &'a [u32]) -> impl Iterator<Item = (u32, u32)> + 'a {
    let of = |slot: &'a u32| counts.get(slot).into_iter().flatten().map(|(reason, _)| (*slot, *reason));
    slots.iter().flat_map(of)
}

fn book(row: &mut Row, layout: &Layout, reasons: &[(u32, u64)]) {
    let Some(column) = layout.column(&metrics::DROPS) else { return };
    for (reason, count) in reasons {
        let place = usize::try_from(*reason).ok().and_then(|reason| column.combination_of(&[reason]));
        if let Some(place) = place {
            row.add(layout, &metrics::DROPS, place, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use podlens_common::drops::OTHER_REASON;

    use super::*;
    use crate::signal::KernelEnum;

    #[test]
    fn each_reason_counts_under_the_kernels_name_and_what_has_none_as_other() {
        let names = |_: &KernelEnum| ["skb_not_dropped_yet", "no_socket", "other"].map(Into::into).to_vec();
        let layout = Layout::with_kernel_names(SPEC.metrics, &names);
        let told = [(5, 1, 7), (6, 0, 2), (5, OTHER_REASON, 3), (5, 900, 4)];
        let counts = by_slot(told.map(|(slot, reason, count)| (DropKey { slot, reason }, count)).to_vec());
        let cells = |slot: u32| {
            let mut row = layout.row();
            book(&mut row, &layout, counts.get(&slot).unwrap());
            row.cells(layout.column(&metrics::DROPS).unwrap()).unwrap().to_vec()
        };
        assert_eq!((cells(5), cells(6)), (vec![0, 7, 7], vec![2, 0, 0]));
    }

    #[test]
    fn a_slot_that_is_cleared_leaves_no_reason_behind_and_another_one_keeps_its_own() {
        let told = [(5, 1), (6, 0), (5, 9), (7, 2)];
        let counts = by_slot(told.map(|(slot, reason)| (DropKey { slot, reason }, 1)).to_vec());
        let all: Vec<_> = of_slots(&counts, &[5, 7, 8]).collect();
        assert_eq!(all, [(5, 1), (5, 9), (7, 2)]);
    }
}
