//! Collector `dns`: how long each cgroup's queries to DNS servers wait for their answers, by result.
//!
//! The programs count what is answered by slot and result, lengths in 32 bits each; here they become 64. What is not answered in time stays in
//! their table of queries under way, until a sweep takes it out and counts it.

pub mod metrics;
mod start;

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use podlens_common::{
    dns::{ANSWERS, DnsKey, DnsLosses, DnsResult, PendingQuery, TIMEOUT_NS},
    histogram::{bucket, hashed_bucket},
};

use self::start::DnsMaps;
pub use self::start::SPEC;
use super::{Collector, Readings, Spec, Sweep, Totals};
use crate::{
    kernel::{missed::MissedRuns, process::monotonic_ns},
    signal::{Histogram, Layout, Loss, Row},
};

/// The collector at work.
pub struct Dns {
    layout: Arc<Layout>,
    maps: DnsMaps,
    missed: MissedRuns,
    /// Queries over TCP of which no answer was seen.
    unseen_answers: u64,
    /// Of the slots that have had any.
    slots: HashMap<u32, Queries, RandomState>,
    /// The present slot's row.
    found: Row,
}

/// One slot's queries since it got its holder.
#[derive(Clone, Copy)]
struct Queries {
    answered: Totals<ANSWERS>,
    /// Those without answer: the cells of their histogram.
    timeouts: [u64; Histogram::CELLS],
}

impl Default for Queries {
    fn default() -> Self {
        Self { answered: Totals::default(), timeouts: [0; Histogram::CELLS] }
    }
}

impl Queries {
    /// One has waited in vain for so long.
    fn give_up(&mut self, waited_ns: u64) {
        if let Some(cell) = bucket(hashed_bucket(waited_ns)).and_then(|bucket| self.timeouts.get_mut(bucket)) {
            *cell += 1;
        }
        if let Some(sum_ns) = self.timeouts.last_mut() {
            *sum_ns += waited_ns;
        }
    }

    /// Enters all; results without a query stay absent.
    fn book(&self, row: &mut Row, layout: &Layout) {
        for result in DnsResult::ALL {
            let cells = match result {
                DnsResult::Timeout => Some(self.timeouts).filter(|cells| cells.iter().any(|count| *count != 0)),
                answered => self.answered.cells(answered.index()),
            };
            if let Some(cells) = cells {
                row.add_histogram(layout, &metrics::LOOKUPS, result.index(), &cells);
            }
        }
    }
}

/// For how long a query was waited for in vain; none if there is still hope.
fn in_vain_ns(query: &PendingQuery, now_ns: u64, is_last_chance: bool) -> Option<u64> {
    let waited_ns = now_ns.saturating_sub(query.at_ns);
    (is_last_chance || waited_ns >= TIMEOUT_NS).then_some(waited_ns.min(TIMEOUT_NS))
}

impl Dns {
    /// A collector over the programs' maps.
    fn new(layout: Arc<Layout>, maps: DnsMaps, missed: MissedRuns) -> Self {
        let found = layout.row();
        Self { layout, maps, missed, unseen_answers: 0, slots: HashMap::default(), found }
    }

    /// All of the table. If it cannot be read, the queries there are found the next time.
    fn pending(&self) -> Vec<(u64, PendingQuery)> {
        self.maps.pending.read().unwrap_or_default()
    }

    /// Goes on to what was answered by now. If the table cannot be read, what was told before stays.
    fn follow_answers(&mut self) {
        for (DnsKey { slot, result }, lengths) in self.maps.answers.read().unwrap_or_default() {
            if let Ok(result) = usize::try_from(result) {
                self.slots.entry(slot).or_default().answered.follow(result, &lengths);
            }
        }
    }

    /// Counts what is not waited for any longer: too old, or of a cgroup that is gone.
    fn give_up(&mut self, sweep: &Sweep<'_>) {
        let now_ns = monotonic_ns();
        for (key, query) in self.pending() {
            let is_last_chance = sweep.expired.get(query.slot).is_some();
            // Whoever takes it out counts it: the program may be about to do the same.
            if let Some(waited_ns) = in_vain_ns(&query, now_ns, is_last_chance)
                && self.maps.pending.remove(&key)
            {
                if query.over_tcp == 0 {
                    self.slots.entry(query.slot).or_default().give_up(waited_ns);
                } else {
                    self.unseen_answers += 1;
                }
            }
        }
    }
}

impl Collector for Dns {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        self.give_up(sweep);
        self.follow_answers();
        for (slot, _) in sweep.wanted.iter() {
            // Most cgroups ask nobody, and so have no row.
            let Some(queries) = self.slots.get(&slot) else { continue };
            self.found.clear();
            queries.book(&mut self.found, &self.layout);
            readings.slot(slot, &self.found);
        }
    }

    fn clear(&mut self, slot: u32) {
        self.slots.remove(&slot);
        for result in (0..ANSWERS).filter_map(|result| u32::try_from(result).ok()) {
            self.maps.answers.remove(&DnsKey { slot, result });
        }
        for (key, _) in self.pending().iter().filter(|(_, query)| query.slot == slot) {
            self.maps.pending.remove(key);
        }
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        let DnsLosses { no_room, unseen_call, unreadable } = self.maps.losses.get(0).unwrap_or_default();
        vec![
            (&start::NO_ROOM, no_room),
            (&start::UNSEEN_CALL, unseen_call),
            (&start::UNREADABLE, unreadable),
            (&start::UNSEEN_ANSWER, self.unseen_answers),
            (&start::MISSED_CALL, self.missed.count()),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use podlens_common::histogram::Lengths;

    use super::*;

    #[test]
    fn a_query_is_given_up_after_the_timeout_or_with_its_cgroup() {
        let query = PendingQuery { at_ns: 5_000_000_000, slot: 3, over_tcp: 0 };
        for (now_ns, is_last_chance, expected) in [
            (4_999_999_999, false, None),
            (14_999_999_999, false, None),
            (15_000_000_000, false, Some(TIMEOUT_NS)),
            (99_000_000_000, false, Some(TIMEOUT_NS)),
            (6_000_000_000, true, Some(1_000_000_000)),
            (99_000_000_000, true, Some(TIMEOUT_NS)),
        ] {
            assert_eq!(in_vain_ns(&query, now_ns, is_last_chance), expected, "{now_ns} {is_last_chance}");
        }
    }

    #[test]
    fn results_that_did_not_occur_are_absent() {
        let layout = Layout::new(SPEC.metrics);
        let column = layout.column(&metrics::LOOKUPS).unwrap();
        let mut queries = Queries::default();
        let mut lengths = Lengths { sum_ns: 20_000_000, ..Lengths::EMPTY };
        lengths.counts[hashed_bucket(10_000_000)] = 2;
        queries.answered.follow(DnsResult::NameError.index(), &lengths);
        queries.give_up(TIMEOUT_NS);
        queries.give_up(2_000_000_000);
        let mut row = layout.row();
        queries.book(&mut row, &layout);
        let cells = row.cells(column).unwrap();
        let of = |result: DnsResult| {
            let histogram = Histogram::at(column.combination(cells, result.index()).unwrap()).unwrap();
            (histogram.count(), histogram.sum_ns())
        };
        for result in DnsResult::ALL {
            let expected = match result {
                DnsResult::NameError => (2, 20_000_000),
                DnsResult::Timeout => (2, 12_000_000_000),
                _ => (0, 0),
            };
            assert_eq!(of(result), expected, "{}", result.name());
        }
    }
}
