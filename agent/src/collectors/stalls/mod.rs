//! Collector `stalls`: how long each cgroup's tasks stalled for want of memory, by reason, and waited in major faults.
//!
//! The programs count by slot, lengths in 32 bits each; here they become 64.

pub mod metrics;
mod start;

use std::{collections::HashMap, sync::Arc, time::Instant};

use foldhash::fast::RandomState;
use podlens_common::stalls::{FAULTS, StallCounts, StallReason, Stalls as Record};

pub use self::start::SPEC;
use self::start::StallMaps;
pub(super) use self::start::{MEMCG_BEGIN, RECLAIM_BEGIN};
use super::{Collector, Readings, Spec, Sweep, Totals};
use crate::{
    kernel::major_faults::MajorFaults,
    signal::{Layout, Loss, Row},
};

/// Seconds between two comparisons of major faults, for each of which the kernel interrupts all CPUs.
const COMPARED_EVERY: u32 = 60;

/// The collector at work.
pub struct Stalls {
    layout: Arc<Layout>,
    maps: StallMaps,
    /// Seconds until major faults are compared with the kernel's own count.
    until_compared: u32,
    /// Major faults that the kernel has counted and the program was not told of.
    missed_faults: u64,
    /// The end of major faults is reported, and how long their tasks slept.
    knows_faults: bool,
    /// Of the slots that have had any.
    totals: HashMap<u32, Totals<{ FAULTS + 1 }>, RandomState>,
    /// The present slot's row.
    found: Row,
}

impl Stalls {
    /// A collector over the programs' maps.
    fn new(layout: Arc<Layout>, maps: StallMaps, knows_faults: bool) -> Self {
        let found = layout.row();
        let (until_compared, missed_faults) = (COMPARED_EVERY, 0);
        Self { layout, maps, until_compared, missed_faults, knows_faults, totals: HashMap::default(), found }
    }
}

impl Collector for Stalls {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        let Self { layout, maps, knows_faults, totals, found, .. } = self;
        for (slot, _) in sweep.wanted.iter() {
            // Most have none, and a histogram without an observation is not told.
            let record = usize::try_from(slot).ok().and_then(|entry| maps.stalls.get_used(entry));
            let Some(record) = record else { continue };
            let totals = totals.entry(slot).or_default();
            for (which, lengths) in record.0.iter().enumerate() {
                totals.follow(which, lengths);
            }
            found.clear();
            for reason in StallReason::ALL {
                if let Some(cells) = totals.cells(reason.index()) {
                    found.add_histogram(layout, &metrics::STALLS, reason.index(), &cells);
                }
            }
            if let Some(cells) = totals.cells(FAULTS).filter(|_| *knows_faults) {
                found.add_histogram(layout, &metrics::FAULTS, 0, &cells);
            }
            readings.slot(slot, found);
        }
    }

    fn clear(&mut self, slot: u32) {
        self.totals.remove(&slot);
        // Most have none, and their part of the map stays untouched.
        if let Ok(entry) = usize::try_from(slot)
            && self.maps.stalls.get_used(entry).is_some()
        {
            self.maps.stalls.set(entry, Record::EMPTY);
        }
    }

    fn tick(&mut self) {
        let Some(faults) = &mut self.maps.faults else { return };
        faults.follow();
        self.until_compared -= 1;
        if self.until_compared == 0 {
            self.until_compared = COMPARED_EVERY;
            // In this order: what happens meanwhile is told and not counted, and makes up for itself the next time.
            let counted = faults.counted(Instant::now());
            let told = self.maps.losses.get(0).unwrap_or_default().told_faults;
            self.missed_faults = self.missed_faults.max(counted.saturating_sub(told));
        }
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        let StallCounts { stalls, faults, told_faults: _ } = self.maps.losses.get(0).unwrap_or_default();
        vec![
            (&start::UNKNOWN_STALL, stalls),
            (&start::MISSED_STALL, self.maps.missed.count()),
            (&start::UNKNOWN_FAULT, faults),
            (&start::MISSED_FAULT, self.missed_faults),
            (&start::LATE_FAULTS, self.maps.faults.as_ref().map_or(0, MajorFaults::late)),
        ]
    }
}
