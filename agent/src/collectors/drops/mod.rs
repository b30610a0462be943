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
        // Its last values were told a moment ago, by a reading of the whole table: there is no other for each slot.
        for (reason, _) in self.counted.remove(&slot).unwrap_or_default() {
            self.counts.remove(&DropKey { slot, reason });
        }
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
}
