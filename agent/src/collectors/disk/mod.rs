//! Collector `disk`: requests to block devices by the cgroup that the kernel charges them to.
//!
//! What is counted at which device, and whom the kernel charges, stands in docs/disk.md.

pub mod metrics;
mod start;
mod wide;

use std::{collections::HashMap, mem::offset_of, sync::Arc};

use foldhash::fast::RandomState;
use podlens_common::disk::{DiskAccount, Operation, Part, WITH_BYTES, distribution};

pub use self::start::SPEC;
use self::wide::{Durations, Wide};
use super::{Collector, Readings, Spec, Sweep, distribution as cells};
use crate::{
    kernel::{mapped::MappedArray, missed::MissedRuns},
    signal::{Layout, Loss, Row},
};

/// From so many requests on a slot's counts of durations are followed: each has 32 bits. Between two sweeps there are not as
/// many again.
const FOLLOWED: u64 = 1 << 31;

/// The collector at work.
pub struct Disk {
    layout: Arc<Layout>,
    accounts: MappedArray<DiskAccount>,
    missed: MissedRuns,
    /// By slot, of those with very many requests.
    followed: HashMap<u32, Box<Wide>, RandomState>,
    /// The present slot's row.
    found: Row,
}

impl Disk {
    /// A collector over the program's map.
    #[must_use]
    pub fn new(layout: Arc<Layout>, accounts: MappedArray<DiskAccount>, missed: MissedRuns) -> Self {
        let found = layout.row();
        Self { layout, accounts, missed, followed: HashMap::default(), found }
    }
}

impl Collector for Disk {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        for (number, _) in sweep.wanted.iter() {
            let Ok(entry) = usize::try_from(number) else { continue };
            if !self.accounts.beginning(entry).is_some_and(is_used) {
                continue;
            }
            let Some(account) = self.accounts.get(entry) else { continue };
            let durations = if account.operations.iter().sum::<u64>() < FOLLOWED {
                wide::widened(&account.durations)
            } else {
                self.followed.entry(number).or_default().follow(&account.durations)
            };
            self.found.clear();
            book(&mut self.found, &self.layout, &account, &durations);
            readings.slot(number, &self.found);
        }
    }

    fn clear(&mut self, slot: u32) {
        self.followed.remove(&slot);
        if let Ok(entry) = usize::try_from(slot) {
            self.accounts.set(entry, DiskAccount::EMPTY);
        }
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::MISSED_COMPLETION, self.missed.count())]
    }
}

/// What an account begins with: operations, errors and bytes. The rest is twelve times as long.
type Counts = [u64; 2 * Operation::COUNT + WITH_BYTES];

const _: () = assert!(offset_of!(DiskAccount, durations_ns) == size_of::<Counts>());

/// There was a request. Most cgroups have none, and so no row.
fn is_used(counts: Counts) -> bool {
    counts.iter().any(|count| *count != 0)
}

fn book(row: &mut Row, layout: &Layout, account: &DiskAccount, durations: &Durations) {
    row.add_all(layout, &metrics::BYTES, &account.bytes);
    row.add_all(layout, &metrics::OPERATIONS, &account.operations);
    row.add_all(layout, &metrics::ERRORS, &account.errors);
    for (combination, (operation, part)) in
        Operation::ALL.into_iter().flat_map(|operation| Part::ALL.map(|part| (operation, part))).enumerate()
    {
        let found =
            distribution(operation, part).and_then(|place| durations.get(place).zip(account.durations_ns.get(place)));
        if let Some((hashed, sum_ns)) = found {
            row.add_histogram(layout, &metrics::LATENCY, combination, &cells(hashed, *sum_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use bytemuck::{bytes_of, from_bytes};
    use podlens_common::histogram::hashed_bucket;

    use super::*;
    use crate::signal::Histogram;

    #[test]
    fn an_account_becomes_a_row_by_operation_and_part() {
        let layout = Layout::new(SPEC.metrics);
        let (read, flush) = (Operation::Read.index(), Operation::Flush.index());
        let mut account = DiskAccount::EMPTY;
        let counts = |account: &DiskAccount| *from_bytes(&bytes_of(account)[..size_of::<Counts>()]);
        assert!(!is_used(counts(&account)));
        (account.operations[read], account.bytes[read], account.operations[flush]) = (2, 8192, 1);
        for (operation, part, count, each_ns) in [
            (Operation::Read, Part::Queue, 2, 100),
            (Operation::Read, Part::Device, 2, 7000),
            (Operation::Flush, Part::Device, 1, 900),
        ] {
            let place = distribution(operation, part).unwrap();
            account.durations[place][hashed_bucket(each_ns)] = count;
            account.durations_ns[place] = u64::from(count) * each_ns;
        }
        assert!(is_used(counts(&account)));
        let mut row = layout.row();
        book(&mut row, &layout, &account, &wide::widened(&account.durations));
        let cells = |metric| row.cells(layout.column(metric).unwrap()).unwrap();
        assert_eq!(cells(&metrics::BYTES), [8192, 0, 0]);
        assert_eq!(
            (cells(&metrics::OPERATIONS), cells(&metrics::ERRORS)),
            ([2, 0, 0, 1].as_slice(), [0; 4].as_slice())
        );
        let column = layout.column(&metrics::LATENCY).unwrap();
        let found: Vec<(String, u64, u64)> = (0..column.combinations())
            .filter_map(|combination| {
                let histogram = Histogram::at(column.combination(cells(&metrics::LATENCY), combination)?)?;
                let labels: Vec<&str> = column.values(combination).map(|(_, value)| value).collect();
                (histogram.count() > 0).then(|| (labels.join(" "), histogram.count(), histogram.sum_ns()))
            })
            .collect();
        let expected = [("read queue", 2, 200), ("read device", 2, 14_000), ("flush device", 1, 900)];
        assert_eq!(found, expected.map(|(labels, count, sum_ns)| (labels.to_owned(), count, sum_ns)));
    }
}
