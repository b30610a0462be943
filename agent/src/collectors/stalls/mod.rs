//! Collector `stalls`: how long each cgroup's tasks stalled for want of memory, by reason, and waited in major faults.
//!
//! The programs count by slot, lengths in 32 bits each; here they become 64.

pub mod metrics;
mod start;

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use podlens_common::stalls::{FAULTS, StallLosses, StallReason, Stalls as Record};

pub use self::start::SPEC;
use self::start::StallMaps;
pub(super) use self::start::{MEMCG_BEGIN, RECLAIM_BEGIN};
use super::{Collector, Readings, Spec, Sweep, Totals};
use crate::signal::{Layout, Loss, Row};

/// The collector at work.
pub struct Stalls {
    layout: Arc<Layout>,
    maps: StallMaps,
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
        Self { layout, maps, knows_faults, totals: HashMap::default(), found }
    }
}

impl Collector for Stalls {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        let Self { layout, maps, knows_faults, totals, found } = self;
        for (slot, _) in sweep.wanted.iter() {
            let record = usize::try_from(slot).ok().and_then(|entry| maps.stalls.get(entry));
            // Most have none, and a histogram without an observation is not told.
            let Some(record) = record.filter(|record| *record != Record::EMPTY) else { continue };
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
            && self.maps.stalls.get(entry).is_some_and(|record| record != Record::EMPTY)
        {
            self.maps.stalls.set(entry, Record::EMPTY);
        }
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        let StallLosses { stalls, faults } = self.maps.losses.get(0).unwrap_or_default();
        vec![
            (&start::UNKNOWN_STALL, stalls),
            (&start::MISSED_STALL, self.maps.missed.count()),
            (&start::UNKNOWN_FAULT, faults),
        ]
    }
}
