//! One slot's stalls and faults since it got its holder, in 64 bits. Pure.

use podlens_common::{
    histogram::BUCKETS,
    stalls::{FAULTS, Stalls},
};

use crate::{
    collectors::{distribution, extend},
    signal::Histogram,
};

/// The counts, at each hashed bucket, and the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals([Lengths; FAULTS + 1]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Totals {
    /// Goes on to what the programs have counted by now, of whose counts the record holds the lower halves.
    pub(super) fn follow(&mut self, record: &Stalls) {
        for (lengths, found) in self.0.iter_mut().zip(&record.0) {
            extend(&mut lengths.counts, &found.counts);
            lengths.sum_ns = found.sum_ns;
        }
    }

    /// The cells of one reason's histogram, or of that of faults; none without any observation.
    pub(super) fn cells(&self, which: usize) -> Option<[u64; Histogram::CELLS]> {
        let lengths = self.0.get(which)?;
        let is_empty = lengths.counts.iter().all(|count| *count == 0);
        (!is_empty).then(|| distribution(&lengths.counts, lengths.sum_ns))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use podlens_common::histogram::bucket;

    use super::{Histogram, Stalls, Totals};

    fn record(which: usize, hashed: usize, count: u32, sum_ns: u64) -> Stalls {
        let mut record = Stalls::EMPTY;
        record.0[which].counts[hashed] = count;
        record.0[which].sum_ns = sum_ns;
        record
    }

    #[test]
    fn a_count_that_has_begun_anew_goes_on_from_2_to_the_32() {
        let mut totals = Totals::default();
        assert_eq!(totals.cells(2), None);
        for (low, expected) in [(7, 7), (u32::MAX, (1 << 32) - 1), (3, (1 << 32) + 3), (3, (1 << 32) + 3)] {
            totals.follow(&record(2, 9, low, 500));
            let cells = totals.cells(2).unwrap_or([0; Histogram::CELLS]);
            assert_eq!(cells[bucket(9).unwrap_or_default()], expected);
            assert_eq!(cells.last(), Some(&500));
            assert_eq!(cells.iter().sum::<u64>(), expected + 500);
        }
        assert!([0, 1, 3, 4, 5, 6].into_iter().all(|which| totals.cells(which).is_none()));
    }
}
